"""The shipped configs can be built, and have the values that README states."""

import ast
import re

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import HOOKS, init_default_scope

import mmyolo_bgpenalty
from tests.helpers.tiny import CONFIGS, SEMI

ALL = sorted(path.name for path in CONFIGS.glob('*.py'))
SEMIS = [name for name in ALL if 'semi' in name]


@pytest.mark.parametrize('name', ALL)
def test_config_builds(name):
    init_default_scope('mmyolo')
    cfg = Config.fromfile(CONFIGS / name)
    model = MODELS.build(cfg.model)
    head = getattr(model, 'student', model).bbox_head
    dataset = cfg.train_dataloader.dataset
    classes = len(dataset.get('labeled', dataset).metainfo.get('classes', range(80)))
    assert head.num_classes == head.assigner.num_classes == classes
    hooks = {hook.type: hook for hook in (*cfg.default_hooks.values(), *cfg.custom_hooks)}
    teacher, other = ('BurnInMeanTeacherHook', 'EMAHook') if name in SEMIS else ('EMAHook', 'BurnInMeanTeacherHook')
    for hook in ('LambdaBgSchedulerHook', teacher):
        HOOKS.build(dict(hooks[hook]))
    assert other not in hooks  # a model has a teacher or an EMA, not both
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.num_workers >= 2 and loader.persistent_workers and loader.pin_memory


@pytest.mark.parametrize('path', [*CONFIGS.glob('*.py'), *CONFIGS.glob('_base_/*/*.py')], ids=lambda path: path.stem)
def test_configs_have_no_code_and_leaf_configs_are_short(path):
    """MMEngine may parse a config with an import as a Python-style config."""
    text = path.read_text(encoding='utf-8')
    found = {type(node) for node in ast.walk(ast.parse(text))}
    assert not found & {ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Lambda, ast.For, ast.While}
    assert path.parent != CONFIGS or len(text.splitlines()) <= 30


@pytest.mark.parametrize('name', SEMIS)
def test_labeled_and_unlabeled_images_are_of_one_set(name):
    dataset = Config.fromfile(CONFIGS / name).train_dataloader.dataset
    names = ['annotations/train.json', 'annotations/unlabeled.json']  # what `init` writes
    if not name.endswith('own.py'):
        names = [dataset.labeled.ann_file, dataset.labeled.ann_file.replace('.json', '-unlabeled.json')]
    assert [dataset.labeled.ann_file, dataset.unlabeled.ann_file] == names
    same = ('type', 'data_root', 'data_prefix', 'metainfo')
    assert [dataset.labeled[key] for key in same] == [dataset.unlabeled[key] for key in same]


@pytest.mark.parametrize(
    'preset, settings',
    [
        ('balanced', (1.0, 5, 'linear', False)),
        ('conservative', (1.5, 10, 'linear', True)),
        ('aggressive', (0.5, 3, 'linear', False)),
    ],
)
def test_presets(preset, settings):
    cfg = Config.fromfile(CONFIGS / f'yolov8_semi_bgpenalty_{preset}.py')
    assert (cfg.lambda_bg, cfg.lambda_bg_warmup, cfg.lambda_bg_schedule, cfg.use_focal_bg) == settings


def test_coco_takes_mmdetections_layout():
    cfg = Config.fromfile(CONFIGS / 'yolov8_semi_bgpenalty_coco.py')
    dataset = cfg.train_dataloader.dataset
    assert dataset.labeled.ann_file == 'semi_anns/instances_train2017.1@10.json'
    for part in (dataset.labeled, dataset.unlabeled, cfg.val_dataloader.dataset):
        assert set(re.findall(r"'(?:img_)?scale': (\(.*?\))", str(part.pipeline))) == {'(640, 640)'}
    text = str(dataset.labeled.pipeline)
    assert set(re.findall(r"'border': (\(.*?\))", text)) == {'(-320, -320)'}
    assert text.count("'RecordedMosaic'") == 2  # MixUp's other images are mosaics, too
    assert cfg.default_hooks.param_scheduler.type == 'YOLOv5ParamSchedulerHook'


def test_other_projects_find_the_configs(tmp_path):
    child = tmp_path / 'mine.py'
    child.write_text(f"_base_ = __import__('mmyolo_bgpenalty').config('{SEMI}')\nlambda_bg = 2.0\n")
    cfg = Config.fromfile(child)
    assert cfg.lambda_bg == 2.0 and cfg.model.type == 'SemiYOLODetector'
    with pytest.raises(FileNotFoundError, match=f"'none.py'; the shipped configs are .*{SEMI}"):
        mmyolo_bgpenalty.config('none.py')
