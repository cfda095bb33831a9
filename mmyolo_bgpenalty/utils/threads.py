"""Threads on processors that other programs use, too. Pure Python; what others use is known on Linux only.

torch computes with as many threads as there are cores. At the end of each operation they wait for the slowest one. By
default a waiting thread keeps its core busy. So if other programs use the cores, a step takes many times longer
(``docs/benchmark.md``). The settings are those of OpenMP: https://www.openmp.org/spec-html/5.0/openmpch6.html
"""

import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

WAITING = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')
THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OMP_THREAD_LIMIT')


class CpuTime(NamedTuple):
    """Seconds since the start of the machine, or of this process."""

    clock: float
    busy: float  # of all programs on the cores that this process may use, summed over the cores
    own: float  # of this process and its children that have ended


def wait_passively() -> None:
    """Let waiting threads sleep, unless the user has a setting for it. After torch's import this has no effect."""
    if not any(name in os.environ for name in WAITING):
        os.environ['OMP_WAIT_POLICY'] = 'passive'


def cpu_time(stat: Path = Path('/proc/stat')) -> CpuTime | None:
    """The times until now, or None where the system does not tell."""
    try:
        rows = [line.split() for line in stat.read_text().splitlines()]
        own_cores = {f'cpu{core}' for core in os.sched_getaffinity(0)}
        # user, nice, system, idle, iowait, irq, softirq, steal. The last is what the other guests of the host take.
        ticks = [sum(map(int, [*row[1:4], *row[6:9]])) for row in rows if row and row[0] in own_cores]
        busy = sum(ticks) / os.sysconf('SC_CLK_TCK')
    except (OSError, AttributeError, ValueError):
        return None
    return CpuTime(time.monotonic(), busy, sum(os.times()[:4]))


_at_import = cpu_time()


def cores_of_others(before: CpuTime | None, after: CpuTime | None) -> float | None:
    """How many cores other programs have used on average between two times. None if they are less than 1 s apart."""
    if before is None or after is None or after.clock - before.clock < 1:
        return None
    return max(0.0, (after.busy - before.busy - after.own + before.own) / (after.clock - before.clock))


def cores() -> int:
    """The number of cores that this process may use: those it may run on, and the quota of its container."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # there is no quota
        quota, period = map(int, Path('/sys/fs/cgroup/cpu.max').read_text().split())
        number = min(number, math.ceil(quota / period))
    return number


def free_cores() -> int | None:
    """The number of cores that other programs have left free since this module was imported, at least 1.

    None: the user has chosen a number of threads, or nothing is known.
    """
    others = cores_of_others(_at_import, cpu_time())
    if others is None or any(name in os.environ for name in THREADS):
        return None
    return max(1, round(cores() - others))
