"""BackgroundPenaltyLoss around the losses of the dense heads of MMDetection and MMYOLO."""

import math

import pytest
import torch
from mmengine.logging import MessageHub
from mmyolo.registry import MODELS

from mmyolo_bgpenalty import BackgroundPenaltyLoss, background_penalty
from mmyolo_bgpenalty.models.losses.background_penalty_loss import logits_and_background
from tests.helpers.heads import NO_OBJECTS, OBJECTS, PENALTIES, batch, build, losses_and_gradients
from tests.helpers.other_detectors import HEADS, MMYOLO, model_cfg
from tests.helpers.other_detectors import build as build_part

BCE = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='none', loss_weight=0.5)


def wrapped(loss=BCE, **kwargs):
    return MODELS.build(dict(type='BackgroundPenaltyLoss', loss=loss, use_sigmoid=True, **kwargs))


# The same as BgPenaltyYOLOv8Head


@pytest.mark.parametrize('objects', [OBJECTS, NO_OBJECTS], ids=['objects', 'none'])
@pytest.mark.parametrize('penalty', PENALTIES, ids=str)
def test_around_yolov8_it_equals_bgpenaltyyolov8head(penalty, objects):
    options = {name: value for name, value in penalty.items() if name != 'region'}
    head = build(bg_penalty=dict(lambda_bg=1.5, **options), sparse_targets=False)
    expected, gradients = losses_and_gradients(head, batch('list', objects))
    wrapper = dict(type='BackgroundPenaltyLoss', loss=BCE, use_sigmoid=True, lambda_bg=1.5, bg_penalty=options)
    plain = build('YOLOv8Head', loss_cls=wrapper)
    losses, found = losses_and_gradients(plain, batch('list', objects))
    assert expected['loss_bg'] > 0
    torch.testing.assert_close(losses['loss_cls'], expected['loss_cls'] + expected['loss_bg'])
    for name, value in gradients.items():
        torch.testing.assert_close(found[name], value, msg=name)
    stats, known = plain.loss_cls.get_bg_penalty_stats(), head.get_bg_penalty_stats()
    assert stats == pytest.approx(known) and stats['num'] > 0


# What is background


def naive_background(pred, target, weight):
    """The rows (or, with 4 dimensions, the elements) of ``pred`` that are background."""
    if pred.dim() == 4:
        rows = zip(pred.flatten().tolist(), target.flatten().tolist(), weight.flatten().tolist())
        return [[z] for z, score, w in rows if score == 0 and w]
    kept = []
    for row, place in zip(pred.reshape(-1, pred.shape[-1]), range(pred[..., 0].numel())):
        labels = target[0] if isinstance(target, tuple) else target
        if labels.is_floating_point():
            empty = not labels.reshape(-1, pred.shape[-1])[place].any()
        else:
            empty = int(labels.flatten()[place]) == pred.shape[-1]
        if empty and weight.reshape(pred[..., 0].numel(), -1)[place].any():
            kept.append(row.tolist())
    return kept


def targets_of(kind):
    """Predictions, targets and weights of 24 priors of 3 classes (12 of 1, for objectness)."""
    generator = torch.Generator().manual_seed(5)
    pred = torch.randn(24, 3, generator=generator)
    labels = torch.randint(0, 4, (24,), generator=generator)
    scores = torch.rand(24, generator=generator) * (labels < 3)
    weight = (torch.rand(24, generator=generator) > 0.3).float()
    if kind == 'labels':
        return pred, labels, weight
    if kind == 'pairs':
        return pred, (labels, scores), weight
    dense = torch.nn.functional.one_hot(labels, 4)[:, :3] * scores[:, None]
    if kind == 'scores':
        return pred.reshape(2, 12, 3), dense.reshape(2, 12, 3), weight.reshape(2, 12, 1).expand(2, 12, 3)
    return pred.reshape(2, 3, 3, 4), dense.reshape(2, 3, 3, 4), (dense * 0 + 1).reshape(2, 3, 3, 4)


LOSSES = dict(
    labels=dict(type='mmdet.FocalLoss', use_sigmoid=True, loss_weight=0.7),
    pairs=dict(type='mmdet.QualityFocalLoss', use_sigmoid=True, loss_weight=0.7),
    scores=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=0.7),
    objectness=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=0.7),
)


@pytest.mark.parametrize('avg_factor', [None, 7.0])
@pytest.mark.parametrize(
    'options', [{}, dict(focal=True), dict(normalizer='positives'), dict(normalizer='hard')], ids=str
)
@pytest.mark.parametrize('kind', LOSSES)
def test_the_penalty_is_that_of_the_background_rows(kind, options, avg_factor):
    pred, target, weight = targets_of(kind)
    loss = wrapped(LOSSES[kind], lambda_bg=2.0, bg_penalty=options)
    expected = loss.loss(pred, target, weight, avg_factor=avg_factor)
    assert expected.dim() == 0
    rows = torch.tensor(naive_background(pred, target, weight))
    assert 3 < len(rows) < 60
    labels = target[0] if isinstance(target, tuple) else target
    positives = target[1].sum() if kind == 'pairs' else (labels < 3).sum() if kind == 'labels' else target.sum()
    divisor = positives if avg_factor is None else torch.tensor(avg_factor)
    mask = torch.ones(len(rows), dtype=torch.bool)
    penalty = background_penalty(rows, mask, lambda_bg=2.0 * 0.7, positives=divisor, **options)
    found = loss(pred, target, weight, avg_factor=avg_factor)
    torch.testing.assert_close(found, expected + penalty)
    torch.testing.assert_close(loss.latest_penalty, penalty)
    assert loss.get_bg_penalty_stats()['num'] == len(rows)


@pytest.mark.parametrize('reduction', ['none', 'sum'])
def test_a_loss_that_is_no_mean_is_multiplied_by_the_sum_of_the_targets(reduction):
    """The head divides by it."""
    pred, target, weight = targets_of('scores')
    loss = wrapped(dict(BCE, reduction=reduction), lambda_bg=2.0)
    found, plain = loss(pred, target, weight), loss.loss(pred, target, weight)
    assert found.shape == plain.shape
    rows = torch.tensor(naive_background(pred, target, weight))
    penalty = background_penalty(rows, torch.ones(len(rows), dtype=torch.bool), lambda_bg=2.0 * 0.5)
    assert target.sum() > 1
    torch.testing.assert_close((found - plain).sum() / target.sum(), penalty)


def test_statistics_are_over_all_calls_since_lambda_was_set():
    loss = wrapped(LOSSES['labels'])
    assert loss.get_bg_penalty_stats() == dict(mean=0.0, max=0.0, min=0.0, num=0)
    labels = torch.tensor([3, 3, 0])
    for high in (1.0, 2.0):
        loss(torch.tensor([[high, -1, -1], [-2, -3, 0], [9, 9, 9]]), labels)
    scores = torch.tensor([1.0, 0, 2, 0]).sigmoid()
    expected = dict(mean=float(scores.mean()), max=float(scores.max()), min=0.5, num=4)
    assert loss.get_bg_penalty_stats() == pytest.approx(expected)
    loss(torch.full((2, 3), 9.0), torch.tensor([0, 1]))  # without background
    assert loss.get_bg_penalty_stats() == pytest.approx(expected)
    assert loss._statistics.shape == (4,)  # it does not grow in a run that never sets λ
    before = loss.latest_penalty
    loss.lambda_bg = 1.0
    assert before > 0 and loss.latest_penalty is None and loss.get_bg_penalty_stats()['num'] == 0


# Bad input


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(lambda_bg=-1), '`lambda_bg`'),
        (dict(bg_penalty=dict(region='outside')), '`bg_penalty`.*region'),
        (dict(bg_penalty=dict(normalizer='all')), "got 'all'"),
        (dict(gamma=3.0), 'Expected `gamma` of BackgroundPenaltyLoss to be that of `loss`, None, but got 3.0'),
        (dict(loss=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False), use_sigmoid=False), 'use_sigmoid=True'),
    ],
)
def test_bad_options_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(dict(type='BackgroundPenaltyLoss', loss=BCE, use_sigmoid=True), **kwargs))


def test_heads_read_use_sigmoid_beside_the_loss():
    with pytest.raises(ValueError, match='also beside `loss`'):
        MODELS.build(dict(type='BackgroundPenaltyLoss', loss=BCE))


def test_targets_that_do_not_fit():
    with pytest.raises(ValueError, match=r'got a target of shape \(5,\)'):
        logits_and_background(torch.zeros(4, 3), torch.zeros(5))


def test_losses_with_fewer_arguments_can_be_wrapped():
    """GHMC has no `avg_factor`."""
    ghm = dict(type='mmdet.GHMC', bins=10, use_sigmoid=True)
    pred, labels, _ = targets_of('labels')
    weight = torch.ones(24)
    plain = MODELS.build(ghm)(pred, labels, weight)
    assert torch.equal(wrapped(ghm, lambda_bg=0.0)(pred, labels, weight), plain)
    assert wrapped(ghm, lambda_bg=1.0)(pred, labels, weight) > plain


# Real heads


def head_of(name, **penalty):
    """A head of a shipped config, the features of two images of 128 x 128 pixels, and its loss."""
    scope, _, loss = HEADS[name]
    cfg = model_cfg(name, **penalty)
    head = cfg.bbox_head
    head.update(train_cfg=cfg.train_cfg, test_cfg=cfg.get('test_cfg'))
    torch.manual_seed(0)
    built = build_part(head, scope).train()
    node = head.get('head_module', head)
    channels = node.in_channels
    if scope == MMYOLO:
        widths = channels if isinstance(channels, (list, tuple)) else [channels] * 3
        channels = [int(width * node.get('widen_factor', 1.0)) for width in widths]
        channels = [-(-width // 8) * 8 for width in channels] if name != 'YOLOv7' else channels
    else:
        channels = [channels] * len(built.prior_generator.strides)
    strides = [stride[0] if isinstance(stride, tuple) else stride for stride in built.prior_generator.strides]
    random = torch.Generator().manual_seed(1)
    feats = [torch.randn(2, width, -(-128 // s), -(-128 // s), generator=random) for width, s in zip(channels, strides)]
    return built, feats, getattr(built, loss)


BOXES = ([[8.0, 8, 72, 72], [30, 4, 120, 60]], [1, 2]), ([[20.0, 24, 100, 110]], [0])


def run(name, **penalty):
    """The sum of the losses, the gradients, the loss module, and what it was given."""
    head, feats, loss = head_of(name, **penalty)
    calls = []
    loss.register_forward_pre_hook(lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    meta = dict.fromkeys(('img_shape', 'pad_shape', 'batch_input_shape'), (128, 128))
    samples = batch('fast' if HEADS[name][0] == MMYOLO else 'list', BOXES, metas=[meta] * 2)
    for sample in samples if isinstance(samples, list) else ():
        del sample.ignored_instances
    losses = head.loss(tuple(feats), samples)
    total = sum(
        sum(value) if isinstance(value, list) else value.sum() for key, value in losses.items() if 'loss' in key
    )
    for args, _ in calls:
        args[0].retain_grad()
    total.backward()
    gradients = {key: parameter.grad for key, parameter in head.named_parameters() if parameter.grad is not None}
    return total.detach(), gradients, loss, calls


def naive_penalty(loss, pred, target, weight=None, avg_factor=None, **kwargs):
    """The focal penalty of one call, row by row, and the rows."""
    weight = torch.ones_like(pred) if weight is None else weight
    rows = naive_background(pred, target, weight)
    scores = [1 / (1 + math.exp(-max(row))) for row in rows]
    mean = sum(-(score**2) * math.log(1 - score) for score in scores) / max(len(scores), 1)
    labels, values = target if isinstance(target, (tuple, list)) else (target, target)
    positives = float(
        values[labels != pred.shape[-1]].sum() if labels is not values else (labels != pred.shape[-1]).sum()
    )
    if labels.is_floating_point():
        positives = float(labels.sum())
    divides = loss.loss.reduction == 'mean'
    return loss.loss.loss_weight * mean * (1 if divides else max(positives, 1)), rows


@pytest.mark.parametrize('name', HEADS)
def test_heads_train_with_the_penalty(name, monkeypatch):
    """λ = 0 changes nothing, bit for bit. λ = 1 adds the penalty of what the loss was given."""
    # TOOD, YOLOv6 and PP-YOLOE begin with another assigner.
    monkeypatch.setitem(MessageHub.get_current_instance().runtime_info, 'epoch', 999)
    plain, gradients, *_ = run(name)
    same, found, loss, without = run(name, lambda_bg=0.0)
    assert isinstance(loss, BackgroundPenaltyLoss)
    assert torch.equal(same, plain) and found.keys() == gradients.keys()
    assert all(torch.equal(found[key], value) for key, value in gradients.items())
    more, found, loss, calls = run(name, lambda_bg=1.0, bg_penalty=dict(focal=True))
    stats = loss.get_bg_penalty_stats()
    assert more.isfinite() and more > plain and stats['num'] > 50 and 0 < stats['mean'] < 0.9
    assert any(not torch.equal(found[key], value) for key, value in gradients.items())
    penalties, rows = zip(*(naive_penalty(loss, *args, **kwargs) for args, kwargs in calls))
    assert float(loss.latest_penalty) == pytest.approx(sum(penalties), rel=1e-4)
    assert stats['num'] == sum(map(len, rows))
    for (args, kwargs), (before, _) in zip(calls, without, strict=True):
        pushed = args[0].grad - before[0].grad
        weight = args[2] if len(args) > 2 else kwargs.get('weight')
        _, background = logits_and_background(args[0], args[1], weight)
        pushed = pushed if pushed.dim() == 4 else pushed.amax(-1)
        # The gradient of the focal penalty vanishes only at scores of 0.
        assert (pushed[background] > 0).float().mean() > 0.95
