"""The background penalty against naive loops and known limits."""

import math
from dataclasses import asdict
from inspect import signature

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mmyolo_bgpenalty.models.losses.penalty import (
    NORMALIZERS,
    BackgroundPenaltyOptions,
    background_penalty,
    background_statistics,
)

FORMS = [{'focal': False}, *({'focal': True, 'gamma': gamma} for gamma in (0.0, 1.5, 2.0))]
forms = pytest.mark.parametrize('form', FORMS, ids=str)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@st.composite
def batches(draw):
    """Logits of any shape and dtype, and which priors are background: none, some or all."""
    shape = [*draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)), draw(st.integers(1, 4))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    logits = torch.randn(shape, generator=generator) * draw(st.sampled_from([0.1, 3.0]))
    mask = torch.rand(shape[:-1], generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return logits.to(draw(st.sampled_from(DTYPES))), mask


def naive_penalty(logits, mask, lambda_bg, focal, gamma, normalizer, positives, hard_score):
    total = number = 0
    for z, background in zip(logits.double().flatten(0, -2).tolist(), mask.flatten().tolist()):
        p = max(1 / (1 + math.exp(-value)) for value in z)
        if background and (normalizer != 'hard' or p > hard_score):
            total += p**gamma * -math.log(1 - p) if focal else p
            number += 1
    return lambda_bg * total / max(1, positives if normalizer == 'positives' else number)


@given(
    batch=batches(),
    lambda_bg=st.floats(0, 10),
    focal=st.booleans(),
    gamma=st.floats(0, 4),
    normalizer=st.sampled_from(NORMALIZERS),
    positives=st.floats(0, 9),
    hard_score=st.floats(0, 0.9),
)
def test_penalty_equals_the_naive_loop(batch, positives, **options):
    value = background_penalty(*batch, positives=torch.tensor(positives), **options)
    assert value.shape == ()
    assert value.dtype == (torch.float64 if batch[0].dtype == torch.float64 else torch.float32)
    expected = naive_penalty(*batch, positives=positives, **options)
    assert value.item() == pytest.approx(expected, rel=2e-5, abs=1e-9)
    bounded = not options['focal'] and options['normalizer'] != 'positives'
    assert not bounded or 0 <= value.item() <= options['lambda_bg'] * (1 + 1e-6)


@forms
def test_gradcheck(form):
    logits = (3 * torch.randn(2, 5, 3, dtype=torch.float64)).requires_grad_()
    mask = torch.rand(2, 5) < 0.6
    assert torch.autograd.gradcheck(lambda z: background_penalty(z, mask, lambda_bg=1.7, **form), logits)


def test_refuses_bad_arguments():
    logits, mask = torch.zeros(2, 1), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match='`positives`'):
        background_penalty(logits, mask, normalizer='positives')
    with pytest.raises(ValueError, match="`normalizer`.*'mean'"):
        background_penalty(logits, mask, normalizer='mean')


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@forms
def test_extreme_logits_are_finite(form, dtype):
    logits = torch.tensor([-100.0, -20.0, -1.0, 0.0, 1.0, 20.0, 100.0], dtype=dtype)[:, None].requires_grad_()
    value = background_penalty(logits, torch.ones(7, dtype=torch.bool), **form)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    assert logits.grad.dtype == dtype
    assert (logits.grad >= 0).all()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('gamma', [0.0, 1.5, 2.0])
def test_the_focal_form_still_corrects_confident_false_positives(gamma, dtype):
    """For large logits the gradient of the focal form tends to 1. That of the plain form, σ, vanishes."""
    mask = torch.tensor([True, True, False, True, True])

    def gradient(z, **form):
        logits = torch.full((5, 1), -30.0, dtype=dtype)
        logits[0] = z
        logits.requires_grad_()
        background_penalty(logits, mask, lambda_bg=2.0, **form).backward()
        return logits.grad[0].item()

    assert gradient(100.0, focal=True, gamma=gamma) == pytest.approx(2 / 4, rel=1e-3)
    assert gradient(20.0, focal=True, gamma=gamma) == pytest.approx(2 / 4, rel=1e-3)
    assert gradient(8.0, focal=False) == pytest.approx(3.35e-4 * 2 / 4, rel=1e-2)
    assert gradient(100.0, focal=False) == 0


@forms
@pytest.mark.parametrize('shape', [(2, 4), (2, 0), (0,)], ids=str)
def test_without_background_the_penalty_is_0_with_a_graph(shape, form):
    logits = torch.randn(*shape, 3, requires_grad=True)
    value = background_penalty(logits, torch.zeros(shape, dtype=torch.bool), **form)
    assert value.item() == 0 and value.requires_grad
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize('value', [3.0, 1e4, -1e4, math.inf, -math.inf, math.nan], ids=str)
@forms
def test_priors_that_are_no_background_have_no_effect(form, value):
    """For all logits of these priors: penalty and gradients of the background stay, and their own gradient is 0."""
    background = torch.randn(3, 2)
    alone = background.clone().requires_grad_()
    expected = background_penalty(alone, torch.ones(3, dtype=torch.bool), **form)
    expected.backward()
    logits = torch.cat([background, torch.full((2, 2), value)]).requires_grad_()
    penalty = background_penalty(logits, torch.tensor([True] * 3 + [False] * 2), **form)
    penalty.backward()
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(logits.grad[:3], alone.grad)
    assert torch.equal(logits.grad[3:], torch.zeros(2, 2))


def test_inputs_do_not_change():
    logits, mask = torch.randn(2, 6, 3), torch.rand(2, 6) < 0.5
    before = logits.clone(), mask.clone()
    background_penalty(logits, mask, focal=True)
    background_statistics(logits[..., 0], mask)
    assert torch.equal(logits, before[0]) and torch.equal(mask, before[1])


@given(batches())
def test_statistics_are_those_of_numpy(batch):
    logits, mask = batch
    assume(mask.numel())
    stats = background_statistics(logits.amax(-1).requires_grad_(), mask)
    assert stats.shape == (4,) and stats.dtype == torch.float32 and not stats.requires_grad
    some = 1 / (1 + np.exp(-logits.amax(-1)[mask].double().numpy()))
    expected = [some.mean(), some.max(), some.min(), len(some)] if len(some) else [0, 0, 0, 0]
    np.testing.assert_allclose(stats.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize('bad', [-1, math.nan, math.inf, True, '1', None], ids=repr)
@pytest.mark.parametrize('name', ['gamma', 'hard_score'])
def test_options_refuse_bad_numbers(name, bad):
    with pytest.raises(ValueError, match=f'`{name}`') as error:
        BackgroundPenaltyOptions(**{name: bad})
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(focal=1), '`focal` to be True or False, but got 1'),
        (dict(normalizer='mean'), "`normalizer`.*'mean'"),
        (dict(normalizer='hard', hard_score=1.0), '`hard_score` to be in .*1.0'),
        (dict(normalizer='positives', hard_score=0.2), "normalizer='hard' for `hard_score`, but got 'positives'"),
        (dict(region='inside'), "`region`.*'inside'"),
    ],
    ids=str,
)
def test_options_refuse_bad_values(options, message):
    with pytest.raises(ValueError, match=message):
        BackgroundPenaltyOptions(**options)


def test_the_function_and_the_options_have_the_same_defaults():
    options = asdict(BackgroundPenaltyOptions())
    assert options == dict(focal=False, gamma=2.0, normalizer='background', hard_score=0.1, region='all')
    del options['region']
    parameters = signature(background_penalty).parameters
    assert {name: parameters[name].default for name in options} == options


def test_options_hold_python_floats():
    options = BackgroundPenaltyOptions(gamma=np.float64(1), normalizer='hard', hard_score=0)
    assert type(options.gamma) is type(options.hard_score) is float
    assert (options.gamma, options.hard_score) == (1, 0)
