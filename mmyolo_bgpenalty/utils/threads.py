"""Threads on processors that other programs use, too. Pure Python; what others use is known on Linux only.

torch computes with as many threads as there are cores. At the end of each operation they wait for the slowest one. By
default a waiting thread keeps its core busy. So if other programs use the cores, a step takes many times longer
(``docs/results/benchmark_notes.md``). The settings are those of GCC's OpenMP library, which torch uses on Linux:
https://gcc.gnu.org/onlinedocs/libgomp/Environment-Variables.html
"""

import math
import multiprocessing
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

WAITING = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')
THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OMP_THREAD_LIMIT')
PROC = Path('/proc')


class CpuTime(NamedTuple):
    """Seconds since the start of the machine, or of this process."""

    clock: float
    busy: float  # of all programs on the cores that this process may run on, summed over the cores
    own: float  # of this process and its children, such as the workers of a data loader


_start: CpuTime | None = None  # of a command
_process: int | None = None  # that has measured it


def start_command() -> None:
    """Begin to measure for ``free_cores``. Let threads sleep that wait for long, unless the user has a setting for it.

    It must come before torch's import. Later the threads cannot change how they wait.
    """
    global _start, _process
    _start, _process = cpu_time(), os.getpid()
    if not any(name in os.environ for name in WAITING):
        # Fast enough alone, and not slow beside others: docs/results/benchmark_notes.md
        os.environ['GOMP_SPINCOUNT'] = '1000'


def cpu_time(proc: Path = PROC) -> CpuTime | None:
    """The times until now, or None where the system does not tell."""
    try:
        rows = [line.split() for line in (proc / 'stat').read_text().splitlines()]
        cores = {f'cpu{core}' for core in os.sched_getaffinity(0)}
        # user, nice, system, idle, iowait, irq, softirq, steal. The last is what the other guests of the host take.
        ticks = [sum(map(int, [*row[1:4], *row[6:9]])) for row in rows if row and row[0] in cores]
        tick = os.sysconf('SC_CLK_TCK')
    except (OSError, AttributeError, ValueError):
        return None
    own = sum(os.times()[:4])  # with the children that have ended
    for child in multiprocessing.active_children():
        with suppress(OSError, ValueError, IndexError):  # it has just ended
            fields = (proc / str(child.pid) / 'stat').read_text().rpartition(')')[2].split()
            own += sum(map(int, fields[11:15])) / tick  # utime, stime, and those of its children
    return CpuTime(time.monotonic(), sum(ticks) / tick, own)


def cores_of_others(before: CpuTime | None, after: CpuTime | None) -> float | None:
    """How many cores other programs have used on average between two times. None if they are less than 1 s apart."""
    if before is None or after is None or after.clock - before.clock < 1:
        return None
    return max(0.0, (after.busy - before.busy - after.own + before.own) / (after.clock - before.clock))


def number_of_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def cpu_quota() -> float:
    """How many cores the container of this process may use at a time; inf without a limit."""
    with suppress(OSError, ValueError):
        quota, period = map(int, Path('/sys/fs/cgroup/cpu.max').read_text().split())
        return quota / period
    return math.inf


def free_cores() -> int | None:
    """The number of cores that other programs have left free since the start of the command, at least 1.

    None: this is no command of this package, the user has chosen a number of threads, or nothing is known. A forked
    process knows nothing, because the time of its parent is not its own.
    """
    if _process != os.getpid():
        return None
    others = cores_of_others(_start, cpu_time())
    if others is None or any(name in os.environ for name in THREADS):
        return None
    return max(1, min(round(number_of_cores() - others), math.ceil(min(cpu_quota(), number_of_cores()))))


def cores_between_commands() -> int | None:
    """``free_cores`` since the last call, or since the start, for a process that forks for each command."""
    free = free_cores()
    start_command()
    return free
