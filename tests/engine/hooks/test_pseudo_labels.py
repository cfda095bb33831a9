"""Quality of the pseudo-labels, in a real run and against values computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS

from mmyolo_bgpenalty import PseudoLabelQualityHook, SemiYOLODetector
from tests.helpers.monitored import SILENT, TRUE, Listed, fake_runner, weak_view
from tests.helpers.processes import in_two_processes
from tests.helpers.tiny import SEMI, load, make_images, make_set


@MODELS.register_module()
class OracleDetector(SemiYOLODetector):
    """Its pseudo-labels are the true boxes, projected point by point, and one wrong box in each image."""

    annotations: dict = {}

    def get_pseudo_instances(self, batch_inputs, batch_data_samples):
        samples, info = super().get_pseudo_instances(batch_inputs, batch_data_samples)
        for sample in samples:
            rows, size = [(-9.0, -9, -5, -5, 1)], sample.img_shape[1::-1]
            for item in self.annotations[sample.img_id]:
                x, y, width, height = item['bbox']
                points = [(x + i, y + j, 1.0) for i in np.linspace(0, width, 9) for j in np.linspace(0, height, 9)]
                seen = points @ sample.homography_matrix.astype(float).T
                seen = np.clip(seen[:, :2] / seen[:, 2:], 0, size)
                if min(np.ptp(seen, axis=0)) >= 1:
                    rows.append((*seen.min(0), *seen.max(0), item['category_id'] - 1))
            rows = torch.tensor(rows)
            sample.gt_instances = InstanceData(
                bboxes=rows[:, :4], scores=torch.rand(len(rows)), labels=rows[:, 4].long()
            )
        return samples, info


def test_a_run_logs_the_quality_by_the_boxes_of_the_unlabeled_set(tmp_path, monkeypatch):
    data = make_set(tmp_path)
    make_images(data, 'unlabeled', 10, 1, crowd=True)
    content = json.loads((data / 'unlabeled.json').read_text())
    annotations = {image['id']: [] for image in content['images']}
    for item in content['annotations']:
        annotations[item['image_id']].append(item)
    monkeypatch.setattr(OracleDetector, 'annotations', annotations)
    cfg = load(
        SEMI,
        data,
        tmp_path / 'work',
        burn_in=1,
        train_cfg__max_epochs=3,
        model__type='OracleDetector',
        default_hooks__quality=dict(type='PseudoLabelQualityHook', interval=5),
        default_hooks__mean_teacher__unsup_warmup=0,
        default_hooks__checkpoint__interval=-1,
    )
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    rows = [json.loads(row) for row in (Path(runner.log_dir) / 'vis_data/scalars.json').read_text().splitlines()]
    # An epoch has 5 iterations, which show each unlabeled image once. The first epoch is burn-in.
    objects = sum(not item['iscrowd'] for item in content['annotations'])
    assert objects < len(content['annotations'])
    for row in rows:
        quality = {name: row[f'semi/pseudo_{name}'] for name in ('precision', 'recall') if f'semi/pseudo_{name}' in row}
        expected = dict(precision=objects / (objects + 10), recall=1.0)
        assert quality == (pytest.approx(expected, abs=0.02) if row['step'] >= 10 else {})
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'Pseudo-labels, precision / recall: square ' in log


def reported(runner):
    scalars = runner.message_hub.log_scalars
    names = ('train/semi/pseudo_precision', 'train/semi/pseudo_recall')
    return [scalars[name].current() if name in scalars else None for name in names]


def quality(runner, samples, hook=None):
    hook = hook or PseudoLabelQualityHook(interval=1)
    runner.model.pseudo_labels = samples
    hook.after_train_iter(runner, 0)
    return reported(runner)


FOUND = [(10, 10, 30, 30, 0.9, 0), (40, 10, 60, 30, 0.8, 2), (41, 10, 61, 30, 0.7, 1), (0, 40, 9, 60, 0.6, 1)]


def test_quality_by_hand_and_over_the_interval():
    runner = fake_runner(Listed([[]]), Listed(TRUE))
    hook = PseudoLabelQualityHook(interval=2)
    assert quality(runner, [weak_view(0, FOUND)], hook) == [None, None]
    runner.iter, runner.model.pseudo_labels = 1, [weak_view(1, FOUND[:1]), weak_view('unknown', FOUND)]
    hook.after_train_iter(runner, 1)
    assert reported(runner) == [2 / 5, 1.0]
    # Without pseudo-boxes there is no precision. The old value is removed.
    runner.iter, runner.model.pseudo_labels = 3, [weak_view(0, [])]
    hook.after_train_iter(runner, 3)
    assert reported(runner) == [None, 0.0]
    assert quality(runner, [weak_view(0, FOUND)], PseudoLabelQualityHook(interval=1, iou_thr=0.95)) == [1 / 4, 1 / 2]


@pytest.mark.parametrize(
    'shift, found, expected',
    [
        # If shifted, 0.5 or 1 px of the first true box is in the view. The second is fully in it. The third is a crowd.
        (-29.5, (10.5, 10, 30.5, 30, 0.9, 1), [1.0, 1.0]),
        (-29, (11, 10, 31, 30, 0.9, 1), [1.0, 1 / 2]),
        (-29, (0, 10, 1, 30, 0.9, 0), [1.0, 1 / 2]),
        (0, (41, 41, 49, 49, 0.9, 2), [None, 0.0]),
        (0, (41, 41, 49, 49, 0.9, 1), [0.0, 0.0]),
    ],
)
def test_true_boxes_are_cut_at_the_edge_and_crowds_are_ignored(shift, found, expected):
    truth = [[*TRUE[0], (40, 40, 60, 60, 2, 1)]]
    view = weak_view(0, [found], homography=np.array([[1, 0, shift], [0, 1, 0], [0, 0, 1.0]]))
    assert quality(fake_runner(Listed([[]]), Listed(truth)), [view]) == expected


def test_boxes_are_read_at_the_interval_or_for_a_checkpoint():
    runner = fake_runner(Listed([[]]), Listed(TRUE))
    hook, view = PseudoLabelQualityHook(interval=10), weak_view(0, FOUND)
    kept = view.gt_instances
    view.gt_instances = kept.to('meta')  # its values cannot be read
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
        ((Listed([[]]), Listed([[], []])), 'has no boxes'),
        ((Listed([[]]), SILENT), 'does not give'),
        ((), 'does not give'),
        (
            (Listed([[]]), Listed(TRUE, classes=('disc', 'square', 'bar'))),
            "other classes than the labeled set: ['disc', 'square', 'bar']",
        ),
    ],
)
def test_missing_true_boxes_are_logged_once(datasets, reason, logged):
    runner = fake_runner(*datasets, name='test_monitors_off')
    hook = PseudoLabelQualityHook(interval=1)
    assert quality(runner, [weak_view(0, FOUND)], hook) == [None, None]
    hook.after_train_iter(runner, 1)
    assert len(logged) == 1 and reason in logged[0][0] and reported(runner) == [None, None]


def quality_of_a_rank(rank):
    runner = fake_runner(Listed([TRUE[0]]), Listed(TRUE), name=f'rank {rank}')
    return quality(runner, [weak_view(0, FOUND)] if rank else [weak_view(1, FOUND[:1])])


def test_two_processes_report_the_quality_over_both(tmp_path):
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
