"""config(): paths of shipped configs, with new values of their variables."""

import os
import re
import subprocess
import sys

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmyolo_bgpenalty import config
from mmyolo_bgpenalty.utils.shipped_configs import MODEL_SIZES

OWN = ('yolov8_semi_bgpenalty_own.py', 'yolov8_bgpenalty_own.py')
# deepen_factor, widen_factor and last_stage_out_channels of MMYOLO's configs of YOLOv8
SIZES = dict(n=(0.33, 0.25, 1024), s=(0.33, 0.5, 1024), m=(0.67, 0.75, 768), l=(1.0, 1.0, 512), x=(1.0, 1.25, 512))


def read(name, **variables):
    return Config.fromfile(config(name, **variables))


def detector_of(cfg):
    return cfg.model.get('detector', cfg.model)


@pytest.mark.parametrize('name', [*OWN, 'yolov8_semi_bgpenalty.py', 'yolov8_semi_bgpenalty_coco.py'])
def test_one_variable_sets_the_size_of_every_pipeline(name):
    cfg = read(name, img_scale=(512, 384))
    dataset = cfg.train_dataloader.dataset
    pipelines = [part.pipeline for part in (dataset.get('labeled', dataset), dataset.get('unlabeled', dataset))]
    for pipeline in (*pipelines, cfg.val_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline):
        assert set(re.findall(r"'(?:img_)?scale': (\(.*?\))", str(pipeline))) == {'(512, 384)'}
        assert set(re.findall(r"'border': (\(.*?\))", str(pipeline))) <= {'(-256, -192)'}
    assert "'border'" in str(pipelines[0])  # there was a mosaic to cut


@pytest.mark.parametrize('name', OWN)
@pytest.mark.parametrize('size', SIZES)
def test_one_variable_sets_the_size_of_the_model(name, size):
    detector = detector_of(read(name, model_size=size))
    backbone, neck, module = detector.backbone, detector.neck, detector.bbox_head.head_module
    found = (backbone.deepen_factor, backbone.widen_factor, backbone.last_stage_out_channels)
    assert found == SIZES[size] and (neck.deepen_factor, neck.widen_factor) == found[:2]
    assert module.widen_factor == found[1]
    assert neck.in_channels == neck.out_channels == module.in_channels == [256, 512, found[2]]


def test_every_size_can_be_built():
    init_default_scope('mmyolo')
    sizes = {size: sum(p.numel() for p in build_small(size).parameters()) for size in MODEL_SIZES}
    assert sorted(sizes, key=lambda size: sizes[size]) == ['n/2', 'n', 's', 'm', 'l', 'x']


def build_small(size):
    return MODELS.build(read('yolov8_bgpenalty_own.py', model_size=size).model)


@pytest.mark.parametrize('name', OWN)
def test_the_base_for_own_pictures_is_a_plain_one(name):
    cfg = read(name, classes=('cat', 'dog'), max_epochs=50)
    detector = detector_of(cfg)
    assert detector.bbox_head.head_module.num_classes == detector.train_cfg.assigner.num_classes == 2
    assert detector.backbone.widen_factor == 0.5 and '(640, 640)' in str(cfg.test_dataloader)
    text = str(cfg.train_dataloader)
    assert "'mmdet.RandomFlip', 'prob': 0.5}" in text and 'vertical' not in text and 'diagonal' not in text
    dataset = cfg.train_dataloader.dataset
    for part in (dataset.get('labeled', dataset), dataset.get('unlabeled', dataset), cfg.val_dataloader.dataset):
        assert part.type == 'CheckedCocoDataset' and part.metainfo.classes == ('cat', 'dog')
    assert cfg.train_cfg.max_epochs == 50 and cfg.train_cfg.val_interval == 5


def test_variables_of_a_leaf_win_over_those_of_the_configs_between(tmp_path):
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(f"_base_ = __import__('mmyolo_bgpenalty').config('{OWN[0]}', img_scale=(64, 96))\nburn_in = 2\n")
    cfg = Config.fromfile(leaf)
    assert "'scale': (64, 96)" in str(cfg.val_dataloader) and cfg.burn_in == 2
    assert cfg.model.detector.backbone.widen_factor == 0.5  # a variable of the config between stays
    assert "'scale': (640, 640)" in str(read(OWN[0]).val_dataloader)  # the shipped file is unchanged


@pytest.mark.parametrize(
    'variables, message',
    [
        (dict(img_scal=(64, 64)), 'no variable `img_scal`; is it img_scale?'),
        (dict(zzz=1), 'no variable `zzz`; is it .*classes.*img_scale'),
        (dict(model_size='medium'), "`model_size` to be .*'medium'"),
        (dict(img_scale=640), r'`img_scale` to be \(width, height\), .*, but got 640'),
        (dict(max_epochs=float('inf')), '`max_epochs` to be a plain number, .* but got a float: inf'),
        (dict(train_dataloader=dict(batch_size=4)), '`train_dataloader` is no variable: write train_dataloader'),
    ],
)
def test_a_variable_that_does_not_exist(variables, message):
    with pytest.raises(ValueError, match=message):
        config(OWN[0], **variables)


def test_the_copies_are_removed_at_the_end():
    code = f"from mmyolo_bgpenalty import config; print(config('{OWN[0]}', img_scale=(64, 64)))"
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    path = run.stdout.strip()
    assert path.endswith(OWN[0]) and not os.path.exists(os.path.dirname(path))
