"""Lengths that do not fit into the run. In these tests an epoch has 600 iterations, and a run has 20 epochs."""

import pytest
from mmengine.config import Config

from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.config_check.settings import plan
from tests.helpers.changes import DELETED, ITERATIONS, change
from tests.helpers.tiny import CONFIGS

TEACHER, LAMBDA = 'default_hooks.mean_teacher', 'default_hooks.lambda_bg'
PICTURES, LR = 'default_hooks.pictures', 'param_scheduler.0'
CHECKPOINT = 'default_hooks.checkpoint'
EPOCHS = 'train_cfg.max_epochs'
E, W = 'error', 'warning'
YOLO = {'default_hooks.param_scheduler': dict(type='YOLOv5ParamSchedulerHook', max_epochs=20, warmup_epochs=7)}
MISTAKES = {
    'no epoch after burn-in': ({'burn_in': 20}, W, 'burn_in', '20 of 20 epochs: no unlabeled image is used'),
    'burn-in of the hook': ({'burn_in': DELETED, f'{LAMBDA}.burn_in': 30}, W, f'{LAMBDA}.burn_in', '30 of 20 epochs'),
    'warm-up cut off': ({'burn_in': 10, 'lambda_bg_warmup': 40}, W, 'burn_in', 'λ ends at 0.25 of 1'),
    'ramp of the unlabeled images cut off': (
        {'burn_in': 10, f'{TEACHER}.unsup_warmup': 11},
        *(W, f'{TEACHER}.unsup_warmup', 'still rises at the end, after 20 epochs'),
    ),
    'burn-in in iterations, in a run of epochs': (
        {f'{LAMBDA}.by_epoch': False, 'burn_in': 12000, 'lambda_bg_warmup': 0},
        *(W, 'burn_in', '12000 of 12000 iterations: no unlabeled image is used'),
    ),
    'burn-in in epochs, in a run of iterations': (
        {**ITERATIONS, LAMBDA: dict(type='LambdaBgSchedulerHook'), 'burn_in': 20},
        *(W, 'burn_in', '20 of 20 epochs: no unlabeled image is used'),
    ),
    'a short burn-in': ({'burn_in': 0.25}, W, 'burn_in', 'burn-in has 150 iterations'),
    'a burn-in of the hook': (
        {'burn_in': DELETED, f'{LAMBDA}.burn_in': 0.25},
        *(W, f'{LAMBDA}.burn_in', 'burn-in has 150 iterations'),
    ),
    'little after burn-in': (
        {'burn_in': 19.75, 'lambda_bg_warmup': 0, f'{TEACHER}.unsup_warmup': 0, f'{TEACHER}.momentum': 0.1},
        *(W, 'burn_in', '150 iterations come after burn-in'),
    ),
    'a slow teacher': (
        {f'{TEACHER}.momentum': 0.0004},
        *(W, f'{TEACHER}.momentum', 'the teacher lags: it averages the last 2,500 iterations of 7,200'),
    ),
    'a teacher with rare updates': (
        {f'{TEACHER}.interval': 10},
        *(W, f'{TEACHER}.momentum', 'the last 2,500 iterations of 7,200'),
    ),
    'a long warm-up of the average': (
        {f'{TEACHER}.momentum_warmup': 2401},
        *(W, f'{TEACHER}.momentum_warmup', '2,401 of 7,200 iterations. In the first 2,401'),
    ),
    'a warm-up of the average beyond burn-in': (
        {f'{TEACHER}.momentum_warmup': 0.2, f'{TEACHER}.average_in_burn_in': True, 'burn_in': 3},
        *(W, f'{TEACHER}.momentum_warmup', '2,400 of 12,000 iterations, but burn-in has 1,800. In the first 2,400'),
    ),
    'a long warm-up of the learning rate': ({f'{LR}.length': 0.4}, W, f'{LR}.length', '4,800 of 12,000 iterations'),
    'a long LinearLR': (
        {LR: dict(type='LinearLR', by_epoch=False, end=5000)},
        *(W, f'{LR}.end', 'the learning rate rises for 5,000 of 12,000 iterations'),
    ),
    'a long LinearLR in epochs': ({LR: dict(type='LinearLR', end=8)}, W, f'{LR}.end', '4,800 of 12,000'),
    'a LinearLR without an end': ({LR: dict(type='LinearLR')}, W, f'{LR}.end', '12,000 of 12,000'),
    "a long warm-up in MMYOLO's schedule": (
        YOLO,
        *(W, 'default_hooks.param_scheduler.warmup_epochs', '4,200 of 12,000'),
    ),
    'pictures that never come': (
        {f'{PICTURES}.interval': 4500, 'burn_in': 15},
        *(W, f'{PICTURES}.interval', 'no sheet (every 4,500 iterations) comes after burn-in (9,000 of 12,000)'),
    ),
    'one validation': ({'train_cfg.val_interval': 21}, W, 'train_cfg.val_interval', '21 is more than the 20 epochs'),
    'no checkpoint': (
        {CHECKPOINT: dict(type='CheckpointHook', interval=50, save_last=False)},
        *(E, f'{CHECKPOINT}.interval', '50 is more than the 20 epochs'),
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_length_that_does_not_fit(cfg, mistake, only_finding):
    changes, *expected = MISTAKES[mistake]
    change(cfg, changes)
    only_finding(check_config(cfg), *expected)


@pytest.mark.parametrize('loop, where', [({}, EPOCHS), (ITERATIONS | {'train_cfg.max_iters': 980}, 'max_iters')])
def test_a_short_run(cfg, loop, where, monkeypatch):
    monkeypatch.setattr(plan, 'epoch_length', lambda parts: 49)
    change(cfg, loop)
    found = [finding for finding in check_config(cfg) if 'too few for a good detector' in finding.what]
    assert len(found) == 1 and 'the run has 980 iterations' in found[0].what and found[0].where.endswith(where)
    assert found[0].instead.startswith('write 21 or more' if where == EPOCHS else 'write 1000 or more')


FITS = [
    {},
    {LR: dict(type='LinearLR', by_epoch=False, end=4000)},
    {LR: dict(type='LinearLR', begin=14)},
    {LR: dict(type='LinearLR', start_factor=1.0, end_factor=0.1, end=20)},  # no warm-up
    {f'{TEACHER}.momentum_warmup': 2400},
    {f'{TEACHER}.momentum_warmup': 0.2, f'{TEACHER}.average_in_burn_in': True},
    {'burn_in': 0.5},
    {'burn_in': 0},
    {f'{PICTURES}.interval': -1},
    {f'{PICTURES}.interval': 4801},
    {'train_cfg.val_interval': 20},
    {CHECKPOINT: dict(type='CheckpointHook', interval=50)},
    {CHECKPOINT: dict(type='CheckpointHook', interval=5000, save_last=False, by_epoch=False)},
]


@pytest.mark.parametrize('changes', FITS, ids=str)
def test_no_false_alarm(cfg, changes):
    change(cfg, changes)
    assert check_config(cfg) == []


@pytest.mark.parametrize('name', ['yolov8_semi_bgpenalty.py', 'yolov8_semi_bgpenalty_bccd.py', 'yolov8_bgpenalty.py'])
@pytest.mark.parametrize('total', [1100, 2700, 27000])
def test_the_shipped_lengths_fit_runs_of_any_length(name, total, monkeypatch, tiny, data, tmp_path):
    """All lengths but the momentum of the teacher are shares of the run."""
    cfg = tiny(name, data, tmp_path)
    shares = Config.fromfile(CONFIGS / name).param_scheduler
    change(cfg, {'param_scheduler': shares})
    monkeypatch.setattr(plan, 'epoch_length', lambda parts: round(total / parts.length))
    assert check_config(cfg) == []
