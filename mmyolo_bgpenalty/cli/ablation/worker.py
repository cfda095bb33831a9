"""The worker of an ablation: a process that has imported what ``train`` and ``test`` need, and forks for each command.

Its imports take longer than a short training. A forked child has them at once, and shares their memory. It has its own
session, writes to the log of its run, and goes on like a new Python process. So nothing passes from run to run.

The worker itself computes nothing: GCC's OpenMP, which torch uses, hangs in a child if its parent has used threads.

The module level imports only the standard library, so that tests can run another command in the children.
"""

import ctypes
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

# What a short `train` and `test` import, also while they run.
MODULES = ('mmyolo_bgpenalty.cli.train', 'mmyolo_bgpenalty.cli.test', 'mmyolo.engine', 'torch._dynamo')
LONGEST = 1 << 16  # bytes of a request
OUTLIVED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Command(NamedTuple):
    """What a child has to do. ``measured``: what the worker has measured just before it forked."""

    arguments: list[str]
    measured: Any


def serve(requests: socket.socket, measure: Callable[[], Any]) -> Command | None:
    """Fork a child for each request. Return its command in the child, and None in the worker when all has ended.

    A request is a list of arguments, with the descriptors of a socket and of a log file. The worker sends the exit code
    of the child to this socket. If something comes from there, or if it is closed, the child gets SIGTERM.
    """
    # A scheduler sends a signal to every process. The worker must live until the trainings have saved. It ends when the
    # socket is closed.
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in OUTLIVED}
    running: dict[int, socket.socket] = {}  # by process
    stopped: set[int] = set()
    awake, wake = socket.socketpair()
    for end in (awake, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # with a handler, the signal wakes `select`
    signal.set_wakeup_fd(wake.fileno())
    while True:
        heard = [call for process, call in running.items() if process not in stopped]
        ready = select.select([requests, awake, *heard], [], [])[0]
        for process, call in running.items():
            if call in ready:
                os.kill(process, signal.SIGTERM)
                stopped.add(process)
        if awake in ready:
            awake.recv(LONGEST)
            for process in [*running]:
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    stopped.discard(process)  # another process may get its number
                    with running.pop(process) as call:
                        _answer(call, os.waitstatus_to_exitcode(status))
        if requests in ready:
            message, descriptors, _, _ = socket.recv_fds(requests, LONGEST, 2)
            if not message:  # the ablation has ended. The children get SIGTERM when this process ends
                return None
            call, log = socket.socket(fileno=descriptors[0]), descriptors[1]
            measured, worker = measure(), os.getpid()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()  # otherwise each child would write it again
            process = os.fork()
            if not process:
                _leave_worker(worker, log, [requests, awake, wake, call, *running.values()], handlers)
                return Command(json.loads(message), measured)
            os.close(log)
            running[process] = call


def _answer(call: socket.socket, code: int) -> None:
    try:
        call.send(str(code).encode())
    except OSError:  # the ablation waits no longer
        pass


def _leave_worker(worker: int, log: int, sockets: list[socket.socket], handlers: Mapping[Any, Any]) -> None:
    """In a child: take over the log, and forget what belongs to the worker."""
    os.setsid()
    ends_with_parent(worker)
    signal.set_wakeup_fd(-1)
    for number, handler in {signal.SIGCHLD: signal.SIG_DFL, **handlers}.items():
        signal.signal(number, handler)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    for one in sockets:
        one.close()


def ends_with_parent(parent: int) -> None:
    """Let Linux send SIGTERM (15) to this process when its parent ends, also if the parent is killed."""
    ctypes.CDLL(None).prctl(1, 15)
    if os.getppid() != parent:  # it has ended before
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """The worker, and later its children. The only argument is the descriptor of the request socket."""
    for name in MODULES:
        import_module(name)
    import gc

    import numpy as np
    import torch

    from mmyolo_bgpenalty import __main__ as program
    from mmyolo_bgpenalty.utils.threads import cores_between_commands

    gc.collect()
    gc.freeze()  # the collector of a child would write to the memory that it shares
    command = serve(socket.socket(fileno=int(sys.argv[1])), cores_between_commands)
    if command is None:
        return 0
    arguments, free = command
    if torch.cuda._is_in_bad_fork():  # MMEngine's import has looked for a GPU, and CUDA works in no child after that
        os.execv(sys.executable, [sys.executable, '-m', 'mmyolo_bgpenalty', *arguments])
    if free is not None and free < torch.get_num_threads():
        torch.set_num_threads(free)
    np.random.seed()  # the children would have the same random numbers
    sys.argv = [program.__file__, *arguments]
    return program.main(arguments)


if __name__ == '__main__':
    sys.exit(main())
