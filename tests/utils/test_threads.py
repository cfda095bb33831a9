"""Threads on a machine that is busy with other programs."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from mmyolo_bgpenalty.utils import threads
from mmyolo_bgpenalty.utils.threads import CpuTime, cores, cores_of_others, cpu_time, free_cores
from tests.helpers.tiny import ROOT

linux = pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells what other programs use')


def test_the_time_of_the_own_cores_is_read_in_seconds(tmp_path, monkeypatch):
    """The columns are user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice."""
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 2}, raising=False)
    rows = ['cpu 9 9 9 9 9 9 9 9 9 9', 'cpu0 1 2 3 1000 1000 4 5 6 7 8', 'cpu1 9 9 9 9 9 9 9 9 9 9']
    (tmp_path / 'stat').write_text('\n'.join([*rows, 'cpu2 100 0 0 0 0 0 0 0 0 0', 'intr 5']))
    ticks = os.sysconf('SC_CLK_TCK')
    assert cpu_time(tmp_path / 'stat').busy == pytest.approx((1 + 2 + 3 + 4 + 5 + 6 + 100) / ticks)


@pytest.mark.parametrize('text', [None, 'cpu0 a b c', 'nothing'])
def test_a_system_that_does_not_tell(tmp_path, text):
    if text is not None:
        (tmp_path / 'stat').write_text(text)
    found = cpu_time(tmp_path / 'stat')
    assert found is None or found.busy == 0
    assert (found is None) == (text != 'nothing')


@pytest.mark.parametrize(
    'before, after, expected',
    [
        (CpuTime(10, 100, 5), CpuTime(20, 120, 10), 1.5),
        (CpuTime(10, 100, 5), CpuTime(20, 101, 10), 0),  # clocks are not exact
        (CpuTime(10, 100, 5), CpuTime(10.5, 101, 5), None),  # too short to be told from chance
        (None, CpuTime(20, 120, 10), None),
        (CpuTime(10, 100, 5), None, None),
    ],
)
def test_cores_of_others(before, after, expected):
    assert cores_of_others(before, after) == expected


def _busy(ready):
    ready.set()
    while True:
        pass


@linux
def test_another_program_is_seen_and_this_one_is_not():
    """Compared with the same measurement without the other program, since the machine may be busy."""

    def measured():
        before, end = cpu_time(), time.monotonic() + 2
        while time.monotonic() < end:
            pass
        return cores_of_others(before, cpu_time())

    fork = multiprocessing.get_context('fork')
    ready = fork.Event()
    alone = measured()
    other = fork.Process(target=_busy, args=(ready,))
    other.start()
    try:
        ready.wait()
        beside = measured()
    finally:
        other.kill()
        other.join()
    assert beside <= cores() + 0.2 and beside > min(alone + 0.2, cores() - 1.2)


@pytest.mark.parametrize('others, free', [(0.2, 8), (1.6, 6), (7.9, 1), (30, 1), (None, None)])
def test_free_cores(monkeypatch, others, free):
    for name in threads.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, 'cores', lambda: 8)
    monkeypatch.setattr(threads, 'cores_of_others', lambda *times: others)
    assert free_cores() == free
    monkeypatch.setenv('OMP_NUM_THREADS', '4')
    assert free_cores() is None


def test_a_quota_of_a_container_counts(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(64), raising=False)
    for text, expected in (('250000 100000', 3), ('max 100000', 64)):
        monkeypatch.setattr(threads.Path, 'read_text', lambda path, text=text: text)
        assert cores() == expected


PRINT = 'import os; import mmyolo_bgpenalty; print(os.environ.get("OMP_WAIT_POLICY"))'


@pytest.mark.parametrize(
    'command, settings, expected',
    [
        (['-m', 'mmyolo_bgpenalty', 'check', '--help'], {}, 'passive'),
        (['-m', 'mmyolo_bgpenalty', 'check', '--help'], {'OMP_WAIT_POLICY': 'active'}, 'active'),
        (['-m', 'mmyolo_bgpenalty', 'check', '--help'], {'GOMP_SPINCOUNT': '5'}, 'None'),
        (['-c', PRINT], {}, 'None'),  # a program of the user
    ],
)
def test_only_our_own_commands_wait_passively(tmp_path, command, settings, expected):
    (tmp_path / 'sitecustomize.py').write_text(
        'import atexit, os\natexit.register(lambda: print("policy", os.environ.get("OMP_WAIT_POLICY")))\n'
    )
    environment = {name: value for name, value in os.environ.items() if name not in threads.WAITING}
    environment |= dict(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]), PYTHONWARNINGS='ignore', **settings)
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f'policy {expected}', done.stderr[-500:]
