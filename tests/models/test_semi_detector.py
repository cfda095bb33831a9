"""SemiYOLODetector: its losses, its pseudo-labels and its state."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmyolo_bgpenalty import BurnInMeanTeacherHook
from mmyolo_bgpenalty.models.losses.weights import weigh_losses
from tests.helpers.semi import SHAPE, batch, build, sample, teacher_finds, teacher_sees, total


@pytest.fixture
def model():
    return build()


def test_labelling_leaves_the_teachers_buffers_alone(model):
    before = {name: buffer.clone() for name, buffer in model.teacher.named_buffers()}
    inputs, samples = batch()
    model.teacher.train()
    model.get_pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.teacher.named_buffers())


@pytest.mark.parametrize('ramp', [0.0, 1.0])
def test_burn_in_runs_no_teacher_and_needs_no_unlabeled_images(model, ramp):
    """After burn-in, a batch without unlabeled images does not need the teacher either."""
    model.unsup_ramp = ramp
    model.teacher.forward = model.teacher.extract_feat = None
    inputs, samples = batch()
    losses = model.loss({'sup': inputs['sup']}, {'sup': samples['sup']})
    assert {name for name in losses if 'loss' in name} == {f'sup_loss_{n}' for n in ('cls', 'bbox', 'dfl', 'bg')}
    assert losses['semi/unsup_weight'] == losses['semi/pseudo_boxes'] == 0


@pytest.mark.parametrize(
    'head, parts', [({}, ['cls', 'bbox', 'dfl', 'bg']), ({'type': 'YOLOv8Head'}, ['cls', 'bbox', 'dfl'])]
)
def test_losses_after_burn_in(head, parts):
    """MMYOLO's own head has no ``loss_bg``. So the weight for it has no effect."""
    model = build(head, unsup_loss_weights=dict(loss_bg=0.5))
    teacher_sees(model, [2, 0, 1, 1])
    losses = model.loss(*batch())
    names = {f'{branch}_loss_{part}' for branch in ('sup', 'unsup') for part in parts}
    assert {name for name in losses if 'loss' in name} == names
    assert losses['semi/pseudo_boxes'] == 1.0 and losses['semi/unsup_weight'] == 1.0
    total(losses).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad.isfinite().all() for p in model.student.parameters())


def test_one_pseudo_box_in_many_images_weighs_as_one_box(model):
    """The unlabeled loss of a single box does not grow with the number of images in the batch."""
    values, picture = [], torch.rand(1, 3, *SHAPE)
    for images in (1, 4):
        inputs, samples = batch(images)
        inputs['unsup_student'] = picture.expand(images, -1, -1, -1).clone()
        teacher_sees(model, [1] + [0] * (images - 1))
        losses = model.loss(inputs, samples)
        values.append({n: losses[f'unsup_loss_{n}'].item() for n in ('bbox', 'dfl', 'cls')})
    assert values[1]['bbox'] == pytest.approx(values[0]['bbox'], rel=0.05)
    assert values[1]['dfl'] == pytest.approx(values[0]['dfl'], rel=0.05)
    # Four images have four times the background. Without the factor of 1 box / 4 images the loss would be 16-fold.
    assert values[1]['cls'] < 4.5 * values[0]['cls']


@pytest.mark.parametrize('soft', [False, True])
def test_an_unsure_box_is_ignored_and_with_soft_unsure_also_an_object(soft):
    """The score of such an object multiplies its classification targets. It has no box losses."""
    boxes = [[8.0, 8, 24, 24], [40, 8, 56, 24]]
    model = build(unsure_thr=0.2, soft_unsure=soft)
    teacher_finds(model, [[0.9, 0.3], []], [[0, 1], []], [boxes, []])
    head, seen = model.student.bbox_head, []
    inner = head.loss_by_feat
    head.loss_by_feat = lambda *args: seen.append(args[3:]) or inner(*args)
    losses = model.loss(*batch(2))
    assert losses['semi/pseudo_boxes'] == 0.5  # only the confident box
    assert [len(sample.gt_instances) for sample in model.pseudo_labels] == [1, 0]
    total(losses).backward()
    (labeled, *_), (objects, _, ignored) = seen
    assert [one.labels.tolist() for one in ignored] == [[1], []]
    assert [len(one) for one in objects] == [1 + soft, 0] and 'score_weights' not in labeled[0]
    assert objects[0].bboxes.tolist() == boxes[: 1 + soft]
    if soft:
        assert objects[0].labels.tolist() == [0, 1]
        assert objects[0].score_weights.tolist() == pytest.approx([1.0, 0.3])
        assert objects[0].box_weights.tolist() == [1.0, 0.0]
    else:
        assert 'score_weights' not in objects[0]


def test_predictions_with_flips_are_the_mean_over_the_flips():
    plain, model = build(), build(teacher_flips=['horizontal', 'vertical', 'diagonal'])
    for parameter in plain.parameters():
        parameter.data.normal_(std=0.2)
    model.load_state_dict(plain.state_dict())
    plain.eval(), model.eval()
    inputs = torch.rand(2, 3, *SHAPE)
    with torch.no_grad():
        flips = [(), (3,), (2,), (2, 3)]
        single = [plain._teacher_predictions(inputs.flip(axes))[0][0].sigmoid().flip(axes) for axes in flips]
        scores, distances = model._teacher_predictions(inputs)
        mirrored_scores, mirrored = model._teacher_predictions(inputs.flip(3))
    assert (single[1] - single[0]).abs().max() > 0.01
    torch.testing.assert_close(scores[0].sigmoid(), sum(single) / 4)
    for ours, theirs, left, right in zip(scores, mirrored_scores, distances, mirrored):
        torch.testing.assert_close(ours, theirs.flip(3), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(left, right.flip(3)[:, [2, 1, 0, 3]], atol=1e-4, rtol=1e-4)


def test_losses_are_weighed_by_branch_and_name(model):
    """Batch normalization is in training mode, so the same batch gives the same losses."""
    inputs, samples = batch()
    teacher_sees(model, [1, 1, 1, 1])
    plain = model.loss(inputs, samples)
    assert plain['sup_loss_bg'] > 0 and plain['unsup_loss_bbox'] > 0
    model.unsup_ramp = 0.5
    model.semi_train_cfg = replace(
        model.semi_train_cfg,
        sup_weight=2.0,
        unsup_weight=0.5,
        unsup_loss_weights=dict(loss_bbox=0.0, loss_dfl=0.25),
        sup_loss_weights=dict(loss_bg=3.0),
    )
    weighed = model.loss(inputs, samples)
    assert weighed.keys() == plain.keys() and weighed['semi/unsup_weight'] == 0.25
    single = dict(unsup_loss_bbox=0.0, unsup_loss_dfl=0.25, sup_loss_bg=3.0)
    for name in (name for name in plain if 'loss' in name):
        factor = (0.25 if name.startswith('unsup') else 2.0) * single.get(name, 1.0)
        torch.testing.assert_close(weighed[name], plain[name] * factor)


def test_losses_of_several_levels_are_weighed_one_by_one():
    losses = dict(loss_cls=[torch.tensor(2.0), torch.tensor(torch.inf)], loss_bbox=(torch.tensor(3.0),), acc=0.5)
    expected = dict(loss_cls=[1.0, torch.inf], loss_bbox=[0.0], acc=0.5)
    assert weigh_losses(losses, 0.5, dict(loss_bbox=0.0, loss_bg=7.0)) == expected
    assert weigh_losses(losses, 0.0) == dict(loss_cls=[0.0, 0.0], loss_bbox=[0.0], acc=0.5)
    assert weigh_losses(losses, 0.5, dict(loss_cls=0.5), scale=4.0)['loss_cls'][0] == 2.0


def test_without_pseudo_boxes_the_unlabeled_losses_are_0(model):
    """They are 0 even if the strong views are NaN. The graph stays: SyncBN needs a backward pass in every process."""
    inputs, samples = batch()
    teacher_sees(model, [0, 0, 0, 0])
    nan = model.loss(dict(inputs, unsup_student=torch.full_like(inputs['sup'], torch.nan)), copy.deepcopy(samples))
    assert all(nan[f'unsup_loss_{n}'] == 0 for n in ('cls', 'bbox', 'dfl', 'bg')) and total(nan).isfinite()
    losses = model.loss(inputs, samples)
    unsup = [losses[f'unsup_loss_{n}'] for n in ('cls', 'bbox', 'dfl', 'bg')]
    assert all(loss == 0 for loss in unsup) and unsup[0].requires_grad
    gradients = torch.autograd.grad(sum(unsup[:3]), list(model.student.parameters()), allow_unused=True)
    assert all(g is None or (g == 0).all() for g in gradients)


def test_statistics_of_the_pseudo_labels(model):
    teacher_finds(model, [[0.5, 0.75], [], [], [1.0]])
    losses = model.loss(*batch())
    assert losses['semi/pseudo_boxes'] == 0.75 and losses['semi/pseudo_empty'] == 0.5
    assert losses['semi/pseudo_score'] == 0.75
    teacher_sees(model, [0, 0, 0, 0])
    losses = model.loss(*batch())
    assert losses['semi/pseudo_score'] == 0 and losses['semi/pseudo_empty'] == 1


def test_pseudo_labels_and_latest_views_are_kept_for_hooks(model):
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


def test_the_penalty_adds_no_key_to_a_checkpoint(model):
    assert list(model.state_dict()) == list(build(dict(type='YOLOv8Head')).state_dict())


def test_channels_last_changes_values_only_by_rounding():
    """Features are in this format, also after a checkpoint is loaded and after an EMA update."""
    inputs, samples = batch()
    results = []
    for channels_last in (False, True):
        model = build(channels_last=channels_last)
        model.load_state_dict(build(channels_last=not channels_last).state_dict())
        hook = BurnInMeanTeacherHook()
        hook._collect(model)
        hook.momentum_update(model, 0.5)
        for part in (model.student, model.teacher):
            feature = part.extract_feat(inputs['sup'])[0]
            assert feature.is_contiguous(memory_format=torch.channels_last) == channels_last
        for module in model.student.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()  # in training mode it magnifies the rounding
        losses = model.loss(inputs, copy.deepcopy(samples))
        total(losses).backward()
        results.append((losses, {name: p.grad for name, p in model.student.named_parameters()}))
    (expected, expected_gradients), (losses, gradients) = results
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    for name, gradient in gradients.items():
        scale = expected_gradients[name].abs().max().item()
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-2, atol=1e-3 * scale + 1e-7, msg=name)
