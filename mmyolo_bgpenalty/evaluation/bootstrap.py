"""95 % intervals by the bootstrap over images. Pure NumPy. Shapes: I images, S resamples."""

import math
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    low: float
    high: float


def resampled_images(images: int, resamples: int, seed: int = 0) -> np.ndarray:
    """(S, I): how often each image occurs in each sample of I images, drawn with replacement. ``images`` is >= 1."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)


def interval_of(values: np.ndarray) -> Interval:
    """The 2.5th and the 97.5th percentile of the values of the samples, (S,). nan is left out; alone it gives nan."""
    values = np.sort(values[~np.isnan(values)])
    low, high = int(0.025 * len(values)), math.ceil(0.975 * len(values)) - 1
    # No interpolation, since a value may be inf.
    return Interval(*(float(values[place]) if len(values) else math.nan for place in (low, high)))
