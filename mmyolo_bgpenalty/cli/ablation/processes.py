"""The processes of the commands of an ablation: children of a warm worker or, without Linux, new Python processes."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Protocol

COMMAND = (sys.executable, '-m', 'mmyolo_bgpenalty')
WORKER = (sys.executable, '-m', 'mmyolo_bgpenalty.cli.ablation.worker')
# Linux ends the children of a process that was killed, and sends descriptors over SOCK_SEQPACKET.
FORKS = sys.platform == 'linux'


class Process(Protocol):
    """A running command. Popen is one."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def wait(self) -> int:
        """Wait for its end. Return the exit code, or the negative number of the signal that ended it."""


class Processes:
    """Starts commands. The worker is started with the first one, and ends with the context.

    Args:
        threads: number of threads of a command, if the user has set none. None: torch decides.
    """

    def __init__(self, threads: int | None):
        self._environment = {**os.environ, 'PYTHONIOENCODING': 'utf-8'}
        if threads:
            self._environment.setdefault('OMP_NUM_THREADS', str(threads))
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> 'Processes':
        return self

    def __exit__(self, *error) -> None:
        if self._worker is not None:
            self._worker.close()

    def start(self, arguments: Sequence[str], output: IO[str]) -> Process:
        """Start a command. Its output goes to a file.

        Ctrl-C in a terminal reaches all processes of a session. In its own session, a training gets SIGTERM from
        ``Run.stop`` instead, and saves.
        """
        if not FORKS:
            return subprocess.Popen(
                [*COMMAND, *arguments],
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with self._lock:
            if self._worker is None or self._worker.has_ended:
                self._worker = Worker(self._environment)
            return self._worker.start(arguments, output)


class Worker:
    """The warm worker, see ``worker.py``."""

    def __init__(self, environment: dict[str, str]):
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._output, self._reading = tempfile.TemporaryFile(), threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [*WORKER, str(theirs.fileno())],
                env=environment,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def start(self, arguments: Sequence[str], output: IO[str]) -> 'Forked':
        ours, theirs = socket.socketpair()
        with theirs, suppress(OSError):  # the worker has just ended: `wait` says so
            message = json.dumps(arguments).encode()
            socket.send_fds(self._requests, [message], [theirs.fileno(), output.fileno()])
        return Forked(self, ours)

    def why_it_ended(self) -> str:
        code = self._process.wait()
        with self._reading:  # several runs may ask
            self._output.seek(0)
            text = self._output.read().decode(errors='replace')
        return f'the worker process ended with {code}: {last_line(text)}'

    def close(self) -> None:
        self._requests.close()
        self._process.wait()
        self._output.close()


class Forked:
    """A command in a child of the worker."""

    def __init__(self, worker: Worker, call: socket.socket):
        self._worker, self._call = worker, call

    def terminate(self) -> None:
        with suppress(OSError):  # it has ended
            self._call.send(b'stop')

    def wait(self) -> int:
        """See ``Process.wait``.

        Raises:
            RuntimeError: the worker has ended. Its children get SIGTERM then.
        """
        with self._call as call:
            try:
                code = call.recv(16)
            except ConnectionResetError:  # the worker has ended before it read that the command should stop
                code = b''
        if not code:
            raise RuntimeError(self._worker.why_it_ended())
        return int(code)


def last_line(text: str) -> str:
    return next((line for line in reversed(text.split('\n')) if line.strip()), 'no output')
