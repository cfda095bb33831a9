import pytest
from mmengine.config import Config
from mmengine.optim.scheduler.param_scheduler import INF

import mmyolo_bgpenalty as package
from mmyolo_bgpenalty.config_check.check import check_config
from tests.helpers.changes import DELETED, ITERATIONS, change
from tests.helpers.tiny import CONFIGS, SEMI

TEACHER, LAMBDA = 'default_hooks.mean_teacher', 'default_hooks.lambda_bg'
YOLO = 'default_hooks.param_scheduler'
PSEUDO = 'model.semi_train_cfg.pseudo_test_cfg'
UNSURE = 'model.semi_train_cfg.unsure_thr'
NEVER_ENDS = dict(type='mmdet.MultiSourceSampler', batch_size=4, source_ratio=[1, 1])
VIEWS = dict(type='Views', branch_field=['sup'], sup=[dict(type='mmdet.PackDetInputs')])
SWITCH = dict(type='mmdet.PipelineSwitchHook', switch_epoch=5, switch_pipeline=[VIEWS])


def yolo(**arguments):
    return {YOLO: dict(type='YOLOv5ParamSchedulerHook', **arguments)}


E, W = 'error', 'warning'
THRESHOLDS = 'model.semi_train_cfg.class_thresholds'
MISTAKES = {
    'nothing counts the labeled boxes': (
        {THRESHOLDS: dict(type='ClassFrequency'), 'default_hooks.thresholds': DELETED},
        *(E, THRESHOLDS, 'no hook counts'),
    ),
    'teacher without buffers': ({TEACHER: dict(type='mmdet.MeanTeacherHook')}, E, TEACHER, 'skips the buffers'),
    'teacher without burn-in': (
        {TEACHER: dict(type='mmdet.MeanTeacherHook', skip_buffer=False)},
        *(W, TEACHER, 'has no burn-in'),
    ),
    'validation after 0 epochs': ({'train_cfg.val_interval': 0}, E, 'train_cfg.val_interval', 'got 0, expected'),
    'validation from -1 on': ({'train_cfg.val_begin': -1}, E, 'train_cfg.val_begin', 'expected a whole number >= 0'),
    'no teacher hook': ({TEACHER: DELETED}, E, 'default_hooks', 'nothing updates the teacher'),
    'two teacher hooks': (
        {'custom_hooks': [dict(type='BurnInMeanTeacherHook')]},
        *(E, 'custom_hooks.0', f'the teacher is updated twice, also by {TEACHER}'),
    ),
    'momentum of the teacher': ({f'{TEACHER}.momentum': 0.999}, W, f'{TEACHER}.momentum', "student's share"),
    'no update of the teacher': ({f'{TEACHER}.momentum': 0}, E, f'{TEACHER}.momentum', 'above 0 and below 1'),
    'no average': ({f'{TEACHER}.momentum': 1}, E, f'{TEACHER}.momentum', 'above 0 and below 1'),
    'preprocessor that nothing reads': (
        {'model.detector.data_preprocessor.mean': [1.0, 0.0, 0.0]},
        *(E, 'model.detector.data_preprocessor.mean', 'has no effect'),
    ),
    'EMAHook': ({'custom_hooks': [dict(type='EMAHook')]}, E, 'custom_hooks.0', 'averages student and teacher'),
    'no λ hook': ({LAMBDA: DELETED}, E, 'default_hooks', 'nothing reads burn_in, lambda_bg'),
    'two λ hooks': (
        {'custom_hooks': [dict(type='LambdaBgSchedulerHook')]},
        *(E, 'custom_hooks.0', f'two hooks set λ: this one and {LAMBDA}'),
    ),
    'infinite sampler in an epoch-based loop': (
        {'train_dataloader.sampler': NEVER_ENDS, 'train_dataloader.batch_sampler': DELETED},
        *(E, 'train_dataloader.sampler', 'the first epoch never ends'),
    ),
    'YOLOv5ParamSchedulerHook in an iteration-based loop': (ITERATIONS | yolo(), E, YOLO, 'stays in epoch 0'),
    'PipelineSwitchHook in an iteration-based loop': (
        ITERATIONS | {'custom_hooks': [SWITCH]},
        *(E, 'custom_hooks.0', 'stays in epoch 0'),
    ),
    'switch that never comes': (
        {'custom_hooks': [dict(SWITCH, switch_epoch=20)]},
        *(W, 'custom_hooks.0.switch_epoch', 'fires after 20 epochs, but the run has 20'),
    ),
    'schedule by epochs in an iteration-based loop': (
        ITERATIONS | {'param_scheduler': [dict(type='CosineAnnealingLR')]},
        *(E, 'param_scheduler.0', 'later epochs never come'),
    ),
    'single schedule cut off': (
        {'param_scheduler': dict(type='PolyLR', end=30)},
        *(W, 'param_scheduler.end', 'cut off after 20 of 30 epochs'),
    ),
    'schedule that begins too late': (
        {'param_scheduler.1': dict(type='CosineAnnealingLR', begin=20)},
        *(W, 'param_scheduler.1.begin', 'never fires'),
    ),
    'schedule below 0': (yolo(max_epochs=10), E, f'{YOLO}.max_epochs', 'falls below 0'),
    'schedule that rises again': (
        yolo(max_epochs=10, scheduler_type='cosine'),
        *(W, f'{YOLO}.max_epochs', 'rises again'),
    ),
    "MMYOLO's schedule cut off": (yolo(), W, f'{YOLO}.max_epochs', 'cut off after 20 of 300'),
    'pseudo-boxes with settings of an evaluation': (
        {PSEUDO: dict(multi_label=True, score_thr=0.001)},
        *(E, PSEUDO, 'score_thr=0.001 makes nearly every prior a pseudo-box and multi_label=True gives one box'),
    ),
    'low threshold': ({f'{PSEUDO}.score_thr': 0.001}, W, PSEUDO, '0.001'),
    'unsure boxes are learnt as background': ({UNSURE: 0.1}, W, UNSURE, 'learns unsure boxes as background'),
    "MMDetection's detector": ({'model.type': 'mmdet.SemiBaseDetector'}, W, 'model.type', 'by the test_cfg of YOLOv8'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_in_the_semi_config(cfg, mistake, only_finding):
    changes, *expected = MISTAKES[mistake]
    change(cfg, changes)
    only_finding(check_config(cfg), *expected)


def test_a_supervised_config_without_a_schedule_of_lambda(supervised, only_finding):
    settings = ('lambda_bg', 'lambda_bg_warmup', 'lambda_bg_schedule', 'use_focal_bg', 'burn_in')
    change(supervised, dict.fromkeys((*settings, LAMBDA), DELETED))
    only_finding(check_config(supervised), W, 'default_hooks', 'λ is 1 from the first iteration')


def test_an_interval_without_validation_is_not_read(cfg):
    change(cfg, {'train_cfg.val_interval': 0, 'val_dataloader': None, 'val_evaluator': None, 'val_cfg': None})
    assert check_config(cfg) == []


def test_a_schedule_to_the_end_of_training_is_not_cut_off(cfg):
    cfg.param_scheduler[1].end = INF
    assert check_config(cfg) == []


def test_one_preprocessor_written_in_two_ways(cfg):
    change(cfg, {'model.detector.data_preprocessor.mean': (0.0, 0.0, 0.0)})
    change(cfg, {'model.detector.data_preprocessor.rgb_to_bgr': False})
    assert [one for one in check_config(cfg, data=False) if 'has no effect' in one.what] == []


def test_subclasses_are_recognized(cfg):
    change(
        cfg,
        {
            TEACHER: dict(type=type('MyTeacherHook', (package.BurnInMeanTeacherHook,), {})),
            LAMBDA: dict(type=type('MyLambdaHook', (package.LambdaBgSchedulerHook,), {})),
            'model.detector.bbox_head.type': type('MyHead', (package.BgPenaltyYOLOv8Head,), {}),
        },
    )
    step = cfg.train_dataloader.dataset.unlabeled.pipeline[2]
    step.type = type('MyLetterResize', (package.RecordedLetterResize,), {})
    assert check_config(cfg) == []


def test_variables_of_a_child_config_that_nothing_reads(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = '{CONFIGS / SEMI}'\nmax_epochs = 2\nlamda_bg = 0.5\nlambda_bg = 0.5\n")
    first, second = check_config(Config.fromfile(child), data=False)
    assert first[:2] == ('warning', 'lamda_bg') and first.instead == 'write lambda_bg'
    assert second[:2] == ('warning', 'max_epochs') and 'train_cfg.max_epochs' in second.instead
