"""Configs without mistakes, configs with strange values, and the checks at the start of training."""

import copy
import importlib.util
import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmyolo_bgpenalty.config_check import check
from mmyolo_bgpenalty.config_check.check import check_at_start, check_config
from mmyolo_bgpenalty.config_check.settings import plan
from tests.helpers.tiny import CONFIGS, ROOT, SEMI

ALL = sorted(path.name for path in CONFIGS.glob('*.py'))
# Their images are not part of the package.
ELSEWHERE = [name for name in ALL if name.endswith(('bccd.py', 'coco.py', 'own.py', 'own_empty.py'))]
TRAIN = 'train_dataloader.dataset'
E, W = 'error', 'warning'


def brief(findings):
    return [(finding.level, finding.where) for finding in findings]


# No false alarm


@pytest.mark.parametrize('name', ALL)
def test_shipped_configs_have_no_mistake(name, monkeypatch):
    """The solar set is made on first use, so its files may be missing."""
    monkeypatch.chdir(ROOT)
    assert check_config(Config.fromfile(CONFIGS / name), data=name not in ELSEWHERE) == []


@pytest.mark.parametrize('name', ELSEWHERE)
def test_only_missing_data_is_found(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = check_config(Config.fromfile(CONFIGS / name))
    train = (f'{TRAIN}.labeled', f'{TRAIN}.unlabeled') if 'semi' in name else (TRAIN,)
    train = (f'{TRAIN}.labeled',) if 'own_empty' in name else train
    files = [(E, f'{path}.ann_file') for path in (*train, 'val_dataloader.dataset')]
    assert brief(found) == files + [(E, f'{TRAIN}.empty')] * ('own_empty' in name)
    assert all('no such file' in finding.what for finding in found)


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
    # The config of ByteTrack repeats a variable of its base. Nothing reads this variable.
    assert brief(check_config(cfg, data=False)) == [(W, 'interval')] * ('bytetrack' in name)


@pytest.mark.parametrize('cfg', [{}, dict(model=None, custom_hooks=None), dict(model=dict(type='mmdet.RetinaNet'))])
def test_an_incomplete_config_has_no_mistake(cfg):
    assert check_config(cfg) == []


def test_a_strange_value_does_not_stop_the_other_checks(cfg):
    cfg.burn_in = 'four'
    cfg.custom_hooks = [dict(type='EMAHook')]
    found = check_config(cfg)
    assert brief(found) == [(E, 'custom_hooks.0'), (W, 'check burn in')]
    assert 'not checked, because a setting has an unexpected value: ValueError: Expected `burn_in`' in found[1].what


def test_a_mistake_in_the_test_set_is_a_warning(cfg):
    cfg.test_dataloader = copy.deepcopy(cfg.test_dataloader)
    cfg.test_dataloader.dataset.ann_file = 'none.json'
    assert brief(check_config(cfg)) == [(W, 'test_dataloader.dataset.ann_file')]


# At the start of training


@pytest.fixture(scope='module')
def runner(configs, tmp_path_factory):
    """A Runner as a hook gets it before training."""
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
        assert level == logging.WARNING
        lines.append(text)

    monkeypatch.setattr(check, 'print_log', record)
    return lines


def test_a_start_with_mistakes_is_refused_and_all_are_named(runner, logged, monkeypatch):
    cfg = copy.deepcopy(runner.cfg)
    cfg.merge_from_dict(dict(custom_hooks=[dict(type='EMAHook')], burn_in=20))
    cfg.default_hooks.mean_teacher = dict(type='mmdet.MeanTeacherHook')
    monkeypatch.setattr(runner, 'cfg', cfg)
    with pytest.raises(ValueError, match='(?s)mean_teacher: .*skips the buffers.*custom_hooks.0: EMAHook'):
        check_at_start(runner)
    (line,) = [line for line in logged if 'burn_in' in line]
    assert 'no unlabeled image is used' in line


def test_a_start_looks_at_the_images_of_the_built_sets(runner, logged, monkeypatch):
    """Training can do without some images, validation cannot."""
    labeled, _ = runner.train_dataloader.dataset.datasets
    original = type(labeled).get_data_info
    shared = original(labeled, 0)['img_path']
    paths = {('unlabeled', 3): shared, ('labeled', 1): 'a.gone', ('labeled', 4): 'b.gone', ('val', 2): 'c.gone'}

    def changed(self, place):
        info = original(self, place)
        return dict(info, img_path=paths.get((Path(self.ann_file).stem, place), info['img_path']))

    monkeypatch.setattr(type(labeled), 'get_data_info', changed)
    with pytest.raises(ValueError, match='val_dataloader.dataset: 1 of the 4 .*: c.gone .No such') as caught:
        check_at_start(runner)
    assert 'labeled' not in str(caught.value)
    spoilt, common = logged
    assert spoilt.startswith(f'{TRAIN}.labeled: 2 of the 6 images looked at cannot be read: a.gone ')
    assert 'b.gone' in spoilt
    assert common.startswith(f'{TRAIN}.unlabeled: 1 images are also in {TRAIN}.labeled')


def test_a_start_knows_how_long_the_run_is(runner, logged, monkeypatch):
    """The length of an epoch is that of the loader. The settings of the tiny run do not fit into 100 iterations."""
    monkeypatch.setattr(plan, 'epoch_length', lambda parts: parts.epoch_length)
    check_at_start(runner)
    assert any('the run has 100 iterations (20 epochs of 5): too few' in line for line in logged)
    assert any('the teacher lags: it averages the last 250 iterations of 60' in line for line in logged)


class Pictures:
    """A dataset of one image. ``info`` may contain its boxes."""

    def __init__(self, **info):
        self.get_data_info = lambda place: info

    def __len__(self):
        return 1


@pytest.mark.parametrize('info, refused', [(dict(instances=[]), True), (dict(instances=[{}]), False), ({}, False)])
def test_a_start_without_boxes_in_training_is_refused(runner, logged, monkeypatch, info, refused):
    """A dataset without `instances` may still have boxes."""
    monkeypatch.setattr(runner.train_loop, 'dataloader', SimpleNamespace(dataset=Pictures(**info), sampler=None))
    message = f'{TRAIN}: none of its images has a box'
    with pytest.raises(ValueError, match=message) if refused else nullcontext():
        check_at_start(runner)


@pytest.mark.parametrize('members', [None, 3])
def test_other_datasets_and_samplers_cause_no_finding(runner, monkeypatch, logged, members):
    """One dataset, or several without `get_data_info`."""
    labeled = runner.train_dataloader.dataset.datasets[0]
    dataset = labeled if members is None else SimpleNamespace(datasets=[SimpleNamespace()] * members)
    sampler = SimpleNamespace(group2size_per_source=[{1: 1}, {1: 2}])
    monkeypatch.setattr(runner.train_loop, 'dataloader', SimpleNamespace(dataset=dataset, sampler=sampler))
    check_at_start(runner)
    assert logged == []


def test_two_sets_of_one_kind_are_not_called_labeled_and_unlabeled(runner, monkeypatch, logged):
    labeled = runner.train_dataloader.dataset.datasets[0]
    dataset = SimpleNamespace(datasets=[labeled, labeled])
    monkeypatch.setattr(runner.train_loop, 'dataloader', SimpleNamespace(dataset=dataset, sampler=None))
    check_at_start(runner)
    (line,) = logged
    assert line.startswith(f'{TRAIN}.datasets.1: 6 images are also in {TRAIN}.datasets.0')
    assert line.split(': ')[-1].startswith('they count twice')


@pytest.mark.parametrize('case', ['a lock', 'an index with a size'])
def test_what_only_the_run_itself_can_load_is_left_alone(runner, monkeypatch, logged, case):
    dataset = runner.val_loop.dataloader.dataset
    if case == 'a lock':  # cannot be copied
        step = partial(lambda lock, results: results, Lock())
        monkeypatch.setattr(dataset.pipeline, 'transforms', [step, *dataset.pipeline.transforms])
    else:  # its own sampler gives it
        own = type('Own', (type(dataset),), dict(__getitem__=lambda self, index: self.prepare_data(index[0])))
        monkeypatch.setattr(dataset, '__class__', own)
    check_at_start(runner)
    assert logged == []


def test_hooks_that_the_user_registered_are_known(runner, logged, monkeypatch):
    """The config does not name the hooks, or there is no config."""
    cfg = copy.deepcopy(runner.cfg)
    del cfg.default_hooks['mean_teacher'], cfg.default_hooks['lambda_bg']
    monkeypatch.setattr(runner, 'cfg', cfg)
    check_at_start(runner)
    monkeypatch.setattr(runner, 'cfg', Config({}))
    check_at_start(runner)
    assert logged == []


@pytest.mark.parametrize(
    'groups, what',
    [
        ([{0: 2, 1: 5}, {0: 0, 1: 5}], 'set 1 is taller than wide'),
        ([{0: 1}, {0: 1, 1: 2}], 'set 0 is at least as wide'),
    ],
)
def test_a_sampler_that_would_wait_forever_is_refused(runner, monkeypatch, groups, what):
    monkeypatch.setattr(runner.train_dataloader.sampler, 'group2size_per_source', groups, raising=False)
    with pytest.raises(ValueError, match=what):
        check_at_start(runner)


def test_hints_for_a_config_that_gives_variables_to_config(data, tmp_path):
    leaf = tmp_path / 'mine.py'
    leaf.write_text(
        "_base_ = __import__('mmyolo_bgpenalty').config('yolov8_semi_bgpenalty_own.py', classes=('square', 'disk'),"
        ' max_epochs=1, img_scale=(64, 64))\n'
        'burn_in = 1\n'
        f"data = dict(data_root='{data}/')\n"
        "train_dataloader = dict(batch_size=4, dataset=dict(labeled=dict(ann_file='labeled.json', **data), "
        "unlabeled=dict(ann_file='unlabeled.json', **data)))\n"
        "val_dataloader = dict(dataset=dict(ann_file='val.json', **data))\n"
    )
    found = [(finding.where, finding.instead) for finding in check_config(Config.fromfile(leaf))]
    of_classes = [text for where, text in found if where == 'train_dataloader.dataset.labeled.metainfo.classes']
    add, remove = sorted(of_classes)
    assert add == 'add them to `classes` in config(…)'
    assert remove.startswith('is disc meant? Otherwise add it') and remove.endswith('from `classes` in config(…)')
    assert 'in config(…)' in dict(found)['max_epochs']
