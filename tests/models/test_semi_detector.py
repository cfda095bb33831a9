import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS

from mmyolo_bgpenalty import BurnInMeanTeacherHook
from mmyolo_bgpenalty.models.semi_detector import weigh_losses
from tests.helpers.semi import SHAPE, batch, build, sample, take_yolov8_head, teacher_sees, total
from tests.helpers.tiny import CONFIGS, SEMI, SMALL


@pytest.fixture
def model():
    return build()


def test_trap_3_labelling_leaves_the_teachers_buffers_alone(model):
    before = {name: buffer.clone() for name, buffer in model.teacher.named_buffers()}
    inputs, samples = batch()
    model.teacher.train()
    model.get_pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.teacher.named_buffers())


@pytest.mark.parametrize('ramp', [0.0, 1.0])
def test_burn_in_runs_no_teacher_and_needs_no_unlabeled_images(model, ramp):
    """A batch without unlabeled images is burn-in, too."""
    model.unsup_ramp = ramp
    model.teacher.forward = model.teacher.extract_feat = None
    inputs, samples = batch()
    losses = model.loss({'sup': inputs['sup']}, {'sup': samples['sup']})
    assert {name for name in losses if 'loss' in name} == {f'sup_loss_{n}' for n in ('cls', 'bbox', 'dfl', 'bg')}
    assert losses['semi/unsup_weight'] == losses['semi/pseudo_boxes'] == 0


def test_losses_after_burn_in(model):
    teacher_sees(model, [2, 0, 1, 1])
    losses = model.loss(*batch())
    names = {f'{branch}_loss_{n}' for branch in ('sup', 'unsup') for n in ('cls', 'bbox', 'dfl', 'bg')}
    assert {name for name in losses if 'loss' in name} == names
    assert losses['semi/pseudo_boxes'] == 1.0 and losses['semi/unsup_weight'] == 1.0
    total(losses).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad.isfinite().all() for p in model.student.parameters())


def test_weights_scale_their_branch(model):
    inputs, samples = batch()
    teacher_sees(model, [1, 1, 1, 1])
    plain = model.loss(inputs, samples)
    model.unsup_ramp = 0.5
    model.semi_train_cfg = replace(model.semi_train_cfg, unsup_weight=0.5)
    scaled = model.loss(inputs, samples)
    assert scaled['semi/unsup_weight'] == 0.25
    # BN is in train mode: the same batch gives the same losses.
    assert torch.allclose(scaled['unsup_loss_cls'], plain['unsup_loss_cls'] * 0.25)
    assert torch.allclose(scaled['sup_loss_cls'], plain['sup_loss_cls'])


def test_trap_24_one_pseudo_box_in_many_images_weighs_as_one_box(model):
    """The unlabeled loss of a single box does not grow with the number of images it is looked for in."""
    values, picture = [], torch.rand(1, 3, *SHAPE)
    for images in (1, 4):
        inputs, samples = batch(images)
        inputs['unsup_student'] = picture.expand(images, -1, -1, -1).clone()
        teacher_sees(model, [1] + [0] * (images - 1))
        losses = model.loss(inputs, samples)
        values.append({n: losses[f'unsup_loss_{n}'].item() for n in ('bbox', 'dfl', 'cls')})
    assert values[1]['bbox'] == pytest.approx(values[0]['bbox'], rel=0.05)
    assert values[1]['dfl'] == pytest.approx(values[0]['dfl'], rel=0.05)
    # Four images hold four times the background; MMYOLO's scale would make it 16 times.
    assert values[1]['cls'] < 4.5 * values[0]['cls']


def test_three_zones(model):
    """Sure: an object; unsure: neither object nor background of its class; the rest is background."""
    boxes = torch.tensor([[8.0, 8, 24, 24], [40, 8, 56, 24], [72, 8, 88, 24]])
    scores, labels = torch.tensor([0.9, 0.39, 0.1]), torch.tensor([0, 1, 2])

    def predict_by_feat(*args, batch_img_metas, cfg, **kwargs):
        kept = scores > cfg.score_thr
        return [InstanceData(bboxes=boxes[kept], labels=labels[kept], scores=scores[kept]) for _ in batch_img_metas]

    inputs, samples = batch(images=1)
    move = np.array([[1, 0, 4], [0, 1, 8], [0, 0, 1]], dtype=np.float32)
    samples['unsup_student'] = [sample(move)]
    for unsure_thr, unsure in ((None, []), (0.2, [1]), (0.05, [1, 2])):
        model = build(unsure_thr=unsure_thr)
        model.teacher.bbox_head.predict_by_feat = predict_by_feat
        given = copy.deepcopy(samples)
        assert model.loss(inputs, given)['semi/pseudo_boxes'] == 1
        strong = given['unsup_student'][0]
        shift = torch.tensor([4.0, 8, 4, 8])
        assert torch.equal(strong.gt_instances.bboxes, boxes[:1] + shift)
        assert torch.equal(strong.ignored_instances.bboxes, (boxes + shift)[unsure].reshape(-1, 4))
        if unsure:
            assert strong.ignored_instances.labels.tolist() == unsure
            assert torch.equal(model.pseudo_labels[0].ignored_instances.bboxes, boxes[unsure])


def test_what_is_unsure_is_an_object_with_soft_targets_and_no_place():
    boxes = torch.tensor([[8.0, 8, 24, 24], [40, 8, 56, 24]])
    scores, labels = torch.tensor([0.9, 0.3]), torch.tensor([0, 1])
    found = InstanceData(bboxes=boxes, labels=labels, scores=scores)
    inputs, samples = batch(images=2)
    taught = {}
    for soft in (False, True):
        model = build(unsure_thr=0.2, soft_unsure=soft)
        model.teacher.bbox_head.predict_by_feat = lambda *args, **kwargs: [copy.copy(found), found[:0]]
        head = model.student.bbox_head
        inner = head.loss_by_feat
        head.loss_by_feat = lambda *args, inner=inner: taught.setdefault(len(taught), args[3:]) and inner(*args)
        losses = model.loss(inputs, copy.deepcopy(samples))
        assert losses['semi/pseudo_boxes'] == 0.5  # the sure
        assert [len(labels.gt_instances) for labels in model.pseudo_labels] == [1, 0]
        sum(value.sum() for name, value in losses.items() if 'loss' in name).backward()
    labeled, plain, labeled_too, soft = taught.values()
    assert [len(objects) for objects in plain[0]] == [1, 0] and [len(objects) for objects in soft[0]] == [2, 0]
    assert all('score_weights' not in objects for objects in (*labeled[0], *labeled_too[0], *plain[0]))
    objects = soft[0][0]
    assert torch.equal(objects.bboxes, boxes) and objects.labels.tolist() == [0, 1]
    assert objects.score_weights.tolist() == pytest.approx([1.0, 0.3])
    assert objects.box_weights.tolist() == pytest.approx([1.0, 0.0])
    # Where it is no positive it stays what no loss is computed of.
    assert [one.labels.tolist() for one in soft[2]] == [one.labels.tolist() for one in plain[2]] == [[1], []]


def test_a_teacher_of_flips_finds_the_same_in_the_mirror():
    flips = ['horizontal', 'vertical', 'diagonal']
    one_eyed, model = build(), build(teacher_flips=flips)
    assert not one_eyed.semi_train_cfg.teacher_flips
    for parameter in one_eyed.parameters():
        parameter.data.normal_(std=0.2)
    model.load_state_dict(one_eyed.state_dict())
    inputs = torch.rand(2, 3, *SHAPE)
    for teacher in (one_eyed.teacher, model.teacher):
        teacher.eval()
    with torch.no_grad():
        views = [inputs, inputs.flip(3), inputs.flip(2), inputs.flip(2, 3)]
        probabilities = [one_eyed._teacher_predictions(view)[0][0].sigmoid() for view in views]
        expected = sum(p.flip(axes) for p, axes in zip(probabilities, [(), (3,), (2,), (2, 3)])) / 4
        scores, distances = model._teacher_predictions(inputs)
        mirrored, places = model._teacher_predictions(inputs.flip(3))
        alone = [level.flip(3) for level in one_eyed._teacher_predictions(inputs.flip(3))[0]]
    torch.testing.assert_close(scores[0].sigmoid(), expected)
    for ours, theirs, left, right in zip(scores, mirrored, distances, places):
        torch.testing.assert_close(ours, theirs.flip(3), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(left, right.flip(3)[:, [2, 1, 0, 3]], atol=1e-4, rtol=1e-4)
    assert (alone[0] - one_eyed._teacher_predictions(inputs)[0][0]).abs().max() > 0.01  # what one view alone is not


def test_single_losses_are_weighed_by_branch(model):
    inputs, samples = batch()
    teacher_sees(model, [1, 1, 1, 1])
    plain = model.loss(inputs, samples)
    model.semi_train_cfg = replace(
        model.semi_train_cfg,
        unsup_loss_weights=dict(loss_bbox=0.0, loss_dfl=0.25),
        sup_loss_weights=dict(loss_bg=3.0),
    )
    weighed = model.loss(inputs, samples)
    factors = dict(unsup_loss_bbox=0.0, unsup_loss_dfl=0.25, sup_loss_bg=3.0)
    assert plain['sup_loss_bg'] > 0
    assert weighed.keys() == plain.keys() and plain['unsup_loss_bbox'] > 0
    assert all(torch.allclose(loss, plain[name] * factors.get(name, 1.0)) for name, loss in weighed.items())


def test_a_loss_is_0_without_weight_even_if_it_is_not_finite():
    inputs, samples = batch()
    weights = dict(sup_loss_weights=dict(loss_cls=0.0), unsup_loss_weights=dict(loss_cls=0.0))
    nan = torch.full_like(inputs['sup'], torch.nan)
    for options, zero in (
        (weights, ['sup_loss_cls', 'unsup_loss_cls']),
        (dict(sup_weight=0.0, **weights), [f'sup_loss_{n}' for n in ('cls', 'bbox', 'dfl', 'bg')]),
        (dict(unsup_weight=0.0), [f'unsup_loss_{n}' for n in ('cls', 'bbox', 'dfl', 'bg')]),
    ):
        model = build(**options)
        teacher_sees(model, [1, 1, 1, 1])
        losses = model.loss(dict(inputs, sup=nan, unsup_student=nan), copy.deepcopy(samples))
        assert {losses[name].item() for name in zero} == {0.0} and all(losses[name].requires_grad for name in zero[:1])
        assert any(loss.isnan() for name, loss in losses.items() if name not in zero)


def test_losses_of_several_levels_are_weighed_one_by_one():
    losses = dict(loss_cls=[torch.tensor(2.0), torch.tensor(torch.inf)], loss_bbox=(torch.tensor(3.0),), acc=0.5)
    expected = dict(loss_cls=[1.0, torch.inf], loss_bbox=[0.0], acc=0.5)
    assert weigh_losses(losses, 0.5, dict(loss_bbox=0.0, loss_bg=7.0)) == expected
    assert weigh_losses(losses, 0.0) == dict(loss_cls=[0.0, 0.0], loss_bbox=[0.0], acc=0.5)
    assert weigh_losses(losses, 0.5, dict(loss_cls=0.5), scale=4.0)['loss_cls'][0] == 2.0


def test_a_weight_of_a_loss_that_the_head_lacks_has_no_effect():
    cfg = Config.fromfile(CONFIGS / SEMI)
    cfg.merge_from_dict(SMALL)
    take_yolov8_head(cfg)
    found, (inputs, samples) = [], batch()
    for weights in ({}, dict(loss_bg=0.0)):
        cfg.model.semi_train_cfg.update(sup_loss_weights=weights, unsup_loss_weights=weights)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).train()
        teacher_sees(model, [1, 1, 1, 1])
        found.append(model.loss(inputs, copy.deepcopy(samples)))
    assert found[0].keys() == found[1].keys() and 'sup_loss_bg' not in found[0]
    assert all(torch.equal(loss, found[1][name]) for name, loss in found[0].items())


def test_trap_25_no_pseudo_box_weighs_nothing(model):
    """Also where the loss is NaN. The graph stays, since the backward pass of SyncBN needs it in every process."""
    inputs, samples = batch()
    teacher_sees(model, [0, 0, 0, 0])
    nan = model.loss(dict(inputs, unsup_student=torch.full_like(inputs['sup'], torch.nan)), copy.deepcopy(samples))
    assert all(nan[f'unsup_loss_{n}'] == 0 for n in ('cls', 'bbox', 'dfl', 'bg')) and total(nan).isfinite()
    losses = model.loss(inputs, samples)
    unsup = [losses[f'unsup_loss_{n}'] for n in ('cls', 'bbox', 'dfl', 'bg')]
    assert all(loss == 0 for loss in unsup) and unsup[0].requires_grad
    gradients = torch.autograd.grad(sum(unsup[:3]), list(model.student.parameters()), allow_unused=True)
    assert all(g is None or (g == 0).all() for g in gradients)


def test_trap_29_the_statistics_are_no_losses(model):
    teacher_sees(model, [1, 1, 1, 1])
    losses = model.loss(*batch())
    parsed, logged = model.parse_losses(losses)
    assert torch.allclose(parsed, total(losses))
    assert logged['semi/pseudo_boxes'] == 1.0


def test_statistics_of_the_pseudo_labels(model):
    def predict_by_feat(*args, **kwargs):
        boxes = torch.tensor([[10.0, 10, 50, 50]])
        found = [InstanceData(bboxes=boxes.repeat(n, 1), labels=torch.zeros(n).long()) for n in (2, 0, 0, 1)]
        for instances, scores in zip(found, ([0.5, 0.75], [], [], [1.0])):
            instances.scores = torch.tensor(scores)
        return found

    model.teacher.bbox_head.predict_by_feat = predict_by_feat
    losses = model.loss(*batch())
    assert losses['semi/pseudo_boxes'] == 0.75 and losses['semi/pseudo_empty'] == 0.5
    assert losses['semi/pseudo_score'] == 0.75
    teacher_sees(model, [0, 0, 0, 0])
    losses = model.loss(*batch())
    assert losses['semi/pseudo_score'] == 0 and losses['semi/pseudo_empty'] == 1


def test_pseudo_labels_and_views_are_there_to_look_at(model):
    teacher_sees(model, [1, 0, 1, 1])
    double = np.diag([0.5, 0.5, 1]).astype(np.float32)
    inputs, samples = batch()
    samples['unsup_student'] = [sample(double) for _ in range(4)]
    model.loss(inputs, samples)
    assert [len(weak.gt_instances) for weak in model.pseudo_labels] == [1, 0, 1, 1]
    assert model.pseudo_labels[0].gt_instances.bboxes.tolist() == [[10, 10, 50, 50]]
    assert model.latest is None
    model.keep_latest = True
    model.loss(inputs, samples)
    weak, weak_samples, strong, strong_samples = model.latest
    assert weak is inputs['unsup_teacher'] and strong is inputs['unsup_student']
    assert weak_samples[0].gt_instances.bboxes.tolist() == [[10, 10, 50, 50]]
    assert strong_samples[0].gt_instances.bboxes.tolist() == [[5, 5, 25, 25]]
    model.unsup_ramp = 0.0
    model.loss(inputs, samples)
    assert model.pseudo_labels == [] and model.latest is None


def test_a_plain_checkpoint_loads_into_student_and_teacher(model):
    state = {name: torch.full_like(value, 0.5) for name, value in model.student.state_dict().items()}
    result = model.load_state_dict(state, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    for part in (model.student, model.teacher):
        assert all((value == torch.full_like(value, 0.5)).all() for value in part.state_dict().values())


def test_trap_20_no_key_beyond_plain_yolov8s(model):
    init_default_scope('mmyolo')
    cfg = Config.fromfile(CONFIGS / SEMI)
    cfg.merge_from_dict(SMALL)
    take_yolov8_head(cfg)
    plain = MODELS.build(cfg.model.detector)
    assert list(model.student.state_dict()) == list(plain.state_dict())


def frozen_bn(model):
    """BN as in eval mode, so that a batch's losses do not depend on what else is in it; the head stays in training."""
    for module in model.student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    return model


def losses_and_gradients(model, inputs, samples):
    losses = model.loss(inputs, copy.deepcopy(samples))
    model.zero_grad()
    total(losses).backward()
    return losses, {name: p.grad.clone() for name, p in model.student.named_parameters() if p.grad is not None}


def test_channels_last_changes_values_by_rounding_alone():
    inputs, samples = batch()
    values, states = [], []
    for channels_last in (False, True):
        model = frozen_bn(build(channels_last=channels_last))
        values.append(losses_and_gradients(model, inputs, samples))
        states.append(model.state_dict())
        formats = {
            w.is_contiguous(memory_format=torch.channels_last) for w in model.parameters() if w.shape[2:] == (3, 3)
        }
        assert formats == {channels_last}
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    (losses, gradients), (expected, expected_gradients) = values[1], values[0]
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    for name, gradient in gradients.items():
        scale = expected_gradients[name].abs().max().item()
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-2, atol=1e-3 * scale + 1e-7, msg=name)


def test_channels_last_reaches_the_predictions_and_survives_loading_and_averaging():
    """The one format is handed on from the weights, also after a checkpoint was loaded."""
    plain, model = build(channels_last=False), build(channels_last=True)
    model.load_state_dict(plain.state_dict())
    BurnInMeanTeacherHook().momentum_update(model, 0.5)
    for part in (model.student, model.teacher):
        feature = part.extract_feat(torch.rand(2, 3, *SHAPE))[0]
        assert feature.is_contiguous(memory_format=torch.channels_last) and not feature.is_contiguous()
    plain.load_state_dict(model.state_dict())
    assert all(w.is_contiguous() for w in plain.parameters())
