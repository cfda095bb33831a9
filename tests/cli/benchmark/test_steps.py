"""The benchmark's tasks: both sides do the same work."""

import pytest
import torch
from mmengine.config import Config

import mmyolo_bgpenalty
from mmyolo_bgpenalty.cli.benchmark.detectors import build_head, our_config, their_detector
from mmyolo_bgpenalty.cli.benchmark.loss_steps import LOSSES, LossStep, assigner_steps, disagreement
from mmyolo_bgpenalty.cli.benchmark.scenes import STRIDES, Scene, Shape
from mmyolo_bgpenalty.cli.benchmark.training_steps import semi_steps

TINY = Shape(2, 64, 96, 3, 3)


def test_our_detector_and_theirs():
    """Our detector is that of the shipped config, theirs is MMYOLO's own. Both have the same size."""
    ours = our_config(TINY, {'bbox_head.bg_penalty.focal': True}).model
    theirs = their_detector(TINY, ours)
    shipped = Config.fromfile(mmyolo_bgpenalty.config('yolov8_bgpenalty.py'))
    assert ours.train_cfg.assigner.type == shipped.model.train_cfg.assigner.type
    assert ours.bbox_head.bg_penalty == dict(lambda_bg=shipped.lambda_bg, focal=True) and shipped.lambda_bg > 0
    assert theirs.bbox_head.type == 'YOLOv8Head' and theirs.train_cfg.assigner.type == 'BatchTaskAlignedAssigner'
    assert theirs.backbone.widen_factor == ours.backbone.widen_factor
    assert {cfg.bbox_head.head_module.num_classes for cfg in (ours, theirs)} == {3}
    assert {cfg.train_cfg.assigner.num_classes for cfg in (ours, theirs)} == {3}


def test_a_scene_has_boxes_inside_the_image_and_predictions_of_each_level():
    scene = Scene(Shape(2, 64, 96, 3, 50), 'cpu')
    sides = scene.bboxes[..., 2:] - scene.bboxes[..., :2]
    assert sides.min() >= 8 and (sides <= torch.tensor([48, 32])).all()
    assert scene.bboxes.min() >= 0 and (scene.bboxes[..., 2:] <= torch.tensor([96, 64])).all()
    assert [tuple(x.shape) for x in scene.logits] == [(2, 3, 8, 12), (2, 3, 4, 6), (2, 3, 2, 3)]
    assert [tuple(x.shape) for x in scene.distributions] == [(2, 64, 8, 12), (2, 64, 4, 6), (2, 64, 2, 3)]


def test_loss_steps_agree_except_for_the_penalty():
    scene, ours = Scene(TINY, 'cpu'), our_config(TINY).model
    steps = [LossStep(build_head(cfg, 'cpu'), scene) for cfg in (ours, their_detector(TINY, ours))]
    assert disagreement(*steps) < 1e-5
    assert steps[0].losses()['loss_bg'] > 0 and set(steps[1].losses()) == set(LOSSES)
    for step in steps:
        gradients = step()
        assert len(gradients) == 2 * len(STRIDES) and all(gradient.abs().sum() > 0 for gradient in gradients)
    steps[1].head.loss_bbox.loss_weight *= 0.5
    assert disagreement(*steps) == pytest.approx(1, abs=1e-3)  # the largest relative difference of the three losses


def test_an_assigner_that_differs_is_not_timed():
    ours = our_config(TINY).model
    theirs = their_detector(TINY, ours)
    ours.train_cfg.assigner.topk = 1
    with pytest.raises(RuntimeError, match='differs from MMYOLO'):
        assigner_steps(ours, theirs, Scene(TINY, 'cpu'))


def test_semi_steps_do_the_same_work():
    """Before any update both detectors have the same losses, pseudo-labels included, except for the penalty."""
    ours, theirs = semi_steps(Shape(4, 64, 96, 3, 3), None, 'cpu')
    assert ours.pseudo_boxes() == theirs.pseudo_boxes() > 0
    before = {name: p.clone() for name, p in ours.model.student.named_parameters()}
    mine, other = ours(), theirs()
    names = [f'{branch}_{name}' for branch in ('sup', 'unsup') for name in LOSSES]
    assert {name for name in other if name != 'loss'} == set(names)
    for name in names:
        assert mine[name].item() == pytest.approx(other[name].item(), rel=1e-3), name
        assert mine[name] > 0
    assert mine['unsup_loss_bg'] > 0
    # the learning rate is 0
    assert all(torch.equal(p, before[name]) for name, p in ours.model.student.named_parameters())


def test_ours_computes_in_bf16():
    steps = semi_steps(Shape(4, 64, 96, 3, 3), None, 'cpu', (), True)
    seen = []
    for step in steps:
        step.model.student.neck.register_forward_hook(lambda module, args, outs: seen.append(outs[0].dtype))
        step()
    assert seen == [torch.bfloat16] * 2 + [torch.float32] * 2


def test_both_teachers_see_the_flipped_view():
    ours, theirs = semi_steps(Shape(4, 64, 96, 3, 3), None, 'cpu', ['horizontal'])
    seen = {name: [] for name in ('ours', 'theirs')}
    for name, step in dict(ours=ours, theirs=theirs).items():
        step.model.teacher.backbone.register_forward_pre_hook(
            lambda module, args, name=name: seen[name].extend(args[0].clone())
        )
    ours(), theirs()
    for images in seen.values():
        assert len(images) == 4  # two images and their flips
        assert all(torch.equal(images[i].flip(-1), images[2 + i]) for i in range(2))
    assert torch.equal(torch.stack(seen['ours']), torch.stack(seen['theirs']))
