"""Every wiring mistake, made one at a time in a shipped config, is found; the shipped configs have none."""

import copy
import importlib.util
import json
import logging
import shutil
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from mmyolo_bgpenalty.config_check import data_path as data_checks
from mmyolo_bgpenalty.config_check.check import check_at_start, check_config
from mmyolo_bgpenalty.config_check.data_path import orientations
from tests.helpers.tiny import CLASSES, CONFIGS, ROOT, SEMI, SUPERVISED, load, make_set

ALL = sorted(path.name for path in CONFIGS.glob('*.py'))
LABELED, UNLABELED = 'train_dataloader.dataset.labeled', 'train_dataloader.dataset.unlabeled'
BRANCHES = ['sup', 'unsup_teacher', 'unsup_student']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp('set'))


def tiny(name, root, work_dir):
    cfg = load(name, root, work_dir)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    return cfg


@pytest.fixture(scope='module')
def configs(data, tmp_path_factory):
    return {name: tiny(name, data, tmp_path_factory.mktemp('work')) for name in (SEMI, SUPERVISED)}


@pytest.fixture
def cfg(configs):
    return copy.deepcopy(configs[SEMI])


def brief(findings):
    return [(finding.level, finding.where) for finding in findings]


# No false alarm


@pytest.mark.parametrize('name', ALL)
def test_shipped_configs_have_no_mistake(name):
    assert check_config(Config.fromfile(CONFIGS / name), data=False) == []


@pytest.mark.parametrize('name', [name for name in ALL if 'bccd' not in name and 'coco' not in name])
def test_shipped_configs_of_the_solar_set_find_their_data_or_make_it(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert check_config(Config.fromfile(CONFIGS / name)) == []


@pytest.mark.parametrize('name', [name for name in ALL if 'coco' in name or 'bccd' in name])
def test_data_that_is_not_there_is_all_that_is_found(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = check_config(Config.fromfile(CONFIGS / name))
    sets = (LABELED, UNLABELED, 'val_dataloader.dataset')
    assert brief(found) == [('error', f'{path}.ann_file') for path in sets]
    assert all('no such file' in finding.what for finding in found)


@pytest.mark.parametrize('name', [SEMI, SUPERVISED])
def test_the_tiny_set_has_no_mistake(configs, name):
    assert check_config(configs[name]) == []


@pytest.mark.parametrize(
    'name',
    [
        'mmyolo/.mim/configs/yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py',
        'mmyolo/.mim/configs/ppyoloe/ppyoloe_s_fast_8xb32-300e_coco.py',
        'mmyolo/.mim/configs/rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_coco.py',
        'mmdet/.mim/configs/soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
        'mmdet/.mim/configs/bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py',
    ],
)
def test_configs_of_other_projects_have_no_mistake(name):
    package, _, path = name.partition('/')
    cfg = Config.fromfile(Path(importlib.util.find_spec(package).origin).parent / path)
    # ByteTrack's restates a variable of its base, which nobody reads: that is none.
    assert brief(check_config(cfg, data=False)) == [('warning', 'interval')] * ('bytetrack' in name)


@pytest.mark.parametrize(
    'thresholds',
    [dict(type='ClassFrequency'), dict(type='Mixture', at='mean'), dict(type='Fixed', thresholds=[0.3, 0.4, 0.5])],
)
def test_thresholds_by_class_are_no_mistake(cfg, thresholds):
    cfg.model.semi_train_cfg.class_thresholds = thresholds
    assert check_config(cfg) == []
    if thresholds['type'] != 'ClassFrequency':
        cfg.default_hooks.pop('thresholds')
        assert check_config(cfg) == []


@pytest.mark.parametrize('cfg', [{}, dict(model=None, custom_hooks=None), dict(model=dict(type='mmdet.RetinaNet'))])
def test_little_or_no_config_is_no_mistake(cfg):
    assert check_config(cfg) == []


def test_a_value_that_no_check_expects_ends_neither_the_checks_nor_a_training(cfg):
    cfg.train_dataloader.batch_size = 'four'
    cfg.custom_hooks = [dict(type='EMAHook')]
    found = check_config(cfg)
    assert brief(found) == [('error', 'custom_hooks.0'), ('warning', 'check batches')]
    assert 'TypeError' in found[1].what


def test_subclasses_count_as_what_they_inherit_from(cfg):
    import mmyolo_bgpenalty as package

    hook = type('MyTeacherHook', (package.BurnInMeanTeacherHook,), {})
    cfg.default_hooks.mean_teacher = dict(type=hook)
    cfg.default_hooks.lambda_bg = dict(type=type('MyLambdaHook', (package.LambdaBgSchedulerHook,), {}))
    cfg.model.detector.bbox_head.type = type('MyHead', (package.BgPenaltyYOLOv8Head,), {})
    for step in pipeline(cfg, 'unlabeled')[2:3]:
        step.type = type('MyLetterResize', (package.RecordedLetterResize,), {})
    assert check_config(cfg) == []


def test_a_variable_of_the_base_that_a_child_restates_is_found(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = '{CONFIGS / SEMI}'\nmax_epochs = 2\nlamda_bg = 0.5\nlambda_bg = 0.5\n")
    found = check_config(Config.fromfile(child), data=False)
    assert brief(found) == [('warning', 'lamda_bg'), ('warning', 'max_epochs')]
    assert 'train_cfg.max_epochs' in found[1].instead and found[0].instead == 'write lambda_bg'


# One mistake at a time


def pipeline(cfg, name):
    return cfg.train_dataloader.dataset[name].pipeline


def views(cfg, name):
    return pipeline(cfg, name)[-1]


def set_(path, value):
    """A change: the entry at a dotted path becomes ``value``; a dict replaces all that was there."""

    def change(cfg):
        *parents, last = path.split('.')
        node = cfg
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node[key]
        value_ = ConfigDict(value) if isinstance(value, dict) else value
        node[int(last) if isinstance(node, list) else last] = value_

    return change


def insert(path, step):
    """A change: ``step`` comes before the entry of a list at a dotted path."""

    def change(cfg):
        *parents, place = path.split('.')
        node = cfg
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node.insert(int(place), ConfigDict(step))

    return change


def many(*changes):
    def change(cfg):
        for one in changes:
            one(cfg)

    return change


def delete(path):
    def change(cfg):
        *parents, last = path.split('.')
        node = cfg
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node.pop(int(last) if isinstance(node, list) else last)

    return change


def strong(step):
    """Put a transform before the strong view's."""
    return lambda cfg: views(cfg, 'unlabeled').unsup_student.insert(0, ConfigDict(step))


def concat(cfg):
    """MMDetection's own way to say the sets."""
    members = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=[members.labeled, members.unlabeled])


ITERATIONS = many(
    set_('train_cfg', dict(type='IterBasedTrainLoop', max_iters=1000, val_interval=100)),
    set_('param_scheduler', []),
    set_('default_hooks.lambda_bg', dict(type='LambdaBgSchedulerHook', by_epoch=False)),
)
MULTI = many(
    set_('train_dataloader.sampler', dict(type='mmdet.MultiSourceSampler', batch_size=4, source_ratio=[1, 1])),
    delete('train_dataloader.batch_sampler'),
    ITERATIONS,
)
SWITCH = dict(type='mmdet.PipelineSwitchHook', switch_epoch=5)
LOAD = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]
MOSAIC = dict(type='RecordedMosaic', img_scale=(96, 64), pre_transform=LOAD)
MIXUP = dict(type='RecordedMixUp', prob=0.15, pre_transform=[*LOAD, dict(type='RecordedLetterResize', scale=(96, 64))])
TEACHER = 'default_hooks.mean_teacher'
PREPROCESSOR = 'model.data_preprocessor'
THRESHOLDS = 'model.semi_train_cfg.class_thresholds'
STRONG = f'{UNLABELED}.pipeline.3.unsup_student.0'
E, W = 'error', 'warning'

SEMI_MISTAKES = {
    # Teacher
    'teacher without buffers': (set_(TEACHER, dict(type='mmdet.MeanTeacherHook')), E, TEACHER, 'buffers'),
    'unsure, and learnt as background': (
        set_('model.semi_train_cfg.unsure_thr', 0.1),
        W,
        'model.semi_train_cfg.unsure_thr',
        'learns what is unsure as background',
    ),
    'teacher without burn-in': (
        set_(TEACHER, dict(type='mmdet.MeanTeacherHook', skip_buffer=False)),
        W,
        TEACHER,
        'knows no burn-in',
    ),
    'no teacher hook': (delete(TEACHER), E, 'default_hooks', 'nothing updates the teacher'),
    'two teacher hooks': (
        set_('custom_hooks', [dict(type='BurnInMeanTeacherHook')]),
        E,
        'custom_hooks.0',
        'second teacher hook',
    ),
    'the other convention of momentum': (
        set_(f'{TEACHER}.momentum', 0.999),
        W,
        f'{TEACHER}.momentum',
        "student's share",
    ),
    'EMAHook kept': (set_('custom_hooks', [dict(type='EMAHook')]), E, 'custom_hooks.0', 'EMAHook beside a teacher'),
    # λ
    'no λ hook': (delete('default_hooks.lambda_bg'), E, 'default_hooks', 'takes burn-in'),
    'two λ hooks': (set_('custom_hooks', [dict(type='LambdaBgSchedulerHook')]), E, 'custom_hooks.0', 'second λ hook'),
    'λ hook without the head': (
        set_('model.detector.bbox_head.type', 'YOLOv8Head'),
        E,
        'model.detector.bbox_head.type',
        'YOLOv8Head has no penalty',
    ),
    'λ stated twice': (
        set_('default_hooks.lambda_bg.warmup', 7),
        E,
        'default_hooks.lambda_bg.warmup',
        'stated twice: 7',
    ),
    'λ out of range': (set_('lambda_bg', -1), E, 'default_hooks.lambda_bg', 'got -1'),
    'misspelt setting': (
        many(delete('lambda_bg'), set_('lamda_bg', 1.5)),
        W,
        'lamda_bg',
        'looks like `lambda_bg`',
    ),
    'no epoch after burn-in': (set_('burn_in', 20), W, 'burn_in', '20 of 20 epochs: no unlabeled image is used'),
    'warm-up cut off': (many(set_('burn_in', 10), set_('lambda_bg_warmup', 40)), W, 'burn_in', 'λ ends at 0.25 of 1'),
    'ramp of the unlabeled weight cut off': (
        many(set_('burn_in', 10), set_(f'{TEACHER}.unsup_warmup', 11)),
        W,
        f'{TEACHER}.unsup_warmup',
        'rises',
    ),
    # Trap 17: loops
    'infinite sampler under epochs': (
        many(
            MULTI,
            set_('train_cfg', dict(type='EpochBasedTrainLoop', max_epochs=20)),
            delete('default_hooks.lambda_bg.by_epoch'),
        ),
        E,
        'train_dataloader.sampler',
        'never ends',
    ),
    'YOLOv5ParamSchedulerHook under iterations': (
        many(ITERATIONS, set_('default_hooks.param_scheduler', dict(type='YOLOv5ParamSchedulerHook'))),
        E,
        'default_hooks.param_scheduler',
        'stays in epoch 0',
    ),
    'PipelineSwitchHook under iterations': (
        many(
            ITERATIONS,
            lambda cfg: cfg.merge_from_dict({'custom_hooks': [dict(SWITCH, switch_pipeline=pipeline(cfg, 'labeled'))]}),
        ),
        E,
        'custom_hooks.0',
        'stays in epoch 0',
    ),
    'LastEpochsPipelineHook under iterations': (
        many(ITERATIONS, insert(f'{LABELED}.pipeline.4', MIXUP)),
        W,
        'default_hooks.last_epochs',
        'stays in epoch 0',
    ),
    'LastEpochsPipelineHook and nothing but mosaics': (
        insert(f'{LABELED}.pipeline.2', MOSAIC),
        W,
        f'{LABELED}.pipeline.2',
        'no single image to take in place of a mosaic',
    ),
    'last images of another size': (
        lambda cfg: cfg.default_hooks.last_epochs.update(
            switch_pipeline=[*LOAD, dict(type='RecordedLetterResize', scale=(640, 512)), views(cfg, 'labeled')]
        ),
        W,
        'default_hooks.last_epochs.switch_pipeline',
        'images of 640×512, after 96×64',
    ),
    'unlabeled images of another size': (
        set_(f'{UNLABELED}.pipeline.2.scale', (640, 512)),
        W,
        f'{UNLABELED}.pipeline',
        'images of 640×512, but train_dataloader.dataset.labeled has 96×64',
    ),
    'validation at another size': (
        many(
            lambda cfg: set_('test_dataloader', copy.deepcopy(cfg.val_dataloader))(cfg),
            set_('val_dataloader.dataset.pipeline.1.scale', (640, 512)),
        ),
        W,
        'val_dataloader.dataset.pipeline',
        'images of 640×512, but',
    ),
    'schedule by epochs under iterations': (
        many(ITERATIONS, set_('param_scheduler', [dict(type='CosineAnnealingLR')])),
        E,
        'param_scheduler.0',
        'never fires',
    ),
    'schedule that begins too late': (set_('param_scheduler.1.begin', 20), W, 'param_scheduler.1.begin', 'never fires'),
    'schedule cut off': (set_('param_scheduler.1.end', 30), W, 'param_scheduler.1.end', 'cut off after 20 of 30'),
    'schedule below 0': (
        set_('default_hooks.param_scheduler', dict(type='YOLOv5ParamSchedulerHook', max_epochs=10)),
        E,
        'default_hooks.param_scheduler.max_epochs',
        'below 0',
    ),
    "MMYOLO's schedule cut off": (
        set_('default_hooks.param_scheduler', dict(type='YOLOv5ParamSchedulerHook')),
        W,
        'default_hooks.param_scheduler.max_epochs',
        'cut off after 20 of 300',
    ),
    'switch that never comes': (
        lambda cfg: cfg.merge_from_dict(
            {'custom_hooks': [dict(SWITCH, switch_epoch=20, switch_pipeline=pipeline(cfg, 'labeled'))]}
        ),
        W,
        'custom_hooks.0.switch_epoch',
        '20 of 20',
    ),
    # Trap 16
    'trap 16: switch on a ConcatDataset': (
        many(
            lambda cfg: cfg.merge_from_dict({'custom_hooks': [dict(SWITCH, switch_pipeline=pipeline(cfg, 'labeled'))]}),
            concat,
        ),
        E,
        'custom_hooks.0',
        'no effect on its members',
    ),
    'switch to a pipeline without branch': (
        set_('custom_hooks', [dict(SWITCH, switch_pipeline=[dict(type='LoadImageFromFile')])]),
        E,
        'custom_hooks.0.switch_pipeline',
        'no branch `sup`',
    ),
    # Trap 14: batches
    'trap 14: ratio does not divide': (
        set_('train_dataloader.batch_size', 5),
        E,
        'train_dataloader.batch_size',
        'no multiple of 2',
    ),
    'trap 14: sampler and loader differ': (
        many(MULTI, set_('train_dataloader.batch_size', 5)),
        E,
        'train_dataloader.sampler.batch_size',
        "4, but the loader's batch_size is 5",
    ),
    'three numbers for two sets': (
        set_('train_dataloader.batch_sampler.source_ratio', [1, 2, 1]),
        E,
        'train_dataloader.batch_sampler.source_ratio',
        'for 2 sets',
    ),
    'batches by chance': (delete('train_dataloader.batch_sampler'), E, 'train_dataloader.batch_sampler', 'by chance'),
    'sampler without epochs': (
        set_('train_dataloader.sampler', dict(type='InfiniteSampler')),
        E,
        'train_dataloader.sampler',
        'from a DefaultSampler',
    ),
    'one set for two': (
        lambda cfg: setattr(cfg.train_dataloader, 'dataset', cfg.train_dataloader.dataset.labeled),
        E,
        'train_dataloader.dataset',
        'expects two sets',
    ),
    # Trap 12
    'trap 12: collate without branches': (
        set_('train_dataloader.collate_fn', dict(type='yolov5_collate')),
        E,
        'train_dataloader.collate_fn',
        'knows no branches',
    ),
    'trap 12: preprocessor without branches': (
        set_(f'{PREPROCESSOR}.data_preprocessor.type', 'YOLOv5DetDataPreprocessor'),
        E,
        f'{PREPROCESSOR}.data_preprocessor.type',
        'has no branches',
    ),
    'single preprocessor': (
        set_(PREPROCESSOR, dict(type='mmdet.DetDataPreprocessor')),
        E,
        PREPROCESSOR,
        'knows no branches',
    ),
    'preprocessor that cannot burn in': (
        set_(f'{PREPROCESSOR}.type', 'mmdet.MultiBranchDataPreprocessor'),
        E,
        f'{PREPROCESSOR}.type',
        'no unlabeled part',
    ),
    'batch augments': (
        set_(f'{PREPROCESSOR}.data_preprocessor.batch_augments', [dict(type='mmdet.BatchSyncRandomResize')]),
        E,
        f'{PREPROCESSOR}.data_preprocessor.batch_augments',
        'after the geometry was recorded',
    ),
    # Branches
    'no branches': (
        lambda cfg: pipeline(cfg, 'labeled').__setitem__(-1, views(cfg, 'labeled').sup[0]),
        E,
        f'{LABELED}.pipeline',
        'no branches',
    ),
    'branch of another name': (
        lambda cfg: views(cfg, 'labeled').update(supervised=views(cfg, 'labeled').pop('sup')),
        E,
        f'{LABELED}.pipeline.6',
        'no branch `sup`',
    ),
    'weak view missing': (
        lambda cfg: views(cfg, 'unlabeled').pop('unsup_teacher'),
        E,
        f'{UNLABELED}.pipeline.3',
        'no branch `unsup_teacher`',
    ),
    'branch_field of another name': (
        set_(f'{LABELED}.pipeline.6.branch_field', ['sup']),
        E,
        f'{LABELED}.pipeline.6.branch_field',
        "['unsup_teacher', 'unsup_student']",
    ),
    'trap 11: MultiBranch copies the dataset': (
        set_(f'{LABELED}.pipeline.6.type', 'mmdet.MultiBranch'),
        W,
        f'{LABELED}.pipeline.6.type',
        'copies the whole dataset',
    ),
    # Geometry
    'trap 6: letterbox in a view': (
        strong(dict(type='LetterResize', scale=(96, 64))),
        E,
        f'{STRONG}.type',
        'LetterResize does not record',
    ),
    'trap 7: affine in a view': (
        set_(f'{STRONG}.type', 'YOLOv5RandomAffine'),
        E,
        f'{STRONG}.type',
        'pseudo-boxes land',
    ),
    "trap 7: MMDetection's affine in a view": (
        strong(dict(type='mmdet.RandomAffine')),
        E,
        f'{STRONG}.type',
        'RandomAffine',
    ),
    'trap 7: mosaic in a view': (strong(dict(type='Mosaic', img_scale=(96, 64))), E, f'{STRONG}.type', 'Mosaic'),
    'mosaic in a view, recorded': (
        strong(dict(type='RecordedMosaic', img_scale=(96, 64))),
        E,
        f'{STRONG}.type',
        'within one view',
    ),
    'mix-up in a view': (strong(dict(type='YOLOv5MixUp')), E, f'{STRONG}.type', 'YOLOv5MixUp'),
    'mix-up in a view, recorded': (strong(dict(type='RecordedMixUp')), E, f'{STRONG}.type', 'within one view'),
    'mix-up before the views': (
        insert(f'{UNLABELED}.pipeline.3', dict(type='YOLOv5MixUp', pre_transform=[dict(type='LoadImageFromFile')])),
        W,
        f'{UNLABELED}.pipeline.3.type',
        'padding counts as background',
    ),
    'mosaic whose images nothing loads': (
        many(
            delete('default_hooks.last_epochs'),
            insert(f'{LABELED}.pipeline.2', dict(type='RecordedMosaic', img_scale=(96, 64))),
        ),
        E,
        f'{LABELED}.pipeline.2',
        'no `pre_transform` loads',
    ),
    'mosaic within another transform': (
        insert(
            f'{UNLABELED}.pipeline.2',
            dict(type='RandomChoice', transforms=[[dict(type='RecordedMosaic', img_scale=(96, 64))], []]),
        ),
        E,
        f'{UNLABELED}.pipeline.2.transforms.0.0',
        'no `pre_transform` loads',
    ),
    'mosaic of what was loaded before': (
        insert(f'{UNLABELED}.pipeline.2', dict(type='RecordedMosaic', img_scale=(96, 64), use_cached=True)),
        W,
        f'{UNLABELED}.pipeline.2.use_cached',
        'a resumed run sees other images',
    ),
    'mosaic of a set that hands out no images': (
        many(
            insert(
                f'{UNLABELED}.pipeline.2',
                dict(type='RecordedMosaic', img_scale=(96, 64), pre_transform=[dict(type='LoadImageFromFile')]),
            ),
            set_(f'{UNLABELED}.type', 'mmdet.CocoDataset'),
        ),
        E,
        f'{UNLABELED}.type',
        'CocoDataset hands no other images to a mosaic',
    ),
    'mosaic without its tiles': (
        many(
            insert(
                f'{UNLABELED}.pipeline.2',
                dict(type='RecordedMosaic', img_scale=(96, 64), pre_transform=[dict(type='LoadImageFromFile')]),
            ),
            set_(
                f'{UNLABELED}.pipeline.4.unsup_student.3.meta_keys',
                ('img_path', 'ori_shape', 'img_shape', 'homography_matrix'),
            ),
        ),
        W,
        f'{UNLABELED}.pipeline.4.unsup_student.3.meta_keys',
        'no `mosaic_tiles`',
    ),
    "erasing in the teacher's view": (
        insert(
            f'{UNLABELED}.pipeline.3.unsup_teacher.0',
            dict(type='mmdet.RandomErasing', n_patches=(1, 5), ratio=(0, 0.2)),
        ),
        W,
        f'{UNLABELED}.pipeline.3.unsup_teacher.0.type',
        'gets no pseudo-box',
    ),
    'geometry among random augmentations': (
        strong(
            dict(
                type='mmdet.RandAugment',
                aug_space=[[dict(type='mmdet.Color')], [dict(type='mmdet.Rotate')], [dict(type='mmdet.RandomShift')]],
            )
        ),
        E,
        f'{STRONG}.aug_space.2.0.type',
        'RandomShift does not record',
    ),
    'albumentations in a view': (
        strong(dict(type='mmdet.Albu', transforms=[dict(type='Blur'), dict(type='ShiftScaleRotate')])),
        E,
        f'{STRONG}.transforms.1',
        'ShiftScaleRotate',
    ),
    'within another transform': (
        strong(dict(type='RandomApply', transforms=[dict(type='mmdet.MinIoURandomCrop')])),
        E,
        f'{STRONG}.transforms.0.type',
        'MinIoURandomCrop',
    ),
    'unknown geometry in a view': (strong(dict(type='MyPerspective')), W, f'{STRONG}.type', 'may not record'),
    'letterbox before the views': (
        set_(f'{UNLABELED}.pipeline.2.type', 'LetterResize'),
        W,
        f'{UNLABELED}.pipeline.2.type',
        'padding counts as background',
    ),
    'letterbox of labeled images': (
        set_(f'{LABELED}.pipeline.2.type', 'LetterResize'),
        W,
        f'{LABELED}.pipeline.2.type',
        'padding counts as background',
    ),
    'weak view without its matrix': (
        set_(f'{UNLABELED}.pipeline.3.unsup_teacher.1.meta_keys', ('img_id', 'img_shape')),
        E,
        f'{UNLABELED}.pipeline.3.unsup_teacher.1.meta_keys',
        'cannot be projected',
    ),
    'labeled images without their matrix': (
        delete(f'{LABELED}.pipeline.6.sup.0.meta_keys'),
        W,
        f'{LABELED}.pipeline.6.sup.0.meta_keys',
        'padding counts as background',
    ),
    # Labels
    "MMYOLO's LoadAnnotations": (
        set_(f'{LABELED}.pipeline.1.type', 'LoadAnnotations'),
        W,
        f'{LABELED}.pipeline.1.type',
        'drops crowd boxes',
    ),
    'trap 30: evaluation config': (
        set_('model.semi_train_cfg.pseudo_test_cfg', dict(multi_label=True, score_thr=0.001)),
        E,
        'model.semi_train_cfg.pseudo_test_cfg',
        "an evaluation's",
    ),
    'trap 30: several labels a box': (
        set_('model.semi_train_cfg.pseudo_test_cfg.multi_label', True),
        W,
        'model.semi_train_cfg.pseudo_test_cfg.multi_label',
        'several classes',
    ),
    'trap 30: low threshold': (
        set_('model.semi_train_cfg.pseudo_test_cfg.score_thr', 0.001),
        W,
        'model.semi_train_cfg.pseudo_test_cfg.score_thr',
        '0.001',
    ),
    'thresholds by class: an argument': (
        set_(f'{THRESHOLDS}', dict(type='Fixed', thresholds=[0.4, 0.5])),
        E,
        THRESHOLDS,
        'Expected `thresholds` to be 3 numbers',
    ),
    'thresholds by class: below the floor': (
        many(
            set_(THRESHOLDS, dict(type='Mixture', floor=0.3)),
            set_('model.semi_train_cfg.pseudo_test_cfg.score_thr', 0.25),
        ),
        E,
        THRESHOLDS,
        'Expected floor <= score_thr <= ceiling',
    ),
    'thresholds by class: nobody counts': (
        many(set_(THRESHOLDS, dict(type='ClassFrequency')), delete('default_hooks.thresholds')),
        E,
        THRESHOLDS,
        'no hook counts',
    ),
    'thresholds by class: low floor': (
        set_(THRESHOLDS, dict(type='ClassFrequency', floor=0.01)),
        W,
        f'{THRESHOLDS}.floor',
        '0.01 takes nearly every prior',
    ),
    'head too small': (
        many(
            set_('model.detector.bbox_head.head_module.num_classes', 2),
            set_('model.detector.train_cfg.assigner.num_classes', 2),
        ),
        E,
        'model.detector.bbox_head.head_module.num_classes',
        'the head has 2 classes',
    ),
    'head too large': (
        many(
            set_('model.detector.bbox_head.head_module.num_classes', 80),
            set_('model.detector.train_cfg.assigner.num_classes', 80),
        ),
        E,
        'model.detector.bbox_head.head_module.num_classes',
        'only 3',
    ),
    'assigner of another size': (
        set_('model.detector.train_cfg.assigner.num_classes', 80),
        E,
        'model.detector.train_cfg.assigner.num_classes',
        '80, but the head has 3',
    ),
    'classes in another order': (
        set_('val_dataloader.dataset.metainfo.classes', CLASSES[::-1]),
        E,
        'val_dataloader.dataset.metainfo.classes',
        'stands for another',
    ),
    # Evaluation
    'save_best that nobody reports': (
        set_('default_hooks.checkpoint.save_best', 'coco/bbox_mAP_50'),
        E,
        'default_hooks.checkpoint.save_best',
        'no evaluator reports',
    ),
    'save_best misspelt': (
        set_('default_hooks.checkpoint.save_best', 'teacher/coco/mAP50'),
        E,
        'default_hooks.checkpoint.save_best',
        '`teacher/coco/mAP50`',
    ),
    'trap 10: metas of validation': (
        lambda cfg: cfg.val_dataloader.dataset.pipeline[-1].update(meta_keys=('img_id', 'ori_shape', 'pad_param')),
        E,
        'val_dataloader.dataset.pipeline.3.meta_keys',
        '`scale_factor`',
    ),
    'no such checkpoint': (set_('load_from', 'none.pth'), E, 'load_from', 'none.pth'),
}


@pytest.mark.parametrize('mistake', SEMI_MISTAKES)
def test_a_mistake_in_the_semi_config_is_the_only_finding(cfg, mistake):
    change, level, where, what = SEMI_MISTAKES[mistake]
    change(cfg)
    found = check_config(cfg)
    assert brief(found) == [(level, where)], found
    assert what in found[0].what
    assert found[0].instead


SUPERVISED_MISTAKES = {
    'no λ hook, with settings': (delete('default_hooks.lambda_bg'), E, 'default_hooks', 'nothing reads burn_in'),
    'no λ hook': (
        many(
            *map(delete, ('lambda_bg', 'lambda_bg_warmup', 'lambda_bg_schedule', 'use_focal_bg', 'burn_in')),
            delete('default_hooks.lambda_bg'),
        ),
        W,
        'default_hooks',
        'keeps λ at 1',
    ),
    'teacher hook without a teacher': (
        set_('custom_hooks', [dict(type='mmdet.MeanTeacherHook')]),
        E,
        'custom_hooks.0',
        'has no teacher',
    ),
    'TeacherStudentValLoop': (
        many(set_('val_cfg.type', 'mmdet.TeacherStudentValLoop'), delete('default_hooks.checkpoint.save_best')),
        E,
        'val_cfg.type',
        'with a teacher',
    ),
    'padding: collate': (
        set_('train_dataloader.collate_fn.type', 'yolov5_collate'),
        W,
        'train_dataloader.collate_fn',
        'are penalised',
    ),
    'padding: preprocessor': (
        set_('model.data_preprocessor.type', 'YOLOv5DetDataPreprocessor'),
        W,
        'model.data_preprocessor.type',
        'are penalised',
    ),
    'collate and preprocessor of two kinds': (
        set_('model.data_preprocessor.type', 'mmdet.DetDataPreprocessor'),
        E,
        'train_dataloader.collate_fn',
        'do not belong together',
    ),
    'padding: mosaic': (
        set_('train_dataloader.dataset.pipeline.2.type', 'Mosaic'),
        W,
        'train_dataloader.dataset.pipeline.2.type',
        'padding counts as background',
    ),
    'padding: matrix': (
        set_('train_dataloader.dataset.pipeline.6.meta_keys', ('img_id', 'img_path', 'ori_shape', 'img_shape')),
        W,
        'train_dataloader.dataset.pipeline.6.meta_keys',
        'no `homography_matrix`',
    ),
    'padding: tiles': (
        set_('train_dataloader.dataset.pipeline.6.meta_keys', ('ori_shape', 'img_shape', 'homography_matrix')),
        W,
        'train_dataloader.dataset.pipeline.6.meta_keys',
        'no `mosaic_tiles`',
    ),
    'infinite sampler': (
        set_('train_dataloader.sampler', dict(type='InfiniteSampler')),
        E,
        'train_dataloader.sampler',
        'never ends',
    ),
}


@pytest.mark.parametrize('mistake', SUPERVISED_MISTAKES)
def test_a_mistake_in_the_supervised_config_is_the_only_finding(configs, mistake):
    cfg = copy.deepcopy(configs[SUPERVISED])
    change, level, where, what = SUPERVISED_MISTAKES[mistake]
    change(cfg)
    found = check_config(cfg)
    assert brief(found) == [(level, where)], found
    assert what in found[0].what


def test_letterboxed_tiles_of_a_mosaic(cfg):
    """Their padding is in no matrix; they do not move the view itself."""
    strong(dict(type='Mosaic', img_scale=(96, 64), pre_transform=[dict(type='LetterResize', scale=(96, 64))]))(cfg)
    assert brief(check_config(cfg)) == [('error', f'{STRONG}.type'), ('warning', f'{STRONG}.pre_transform.0.type')]


def test_erasing_and_colours_in_the_students_view_and_mosaics_before_are_no_mistake(cfg):
    """Nor is MMDetection's erasing of labeled images, whose boxes it drops itself."""
    erasing = dict(type='mmdet.RandomErasing', n_patches=(1, 5), ratio=(0, 0.2))
    mosaic = dict(type='RecordedMosaic', img_scale=(96, 64), pre_transform=[dict(type='LoadImageFromFile')])
    for change in (
        strong(erasing),
        insert(f'{LABELED}.pipeline.4', erasing),
        strong(dict(type='mmdet.RandAugment', aug_space=[[dict(type='mmdet.Rotate')], [dict(type='mmdet.Color')]])),
        delete('default_hooks.last_epochs'),
        insert(f'{LABELED}.pipeline.2', mosaic),
        insert(f'{UNLABELED}.pipeline.2', mosaic),
    ):
        change(cfg)
    assert check_config(cfg) == []


def test_mmdetections_semi_detector_with_a_yolo_head(cfg):
    cfg.model.type = 'mmdet.SemiBaseDetector'
    assert brief(check_config(cfg)) == [('error', 'model.detector.test_cfg'), ('warning', 'model.type')]


# Files


def edit(root, name, change):
    coco = json.loads((root / f'{name}.json').read_text())
    change(coco)
    (root / f'{name}.json').write_text(json.dumps(coco))


def drop(name):
    """Take a category and its boxes out of a set."""

    def change(coco):
        (number,) = [c['id'] for c in coco['categories'] if c['name'] == name]
        coco['categories'] = [c for c in coco['categories'] if c['id'] != number]
        coco['annotations'] = [a for a in coco['annotations'] if a['category_id'] != number]

    return change


def relabel(old, new):
    return lambda coco: [a.update(category_id=new) for a in coco['annotations'] if a['category_id'] == old]


def more(coco):
    coco['categories'].append(dict(id=9, name='ring'))
    coco['annotations'][0]['category_id'] = 9


def rename(coco):
    for category in coco['categories']:
        category['name'] += '_2'


def spoil(root):
    images = root / 'images'
    picture = cv2.imread(str(images / 'unlabeled_000.png'))
    (images / 'unlabeled_000.png').write_bytes(bytes(cv2.imencode('.jpg', picture)[1])[:-9])
    (images / 'unlabeled_001.png').write_bytes(b'')
    (images / 'unlabeled_002.png').unlink()
    (images / 'unlabeled_002.png').mkdir()


def lose(coco_root):
    def change(coco):
        first = coco['annotations'][:3]
        for annotation, box in zip(first, ([80, 0, 9, 9], [-30, -30, 30, 40], [3, 3, 0.5, 20])):
            annotation['bbox'] = box

    edit(coco_root, 'labeled', change)


FILE_MISTAKES = {
    'no json': (lambda root: (root / 'labeled.json').unlink(), E, f'{LABELED}.ann_file', 'no such file'),
    'broken json': (
        lambda root: (root / 'val.json').write_text('{'),
        E,
        'val_dataloader.dataset.ann_file',
        'no valid json',
    ),
    'empty set': (
        lambda root: edit(root, 'unlabeled', lambda coco: coco.update(images=[], annotations=[])),
        E,
        f'{UNLABELED}.ann_file',
        '`images` is empty',
    ),
    'no size': (
        lambda root: edit(root, 'unlabeled', lambda coco: coco['images'][3].pop('width')),
        E,
        f'{UNLABELED}.ann_file',
        '`images[3]` has no `width`',
    ),
    'no area': (
        lambda root: edit(root, 'labeled', lambda coco: coco['annotations'][2].pop('area')),
        E,
        f'{LABELED}.ann_file',
        '`annotations[2]` has no `area`',
    ),
    'image missing': (
        lambda root: (root / 'images/val_002.png').unlink(),
        E,
        'val_dataloader.dataset.data_prefix',
        '1 of the 4 images looked at cannot be read: ',
    ),
    'training image missing': (
        lambda root: (root / 'images/labeled_002.png').unlink(),
        W,
        f'{LABELED}.data_prefix',
        '1 of the 6 images looked at cannot be read: ',
    ),
    'training images cut off, empty and no file': (
        spoil,
        W,
        f'{UNLABELED}.data_prefix',
        'unlabeled_000.png (cut off: a JPEG without its end), ',
    ),
    'images elsewhere': (
        lambda root: [path.unlink() for path in (root / 'images').glob('labeled*')],
        E,
        f'{LABELED}.data_prefix',
        '6 of the 6 images looked at cannot be read: ',
    ),
    'boxes that count for nothing': (
        lose,
        W,
        f'{LABELED}.ann_file',
        '3 of 8 boxes in ',
    ),
    'negative size': (
        lambda root: edit(root, 'unlabeled', lambda coco: coco['images'][3].update(width=-80)),
        E,
        f'{UNLABELED}.ann_file',
        '`images[3].width` is -80; expected a finite number >= 1',
    ),
    'none of the classes': (
        lambda root: edit(root, 'val', rename),
        E,
        'val_dataloader.dataset.metainfo.classes',
        'none of square, disc, bar',
    ),
    'class in the middle missing': (
        lambda root: edit(root, 'labeled', drop('disc')),
        E,
        f'{LABELED}.metainfo.classes',
        'lacks disc: the labels',
    ),
    'last class missing': (
        lambda root: edit(root, 'labeled', drop('bar')),
        W,
        f'{LABELED}.metainfo.classes',
        'lacks bar',
    ),
    'class without a box': (
        lambda root: edit(root, 'labeled', relabel(3, 2)),
        W,
        f'{LABELED}.ann_file',
        'no box of bar',
    ),
    'class that the head lacks': (
        lambda root: edit(root, 'labeled', more),
        W,
        f'{LABELED}.metainfo.classes',
        '1 boxes of ring',
    ),
    'no box': (
        lambda root: edit(root, 'labeled', lambda coco: coco['annotations'].clear()),
        E,
        f'{LABELED}.ann_file',
        'no box of square, disc, bar',
    ),
    'json of another order': (
        lambda root: edit(root, 'val', lambda coco: coco['categories'].reverse()),
        E,
        'val_dataloader.dataset.metainfo.classes',
        'in the order bar, disc, square',
    ),
    'labeled image in the unlabeled set': (
        lambda root: edit(root, 'unlabeled', lambda coco: coco['images'][4].update(file_name='./labeled_001.png')),
        W,
        f'{UNLABELED}.ann_file',
        '1 images are in labeled and unlabeled, among them',
    ),
    'validation image in the labeled set': (
        lambda root: edit(root, 'labeled', lambda coco: coco['images'][2].update(file_name='val_003.png')),
        W,
        'val_dataloader.dataset.ann_file',
        'labeled and val',
    ),
}


@pytest.mark.parametrize('mistake', FILE_MISTAKES)
def test_a_mistake_in_a_file_is_the_only_finding(data, tmp_path, mistake):
    root = tmp_path / 'set'
    shutil.copytree(data, root)
    change, level, where, what = FILE_MISTAKES[mistake]
    change(root)
    found = check_config(tiny(SEMI, root, tmp_path / 'work'))
    assert brief(found) == [(level, where)], found
    assert what in found[0].what


def test_a_folder_of_unlabeled_images(data, tmp_path, monkeypatch):
    """Its files are looked at as those that a json names."""
    pool = tmp_path / 'set/pool'
    shutil.copytree(data, tmp_path / 'set')
    (pool / 'deep').mkdir(parents=True)
    for file in (tmp_path / 'set/images').glob('unlabeled_*'):
        file.rename(pool / 'deep' / file.name)
    cfg = tiny(SEMI, tmp_path / 'set', tmp_path / 'work')
    unlabeled = cfg.train_dataloader.dataset.unlabeled
    unlabeled.update(type='ImageFolderDataset', ann_file='', data_prefix=dict(img='pool'))
    assert check_config(cfg) == []
    (pool / 'broken.jpg').write_bytes(b'')
    (finding,) = check_config(cfg)
    assert finding[:2] == ('warning', f'{UNLABELED}.data_prefix')
    assert f'1 of the 11 images looked at cannot be read: {pool}/broken.jpg' in finding.what

    def refuse(folder):
        raise PermissionError(13, 'Permission denied', folder)

    with monkeypatch.context() as patch:
        patch.setattr(data_checks, 'list_images', refuse)
        (finding,) = check_config(cfg)
        assert finding[:2] == ('error', f'{UNLABELED}.data_prefix')
        assert finding.what == f"'{pool}': Permission denied"
    unlabeled.data_prefix = dict(img='none')
    (finding,) = check_config(cfg)
    assert finding[:2] == ('error', f'{UNLABELED}.data_prefix')
    assert finding.what == f'{tmp_path}/set/none: no such folder'


def test_a_list_that_is_no_json_must_be_there(cfg, data, tmp_path):
    unlabeled = cfg.train_dataloader.dataset.unlabeled
    unlabeled.ann_file = str(tmp_path / 'images.txt')
    (finding,) = check_config(cfg)
    assert finding[:3] == ('error', f'{UNLABELED}.ann_file', f'{tmp_path}/images.txt: no such file')
    (tmp_path / 'images.txt').touch()
    assert check_config(cfg) == []


def test_a_filter_that_leaves_nothing_of_a_set_without_boxes(data, tmp_path):
    root = tmp_path / 'set'
    shutil.copytree(data, root)
    content = json.loads((root / 'unlabeled.json').read_text())
    (root / 'unlabeled.json').write_text(json.dumps(dict(content, annotations=[])))
    cfg = tiny(SEMI, root, tmp_path / 'work')
    assert check_config(cfg) == []
    cfg.train_dataloader.dataset.unlabeled.filter_cfg = dict(filter_empty_gt=True)
    (finding,) = check_config(cfg)
    assert finding[:2] == ('error', f'{UNLABELED}.filter_cfg.filter_empty_gt')


def test_an_evaluator_that_reads_another_file(cfg, data, tmp_path):
    shutil.copy(data / 'val.json', tmp_path / 'same.json')
    cfg.val_evaluator.ann_file = str(tmp_path / 'same.json')
    assert check_config(cfg) == []
    cfg.val_evaluator.ann_file = str(data / 'labeled.json')
    (finding,) = check_config(cfg)
    assert finding[:2] == ('error', 'val_evaluator.ann_file') and str(data / 'val.json') in finding.instead
    cfg.val_evaluator.ann_file = str(data / 'none.json')
    (finding,) = check_config(cfg)
    assert finding[:2] == ('error', 'val_evaluator.ann_file') and 'no such file' in finding.what


@pytest.mark.parametrize(
    'evaluator, key, known',
    [
        (dict(type='mmdet.CocoMetric'), 'student/coco/bbox_mAP', True),
        (dict(type='mmdet.CocoMetric'), 'teacher/coco/bbox_mAP50', False),
        (dict(type='mmdet.CocoMetric', prefix='mine'), 'teacher/mine/anything', True),
        (dict(type='mmdet.CocoMetric', prefix='mine'), 'teacher/coco/bbox_mAP', False),
        (dict(type='MyMetric'), 'teacher/mine', True),
        (dict(type='MyMetric'), 'mine', False),
        ([dict(type='mmdet.CocoMetric'), dict(type='MyMetric')], ['auto', 'teacher/mine'], True),
    ],
)
def test_save_best(cfg, evaluator, key, known):
    cfg.val_evaluator, cfg.default_hooks.checkpoint.save_best = evaluator, key
    assert (check_config(cfg, data=False) == []) == known


def test_the_json_decides_the_order_of_labels(cfg):
    """A list of classes in another order than the json's gives the labels other names, in every set."""
    order = ('disc', 'square', 'bar')
    for dataset in (*cfg.train_dataloader.dataset.values(), cfg.val_dataloader.dataset):
        if isinstance(dataset, dict):
            dataset.metainfo = dict(classes=order)
    found = check_config(cfg)
    assert [finding.where for finding in found] == [
        f'{LABELED}.metainfo.classes',
        'val_dataloader.dataset.metainfo.classes',
    ]
    # The labeled set would not be built; plain datasets of MMDetection's are.
    assert [finding.level for finding in found] == ['error', 'warning']
    assert all('the order square, disc, bar' in finding.what for finding in found)
    for dataset in (*cfg.train_dataloader.dataset.values(), cfg.val_dataloader.dataset):
        if isinstance(dataset, dict):
            dataset.type = 'CheckedCocoDataset'
    assert [finding.level for finding in check_config(cfg)] == ['error', 'error']


def test_findings_can_be_printed_whatever_the_name_of_a_file(data, tmp_path):
    root = tmp_path / 'set'
    shutil.copytree(data, root)
    edit(root, 'labeled', lambda coco: coco['images'][0].update(file_name='\udce9.png'))
    (finding,) = check_config(tiny(SEMI, root, tmp_path / 'work'))
    assert finding.level == 'warning' and r'images/\udce9.png (No such file or directory)' in finding.what
    assert str(finding).encode()


@pytest.mark.parametrize('sampler, found', [('GroupMultiSourceSampler', 1), ('MultiSourceSampler', 0)])
def test_trap_13_a_set_without_an_orientation(data, tmp_path, sampler, found):
    root = tmp_path / 'set'
    shutil.copytree(data, root)
    cfg = tiny(SEMI, root, tmp_path / 'work')
    many(MULTI, set_('train_dataloader.sampler.type', f'mmdet.{sampler}'))(cfg)
    assert check_config(cfg) == []
    edit(root, 'labeled', lambda coco: coco['images'][0].update(width=64, height=80))
    findings = check_config(cfg)
    assert brief(findings) == [('error', 'train_dataloader.sampler.type')] * found
    assert all('no image of set 1 is taller than wide' in finding.what for finding in findings)


@pytest.mark.parametrize(
    'counts, found',
    [
        ([{True: 3, False: 1}, {True: 1, False: 2}], []),
        ([{False: 1}, {False: 2}], []),
        ([{True: 1, False: 1}, {False: 2}], ['set 1 is taller']),
        ([{True: 1}, {False: 2}], ['set 1 is taller', 'set 0 is at least as wide']),
    ],
)
def test_orientations(counts, found):
    findings = list(orientations(counts))
    assert (
        [any(part in finding.what for finding in findings) for part in found]
        == [True] * len(found)
        == [True] * len(findings)
    )


# At the start of training


@pytest.fixture(scope='module')
def runner(configs, tmp_path_factory):
    """A Runner with its loops built, as hooks meet it."""
    cfg = copy.deepcopy(configs[SEMI])
    cfg.visualizer.name = cfg.work_dir = str(tmp_path_factory.mktemp('start'))
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    return runner


@pytest.fixture
def logged(monkeypatch):
    lines = []

    def record(text, logger=None, level=logging.INFO):
        if level == logging.WARNING:
            lines.append(text)

    monkeypatch.setattr('mmengine.logging.print_log', record)
    return lines


def test_a_start_without_mistakes_says_nothing(runner, logged):
    check_at_start(runner)
    assert logged == []


def test_a_start_with_mistakes_is_refused_with_all_of_them(runner, logged, monkeypatch):
    cfg = copy.deepcopy(runner.cfg)
    cfg.merge_from_dict(dict(custom_hooks=[dict(type='EMAHook')], burn_in=20))
    cfg.default_hooks.mean_teacher = dict(type='mmdet.MeanTeacherHook')
    monkeypatch.setattr(runner, 'cfg', cfg)
    with pytest.raises(ValueError, match='(?s)mean_teacher: .*buffers.*custom_hooks.0: EMAHook'):
        check_at_start(runner)
    (line,) = [line for line in logged if 'burn_in' in line]
    assert 'no unlabeled image is used' in line


def test_a_start_looks_at_the_sets_as_they_are_built(runner, logged, monkeypatch):
    labeled, unlabeled = runner.train_dataloader.dataset.datasets
    images = [labeled.get_data_info(place)['img_path'] for place in range(3)]
    monkeypatch.setattr(type(unlabeled), 'get_data_info', lambda self, place: dict(img_path=images[place % 3]))
    check_at_start(runner)
    assert len(logged) == 3 and f'3 images are in labeled and unlabeled, among them {images[0]}' in logged[0]
    assert labeled is not unlabeled


def test_a_start_looks_at_the_images(runner, logged, monkeypatch):
    """Training goes on without some of its images, validation does not."""
    labeled, _ = runner.train_dataloader.dataset.datasets
    original = type(labeled).get_data_info

    def moved(self, place):
        info = original(self, place)
        gone = {('labeled', 1), ('labeled', 4), ('val', 2)}
        name = Path(self.ann_file).stem
        return dict(info, img_path=info['img_path'] + '.gone') if (name, place) in gone else info

    monkeypatch.setattr(type(labeled), 'get_data_info', moved)
    with pytest.raises(ValueError, match='val_dataloader.dataset: 1 of the 4 .*val_002.png.gone .No such') as caught:
        check_at_start(runner)
    assert 'labeled' not in str(caught.value)
    assert logged[0].startswith('train_dataloader.dataset.labeled: 2 of the 6 images looked at cannot be read: ')
    assert 'labeled_001.png.gone' in logged[0] and 'labeled_004.png.gone' in logged[0]


def test_hooks_registered_by_hand_count_at_the_start(runner, logged, monkeypatch):
    """A Runner's user may add hooks that its config does not name, or give no config at all."""
    cfg = copy.deepcopy(runner.cfg)
    del cfg.default_hooks['mean_teacher'], cfg.default_hooks['lambda_bg']
    monkeypatch.setattr(runner, 'cfg', cfg)
    check_at_start(runner)
    monkeypatch.setattr(runner, 'cfg', Config({}))
    check_at_start(runner)
    assert logged == []


def test_trap_13_at_the_start(runner, logged, monkeypatch):
    groups = [{0: 2, 1: 5}, {0: 0, 1: 5}]
    monkeypatch.setattr(runner.train_dataloader.sampler, 'group2size_per_source', groups, raising=False)
    with pytest.raises(ValueError, match='set 1 is taller than wide'):
        check_at_start(runner)
