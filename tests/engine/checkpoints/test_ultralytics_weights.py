"""Weights of Ultralytics' YOLOv8 are read without running anything, and give the same outputs in MMYOLO."""

import copy

import pytest
import torch
from mmyolo.registry import MODELS

from mmyolo_bgpenalty.engine.checkpoints.start_weights import StartWeights
from tests.helpers.tiny import SUPERVISED, load
from tests.helpers.yolov8_pickles import save_yolov8, yolov8


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
