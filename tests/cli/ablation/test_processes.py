"""The worker of an ablation and its children, with short programs as commands, and with real trainings."""

import os
import signal
import sys
import threading
import time

import pytest

from mmyolo_bgpenalty.cli.ablation import processes
from mmyolo_bgpenalty.cli.ablation.processes import Processes
from tests.helpers.ablations import Stage
from tests.helpers.child_runs import ended, start

pytestmark = pytest.mark.skipif(not processes.FORKS, reason='only Linux has the worker')


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def called(stage, program, *arguments, threads=None):
    """Run a program in a child of the worker. Return its exit code and its output."""
    stage.write('command.py', program)
    log = stage.folder / 'log.txt'
    with Processes(threads) as started, log.open('w') as output:
        return started.start(arguments, output).wait(), log.read_text()


@pytest.mark.parametrize(
    'program, code, last',
    [
        ('import sys; print(sys.argv[1:])', 0, "['a', 'b c']"),
        ('import sys; print("λ"); sys.exit(3)', 3, 'λ'),
        ('import sys; sys.exit("no space")', 1, 'no space'),
        ('1 / 0', 1, 'ZeroDivisionError: division by zero'),
        ('import os; os.write(1, b"gone\\n"); os._exit(7)', 7, 'gone'),
        ('import ctypes; print("crash", flush=True); ctypes.string_at(0)', -signal.SIGSEGV, 'crash'),
    ],
)
def test_a_child_ends_as_a_new_python_would(stage, program, code, last):
    assert called(stage, program, 'a', 'b c')[0] == code
    assert (stage.folder / 'log.txt').read_text(encoding='utf-8').strip().split('\n')[-1] == last


CLEAN = """
import json, os, signal, sys
# the coverage of tests may have a handler, with an address
numbers = signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP
handlers = {one.name: str(signal.getsignal(one)).split('@')[0] for one in numbers}
files = sorted(int(name) for name in os.listdir('/proc/self/fd'))
session = os.getsid(0) == os.getpid()
print(json.dumps([session, handlers, len(files), signal.set_wakeup_fd(-1), os.environ.get('OMP_NUM_THREADS')]))
"""


@pytest.mark.parametrize('threads, chosen, expected', [(3, None, '3'), (3, '2', '2'), (None, None, None)])
def test_a_child_is_like_a_new_process(stage, monkeypatch, threads, chosen, expected):
    """It has no signal handler, no open file and no session of the worker, and the number of threads."""
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if chosen:
        monkeypatch.setenv('OMP_NUM_THREADS', chosen)
    forked = called(stage, CLEAN, threads=threads)
    monkeypatch.setattr(processes, 'FORKS', False)
    assert forked == called(stage, CLEAN, threads=threads)
    assert forked[1].endswith(f'{"null" if expected is None else chr(34) + expected + chr(34)}]\n')


def test_two_children_run_at_a_time_and_one_is_stopped(stage):
    stage.write('command.py', 'import sys, time; time.sleep(float(sys.argv[1]))')
    with Processes(None) as started, open(os.devnull, 'w') as output:
        long, short = (started.start([seconds], output) for seconds in ('100', '0'))
        assert short.wait() == 0
        long.terminate()
        assert long.wait() == -signal.SIGTERM
        long.terminate()  # it has ended: this does nothing


def alive(pid):
    try:
        return open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def wait_for(condition, what):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(what)


TELLS = """
import os, time
from pathlib import Path
Path(__file__).with_name('pids').write_text(f'{os.getppid()} {os.getpid()}')
time.sleep(100)
"""


def pids(stage):
    file = stage.folder / 'pids'
    wait_for(lambda: file.exists() and file.read_text(), 'the child has not begun')
    found = [int(pid) for pid in file.read_text().split()]
    file.unlink()
    return found


def test_a_worker_that_dies_is_named_and_the_next_run_gets_a_new_one(stage, capsys):
    """The runs of seed 0 need two workers, since the first is killed."""
    standin = (stage.folder / 'command.py').read_text()
    stage.write('command.py', TELLS)
    children = []

    def kill():
        worker, child = pids(stage)
        children.append(child)
        stage.write('command.py', standin)
        os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert stage('--seeds', '0') == 1
    killer.join()
    error = capsys.readouterr().err
    assert 'failed: λ=0, seed 0: the worker process ended with -9: no output' in error and error.count('failed') == 1
    assert (stage.work / 'long/seed_0/result.json').exists()
    wait_for(lambda: not alive(children[0]), 'the child goes on')


SAVES = """
import signal, sys, time
from pathlib import Path

def save(*_):
    time.sleep(1)
    Path(__file__).with_name('saved').touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
Path(__file__).with_name('pids').write_text('begun')
time.sleep(100)
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_leaves_time_to_save(stage, number):
    """A scheduler ends a job in this way. The worker waits for its children."""
    stage.write('command.py', SAVES)
    with Processes(None) as started, open(os.devnull, 'w') as output:
        run = started.start([], output)
        wait_for((stage.folder / 'pids').exists, 'the child has not begun')
        os.kill(started._worker._process.pid, number)
        run.terminate()
        assert run.wait() == 143 and (stage.folder / 'saved').exists()


def test_a_worker_that_cannot_start_is_named(stage, capsys):
    stage.write('worker.py', 'raise ImportError("no torch here")')
    assert stage('--seeds', '0') == 1
    assert 'λ=0, seed 0: the worker process ended with 1: ImportError: no torch here' in capsys.readouterr().err


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_no_process_is_left_when_the_command_is_killed(stage, number):
    stage.write('command.py', TELLS)

    def run():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.exit(stage('--seeds', '0'))

    command = start(stage.folder, run)
    left = pids(stage)
    os.kill(command.pid, number)
    assert ended(command) == (128 + number if number == signal.SIGTERM else -number)
    wait_for(lambda: not any(map(alive, left)), f'of the worker and its child, one of {left} is left')


def test_the_worker_ends_with_the_ablation(stage):
    stage.write('command.py', TELLS.replace('time.sleep(100)', ''))
    with Processes(None) as started, open(os.devnull, 'w') as output:
        assert started.start([], output).wait() == 0
        worker, _ = pids(stage)
        assert alive(worker)
    assert not alive(worker)
