"""Pseudo-label quality and the collapse monitor, in real runs of a Runner and by themselves."""

import copy
import json
import math
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmyolo.registry import METRICS, MODELS

from mmyolo_bgpenalty import SemiYOLODetector
from mmyolo_bgpenalty.engine.hooks.monitors import CollapseMonitorHook, PseudoLabelQualityHook
from mmyolo_bgpenalty.utils.distributed import unwrapped
from tests.helpers.amp import CpuAmpOptimWrapper
from tests.helpers.tiny import CLASSES, SEMI, SUPERVISED, load, make_images, make_set

BATCHES = 5  # an epoch: 10 unlabeled images, 2 a batch


def boxes_in_view(annotations, homography, shape):
    """Corners of each annotation's own pixels, point by point: rows of x1, y1, x2, y2, class, crowd."""
    rows, size = [], (shape[1], shape[0])
    for item in annotations:
        x, y, width, height = item['bbox']
        points = [(x + i, y + j, 1.0) for i in np.linspace(0, width, 9) for j in np.linspace(0, height, 9)]
        seen = np.array([np.asarray(homography, dtype=float) @ point for point in points])
        seen = seen[:, :2] / seen[:, 2:]
        low, high = np.clip(seen.min(0), 0, size), np.clip(seen.max(0), 0, size)
        if min(high - low) >= 1:
            rows.append([*low, *high, item['category_id'] - 1, item.get('iscrowd', 0)])
    return rows


def area(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def shared(a, b):
    return area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])


def naive_counts(pseudo, true, iou_thr=0.5):
    """Right, pseudo-boxes and true boxes of one image: the surest first takes its best; crowds take any number."""
    right = counted = 0
    free = [row for row in true if not row[5]]
    crowds = [row for row in true if row[5]]
    for box in sorted(pseudo, key=lambda row: -row[4]):
        ious = [
            (shared(box, row) / (area(box) + area(row) - shared(box, row)), i)
            for i, row in enumerate(free)
            if row[4] == box[5]
        ]
        best = max(ious, default=(0, None))
        if best[0] >= iou_thr:
            free.pop(best[1])
            right += 1
            counted += 1
        else:
            counted += not any(row[4] == box[5] and shared(box, row) / area(box) >= iou_thr for row in crowds)
    return np.array([right, counted, sum(not row[5] for row in true)])


@MODELS.register_module()
class OracleDetector(SemiYOLODetector):
    """Its pseudo-labels are the true boxes, some of them moved, mistaken, missed or invented."""

    annotations: dict = {}

    def get_pseudo_instances(self, batch_inputs, batch_data_samples):
        samples, info = super().get_pseudo_instances(batch_inputs, batch_data_samples)
        for sample in samples:
            rows = boxes_in_view(self.annotations[sample.img_id], sample.homography_matrix, sample.img_shape)
            rows = [row[:5] for row in rows if np.random.random() < 0.8]
            for row in rows:
                row[:4] += np.random.normal(0, 1.5, 4)
                row[4] = row[4] if np.random.random() < 0.8 else (row[4] + 1) % 3
            if np.random.random() < 0.5:
                rows.append([5.0, 5.0, 30.0, 30.0, 1])
            rows = torch.tensor(np.array(rows), dtype=torch.float32).reshape(-1, 5)
            sample.gt_instances = InstanceData(
                bboxes=rows[:, :4], scores=torch.rand(len(rows)), labels=rows[:, 4].long()
            )
        return samples, info


@METRICS.register_module()
class StudentAheadMetric(BaseMetric):
    """0.1 for the teacher and 0.5 for the student, which are asked in turn."""

    default_prefix = 'coco'
    calls = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.calls += 1
        return dict(bbox_mAP_50=0.1 if self.calls % 2 else 0.5)


class Recorder(Hook):
    """Keeps the pseudo-labels of every iteration, and the state before the latest."""

    def __init__(self):
        self.pseudo, self.before = [], None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = copy.deepcopy(state(runner))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.pseudo.append(copy.deepcopy(getattr(runner.model, 'pseudo_labels', [])))


def state(runner):
    averaged = [hook.ema_model.state_dict() for hook in runner.hooks if hasattr(hook, 'ema_model')]
    return [runner.model.state_dict(), *averaged, runner.optim_wrapper.state_dict()]


def tensors(node, path=''):
    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, (dict, list, tuple)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from tensors(value, f'{path}.{key}')


def train(cfg, *hooks, error=None):
    cfg.visualizer.name = cfg.work_dir
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    if error is None:
        runner.train()
        return runner
    with pytest.raises(FloatingPointError, match=error) as caught:
        runner.train()
    return runner, str(caught.value)


def log_of(runner):
    return next(Path(runner.log_dir).glob('*.log')).read_text()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = make_set(tmp_path_factory.mktemp('set'))
    make_images(root, 'unlabeled', 10, 1, crowd=True)
    return root


@pytest.fixture(scope='module')
def annotations(data):
    content = json.loads((data / 'unlabeled.json').read_text())
    return {
        image['id']: [item for item in content['annotations'] if item['image_id'] == image['id']]
        for image in content['images']
    }


HOOKS = dict(
    default_hooks__quality=dict(type='PseudoLabelQualityHook', interval=3),
    default_hooks__collapse=dict(type='CollapseMonitorHook', window=4, band=(0.01, 0.02)),
    default_hooks__mean_teacher__unsup_warmup=0,
    val_evaluator=dict(_delete_=True, type='StudentAheadMetric'),
    default_hooks__checkpoint__save_best=None,
    default_hooks__checkpoint__interval=2,
    default_hooks__checkpoint__by_epoch=False,
)
EPOCHS = 4


@pytest.fixture(scope='module')
def run(data, annotations, tmp_path_factory):
    OracleDetector.annotations = annotations
    cfg = load(
        SEMI,
        data,
        tmp_path_factory.mktemp('work'),
        burn_in=1,
        train_cfg__max_epochs=EPOCHS,
        train_cfg__val_interval=1,
        model__type='OracleDetector',
        **{**copy.deepcopy(HOOKS), 'default_hooks__checkpoint__interval': -1},
    )
    recorder = Recorder()
    return train(cfg, recorder), recorder


def test_quality_is_a_recount_from_the_files(run, annotations):
    runner, recorder = run
    scalars = [json.loads(row) for row in (Path(runner.log_dir) / 'vis_data/scalars.json').read_text().splitlines()]
    scalars = [row for row in scalars if 'loss' in row]
    counts, expected, seen = np.zeros(3), [], set()
    for iteration, samples in enumerate(recorder.pseudo):
        for sample in samples:
            true = boxes_in_view(annotations[sample.img_id], sample.homography_matrix, sample.img_shape)
            found = sample.gt_instances
            rows = torch.cat([found.bboxes, found.scores[:, None], found.labels[:, None]], dim=1).tolist()
            counts += naive_counts(rows, true)
        if (iteration + 1) % 3 == 0 and iteration >= BATCHES:
            seen.add(tuple(counts))
            right, pseudo, true = counts
            expected = [right / pseudo, right / true]
            counts[:] = 0
        names = ('semi/pseudo_precision', 'semi/pseudo_recall')
        assert [scalars[iteration][name] for name in names if name in scalars[iteration]] == pytest.approx(expected)
    # The recount has seen right and wrong, and ignored.
    assert len(scalars) == EPOCHS * BATCHES and len(seen) > 3 and any(0 < c[0] < min(c[1:]) for c in seen)
    assert any(item['iscrowd'] for items in annotations.values() for item in items)
    assert 'Pseudo-labels, precision / recall: square ' in log_of(runner)


def test_collapse_is_warned_of_once_for_each_cause(run, data):
    runner, recorder = run
    lines = [line for line in log_of(runner).splitlines() if 'WARNING' in line]
    boxes = [line for line in lines if 'pseudo-boxes' in line]
    teacher = [line for line in lines if 'The teacher stays behind' in line]
    assert len(boxes) == len(teacher) == 1
    content = json.loads((data / 'labeled.json').read_text())
    objects = len(content['annotations']) / len(content['images'])
    counts = [len(sample.gt_instances) for samples in recorder.pseudo[BATCHES : BATCHES + 4] for sample in samples]
    assert f'Too many pseudo-boxes: {np.mean(counts):.3g} an image over 4 iterations up to 8' in boxes[0]
    assert f'labeled image has {objects:.3g} objects' in boxes[0]
    assert 'a higher `model.semi_train_cfg.pseudo_test_cfg.score_thr` (now 0.4)' in boxes[0]
    assert 'coco/bbox_mAP_50 0.1 to 0.5, in 3 validations in a row' in teacher[0]
    assert '`default_hooks.mean_teacher.momentum` (now 0.004)' in teacher[0]


@MODELS.register_module()
class PoisonedDetector(SemiYOLODetector):
    """A loss, or only its gradient, is NaN in the fourth batch."""

    poison = 'loss'
    batches = 0

    def loss(self, *args):
        losses = super().loss(*args)
        self.batches += 1
        if self.batches == 4:
            if self.poison == 'loss':
                losses['unsup_loss_dfl'] = losses['unsup_loss_dfl'] * float('nan')
                losses['semi/pseudo_score'] = losses['semi/pseudo_score'] * float('nan')
            else:
                weight = self.student.backbone.stem.conv.weight
                losses['sup_loss_cls'] = losses['sup_loss_cls'] + (weight.sum() * 0).sqrt()
        return losses


def check_nothing_is_spoilt(runner, recorder):
    after = dict(tensors(state(runner)))
    for name, value in tensors(recorder.before):
        assert torch.equal(value, after[name]), name
    [file] = Path(runner.work_dir).glob('*.pth')
    assert file.name == 'iter_2.pth'
    assert all(value.isfinite().all() for _, value in tensors(torch.load(file)['state_dict']))


@pytest.mark.parametrize('poison, loop', [('loss', 'epoch'), ('gradient', 'iter')])
def test_a_poisoned_loss_stops_before_the_weights(data, tmp_path, monkeypatch, poison, loop):
    monkeypatch.setattr(PoisonedDetector, 'poison', poison)
    cfg = load(SEMI, data, tmp_path, burn_in=1, model__type='PoisonedDetector', **copy.deepcopy(HOOKS))
    cfg.default_hooks.lambda_bg.by_epoch = False
    # Pseudo-boxes in every image.
    cfg.model.semi_train_cfg.pseudo_test_cfg.update(score_thr=0.0, max_per_img=2)
    if loop == 'iter':
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=100)
        cfg.param_scheduler = []
        cfg.optim_wrapper.clip_grad = None
    cfg.default_hooks.collapse.max_skips = 0
    recorder = Recorder()
    runner, message = train(cfg, recorder, error=r'iteration 3 \(epoch 0\)')
    if poison == 'loss':
        assert 'unsup_loss_dfl is nan (finite: ' in message and 'sup_loss_cls is' not in message
        assert 'pseudo_score' not in message
    else:
        assert 'the losses are finite, but 1 of 18' in message
        assert 'gradients is nan or inf, the first of student.backbone.stem.conv.weight' in message
    assert 'λ_bg was 0.' in message and 'images/unlabeled_0' in message and 'images/labeled_0' in message
    assert 'optim_wrapper.optimizer.lr' in message and message in log_of(runner)
    assert f'The latest checkpoint is good: {runner.work_dir}/iter_2.pth' in message
    check_nothing_is_spoilt(runner, recorder)


class Poison(Hook):
    """The pictures of the third batch are NaN, which goes through BN's statistics to every loss."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            data_batch['inputs'] = data_batch['inputs'].float() * float('nan')


def test_a_supervised_run_is_stopped_too(data, tmp_path):
    hooks = copy.deepcopy(HOOKS)
    hooks.pop('default_hooks__mean_teacher__unsup_warmup')
    cfg = load(SUPERVISED, data, tmp_path, burn_in=0, train_dataloader__batch_size=3, **hooks)
    cfg.train_dataloader.num_workers = 2
    cfg.default_hooks.collapse.max_skips = 0
    recorder = Recorder()
    runner, message = train(cfg, Poison(), recorder, error=r'iteration 2 \(epoch 1\)')
    assert 'loss_cls is nan' in message and 'unsup' not in message.split('Try')[0] and 'images/labeled_0' in message
    check_nothing_is_spoilt(runner, recorder)
    assert len(list(tensors(recorder.before[1]))) > 100  # the average of EMAHook
    assert 'WARNING - Too' not in log_of(runner) and 'Pseudo-labels' not in log_of(runner)


class Broken(Hook):
    """Pixels of a branch become a value, in the iterations given; keeps which iterations changed nothing."""

    priority = 'VERY_HIGH'

    def __init__(self, iterations):
        self.iterations, self.rows = iterations, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = copy.deepcopy(state(runner))
        if runner.iter in self.iterations:
            inputs = data_batch['inputs']
            branch, value = self.iterations[runner.iter]
            place = next(i for i, image in enumerate(inputs[branch]) if image is not None)
            inputs[branch][place] = inputs[branch][place].float()
            inputs[branch][place][:, 5:9, 5:9] = value

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        kept = [{k: v for k, v in tensors(node) if 'teacher' not in k} for node in (self.before, state(runner))]
        self.rows.append((runner.iter, same(*kept)))


def test_iterations_with_broken_pictures_are_skipped_and_counted(data, tmp_path):
    """The first two in burn-in. All but these is learnt, and saved."""
    hooks = {**copy.deepcopy(HOOKS), 'default_hooks__checkpoint__by_epoch': True}
    cfg = load(SEMI, data, tmp_path, burn_in=1, train_cfg__max_epochs=3, train_cfg__val_interval=3, **hooks)
    cfg.default_hooks.collapse.max_skips = 2
    cfg.model.semi_train_cfg.pseudo_test_cfg.update(score_thr=0.0, max_per_img=2)
    broken = Broken(
        {
            1: ('sup', math.nan),
            3: ('sup', -math.inf),
            8: ('unsup_student', math.nan),
            9: ('unsup_student', math.inf),
            11: ('unsup_teacher', math.nan),
        }
    )
    runner = train(cfg, broken)
    skipped = [iteration for iteration, same in broken.rows if same]
    # The teacher alone sees the broken weak view, in iteration 11, and finds nothing in it.
    assert skipped == [1, 3, 8, 9] and len(broken.rows) == 3 * BATCHES
    log = log_of(runner)
    lines = [line for line in log.splitlines() if 'Skipped iteration ' in line]
    assert len(lines) == 4 and all('WARNING' in line and 'images/labeled_0' in line for line in lines)
    assert 'iteration 1 (epoch 0), 1 in a row and 1 in all: sup_loss_' in lines[0]
    assert 'iteration 8 (epoch 1), 1 in a row and 3 in all: unsup_loss_cls is nan' in lines[2]
    assert (
        'iteration 9 (epoch 1), 2 in a row and 4 in all: unsup_loss_' in lines[3] and 'images/unlabeled_0' in lines[3]
    )
    assert 'skipped_iterations: 4' in log and 'loss: nan' not in log
    assert 'Training has skipped 4 iterations whose losses or gradients were not finite' in log.splitlines()[-1]
    assert all(value.isfinite().all() for _, value in tensors(state(runner)))


class Listed:
    """A dataset of MMEngine's kind, made of lists of (x1, y1, x2, y2, class, crowd)."""

    def __init__(self, images, classes=CLASSES):
        self.images, self.metainfo = images, dict(classes=classes)

    def __len__(self):
        return len(self.images)

    def get_data_info(self, i):
        instances = [dict(bbox=row[:4], bbox_label=row[4], ignore_flag=row[5]) for row in self.images[i]]
        return dict(img_path=f'{i}.png', img_id=i, instances=instances)


UNSAID = SimpleNamespace(metainfo=dict(classes=CLASSES))


def fake_runner(*datasets, name='test_monitors', iteration=0):
    MessageHub.get_instance(name).log_scalars.clear()
    student = SimpleNamespace(bbox_head=SimpleNamespace(num_classes=3))
    model = SimpleNamespace(
        student=student, pseudo_labels=[], unsup_ramp=1.0, pseudo_test_cfg=SimpleNamespace(score_thr=0.4)
    )
    return SimpleNamespace(
        model=model,
        hooks=[],
        iter=iteration,
        train_dataloader=SimpleNamespace(dataset=SimpleNamespace(datasets=datasets)),
        message_hub=MessageHub.get_instance(name),
    )


IDENTITY = np.eye(3)


def sample(i, rows, homography=IDENTITY, shape=(64, 96)):
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    found = InstanceData(bboxes=rows[:, :4], scores=rows[:, 4], labels=rows[:, 5].long())
    metainfo = dict(img_path=f'{i}.png', homography_matrix=homography, img_shape=shape)
    return SimpleNamespace(metainfo=metainfo, **metainfo, gt_instances=found)


def reported(runner):
    names = ('train/semi/pseudo_precision', 'train/semi/pseudo_recall')
    return [
        runner.message_hub.log_scalars[name].current() if name in runner.message_hub.log_scalars else None
        for name in names
    ]


def quality(runner, samples, hook=None):
    hook = hook or PseudoLabelQualityHook(interval=1)
    hook.before_train(runner)
    runner.model.pseudo_labels = samples
    hook.after_train_iter(runner, 0)
    return reported(runner)


corner = st.integers(0, 60)
side = st.integers(1, 30)
classes = st.integers(0, 2)
true_boxes = st.lists(st.tuples(corner, corner, side, side, classes, st.booleans()), max_size=6)
pseudo_boxes = st.lists(st.tuples(corner, corner, side, side, classes), max_size=6)


@given(
    st.lists(st.tuples(true_boxes, pseudo_boxes, st.integers(-20, 20), st.booleans()), min_size=1, max_size=3),
    st.randoms(),
)
def test_quality_is_the_naive_recount(images, random):
    counts, truth, samples = np.zeros(3), [], []
    for i, (true, pseudo, shift, flipped) in enumerate(images):
        homography = np.array(
            [[-2, 0, 150], [0, 2, shift], [0, 0, 1.0]] if flipped else [[2, 0, shift], [0, 1, 0], [0, 0, 1.0]]
        )
        shape = (64, 96)
        truth.append([(x, y, x + w, y + h, label, int(crowd)) for x, y, w, h, label, crowd in true])
        scores = random.sample([n / 64 for n in range(64)], len(pseudo))
        rows = [(x, y, x + w, y + h, score, label) for (x, y, w, h, label), score in zip(pseudo, scores)]
        # Some of the true boxes, as they are seen.
        seen = boxes_in_view(
            [dict(bbox=(x, y, w, h), category_id=label + 1, iscrowd=crowd) for x, y, w, h, label, crowd in true],
            homography,
            shape,
        )
        rows += [(*row[:4], 1 + n / 64, row[4]) for n, row in enumerate(seen) if n % 2]
        samples.append(sample(i, rows, homography, shape))
        counts += naive_counts(rows, seen)
    right, pseudo, true = counts
    any_box = any(truth)
    expected = [right / pseudo if pseudo and any_box else None, right / true if true else None]
    runner = fake_runner(Listed([[]]), Listed(truth))
    assert quality(runner, samples) == pytest.approx(expected)


TRUE = [[(10, 10, 30, 30, 0, 0), (40, 10, 60, 30, 1, 0)], []]
FOUND = [(10, 10, 30, 30, 0.9, 0), (40, 10, 60, 30, 0.8, 2), (41, 10, 61, 30, 0.7, 1), (0, 40, 9, 60, 0.6, 1)]


def test_quality_by_hand_and_over_the_interval():
    runner = fake_runner(Listed([[]]), Listed(TRUE))
    hook = PseudoLabelQualityHook(interval=2)
    assert quality(runner, [sample(0, FOUND)], hook) == [None, None]
    runner.iter, runner.model.pseudo_labels = 1, [sample(1, FOUND[:1]), sample('unknown', FOUND)]
    hook.after_train_iter(runner, 1)
    assert reported(runner) == [2 / 5, 1.0]
    # No pseudo-boxes, no precision: the old figure goes.
    runner.iter, runner.model.pseudo_labels = 3, [sample(0, [])]
    hook.after_train_iter(runner, 3)
    assert reported(runner) == [None, 0.0]
    assert quality(runner, [sample(0, FOUND)], PseudoLabelQualityHook(interval=1, iou_thr=0.95)) == [1 / 4, 1 / 2]


@pytest.mark.parametrize(
    'datasets, reason',
    [
        ((Listed([[]]), Listed([[], []])), 'it has none'),
        ((Listed([[]]), Listed([[], []], classes=())), 'it has none'),
        ((Listed([[]]), UNSAID), 'does not say'),
        (
            (Listed([[]]), Listed(TRUE, classes=('disc', 'square', 'bar'))),
            "its classes ['disc', 'square', 'bar'] are not",
        ),
        ((), 'does not say'),
    ],
)
def test_quality_without_true_boxes_is_said_once(datasets, reason, logged):
    runner = fake_runner(*datasets, name='test_monitors_off')
    hook = PseudoLabelQualityHook(interval=1)
    assert quality(runner, [sample(0, FOUND)], hook) == [None, None]
    hook.after_train_iter(runner, 1)
    assert len(logged) == 1 and reason in logged[0][0] and reported(runner) == [None, None]


@pytest.fixture
def logged(monkeypatch):
    """(message, level) of what the hooks print."""
    lines = []
    monkeypatch.setattr(
        'mmyolo_bgpenalty.engine.hooks.monitors.print_log',
        lambda message, logger, level=20: lines.append((message, level)),
    )
    return lines


def worker(rank, store, queue):
    torch.distributed.init_process_group('gloo', store=torch.distributed.FileStore(store, 2), rank=rank, world_size=2)
    try:
        runner = fake_runner(Listed([TRUE[0]]), Listed(TRUE), name=f'rank {rank}')
        values = quality(runner, [sample(0, FOUND)] if rank else [sample(1, FOUND[:1])])
        hook = CollapseMonitorHook(window=1)
        start(hook, runner)
        # 4 and 14 pseudo-boxes where 2 objects are expected: too many in the mean of 9 alone.
        outputs = {'semi/pseudo_boxes': torch.tensor(14.0 if rank else 4.0)}
        hook.after_train_iter(runner, 0, outputs=outputs)
        queue.put((values, hook._warned))
    finally:
        torch.distributed.destroy_process_group()


def in_two_processes(target, tmp_path):
    """What the two have put into their queue."""
    fork = multiprocessing.get_context('fork')
    queue = fork.Queue()
    children = [fork.Process(target=target, args=(rank, str(tmp_path / 'store'), queue)) for rank in (0, 1)]
    for child in children:
        child.start()
    answers = [queue.get(timeout=120) for _ in children]
    for child in children:
        child.join()
    return answers


def test_a_resumed_run_goes_on_with_the_monitors_counts():
    counts = dict(warned=['boxes'], pseudo_boxes=[(1.0, 2), (2.5, 1)], behind=2, skipped=3, in_a_row=1, overflows=4)
    for resume in (True, False):
        hook, saved = CollapseMonitorHook(), {}
        hook.after_load_checkpoint(SimpleNamespace(_resume=resume), dict(collapse_monitor=counts))
        hook.before_save_checkpoint(None, saved)
        assert (saved['collapse_monitor'] == counts) is resume


def test_two_processes_report_their_sum(tmp_path):
    assert in_two_processes(worker, tmp_path) == [([2 / 5, 1.0], {'boxes'})] * 2


def start(hook, runner):
    runner.model = Namespace(runner.model)
    parameter = torch.nn.Parameter(torch.zeros(1))
    runner.optim_wrapper = SimpleNamespace(optimizer=torch.optim.SGD([parameter], lr=1.0))
    hook.before_train(runner)


class Namespace(torch.nn.Module):
    """A module with a namespace's attributes."""

    def __init__(self, values):
        super().__init__()
        self.__dict__.update(vars(values), student=torch.nn.Identity())


OBJECTS = [[(0, 0, 9, 9, 0, 0), (0, 0, 9, 9, 0, 0), (0, 0, 9, 9, 0, 1)], [(0, 0, 9, 9, 1, 0)], []]  # 1 an image


@pytest.mark.parametrize(
    'boxes, expected',
    [
        ([0.5, 1.5, 3.0, 0.2], None),
        ([3.0] * 4, None),
        ([0.25] * 4, None),
        ([0.25, 0.125, 0.25, 0.125], 'Too few pseudo-boxes: 0.188 an image over 4 iterations'),
        ([3.0, 3.0, 3.0, 3.5], 'Too many pseudo-boxes: 3.12 an image'),
        ([9.0] * 3, None),
        ([1.0] * 4 + [9.0] * 4, 'Too many pseudo-boxes: 9 an image'),
        ([0.0] * 3 + [4.0], None),
    ],
)
def test_the_band(boxes, expected, logged):
    runner = fake_runner(Listed(OBJECTS), Listed(TRUE))
    hook = CollapseMonitorHook(band=(0.25, 3.0), window=4)
    start(hook, runner)

    def iterations(values):
        for value in values:
            hook.after_train_iter(runner, 0, outputs={'semi/pseudo_boxes': torch.tensor(value)})

    # In burn-in and while the share of the unlabeled images rises nothing counts.
    iterations([50.0] * 8)
    runner.model.pseudo_labels, runner.model.unsup_ramp = [sample(0, [])], 0.9
    iterations([50.0] * 8)
    runner.model.unsup_ramp = 1.0
    iterations(boxes)
    if expected is None:
        assert logged == []
        return
    iterations([50.0] * 8)
    [(message, level)] = logged
    assert expected in message and 'has 1 objects (expected 0.25 to 3)' in message and level == 30
    assert ('Try a lower `model' if 'few' in expected else 'a higher `model') in message


def test_without_known_objects_there_is_no_band(logged):
    for datasets in ((), (UNSAID, Listed(TRUE)), (Listed([[]]), Listed(TRUE))):
        runner = fake_runner(*datasets)
        hook = CollapseMonitorHook(window=1)
        start(hook, runner)
        runner.model.pseudo_labels = [sample(0, [])]
        hook.after_train_iter(runner, 0, outputs={'semi/pseudo_boxes': torch.tensor(9.0)})
    assert logged == []


def validations(hook, pairs):
    for teacher, student in pairs:
        metrics = {'teacher/coco/bbox_mAP_50': teacher, 'student/coco/bbox_mAP_50': student}
        hook.after_val_epoch(SimpleNamespace(hooks=[]), metrics=metrics)


@pytest.mark.parametrize(
    'pairs, warnings',
    [
        ([(0.1, 0.3)] * 2, 0),
        ([(0.1, 0.3)] * 3, 1),
        ([(0.1, 0.3)] * 9, 1),
        ([(0.3, 0.1)] * 9, 0),
        ([(0.1, 0.3)] * 2 + [(0.3, 0.3)] + [(0.1, 0.3)] * 2, 0),
        ([(0.1, 0.3)] * 3 + [(0.3, 0.1)] + [(0.1, 0.3)] * 3, 1),
        ([(0.25, 0.265)] * 9, 0),
        ([(math.nan, 0.3)] * 9, 0),
    ],
)
def test_the_teacher_behind(pairs, warnings, logged):
    validations(CollapseMonitorHook(), pairs)
    assert len(logged) == warnings
    assert all('0.1 to 0.3, in 3 validations in a row' in message and level == 30 for message, level in logged)


def test_other_metrics_are_nothing_to_compare(logged):
    hook = CollapseMonitorHook(validations=1)
    for metrics in (
        None,
        {},
        {'coco/bbox_mAP_50': 0.1},
        {'teacher/coco/bbox_mAP_50': 0.1},
        {'student/coco/bbox_mAP_50': 1},
    ):
        hook.after_val_epoch(SimpleNamespace(hooks=[]), metrics=metrics)
    assert logged == []


class Small(torch.nn.Module):
    """Losses that it is told."""

    def __init__(self, losses):
        super().__init__()
        self.linear, self.losses = torch.nn.Linear(2, 1), losses

    def forward(self):
        value = self.linear(torch.ones(1, 2)).sum()
        return {
            name: value + of if not isinstance(of, list) else [value + o for o in of]
            for name, of in self.losses.items()
        }


def small_run(losses, tmp_path, max_skips=0, **options):
    model = Small(losses)
    runner = SimpleNamespace(
        model=model,
        optim_wrapper=SimpleNamespace(optimizer=torch.optim.SGD(model.parameters(), lr=1.0, **options)),
        message_hub=MessageHub.get_instance('test_monitors_small'),
        train_dataloader=SimpleNamespace(dataset=[]),
        work_dir=str(tmp_path),
        iter=3,
        epoch=1,
    )
    hook = CollapseMonitorHook(max_skips=max_skips)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, None)
    return runner, hook


@pytest.mark.parametrize(
    'losses, error',
    [
        (dict(loss_a=1.0, loss_b=[1.0, 2.0], acc=math.nan), None),
        (dict(loss_a=1.0, loss_b=[1.0, math.inf]), 'loss_b is inf .finite: loss_a'),
        (dict(loss_a=math.inf, loss_b=-math.inf, loss_c=1.0), 'loss_a is inf, loss_b is -inf .finite: loss_c'),
        (dict(loss_a=2e38, loss_b=2e38), 'the sum of the losses is inf'),
    ],
)
def test_which_entry(losses, error, tmp_path, logged):
    runner, hook = small_run(losses, tmp_path)
    if error is None:
        runner.model()
    else:
        with pytest.raises(FloatingPointError, match=error):
            runner.model()
        assert len(logged) == 1 and logged[0][1] == 40
    # At validation, and after training, nobody looks.
    runner.model.eval()
    runner.model()
    runner.model.train()
    hook.after_train(runner)
    runner.model()


def test_gradients_are_looked_at_before_the_step(tmp_path, logged):
    runner, hook = small_run(dict(loss_a=1.0), tmp_path)
    optimizer, before = runner.optim_wrapper.optimizer, copy.deepcopy(runner.model.state_dict())
    runner.model()['loss_a'].backward()
    runner.model.linear.bias.grad.fill_(math.inf)
    with pytest.raises(FloatingPointError, match='1 of 2 gradients is nan or inf, the first of linear.bias'):
        optimizer.step()
    # As clip_grad leaves them
    runner.model.linear.bias.grad.fill_(math.nan)
    torch.nn.utils.clip_grad_norm_(runner.model.parameters(), 1.0)
    with pytest.raises(FloatingPointError, match='2 of 2 gradients is nan or inf[.]'):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in runner.model.state_dict().items())
    hook.after_train(runner)
    optimizer.step()


@pytest.mark.parametrize('fused', [False, True])
def test_overflows_that_grad_scaler_skips_are_no_error(tmp_path, fused):
    runner, _ = small_run(dict(loss_a=1.0), tmp_path, fused=fused)
    before = copy.deepcopy(runner.model.state_dict())
    scaler = torch.amp.GradScaler('cpu')
    scaler.scale(runner.model()['loss_a']).backward()
    runner.model.linear.bias.grad.fill_(math.inf)
    scaler.step(runner.optim_wrapper.optimizer)
    assert all(torch.equal(value, before[name]) for name, value in runner.model.state_dict().items())


def wrapped_run(tmp_path, kind=OptimWrapper, max_skips=10, fused=False, distributed=False, **options):
    """A run with an optimizer that moves weights for a gradient of 0, too."""
    torch.manual_seed(0)
    runner, hook = small_run({}, tmp_path, max_skips)
    hook.after_train(runner)
    if distributed:
        runner.model = MMDistributedDataParallel(runner.model)
    runner.iter = 0
    runner.message_hub.log_scalars.clear()
    optimizer = torch.optim.AdamW(runner.model.parameters(), lr=0.1, weight_decay=0.1, fused=fused)
    runner.optim_wrapper = kind(optimizer=optimizer, **options)
    hook.before_train(runner)
    return runner, hook


def iterate(runner, hook, value):
    """An iteration of a train loop, whose loss is ``value`` more."""
    hook.before_train_iter(runner, 0, None)
    unwrapped(runner.model).losses = dict(loss_a=value)
    runner.optim_wrapper.update_params(runner.model()['loss_a'])
    hook.after_train_iter(runner, 0, outputs={})
    runner.iter += 1


def weights(runner):
    return copy.deepcopy([runner.model.state_dict(), runner.optim_wrapper.state_dict()['state']])


def same(one, other):
    one, other = dict(tensors(one)), dict(tensors(other))
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_skipped_step_moves_nothing_not_even_by_weight_decay(tmp_path, logged):
    runner, hook = wrapped_run(tmp_path, max_skips=2)
    iterate(runner, hook, 1.0)
    before = weights(runner)
    for _ in range(2):
        iterate(runner, hook, math.nan)
        assert same(weights(runner), before)
    iterate(runner, hook, 1.0)  # which ends the row
    assert not same(weights(runner), before)
    before = weights(runner)
    for _ in range(2):
        iterate(runner, hook, math.inf)
    with pytest.raises(FloatingPointError, match='iteration 6 .*: loss_a is nan .*, after 2 iterations in a row that'):
        iterate(runner, hook, math.nan)
    assert same(weights(runner), before)
    assert [level for _, level in logged] == [30, 30, 30, 30, 40]
    assert 'Skipped iteration 5 (epoch 1), 2 in a row and 4 in all: loss_a is inf' in logged[3][0]


def test_gradients_that_are_not_finite_are_skipped(tmp_path, logged):
    runner, hook = wrapped_run(tmp_path, clip_grad=dict(max_norm=1.0))
    iterate(runner, hook, 1.0)
    before = weights(runner)
    handle = unwrapped(runner.model).linear.bias.register_hook(lambda gradient: gradient * math.nan)
    iterate(runner, hook, 1.0)
    handle.remove()
    assert same(weights(runner), before) and 'but 2 of 2 gradients is nan or inf' in logged[0][0]
    iterate(runner, hook, 1.0)
    assert not same(weights(runner), before) and len(logged) == 1


def test_of_accumulated_gradients_the_finite_ones_count(tmp_path, logged):
    runner, hook = wrapped_run(tmp_path, accumulative_counts=2)
    runner.optim_wrapper.initialize_count_status(runner.model, 0, 100)
    for value in (math.nan, 1.0):
        iterate(runner, hook, value)
    half, other = wrapped_run(tmp_path)
    other.before_train_iter(half, 0, None)
    half.model.losses = dict(loss_a=1.0)
    half.optim_wrapper.update_params(half.model()['loss_a'] / 2)
    assert same(weights(runner), weights(half))
    before = weights(runner)
    for value in (math.nan, math.nan):
        iterate(runner, hook, value)
    assert same(weights(runner), before)
    for value in (1.0, math.nan):
        iterate(runner, hook, value)
    assert not same(weights(runner), before)


def test_weights_of_a_broken_checkpoint_are_named(tmp_path, logged):
    runner, _ = small_run(dict(loss_a=1.0), tmp_path)
    with torch.no_grad():
        runner.model.linear.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match='1 weights were not finite before, the first linear.bias: see `load_'):
        runner.model()


@pytest.mark.parametrize('fused', [False, True])
def test_overflows_that_grad_scaler_skips_are_counted(tmp_path, fused, logged):
    """The scaler halves its scale and leaves the step out; no iteration is skipped by us."""
    runner, hook = wrapped_run(tmp_path, CpuAmpOptimWrapper, fused=fused, dtype='float16')
    hook.window = 2
    scaler, before = runner.optim_wrapper.loss_scaler, weights(runner)
    scale = scaler.get_scale()
    for factor in (math.inf, 1.0, math.inf, math.inf):
        handle = runner.model.linear.bias.register_hook(lambda gradient, factor=factor: gradient * factor)
        iterate(runner, hook, 1.0)
        handle.remove()
        assert same(weights(runner)[0], before[0]) == (runner.iter == 1)
    assert scaler.get_scale() == scale / 8 and hook._skipped == 0
    assert runner.message_hub.get_scalar('train/amp_overflows').current() == 3
    iterate(runner, hook, math.nan)
    assert scaler.get_scale() == scale / 8 and hook._skipped == 1
    hook.after_train(runner)
    assert logged[-1][0] == (
        'Training has skipped 1 iterations whose losses or gradients were not finite; '
        '3 updates whose fp16 gradients overflowed'
    )


@pytest.mark.parametrize('fused', [False, True])
def test_overflows_without_end_stop(tmp_path, fused, logged):
    runner, hook = wrapped_run(tmp_path, CpuAmpOptimWrapper, fused=fused, dtype='float16')
    hook.window, before = 10, weights(runner)
    runner.model.linear.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match='iteration 39 .*gradients overflow in fp16 at any scale.*5.96e-08'):
        for _ in range(100):
            iterate(runner, hook, 1.0)
    assert same(weights(runner)[0], before[0])


def rank_with_a_broken_batch(rank, store, queue):
    torch.distributed.init_process_group('gloo', store=torch.distributed.FileStore(store, 2), rank=rank, world_size=2)
    try:
        lines = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('mmyolo_bgpenalty.engine.hooks.monitors.print_log', lambda text, **kwargs: lines.append(text))
            runner, hook = wrapped_run(os.path.dirname(store), max_skips=1, distributed=True)
            iterate(runner, hook, 1.0)
            states = [weights(runner)]
            for value in (math.nan if rank else 2.0, 3.0):
                iterate(runner, hook, value)
                states.append(weights(runner))
            iterate(runner, hook, math.inf if not rank else 1.0)
            with pytest.raises(FloatingPointError, match='loss_a is inf'):
                iterate(runner, hook, math.inf if rank else 1.0)
        kept = [same(states[0], states[1]), same(states[1], states[2])]
        queue.put((kept, lines[0], [value.tolist() for _, value in tensors(weights(runner))]))
    finally:
        torch.distributed.destroy_process_group()


def test_what_one_process_cannot_learn_both_skip(tmp_path):
    """Else one would step and the other not, or one stop and the other wait."""
    one, other = in_two_processes(rank_with_a_broken_batch, tmp_path)
    assert one == other
    kept, line, _ = one
    assert kept == [True, False]
    assert line.startswith('Skipped iteration 1 (epoch 1), 1 in a row and 1 in all: loss_a is nan (finite: none)')


@pytest.mark.parametrize(
    'hook, arguments, message',
    [
        (PseudoLabelQualityHook, dict(interval=0), '`interval` to be a whole number'),
        (PseudoLabelQualityHook, dict(iou_thr=0), r'`iou_thr` to be in \(0, 1\]'),
        (PseudoLabelQualityHook, dict(iou_thr=1.5), r'`iou_thr` to be in \(0, 1\]'),
        (CollapseMonitorHook, dict(band=(3.0, 0.2)), '`band` to be two numbers, low < high'),
        (CollapseMonitorHook, dict(band=(0.2,)), '`band` to be two numbers'),
        (CollapseMonitorHook, dict(band=(-1, 2)), r'`band\[0\]` to be a finite number >= 0'),
        (CollapseMonitorHook, dict(window=1.5), '`window` to be a whole number'),
        (CollapseMonitorHook, dict(validations=True), '`validations` to be a whole number'),
        (CollapseMonitorHook, dict(margin=-0.1), '`margin` to be a finite number >= 0'),
        (CollapseMonitorHook, dict(max_skips=-1), '`max_skips` to be a whole number >= 0'),
    ],
)
def test_arguments_out_of_range(hook, arguments, message):
    with pytest.raises(ValueError, match=message):
        hook(**arguments)
