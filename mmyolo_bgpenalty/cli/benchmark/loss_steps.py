"""Tasks of a detection head: its loss and its assigner."""

import os
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from mmengine.config import ConfigDict
from mmyolo.registry import TASK_UTILS
from torch import Tensor, nn

from mmyolo_bgpenalty.cli.benchmark.detectors import build_head
from mmyolo_bgpenalty.cli.benchmark.measures import Task
from mmyolo_bgpenalty.cli.benchmark.scenes import STRIDES, Scene, meta
from mmyolo_bgpenalty.models.losses.penalty import penalty_sum
from mmyolo_bgpenalty.models.losses.sparse import bce_and_max_logits

LOSSES = ('loss_cls', 'loss_bbox', 'loss_dfl')


class LossStep:
    """Forward and backward of a head's ``loss_by_feat``, from the outputs of the last convolutions to their gradients.

    This includes the expected distances that the head module computes from the distributions.
    """

    def __init__(self, head: Any, scene: Scene):
        self.head, self.scene = head, scene
        self.objects, self.metas = scene.objects, [meta(scene.shape)] * scene.shape.batch

    def losses(self) -> dict[str, Tensor]:
        module = self.head.head_module
        levels = [
            module.forward_single(logits, nn.Identity(), lambda _, raw=raw: raw)
            for logits, raw in zip(self.scene.logits, self.scene.distributions, strict=True)
        ]
        return self.head.loss_by_feat(*zip(*levels, strict=True), self.objects, self.metas)

    def __call__(self):
        total = torch.stack([loss for name, loss in self.losses().items() if 'loss' in name]).sum()
        return torch.autograd.grad(total, [*self.scene.logits, *self.scene.distributions])


class UltralyticsLossStep(LossStep):
    """The loss step with Ultralytics' v8DetectionLoss and the loss weights of YOLOv8.

    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self, scene: Scene):
        os.environ.setdefault('YOLO_AUTOINSTALL', 'false')  # otherwise its import may install packages
        from ultralytics.utils.loss import v8DetectionLoss  # optional

        detect: Any = nn.Linear(1, 1, device=scene.device)
        detect.stride = torch.tensor(STRIDES, dtype=torch.float32, device=scene.device)
        detect.nc, detect.reg_max = scene.shape.classes, 16
        model: Any = nn.Module()
        model.args, model.model = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5), nn.ModuleList([detect])
        self.loss, self.scene = v8DetectionLoss(model), scene
        size = torch.tensor([scene.shape.width, scene.shape.height] * 2, device=scene.device)
        image, label, boxes = scene.objects.split((1, 1, 4), dim=1)
        boxes = bbox_xyxy_to_cxcywh(boxes) / size
        self.batch = dict(batch_idx=image[:, 0], cls=label[:, 0], bboxes=boxes)

    def losses(self) -> dict[str, Tensor]:
        logits, distributions = (
            torch.cat([level.flatten(2) for level in kind], dim=2)
            for kind in (self.scene.logits, self.scene.distributions)
        )
        total, _ = self.loss(dict(boxes=distributions, scores=logits, feats=self.scene.logits), self.batch)
        return dict(zip(('loss_bbox', 'loss_cls', 'loss_dfl'), total, strict=True))


def disagreement(a, b) -> float:
    """Largest relative difference between the three losses that both steps have."""
    with torch.no_grad():
        a, b = a.losses(), b.losses()
    return max(abs(float(a[name] / b[name]) - 1) for name in LOSSES)


def traffic_steps(scene: Scene) -> tuple[Task, Task]:
    """Our classification loss and penalty, and one read and one write of the logits.

    One prior of each box is a positive. Both tasks return tensors of the size of the logits.
    """
    images, number = len(scene.labels), sum(level[0, 0].numel() for level in scene.logits)
    prior = torch.stack([torch.randperm(number)[: scene.labels.shape[1]] for _ in range(images)]).to(scene.device)
    image = torch.arange(images, device=scene.device)[:, None].expand_as(prior)
    background = torch.ones((images, number), dtype=torch.bool, device=scene.device)
    background[image, prior] = False
    label, targets = scene.labels.flatten(), torch.full((prior.numel(),), 0.5, device=scene.device)

    def ours():
        bce, max_logits = bce_and_max_logits(scene.logits, image.flatten(), prior.flatten(), label, targets)
        total, _ = penalty_sum(max_logits, background, False, 2.0, 'background', None, 0.1)
        return torch.autograd.grad(bce + total, scene.logits)

    def read_and_write():
        return [(level.detach().sum(), torch.zeros_like(level)) for level in scene.logits]

    return ours, read_and_write


def assigner_steps(ours: ConfigDict, theirs: ConfigDict, scene: Scene) -> tuple[Task, Task]:
    """Our assigner and MMYOLO's, with the arguments that MMYOLO's head passes to its assigner.

    Raises:
        RuntimeError: the results differ on a CPU. On a GPU topk may choose another one of equal priors.
    """
    seen: list[tuple] = []
    head = build_head(theirs, scene.device)
    head.assigner.register_forward_pre_hook(lambda module, args: seen.append(args))
    with torch.no_grad():
        LossStep(head, scene).losses()
    our_step, their_step = (
        partial(TASK_UTILS.build(cfg.train_cfg.assigner).to(scene.device), *seen[0]) for cfg in (ours, theirs)
    )
    results = our_step(), their_step()
    for name in ('assigned_bboxes', 'assigned_scores', 'fg_mask_pre_prior'):
        a, b = (result[name].float() for result in results)
        if scene.device == 'cpu' and not torch.allclose(a, b, atol=1e-5):
            raise RuntimeError(f'Our {name} differs from MMYOLO by up to {(a - b).abs().max():.3g} at {scene.shape}')
    return our_step, their_step
