import ast
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import mmyolo_bgpenalty
from mmyolo_bgpenalty.models.losses import (
    BackgroundPenaltyOptions,
    background_penalty,
    background_statistics,
    hard_background,
    ranking_penalty,
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


def naive_penalty(logits, mask, lambda_bg=1.0, focal=False, gamma=2.0):
    total = number = 0
    for z, background in zip(logits.double().flatten(0, -2).tolist(), mask.flatten().tolist()):
        if background:
            p = max(1 / (1 + math.exp(-value)) for value in z)
            total += p**gamma * -math.log(1 - p) if focal else p
            number += 1
    return lambda_bg * total / number if number else 0.0


@given(batch=batches(), lambda_bg=st.floats(0, 10), focal=st.booleans(), gamma=st.floats(0, 4))
def test_penalty_is_the_naive_loop(batch, lambda_bg, focal, gamma):
    value = background_penalty(*batch, lambda_bg=lambda_bg, focal=focal, gamma=gamma)
    assert value.shape == ()
    assert value.dtype == (torch.float64 if batch[0].dtype == torch.float64 else torch.float32)
    expected = naive_penalty(*batch, lambda_bg, focal, gamma)
    assert value.item() == pytest.approx(expected, rel=2e-5, abs=1e-9)
    assert focal or 0 <= value.item() <= lambda_bg * (1 + 1e-6)


def test_by_hand():
    logits = torch.tensor([[[0.0, -3.0], [50.0, 60.0], [math.log(3), 0.0]]])
    mask = torch.tensor([[True, False, True]])
    assert background_penalty(logits, mask).item() == pytest.approx((0.5 + 0.75) / 2)
    assert background_penalty(logits, mask, lambda_bg=4.0).item() == pytest.approx(2.5)
    focal = (0.25 * math.log(2) + 0.5625 * math.log(4)) / 2
    assert background_penalty(logits, mask, focal=True).item() == pytest.approx(focal)


@forms
def test_gradcheck(form):
    logits = (3 * torch.randn(2, 5, 3, dtype=torch.float64)).requires_grad_()
    mask = torch.rand(2, 5) < 0.6
    assert torch.autograd.gradcheck(lambda z: background_penalty(z, mask, lambda_bg=1.7, **form), logits)


@given(
    batch=batches(),
    score=st.floats(0, 0.9),
    top=st.none() | st.integers(1, 5),
    lambda_bg=st.floats(0, 10),
    focal=st.booleans(),
)
def test_the_hard_normalizer_is_the_naive_loop(batch, score, top, lambda_bg, focal):
    logits, mask = batch
    options = dict(normalizer='hard', hard_score=score, hard_top=top)
    # No two alike, so that there is one way to choose.
    logits = logits.double() + torch.arange(logits.numel()).view(logits.shape) * 1e-7
    hard, images = torch.zeros_like(mask), logits.amax(-1).sigmoid()
    for place in np.ndindex(mask.shape[:-1]):
        p, background = images[place].tolist(), mask[place].tolist()
        rank = sorted((-p[i], i) for i in range(len(p)) if background[i] and p[i] > score)
        for _, i in rank[:top]:
            hard[place][i] = True
    assert torch.equal(hard_background(logits.amax(-1), mask, score, top), hard)
    value = background_penalty(logits, mask, lambda_bg=lambda_bg, focal=focal, **options)
    assert value.item() == pytest.approx(naive_penalty(logits, hard, lambda_bg, focal), rel=2e-5, abs=1e-9)


def test_divided_by_positives_and_weighted_by_hand():
    logits = torch.tensor([[0.0], [math.log(3)], [50.0]])
    mask = torch.tensor([True, True, False])
    by_positives = dict(normalizer='positives', positives=torch.tensor(5.0))
    assert background_penalty(logits, mask, **by_positives).item() == pytest.approx(1.25 / 5)
    few = dict(by_positives, positives=torch.tensor(0.2))
    assert background_penalty(logits, mask, **few).item() == pytest.approx(1.25)
    weight = torch.tensor([0.2, 1.0, 1.0])
    assert background_penalty(logits, mask, weight=weight).item() == pytest.approx(0.85 / 2)
    with pytest.raises(ValueError, match='`positives`'):
        background_penalty(logits, mask, normalizer='positives')
    with pytest.raises(ValueError, match="`normalizer`.*'mean'"):
        background_penalty(logits, mask, normalizer='mean')


def pairs(seed=0, background=7, objects=5, classes=3):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(background, generator=generator, dtype=torch.float64),
        torch.randint(classes, (background,), generator=generator),
        torch.randn(objects, generator=generator, dtype=torch.float64),
        torch.randint(classes, (objects,), generator=generator),
        torch.rand(objects, generator=generator, dtype=torch.float64),
    )


@given(seed=st.integers(0, 99), background=st.integers(0, 6), objects=st.integers(0, 5), classes=st.integers(1, 4))
def test_ranking_is_the_naive_loop(seed, background, objects, classes):
    z, of, object_z, label, weight = pairs(seed, background, objects, classes)
    terms = []
    for i in range(background):
        same = [p for p in range(objects) if label[p] == of[i]]
        if same:
            total = sum(weight[p].item() for p in same)
            terms.append(sum(weight[p].item() * math.log1p(math.exp(z[i] - object_z[p])) for p in same) / total)
    value = ranking_penalty(z, of, object_z, label, weight, lambda_bg=3.0)
    assert value.item() == pytest.approx(3 * sum(terms) / max(len(terms), 1))


def test_ranking_gradients():
    z, of, object_z, label, weight = pairs()
    z, object_z = z.requires_grad_(), object_z.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ranking_penalty(a, of, b, label, weight), (z, object_z))
    ranking_penalty(z, of, object_z, label, weight).backward()
    # What pushes background down lifts objects as much: no threshold does that.
    assert z.grad.min() >= 0 and object_z.grad.max() <= 0
    assert z.grad.sum().item() == pytest.approx(-object_z.grad.sum().item())


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_ranking_of_extremes(dtype):
    """Where σ of the most confident mistake has no gradient left, its rank still has all of it."""
    z = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    objects = torch.tensor([0.0], dtype=dtype)
    value = ranking_penalty(z, torch.zeros(2).long(), objects, torch.zeros(1).long(), torch.ones(1))
    value.backward()
    assert value.isfinite() and z.grad.tolist() == [0.5, 0]


@given(batches())
def test_largest_confidence_is_that_of_the_largest_logit(batch):
    logits, mask = batch
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    confidence = logits.sigmoid().amax(-1)[mask]
    expected = confidence.sum() / max(1, len(confidence))
    torch.testing.assert_close(background_penalty(logits, mask), expected)


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
def test_trap_28_the_focal_form_still_corrects_the_most_confident(gamma, dtype):
    """And σ does not: that is its documented price."""
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


@given(batches())
def test_focal_with_gamma_0_is_bce_against_background(batch):
    logits, mask = batch
    largest = logits.amax(-1).to(torch.promote_types(logits.dtype, torch.float32))[mask]
    bce = F.binary_cross_entropy_with_logits(largest, torch.zeros_like(largest), reduction='sum') / max(1, len(largest))
    torch.testing.assert_close(background_penalty(logits, mask, focal=True, gamma=0.0), bce)


@forms
@pytest.mark.parametrize('shape', [(2, 4), (2, 0), (0,)], ids=str)
def test_without_background_it_is_0_with_a_graph(shape, form):
    logits = torch.randn(*shape, 3, requires_grad=True)
    value = background_penalty(logits, torch.zeros(shape, dtype=torch.bool), **form)
    assert value.item() == 0 and value.requires_grad
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize('value', [3.0, 1e4, -1e4, math.inf, -math.inf, math.nan], ids=str)
@forms
def test_what_is_no_background_does_not_matter(form, value):
    """Whatever its logits, neither the penalty nor the gradients change, and its own gradient is 0."""
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


@forms
def test_linear_in_lambda(form):
    logits, mask = torch.randn(2, 6, 3), torch.rand(2, 6) < 0.5
    one = background_penalty(logits, mask, **form)
    for lambda_bg in (0, 0.25, 3):
        torch.testing.assert_close(background_penalty(logits, mask, lambda_bg=lambda_bg, **form), lambda_bg * one)


def test_inputs_are_left_as_they_are():
    logits, mask = torch.randn(2, 6, 3), torch.rand(2, 6) < 0.5
    before = logits.clone(), mask.clone()
    background_penalty(logits, mask, focal=True)
    background_statistics(logits, mask)
    assert torch.equal(logits, before[0]) and torch.equal(mask, before[1])


@given(batches())
def test_statistics_are_those_of_numpy(batch):
    logits, mask = batch
    stats = background_statistics(logits.requires_grad_(), mask)
    assert stats.shape == (4,) and stats.dtype == torch.float32 and not stats.requires_grad
    confidence = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    confidence = np.stack([row.max(-1) for row in confidence]) if len(confidence) else confidence[..., 0]
    some = confidence[mask.numpy()]
    expected = [some.mean(), some.max(), some.min(), len(some)] if len(some) else [0, 0, 0, 0]
    np.testing.assert_allclose(stats.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize('bad', [-1, math.nan, math.inf, True, '1', None], ids=repr)
@pytest.mark.parametrize('name', ['lambda_bg', 'gamma'])
def test_options_refuse_bad_numbers(name, bad):
    with pytest.raises(ValueError, match=f'`{name}`') as error:
        BackgroundPenaltyOptions(**{name: bad})
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize('bad', ['yes', 1, 0.0, None], ids=repr)
def test_options_refuse_a_focal_that_is_no_bool(bad):
    with pytest.raises(ValueError, match='`focal`') as error:
        BackgroundPenaltyOptions(focal=bad)
    assert repr(bad) in str(error.value)


def test_options_hold_python_floats():
    options = BackgroundPenaltyOptions(lambda_bg=np.float64(2), gamma=1)
    assert type(options.lambda_bg) is type(options.gamma) is float
    assert (options.lambda_bg, options.gamma) == (2, 1)


def imports_of(module: str):
    """Names of the modules that it and what it imports of the package import, at any depth of the source."""
    found, todo, seen = set(), [module], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        file = Path(mmyolo_bgpenalty.__file__).parents[1] / f'{name.replace(".", "/")}.py'
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module.startswith('mmyolo_bgpenalty.'):
                todo.append(node.module)
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module)
    return {name.split('.')[0] for name in found}


@pytest.mark.parametrize('module', ['models.losses', 'utils.geometry'])
def test_tensor_modules_import_torch_alone(module):
    assert imports_of(f'mmyolo_bgpenalty.{module}') - sys.stdlib_module_names == {'torch'}


@pytest.mark.parametrize('module', ['engine.schedule', 'engine.settings', 'utils.arguments'])
def test_pure_modules_import_nothing(module):
    assert imports_of(f'mmyolo_bgpenalty.{module}') <= sys.stdlib_module_names


def test_imports_of_sees_the_frameworks():
    assert {'mmdet', 'mmengine', 'torch'} <= imports_of('mmyolo_bgpenalty.models.semi_detector')
