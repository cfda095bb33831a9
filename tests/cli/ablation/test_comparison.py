"""Means, spreads and paired intervals."""

import math

import pytest

from mmyolo_bgpenalty.cli.ablation.comparison import mean_and_std, paired_difference


def test_mean_and_sample_deviation():
    assert mean_and_std([1.0, 2.0, math.nan, 6.0]) == (3.0, pytest.approx(7**0.5), 3)
    assert mean_and_std([3.0, math.inf]) == (3.0, None, 1)
    assert mean_and_std([]) is None and mean_and_std([math.nan]) is None


def test_the_difference_by_hand():
    # The differences are 1, 2 and 3. So the mean is 2, s = 1 and t(0.975, 2) = 4.302653.
    difference = paired_difference({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0, 9: 50.0})
    half = 4.302653 / math.sqrt(3)
    assert difference == (2, pytest.approx((2 - half, 2 + half), abs=1e-5), 3)


def test_too_few_seeds():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert paired_difference({0: 1.5, 1: math.nan}, {0: 1.0, 1: 1.0}) == (0.5, None, 1)
