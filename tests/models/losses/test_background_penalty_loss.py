"""BackgroundPenaltyLoss around the losses of the dense heads of MMDetection and MMYOLO."""

import copy
from inspect import signature
from pathlib import Path

import mmdet
import mmyolo
import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmyolo.registry import MODELS

from mmyolo_bgpenalty import BackgroundPenaltyLoss, background_penalty
from mmyolo_bgpenalty.models.losses.background_penalty_loss import logits_and_background
from tests.helpers.heads import NO_OBJECTS, OBJECTS, PENALTIES, batch, build, losses_and_gradients

BCE = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='none', loss_weight=0.5)
MMDET, MMYOLO = (Path(package.__file__).parent / '.mim/configs' for package in (mmdet, mmyolo))
# Head -> config file, the loss that gets the penalty, and how often the head calls it
HEADS = {
    'RetinaNet': (MMDET, 'retinanet/retinanet_r18_fpn_1x_coco.py', 'loss_cls'),
    'FCOS': (MMDET, 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 'loss_cls'),
    'ATSS': (MMDET, 'atss/atss_r50_fpn_1x_coco.py', 'loss_cls'),
    'GFL': (MMDET, 'gfl/gfl_r50_fpn_1x_coco.py', 'loss_cls'),
    'TOOD': (MMDET, 'tood/tood_r50_fpn_1x_coco.py', 'loss_cls'),
    'RTMDet of MMDetection': (MMDET, 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'loss_cls'),
    'YOLOX of MMDetection': (MMDET, 'yolox/yolox_tiny_8xb8-300e_coco.py', 'loss_obj'),
    'RTMDet': (MMYOLO, 'rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_coco.py', 'loss_cls'),
    'YOLOv5': (MMYOLO, 'yolov5/yolov5_n-v61_syncbn_fast_8xb16-300e_coco.py', 'loss_obj'),
    'YOLOv6': (MMYOLO, 'yolov6/yolov6_n_syncbn_fast_8xb32-300e_coco.py', 'loss_cls'),
    'YOLOv7': (MMYOLO, 'yolov7/yolov7_tiny_syncbn_fast_8x16b-300e_coco.py', 'loss_obj'),
    'YOLOv8': (MMYOLO, 'yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py', 'loss_cls'),
    'YOLOX': (MMYOLO, 'yolox/yolox_tiny_fast_8xb8-300e_coco.py', 'loss_obj'),
    'PP-YOLOE': (MMYOLO, 'ppyoloe/ppyoloe_s_fast_8xb32-300e_coco.py', 'loss_cls'),
}


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


# Real heads


def head_of(name, **penalty):
    """A head of a shipped config with 3 classes, the features of two images of 128 x 128 pixels, and its loss."""
    root, file, loss = HEADS[name]
    with DefaultScope.overwrite_default_scope('mmdet' if root == MMDET else 'mmyolo'):
        cfg = Config.fromfile(root / file).model
        head = cfg.bbox_head
        node = head.get('head_module', head)
        node.num_classes = 3
        train_cfg = copy.deepcopy(cfg.get('train_cfg') or ConfigDict())
        for assigner in (train_cfg, train_cfg.get('assigner', {}), train_cfg.get('initial_assigner', {})):
            if 'num_classes' in assigner:
                assigner.num_classes = 3
        head.update(train_cfg=train_cfg, test_cfg=cfg.get('test_cfg'))
        if penalty:
            # The config of YOLOv6 leaves `loss_cls` to the default of the head.
            own = copy.deepcopy(head.get(loss) or signature(MODELS.get(head.type)).parameters[loss].default)
            head[loss] = dict(own, type='BackgroundPenaltyLoss' if root == MMYOLO else 'mmyolo.BackgroundPenaltyLoss')
            head[loss].update(loss=own, **penalty)
        torch.manual_seed(0)
        built = (MODELS if root == MMYOLO else MMDET_MODELS).build(head)
    built.train()
    channels = node.in_channels
    if root == MMYOLO:
        widths = channels if isinstance(channels, (list, tuple)) else [channels] * 3
        channels = [int(width * node.get('widen_factor', 1.0)) for width in widths]
        channels = [-(-width // 8) * 8 for width in channels] if name != 'YOLOv7' else channels
    else:
        generator = built.prior_generator
        channels = [channels] * len(generator.strides)
    strides = [stride[0] if isinstance(stride, tuple) else stride for stride in built.prior_generator.strides]
    random = torch.Generator().manual_seed(1)
    feats = [torch.randn(2, width, -(-128 // s), -(-128 // s), generator=random) for width, s in zip(channels, strides)]
    return built, feats, getattr(built, loss)


BOXES = ([[8.0, 8, 72, 72], [30, 4, 120, 60]], [1, 2]), ([[20.0, 24, 100, 110]], [0])


def run(name, **penalty):
    head, feats, loss = head_of(name, **penalty)
    meta = dict.fromkeys(('img_shape', 'pad_shape', 'batch_input_shape'), (128, 128))
    samples = batch('fast' if HEADS[name][0] == MMYOLO else 'list', BOXES, metas=[meta] * 2)
    for sample in samples if isinstance(samples, list) else ():
        del sample.ignored_instances
    losses = head.loss(tuple(feats), samples)
    total = sum(
        sum(value) if isinstance(value, list) else value.sum() for key, value in losses.items() if 'loss' in key
    )
    total.backward()
    gradients = {key: parameter.grad for key, parameter in head.named_parameters() if parameter.grad is not None}
    return total.detach(), gradients, loss


@pytest.mark.parametrize('name', HEADS)
def test_heads_train_with_the_penalty(name, monkeypatch):
    """λ = 0 changes nothing, bit for bit. λ = 1 adds the penalty."""
    # TOOD, YOLOv6 and PP-YOLOE begin with another assigner.
    monkeypatch.setitem(MessageHub.get_current_instance().runtime_info, 'epoch', 99)
    plain, gradients, _ = run(name)
    same, found, loss = run(name, lambda_bg=0.0)
    assert isinstance(loss, BackgroundPenaltyLoss)
    assert torch.equal(same, plain) and found.keys() == gradients.keys()
    assert all(torch.equal(found[key], value) for key, value in gradients.items())
    more, found, loss = run(name, lambda_bg=1.0, bg_penalty=dict(focal=True))
    stats = loss.get_bg_penalty_stats()
    assert more > plain and loss.latest_penalty > 0 and stats['num'] > 50 and 0 < stats['mean'] < 0.9
    assert any(not torch.equal(found[key], value) for key, value in gradients.items())
