"""A tiny SemiYOLODetector, its batches, and a teacher that finds what a test wants."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS

from tests.helpers.tiny import CONFIGS, SEMI, SMALL

DENSE = 'yolov8_semi_bgpenalty_dense.py'
SHAPE = (64, 96)  # height, width


def take_yolov8_head(cfg):
    """MMYOLO's own, which has none of the options."""
    head = cfg.model.detector.bbox_head
    head.type = 'YOLOv8Head'
    del head['bg_penalty'], head['ignored_in_cls']


def build(head=None, **semi_train_cfg):
    init_default_scope('mmyolo')
    cfg = Config.fromfile(CONFIGS / SEMI)
    cfg.merge_from_dict(SMALL)
    cfg.model.semi_train_cfg.update({'unsup_weight': 1.0, **semi_train_cfg})
    cfg.model.detector.bbox_head.update(head or {})
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.train()


def sample(homography=None, boxes=0):
    data_sample = DetDataSample(
        metainfo=dict(
            img_path='a.png',
            ori_shape=SHAPE,
            img_shape=SHAPE,
            batch_input_shape=SHAPE,
            homography_matrix=np.eye(3, dtype=np.float32) if homography is None else homography,
        )
    )
    data_sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 40, 40]] * boxes).reshape(-1, 4),
        labels=torch.zeros(boxes, dtype=torch.long),
    )
    data_sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return data_sample


def batch(images=4, boxes=1):
    inputs = {branch: torch.rand(images, 3, *SHAPE) for branch in ('sup', 'unsup_teacher', 'unsup_student')}
    return inputs, {branch: [sample(boxes=boxes) for _ in range(images)] for branch in inputs}


def teacher_sees(model, boxes_per_image):
    """Make the teacher find what the test wants."""

    def predict_by_feat(*args, batch_img_metas, **kwargs):
        found = []
        for number in boxes_per_image:
            boxes = torch.tensor([[10.0, 10, 50, 50]] * number).reshape(-1, 4)
            found.append(
                InstanceData(bboxes=boxes, labels=torch.zeros(number, dtype=torch.long), scores=torch.ones(number))
            )
        return found

    model.teacher.bbox_head.predict_by_feat = predict_by_feat


def total(losses):
    return sum(value.sum() for name, value in losses.items() if 'loss' in name)


def build_dense(dense=None, head=None, **semi_train_cfg):
    init_default_scope('mmyolo')
    cfg = Config.fromfile(CONFIGS / DENSE)
    cfg.merge_from_dict(SMALL)
    cfg.model.semi_train_cfg.update({'unsup_weight': 1.0, **semi_train_cfg})
    cfg.model.dense.update(dense or {})
    cfg.model.detector.bbox_head.update(head or {})
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.train()


def views(images=2):
    inputs, samples = batch(images)
    inputs['unsup_student'] = inputs['unsup_teacher'].clone()
    return inputs, samples
