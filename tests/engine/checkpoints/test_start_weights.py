"""A run starts with the weights of its file in the student, the teacher and the averaged copy."""

import logging
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from mmyolo.registry import MODELS

from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError, check_resumable, read_checkpoint
from mmyolo_bgpenalty.engine.checkpoints.start_weights import StartWeights, check_start
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
def weights(tmp_path_factory):
    """Files of Ultralytics by their number of classes. The tiny configs have 3."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('weights')
    return {number: save_yolov8(folder / f'{number}.pt', yolov8(classes=number).half()) for number in (3, 80)}


@pytest.fixture(scope='module')
def models(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    return {name: MODELS.build(load(name, data, folder).model) for name in (SEMI, SUPERVISED)}


def state(path):
    return read_checkpoint(path)['state_dict']


def assert_same(found, expected):
    assert expected and all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize('hook', ['ResumableCheckpointHook', 'CheckpointHook'])
def test_student_and_teacher_start_from_a_file_of_ultralytics(hook, weights, data, tmp_path):
    cfg = load(SEMI, data, tmp_path, load_from=weights[3], default_hooks__checkpoint__type=hook)
    # Without ResumableCheckpointHook tools/train.py itself calls check_start.
    runner = started(cfg, check_start) if hook == 'CheckpointHook' else started(cfg)
    for detector in (runner.model.student, runner.model.teacher):
        assert_same(detector.state_dict(), state(weights[3]))


def test_the_averaged_copy_starts_from_the_file_and_new_layers_are_initialised(weights, data, tmp_path):
    fresh = started(load(SUPERVISED, data, tmp_path / 'a'))
    runner = started(load(SUPERVISED, data, tmp_path / 'b', load_from=weights[80]))
    averaged = next(hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook))
    expected = {name: value for name, value in state(weights[80]).items() if 'cls_preds' not in name}
    new = {name: value for name, value in fresh.model.state_dict().items() if 'cls_preds' in name}
    assert len(expected) + len(new) == len(runner.model.state_dict())
    for detector in (runner.model, averaged):
        assert_same(detector.state_dict(), expected)
        assert_same(detector.state_dict(), new)
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert log.count(f'{weights[80]}: 261 of 297 tensors taken; the class layers are new') == 1
    assert not any(word in log for word in ('mismatch', 'missing keys', 'unexpected key', 'do not match'))


def test_plain_weights_teachers_and_whole_checkpoints_start_every_model(models, tmp_path):
    student, teacher = (state(save_yolov8(tmp_path / f'{i}.pt', yolov8())) for i in range(2))
    both = {f'student.{k}': v for k, v in student.items()} | {f'teacher.{k}': v for k, v in teacher.items()}
    file = str(tmp_path / 'weights.pth')
    for saved, name, expected in (
        (both, SEMI, both),
        (both, SUPERVISED, teacher),
        (student, SUPERVISED, student),
        ({f'module.{k}': v for k, v in student.items()}, SUPERVISED, student),
        (student, SEMI, {f'{part}.{k}': v for part in ('student', 'teacher') for k, v in student.items()}),
    ):
        torch.save(dict(state_dict=saved, meta=dict(epoch=3)), file)
        found = StartWeights(file, models[name])
        assert found.summary() == (f'{file}: all 297 tensors taken', logging.INFO)
        assert found.checkpoint()['meta'] == dict(epoch=3)
        assert_same(found.checkpoint()['state_dict'], expected)
        assert found.checkpoint()['state_dict'].keys() == models[name].state_dict().keys()


def test_weights_of_another_size_are_warned_of_or_refused(models, tmp_path):
    file = save_yolov8(tmp_path / 'yolov8s.pt', yolov8(width=0.5))
    hint = "It is YOLOv8-s, but the config builds YOLOv8-n/2: write model_size='s'$"
    line, level = StartWeights(file, models[SEMI]).summary()
    assert line.startswith(f'{file}: only ') and level == logging.WARNING
    assert line.endswith(hint[:-1])
    with pytest.raises(CheckpointError, match=hint):
        StartWeights(file, models[SEMI], complete=True)
    other = {'backbone.stem.conv.weight': torch.ones(32, 3, 3, 3)}
    torch.save(other, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=f'none of its tensors.*{hint}'):
        StartWeights(str(tmp_path / 'other.pth'), models[SUPERVISED])


def test_evaluation_needs_a_file_with_the_classes_of_the_config(weights, models):
    with pytest.raises(CheckpointError, match='It has 80 classes, but the config has 3$'):
        StartWeights(weights[80], models[SUPERVISED], complete=True)


def test_no_run_can_be_resumed_from_a_file_of_ultralytics(weights, models):
    with pytest.raises(CheckpointError, match='has no `message_hub`, `optimizer`. To start a new run from its weights'):
        check_resumable(weights[3], models[SEMI])
