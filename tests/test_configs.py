"""The shipped configs build, and state what the README says of them."""

import ast

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import HOOKS, init_default_scope

import mmyolo_bgpenalty
from tests.helpers.tiny import CONFIGS, SEMI

ALL = sorted(path.name for path in CONFIGS.glob('*.py'))
SEMIS = [name for name in ALL if 'semi' in name]


def hooks(cfg):
    return {hook.type: hook for hook in (*cfg.default_hooks.values(), *cfg.custom_hooks)}


@pytest.mark.parametrize('name', ALL)
def test_config_builds(name):
    init_default_scope('mmyolo')
    cfg = Config.fromfile(CONFIGS / name)
    model = MODELS.build(cfg.model)
    student = getattr(model, 'student', model)
    classes = len(
        cfg.train_dataloader.dataset.get('labeled', cfg.train_dataloader.dataset).metainfo.get('classes', range(80))
    )
    assert student.bbox_head.num_classes == student.bbox_head.assigner.num_classes == classes
    for hook in ('LambdaBgSchedulerHook', 'BurnInMeanTeacherHook' if name in SEMIS else 'EMAHook'):
        HOOKS.build(dict(hooks(cfg)[hook]))
    # Trap 4: a teacher, or the EMA of a single model.
    assert ('EMAHook' in hooks(cfg)) != ('BurnInMeanTeacherHook' in hooks(cfg))


@pytest.mark.parametrize('name', ALL)
def test_loaders_have_lasting_workers_and_pinned_memory(name):
    cfg = Config.fromfile(CONFIGS / name)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.num_workers >= 2 and loader.persistent_workers is True and loader.pin_memory is True


@pytest.mark.parametrize('path', [*CONFIGS.glob('*.py'), *CONFIGS.glob('_base_/*/*.py')], ids=lambda path: path.stem)
def test_configs_state_data_alone_and_leaves_are_short(path):
    """MMEngine takes a config that imports for one of another syntax. Leaves can be read in two minutes."""
    text = path.read_text(encoding='utf-8')
    found = {type(node) for node in ast.walk(ast.parse(text))}
    assert not found & {ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Lambda, ast.For, ast.While}
    assert path.parent != CONFIGS or len(text.splitlines()) <= 30


@pytest.mark.parametrize('name', SEMIS)
def test_labeled_and_unlabeled_sets_belong_together(name):
    dataset = Config.fromfile(CONFIGS / name).train_dataloader.dataset
    assert dataset.unlabeled.ann_file == dataset.labeled.ann_file.replace('.json', '-unlabeled.json')
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
    file = CONFIGS / f'yolov8_semi_bgpenalty_{preset}.py'
    cfg = Config.fromfile(file)
    assert (cfg.lambda_bg, cfg.lambda_bg_warmup, cfg.lambda_bg_schedule, cfg.use_focal_bg) == settings
    base = Config.fromfile(CONFIGS / SEMI)
    assert cfg.model == base.model and cfg.default_hooks == base.default_hooks


def values_of(node, *keys):
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        if key in keys:
            yield child
        elif isinstance(child, (dict, list)):
            yield from values_of(child, *keys)


def test_coco_takes_mmdetections_layout():
    cfg = Config.fromfile(CONFIGS / 'yolov8_semi_bgpenalty_coco.py')
    dataset = cfg.train_dataloader.dataset
    assert dataset.labeled.ann_file == 'semi_anns/instances_train2017.1@10.json'
    pipelines = [dataset.labeled.pipeline, dataset.unlabeled.pipeline]
    for pipeline in (*pipelines, cfg.val_dataloader.dataset.pipeline):
        assert {tuple(scale) for scale in values_of(pipeline, 'scale', 'img_scale')} == {(640, 640)}
    assert {tuple(border) for border in values_of(pipelines, 'border')} == {(-320, -320)}
    assert len(list(values_of(dataset.labeled.pipeline, 'img_scale'))) == 2  # MixUp's partners are mosaics, too
    assert cfg.default_hooks.param_scheduler.type == 'YOLOv5ParamSchedulerHook'


def test_other_projects_find_the_configs(tmp_path):
    child = tmp_path / 'mine.py'
    child.write_text(f"_base_ = __import__('mmyolo_bgpenalty').config('{SEMI}')\nlambda_bg = 2.0\n")
    cfg = Config.fromfile(child)
    assert cfg.lambda_bg == 2.0 and cfg.model.type == 'SemiYOLODetector'
    with pytest.raises(FileNotFoundError, match=f"'none.py' among .*{SEMI}"):
        mmyolo_bgpenalty.config('none.py')


def test_the_readme_shows_the_config_it_names():
    readme = (CONFIGS.parent / 'README.md').read_text()
    config = (CONFIGS / 'yolov8_semi_bgpenalty_bccd.py').read_text()
    assert config.partition('\n')[2] in readme
