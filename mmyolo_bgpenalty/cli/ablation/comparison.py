"""Mean, spread and paired differences over seeds. NumPy and SciPy only."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


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
