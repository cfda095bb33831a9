"""Quality of the pseudo-labels, in a real run and by itself, against a recount."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS

from mmyolo_bgpenalty import PseudoLabelQualityHook, SemiYOLODetector
from tests.helpers.monitored import SILENT, TRUE, Listed, fake_runner, weak_view
from tests.helpers.processes import in_two_processes
from tests.helpers.tiny import SEMI, load, make_images, make_set

BATCHES, EPOCHS, INTERVAL = 5, 4, 3  # an epoch has 10 unlabeled images, 2 in a batch


def boxes_in_view(annotations, homography, shape):
    """Corners of the pixels of each annotation, point by point: rows of x1, y1, x2, y2, class, crowd."""
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


def intersection(a, b):
    return area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])


def naive_counts(pseudo, true, iou_thr=0.5):
    """Correct boxes, pseudo-boxes and true boxes of one image. The most confident box chooses first."""
    right = counted = 0
    free = [row for row in true if not row[5]]
    crowds = [row for row in true if row[5]]
    for box in sorted(pseudo, key=lambda row: -row[4]):
        ious = [
            (intersection(box, row) / (area(box) + area(row) - intersection(box, row)), i)
            for i, row in enumerate(free)
            if row[4] == box[5]
        ]
        best = max(ious, default=(0, None))
        if best[0] >= iou_thr:
            free.pop(best[1])
            right += 1
            counted += 1
        else:
            counted += not any(row[4] == box[5] and intersection(box, row) / area(box) >= iou_thr for row in crowds)
    return np.array([right, counted, sum(not row[5] for row in true)])


# In a run


@MODELS.register_module()
class OracleDetector(SemiYOLODetector):
    """Its pseudo-labels are the true boxes. Some are moved, of a wrong class, missed or invented."""

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


class Recorder(Hook):
    """Keeps the pseudo-labels of every iteration."""

    def __init__(self):
        self.pseudo = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.pseudo.append(copy.deepcopy(runner.model.pseudo_labels))


def test_quality_is_a_recount_from_the_files(tmp_path, monkeypatch):
    data = make_set(tmp_path)
    make_images(data, 'unlabeled', 10, 1, crowd=True)
    content = json.loads((data / 'unlabeled.json').read_text())
    annotations = {
        image['id']: [item for item in content['annotations'] if item['image_id'] == image['id']]
        for image in content['images']
    }
    monkeypatch.setattr(OracleDetector, 'annotations', annotations)
    cfg = load(
        SEMI,
        data,
        tmp_path / 'work',
        burn_in=1,
        train_cfg__max_epochs=EPOCHS,
        model__type='OracleDetector',
        default_hooks__quality=dict(type='PseudoLabelQualityHook', interval=INTERVAL),
        default_hooks__mean_teacher__unsup_warmup=0,
        default_hooks__checkpoint__interval=-1,
    )
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()

    rows = [json.loads(row) for row in (Path(runner.log_dir) / 'vis_data/scalars.json').read_text().splitlines()]
    counts, expected, seen = np.zeros(3), [], set()
    for iteration, samples in enumerate(recorder.pseudo):
        for sample in samples:
            true = boxes_in_view(annotations[sample.img_id], sample.homography_matrix, sample.img_shape)
            found = sample.gt_instances
            pseudo = torch.cat([found.bboxes, found.scores[:, None], found.labels[:, None]], dim=1).tolist()
            counts += naive_counts(pseudo, true)
        if (iteration + 1) % INTERVAL == 0 and iteration >= BATCHES:
            seen.add(tuple(counts))
            expected = [counts[0] / counts[1], counts[0] / counts[2]]
            counts[:] = 0
        names = ('semi/pseudo_precision', 'semi/pseudo_recall')
        assert [rows[iteration][name] for name in names if name in rows[iteration]] == pytest.approx(expected)
    # The recount has seen correct, wrong and ignored boxes.
    assert len(rows) == EPOCHS * BATCHES and len(seen) > 3 and any(0 < c[0] < min(c[1:]) for c in seen)
    assert any(item['iscrowd'] for items in annotations.values() for item in items)
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'Pseudo-labels, precision / recall: square ' in log


# By itself


def reported(runner):
    scalars = runner.message_hub.log_scalars
    names = ('train/semi/pseudo_precision', 'train/semi/pseudo_recall')
    return [scalars[name].current() if name in scalars else None for name in names]


def quality(runner, samples, hook=None):
    hook = hook or PseudoLabelQualityHook(interval=1)
    hook.before_train(runner)
    runner.model.pseudo_labels = samples
    hook.after_train_iter(runner, 0)
    return reported(runner)


corner, side, classes = st.integers(0, 60), st.integers(1, 30), st.integers(0, 2)
true_boxes = st.lists(st.tuples(corner, corner, side, side, classes, st.booleans()), max_size=6)
pseudo_boxes = st.lists(st.tuples(corner, corner, side, side, classes), max_size=6)


@given(
    st.lists(st.tuples(true_boxes, pseudo_boxes, st.integers(-20, 20), st.booleans()), min_size=1, max_size=3),
    st.randoms(),
)
def test_quality_is_the_naive_recount(images, random):
    counts, truth, samples, shape = np.zeros(3), [], [], (64, 96)
    for i, (true, pseudo, shift, flipped) in enumerate(images):
        rows = [[-2, 0, 150], [0, 2, shift]] if flipped else [[2, 0, shift], [0, 1, 0]]
        homography = np.array([*rows, [0, 0, 1.0]])
        truth.append([(x, y, x + w, y + h, label, int(crowd)) for x, y, w, h, label, crowd in true])
        scores = random.sample([n / 64 for n in range(64)], len(pseudo))
        rows = [(x, y, x + w, y + h, score, label) for (x, y, w, h, label), score in zip(pseudo, scores)]
        annotations = [
            dict(bbox=(x, y, w, h), category_id=label + 1, iscrowd=crowd) for x, y, w, h, label, crowd in true
        ]
        seen = boxes_in_view(annotations, homography, shape)
        # Some of the true boxes as they are seen.
        rows += [(*row[:4], 1 + n / 64, row[4]) for n, row in enumerate(seen) if n % 2]
        samples.append(weak_view(i, rows, homography, shape))
        counts += naive_counts(rows, seen)
    right, pseudo, true = counts
    expected = [right / pseudo if pseudo and any(truth) else None, right / true if true else None]
    assert quality(fake_runner(Listed([[]]), Listed(truth)), samples) == pytest.approx(expected)


FOUND = [(10, 10, 30, 30, 0.9, 0), (40, 10, 60, 30, 0.8, 2), (41, 10, 61, 30, 0.7, 1), (0, 40, 9, 60, 0.6, 1)]


def test_quality_by_hand_and_over_the_interval():
    runner = fake_runner(Listed([[]]), Listed(TRUE))
    hook = PseudoLabelQualityHook(interval=2)
    assert quality(runner, [weak_view(0, FOUND)], hook) == [None, None]
    runner.iter, runner.model.pseudo_labels = 1, [weak_view(1, FOUND[:1]), weak_view('unknown', FOUND)]
    hook.after_train_iter(runner, 1)
    assert reported(runner) == [2 / 5, 1.0]
    # Without pseudo-boxes there is no precision. The old one is removed.
    runner.iter, runner.model.pseudo_labels = 3, [weak_view(0, [])]
    hook.after_train_iter(runner, 3)
    assert reported(runner) == [None, 0.0]
    assert quality(runner, [weak_view(0, FOUND)], PseudoLabelQualityHook(interval=1, iou_thr=0.95)) == [1 / 4, 1 / 2]


def test_boxes_are_read_at_the_interval_or_for_a_checkpoint():
    runner = fake_runner(Listed([[]]), Listed(TRUE))
    hook, view = PseudoLabelQualityHook(interval=10), weak_view(0, FOUND)
    kept = view.gt_instances
    view.gt_instances = kept.to('meta')  # whose values cannot be read
    assert quality(runner, [view], hook) == [None, None]
    view.gt_instances, saved = kept, {}
    hook.before_save_checkpoint(runner, saved)
    assert saved['pseudo_label_counts'] == [[1, 1, 0], [1, 2, 1], [1, 1, 0]]
    again = PseudoLabelQualityHook(interval=1)
    runner._resume = True
    again.after_load_checkpoint(runner, saved)
    assert quality(runner, [weak_view(1, FOUND[:1])], again) == [2 / 5, 1.0]


@pytest.mark.parametrize(
    'datasets, reason',
    [
        ((Listed([[]]), Listed([[], []])), 'it has none'),
        ((Listed([[]]), Listed([[], []], classes=())), 'it has none'),
        ((Listed([[]]), SILENT), 'does not tell'),
        ((), 'does not tell'),
        (
            (Listed([[]]), Listed(TRUE, classes=('disc', 'square', 'bar'))),
            "its classes ['disc', 'square', 'bar'] are not the",
        ),
    ],
)
def test_quality_without_true_boxes_is_said_once(datasets, reason, logged):
    runner = fake_runner(*datasets, name='test_monitors_off')
    hook = PseudoLabelQualityHook(interval=1)
    assert quality(runner, [weak_view(0, FOUND)], hook) == [None, None]
    hook.after_train_iter(runner, 1)
    assert len(logged) == 1 and reason in logged[0][0] and reported(runner) == [None, None]


def quality_of_a_rank(rank):
    runner = fake_runner(Listed([TRUE[0]]), Listed(TRUE), name=f'rank {rank}')
    return quality(runner, [weak_view(0, FOUND)] if rank else [weak_view(1, FOUND[:1])])


def test_two_processes_report_their_sum(tmp_path):
    assert in_two_processes(quality_of_a_rank, tmp_path) == [[2 / 5, 1.0]] * 2


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(interval=0), '`interval` to be a whole number'),
        (dict(iou_thr=0), r'`iou_thr` to be in \(0, 1\]'),
        (dict(iou_thr=1.5), r'`iou_thr` to be in \(0, 1\]'),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        PseudoLabelQualityHook(**arguments)
