"""Times of two things side by side, and what can be said of their ratio. Standard library and NumPy only."""

import gc
import math
import random
import time
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from mmyolo_bgpenalty.utils.arguments import whole

Pair = Tuple[float, float]


class Summary(NamedTuple):
    """Of ``number`` values: ``median``; ``low`` and ``high``, their 10 % and 90 % quantiles; ``interval``, a confidence
    interval of the median (None where the values are too few)."""

    median: float
    low: float
    high: float
    interval: Optional[Tuple[float, float]]
    number: int


def paired_times(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    pairs: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    seed: int = 0,
) -> List[Pair]:
    """Seconds that ``ours`` and ``theirs`` take, (ours, theirs) a pair.

    The two of a pair run one right after the other, in an order drawn for each pair: what slows the machine for longer
    than a pair slows both, and neither always finds the caches as the other left them.

    Args:
        ours, theirs: what is timed, without arguments.
        pairs: number of pairs, >= 1.
        warmup: runs of each beforehand that are not timed, >= 0.
        clock: the time in seconds; on a GPU one that waits for the device.
        seed: of the order.

    Raises:
        ValueError: ``pairs`` or ``warmup`` is out of range.
    """
    whole('pairs', pairs)
    whole('warmup', warmup, least=0)
    for _ in range(warmup):
        ours()
        theirs()
    rng = random.Random(seed)
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        times = []
        for _ in range(pairs):
            seconds = [0.0, 0.0]
            for place in rng.sample((0, 1), 2):
                start = clock()
                (ours, theirs)[place]()
                seconds[place] = clock() - start
            times.append((seconds[0], seconds[1]))
        return times
    finally:
        if collects:
            gc.enable()


def ratios(times: Sequence[Pair]) -> List[float]:
    """ours / theirs of each pair: below 1 where ours is the faster."""
    return [ours / theirs for ours, theirs in times]


def summarise(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Median, spread and interval of values.

    Raises:
        ValueError: there is no value, or ``confidence`` is out of range.
    """
    if not len(values):
        raise ValueError('Expected `values` to hold at least one, but got none')
    median, low, high = (float(q) for q in np.quantile(values, (0.5, 0.1, 0.9)))
    return Summary(median, low, high, median_interval(values, confidence), len(values))


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Optional[Tuple[float, float]]:
    r"""Confidence interval of the median, whatever the distribution: with the values in order, from 1 to n,

    .. math:: [x_{(k)}, x_{(n + 1 - k)}] \quad\text{covers it with}\quad 1 - 2 \cdot P(\mathrm{Bin}(n, 1/2) < k),

    and k is the largest with which that is >= ``confidence`` (W. R. Thompson, Ann. Math. Stat. 7, 1936). It takes the
    values for independent.

    Returns:
        (lower, upper), or None where even all values are too few: below 6 for 0.95.

    Raises:
        ValueError: ``confidence`` is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f'Expected `confidence` to be in (0, 1), but got {confidence!r}')
    number, rank, below = len(values), 0, 0.0
    while rank < number:
        below += math.comb(number, rank) / 2**number  # P(Bin < rank + 1)
        if 1 - 2 * below < confidence:
            break
        rank += 1
    if not rank:
        return None
    ordered = sorted(map(float, values))
    return ordered[rank - 1], ordered[number - rank]


def verdict(ratio: Summary, target: float) -> str:
    """'met' or 'not met' where the whole interval of the median is on that side of the target, else 'undecided'; by the
    median where there is no interval."""
    lower, upper = ratio.interval or (ratio.median, ratio.median)
    return 'met' if upper <= target else 'not met' if lower > target else 'undecided'


def growth_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    r"""p of the power law :math:`value \propto size^p` nearest in the logarithms (least squares).

    A share that does not grow lowers it: see the last two sizes alone for the rate at the large end.

    Raises:
        ValueError: fewer than two different sizes, as many values as sizes are not given, or one is not > 0.
    """
    if len(sizes) != len(values) or len(set(sizes)) < 2 or min(*sizes, *values) <= 0:
        raise ValueError(f'Expected `sizes`, two at least, and as many `values`, all > 0, but got {sizes}, {values}')
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
