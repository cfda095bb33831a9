"""Warnings of a collapse, in a real run and with a fake runner."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from mmyolo.registry import METRICS

from mmyolo_bgpenalty import CollapseMonitorHook
from tests.helpers.monitored import OBJECTS, SILENT, TRUE, Listed, fake_runner, weak_view
from tests.helpers.processes import in_two_processes
from tests.helpers.tiny import SEMI, load, make_set


@METRICS.register_module()
class StudentAheadMetric(BaseMetric):
    """0.1 for the teacher, then 0.5 for the student. Validation evaluates the teacher first."""

    default_prefix = 'coco'
    calls = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.calls += 1
        return dict(bbox_mAP_50=0.1 if self.calls % 2 else 0.5)


def test_a_run_warns_once_for_each_cause(tmp_path):
    data = make_set(tmp_path)
    cfg = load(
        SEMI,
        data,
        tmp_path / 'work',
        burn_in=1,
        train_cfg__max_epochs=4,
        train_cfg__val_interval=1,
        model__semi_train_cfg__pseudo_test_cfg=dict(score_thr=0.0, max_per_img=3),
        default_hooks__collapse=dict(type='CollapseMonitorHook', window=4, band=(0.01, 0.02)),
        default_hooks__mean_teacher__unsup_warmup=0,
        default_hooks__checkpoint=dict(interval=-1, save_best=None),
        val_evaluator=dict(_delete_=True, type='StudentAheadMetric'),
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    lines = [line for line in log.splitlines() if 'WARNING' in line]
    [boxes] = [line for line in lines if 'pseudo-boxes:' in line]
    [teacher] = [line for line in lines if 'The teacher stays behind' in line]
    content = json.loads((data / 'labeled.json').read_text())
    objects = len(content['annotations']) / len(content['images'])
    # The first epoch of 5 iterations is burn-in.
    assert 'Too many pseudo-boxes: 3 per image over 4 iterations (last: 9)' in boxes
    assert f'labeled image has {objects:.3g} objects' in boxes
    assert 'a higher `model.semi_train_cfg.pseudo_test_cfg.score_thr` (now 0.0)' in boxes
    assert 'in 3 validations in a row. Now coco/bbox_mAP_50 is 0.1 for the teacher and 0.5 for the student.' in teacher
    assert '`default_hooks.mean_teacher.momentum`' in teacher


def iterate(hook, runner, values):
    for value in values:
        hook.after_train_iter(runner, 0, outputs={'semi/pseudo_boxes': torch.tensor(value)})


@pytest.mark.parametrize(
    'boxes, expected',
    [
        ([0.5, 1.5, 3.0, 0.2], None),
        ([3.0] * 4, None),
        ([0.25] * 4, None),
        ([0.25, 0.125, 0.25, 0.125], 'Too few pseudo-boxes: 0.188 per image over 4 iterations'),
        ([3.0, 3.0, 3.0, 3.5], 'Too many pseudo-boxes: 3.12 per image'),
        ([9.0] * 3, None),
        ([1.0] * 4 + [9.0] * 4, 'Too many pseudo-boxes: 9 per image'),
        ([0.0] * 3 + [4.0], None),
    ],
)
def test_a_mean_of_pseudo_boxes_outside_the_band_warns_once(boxes, expected, logged):
    runner = fake_runner(Listed(OBJECTS), Listed(TRUE))
    hook = CollapseMonitorHook(band=(0.25, 3.0), window=4)
    # The hook counts nothing during burn-in and while the weight of the unlabeled images rises.
    iterate(hook, runner, [50.0] * 8)
    runner.model.pseudo_labels, runner.model.unsup_ramp = [weak_view(0, [])], 0.9
    iterate(hook, runner, [50.0] * 8)
    runner.model.unsup_ramp = 1.0
    iterate(hook, runner, boxes)
    if expected is None:
        assert logged == []
        return
    iterate(hook, runner, [50.0] * 8)
    [(message, level)] = logged
    assert expected in message and 'but expected 0.25 to 3. A labeled image has 1 objects.' in message and level == 30
    assert ('Try a lower `model' if 'few' in expected else 'a higher `model') in message


def test_with_thresholds_per_class_the_warning_names_their_setting(logged):
    runner = fake_runner(Listed(OBJECTS), Listed(TRUE))
    runner.model.pseudo_labels, runner.model.class_thresholds = [weak_view(0, [])], object()
    iterate(CollapseMonitorHook(window=1), runner, [9.0])
    assert 'Try a higher threshold in `model.semi_train_cfg.class_thresholds`' in logged[0][0]


def test_without_known_objects_there_is_no_band(logged):
    for datasets in ((), (SILENT, Listed(TRUE)), (Listed([[]]), Listed(TRUE))):
        runner = fake_runner(*datasets)
        runner.model.pseudo_labels = [weak_view(0, [])]
        iterate(CollapseMonitorHook(window=1), runner, [9.0])
    assert logged == []


def test_the_number_of_pseudo_boxes_is_read_only_at_the_end_of_the_window():
    runner, hook = fake_runner(Listed(OBJECTS), Listed(TRUE)), CollapseMonitorHook(window=3)
    runner.model.pseudo_labels = [weak_view(0, [])]
    # A value of the meta device cannot be read.
    hook.after_train_iter(runner, 0, outputs={'semi/pseudo_boxes': torch.zeros((), device='meta')})


def warned_by_a_rank(rank):
    runner, hook = fake_runner(Listed([TRUE[0]]), Listed(TRUE), name=f'rank {rank}'), CollapseMonitorHook(window=1)
    runner.model.pseudo_labels = [weak_view(0, [])]
    # At most 6 pseudo-boxes are expected. The processes have 4 and 14. The mean is 9, so both warn.
    iterate(hook, runner, [14.0 if rank else 4.0])
    return hook._warned


def test_two_processes_compare_their_mean(tmp_path):
    assert in_two_processes(warned_by_a_rank, tmp_path) == [{'boxes'}] * 2


def test_a_resumed_run_continues_with_the_counts():
    counts = dict(warned=['boxes'], pseudo_boxes=[(1.0, 2), (2.5, 1)], behind=2)
    for resume in (True, False):
        hook, saved = CollapseMonitorHook(), {}
        hook.after_load_checkpoint(SimpleNamespace(_resume=resume), dict(collapse_monitor=counts))
        hook.before_save_checkpoint(None, saved)
        assert (saved['collapse_monitor'] == counts) is resume


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
def test_a_teacher_worse_than_the_student(pairs, warnings, logged):
    hook = CollapseMonitorHook()
    for teacher, student in pairs:
        metrics = {'teacher/coco/bbox_mAP_50': teacher, 'student/coco/bbox_mAP_50': student}
        hook.after_val_epoch(None, metrics=metrics)
    assert len(logged) == warnings
    assert all(
        'in 3 validations in a row.' in text and '0.3 for the student.' in text and level == 30
        for text, level in logged
    )


def test_other_metrics_are_not_compared(logged):
    hook = CollapseMonitorHook()
    for metrics in (None, *({f'{name}coco/bbox_mAP_50': 0.1} for name in ('', 'teacher/', 'student/'))):
        for _ in range(3):
            hook.after_val_epoch(None, metrics=metrics)
    assert logged == []


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(band=(3.0, 0.2)), '`band` to be two numbers, low < high'),
        (dict(band=(0.2,)), '`band` to be two numbers'),
        (dict(band=(-1, 2)), r'`band\[0\]` to be a finite number >= 0'),
        (dict(window=1.5), '`window` to be a whole number'),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        CollapseMonitorHook(**arguments)
