"""Paired times, the spread of their ratios, and peak memory. The test of paired times uses a clock of its own."""

import gc
import warnings
from itertools import product

import pytest
import torch

from mmyolo_bgpenalty.cli.benchmark.measures import host_waits, paired_times, peak_bytes, spread


class Clock:
    """Time that passes only in the tasks of this clock."""

    def __init__(self):
        self.now, self.done = 0.0, []

    def __call__(self):
        return self.now

    def task(self, name, seconds):
        """A task that takes ``seconds(number of tasks done before)``."""

        def run():
            self.now += seconds(len(self.done))
            self.done.append(name)

        return run


def test_tasks_run_in_pairs_in_random_order_and_a_drift_cancels():
    """Each pair is slower than the one before. The ratio is constant. The warm-up is not timed."""
    clock = Clock()

    def slowed(seconds):
        return lambda done: 1000 if done < 6 else seconds * (done // 2)

    times = paired_times(clock.task('a', slowed(1.0)), clock.task('b', slowed(4.0)), 50, warmup=3, clock=clock)
    assert [a / b for a, b in times] == pytest.approx([0.25] * 50)
    assert sorted(clock.done[:6]) == ['a'] * 3 + ['b'] * 3
    pairs = list(zip(clock.done[6::2], clock.done[7::2], strict=True))
    assert {tuple(sorted(pair)) for pair in pairs} == {('a', 'b')} and len(pairs) == 50
    assert 10 < pairs.count(('a', 'b')) < 40


def test_the_garbage_collector_waits():
    seen = []
    paired_times(lambda: seen.append(gc.isenabled()), lambda: None, pairs=3, warmup=0)
    assert seen == [False] * 3 and gc.isenabled()


def test_quantiles_by_hand():
    assert spread(range(11))[:3] == (5, 1, 9)


@pytest.mark.parametrize('number', range(1, 13))
def test_the_confidence_interval_of_the_median_equals_a_count_of_all_outcomes(number):
    """Each value is below or above the true median with probability 1/2. Count the intervals that contain it."""

    def covered(rank):  # from the rank-th smallest to the rank-th largest
        below = [sum(signs) for signs in product((0, 1), repeat=number)]
        return sum(rank <= n <= number - rank for n in below) / 2**number

    ranks = [rank for rank in range(1, (number + 1) // 2 + 1) if covered(rank) >= 0.95]
    expected = (max(ranks), number + 1 - max(ranks)) if ranks else None
    assert spread([*range(number, 0, -1)])[3:] == (expected, number)


def test_peak_of_a_step_by_hand():
    """The outputs of exp and sigmoid and one gradient are in memory at the same time, 4 MB each."""
    x = torch.zeros(1000, 1000, requires_grad=True)
    peak = peak_bytes(lambda: torch.autograd.grad((x * 2).exp().sigmoid().sum(), x), 'cpu')
    assert peak == pytest.approx(12e6, rel=1e-3)


def test_waits_for_a_gpu_are_counted_in_one_run(monkeypatch):
    modes, runs = [], []
    monkeypatch.setattr(torch.cuda, 'set_sync_debug_mode', modes.append)

    def task():
        runs.append(modes[-1] if modes else None)
        for _ in range(3):  # the same line of code, several times
            warnings.warn('called a synchronizing CUDA operation', stacklevel=1)
        warnings.warn('something else', stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert host_waits(task) == 3
    assert runs == [None, 'warn'] and modes == ['warn', 'default']

    def fails():
        if modes[-1] == 'warn':
            raise RuntimeError

    with pytest.raises(RuntimeError):
        host_waits(fails)
    assert modes[-1] == 'default'
