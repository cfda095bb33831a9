"""The config of a detector to export, and the boxes that detectors find."""

import copy

import torch
from mmdet.apis import inference_detector

from tests.helpers.tiny import SEMI, load


def tiny_config(name, data, work_dir):
    """A tiny shipped config. The folder of its test set does not exist: inference must not read any file of it."""
    cfg = load(name, data, work_dir)
    if name == SEMI:
        # The memory format of plain detectors: channels_last rounds differently.
        cfg.model.semi_train_cfg.channels_last = False
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.test_dataloader.dataset.data_root = str(data / 'nowhere')
    cfg.test_evaluator = copy.deepcopy(cfg.val_evaluator)
    return cfg


def detections(model, images, role='teacher'):
    """For each image (N, 6): x1, y1, x2, y2, score, label."""
    model.semi_test_cfg = dict(predict_on=role)
    found = [sample.pred_instances for sample in inference_detector(model, images)]
    return [torch.cat([one.bboxes, one.scores[:, None], one.labels[:, None]], dim=1) for one in found]


def same(found, expected):
    return len(found) == len(expected) and all(map(torch.equal, found, expected))
