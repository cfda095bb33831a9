"""Mean, spread and paired differences over seeds, and what follows from them. NumPy and SciPy only."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEAST_SEEDS = 3  # with two, the factor t of the interval is 12.7, and two equal differences would be no proof
ROUNDING = 0.001001  # COCO's figures have three decimals, so a difference may be wrong by 0.001


class MeanAndStd(NamedTuple):
    """Mean and sample standard deviation of ``number`` values. ``std`` is None for one value."""

    mean: float
    std: float | None
    number: int


class Difference(NamedTuple):
    """Mean of variant − baseline over the ``number`` common seeds, and its 95 % confidence interval."""

    mean: float
    interval: tuple[float, float] | None
    number: int


def values_by_seed(results: Iterable[Mapping], variant: str, metric: str) -> dict[int, float]:
    """Seed -> finite value of ``metric``, for the results (see ``report``) of a variant."""
    own = {r['seed']: r['metrics'].get(metric) for r in results if r['variant'] == variant}
    return {seed: float(value) for seed, value in own.items() if value is not None and np.isfinite(value)}


def mean_and_std(values: Sequence[float]) -> MeanAndStd | None:
    """Mean and standard deviation of the finite values, or None without a finite value."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return None
    return MeanAndStd(float(np.mean(finite)), float(np.std(finite, ddof=1)) if len(finite) > 1 else None, len(finite))


def paired_difference(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    r"""Mean of the differences :math:`d_s = v_s - b_s` over the n common seeds s, with Student's interval

    .. math:: \bar d \pm t_{0.975,\, n - 1} \cdot s_d / \sqrt n

    Runs with the same seed have the same initial weights and the same order of data, so the effect of the seed cancels.
    Values that are not finite are left out. Without a common seed the result is None. With one, the interval is None.
    """
    pairs = [(variant[seed], baseline[seed]) for seed in variant if seed in baseline]
    over = mean_and_std([a - b for a, b in pairs if np.isfinite(a) and np.isfinite(b)])
    if over is None:
        return None
    interval = None
    if over.std is not None:
        half = float(stats.t.ppf(0.975, over.number - 1)) * over.std / over.number**0.5
        interval = (over.mean - half, over.mean + half)
    return Difference(over.mean, interval, over.number)


def conclusion(difference: Difference | None, more_is_better: bool) -> str:
    """What a difference says: 'helps', 'harms', 'no difference shown', or 'cannot conclude' with the reason.

    A difference is shown if its interval lies beyond ``ROUNDING`` on one side of 0. Fewer than ``LEAST_SEEDS`` common
    seeds cannot show one.
    """
    if difference is None:
        return 'cannot conclude: no seed has both values'
    if difference.interval is None:
        return 'cannot conclude: 1 seed has no spread, use --seeds 0 1 2'
    if difference.number < LEAST_SEEDS:
        return f'cannot conclude: {difference.number} seeds are too few, use --seeds 0 1 2'
    low, high = difference.interval
    if low <= ROUNDING and high >= -ROUNDING:
        return 'no difference shown'
    return 'helps' if (low > 0) == more_is_better else 'harms'
