import copy

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.config_check.parts import ConfigParts
from mmyolo_bgpenalty.config_check.sizes import _branches
from tests.helpers.changes import change
from tests.helpers.tiny import CLASSES, CONFIGS, INPUT, SEMI, SUPERVISED

LABELED, UNLABELED = (f'train_dataloader.dataset.{name}.pipeline' for name in ('labeled', 'unlabeled'))
VAL, SWITCH = 'val_dataloader.dataset.pipeline', 'default_hooks.last_epochs.switch_pipeline'
LOAD = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]
LETTERBOX = dict(type='RecordedLetterResize', scale=(640, 512))
PACK = dict(type='mmdet.PackDetInputs', meta_keys=('img_id',))
MOSAIC = dict(type='RecordedMosaic', img_scale=INPUT, pre_transform=LOAD)
AFFINE = dict(type='RecordedYOLOv5RandomAffine', border=(-48, -32))
E, W = 'error', 'warning'


def switch_to_another_size(cfg):
    views = cfg.train_dataloader.dataset.labeled.pipeline[-1]
    cfg.default_hooks.last_epochs.switch_pipeline = [*LOAD, LETTERBOX, views]


def validate_at_another_size(cfg):
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.val_dataloader.dataset.pipeline[1].scale = (640, 512)


def larger_canvas(cfg):
    """What an override of the mosaic's `img_scale` alone gives: the affine transform cuts out too much."""
    canvas = dict(type='RandomChoice', transforms=[[dict(MOSAIC, img_scale=(672, 608)), AFFINE]], prob=[1.0])
    cfg.train_dataloader.dataset.labeled.pipeline[2] = canvas


def two_sizes(cfg):
    cfg.train_dataloader.dataset.labeled.pipeline[2] = dict(type='RandomChoice', transforms=[[LETTERBOX], [MOSAIC]])


@pytest.mark.parametrize(
    'changes, level, where, what',
    [
        (switch_to_another_size, W, SWITCH, f'640×512, but {LABELED} has 96×64'),
        ({f'{UNLABELED}.2.scale': (640, 512)}, W, UNLABELED, f'images of 640×512, but {LABELED} has 96×64'),
        (validate_at_another_size, W, VAL, '640×512, but'),
        (two_sizes, E, LABELED, '192×128, 640×512 pixels, so they do not fit into one batch'),
    ],
)
def test_pipelines_with_different_sizes(cfg, changes, level, where, what, only_finding):
    change(cfg, changes)
    found = [finding for finding in check_config(cfg) if (finding.level, finding.where) == (level, where)]
    only_finding(found, level, where, what)


def test_a_canvas_that_the_affine_transform_does_not_cut_to_size(cfg):
    change(cfg, larger_canvas)
    messages = [finding.what for finding in check_config(cfg)]
    assert messages and all(f'but {LABELED} has 1248×1152' in message for message in messages)


def test_a_size_that_the_network_cannot_take(supervised, cfg):
    """The preprocessor of the semi-supervised config pads images to multiples of 32."""
    change(supervised, {f'{VAL}.1.scale': (96, 72)})
    found = [finding.what for finding in check_config(supervised) if finding.level == E]
    assert found == ['images of 96×72: the network needs multiples of 32']
    change(cfg, {f'{VAL}.1.scale': (96, 72)})
    assert not [finding for finding in check_config(cfg) if finding.level == E]


@pytest.mark.parametrize('scale, expected', [((64, 64), True), ((96, 48), True), (INPUT, False), ((640, 512), False)])
def test_large_jpegs_must_not_be_reduced_below_a_later_size(supervised, scale, expected, only_finding):
    pipeline = [dict(type='LoadReducedImage', scale=scale), LOAD[1], dict(LETTERBOX, scale=INPUT), PACK]
    change(supervised, {'train_dataloader.dataset.pipeline': pipeline})
    found = [finding for finding in check_config(supervised) if 'LoadReducedImage' in finding.what]
    if expected:
        what = f'RecordedLetterResize resizes to 96×64, but LoadReducedImage loads for {scale[0]}×{scale[1]}'
        only_finding(found, W, 'train_dataloader.dataset.pipeline.2', what)
    else:
        assert not found


STEPS = {
    'resize': [dict(type='mmdet.Resize', scale=(50, 40))],
    'letterbox': [LETTERBOX],
    'mosaic': [MOSAIC],
    'canvas': [MOSAIC, AFFINE, dict(type='YOLOv5HSVRandomAug')],
    'flip': [LETTERBOX, dict(type='mmdet.RandomFlip', prob=1.0, direction='diagonal')],
    'mixed': [LETTERBOX, dict(type='RecordedMixUp', prob=1.0, pre_transform=[*LOAD, LETTERBOX])],
    'applied': [dict(type='RandomApply', transforms=[LETTERBOX], prob=1.0), LETTERBOX],
    'never': [dict(type='RandomChoice', transforms=[[LETTERBOX], [MOSAIC]], prob=[1.0, 0.0])],
}


@pytest.mark.parametrize('steps', STEPS)
def test_the_size_is_what_the_pipeline_returns(data, steps):
    init_default_scope('mmyolo')
    pipeline = [*LOAD, *STEPS[steps], PACK]
    part = dict(
        type='CheckedCocoDataset', data_root=f'{data}/', ann_file='labeled.json', metainfo=dict(classes=CLASSES)
    )
    dataset = DATASETS.build(dict(part, data_prefix=dict(img='images/'), pipeline=pipeline))
    height, width = dataset[0]['inputs'].shape[1:]
    assert list(_branches(pipeline, {None}, 'mmyolo')) == [{(width, height)}]


@pytest.mark.parametrize('step', [dict(type='mmdet.Resize', scale=(50, 40), keep_ratio=True), dict(type='MyCrop')])
def test_a_size_that_is_not_known_is_not_reported(step):
    assert list(_branches([*LOAD, LETTERBOX, step], {None}, 'mmyolo')) == [{None}]


def test_the_shipped_configs_have_one_size():
    for name in (SEMI, SUPERVISED, 'yolov8_semi_bgpenalty_views.py', 'yolov8_semi_bgpenalty_own.py'):
        parts = ConfigParts(Config.fromfile(CONFIGS / name))
        for dataset in parts.datasets:
            branches = list(_branches(dataset.node['pipeline'], {None}, 'mmyolo'))
            assert branches and all(len(sizes) == 1 and None not in sizes for sizes in branches), (name, dataset.path)
