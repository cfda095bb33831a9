"""A detector that sees the bright squares of the tiny set, instead of what its weights see."""

import copy

import cv2
import numpy as np
import torch
from mmyolo.models import YOLODetector, YOLOv8Head
from mmyolo.registry import MODELS

from tests.helpers.exported import tiny_config
from tests.helpers.tiny import CLASSES, SEMI

STRIDES = (8, 16, 32)


def see_squares(monkeypatch, score=0.9):
    """Replace features and head of all YOLODetectors. The rest of the test pipeline and of the head stays."""
    monkeypatch.setattr(YOLODetector, 'extract_feat', lambda self, inputs: inputs)
    monkeypatch.setattr(YOLOv8Head, 'forward', lambda self, inputs: _logits_and_distances(inputs, score))


def _logits_and_distances(inputs, score):
    shapes = [[side // stride for side in inputs.shape[-2:]] for stride in STRIDES]
    logits = [torch.full((len(inputs), len(CLASSES), *shape), -20.0) for shape in shapes]
    distances = [torch.zeros(len(inputs), 4, *shape) for shape in shapes]
    for number, image in enumerate(inputs):
        for x1, y1, x2, y2, label in _squares(image):
            column, row = int((x1 + x2) / 2 // 8), int((y1 + y2) / 2 // 8)
            x, y = 8 * column + 4, 8 * row + 4
            logits[0][number, label, row, column] = np.log(score / (1 - score))
            distances[0][number, :, row, column] = torch.tensor([x - x1, y - y1, x2 - x, y2 - y]) / 8
    return logits, distances


def _squares(image):
    """The label of a square is the channel of the BGR picture in which it is bright. The input is RGB."""
    for label, channel in enumerate(image.flip(0)):
        bright = (channel > 0.7).numpy().astype(np.uint8)
        for x, y, width, height, area in cv2.connectedComponentsWithStats(bright)[2][1:].tolist():
            if area > 8:
                yield x, y, x + width, y + height, label


def write_square(path, size, box, label):
    """A dark picture of a size (width, height) with a bright rectangle x, y, width, height."""
    picture = np.full((*size[::-1], 3), 30, np.uint8)
    x, y, width, height = box
    picture[y : y + height, x : x + width, label] = 230
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


def write_checkpoint(folder, data, name=SEMI, meta=None):
    """A tiny config, whose test set does not exist, and its checkpoint with random weights."""
    cfg = tiny_config(name, data, folder / 'work')  # MMEngine writes the config to this folder, too
    cfg.dump(folder / 'tiny.py')
    model = MODELS.build(copy.deepcopy(cfg.model))
    meta = dict(dataset_meta=dict(classes=CLASSES)) if meta is None else meta
    torch.save(dict(meta=meta, state_dict=model.state_dict()), folder / 'epoch_1.pth')
    return folder / 'tiny.py', folder / 'epoch_1.pth'
