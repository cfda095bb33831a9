"""Runs in child processes. Real signals stop them."""

import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401  optimizers import it: once here, not in every process
from mmengine.hooks import Hook

from tests.helpers.tiny import train


class Signal(Hook):
    """Sends a signal at one point of training to this process or, with ``group``, also to the workers of its loader."""

    def __init__(self, number, stage, iteration, group=False):
        self.number, self.iteration, self.group = number, iteration, group
        setattr(self, stage, self.send)

    def send(self, runner, *args, **kwargs):
        if runner.iter != self.iteration:
            return
        if self.group:
            # Another process sends it, because the workers would end at a SIGTERM from their parent.
            subprocess.run(['kill', f'-{int(self.number)}', '--', f'-{os.getpgid(0)}'])
        else:
            # At once, in this thread. A scheduler and the parent process may both send SIGTERM.
            for _ in range(2 if self.number == signal.SIGTERM else 1):
                signal.raise_signal(self.number)


class SmallFilesOnly(Hook):
    """After the stage, the kernel kills the process if it writes more than 1 MB to a file."""

    priority = 'LOWEST'

    def __init__(self, stage='after_train_epoch'):
        setattr(self, stage, self.limit)

    def limit(self, runner, metrics=None):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def start(work_dir, function, *args):
    """Run a function in a child process with its own process group. Its output goes to ``work_dir/output.txt``."""
    child = multiprocessing.get_context('fork').Process(target=_quietly, args=(work_dir, function, *args))
    child.start()
    return child


def _quietly(work_dir, function, *args):
    gc.freeze()  # so that garbage collections skip the objects of pytest
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for a test run in the background
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    sys.stdout = sys.stderr = open(Path(work_dir, 'output.txt'), 'a', buffering=1)
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    function(*args)


def ended(child):
    """Return the exit code of a child. A negative code is the signal that ended it."""
    child.join(120)
    if child.exitcode is None:
        child.kill()
        pytest.fail('the child process did not end within 120 s')
    return child.exitcode


def run(cfg, *hooks):
    return ended(start(cfg.work_dir, train, cfg, *hooks))
