"""Values and inputs at the edge of what a training meets: they are finite, or an error that says what is wrong."""

import copy
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmyolo.registry import DATASETS, MODELS

from tests.helpers import tiny
from tests.helpers.amp import CpuAmpOptimWrapper
from tests.helpers.heads import head_cfg
from tests.helpers.semi import batch as semi_batch
from tests.helpers.semi import build as semi_model
from tests.helpers.tiny import SEMI, SUPERVISED, load, make_set
from tests.models.test_bg_penalty_head import (
    GRIDS,
    PRIORS,
    SIZE,
    batch,
    build,
    features,
    foreground,
    in_boxes,
    losses_of,
)

DENSE = 'yolov8_semi_bgpenalty_dense.py'
ASSIGNERS = ('BatchTaskAlignedAssigner', 'SparseTaskAlignedAssigner')  # MMYOLO's code, and ours
HALF = (torch.float16, torch.bfloat16)
half = pytest.mark.parametrize('dtype', HALF, ids=['fp16', 'bf16'])
both_codes = pytest.mark.parametrize('assigner', ASSIGNERS, ids=['mmyolo', 'sparse'])


def boxes_of(kind, number):
    """Boxes (x1, y1, x2, y2) for the 64 x 64 input of test_heads, with their labels."""
    rng = np.random.default_rng(number)
    points = rng.uniform(0, 48, (number, 2))
    boxes = {
        'usual': lambda: np.concatenate([points, points + rng.uniform(1, 16, (number, 2))], 1),
        'no area': lambda: np.concatenate([points, points], 1),
        'right of it': lambda: np.concatenate([points + 200, points + 220], 1),
        'left of it': lambda: np.concatenate([points - 220, points - 200], 1),
        'around it': lambda: np.tile([-100.0, -100, 300, 300], (number, 1)),
        'turned': lambda: np.concatenate([points + 20, points], 1),
        'beyond fp16': lambda: np.tile([-1e30, -1e30, 1e30, 1e30], (number, 1)),
    }[kind]()
    return boxes.tolist(), (np.arange(number) % 3).tolist()


OBJECTS = {
    'none': ('usual', 0),
    'a thousand': ('usual', 1000),
    **{kind: (kind, 3) for kind in ('no area', 'right of it', 'left of it', 'around it', 'turned', 'beyond fp16')},
}

PENALTIES = (
    {},
    dict(focal=True),
    dict(normalizer='positives', region='outside'),
    dict(normalizer='hard', hard_top=20),
    dict(normalizer='hard', rank=True),
)


def predictions(head, change):
    """What the head predicts, with its logits (or, of 'boxes', all else) changed; leaves of a graph."""
    outs = tuple([level.detach().clone() for level in levels] for levels in head(features()))
    generator = torch.Generator().manual_seed(3)
    name, _, value = change.partition(' ')
    for levels in outs[1:] if name == 'boxes' else outs[:1]:
        for level in levels:
            some = torch.rand(level.shape, generator=generator) < (0.3 if name in ('some', 'boxes') else 1)
            level[some] = float(value)
    if name == 'both':
        for level in outs[0]:
            level[torch.rand(level.shape, generator=generator) < 0.3] *= -1
    return tuple([level.requires_grad_() for level in levels] for levels in outs)


def loss_and_gradients(head, outs, data):
    losses = losses_of(head, outs, data)
    total = sum(losses.values())
    total.backward()
    return total, [level.grad for levels in outs for level in levels if level.grad is not None]


@pytest.mark.parametrize('dtype', [None, *HALF], ids=['fp32', 'fp16', 'bf16'])
@both_codes
@pytest.mark.parametrize('objects', OBJECTS)
def test_extreme_predictions_and_objects_are_finite(assigner, objects, dtype):
    data = batch('list', (boxes_of(*OBJECTS[objects]),) * 2)
    for change in ('all 0', 'all 1e4', 'all -1e4', 'both 1e4'):
        for penalty in PENALTIES if assigner.startswith('Sparse') else PENALTIES[:-1]:
            head = build(assigner=assigner, bg_penalty=penalty)
            with torch.autocast('cpu', dtype or torch.bfloat16, enabled=dtype is not None):
                outs = predictions(head, change)
                assert outs[0][0].dtype == (dtype or torch.float32)
                total, gradients = loss_and_gradients(head, outs, data)
            assert total.isfinite(), (change, penalty)
            assert all(gradient.isfinite().all() for gradient in gradients), (change, penalty)


@both_codes
@pytest.mark.parametrize('objects', ['none', 'a thousand', 'no area', 'around it'])
def test_predictions_that_are_no_numbers_end_in_a_loss_that_says_so(assigner, objects):
    """And in no error on the way there, so that the iteration can be skipped."""
    data = batch('list', (boxes_of(*OBJECTS[objects]),) * 2)
    for change in ('some nan', 'all nan', 'some inf', 'some -inf', 'boxes nan', 'boxes inf'):
        head = build(assigner=assigner)
        total, _ = loss_and_gradients(head, predictions(head, change), data)
        if change in ('some nan', 'all nan', 'some inf'):
            assert not total.isfinite(), change


@half
def test_boxes_are_decoded_in_full_precision(dtype):
    """A box that is predicted exactly has an IoU of 1, wherever it is. MMYOLO's code has 0.85 at 1280 px in bf16."""
    size, side = 1280, 20
    corners = torch.stack(torch.meshgrid(*[torch.arange(1, 30) * 42.3] * 2, indexing='ij'), dim=-1).reshape(-1, 2)
    boxes = torch.cat([corners, corners + side], dim=1)
    outs = ([], [], [])
    for stride in (8, 16, 32):
        n = size // stride
        centres = (torch.arange(n) + 0.5) * stride
        points = torch.stack(torch.meshgrid(centres, centres, indexing='xy'), dim=-1).reshape(-1, 2)
        inside = ((points[:, None] > boxes[:, :2]) & (points[:, None] < boxes[:, 2:])).all(-1)
        own = boxes[inside.int().argmax(1)]
        distances = torch.cat([points - own[:, :2], own[:, 2:] - points], dim=1).div(stride).clamp(0, 14.9)
        low = distances.floor().long()[..., None]
        share = distances[..., None] - low
        distributions = torch.full((n * n, 4, 16), -20.0)
        distributions.scatter_(2, low, (1 - share).clamp(min=1e-9).log())
        distributions.scatter_(2, low + 1, share.clamp(min=1e-9).log())
        logits = torch.where(inside.any(1)[:, None] & (torch.arange(3) == 0), 2.0, -5.0)
        level = distances.T.reshape(1, 4, n, n), distributions[None]
        for out, value in zip(outs, (logits.T.reshape(1, 3, n, n), *level)):
            out.append(value.to(dtype))
    data = batch('list', ((boxes.tolist(), [0] * len(boxes)),))
    head = build(assigner='SparseTaskAlignedAssigner')
    with torch.autocast('cpu', dtype):
        losses = losses_of(head, outs, data)
    assert head.assigned_score_sum > len(boxes)
    assert losses['loss_bbox'] / 7.5 < 1e-3  # 7.5 is its weight


def gradient_reaches(head, logits, outs, data):
    """(images, 84, classes): where loss_cls has a gradient to the logits."""
    logits = [level.detach().requires_grad_() for level in logits]
    losses_of(head, (logits, *outs[1:]), data)['loss_cls'].backward()
    return torch.cat([level.grad.flatten(2) for level in logits], 2).mT != 0


@half
@pytest.mark.parametrize('path', ['list', 'fast'])
def test_ignored_objects_are_left_out_of_the_classification_loss_under_autocast(path, dtype):
    """As in fp32, to the prior: x = 40 is an edge with priors on it."""
    boxes = torch.tensor([[0.0, 30, 40, 64], [34, 0, 64, 30]])
    data = batch(path, ignored=[boxes, torch.zeros(0, 4)])
    if path == 'list':
        data[0].ignored_instances.labels = torch.tensor([1, -1])
    else:
        data['img_metas'][0]['ignored_labels'] = torch.tensor([1, -1])
    head = build(assigner='SparseTaskAlignedAssigner', ignored_in_cls=True)
    with torch.autocast('cpu', dtype):
        outs = head(features())
        found = gradient_reaches(head, outs[0], outs, data)
    expected = torch.ones_like(found)
    taken = foreground(head, [[level.float() for level in levels] for levels in outs])[0]
    for box, left_out in zip(boxes.numpy(), ([1], [0, 1, 2])):
        inside = torch.from_numpy(in_boxes(PRIORS, [box])) & ~taken
        expected[0, inside.nonzero(), torch.tensor(left_out)] = False
    assert torch.equal(found, expected) and not expected.all()
    assert len(PRIORS) == sum(n * n for n in GRIDS) and SIZE == 64


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('dtype', [None, *HALF], ids=['fp32', 'fp16', 'bf16'])
def test_three_zones_in_half_precision_and_channels_last(dtype, channels_last):
    """The teacher's boxes are sorted into sure and unsure, and go to the strong view, as in fp32, to the bit."""
    scores = torch.tensor([0.9, 0.4005, 0.3995, 0.2005, 0.1995])
    boxes = torch.tensor([[4.3 * i, 3.7 * i, 4.3 * i + 20.2, 3.7 * i + 24.1] for i in range(5)])
    model = semi_model(unsure_thr=0.2, channels_last=channels_last)
    model.student.bbox_head.ignored_in_cls = True
    found = InstanceData(bboxes=boxes, scores=scores, labels=torch.tensor([0, 1, 2, 0, 1]))
    model.teacher.bbox_head.predict_by_feat = lambda *args, batch_img_metas, **kwargs: [
        copy.deepcopy(found) for _ in batch_img_metas
    ]
    inputs, samples = semi_batch(2)
    shift = np.array([[1.25, 0, 3.3], [0, 0.75, 5.1], [0, 0, 1]], dtype=np.float32)
    for sample in samples['unsup_student']:
        sample.set_metainfo(dict(homography_matrix=shift))
    with torch.autocast('cpu', dtype or torch.bfloat16, enabled=dtype is not None):
        losses = model.loss(inputs, samples)
        sum(value for name, value in losses.items() if 'loss' in name).backward()
    moved = boxes * torch.tensor([1.25, 0.75, 1.25, 0.75]) + torch.tensor([3.3, 5.1, 3.3, 5.1])
    for sample in samples['unsup_student']:
        for instances, places in ((sample.gt_instances, [0, 1]), (sample.ignored_instances, [2, 3])):
            assert instances.labels.tolist() == [[0, 1, 2, 0, 1][place] for place in places]
            torch.testing.assert_close(instances.bboxes, moved[places], rtol=0, atol=1e-4)
            assert instances.bboxes.dtype == torch.float32
    assert losses['semi/pseudo_boxes'] == 2 and losses['unsup_loss_bg'] >= 0
    parameters = dict(model.student.named_parameters())
    assert all(p.grad.isfinite().all() for p in parameters.values())
    formats = {p.is_contiguous(memory_format=torch.channels_last) for p in parameters.values() if p.shape[2:] == (3, 3)}
    assert formats == {channels_last}


@half
def test_real_predictions_have_three_zones_under_autocast(dtype):
    """Scores are compared in fp32, in which nothing is between the zones."""
    model = semi_model(unsure_thr=0.0, pseudo_test_cfg=dict(score_thr=2e-3, nms=dict(type='nms', iou_threshold=0.9)))
    inputs, samples = semi_batch(2)
    with torch.autocast('cpu', dtype):
        model.get_pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    sure, unsure = (
        torch.cat([sample.get(name).scores for sample in samples['unsup_teacher']])
        for name in ('gt_instances', 'ignored_instances')
    )
    assert sure.dtype == unsure.dtype == torch.float32
    assert len(sure) and len(unsure) and sure.min() > 2e-3 >= unsure.max()


@both_codes
@pytest.mark.parametrize('classes', [1, 1000])
def test_losses_of_few_and_many_classes(assigner, classes):
    cfg = head_cfg(assigner=assigner)
    cfg.head_module.num_classes = cfg.train_cfg.assigner.num_classes = classes
    head = MODELS.build(cfg)
    boxes, labels = boxes_of('usual', 20)
    labels = (np.arange(20) * 53 % classes).tolist()
    losses = head.loss(features(), batch('list', ((boxes, labels), ([], []))))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and losses['loss_bbox'] > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    assert head.get_bg_penalty_stats()['num'] < 2 * len(PRIORS)


# Real runs


class Watch(Hook):
    """Keeps the losses of every iteration and the numbers of its objects."""

    def __init__(self):
        self.losses, self.objects, self.shapes = [], [], set()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: float(value) for name, value in outputs.items() if 'loss' in name})
        if not isinstance(data_batch['inputs'], dict):  # a supervised run's are a tensor
            self.shapes.add(tuple(data_batch['inputs'].shape[2:]))
        else:
            self.objects.append([len(sample.gt_instances) for sample in data_batch['data_samples']['sup'] if sample])
            pictures = [image for images in data_batch['inputs'].values() for image in images if image is not None]
            self.shapes |= {tuple(picture.shape[1:]) for picture in pictures}


def train(cfg, *hooks):
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.default_hooks.checkpoint.save_best = None
    cfg.default_hooks.checkpoint.interval = -1
    runner, watch = Runner.from_cfg(cfg), Watch()
    for hook in (watch, *hooks):
        runner.register_hook(hook)
    runner.train()
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert watch.losses and all(math.isfinite(v) for losses in watch.losses for v in losses.values())
    assert all(p.isfinite().all() for p in runner.model.parameters())
    assert 'Skipped iteration' not in log
    return runner, watch, log


PLAN = dict(
    burn_in=1,
    lambda_bg_warmup=0,
    train_cfg__max_epochs=2,
    default_hooks__pictures__interval=-1,
    model__semi_train_cfg__pseudo_test_cfg__score_thr=0.0,
    model__semi_train_cfg__pseudo_test_cfg__max_per_img=5,
)
SUPERVISED_PLAN = dict(burn_in=0, lambda_bg_warmup=0, train_cfg__max_epochs=2)


def write(root, name, change):
    coco = json.loads((root / f'{name}.json').read_text())
    change(coco)
    (root / f'{name}.json').write_text(json.dumps(coco))


BOXES = {  # of an 80 x 64 image, and whether it is an object
    (10, 10, 0, 0): False,
    (10, 10, 0, 20): False,
    (5, 5, 1e-9, 30): False,
    (500, 500, 10, 10): False,
    (-50, -50, 50, 50): False,
    (-10, -10, 200, 200): True,
    (70, 50, 50, 50): True,
    (-1e30, 1, 2e30, 1): True,
}


def make_odd_set(root):
    """Grey and 16-bit pictures, one with a thousand boxes, one with those of BOXES, the others without any."""
    make_set(root)
    for i, file in enumerate(sorted((root / 'images').glob('*.png'))):
        grey = cv2.imread(str(file))[..., 1]
        cv2.imwrite(str(file), grey if i % 2 else grey.astype(np.uint16) * 257)

    def change(coco):
        rng = np.random.default_rng(0)
        many = [[*rng.uniform(0, 50, 2), *rng.uniform(1, 14, 2)] for _ in range(1000)]
        boxes = [(0, box) for box in many] + [(1, box) for box in BOXES]
        coco['annotations'] = [
            dict(id=i, image_id=image, category_id=1 + i % 3, bbox=list(box), area=box[2] * box[3], iscrowd=0)
            for i, (image, box) in enumerate(boxes)
        ]

    write(root, 'labeled', change)
    return root


def test_odd_pictures_and_boxes_in_batches_of_one(tmp_path):
    """One labeled image in a batch: most batches have no object, one has a thousand."""
    root = make_odd_set(tmp_path / 'set')
    cfg = load(SEMI, root, tmp_path / 'work', train_dataloader__batch_size=2, **PLAN)
    init_default_scope('mmyolo')
    labeled = DATASETS.build(cfg.train_dataloader.dataset).datasets[0]
    found = labeled.get_data_info(1)['instances']
    assert [item['bbox'] for item in found] == [
        [x, y, x + w, y + h] for (x, y, w, h), is_one in BOXES.items() if is_one
    ]
    for place in range(2):  # of 16 bits and of 8, the same to the eye
        picture = labeled.pipeline.transforms[0](labeled.get_data_info(place))['img']
        grey = cv2.imread(str(root / f'images/labeled_{place:03}.png'), cv2.IMREAD_UNCHANGED)
        assert picture.dtype == np.uint8 and picture.shape == (64, 80, 3)
        assert (picture == (grey if grey.dtype == np.uint8 else grey // 256)[..., None]).all()
    _, watch, _ = train(cfg)
    counts = [number for numbers in watch.objects for number in numbers]
    assert {len(numbers) for numbers in watch.objects} == {1} and 0 in counts and max(counts) > 500


@pytest.mark.parametrize('name', [SEMI, SUPERVISED], ids=['semi', 'supervised'])
@pytest.mark.parametrize('classes', [1, 1000])
def test_number_of_classes(tmp_path, name, classes):
    root = make_set(tmp_path / 'set')
    names = [f'class {i}' for i in range(classes)]

    def change(coco):
        coco['categories'] = [dict(id=i, name=name) for i, name in enumerate(names)]
        for annotation in coco['annotations']:
            annotation['category_id'] = annotation['id'] * 333 % classes

    for part in ('labeled', 'unlabeled'):
        write(root, part, change)
    cfg = load(name, root, tmp_path / 'work', **(PLAN if name == SEMI else SUPERVISED_PLAN))
    detector, dataset = cfg.model.get('detector', cfg.model), cfg.train_dataloader.dataset
    detector.bbox_head.head_module.num_classes = detector.train_cfg.assigner.num_classes = classes
    for one in (dataset.labeled, dataset.unlabeled) if name == SEMI else (dataset,):
        one.metainfo.classes = names
    runner, watch, _ = train(cfg)
    assert name == SUPERVISED or watch.losses[-1]['unsup_loss_cls'] > 0
    assert any(p.shape[0] == classes for p in runner.model.parameters())


def test_a_supervised_run_in_batches_of_one(tmp_path):
    """Mosaics of pictures of which one has a thousand boxes and most none."""
    cfg = load(SUPERVISED, make_odd_set(tmp_path / 'set'), tmp_path / 'work', **SUPERVISED_PLAN)
    cfg.train_dataloader.batch_size = 1
    _, watch, _ = train(cfg)
    assert len(watch.losses) == 12


@pytest.mark.parametrize('name', [SEMI, SUPERVISED], ids=['semi', 'supervised'])
@pytest.mark.parametrize(
    'size, scale', [((40, 32), (32, 32)), ((700, 32), (1024, 32)), ((30, 700), (64, 96))], ids=['32 px', 'wide', 'tall']
)
def test_small_and_long_pictures(tmp_path, monkeypatch, size, scale, name):
    monkeypatch.setattr(tiny, 'SIZE', size)
    monkeypatch.setattr(tiny, 'INPUT', scale)
    root = make_set(tmp_path / 'set')
    _, watch, _ = train(load(name, root, tmp_path / 'work', **(PLAN if name == SEMI else SUPERVISED_PLAN)))
    assert watch.shapes == {scale[::-1]}


def test_a_single_picture_of_32_px_has_too_few_values_for_bn(tmp_path, monkeypatch):
    """At stride 32 it is one value, of which there is no variance: torch says so in the first iteration."""
    monkeypatch.setattr(tiny, 'SIZE', (40, 32))
    monkeypatch.setattr(tiny, 'INPUT', (32, 32))
    root = make_set(tmp_path / 'set')
    with pytest.raises(ValueError, match='Expected more than 1 value per channel when training'):
        train(load(SEMI, root, tmp_path / 'work', train_dataloader__batch_size=2, **PLAN))


class Wrapper(Hook):
    """Keeps the scale of the losses after every iteration."""

    def __init__(self):
        self.scales = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        self.scales.append(scaler and scaler.get_scale())


def mixed(cfg, dtype):
    if dtype:
        cfg.optim_wrapper.update(type=CpuAmpOptimWrapper, dtype=dtype)
    return cfg


def check_mixed(tmp_path, name, dtype, iterations, init_scale=2.0**16):
    plan = {**PLAN, 'train_cfg__max_epochs': iterations // 5} if name != SUPERVISED else dict(burn_in=1)
    cfg = mixed(load(name, make_set(tmp_path / 'set'), tmp_path / 'work', **plan), dtype)
    if name == SUPERVISED:
        cfg.train_dataloader.batch_size = 3
        cfg.train_cfg.max_epochs = iterations // 2
    if dtype:
        cfg.optim_wrapper.init_scale = init_scale
    scales = Wrapper()
    runner, watch, log = train(cfg, scales)
    assert len(watch.losses) == iterations
    if not dtype:
        return runner
    # What the scaler has left out, it has halved its scale for.
    halvings = sum(later < before for before, later in zip([init_scale, *scales.scales], scales.scales))
    (monitor,) = (hook for hook in runner.hooks if type(hook).__name__ == 'NonFiniteGuardHook')
    assert monitor._overflows == halvings < iterations
    assert f'{halvings} updates whose fp16 gradients overflowed' in log or not halvings
    return halvings


@half
def test_mixed_precision(tmp_path, dtype):
    """From a scale that is too large for fp16, so that the first updates are left out, and counted."""
    halvings = check_mixed(tmp_path, SEMI, str(dtype)[6:], 15, init_scale=2.0**18)
    assert (halvings > 0) == (dtype == torch.float16)


@pytest.mark.slow
@pytest.mark.parametrize('name', [SEMI, DENSE, SUPERVISED], ids=['semi', 'dense', 'supervised'])
@pytest.mark.parametrize('dtype', [None, 'bfloat16', 'float16'], ids=['fp32', 'bf16', 'fp16'])
def test_200_iterations_are_finite(tmp_path, name, dtype):
    check_mixed(tmp_path, name, dtype, 200)
