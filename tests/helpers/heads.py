"""A tiny YOLOv8 head on a 64 x 64 input: 84 priors of strides 8, 16 and 32."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS
from torch import nn

SIZE, GRIDS = 64, (8, 4, 2)
PRIORS = np.array([((x + 0.5) * SIZE / n, (y + 0.5) * SIZE / n) for n in GRIDS for y in range(n) for x in range(n)])
OBJECTS = (  # boxes and labels of two images
    ([[8.0, 8, 40, 40], [30, 4, 60, 28]], [1, 2]),
    ([[20.0, 24, 52, 62]], [0]),
)
NO_OBJECTS = (([], []), ([], []))
ASSIGNERS = ('BatchTaskAlignedAssigner', 'SparseTaskAlignedAssigner')  # MMYOLO's and ours
PENALTIES = (
    {},
    dict(focal=True),
    dict(normalizer='positives', region='outside'),
    dict(normalizer='hard', hard_score=0.15),
)
both_paths = pytest.mark.parametrize('path', ['list', 'fast'])


def head_cfg(
    type: str = 'BgPenaltyYOLOv8Head', assigner: str = 'BatchTaskAlignedAssigner', reg_max: int = 16, **kwargs
) -> ConfigDict:
    """Config of the head."""
    assigner = dict(type=assigner, num_classes=3, use_ciou=True, topk=10, alpha=0.5, beta=6, eps=1e-9)
    module = dict(type='YOLOv8HeadModule', num_classes=3, in_channels=[16, 16, 16], reg_max=reg_max)
    return ConfigDict(type=type, head_module=module, **{'train_cfg': dict(assigner=assigner), **kwargs})


def build(type='BgPenaltyYOLOv8Head', seed=0, **kwargs):
    """A head with random weights and medium scores."""
    torch.manual_seed(seed)
    head = MODELS.build(head_cfg(type, **kwargs))
    for predictor in head.head_module.cls_preds:
        nn.init.normal_(predictor[-1].weight, std=0.3)
        nn.init.constant_(predictor[-1].bias, -2)
    return head


def features():
    """The same features at every call."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 16, n, n, generator=generator).requires_grad_() for n in GRIDS]


def batch(path, objects=OBJECTS, metas=None, ignored=None, dtype=torch.float32):
    """Data samples in the format of MMDetection's preprocessor (list) or of MMYOLO's (fast)."""
    metas = metas or [{} for _ in objects]
    if path == 'fast':
        rows = [[i, label, *box] for i, (boxes, labels) in enumerate(objects) for box, label in zip(boxes, labels)]
        if ignored:
            metas = [{**meta, 'ignored_bboxes': boxes} for meta, boxes in zip(metas, ignored)]
        return {'bboxes_labels': torch.tensor(rows).float().reshape(-1, 6), 'img_metas': metas}
    samples = []
    for i, (boxes, labels) in enumerate(objects):
        sample = DetDataSample(metainfo=metas[i])
        boxes = torch.tensor(boxes, dtype=dtype).reshape(-1, 4)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(labels, dtype=torch.long))
        sample.ignored_instances = InstanceData(bboxes=ignored[i]) if ignored else InstanceData()
        samples.append(sample)
    return samples


def losses_and_gradients(head, data):
    """Losses, and the gradients of their sum to the features and to all parameters."""
    feats = features()
    losses = head.loss(feats, data)
    sum(losses.values()).backward()
    gradients = {f'feature {i}': feat.grad for i, feat in enumerate(feats)}
    return losses, {**gradients, **{name: p.grad for name, p in head.named_parameters()}}


def losses_of(head, outs, data):
    """Losses as if the network had predicted ``outs``."""
    head.forward = lambda x: outs
    try:
        return head.loss(None, data)
    finally:
        del head.forward


def gradient_reaches(head, outs, data, name):
    """(images, 84, classes), bool: where the loss ``name`` has a gradient to the logits in ``outs``."""
    logits = [level.detach().requires_grad_() for level in outs[0]]
    losses_of(head, (logits, *outs[1:]), data)[name].backward()
    return torch.cat([level.grad.flatten(2) for level in logits], 2).mT != 0


def foreground(head, outs, objects=OBJECTS):
    """(images, 84), bool: which priors get an object when the assigner is called outside of the loss."""
    most = max(len(boxes) for boxes, _ in objects)
    targets = torch.zeros(len(objects), most, 6)
    for row, (boxes, labels) in zip(targets, objects):
        if boxes:
            row[: len(boxes)] = torch.tensor([[*box, label, 1] for box, label in zip(boxes, labels)])
    strides = torch.tensor([SIZE / n for n in GRIDS for _ in range(n * n)])
    priors = torch.cat([torch.from_numpy(PRIORS).float(), strides[:, None], strides[:, None]], 1)
    scores, distances = (torch.cat([level.flatten(2) for level in out], 2).mT.detach() for out in outs[:2])
    distances = distances * strides[:, None]
    boxes = torch.cat([priors[:, :2] - distances[..., :2], priors[:, :2] + distances[..., 2:]], -1)
    found = head.assigner(boxes, scores.sigmoid(), priors, targets[..., 4:5], targets[..., :4], targets[..., 5:])
    return found['fg_mask_pre_prior'].bool()


def in_boxes(points, boxes):
    x, y = np.asarray(points).T[..., None]
    x1, y1, x2, y2 = np.asarray(boxes).T
    return ((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)).any(1)


def assert_near(found, expected, tolerance=2e-5):
    """Check that the values differ by at most ``tolerance`` times the largest value. None equals only None."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None or found[name] is None:
            assert found[name] is value, name
        else:
            scale = value.abs().max().clamp(min=1e-6)
            assert (found[name] - value).abs().max() <= tolerance * scale, name
