"""Binary cross-entropy from sparse targets, against a naive reference with dense targets."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mmyolo_bgpenalty.models.losses import sparse
from mmyolo_bgpenalty.models.losses.sparse import bce_and_max_logits

SHAPES = ((4, 3), (2, 2), (1, 2))


def naive(levels, image, prior, label, score, left_out):
    logits = torch.cat([level.flatten(2) for level in levels], 2)
    targets, weights = torch.zeros_like(logits), torch.ones_like(logits)
    targets[image, label, prior] = score.to(logits.dtype)
    if left_out is not None:
        weights[left_out[0], left_out[2], left_out[1]] = 0
    return F.binary_cross_entropy_with_logits(logits, targets, weights, reduction='sum'), logits.amax(1)


def case(seed, positives, images=2, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    levels = [
        torch.randn(images, classes, *shape, generator=generator, dtype=torch.float64).mul(6).to(dtype)
        for shape in SHAPES
    ]
    priors = sum(h * w for h, w in SHAPES)
    key = torch.randperm(images * priors, generator=generator)[:positives]
    label = torch.randint(classes, (len(key),), generator=generator)
    score = torch.rand(len(key), generator=generator, dtype=torch.float64)
    return [level.requires_grad_() for level in levels], (key // priors, key % priors, label, score)


@given(
    seed=st.integers(0, 10**6),
    positives=st.integers(0, 12),
    left_out=st.integers(0, 6),
    classes=st.integers(1, 4),
    images=st.integers(1, 3),
    at_once=st.integers(1, 3),
)
def test_sum_and_maximum_are_the_naive_ones(seed, positives, left_out, classes, images, at_once):
    """Also if they are computed for one or two images at once."""
    levels, entries = case(seed, positives + left_out, images, classes)
    target, others = zip(*((x[:positives], x[positives:]) for x in entries))
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, '_images_at_once', lambda logits: at_once)
        for function in (bce_and_max_logits, naive):
            bce, largest = function(levels, *target, others[:3] if left_out else None)
            weights = torch.linspace(-1, 2, largest.numel(), dtype=largest.dtype).view_as(largest)
            results.append((bce, largest, *torch.autograd.grad(0.7 * bce + (weights * largest).sum(), levels)))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_equal_logits_share_the_gradient_of_the_maximum():
    """As with ``amax``. One of the two largest logits of each prior does not count in the sum."""
    level = torch.tensor([2.0, -1, 2]).view(1, 3, 1, 1).repeat(1, 1, 2, 2).requires_grad_()
    none, place = torch.zeros(0, dtype=torch.long), torch.arange(4)
    left_out = torch.zeros(4, dtype=torch.long), place, torch.zeros(4, dtype=torch.long)
    bce, largest = bce_and_max_logits([level], none, none, none, torch.zeros(0), left_out)
    torch.autograd.grad(bce, level, retain_graph=True)  # a second backward pass is possible
    (gradient,) = torch.autograd.grad(bce + 3 * largest.sum(), level)
    expected = torch.tensor([1.5, torch.tensor(-1.0).sigmoid(), torch.tensor(2.0).sigmoid() + 1.5])
    torch.testing.assert_close(gradient, expected.view(1, 3, 1, 1).expand_as(level))


def test_images_are_computed_in_blocks_that_fit_into_the_cache():
    """The gradient of the images is the same, whether or not there are others."""
    level = torch.randn(5, 3, 300, 300, requires_grad=True)  # more than one block
    none = torch.zeros(0, dtype=torch.long)
    gradients = [
        torch.autograd.grad(bce + largest.sum(), images)[0]
        for images in (level, *level.detach().split(1))
        for bce, largest in [bce_and_max_logits([images.requires_grad_()], none, none, none, torch.zeros(0))]
    ]
    assert sparse._images_at_once(level) < len(level)
    torch.testing.assert_close(gradients[0], torch.cat(gradients[1:]), rtol=1e-6, atol=0)


def test_gradients():
    levels, target = case(0, 7)
    assert torch.autograd.gradcheck(lambda *levels: bce_and_max_logits(levels, *target), levels)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_fp32(dtype):
    levels, (*where, score) = case(2, 7, dtype=dtype)
    target = (*where, score.float())
    bce, largest = bce_and_max_logits(levels, *target)
    expected, most = naive([level.double() for level in levels], *target, None)
    assert bce.dtype == largest.dtype == torch.float32
    torch.testing.assert_close(bce.double(), expected, rtol=1e-5, atol=0)
    assert torch.equal(largest.double(), most)
    assert all(g.dtype == dtype for g in torch.autograd.grad(bce + largest.sum(), levels))


def test_large_logits_are_finite():
    for value in (-1e4, 1e4):
        level = torch.full((1, 2, 2, 2), value, requires_grad=True)
        none = torch.zeros(0, dtype=torch.long)
        bce, _ = bce_and_max_logits([level], none, none, none, torch.zeros(0))
        bce.backward()
        assert bce.item() == max(value, 0) * 8 and torch.equal(level.grad, torch.full_like(level, float(value > 0)))


def test_gradients_have_the_memory_layout_of_the_logits():
    levels, target = case(3, 7)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        laid = [level.detach().contiguous(memory_format=layout).requires_grad_() for level in levels]
        bce, largest = bce_and_max_logits(laid, *target)
        results.append((bce, *torch.autograd.grad(bce + largest.sum(), laid)))
        assert all(gradient.is_contiguous(memory_format=layout) for gradient in results[-1][1:])
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
