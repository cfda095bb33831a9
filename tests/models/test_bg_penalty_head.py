"""BgPenaltyYOLOv8Head: the penalty, what is background, and the options."""

import math

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes

from tests.helpers.heads import (
    GRIDS,
    NO_OBJECTS,
    OBJECTS,
    PENALTIES,
    PRIORS,
    SIZE,
    batch,
    both_paths,
    build,
    features,
    foreground,
    gradient_reaches,
    in_boxes,
    losses_and_gradients,
    losses_of,
)


@both_paths
@pytest.mark.parametrize('objects', [OBJECTS, (OBJECTS[0], NO_OBJECTS[0]), NO_OBJECTS], ids=['all', 'one', 'none'])
def test_lambda_0_is_yolov8_bit_for_bit(path, objects):
    expected, expected_gradients = losses_and_gradients(build('YOLOv8Head'), batch(path, objects))
    losses, gradients = losses_and_gradients(build(bg_penalty={'lambda_bg': 0, 'focal': True}), batch(path, objects))
    assert losses.pop('loss_bg').item() == 0
    for found, values in ((losses, expected), (gradients, expected_gradients)):
        assert found.keys() == values.keys()
        for name, value in values.items():
            assert found[name] is value is None or torch.equal(found[name], value), name


LARGE = [([[2.0, 2, 62, 46], [8, 8, 40, 40], [20, 20, 60, 40]], [1, 2, 0])] * 2


def outs_for_large(head):
    """All priors predict the box of the first object, so that the sum of the assigned scores is above 1."""
    cls_scores, _, distances = head(features())
    sides = np.concatenate([PRIORS - 2, (62, 46) - PRIORS], 1) / np.repeat([8, 16, 32], [64, 16, 4])[:, None]
    levels = torch.from_numpy(sides.T).float().split([64, 16, 4], 1)
    boxes = [level.reshape(1, 4, n, n).repeat(2, 1, 1, 1) for level, n in zip(levels, GRIDS)]
    return cls_scores, boxes, distances


@pytest.mark.parametrize('world_size', [1, 3])
@pytest.mark.parametrize('penalty', [*PENALTIES, {'focal': True, 'gamma': 1.7}], ids=str)
@both_paths
def test_loss_bg_equals_the_naive_sum(path, penalty, world_size, monkeypatch):
    """The other losses are those of YOLOv8Head."""
    monkeypatch.setattr('mmyolo_bgpenalty.models.bg_penalty_head.get_world_size', lambda: world_size)
    head, assigned = build(bg_penalty={'lambda_bg': 1.5, **penalty}), {}
    head.assigner.register_forward_hook(lambda module, args, output: assigned.update(output))
    outs = outs_for_large(head)
    losses = losses_of(head, outs, batch(path, LARGE))
    loss = losses.pop('loss_bg')
    theirs = losses_of(build('YOLOv8Head'), outs, batch(path, LARGE))
    assert losses.keys() == theirs.keys() and all(torch.equal(losses[name], value) for name, value in theirs.items())
    background = ~foreground(head, outs, LARGE).numpy()
    if penalty.get('region') == 'outside':
        background &= ~np.stack([in_boxes(PRIORS, boxes) for boxes, _ in LARGE])
    scores = np.concatenate([level.detach().double().sigmoid().amax(1).flatten(1).numpy() for level in outs[0]], 1)
    p = scores[background]
    assert 0 < len(p) < 2 * len(PRIORS) - 20
    stats = head.get_bg_penalty_stats()
    assert stats == pytest.approx(dict(mean=p.mean(), max=p.max(), min=p.min(), num=len(p)), rel=1e-5)
    assert {name: type(value) for name, value in stats.items()} == dict(mean=float, max=float, min=float, num=int)
    number = len(p)
    if penalty.get('normalizer') == 'hard':
        p = p[p > penalty['hard_score']]
        assert 0 < len(p) < number
        number = len(p)
    elif penalty.get('normalizer') == 'positives':
        number = assigned['assigned_scores'].sum().item()
        assert number > 1
    terms = p ** penalty.get('gamma', 2) * -np.log(1 - p) if penalty.get('focal') else p
    loss_weight, images = 0.5, 2
    assert loss.item() == pytest.approx(loss_weight * images * world_size * 1.5 * terms.sum() / number, rel=1e-5)


@both_paths
def test_a_batch_without_objects(path):
    """Without objects MMYOLO's assigner returns a mask of floats."""
    head = build()
    losses, gradients = losses_and_gradients(head, batch(path, NO_OBJECTS))
    assert head.get_bg_penalty_stats()['num'] == 2 * len(PRIORS)
    assert all(loss.isfinite() for loss in losses.values()) and losses['loss_bg'] > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)
    assert penalised(head, batch(path, NO_OBJECTS)).all()


def test_foreground_of_score_0_is_no_background():
    """Predicted boxes without area overlap nothing, so all targets are 0. Priors are assigned nevertheless."""
    head = build()
    objects = [([[0.0, 0, SIZE, SIZE]], [1])] * 2
    cls_scores, boxes, distances = head(features())
    seen = {}
    head.assigner.register_forward_hook(lambda module, args, output: seen.update(output))
    losses_of(head, (cls_scores, [torch.zeros_like(level) for level in boxes], distances), batch('list', objects))
    fg = seen['fg_mask_pre_prior']
    assert fg.sum() > 0 and seen['assigned_scores'][fg].max() == 0
    assert head.get_bg_penalty_stats()['num'] == 2 * len(PRIORS) - fg.sum()


def penalised(head, data):
    """(images, 84), bool: where ``loss_bg`` has a gradient."""
    return gradient_reaches(head, head(features()), data, 'loss_bg').any(-1)


IGNORED = [[0.0, 0, 30, 20], [40, 40, 64, 64]]


@pytest.mark.parametrize('kind', [torch.tensor, HorizontalBoxes], ids=['tensor', 'boxes'])
@both_paths
def test_ignored_objects_are_no_background(path, kind):
    head = build()
    ignored = [kind(IGNORED), kind(torch.zeros(0, 4).numpy())]
    expected = ~foreground(head, head(features())).numpy()
    expected[0] &= ~in_boxes(PRIORS, IGNORED)
    assert (penalised(head, batch(path, ignored=ignored)).numpy() == expected).all()
    assert head.get_bg_penalty_stats()['num'] == expected.sum()


def test_samples_without_ignored_instances():
    """A dataset without crowds may give such samples."""
    head = build()
    samples = batch('list')
    expected = head.loss(features(), samples)['loss_bg']
    del samples[1].ignored_instances
    assert torch.equal(head.loss(features(), samples)['loss_bg'], expected)
    del samples[0].ignored_instances
    assert torch.equal(head.loss(features(), samples)['loss_bg'], expected)


LETTERBOX = np.array([[0.5, 0, 0], [0, 0.5, 16], [0, 0, 1]], dtype=np.float32)
TURN = np.array([[0.3, -0.2, 30], [0.2, 0.3, 4], [0, 0, 1]], dtype=np.float32)
TILES = np.array([[10, 20, 64, 64], [64, 8, 100, 64], [30, 64, 64, 90], [64, 64, 120, 128]], dtype=np.float32)
METAS = {  # meta of an image, and boxes of all that is not padding (with a homography: in pixels before it)
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
def test_padding_is_no_background(path, names):
    head = build()
    expected = ~foreground(head, head(features())).numpy() & [on_picture(name) for name in names]
    found = penalised(head, batch(path, metas=[METAS[name][0] for name in names]))
    assert (found.numpy() == expected).all()
    assert all(on_picture(name).all() or 0.1 < on_picture(name).mean() < 0.9 for name in names)


def test_lambda_can_be_set():
    assert build().lambda_bg == 1
    head = build(bg_penalty={'lambda_bg': 2, 'focal': True})
    assert head.get_bg_penalty_stats() == dict(mean=0, max=0, min=0, num=0)
    assert head.lambda_bg == 2 and type(head.lambda_bg) is float
    two = head.loss(features(), batch('fast'))['loss_bg']
    head.lambda_bg = 0.5
    torch.testing.assert_close(head.loss(features(), batch('fast'))['loss_bg'], two / 4)
    head.lambda_bg = 0
    cls_scores, *boxes = head(features())
    infinite = [torch.full_like(level, math.inf) for level in cls_scores]  # 0 · inf would be NaN
    off = losses_of(head, (infinite, *boxes), batch('fast', NO_OBJECTS))['loss_bg']
    assert off.item() == 0 and not off.requires_grad and head.get_bg_penalty_stats()['num'] > 0


@pytest.mark.parametrize('bad', [-1, math.nan, math.inf, None, 'a', True], ids=repr)
def test_bad_lambda_is_named(bad):
    head = build(bg_penalty={'lambda_bg': 0.7})
    with pytest.raises(ValueError, match='`lambda_bg`') as error:
        head.lambda_bg = bad
    assert repr(bad) in str(error.value) and head.lambda_bg == 0.7
    with pytest.raises(ValueError, match='`lambda_bg`'):
        build(bg_penalty={'lambda_bg': bad})


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="lambda_bg, focal, .*, but got .'lamda_bg', 'rank'."):
        build(bg_penalty={'lamda_bg': 1, 'rank': True})
    with pytest.raises(ValueError, match='`gamma`'):
        build(bg_penalty={'gamma': -1})


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
