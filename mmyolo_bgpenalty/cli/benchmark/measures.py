"""Times of two tasks in pairs, the spread of their ratio, and the memory of a task."""

import json
import random
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from timeit import Timer
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark.utils.timer import timer as clock_of_device

Task = Callable[[], object]


class Spread(NamedTuple):
    """Median of ``number`` values, and their 10 % and 90 % quantiles."""

    median: float
    low: float
    high: float
    interval: tuple[float, float] | None  # 95 % confidence interval of the median, None for fewer than 6 values
    number: int


def paired_times(
    ours: Task, theirs: Task, pairs: int, warmup: int = 2, clock: Callable[[], float] = clock_of_device
) -> list[tuple[float, float]]:
    """Seconds that ``ours`` and ``theirs`` take in each of ``pairs`` pairs, after ``warmup`` runs of each.

    The two tasks of a pair run one right after the other, in random order. So a slow phase of the machine slows both.
    The garbage collector is off while a task runs. The default clock waits until a GPU has finished its work.
    """
    timers = [Timer(task, timer=clock) for task in (ours, theirs)]
    for timer in timers:
        timer.timeit(warmup)
    order = random.Random(0)
    times = []
    for _ in range(pairs):
        seconds = {place: timers[place].timeit(1) for place in order.sample((0, 1), 2)}
        times.append((seconds[0], seconds[1]))
    return times


def spread(values: Sequence[float]) -> Spread:
    """Median and spread of at least one value. The ends of the interval are order statistics."""
    median, low, high = (float(quantile) for quantile in np.quantile(values, (0.5, 0.1, 0.9)))
    test = stats.quantile_test(np.asarray(values, dtype=float), q=0, p=0.5)
    lower, upper = map(float, test.confidence_interval(0.95))
    return Spread(median, low, high, None if np.isnan(lower) else (lower, upper), len(values))


def host_waits(task: Task) -> int:
    """How often a task waits for a GPU, as ``torch.cuda.set_sync_debug_mode`` counts it."""
    task()  # fills caches and the state of the optimizer
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter('always')
            task()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return sum('called a synchronizing CUDA operation' in str(one.message) for one in seen)


def peak_bytes(task: Task, device: str) -> int:
    """Peak memory of the tensors that a task allocates, in bytes.

    On a CPU the peak is computed from the allocations that torch's profiler records. This peak is the same in every
    run. The memory of the process is not: it depends on when the C library returns memory.
    """
    task()  # fills caches and the state of the optimizer
    if device == 'cuda':
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        task()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        task()
    with tempfile.TemporaryDirectory() as folder:
        recorded.export_chrome_trace(f'{folder}/trace.json')
        events = json.loads(Path(folder, 'trace.json').read_text(encoding='utf-8'))['traceEvents']
    live = peak = 0
    for event in sorted((event for event in events if event['name'] == '[memory]'), key=lambda event: event['ts']):
        live += event['args']['Bytes']
        peak = max(peak, live)
    return peak
