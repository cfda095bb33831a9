"""A run that becomes slow says why."""

import pytest

from mmyolo_bgpenalty import SlowdownHook
from mmyolo_bgpenalty.engine.hooks import slowdown
from mmyolo_bgpenalty.engine.hooks.slowdown import reason
from mmyolo_bgpenalty.utils.threads import CpuTime


@pytest.fixture
def run(monkeypatch):
    """Run iterations of given lengths, with others using some cores. Returns the warnings."""
    said, clock, others = [], [0.0], [0.0]
    monkeypatch.setattr(slowdown, 'print_log', lambda text, **options: said.append(text))
    monkeypatch.setattr(slowdown.time, 'perf_counter', lambda: clock[0])
    monkeypatch.setattr(slowdown, 'cpu_time', lambda: CpuTime(clock[0], others[0] * clock[0], 0.0))
    monkeypatch.setattr(slowdown, 'number_of_cores', lambda: 2)
    hook = SlowdownHook()

    def call(seconds, number=20, waiting=0.0, using=0.0, **outputs):
        others[0] = using
        hook._cpu = slowdown.cpu_time()
        hook.before_train_epoch(None)
        for _ in range(number):
            clock[0] += waiting * seconds
            hook.before_train_iter(None, 0)
            clock[0] += (1 - waiting) * seconds
            hook.after_train_iter(None, 0, outputs=dict(loss=1.0, **outputs))
        clock[0] += 1000  # a validation
        return said

    return call


def test_a_slow_run_is_told_once(run):
    assert not run(9.0, number=10)  # the first iterations are not counted
    assert not run(0.5) and not run(1.9)
    assert run(3.0, using=1.5) == run(30.0)
    assert len(run(1.0)) == 1
    assert run(1.0)[0].startswith(
        'An iteration takes 3 s, 6 times as long as at the start. Other programs use 1.5 of 2 c'
    )


def test_a_few_slow_iterations_are_no_slow_run(run):
    run(0.5, number=30)
    run(60.0, number=9)
    assert not run(0.5, number=11)


def test_short_iterations_are_never_slow(run):
    run(0.001, number=30)
    assert not run(0.1)


def test_a_clock_with_coarse_steps(run):
    run(0.0, number=30)
    assert '250 times' in run(0.25)[0]


def test_other_processes_of_the_training_are_no_other_programs(run, monkeypatch):
    monkeypatch.setattr(slowdown, 'get_world_size', lambda: 2)
    run(0.5, number=30)
    assert 'Other programs' not in run(5.0, using=2.0)[0]


def test_iterations_with_unlabeled_images_have_their_own_start(run):
    run(0.5, number=30)
    assert not run(9.0, number=10, unsup_loss_cls=1.0) and not run(2.5, unsup_loss_cls=1.0)
    assert not run(5.0, unsup_loss_cls=1.0)
    assert '4 times' in run(10.0, unsup_loss_cls=1.0)[0]


def test_waiting_for_images_is_told(run):
    run(0.5, number=30)
    assert '90% of the time it waits for images' in run(5.0, waiting=0.9, using=2.0)[0]


@pytest.mark.parametrize(
    'waiting, others, threads, part',
    [
        (0.6, 2.0, 2, 'num_workers'),
        (0.1, 1.0, 2, 'OMP_NUM_THREADS=1 and --resume'),
        (0.1, 1.0, 1, '1.0 of 2 cores: end them'),
        (0.1, 0.1, 2, 'too hot'),
        (0.1, None, 2, 'too hot'),
    ],
)
def test_reasons(waiting, others, threads, part):
    text = reason(waiting, others, 2, threads)
    assert part in text and ('OMP' in text) == ('OMP' in part)


@pytest.mark.parametrize('times', [1, 0, -2, float('nan'), 'x'])
def test_bad_arguments(times):
    with pytest.raises(ValueError, match='`times`'):
        SlowdownHook(times)
