"""SemiSingleStageDetector with the detectors of MMDetection and MMYOLO."""

import copy

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmyolo.registry import MODELS

from mmyolo_bgpenalty import SemiYOLODetector
from mmyolo_bgpenalty.models.semi_options import PSEUDO_TEST_CFG
from tests.helpers.other_detectors import FOLDERS, HEADS, model_cfg
from tests.helpers.semi import SHAPE, batch, teacher_finds

LEAST = 0.02


@pytest.fixture(autouse=True)
def last_epochs(monkeypatch):
    """TOOD, YOLOv6 and PP-YOLOE begin with another assigner."""
    monkeypatch.setitem(MessageHub.get_current_instance().runtime_info, 'epoch', 999)


def build(name, penalty=None, bg_branch=None, **semi_train_cfg):
    with DefaultScope.overwrite_default_scope('mmyolo'):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type='SemiSingleStageDetector',
                detector=model_cfg(name, **(penalty or {})),
                data_preprocessor=dict(
                    type='SemiDataPreprocessor', data_preprocessor=dict(type='mmdet.DetDataPreprocessor')
                ),
                semi_train_cfg=semi_train_cfg,
                bg_branch=bg_branch,
            )
        )
    assert isinstance(model, SemiYOLODetector)
    for part in (model.student, model.teacher):  # scores of untrained heads differ by far
        for module in part.bbox_head.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    return model.train()


def views(images=2):
    inputs, samples = batch(images)
    for branch in samples.values():
        for sample in branch:
            sample.set_metainfo(dict(pad_shape=SHAPE, scale_factor=(1.0, 1.0)))
            sample.ignored_instances.labels = torch.zeros(0, dtype=torch.long)
    return inputs, samples


def sums(losses):
    """Each loss, summed over the levels."""
    parts = {key: value if isinstance(value, list) else [value] for key, value in losses.items() if 'loss' in key}
    return {key: sum(part.sum() for part in value) for key, value in parts.items()}


@pytest.mark.parametrize('name', HEADS)
def test_a_detector_learns_from_its_teacher(name):
    model = build(name, penalty=dict(lambda_bg=1.0))
    boxes = [[8.0, 8, 72, 56]], [[20.0, 4, 90, 60], [2.0, 2, 30, 40]]
    teacher_finds(model, [[0.9], [0.8, 0.7]], [[2], [0, 1]], list(boxes))
    losses = model.loss(*views())
    assert losses['semi/pseudo_boxes'] == 1.5
    values = sums(losses)
    names = {key.partition('_')[2] for key in values}
    assert values.keys() == {f'{branch}_{key}' for branch in ('sup', 'unsup') for key in names}
    assert all(value > 0 for key, value in values.items() if 'centerness' not in key)
    sum(values.values()).backward()
    assert all(weight.grad is None for weight in model.teacher.parameters())
    gradients = [weight.grad for weight in model.student.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(weight.grad.abs().sum() > 0 for weight in model.student.backbone.parameters() if weight.grad is not None)


@pytest.mark.parametrize('name', HEADS)
def test_a_batch_of_images_that_are_known_to_be_empty(name):
    """All of it is background. The boxes of the teacher do not count."""
    model = build(name)
    teacher_finds(model, [[0.9], [0.8, 0.7]])
    inputs, samples = views()
    for branch in ('unsup_teacher', 'unsup_student'):
        for sample in samples[branch]:
            sample.set_metainfo(dict(known_empty=True))
    losses = sums(model.loss(inputs, samples))
    classes = [value for key, value in losses.items() if key in ('unsup_loss_cls', 'unsup_loss_obj')]
    assert sum(classes) > 0 and all(value.isfinite() for value in losses.values())
    assert losses['unsup_loss_bbox'] == 0
    sum(losses.values()).backward()


@pytest.mark.parametrize('name', ['RetinaNet', 'RTMDet', 'YOLOX'])
def test_good_parts_are_labeled_images_without_objects(name):
    inputs, samples = views()
    inputs['bg'], samples['bg'] = torch.rand(2, 3, *SHAPE), views()[1]['unsup_teacher']
    for sample in samples['bg']:
        sample.gt_instances = sample.gt_instances[:0]
    model = build(name)
    model.unsup_ramp = 0.0
    found = sums(model.loss({key: inputs[key] for key in ('sup', 'bg')}, samples))
    model = build(name)
    both = [*samples['sup'], *samples['bg']]
    expected = sums(model.loss_by_gt_instances(torch.cat([inputs['sup'], inputs['bg']]), both))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    alone = sums(build(name).loss({'sup': inputs['sup']}, samples))
    assert any(not torch.isclose(found[key], alone[key]) for key in found)


@pytest.mark.parametrize('name', HEADS)
def test_pseudo_boxes_are_the_predictions_of_the_teacher(name):
    """In the pixels of the view, with scores above the threshold."""
    model = build(name, pseudo_test_cfg=dict(score_thr=LEAST))
    inputs, samples = views()
    model.get_pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    teacher = model.teacher.eval()
    teacher.bbox_head.test_cfg = ConfigDict(PSEUDO_TEST_CFG, score_thr=LEAST)
    expected = teacher.predict(inputs['unsup_teacher'], copy.deepcopy(samples['sup']), rescale=False)
    found = [sample.gt_instances for sample in model.pseudo_labels]
    assert sum(map(len, found)) > 0
    for one, sample in zip(found, expected):
        other = sample.pred_instances
        other = other[other.scores > LEAST][: PSEUDO_TEST_CFG['max_per_img']]
        torch.testing.assert_close(one.scores, other.scores)
        inside = other.bboxes.clamp(min=0).minimum(torch.tensor([SHAPE[1], SHAPE[0]] * 2))
        torch.testing.assert_close(one.bboxes, inside)
        assert torch.equal(one.labels, other.labels) and (one.scores > LEAST).all()


@pytest.mark.parametrize('name', ['RetinaNet', 'FCOS', 'RTMDet', 'YOLOX'])
def test_a_teacher_that_looks_twice_finds_the_same_in_the_mirror(name):
    model = build(name, pseudo_test_cfg=dict(score_thr=LEAST), teacher_flips=['horizontal'])
    inputs, samples = views(1)
    picture, found = inputs['unsup_teacher'], []
    for image in (picture, picture.flip(3)):
        model.get_pseudo_instances(image, copy.deepcopy(samples['unsup_teacher']))
        found.append(model.pseudo_labels[0].gt_instances)
    straight, mirrored = found
    assert len(straight) == len(mirrored) > 0
    torch.testing.assert_close(straight.scores, mirrored.scores)
    x1, y1, x2, y2 = mirrored.bboxes.unbind(1)
    back = torch.stack([SHAPE[1] - x2, y1, SHAPE[1] - x1, y2], dim=1)
    sums = [boxes.sum(0) for boxes in (straight.bboxes, back)]  # boxes with equal scores may change places
    torch.testing.assert_close(*sums, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize('name', ['RetinaNet', 'YOLOv5', 'RTMDet'])
def test_the_weight_of_loss_bg_is_also_that_of_a_background_penalty_loss(name):
    """As in the shipped config, unlabeled images have no penalty, and labeled ones have it."""
    values = {}
    for lambda_bg, weight in ((0.0, 1.0), (0.5, 0.0), (0.5, 1.0)):
        model = build(name, penalty=dict(lambda_bg=lambda_bg), unsup_loss_weights=dict(loss_bg=weight))
        teacher_finds(model, [[0.9], [0.8]], [[2], [0]], [[[8.0, 8, 72, 56]], [[20.0, 4, 90, 60]]])
        torch.manual_seed(1)
        losses = sums(model.loss(*views()))
        values[lambda_bg, weight] = [
            sum(value for key, value in losses.items() if key.startswith(branch)) for branch in ('sup', 'unsup')
        ]
    none, labeled, both = values.values()
    assert labeled[0] > none[0] and torch.equal(labeled[1], none[1])
    assert torch.equal(both[0], labeled[0]) and both[1] > none[1]


def test_two_stage_detectors_are_refused():
    cfg = Config.fromfile(FOLDERS['mmdet'] / 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.in_channels = [64, 128, 256, 512]
    with pytest.raises(ValueError, match='single-stage.*`model.detector`, but got FasterRCNN'):
        MODELS.build(dict(type='SemiSingleStageDetector', detector=dict(cfg, _scope_='mmdet')))


def test_options_of_good_parts_are_for_yolov8():
    with pytest.raises(ValueError, match='BgPenaltyYOLOv8Head for `bg_branch`, but got RTMDetHead'):
        build('RTMDet', bg_branch=dict(loss_weights=dict(loss_bg=0.5)))


def test_heads_that_do_not_predict_by_a_cfg_are_refused():
    """CenterNet would fail when burn-in ends."""
    cfg = Config.fromfile(FOLDERS['mmdet'] / 'centernet/centernet_r18_8xb16-crop512-140e_coco.py').model
    cfg.backbone.init_cfg = None
    with pytest.raises(ValueError, match='a head that predicts with a `cfg`, but got CenterNetHead'):
        MODELS.build(dict(type='SemiSingleStageDetector', detector=dict(cfg, _scope_='mmdet')))


def test_boxes_are_decoded_in_fp32_under_autocast():
    """GFL decodes by a linear function, which autocast would compute in bf16."""
    model = build('GFL', pseudo_test_cfg=dict(score_thr=LEAST))
    inputs, _ = views(1)
    with torch.autocast('cpu', torch.bfloat16):
        outs = model._teacher_predictions(inputs['unsup_teacher'])
        (found,) = model._boxes(outs, inputs['unsup_teacher'], LEAST)
    plain = tuple([level.float() for level in levels] for levels in outs)
    (expected,) = model._boxes(plain, inputs['unsup_teacher'], LEAST)
    assert len(found) > 0 and torch.equal(found.bboxes, expected.bboxes) and found.bboxes.dtype == torch.float32
