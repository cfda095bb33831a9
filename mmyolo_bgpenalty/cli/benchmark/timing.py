"""Times of two tasks side by side, and the ratio of these times. NumPy and SciPy only."""

import gc
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from mmyolo_bgpenalty.utils.arguments import whole_number

Task = Callable[[], object]


class Spread(NamedTuple):
    """Median of ``number`` values, their 10 % and 90 % quantiles, and the median's 95 % confidence interval.

    ``interval`` is None for fewer than 6 values.
    """

    median: float
    low: float
    high: float
    interval: tuple[float, float] | None
    number: int


def paired_times(
    ours: Task, theirs: Task, pairs: int, warmup: int = 2, clock: Callable[[], float] = time.perf_counter
) -> list[tuple[float, float]]:
    """Seconds that ``ours`` and ``theirs`` take in each pair.

    The two tasks of a pair run one right after the other, in random order. A slow phase of the machine slows both, and
    both find the caches in the same states.

    Args:
        ours, theirs: what is timed.
        pairs: number of pairs, >= 1.
        warmup: runs of each beforehand that are not timed, >= 0.
        clock: the time in seconds; on a GPU it must wait for the device.

    Raises:
        ValueError: ``pairs`` or ``warmup`` is out of range.
    """
    whole_number('pairs', pairs)
    whole_number('warmup', warmup, least=0)
    for _ in range(warmup):
        ours()
        theirs()
    order = random.Random(0)
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        times = []
        for _ in range(pairs):
            seconds = [0.0, 0.0]
            for place in order.sample((0, 1), 2):
                start = clock()
                (ours, theirs)[place]()
                seconds[place] = clock() - start
            times.append((seconds[0], seconds[1]))
        return times
    finally:
        if collects:
            gc.enable()


def spread(values: Sequence[float]) -> Spread:
    """Median and spread of at least one value. The interval is made of order statistics."""
    median, low, high = (float(quantile) for quantile in np.quantile(values, (0.5, 0.1, 0.9)))
    test = stats.quantile_test(np.asarray(values, dtype=float), q=0, p=0.5)
    lower, upper = map(float, test.confidence_interval(0.95))
    return Spread(median, low, high, None if np.isnan(lower) else (lower, upper), len(values))
