"""The head on a 64 x 64 input: 84 priors of strides 8, 16 and 32."""

import math

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS
from torch import nn

from tests.helpers.heads import head_cfg

SIZE, GRIDS = 64, (8, 4, 2)
PRIORS = np.array([((x + 0.5) * SIZE / n, (y + 0.5) * SIZE / n) for n in GRIDS for y in range(n) for x in range(n)])
OBJECTS = (  # of two images: boxes, labels
    ([[8.0, 8, 40, 40], [30, 4, 60, 28]], [1, 2]),
    ([[20.0, 24, 52, 62]], [0]),
)
NO_OBJECTS = (([], []), ([], []))
both_paths = pytest.mark.parametrize('path', ['list', 'fast'])


def build(type='BgPenaltyYOLOv8Head', seed=0, **kwargs):
    """A head with random weights whose classification is neither sure of nor blind to anything."""
    torch.manual_seed(seed)
    head = MODELS.build(head_cfg(type, **kwargs))
    for predictor in head.head_module.cls_preds:
        nn.init.normal_(predictor[-1].weight, std=0.3)
        nn.init.constant_(predictor[-1].bias, -2)
    return head


def features():
    """The same at every call."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 16, n, n, generator=generator).requires_grad_() for n in GRIDS]


def batch(path, objects=OBJECTS, metas=None, ignored=None, dtype=torch.float32):
    """Data samples as mmdet's pre-processor hands them over (list) or as MMYOLO's does (fast)."""
    metas = metas or [{} for _ in objects]
    if path == 'fast':
        rows = [[i, label, *box] for i, (boxes, labels) in enumerate(objects) for box, label in zip(boxes, labels)]
        if ignored:
            metas = [{**meta, 'ignored_bboxes': boxes} for meta, boxes in zip(metas, ignored)]
        return {'bboxes_labels': torch.tensor(rows).float().reshape(-1, 6), 'img_metas': metas}
    samples = []
    for i, (boxes, labels) in enumerate(objects):
        sample = DetDataSample(metainfo=metas[i])
        boxes = torch.tensor(boxes, dtype=dtype).reshape(-1, 4)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(labels, dtype=torch.long))
        sample.ignored_instances = InstanceData(bboxes=ignored[i]) if ignored else InstanceData()
        samples.append(sample)
    return samples


def losses_and_gradients(head, data):
    """Losses, and the gradients of their sum to the features and to all parameters."""
    feats = features()
    losses = head.loss(feats, data)
    sum(losses.values()).backward()
    gradients = {f'feature {i}': feat.grad for i, feat in enumerate(feats)}
    return losses, {**gradients, **{name: p.grad for name, p in head.named_parameters()}}


def losses_of(head, outs, data):
    """Losses, had the network predicted ``outs``."""
    head.forward = lambda x: outs
    try:
        return head.loss(None, data)
    finally:
        del head.forward


def penalised(head, data):
    """(images, 84): where loss_bg has a gradient to the logits."""
    outs = head(features())
    logits = [level.detach().requires_grad_() for level in outs[0]]
    losses_of(head, (logits, *outs[1:]), data)['loss_bg'].backward()
    return torch.cat([level.grad.abs().amax(1).flatten(1) for level in logits], 1) > 0


def foreground(head, outs, objects=OBJECTS):
    """(images, 84), by an assigner called outside the loss."""
    most = max(len(boxes) for boxes, _ in objects)
    targets = torch.zeros(len(objects), most, 6)
    for row, (boxes, labels) in zip(targets, objects):
        row[: len(boxes), :4], row[: len(boxes), 4], row[: len(boxes), 5] = (
            *map(torch.tensor, (boxes, labels)),
            1,
        )
    strides = torch.tensor([SIZE / n for n in GRIDS for _ in range(n * n)])
    priors = torch.cat([torch.from_numpy(PRIORS).float(), strides[:, None], strides[:, None]], 1)
    scores, distances = (torch.cat([level.flatten(2) for level in out], 2).mT.detach() for out in outs[:2])
    distances = distances * strides[:, None]
    boxes = torch.cat([priors[:, :2] - distances[..., :2], priors[:, :2] + distances[..., 2:]], -1)
    found = head.assigner(boxes, scores.sigmoid(), priors, targets[..., 4:5], targets[..., :4], targets[..., 5:])
    return found['fg_mask_pre_prior'].bool()


def in_boxes(points, boxes):
    x, y = np.asarray(points).T[..., None]
    x1, y1, x2, y2 = np.asarray(boxes).T
    return ((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)).any(1)


@both_paths
@pytest.mark.parametrize('objects', [OBJECTS, (*OBJECTS[:1], NO_OBJECTS[0]), NO_OBJECTS], ids=['all', 'one', 'none'])
def test_lambda_0_is_yolov8_bit_for_bit(path, objects):
    parent, head = build('YOLOv8Head'), build(bg_penalty={'lambda_bg': 0, 'focal': True})
    expected, expected_gradients = losses_and_gradients(parent, batch(path, objects))
    losses, gradients = losses_and_gradients(head, batch(path, objects))
    assert losses.pop('loss_bg').item() == 0
    for name, loss in expected.items():
        assert torch.equal(losses[name], loss), name
    assert losses.keys() == expected.keys() and gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        same = gradients[name] is gradient is None or torch.equal(gradients[name], gradient)
        assert same, name


@both_paths
@pytest.mark.parametrize('focal', [False, True])
def test_the_other_losses_are_yolov8s(path, focal):
    expected = build('YOLOv8Head').loss(features(), batch(path))
    losses = build(bg_penalty={'lambda_bg': 3.0, 'focal': focal}).loss(features(), batch(path))
    assert all(torch.equal(losses[name], loss) for name, loss in expected.items())
    assert losses['loss_bg'].item() > 0.01


@pytest.mark.parametrize('world_size', [1, 3])
@pytest.mark.parametrize('focal', [False, True])
@both_paths
def test_loss_bg_is_the_naive_sum(path, focal, world_size, monkeypatch):
    monkeypatch.setattr('mmyolo_bgpenalty.models.bg_penalty_head.get_world_size', lambda: world_size)
    head = build(bg_penalty={'lambda_bg': 1.5, 'focal': focal, 'gamma': 1.7})
    loss = head.loss(features(), batch(path))['loss_bg']
    outs = head(features())
    fg = foreground(head, outs)
    assert 10 < fg.sum() < 30
    terms = []
    for i in range(2):
        logits = np.concatenate([level[i].detach().double().flatten(1).numpy() for level in outs[0]], 1)
        for n in range(len(PRIORS)):
            p = max(1 / (1 + math.exp(-z)) for z in logits[:, n])
            if not fg[i, n]:
                terms.append(p**1.7 * -math.log(1 - p) if focal else p)
    loss_weight, images = 0.5, 2
    expected = loss_weight * images * world_size * 1.5 * sum(terms) / len(terms)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    stats = head.get_bg_penalty_stats()
    assert stats['num'] == len(terms)
    if not focal:
        assert stats['mean'] == pytest.approx(np.mean(terms), rel=1e-5)
        assert (stats['max'], stats['min']) == pytest.approx((max(terms), min(terms)), rel=1e-5)


@both_paths
def test_background_is_what_is_not_foreground(path):
    head = build()
    assert torch.equal(penalised(head, batch(path)), ~foreground(head, head(features())))


def test_trap_20_lambda_is_not_in_the_state_dict():
    head = build()
    assert head.state_dict().keys() == build('YOLOv8Head').state_dict().keys()
    head.load_state_dict(build('YOLOv8Head', seed=1).state_dict(), strict=True)


@both_paths
def test_trap_21_no_object_at_all(path):
    """The assigner returns a float mask then."""
    head = build()
    losses, gradients = losses_and_gradients(head, batch(path, NO_OBJECTS))
    assert head.get_bg_penalty_stats()['num'] == 2 * len(PRIORS)
    assert all(loss.isfinite() for loss in losses.values()) and losses['loss_bg'] > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)
    assert penalised(head, batch(path, NO_OBJECTS)).all()


def test_trap_22_foreground_of_score_0_is_no_background():
    """Predicted boxes of no area overlap nothing, so all targets are 0; priors are assigned all the same."""
    head = build()
    objects = [([[0.0, 0, SIZE, SIZE]], [1])] * 2
    cls_scores, boxes, distances = head(features())
    seen = {}
    head.assigner.register_forward_hook(lambda module, args, output: seen.update(output))
    losses_of(head, (cls_scores, [torch.zeros_like(level) for level in boxes], distances), batch('list', objects))
    fg = seen['fg_mask_pre_prior']
    assert fg.sum() > 0 and seen['assigned_scores'][fg].max() == 0
    assert head.get_bg_penalty_stats()['num'] == 2 * len(PRIORS) - fg.sum()


@both_paths
def test_trap_23_a_duplicated_batch_leaves_the_ratio_to_loss_cls(path, monkeypatch):
    """As does the number of processes."""
    head = build()
    objects = [([[2.0, 2, 62, 62], [8, 8, 40, 40], [20, 20, 60, 50]], [1, 2, 0])] * 2
    cls_scores, _, distances = head(features())
    # All predict the first object, so that the scores add up to more than 1, where MMYOLO clamps their sum.
    sides = np.concatenate([PRIORS - 2, 62 - PRIORS], 1) / np.repeat([8, 16, 32], [64, 16, 4])[:, None]
    levels = torch.from_numpy(sides.T).float().split([64, 16, 4], 1)
    boxes = [level.reshape(1, 4, n, n).repeat(2, 1, 1, 1) for level, n in zip(levels, GRIDS)]

    def losses(copies, world_size=1):
        monkeypatch.setattr('mmyolo_bgpenalty.models.bg_penalty_head.get_world_size', lambda: world_size)
        monkeypatch.setattr('mmyolo.models.dense_heads.yolov8_head.get_dist_info', lambda: (0, world_size))
        outs = tuple([torch.cat([level] * copies) for level in out] for out in (cls_scores, boxes, distances))
        return losses_of(head, outs, batch(path, objects * copies))

    once, twice, three_processes = losses(1), losses(2), losses(1, world_size=3)
    assert once['loss_bg'] > 0
    for other, factor in ((twice, 2), (three_processes, 3)):
        torch.testing.assert_close(other['loss_cls'], factor * once['loss_cls'])
        torch.testing.assert_close(other['loss_bg'], factor * once['loss_bg'])


IGNORED = [[0.0, 0, 30, 20], [40, 40, 64, 64]]


@pytest.mark.parametrize('kind', [torch.tensor, HorizontalBoxes], ids=['tensor', 'boxes'])
@both_paths
def test_trap_26_ignored_objects_are_no_background(path, kind):
    head = build()
    ignored = [kind(IGNORED), kind(torch.zeros(0, 4).numpy())]
    expected = ~foreground(head, head(features())).numpy()
    expected[0] &= ~in_boxes(PRIORS, IGNORED)
    assert (penalised(head, batch(path, ignored=ignored)).numpy() == expected).all()
    assert head.get_bg_penalty_stats()['num'] == expected.sum()


def classified(head, data):
    """(images, 84, classes): where loss_cls has a gradient to the logits."""
    outs = head(features())
    logits = [level.detach().requires_grad_() for level in outs[0]]
    losses_of(head, (logits, *outs[1:]), data)['loss_cls'].backward()
    return torch.cat([level.grad.flatten(2) for level in logits], 2).transpose(1, 2) != 0


@both_paths
@pytest.mark.parametrize('labels', [None, [0, 2], [-1, 3], [1, 3]])
def test_ignored_objects_are_left_out_of_the_classification_loss(path, labels):
    """Their class, or all classes where it is not known, at the background inside; objects are learnt everywhere."""
    boxes = torch.tensor([[0.0, 30, 40, 64], [34, 0, 64, 30]])  # x = 40 is an edge with priors on it
    data = batch(path, ignored=[boxes, torch.zeros(0, 4)])
    for one, meta in zip(data if path == 'list' else data['img_metas'], range(2)):
        if labels is not None and not meta:
            if path == 'list':
                one.ignored_instances.labels = torch.tensor(labels)
            else:
                one['ignored_labels'] = torch.tensor(labels)
    head = build(assigner='SparseTaskAlignedAssigner', ignored_in_cls=True)
    found = classified(head, data)
    expected = torch.ones_like(found)
    for place, box in enumerate(boxes.numpy()):
        inside = torch.from_numpy(in_boxes(PRIORS, [box])) & ~foreground(head, head(features()))[0]
        assert inside.any()
        known = labels is not None and 0 <= labels[place] < 3
        expected[0, inside] &= torch.arange(3) != labels[place] if known else torch.zeros(3, dtype=torch.bool)
    assert torch.equal(found, expected)
    assert classified(build(assigner='SparseTaskAlignedAssigner'), data).all()


def test_leaving_ignored_objects_out_takes_sparse_targets():
    with pytest.raises(ValueError, match='Expected `sparse_targets` for `ignored_in_cls=True`.*BatchTaskAligned'):
        build(ignored_in_cls=True)
    with pytest.raises(ValueError, match='`ignored_in_cls` to be True or False, but got 1'):
        build(ignored_in_cls=1)


@pytest.mark.parametrize('sparse_targets', [False, True])
def test_the_sum_of_the_scores_is_the_assigners(sparse_targets):
    head = build(assigner='SparseTaskAlignedAssigner', sparse_targets=sparse_targets)
    with head._watch_assigner() as assigned:
        original = build('YOLOv8Head')
        original.assigner.register_forward_hook(lambda module, args, output: assigned.update(output))
        original.loss(features(), batch('list'))
    head.loss(features(), batch('list'))
    torch.testing.assert_close(head.assigned_score_sum, assigned['assigned_scores'].sum(), rtol=1e-5, atol=0)
    assert head.assigned_score_sum > 0


def test_samples_without_ignored_instances():
    """As they come from a dataset that knows of no crowds, some or all of them."""
    head = build()
    samples = batch('list')
    expected = head.loss(features(), samples)['loss_bg']
    del samples[1].ignored_instances
    assert torch.equal(head.loss(features(), samples)['loss_bg'], expected)
    del samples[0].ignored_instances
    assert torch.equal(head.loss(features(), samples)['loss_bg'], expected)


@pytest.mark.parametrize('focal', [False, True])
@both_paths
def test_everything_ignored(path, focal):
    head = build(bg_penalty={'focal': focal})
    losses, gradients = losses_and_gradients(head, batch(path, ignored=[torch.tensor([[0.0, 0, SIZE, SIZE]])] * 2))
    _, expected = losses_and_gradients(build('YOLOv8Head'), batch(path))
    assert losses['loss_bg'].item() == 0
    assert head.get_bg_penalty_stats() == {'mean': 0, 'max': 0, 'min': 0, 'num': 0}
    for name, gradient in expected.items():
        if gradient is not None:
            torch.testing.assert_close(gradients[name], gradient, msg=name)


LETTERBOX = np.array([[0.5, 0, 0], [0, 0.5, 16], [0, 0, 1]], dtype=np.float32)
TURN = np.array([[0.3, -0.2, 30], [0.2, 0.3, 4], [0, 0, 1]], dtype=np.float32)
TILES = np.array([[10, 20, 64, 64], [64, 8, 100, 64], [30, 64, 64, 90], [64, 64, 120, 128]], dtype=np.float32)
METAS = {  # meta of an image: where there is picture, in the coordinates that the matrix leads to
    'letterboxed': ({'homography_matrix': LETTERBOX, 'ori_shape': (64, 128)}, [[0, 0, 128, 64]]),
    'turned': ({'homography_matrix': TURN, 'ori_shape': (64, 128), 'img_shape': (64, 64)}, [[0, 0, 128, 64]]),
    'mosaic': ({'homography_matrix': LETTERBOX, 'ori_shape': (999, 999), 'mosaic_tiles': TILES}, TILES),
    'img_shape': ({'img_shape': (48, 40, 3)}, [[0, 0, 40, 48]]),
    'batch_input_shape': ({'batch_input_shape': (64, 64)}, [[0, 0, 64, 64]]),
    'nothing': ({}, [[0, 0, 64, 64]]),
}


def on_picture(name):
    meta, boxes = METAS[name]
    inverse = np.linalg.inv(meta.get('homography_matrix', np.eye(3)).astype(np.float64))
    points = np.concatenate([PRIORS, np.ones((len(PRIORS), 1))], 1) @ inverse.T
    return in_boxes(points[:, :2], boxes)


@pytest.mark.parametrize(
    'names',
    [*((name, name) for name in METAS), ('mosaic', 'letterboxed'), ('img_shape', 'mosaic')],
    ids='-'.join,
)
@both_paths
def test_trap_27_padding_is_no_background(path, names):
    head = build()
    expected = ~foreground(head, head(features())).numpy() & [on_picture(name) for name in names]
    found = penalised(head, batch(path, metas=[METAS[name][0] for name in names]))
    assert (found.numpy() == expected).all()


def test_the_metas_differ():
    shares = {name: on_picture(name).mean() for name in METAS}
    assert shares['nothing'] == shares['batch_input_shape'] == 1
    assert all(0.1 < shares[name] < 0.9 for name in ('letterboxed', 'turned', 'mosaic', 'img_shape'))


@pytest.mark.parametrize('focal, share', [(False, 3.35e-4), (True, 1.0)])
def test_trap_28_gradient_of_a_confident_false_positive(focal, share):
    head = build(bg_penalty={'lambda_bg': 2.0, 'focal': focal, 'gamma': 2.0})
    logits = [torch.full((2, 3, n, n), -9.0) for n in GRIDS]
    logits[0][1, 2, 7, 0] = 8.0
    logits = [level.requires_grad_() for level in logits]
    losses_of(head, (logits, *head(features())[1:]), batch('fast', NO_OBJECTS))['loss_bg'].backward()
    full = 0.5 * 2 * 2.0 / (2 * len(PRIORS))  # loss_weight · images · λ / N
    assert logits[0].grad[1, 2, 7, 0].item() == pytest.approx(share * full, rel=0.01)


@both_paths
def test_trap_29_statistics_are_no_loss(path):
    head = build()
    losses = head.loss(features(), batch(path))
    assert losses.keys() == {'loss_cls', 'loss_bbox', 'loss_dfl', 'loss_bg'}
    assert all(loss.shape == () for loss in losses.values())
    head.get_bg_penalty_stats()
    again = head.loss(features(), batch(path))
    assert all(torch.equal(again[name], loss) for name, loss in losses.items())


def test_statistics_are_python_numbers():
    head = build()
    assert head.get_bg_penalty_stats() == {'mean': 0, 'max': 0, 'min': 0, 'num': 0}
    for lambda_bg in (0, 1):
        head.lambda_bg = lambda_bg
        head.loss(features(), batch('fast'))
        stats = head.get_bg_penalty_stats()
        assert {name: type(value) for name, value in stats.items()} == dict(mean=float, max=float, min=float, num=int)
        assert 0 < stats['min'] < stats['mean'] < stats['max'] < 1
        assert stats['num'] == (~foreground(head, head(features()))).sum()


def test_lambda_can_be_set():
    head = build(bg_penalty={'lambda_bg': 2})
    assert head.lambda_bg == 2 and type(head.lambda_bg) is float
    two = head.loss(features(), batch('fast'))['loss_bg']
    head.lambda_bg = 0.5
    torch.testing.assert_close(head.loss(features(), batch('fast'))['loss_bg'], two / 4)
    head.lambda_bg = 0
    off = head.loss(features(), batch('fast'))['loss_bg']
    assert off.item() == 0 and not off.requires_grad


def test_lambda_0_is_0_whatever_the_logits():
    """0 · inf would be NaN."""
    head = build(bg_penalty={'lambda_bg': 0, 'focal': True})
    cls_scores, *boxes = head(features())
    sure = [torch.full_like(level, math.inf) for level in cls_scores]
    assert losses_of(head, (sure, *boxes), batch('fast', NO_OBJECTS))['loss_bg'].item() == 0


def test_defaults():
    assert vars(build().bg_penalty) == dict(
        lambda_bg=1.0,
        focal=False,
        gamma=2.0,
        normalizer='background',
        hard_score=0.1,
        hard_top=None,
        region='all',
        rank=False,
    )


@pytest.mark.parametrize('bad', [-1, math.nan, math.inf, None, 'a', True], ids=repr)
def test_bad_lambda_is_named(bad):
    head = build(bg_penalty={'lambda_bg': 0.7})
    with pytest.raises(ValueError, match='`lambda_bg`') as error:
        head.lambda_bg = bad
    assert repr(bad) in str(error.value) and head.lambda_bg == 0.7
    with pytest.raises(ValueError, match='`lambda_bg`'):
        build(bg_penalty={'lambda_bg': bad})


@pytest.mark.parametrize(
    'options, name',
    [
        ({'gamma': -1}, 'gamma'),
        ({'focal': 'yes'}, 'focal'),
        ({'lamda_bg': 1}, 'lamda_bg'),
        ({'normalizer': 'mean'}, 'normalizer'),
        ({'normalizer': 'hard', 'hard_score': 1.0}, 'hard_score'),
        ({'normalizer': 'hard', 'hard_top': 0}, 'hard_top'),
        ({'normalizer': 'positives', 'hard_score': 0.2}, 'hard_score'),
        ({'hard_top': 5}, 'hard_top'),
        ({'region': 'inside'}, 'region'),
        ({'rank': 1, 'normalizer': 'hard'}, 'rank'),
        ({'rank': True}, 'rank'),
        ({'rank': True, 'normalizer': 'hard', 'focal': True}, 'rank'),
        ({'rank': True, 'normalizer': 'hard'}, 'sparse_targets'),  # which MMYOLO's assigner has not
    ],
    ids=str,
)
def test_bad_options_are_named(options, name):
    with pytest.raises(ValueError, match=f"[`'']{name}[`'']"):
        build(bg_penalty=options)


@both_paths
@pytest.mark.parametrize('objects', [OBJECTS, (OBJECTS[0], NO_OBJECTS[0])], ids=['both', 'one'])
def test_outside_of_every_box(path, objects):
    head = build(bg_penalty={'region': 'outside'})
    inside = [in_boxes(PRIORS, boxes) if boxes else np.zeros(len(PRIORS), bool) for boxes, _ in objects]
    assert np.array_equal(penalised(head, batch(path, objects)), ~np.stack(inside))


@pytest.mark.parametrize('normalizer', ['background', 'positives', 'hard'])
@both_paths
def test_normalizers(path, normalizer):
    head = build(bg_penalty={'normalizer': normalizer, 'lambda_bg': 3})
    outs = head(features())
    loss = losses_of(head, outs, batch(path))['loss_bg']
    scores = torch.cat([level.sigmoid().amax(1).flatten(1) for level in outs[0]], 1)
    terms = scores[~foreground(head, outs)]
    expected = {
        'background': terms.sum() / len(terms),
        'positives': terms.sum() / head.assigned_score_sum.clamp(min=1),
        'hard': terms[terms > 0.1].mean(),
    }
    assert 0 < (terms > 0.1).sum() < len(terms)
    torch.testing.assert_close(loss, expected[normalizer] * 3 * 2 * head.loss_cls.loss_weight)


def test_no_hook_is_left_on_the_assigner():
    head = build()
    head.loss(features(), batch('fast'))
    assert not head.assigner._forward_hooks
    broken = batch('fast')
    broken['bboxes_labels'] = broken['bboxes_labels'][:, :3]
    with pytest.raises(IndexError):
        head.loss(features(), broken)
    assert not head.assigner._forward_hooks


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('focal', [False, True])
@both_paths
def test_autocast_is_finite(path, focal, dtype):
    head = build(bg_penalty={'focal': focal})
    for predictor in head.head_module.cls_preds:
        nn.init.normal_(predictor[-1].weight, std=20)
    with torch.autocast('cpu', dtype=dtype):
        assert head(features())[0][0].dtype == dtype
        losses, gradients = losses_and_gradients(head, batch(path))
    assert losses['loss_bg'].dtype == torch.float32
    assert all(loss.isfinite() for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)


@both_paths
def test_background_predictions_are_the_most_confident_ones(path):
    head = build()
    ignored = [torch.tensor([[0.0, 0, 32, 64]]), torch.zeros(0, 4)]
    data = batch(path, ignored=ignored)
    outs = head(features())
    losses_of(head, outs, data)
    background = ~foreground(head, outs)
    background[0] &= ~torch.from_numpy(in_boxes(PRIORS, ignored[0]))
    strides = np.array([SIZE / n for n in GRIDS for _ in range(n * n)])
    scores, distances = (torch.cat([level.flatten(2) for level in out], 2).mT.detach() for out in outs[:2])
    for image in (0, 1):
        confidence = scores[image].sigmoid().max(-1).values
        places = [i for i in confidence.argsort(descending=True).tolist() if background[image, i]][:7]
        found = head.background_predictions(image, 7)
        torch.testing.assert_close(found['scores'], confidence[places])
        left_top, right_bottom = np.split(distances[image, places].numpy() * strides[places, None], 2, axis=1)
        expected = np.concatenate([PRIORS[places] - left_top, PRIORS[places] + right_bottom], axis=1)
        np.testing.assert_allclose(found['bboxes'].numpy(), expected, rtol=1e-5, atol=1e-4)
    assert len(head.background_predictions(0, 10**6)['scores']) == background[0].sum()


def test_no_background_predictions_before_a_loss():
    with pytest.raises(ValueError, match='no'):
        build().background_predictions(0, 1)
