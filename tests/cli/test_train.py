"""The commands train and test, MMDetection's train.py, and a project outside this repository."""

import json
import logging
import multiprocessing
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmyolo.registry import TRANSFORMS
from torch.utils.data import DataLoader

from mmyolo_bgpenalty import lambda_bg_at
from mmyolo_bgpenalty.cli import test as test_command
from mmyolo_bgpenalty.cli import train as train_command
from tests.helpers.tiny import CLASSES, INPUT, ROOT, SEMI, load

OURS = ROOT / 'tools/train.py'
MMDET = Path(find_spec('mmdet').origin).parent / '.mim/tools/train.py'
OVERRIDES = ('lambda_bg=1.5', 'lambda_bg_warmup=10', 'lambda_bg_schedule=cosine', 'use_focal_bg=True', 'burn_in=3')


@TRANSFORMS.register_module()
class MineOfTestTrain:
    """A transform of the user: this file is not in the package."""

    def __init__(self, **options):
        pass

    def __call__(self, results):
        raise ValueError('mine')


@pytest.fixture(scope='module')
def config(data, tmp_path_factory):
    """A file with the shipped semi-supervised config, made tiny. It trains five epochs."""
    folder = tmp_path_factory.mktemp('config')
    cfg = load(SEMI, data, folder / 'work', train_cfg__max_epochs=5, train_cfg__val_interval=5)
    cfg.default_hooks.checkpoint.interval = 5
    cfg.dump(folder / 'tiny.py')
    return folder / 'tiny.py'


@pytest.fixture
def quiet_loggers(monkeypatch):
    """MMEngine's loggers of earlier tests write to streams that pytest has closed."""
    monkeypatch.setattr(logging, 'raiseExceptions', False)


def train(tool, config, work_dir, *options, cwd=ROOT):
    command = [sys.executable, '-W', 'ignore', str(tool), str(config), '--work-dir', str(work_dir)]
    if options:
        command += ['--cfg-options', *options]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def scalars(work_dir):
    (file,) = Path(work_dir).glob('*/vis_data/scalars.json')
    return [row for row in map(json.loads, file.read_text().splitlines()) if 'loss' in row]


@pytest.mark.parametrize('tool', [OURS, MMDET], ids=['ours', 'mmdet'])
def test_overrides_take_effect(tool, config, tmp_path):
    done = train(tool, config, tmp_path, *OVERRIDES)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = scalars(tmp_path)
    assert len(rows) == 25
    for row in rows:
        expected = lambda_bg_at((row['step'] - 1) / 5, lambda_bg=1.5, burn_in=3, warmup=10, schedule='cosine')
        assert row['semi/lambda_bg'] == pytest.approx(expected, abs=1e-9)
        assert ('unsup_loss_bg' in row) == (row['step'] > 16)
        if row['step'] > 16:
            # The plain form would be about λ · mean confidence (loss_weight 0.5 · 2 images = 1). The focal one is less.
            assert 0 < row['sup_loss_bg'] < 0.1 * row['semi/lambda_bg'] * row['semi/bg_penalty_mean']


def test_the_workers_of_the_data_loaders_are_told_to_end(config, tmp_path, monkeypatch, quiet_loggers):
    """torch terminates a worker that is not told. It waits 5 s before."""
    started, terminated, end = [], [], train_command.end_workers

    def recorded(runner):
        started.extend(multiprocessing.active_children())
        end(runner)
        assert not multiprocessing.active_children()

    monkeypatch.setattr(train_command, 'end_workers', recorded)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, 'terminate', terminated.append)
    options = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', f'visualizer.name={tmp_path}']
    for name in ('train', 'val'):
        options += [f'{name}_dataloader.num_workers=1', f'{name}_dataloader.persistent_workers=True']
    assert train_command.main([str(config), '--work-dir', str(tmp_path), '--cfg-options', *options]) == 0
    assert len(started) == 2 and not terminated


def test_the_workers_of_a_loop_by_iterations_end_too():
    loader = DataLoader(range(100), num_workers=1, persistent_workers=True)
    loop = SimpleNamespace(dataloader=loader, dataloader_iterator=_InfiniteDataloaderIterator(loader))
    next(loop.dataloader_iterator)
    (worker,) = loader._iterator._workers
    train_command.end_workers(SimpleNamespace(train_loop=loop, val_loop=None))
    worker.join(20)
    assert worker.exitcode == 0


def test_a_training_ends_with_its_report(config, tmp_path):
    """Teacher and student are tested, and the page shows what the tests found."""
    done = train(OURS, config, tmp_path, 'report=True', 'train_cfg.max_epochs=1')
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith(f'The mistakes, in a browser: {tmp_path}/report.html')
    page = (tmp_path / 'report.html').read_text(encoding='utf-8')
    data = json.loads(re.search(r'json">(.*?)</script>', page, re.S).group(1))
    name = tmp_path.name
    assert [run['name'] for run in data['runs']] == [f'{name}, teacher', f'{name}, student']
    tested = [json.loads((tmp_path / out / 'tested.json').read_text()) for out in ('report/best', 'report/student')]
    assert {one['checkpoint'] for one in tested} == {str(max(tmp_path.glob('best_*.pth')))}
    for run, (out, role) in zip(data['runs'], (('report/best', 'teacher'), ('report/student', 'student'))):
        metrics = json.loads((tmp_path / out / 'metrics.json').read_text())
        assert {what: text for _, what, text, _ in run['key']}['mAP'] == f'{metrics["coco/bbox_mAP"]:.3f}', role
    assert '<h2 id="training">' in page
    assert 'predict_on=' not in (tmp_path / 'tiny.py').read_text() or 'student' not in re.findall(
        r"predict_on='(\w+)'", (tmp_path / 'tiny.py').read_text()
    )


@pytest.mark.parametrize(
    'options, part',
    [
        (['lamda_bg=1.5'], '`lambda_bg` meant'),
        (['report=yes'], "`report` to be True or False, but got 'yes'"),
        (['load_from=none.pth'], 'no such checkpoint: none.pth'),
        # These are found when the Runner is built, or just before training.
        (['train_dataloader.dataset.labeled.ann_file=none.json'], 'none.json'),
        (['lambda_bg=abc'], "`lambda_bg` to be a finite number >= 0, but got 'abc'"),
        (['train_dataloader.batch_size=3'], '`batch_size` to be a multiple of 2'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_bad_input_gives_an_error_of_one_line(config, tmp_path, capfd, quiet_loggers, options, part):
    options = [*options, f'visualizer.name={tmp_path}']
    assert train_command.main([str(config), '--work-dir', str(tmp_path), '--cfg-options', *options]) == 2
    error = capfd.readouterr().err
    assert part in error.splitlines()[-1] and 'Traceback' not in error
    assert not list(tmp_path.glob('*/vis_data/scalars.json'))


def test_a_mistake_in_the_users_own_transform_keeps_its_traceback(config, tmp_path, quiet_loggers):
    options = ['train_dataloader.dataset.labeled.pipeline.1.type=MineOfTestTrain', f'visualizer.name={tmp_path}']
    with pytest.raises(ValueError, match='^mine$'):
        train_command.main([str(config), '--work-dir', str(tmp_path), '--cfg-options', *options])


def test_the_command_test_gives_an_error_of_one_line(config, tmp_path, capsys):
    checkpoint = tmp_path / 'none.pth'
    for file, part in ((tmp_path / 'none.py', 'none.py'), (config, f'no such checkpoint: {checkpoint}')):
        assert test_command.main([str(file), str(checkpoint)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and part in lines[0]


def test_a_project_outside_this_repository(data, tmp_path):
    """An MMDetection project uses our head and hook with its own runtime and data."""
    config = tmp_path / 'project/configs/mine.py'
    config.parent.mkdir(parents=True)
    model = dict(widen_factor=0.0625, deepen_factor=0.33)
    channels = [256, 512, 1024]
    config.write_text(f"""
_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['mmyolo_bgpenalty'])
model = dict(
    type='mmyolo.YOLODetector',
    _scope_='mmyolo',
    data_preprocessor=dict(type='mmdet.DetDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], pad_size_divisor=32),
    backbone=dict(type='YOLOv8CSPDarknet', last_stage_out_channels=1024, **{model}),
    neck=dict(type='YOLOv8PAFPN', in_channels={channels}, out_channels={channels}, **{model}),
    bbox_head=dict(
        type='BgPenaltyYOLOv8Head',
        bg_penalty=dict(focal=True),
        head_module=dict(type='YOLOv8HeadModule', num_classes=3, in_channels={channels}, widen_factor=0.0625),
    ),
    train_cfg=dict(assigner=dict(
        type='BatchTaskAlignedAssigner', num_classes=3, use_ciou=True, topk=10, alpha=0.5, beta=6.0)),
    test_cfg=dict(
        multi_label=True, nms_pre=1000, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.7), max_per_img=50),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale={INPUT}, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
data = dict(type='CocoDataset', data_root='{data}', data_prefix=dict(img='images/'), metainfo=dict(classes={CLASSES}))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(ann_file='labeled.json', pipeline=pipeline, **data))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(
    logger=dict(interval=1),
    lambda_bg=dict(type='mmyolo.LambdaBgSchedulerHook', lambda_bg=0.5, burn_in=0, warmup=1),
)
""")
    done = train(MMDET, config, tmp_path / 'work', cwd=config.parent.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = scalars(tmp_path / 'work')
    assert [row['semi/lambda_bg'] for row in rows] == pytest.approx([0, 0.5 / 3, 1 / 3])
    assert rows[0]['loss_bg'] == 0 and rows[1]['loss_bg'] > 0
    assert (tmp_path / 'work/epoch_1.pth').exists()


def test_resume_without_a_checkpoint_starts_from_the_weights(config, tmp_path):
    weights = tmp_path / 'weights.pth'
    weights.touch()
    options = ['--work-dir', str(tmp_path / 'work'), '--resume', '--cfg-options', f'load_from={weights}']
    cfg = train_command.load_config(train_command.parse_args([str(config), *options]))
    assert (cfg.resume, cfg.load_from) == (False, str(weights))
    (tmp_path / 'work').mkdir()
    for name in ('yolov8s', 'epoch_1_teacher', 'best_x_epoch_1'):
        (tmp_path / f'work/{name}.pth').touch()
    cfg = train_command.load_config(train_command.parse_args([str(config), *options]))
    assert (cfg.resume, cfg.load_from) == (False, str(weights))
    (tmp_path / 'work/last_checkpoint').write_text(str(weights))  # with `out_dir` it names a file elsewhere
    cfg = train_command.load_config(train_command.parse_args([str(config), *options]))
    assert (cfg.resume, cfg.load_from) == (True, None)
    (tmp_path / 'work/last_checkpoint').unlink()
    (tmp_path / 'work/epoch_1.pth').touch()
    cfg = train_command.load_config(train_command.parse_args([str(config), *options]))
    assert (cfg.resume, cfg.load_from) == (True, None)
