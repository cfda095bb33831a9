"""Means, spreads and paired intervals."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmyolo_bgpenalty.cli.ablation.comparison import mean_and_std, paired_difference

numbers = st.floats(-100, 100)


def test_by_hand():
    # differences 1, 2, 3: mean 2, s = 1, t(0.975, 2) = 4.302653
    difference = paired_difference({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0, 9: 50.0})
    half = 4.302653 / math.sqrt(3)
    assert difference.mean == 2 and difference.number == 3
    assert difference.interval == pytest.approx((2 - half, 2 + half), abs=1e-5)


@given(st.lists(numbers, min_size=2, max_size=6))
def test_mean_and_std_are_the_samples(values):
    over = mean_and_std(values)
    assert over.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert over.std == pytest.approx(statistics.stdev(values), abs=1e-6)
    assert over.number == len(values)


@given(st.dictionaries(st.integers(0, 9), numbers, min_size=2), numbers)
def test_what_the_seed_adds_to_both_drops_out(baseline, shift):
    """Pairing: a constant gain has no spread, however far the seeds lie apart."""
    difference = paired_difference({seed: value + shift for seed, value in baseline.items()}, baseline)
    assert difference.mean == pytest.approx(shift, abs=1e-9)
    assert difference.interval == pytest.approx((shift, shift), abs=1e-9)


def test_too_few_values():
    assert mean_and_std([]) is None and mean_and_std([math.nan]) is None
    assert mean_and_std([3.0, math.nan]) == (3.0, None, 1)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert paired_difference({0: 1.5, 1: math.nan}, {0: 1.0, 1: 1.0}) == (0.5, None, 1)
