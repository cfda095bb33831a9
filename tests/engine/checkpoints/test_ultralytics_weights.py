"""Weights of Ultralytics' YOLOv8 are read without running anything, and give the same outputs in MMYOLO."""

import copy
import os
import subprocess

import pytest
import torch
from mmyolo.registry import MODELS
from torch.serialization import get_safe_globals

from mmyolo_bgpenalty.compat import allow_checkpoint_types
from mmyolo_bgpenalty.engine.checkpoints import ultralytics_weights
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError, read_checkpoint
from mmyolo_bgpenalty.engine.checkpoints.start_weights import StartWeights
from tests.helpers.pickles import Runs
from tests.helpers.tiny import SUPERVISED, load
from tests.helpers.yolov8_pickles import PLACES, C2f, Conv, DetectionModel, modules_of, save_yolov8, yolov8


@pytest.fixture(scope='module')
def detector(data, tmp_path_factory):
    return MODELS.build(load(SUPERVISED, data, tmp_path_factory.mktemp('work')).model).eval()


@pytest.mark.parametrize('half', [False, True])
def test_mmyolo_computes_what_ultralytics_computes(half, detector, tmp_path):
    model = yolov8()
    if half:  # as Ultralytics saves it
        model = model.half()
    file = save_yolov8(tmp_path / 'yolov8.pt', model)
    weights = StartWeights(file, detector, complete=True)
    assert weights.summary()[0] == f'{file}: all 297 tensors taken'
    started = copy.deepcopy(detector)
    started.load_state_dict(weights.checkpoint()['state_dict'])
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.float()(images)
        found = started.bbox_head.head_module(started.extract_feat(images))
    for (scores, distances), (found_scores, found_distances) in zip(expected, zip(*found), strict=True):
        assert torch.equal(found_scores, scores)
        torch.testing.assert_close(found_distances, distances)


def test_the_averaged_model_of_a_training_is_taken_and_its_classes_are_known(tmp_path):
    model, averaged = yolov8(), yolov8()
    found = read_checkpoint(save_yolov8(tmp_path / 'last.pt', model, ema=averaged))
    assert torch.equal(found['state_dict']['backbone.stem.conv.weight'], averaged.model[0].conv.weight)
    assert found['meta'] == dict(dataset_meta=dict(classes=('class 0', 'class 1', 'class 2')))


def test_the_weights_belong_to_no_graph(tmp_path):
    """EMAHook copies the weights. torch cannot copy a tensor of a graph."""
    copy.deepcopy(read_checkpoint(save_yolov8(tmp_path / 'yolov8.pt', yolov8().half()))['state_dict'])


# Nothing of a file runs


@pytest.mark.parametrize('function', [eval, subprocess.getoutput])
def test_functions_in_a_file_do_nothing(function, tmp_path):
    trace = tmp_path / 'trace'
    command = f'open({str(trace)!r}, "w")' if function is eval else f'touch {trace}'
    file = save_yolov8(tmp_path / 'yolov8.pt', yolov8(), train_metrics=Runs(function, command))
    with modules_of(PLACES):
        torch.load(file, weights_only=False)
    assert trace.exists()  # the pickle is malicious
    trace.unlink()
    assert len(read_checkpoint(file)['state_dict']) == 354
    assert not trace.exists()


class Box(dict):
    pass


@pytest.mark.parametrize(
    'value, message',
    [
        (lambda trace: Runs(os.system, f'touch {trace}'), 'it holds posix.system, which safe loading refuses'),
        (lambda trace: Box(a=1), 'it holds objects that safe loading refuses'),
    ],
)
def test_what_no_stub_can_stand_for_is_refused_in_one_line(value, message, tmp_path):
    allow_checkpoint_types()
    trace, before = tmp_path / 'trace', set(get_safe_globals())
    file = save_yolov8(tmp_path / 'yolov8.pt', yolov8(), x=value(trace))
    with pytest.raises(CheckpointError, match=f'^{file}: cannot be read as a checkpoint: {message}$'):
        read_checkpoint(file)
    assert not trace.exists()
    assert before and set(get_safe_globals()) == before


def test_an_older_torch_is_told_what_to_do(monkeypatch, tmp_path):
    file = save_yolov8(tmp_path / 'yolov8.pt', yolov8())
    monkeypatch.setattr(ultralytics_weights, 'safe_loading', lambda: False)
    monkeypatch.setattr(torch, '__version__', '2.1.0')
    with pytest.raises(CheckpointError, match='torch 2.6 is needed, but got 2.1.0. Update torch, or convert the file'):
        read_checkpoint(file)


# Other models


class SegmentationModel(DetectionModel):
    pass


class C3k2(C2f):
    pass


def other_task(model):
    model.__class__ = SegmentationModel
    model.yaml['yaml_file'] = '/usr/src/yolov8n-seg.yaml'


def other_blocks(model):
    model.model[2].__class__ = C3k2
    model.yaml = {}


def other_layers(model):
    model.model.append(Conv(4, 4))


OTHERS = [
    (other_task, PLACES, "a model of Ultralytics, 'yolov8n-seg.yaml' .SegmentationModel.. Expected a YOLOv8 detector"),
    (other_blocks, PLACES, 'a model of Ultralytics .DetectionModel.. Expected a YOLOv8 detector: yolov8n.pt to'),
    (other_layers, PLACES, "a model of Ultralytics, 'yolov8n.yaml'"),
    (lambda model: None, {'models.yolo': [DetectionModel]}, 'a model of YOLOv5 or YOLOv7. Expected a YOLOv8 detector'),
]


@pytest.mark.parametrize('change, places, message', OTHERS)
def test_other_models_are_named(change, places, message, tmp_path):
    model = yolov8()
    change(model)
    places = {**PLACES, **places, 'ultralytics.nn.other': [SegmentationModel, C3k2]}
    if 'models.yolo' in places:
        places['ultralytics.nn.tasks'] = []
    file = save_yolov8(tmp_path / 'other.pt', model, places)
    with pytest.raises(CheckpointError, match=f'^{file}: cannot be read as a checkpoint: it is {message}'):
        read_checkpoint(file)


def test_a_file_of_ultralytics_without_a_model_is_named(tmp_path):
    file = save_yolov8(tmp_path / 'none.pt', None, x=Conv(1, 1))
    with pytest.raises(CheckpointError, match='it is a file of Ultralytics without a model. Expected'):
        read_checkpoint(file)
