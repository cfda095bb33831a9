"""Pairs, ratios and what is said of them, by a clock that the test moves."""

import gc
import math
import statistics
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmyolo_bgpenalty.cli.benchmark.timing import (
    Summary,
    growth_exponent,
    median_interval,
    paired_times,
    ratios,
    summarise,
    verdict,
)

values = st.lists(st.floats(0.01, 100), min_size=1, max_size=25)


class Clock:
    """Time that passes only in the steps it makes."""

    def __init__(self):
        self.now, self.done = 0.0, []

    def __call__(self):
        return self.now

    def step(self, name, seconds):
        def run():
            self.now += seconds() if callable(seconds) else seconds
            self.done.append(name)

        return run


def test_the_slower_of_the_two_is_above_1():
    clock = Clock()
    times = paired_times(clock.step('ours', 3.0), clock.step('theirs', 2.0), pairs=7, clock=clock)
    assert times == [(3.0, 2.0)] * 7
    assert ratios(times) == [1.5] * 7


def test_each_pair_runs_both_in_an_order_of_its_own():
    clock = Clock()
    paired_times(clock.step('a', 1.0), clock.step('b', 1.0), pairs=50, warmup=3, clock=clock)
    assert clock.done[:6] == ['a', 'b'] * 3
    pairs = list(zip(clock.done[6::2], clock.done[7::2]))
    assert {tuple(sorted(pair)) for pair in pairs} == {('a', 'b')} and len(pairs) == 50
    assert 10 < pairs.count(('a', 'b')) < 40


def test_a_drift_of_the_machine_drops_out_of_the_ratios():
    """Each pair is slower than the one before, up to fifty times; their ratio stays."""
    clock = Clock()

    def slowed(seconds):
        return lambda: seconds * (1 + len(clock.done) // 2)

    times = paired_times(clock.step('a', slowed(1.0)), clock.step('b', slowed(4.0)), pairs=50, clock=clock)
    assert ratios(times) == pytest.approx([0.25] * 50)


def test_warm_up_is_not_timed():
    clock = Clock()
    first = iter([100.0, 100.0])
    times = paired_times(
        clock.step('a', lambda: next(first, 1.0)), clock.step('b', 1.0), pairs=4, warmup=2, clock=clock
    )
    assert times == [(1.0, 1.0)] * 4


def test_the_garbage_collector_waits():
    seen = []
    paired_times(lambda: seen.append(gc.isenabled()), lambda: None, pairs=3, warmup=0)
    assert seen == [False] * 3 and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        paired_times(lambda: 1 / 0, lambda: None, pairs=3, warmup=0)
    assert gc.isenabled()


@given(values)
def test_summary_by_hand(numbers):
    over = summarise(numbers)
    assert over.median == pytest.approx(statistics.median(numbers))
    assert min(numbers) <= over.low <= over.median <= over.high <= max(numbers)
    assert over.number == len(numbers)


def test_quantiles():
    assert summarise(range(11))[:3] == (5, 1, 9)


@pytest.mark.parametrize('number', range(1, 13))
@pytest.mark.parametrize('confidence', [0.5, 0.9, 0.95])
def test_interval_by_all_outcomes(number, confidence):
    """Each value lies below or above the true median with one half: count the outcomes that the interval covers."""

    def covered(rank):  # from the rank-th smallest to the rank-th largest
        below = [sum(signs) for signs in product((0, 1), repeat=number)]
        return sum(rank <= n <= number - rank for n in below) / 2**number

    ranks = [rank for rank in range(1, (number + 1) // 2 + 1) if covered(rank) >= confidence]
    expected = (max(ranks), number + 1 - max(ranks)) if ranks else None
    assert median_interval([*range(number, 0, -1)], confidence) == expected


def test_interval_needs_six_values():
    assert median_interval([1.0] * 5) is None and median_interval([1.0] * 6) == (1.0, 1.0)


@given(values, st.floats(0.1, 0.9))
def test_interval_holds_the_median(numbers, confidence):
    interval = median_interval(numbers, confidence)
    assert interval is None or interval[0] <= statistics.median(numbers) <= interval[1]


@pytest.mark.parametrize(
    'interval, expected', [((0.3, 0.4), 'met'), ((0.41, 0.5), 'not met'), ((0.39, 0.41), 'undecided')]
)
def test_verdict(interval, expected):
    assert verdict(Summary(0.4, 0.2, 0.6, interval, 30), 0.4) == expected


def test_verdict_by_the_median_alone():
    assert verdict(Summary(0.4, 0.2, 0.6, None, 3), 0.4) == 'met'
    assert verdict(Summary(0.41, 0.2, 0.6, None, 3), 0.4) == 'not met'


@given(st.floats(-2, 3), st.floats(0.01, 100), st.lists(st.integers(1, 500), min_size=2, max_size=6, unique=True))
def test_a_power_law_is_found(power, factor, sizes):
    assert growth_exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(power, abs=1e-6)


def test_growth_of_a_sum():
    """Least squares in the logarithms by the textbook's formula."""
    sizes, times = [1, 10, 100], [1.1, 2.0, 11.0]
    x, y = ([math.log(v) for v in vs] for vs in (sizes, times))
    mx, my = sum(x) / 3, sum(y) / 3
    slope = sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)
    assert growth_exponent(sizes, times) == pytest.approx(slope)


@pytest.mark.parametrize(
    'call, name',
    [
        (lambda: paired_times(print, print, pairs=0), '`pairs`'),
        (lambda: paired_times(print, print, pairs=1, warmup=-1), '`warmup`'),
        (lambda: summarise([]), '`values`'),
        (lambda: median_interval([1.0], 1), '`confidence`'),
        (lambda: growth_exponent([1, 1], [1.0, 2.0]), '`sizes`'),
        (lambda: growth_exponent([1, 2], [1.0]), '`sizes`'),
        (lambda: growth_exponent([1, 2], [1.0, 0.0]), '`sizes`'),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
