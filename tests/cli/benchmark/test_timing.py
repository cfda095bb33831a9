"""Pairs and the spread of their ratios, with a clock that the test moves."""

import gc
import statistics
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmyolo_bgpenalty.cli.benchmark.timing import paired_times, spread

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


def test_each_pair_runs_both_in_an_order_of_its_own():
    clock = Clock()
    times = paired_times(clock.step('a', 3.0), clock.step('b', 2.0), pairs=50, warmup=3, clock=clock)
    assert times == [(3.0, 2.0)] * 50
    assert clock.done[:6] == ['a', 'b'] * 3
    pairs = list(zip(clock.done[6::2], clock.done[7::2], strict=True))
    assert {tuple(sorted(pair)) for pair in pairs} == {('a', 'b')} and len(pairs) == 50
    assert 10 < pairs.count(('a', 'b')) < 40


def test_a_drift_of_the_machine_drops_out_of_the_ratios():
    """Each pair is slower than the one before, up to fifty times; their ratio stays."""
    clock = Clock()

    def slowed(seconds):
        return lambda: seconds * (1 + len(clock.done) // 2)

    times = paired_times(clock.step('a', slowed(1.0)), clock.step('b', slowed(4.0)), pairs=50, clock=clock)
    assert [a / b for a, b in times] == pytest.approx([0.25] * 50)


def test_warm_up_is_not_timed():
    clock = Clock()
    first = iter([100.0, 100.0])
    slow_start = clock.step('a', lambda: next(first, 1.0))
    assert paired_times(slow_start, clock.step('b', 1.0), pairs=4, warmup=2, clock=clock) == [(1.0, 1.0)] * 4


def test_the_garbage_collector_waits():
    seen = []
    paired_times(lambda: seen.append(gc.isenabled()), lambda: None, pairs=3, warmup=0)
    assert seen == [False] * 3 and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        paired_times(lambda: 1 / 0, lambda: None, pairs=3, warmup=0)
    assert gc.isenabled()


@pytest.mark.parametrize('options', [dict(pairs=0), dict(pairs=1, warmup=-1)])
def test_bad_numbers_are_named(options):
    with pytest.raises(ValueError, match=f'`{list(options)[-1]}`'):
        paired_times(print, print, **options)


@given(values)
def test_median_quantiles_and_interval(numbers):
    over = spread(numbers)
    assert over.median == pytest.approx(statistics.median(numbers)) and over.number == len(numbers)
    assert min(numbers) <= over.low <= over.median <= over.high <= max(numbers)
    assert over.interval is None or over.interval[0] <= over.median <= over.interval[1]


def test_quantiles_by_hand():
    assert spread(range(11))[:3] == (5, 1, 9)


@pytest.mark.parametrize('number', range(1, 13))
def test_the_interval_by_all_outcomes(number):
    """Each value lies below or above the true median with probability 1/2: count the outcomes that are covered."""

    def covered(rank):  # from the rank-th smallest to the rank-th largest
        below = [sum(signs) for signs in product((0, 1), repeat=number)]
        return sum(rank <= n <= number - rank for n in below) / 2**number

    ranks = [rank for rank in range(1, (number + 1) // 2 + 1) if covered(rank) >= 0.95]
    expected = (max(ranks), number + 1 - max(ranks)) if ranks else None
    assert spread([*range(number, 0, -1)]).interval == expected
