"""Threads on a machine that is busy with other programs."""

import math
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from mmyolo_bgpenalty.utils import threads
from mmyolo_bgpenalty.utils.threads import (
    CpuTime,
    cores_between_commands,
    cores_of_others,
    cpu_quota,
    cpu_time,
    free_cores,
    number_of_cores,
)
from tests.helpers.tiny import ROOT

linux = pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells what other programs use')


def test_the_time_of_the_own_cores_is_read_in_seconds(tmp_path, monkeypatch):
    """The columns are user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice."""
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 2}, raising=False)
    rows = ['cpu 9 9 9 9 9 9 9 9 9 9', 'cpu0 1 2 3 1000 1000 4 5 6 7 8', 'cpu1 9 9 9 9 9 9 9 9 9 9']
    (tmp_path / 'stat').write_text('\n'.join([*rows, 'cpu2 100 0 0 0 0 0 0 0 0 0', 'intr 5']))
    ticks = os.sysconf('SC_CLK_TCK')
    assert cpu_time(tmp_path).busy == pytest.approx((1 + 2 + 3 + 4 + 5 + 6 + 100) / ticks)


@pytest.mark.parametrize('text', [None, 'cpu0 a b c', 'nothing'])
def test_a_system_that_does_not_tell(tmp_path, text):
    if text is not None:
        (tmp_path / 'stat').write_text(text)
    found = cpu_time(tmp_path)
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


def busy_for(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@linux
def test_another_program_is_seen():
    """Compared with the same measurement without the other program, since the machine may be busy."""

    def measured():
        before = cpu_time()
        busy_for(2)
        return cores_of_others(before, cpu_time())

    alone = measured()
    code = 'print(flush=True)\nwhile True: pass'
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            beside = measured()
        finally:
            other.kill()
    assert beside <= number_of_cores() + 0.2 and beside > min(alone + 0.2, number_of_cores() - 1.2)


@linux
def test_the_workers_of_a_data_loader_are_no_other_program():
    """Neither while they run nor after they have ended."""
    worker = multiprocessing.get_context('fork').Process(target=busy_for, args=(1.0,))
    before = cpu_time()
    worker.start()
    time.sleep(0.7)
    during = cpu_time()
    worker.join()
    after = cpu_time()
    own = during.own - before.own, after.own - before.own
    assert own[0] > 0.1 and own[1] > own[0]


@pytest.mark.parametrize(
    'others, quota, free',
    [
        (0.2, math.inf, 8),
        (1.6, math.inf, 6),
        (7.9, math.inf, 1),
        (30, math.inf, 1),
        (None, math.inf, None),
        (5, 2.5, 3),
    ],
)
def test_free_cores(monkeypatch, others, quota, free):
    """A quota is for this container alone: the others of the machine do not use it."""
    for name in threads.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, 'number_of_cores', lambda: 8)
    monkeypatch.setattr(threads, 'cpu_quota', lambda: quota)
    monkeypatch.setattr(threads, 'cores_of_others', lambda *times: others)
    monkeypatch.setattr(threads, '_process', os.getpid())
    assert free_cores() == free
    monkeypatch.setattr(threads, '_process', os.getppid())  # this process was forked after the measurement
    assert free_cores() is None
    monkeypatch.setattr(threads, '_process', os.getpid())
    monkeypatch.setenv('OMP_NUM_THREADS', '4')
    assert free_cores() is None


def test_each_command_of_a_worker_has_its_own_measurement(monkeypatch):
    """Another program takes 3 of 8 cores before the first command, and none between the first and the second."""
    for name in threads.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('GOMP_SPINCOUNT', '1000')
    times = iter([CpuTime(0, 0, 0), CpuTime(10, 40, 10), CpuTime(10, 40, 10), CpuTime(20, 50, 20)])
    monkeypatch.setattr(threads, 'cpu_time', lambda: next(times, CpuTime(20, 50, 20)))
    monkeypatch.setattr(threads, 'number_of_cores', lambda: 8)
    monkeypatch.setattr(threads, 'cpu_quota', lambda: math.inf)
    for name in ('_start', '_process'):
        monkeypatch.setattr(threads, name, None)
    threads.start_command()
    assert [cores_between_commands(), cores_between_commands()] == [5, 8]


@pytest.mark.parametrize('text, expected', [('250000 100000', 2.5), ('max 100000', math.inf)])
def test_the_quota_of_a_container(monkeypatch, text, expected):
    monkeypatch.setattr(threads.Path, 'read_text', lambda path: text)
    assert cpu_quota() == expected


def test_other_programs_that_import_the_package_keep_their_threads():
    assert threads._start is None and free_cores() is None


PRINT = 'import mmyolo_bgpenalty'


@pytest.mark.parametrize(
    'command, settings, expected',
    [
        (['-m', 'mmyolo_bgpenalty', 'check', '--help'], {}, '1000'),
        (['-m', 'mmyolo_bgpenalty', 'check', '--help'], {'GOMP_SPINCOUNT': '5'}, '5'),
        (['-m', 'mmyolo_bgpenalty', 'check', '--help'], {'OMP_WAIT_POLICY': 'active'}, 'None'),
        (['-m', 'mmyolo_bgpenalty.utils.threads'], {}, '1000'),  # as the worker of an ablation
        (['-c', PRINT], {}, 'None'),  # a program of the user
    ],
)
def test_only_in_our_own_commands_threads_sleep_soon(tmp_path, command, settings, expected):
    (tmp_path / 'sitecustomize.py').write_text(
        'import atexit, os\natexit.register(lambda: print("spin", os.environ.get("GOMP_SPINCOUNT")))\n'
    )
    environment = {name: value for name, value in os.environ.items() if name not in threads.WAITING}
    environment |= dict(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]), PYTHONWARNINGS='ignore', **settings)
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f'spin {expected}', done.stderr[-500:]
