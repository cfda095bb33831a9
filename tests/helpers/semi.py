"""A tiny SemiYOLODetector, its batches, and a teacher that finds given boxes."""

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


def build(head=None, config=SEMI, dense=None, **semi_train_cfg):
    """A detector in training mode, with options for its parts."""
    init_default_scope('mmyolo')
    cfg = Config.fromfile(CONFIGS / config)
    cfg.merge_from_dict(SMALL)
    cfg.model.semi_train_cfg.update({'unsup_weight': 1.0, **semi_train_cfg})
    if dense:
        cfg.model.dense.update(dense)
    bbox_head = cfg.model.detector.bbox_head
    bbox_head.update(head or {})
    if bbox_head.type == 'YOLOv8Head':  # MMYOLO's own head has none of the options
        del bbox_head['bg_penalty'], bbox_head['ignored_in_cls']
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.train()


def build_dense(dense=None, **options):
    return build(config=DENSE, dense=dense, **options)


def batch(images=4, boxes=1):
    """Inputs and data samples of all branches."""
    inputs = {branch: torch.rand(images, 3, *SHAPE) for branch in ('sup', 'unsup_teacher', 'unsup_student')}
    return inputs, {branch: [sample(boxes=boxes) for _ in range(images)] for branch in inputs}


def views(images=2):
    """A batch with equal views."""
    inputs, samples = batch(images)
    inputs['unsup_student'] = inputs['unsup_teacher'].clone()
    return inputs, samples


def teacher_finds(model, scores, labels=None, boxes=None):
    """Let the teacher find boxes with these scores, one list per image, if they are above ``score_thr``."""

    def predict_by_feat(*args, cfg, **kwargs):
        found = []
        for i, own in enumerate(scores):
            instances = InstanceData(scores=torch.tensor(own))
            instances.labels = torch.zeros(len(own)).long() if labels is None else torch.tensor(labels[i]).long()
            instances.bboxes = torch.tensor([[10.0, 10, 50, 50]] * len(own) if boxes is None else boxes[i]).reshape(
                -1, 4
            )
            found.append(instances[instances.scores > cfg.score_thr])
        return found

    model.teacher.bbox_head.predict_by_feat = predict_by_feat


def teacher_sees(model, boxes_per_image):
    """Let the teacher find this number of boxes in each image, with score 1."""
    teacher_finds(model, [[1.0] * number for number in boxes_per_image])


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


def total(losses):
    return sum(value.sum() for name, value in losses.items() if 'loss' in name)
