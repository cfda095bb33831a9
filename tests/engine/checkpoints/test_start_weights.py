"""A run starts with the weights of its file in the student, the teacher and the averaged copy."""

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import read_checkpoint
from mmyolo_bgpenalty.engine.checkpoints.start_weights import check_start
from tests.helpers.tiny import SEMI, SUPERVISED, load
from tests.helpers.yolov8_pickles import save_yolov8, yolov8


class Started(Exception):
    pass


class StopsAtTheFirstIteration(Hook):
    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        raise Started


def started(cfg, prepare=lambda runner: None):
    """The runner at its first iteration. ``prepare`` gets it before training."""
    runner = Runner.from_cfg(cfg)
    prepare(runner)
    runner.register_hook(StopsAtTheFirstIteration())
    with pytest.raises(Started):
        runner.train()
    return runner


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    torch.manual_seed(0)
    return save_yolov8(tmp_path_factory.mktemp('weights') / 'yolov8.pt', yolov8(classes=3).half())


def assert_same(state, expected):
    assert expected and all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize('hook', ['ResumableCheckpointHook', 'CheckpointHook'])
def test_student_and_teacher_start_from_a_file_of_ultralytics(hook, file, data, tmp_path):
    cfg = load(SEMI, data, tmp_path, load_from=file, default_hooks__checkpoint__type=hook)
    # Without ResumableCheckpointHook tools/train.py itself calls check_start.
    runner = started(cfg, check_start) if hook == 'CheckpointHook' else started(cfg)
    weights = read_checkpoint(file)['state_dict']
    for detector in (runner.model.student, runner.model.teacher):
        assert_same(detector.state_dict(), weights)


def test_the_averaged_copy_starts_from_a_file_of_ultralytics(file, data, tmp_path):
    runner = started(load(SUPERVISED, data, tmp_path, load_from=file))
    averaged = next(hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook))
    weights = read_checkpoint(file)['state_dict']
    for detector in (runner.model, averaged):
        assert_same(detector.state_dict(), weights)
