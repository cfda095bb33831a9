import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mmyolo_bgpenalty.engine.schedule import SCHEDULES, ema_momentum, iterations_of, lambda_bg_at, ramp
from tests.helpers.schedules import COSINE, GOLDEN, LINEAR, STEP

lengths = st.floats(0, 1e6)
plans = st.fixed_dictionaries(
    {'lambda_bg': lengths, 'burn_in': lengths, 'warmup': lengths, 'schedule': st.sampled_from(SCHEDULES)}
)


@pytest.mark.parametrize('arguments, progress, expected', GOLDEN)
def test_golden_table(arguments, progress, expected):
    value = lambda_bg_at(progress, **arguments)
    assert type(value) is float and {arguments['schedule'] for arguments, _, _ in GOLDEN} == set(SCHEDULES)
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(plan=plans, progress=st.lists(st.floats(0, 4e6), min_size=2, max_size=6))
@example(plan=COSINE, progress=[5 + i / 64 for i in range(321)])
@example(plan=STEP, progress=[5 + i / 64 for i in range(321)])
def test_lambda_rises_from_0_to_the_maximum(plan, progress):
    values = [lambda_bg_at(p, **plan) for p in sorted(progress)]
    assert values == sorted(values)
    assert all(0 <= v <= plan['lambda_bg'] for v in values)
    assert all(v == 0 for p, v in zip(sorted(progress), values) if p < plan['burn_in'])
    assert lambda_bg_at(plan['burn_in'] + 2 * plan['warmup'] + 1, **plan) == plan['lambda_bg']


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_ramp_is_0_before_its_start_and_1_from_its_end_on(schedule):
    assert ramp(-1e-9, 3, schedule) == 0
    assert ramp(3, 3, schedule) == ramp(1e9, 3, schedule) == ramp(0, 0, schedule) == 1
    assert all(type(ramp(elapsed, 3, schedule)) is float for elapsed in (-1, 0, 1, 3, 4))


@pytest.mark.parametrize('bad', [-1e-9, math.nan, math.inf, -math.inf, True, '5', None, [5]], ids=repr)
@pytest.mark.parametrize('name', ['lambda_bg', 'burn_in', 'warmup', 'progress', 'schedule'])
def test_bad_arguments_are_named(name, bad):
    with pytest.raises(ValueError) as error:
        lambda_bg_at(**{'progress': 6, **LINEAR, name: bad})
    assert f'`{name}`' in str(error.value) and repr(bad) in str(error.value)
    assert name != 'schedule' or all(known in str(error.value) for known in SCHEDULES)


@pytest.mark.parametrize(
    'updates, momentum, warmup, expected',
    [
        (0, 0.002, 2000, 1.0),  # the first update copies
        (2000, 0.002, 2000, 0.002 + 0.998 / math.e),
        (10**6, 0.002, 2000, 0.002),
        (0, 0.002, 0, 0.002),
        (7, 0.25, 0, 0.25),
    ],
)
def test_golden_momenta(updates, momentum, warmup, expected):
    assert ema_momentum(updates, momentum, warmup) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    'length, expected',
    [(300, 300), (300.0, 300), (1, 1), (0, 0), (0.0, 0), (0.5, 1350), (1 / 9, 300), (1 / 54, 50), (1e-9, 1)],
)
def test_a_length_below_1_is_a_share_of_the_run(length, expected):
    found = iterations_of('warmup', length, 2700)
    assert found == expected and type(found) is int


@pytest.mark.parametrize('bad', [1.5, 300.2, -1, -0.1, math.nan, math.inf, True, '5', None, [5]], ids=repr)
def test_other_lengths_are_refused(bad):
    with pytest.raises(ValueError) as error:
        iterations_of('warmup', bad, 2700)
    expected = 'Expected `warmup` to be a whole number of iterations or, below 1, a share of the run, but got '
    assert str(error.value) == f'{expected}{bad!r}'
