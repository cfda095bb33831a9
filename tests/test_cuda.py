"""On a GPU: results against the CPU, half precision, and which calls wait for the device. The tests take minutes.

The only compiled operator of MMCV that they need is NMS.
"""

import copy
import warnings
from contextlib import contextmanager

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS

from mmyolo_bgpenalty import BurnInMeanTeacherHook
from mmyolo_bgpenalty.models.losses.penalty import background_penalty, background_statistics
from mmyolo_bgpenalty.models.losses.sparse import dense_distillation
from mmyolo_bgpenalty.utils.geometry import priors_on_image, project_boxes
from tests.helpers.finite_runs import PLAN, train
from tests.helpers.heads import ASSIGNERS, PENALTIES, head_cfg
from tests.helpers.semi import batch as semi_batch
from tests.helpers.semi import build as semi_model
from tests.helpers.semi import build_dense, views
from tests.helpers.tiny import SEMI, load, make_set

DEVICE = 'cuda'
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')

GRIDS, SIZE = (16, 8, 4), 128
HALF = torch.float16, torch.bfloat16


@pytest.fixture(autouse=True)
def full_precision():
    """No TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision('highest')
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


@contextmanager
def never_waiting():
    """Raise an error if a call waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode('default')


def waits(call):
    """Count how often ``call`` waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            call()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return sum('synchronizing' in str(one.message) for one in caught)


def to(value, device):
    """Copy tensors in lists, tuples, dicts and data samples to a device. Leaves of a graph stay leaves."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(device).clone().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {name: to(one, device) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to(one, device) for one in value)
    return value.to(device) if hasattr(value, 'to') else value


# The head and its parts


def logits_and_objects(images=3, dtype=torch.float32):
    """Return (class logits, logits of box distributions), boxes, labels.

    Each predicted box contains its prior, so that no alignment metric is 0.
    """
    rng = torch.Generator().manual_seed(0)
    classes, distributions = [], []
    for n in GRIDS:
        classes.append((torch.randn(images, 3, n, n, generator=rng) - 2).to(dtype).requires_grad_())
        distances = torch.rand(images, n * n, 4, 1, generator=rng) * 1.5 + 1
        distributions.append(((torch.arange(16) - distances).abs() * -3).to(dtype).requires_grad_())
    corners = torch.rand(images, 4, 2, generator=rng) * 70
    boxes = torch.cat([corners, corners + 30 + torch.rand(images, 4, 2, generator=rng) * 25], dim=2)
    return (classes, distributions), boxes, torch.randint(3, (images, 4), generator=rng)


def outs_of(classes, distributions):
    """What the head module returns in training."""
    distances = [(level.softmax(3) * torch.arange(16).to(level)).sum(3).mT for level in distributions]
    sizes = [level.shape[2:] for level in classes]
    return classes, [level.unflatten(2, tuple(size)) for level, size in zip(distances, sizes)], distributions


def data(boxes, labels):
    """Return a batch in MMYOLO's format. The first image has an ignored box and padding, the last has no object."""
    metas = [dict(img_shape=(SIZE, SIZE)) for _ in boxes]
    region = dict(ignored_bboxes=torch.tensor([[60.0, 60, 90, 80]]), ignored_labels=torch.tensor([1]))
    metas[0] = dict(region, img_shape=(96, SIZE))
    rows = torch.arange(len(boxes), device=boxes.device)[:, None, None].expand(-1, boxes.shape[1], 1)
    rows = torch.cat([rows, labels[..., None], boxes], dim=2)[:-1].flatten(0, 1)
    return rows, metas


def losses_on(device, head, logits, boxes, labels):
    head, logits = copy.deepcopy(head).to(device), to(logits, device)
    losses = head.loss_by_feat(*outs_of(*logits), *data(boxes.to(device), labels.to(device)))
    sum(losses.values()).backward()
    gradients = [level.grad for levels in logits for level in levels]
    return to(losses, 'cpu'), to(gradients, 'cpu'), head.get_bg_penalty_stats()


@pytest.mark.parametrize('objects', [4, 0])
@pytest.mark.parametrize('penalty', PENALTIES, ids=str)
@pytest.mark.parametrize('assigner', ASSIGNERS)
def test_losses_and_gradients_are_those_of_the_cpu(assigner, penalty, objects):
    sparse = assigner == ASSIGNERS[1]
    head = MODELS.build(head_cfg(assigner=assigner, bg_penalty=penalty, ignored_in_cls=sparse))
    logits, boxes, labels = logits_and_objects()
    case = logits, boxes[:, :objects], labels[:, :objects]
    expected, found = (losses_on(device, head, *case) for device in ('cpu', DEVICE))
    assert expected[2]['num'] == found[2]['num'] > 0
    torch.testing.assert_close(found[2], expected[2], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5)
    assert all(loss > 0 for loss in found[0].values()) or not objects


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('penalty', PENALTIES, ids=str)
def test_losses_in_half_precision_are_finite_and_near_those_in_fp32(penalty, dtype):
    head = MODELS.build(head_cfg(assigner=ASSIGNERS[1], bg_penalty=penalty))
    expected, _, _ = losses_on(DEVICE, head, *logits_and_objects())
    for value in (None, 1e4, -1e4):
        logits, boxes, labels = logits_and_objects(dtype=dtype)
        if value is not None:
            with torch.no_grad():
                for level in logits[0]:
                    level[torch.rand(level.shape) < 0.5] = value
        with torch.autocast(DEVICE, dtype):
            losses, gradients, _ = losses_on(DEVICE, head, logits, boxes, labels)
        assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values()), value
        assert all(gradient.isfinite().all() for gradient in gradients), value
        if value is None:
            torch.testing.assert_close(losses, expected, rtol=0.1, atol=0.02)


def test_the_penalty_waits_for_nothing():
    """In forward and backward. Its statistics and the loss of DenseSemiYOLODetector do not wait either."""
    logits = torch.randn(4, 336, 3, device=DEVICE, requires_grad=True)
    background = torch.rand(4, 336, device=DEVICE) < 0.9
    positives, teacher = torch.full((), 7.0, device=DEVICE), torch.rand(4, 336, 3, device=DEVICE)
    with never_waiting():
        for options in (
            {},
            dict(focal=True),
            dict(normalizer='positives', positives=positives),
            dict(normalizer='hard'),
        ):
            background_penalty(logits, background, **options).backward()
        background_statistics(logits.amax(-1), background)
        dense_distillation(logits, teacher, 0.01, 2.0)[0].backward()
    assert logits.grad.isfinite().all()


def test_projection_waits_for_nothing_and_is_that_of_the_cpu():
    boxes = torch.rand(50, 2) * 100
    boxes = torch.cat([boxes, boxes + 20], dim=1)
    matrix = torch.tensor([[0.8, 0.1, 3], [-0.1, 0.9, 5], [1e-4, 0, 1]])
    points, frames = torch.rand(500, 2) * 128, torch.tensor([[[10.0, 10, 90, 80]], [[0, 0, 50, 50]]])
    expected = project_boxes(boxes, matrix, (96, 128)), priors_on_image(points, matrix.expand(2, 3, 3), frames)
    boxes, matrix, points, frames = to((boxes, matrix, points, frames), DEVICE)
    with never_waiting(), torch.autocast(DEVICE, torch.float16):
        found = project_boxes(boxes, matrix, (96, 128)), priors_on_image(points, matrix.expand(2, 3, 3), frames)
    torch.testing.assert_close(found[0].cpu(), expected[0], rtol=0, atol=1e-3)
    assert (found[1].cpu() == expected[1]).float().mean() > 0.99


def test_the_loss_waits_as_often_for_many_images_as_for_few(capsys):
    """Selecting the positives waits for their number. It does not wait once per image."""
    head = MODELS.build(head_cfg(assigner=ASSIGNERS[1], ignored_in_cls=True)).to(DEVICE)
    numbers = []
    for times in (1, 1, 6):  # the first call is a warm-up
        logits, boxes, labels = logits_and_objects(images=2)
        outs = outs_of(*([level.detach().repeat(times, 1, 1, 1).to(DEVICE) for level in levels] for levels in logits))
        rows = zip(boxes.to(DEVICE).repeat(times, 1, 1), labels.to(DEVICE).repeat(times, 1))
        objects = [InstanceData(bboxes=own, labels=label) for own, label in rows]
        metas = [dict(img_shape=(SIZE, SIZE)) for _ in objects]
        numbers.append(waits(lambda: head.loss_by_feat(*outs, objects, metas)))  # noqa: B023
    with capsys.disabled():
        print(f'\na loss waits {numbers[1]} times for the device with 2 images, {numbers[2]} with 12')
    assert 0 < numbers[1] and numbers[2] <= numbers[1]


# Detectors


def test_the_teacher_is_averaged_without_waiting():
    model = semi_model().to(DEVICE)
    with torch.no_grad():
        for p in model.student.parameters():
            p.add_(1)
    expected = {
        name: old.lerp(new, 0.25) if old.is_floating_point() else new
        for (name, old), new in zip(model.teacher.state_dict().items(), model.student.state_dict().values())
    }
    expected = to(expected, 'cpu')
    hook = BurnInMeanTeacherHook(momentum=0.25)
    hook._collect(model)
    with never_waiting():
        hook.momentum_update(model, 0.25)
    torch.testing.assert_close(to(dict(model.teacher.state_dict()), 'cpu'), expected)


OPTIONS = {
    'plain': {},
    'three zones': dict(unsure_thr=0.0, pseudo_test_cfg=dict(score_thr=2e-3)),
    'soft targets': dict(unsure_thr=0.0, soft_unsure=True, pseudo_test_cfg=dict(score_thr=2e-3)),
    'own thresholds': dict(class_thresholds=dict(type='Fixed', thresholds=[0.0, 1e-3, 0.0], floor=0.0)),
    'flips': dict(teacher_flips=['horizontal', 'vertical', 'diagonal']),
    'mixture': dict(class_thresholds=dict(type='Mixture', floor=0.0)),
}


@pytest.mark.parametrize('dtype', [None, *HALF])
@pytest.mark.parametrize('options', OPTIONS)
def test_options_of_the_detector(options, dtype):
    """All tensors are on the same device. Losses and gradients are finite."""
    options = copy.deepcopy(OPTIONS[options])
    options['pseudo_test_cfg'] = {'score_thr': 0.0, 'max_per_img': 20, **options.get('pseudo_test_cfg', {})}
    model = semi_model(head=dict(ignored_in_cls=True), **options).to(DEVICE)
    inputs, samples = to(semi_batch(2), DEVICE)
    check_step(model, inputs, samples, dtype)
    assert sum(len(sample.gt_instances) for sample in model.pseudo_labels) > 0


@pytest.mark.parametrize('dtype', [None, *HALF])
def test_the_dense_detector(dtype):
    check_step(build_dense().to(DEVICE), *to(views(), DEVICE), dtype)


def check_step(model, inputs, samples, dtype):
    with torch.autocast(DEVICE, dtype or torch.float16, enabled=dtype is not None):
        losses = model.loss(inputs, samples)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(value.isfinite() for value in losses.values())
    for name, p in model.student.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_come_pinned_and_are_sent_without_waiting(tmp_path, workers):
    init_default_scope('mmyolo')
    cfg = load(SEMI, make_set(tmp_path / 'set'), tmp_path / 'work', train_dataloader__num_workers=workers)
    cfg.train_dataloader.pin_memory = True
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    images = [image for branch in batch['inputs'].values() for image in branch if image is not None]
    assert len(images) == 6 and all(image.is_pinned() for image in images)
    preprocessor = MODELS.build(cfg.model).data_preprocessor
    expected = preprocessor(copy.deepcopy(to(batch, 'cpu')), training=True)
    preprocessor.to(DEVICE)
    with never_waiting():
        found = preprocessor(batch, training=True)
    assert found['inputs'].keys() == expected['inputs'].keys()
    for branch, inputs in expected['inputs'].items():
        assert found['inputs'][branch].device.type == DEVICE
        torch.testing.assert_close(found['inputs'][branch].cpu(), inputs, rtol=1e-6, atol=1e-6)
    for sample, other in zip(found['data_samples']['sup'], expected['data_samples']['sup']):
        assert torch.equal(sample.gt_instances.bboxes.cpu(), other.gt_instances.bboxes)


@pytest.mark.parametrize('dtype', [None, 'bfloat16', 'float16'], ids=['fp32', 'bf16', 'fp16'])
def test_200_iterations_of_the_semi_config(tmp_path, dtype):
    """fp16 starts with a scale that is too large. Overflows are counted."""
    plan = dict(
        PLAN,
        train_cfg__max_epochs=40,
        default_hooks__mean_teacher__momentum=0.1,
        model__semi_train_cfg__pseudo_test_cfg__score_thr=0.002,
        model__semi_train_cfg__unsure_thr=0.001,
        model__detector__bbox_head__ignored_in_cls=True,
    )
    cfg = load(SEMI, make_set(tmp_path / 'set'), tmp_path / 'work', **plan)
    if dtype:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=dtype, loss_scale=dict(init_scale=2.0**26))
    runner, watch, log = train(cfg)
    assert next(runner.model.parameters()).device.type == DEVICE
    assert len(watch.losses) == 200 and 'unsup_loss_cls' not in watch.losses[0]
    assert max(losses.get('unsup_loss_bbox', 0) for losses in watch.losses) > 0
    (guard,) = (hook for hook in runner.hooks if type(hook).__name__ == 'NonFiniteGuardHook')
    overflows = int(guard._overflows)
    assert (0 < overflows < 50) if dtype == 'float16' else overflows == 0
    assert (f'{overflows} updates whose fp16 gradients overflowed' in log) == (overflows > 0)
