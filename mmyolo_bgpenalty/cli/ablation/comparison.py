"""Variants against a baseline over seeds: mean, spread and paired differences. NumPy and SciPy alone."""

from typing import Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy import stats


class Summary(NamedTuple):
    """Over ``number`` runs: ``mean``, and ``std``, the sample's standard deviation (None of one run)."""

    mean: float
    std: Optional[float]
    number: int


class Difference(NamedTuple):
    """Variant − baseline over the ``number`` seeds both have; ``interval`` is the confidence interval or None."""

    mean: float
    interval: Optional[Tuple[float, float]]
    number: int


def summary(values: Sequence[float]) -> Optional[Summary]:
    """Mean and standard deviation (n − 1) of finite values; None where there is none."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return None
    return Summary(float(np.mean(finite)), float(np.std(finite, ddof=1)) if len(finite) > 1 else None, len(finite))


def paired_difference(
    variant: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95
) -> Optional[Difference]:
    r"""Mean of :math:`d_s = v_s - b_s` over the seeds s that both have, with Student's interval

    .. math:: \bar d \pm t_{(1 + c) / 2,\, n - 1} \cdot s_d / \sqrt n

    (W. S. Gosset, Biometrika 6, 1908). Runs of one seed share their start and their data's order, so what the seed
    does to both drops out.

    Args:
        variant, baseline: seed -> value; values that are not finite are left out.
        confidence: c, in (0, 1).

    Returns:
        None without a common seed; no interval with one.

    Raises:
        ValueError: ``confidence`` is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f'Expected `confidence` to be in (0, 1), but got {confidence!r}')
    pairs = [(variant[seed], baseline[seed]) for seed in variant if seed in baseline]
    differences = [a - b for a, b in pairs if np.isfinite(a) and np.isfinite(b)]
    over = summary(differences)
    if over is None:
        return None
    interval = None
    if over.std is not None:
        half = float(stats.t.ppf((1 + confidence) / 2, over.number - 1)) * over.std / over.number**0.5
        interval = (over.mean - half, over.mean + half)
    return Difference(over.mean, interval, over.number)
