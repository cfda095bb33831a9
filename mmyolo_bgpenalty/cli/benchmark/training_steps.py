"""Whole training steps: pre-processing, forward, backward, optimizer and, if semi-supervised, the teacher's update."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from mmyolo.registry import HOOKS
from torch import nn
from torch.optim.swa_utils import update_bn

from mmyolo_bgpenalty.cli.benchmark.detectors import build, our_config, their_detector
from mmyolo_bgpenalty.cli.benchmark.measures import Task
from mmyolo_bgpenalty.cli.benchmark.scenes import Scene, Shape, meta
from mmyolo_bgpenalty.utils.geometry import FLIPS


def _optimizer(model: nn.Module, cfg: Config):
    # With a learning rate of 0, every step has the same weights, assignments and pseudo-labels.
    wrapper = dict(cfg.optim_wrapper, optimizer=dict(cfg.optim_wrapper.optimizer, lr=0.0))
    return build_optim_wrapper(model, ConfigDict(wrapper))


def _initialised(model: Any) -> Any:
    model.init_weights()
    return model.train()


def supervised_steps(shape: Shape, overrides: dict | None, device: str) -> tuple[Task, Task]:
    """``train_step`` of our supervised detector, and of MMYOLO's detector with the same weights."""
    cfg = our_config(shape, overrides)
    ours, theirs = (_initialised(build(c, device)) for c in (cfg.model, their_detector(shape, cfg.model)))
    theirs.load_state_dict(ours.state_dict())
    ours.to(memory_format=torch.channels_last)  # as ChannelsLastHook does
    scene = Scene(shape, 'cpu')
    samples = dict(bboxes_labels=scene.objects, img_metas=[])
    batch = dict(inputs=scene.pictures(0), data_samples=samples)
    our_batch = dict(batch, data_samples=dict(samples, regions=[meta(shape)] * shape.batch))
    our_step = partial(ours.train_step, our_batch, _optimizer(ours, cfg))
    return our_step, partial(theirs.train_step, batch, _optimizer(theirs, cfg))


class SemiStep:
    """``train_step`` of a model, and the update of its teacher."""

    def __init__(self, model: Any, wrapper, hook, batch: dict):
        self.model, self.wrapper, self.hook, self.batch = model, wrapper, hook, batch
        hook.before_train_epoch(SimpleNamespace(model=model))

    def __call__(self):
        losses = self.model.train_step(self.batch, self.wrapper)
        self.hook.momentum_update(self.model, self.hook.momentum)
        return losses

    def pseudo_boxes(self) -> float:
        """Mean number of boxes per image that the teacher finds."""
        data = self.model.data_preprocessor(self.batch, True)
        weak = data['inputs']['unsup_teacher'], data['data_samples']['unsup_teacher']
        samples, _ = self.model.get_pseudo_instances(*weak)
        return sum(len(sample.gt_instances) for sample in samples) / len(samples)


def semi_steps(
    shape: Shape, overrides: dict | None, device: str, flips: Sequence[str] = (), amp: bool = False
) -> tuple[SemiStep, SemiStep]:
    """A step of the published semi-supervised config after burn-in, and of MMDetection's SemiBaseDetector.

    Half of the batch is labeled. Both models have the same weights and the same settings of pseudo-labels. The teacher
    finds boxes in every image. ``flips``: the ``teacher_flips`` of ours. SemiBaseDetector has no such option, so its
    teacher has one more forward pass for each flip, without any effect. ``amp``: ours computes in bf16 on a CPU.
    """
    cfg = our_config(shape, overrides, 'yolov8_semi_bgpenalty_published.py')
    cfg.model.semi_train_cfg.teacher_flips = list(flips)
    ours = _initialised(build(cfg.model, device))
    test_cfg = ours.semi_train_cfg.pseudo_test_cfg
    detector = their_detector(shape, cfg.model.detector)
    detector.update(data_preprocessor=cfg.model.detector.data_preprocessor, test_cfg=test_cfg)
    weights = dict(sup_weight=1.0, unsup_weight=cfg.model.semi_train_cfg.unsup_weight)
    plain = dict(
        type='mmdet.SemiBaseDetector',
        detector=detector,
        data_preprocessor=dict(type='mmdet.MultiBranchDataPreprocessor', data_preprocessor=detector.data_preprocessor),
        semi_train_cfg=dict(weights, cls_pseudo_thr=test_cfg.score_thr, min_pseudo_bbox_wh=(1e-2, 1e-2)),
        semi_test_cfg=dict(predict_on='teacher'),
    )
    theirs = build(ConfigDict(plain), device).train()
    theirs.get_pseudo_instances = partial(_with_more_views, theirs.get_pseudo_instances, theirs.teacher, flips)
    batch = _semi_batch(replace(shape, batch=shape.batch // 2))
    _make_teacher(ours, batch)
    theirs.load_state_dict(ours.state_dict())
    our_hook = HOOKS.build(cfg.default_hooks.mean_teacher)
    their_hook = HOOKS.build(dict(type='mmdet.MeanTeacherHook', momentum=our_hook.momentum))
    their_step = SemiStep(theirs, _optimizer(theirs, cfg), their_hook, batch)
    if amp:
        cfg.optim_wrapper.type = 'CpuBf16OptimWrapper'
    return SemiStep(ours, _optimizer(ours, cfg), our_hook, batch), their_step


@torch.no_grad()
def _with_more_views(find: Callable, teacher: Any, flips: Sequence[str], images: torch.Tensor, samples: list):
    found = find(images, samples)
    for flip in flips:
        teacher.bbox_head(teacher.extract_feat(images.flip(FLIPS[flip])))
    return found


def _semi_batch(half: Shape) -> dict:
    """Labeled images, and two views of the same number of unlabeled images, in MMDetection's format."""
    move = np.array([[0.8, 0, 0.1 * half.width], [0, 0.8, 0.1 * half.height], [0, 0, 1]], dtype=np.float32)
    branches = dict(sup=(0, None), unsup_teacher=(1, None), unsup_student=(1, move))
    inputs: dict[str, list] = {}
    samples: dict[str, list] = {}
    for branch, (seed, homography) in branches.items():
        scene = Scene(half, 'cpu', seed=seed)
        inputs[branch], samples[branch] = list(scene.pictures(seed)), []
        for boxes, labels in zip(scene.bboxes, scene.labels, strict=True):
            view = DetDataSample(metainfo=meta(half, homography))
            view.gt_instances = InstanceData(bboxes=HorizontalBoxes(boxes), labels=labels)
            samples[branch].append(view)
    return dict(inputs=inputs, data_samples=samples)


@torch.no_grad()
def _make_teacher(model: Any, batch: dict, candidates: int = 60) -> None:
    """Make the untrained teacher find boxes: on average ``candidates`` priors per level and image pass the threshold.

    The batch normalization statistics are those of the weak views. Then the biases of the classes are raised.
    """
    images = model.data_preprocessor(batch, True)['inputs']['unsup_teacher']
    student, threshold = model.student, model.semi_train_cfg.pseudo_test_cfg.score_thr
    update_bn([images], student)
    student.eval()
    logits = student(images)[0]
    for level, predict in zip(logits, student.bbox_head.head_module.cls_preds, strict=True):
        best = level.max(dim=1).values.flatten()
        # The threshold lies between two logits, so that rounding moves no logit over it.
        passed = best.topk(min(candidates * len(images), len(best) // 4) + 1).values[-2:].mean()
        predict[-1].bias += torch.logit(torch.tensor(threshold)) - passed
    student.train()
    model.teacher.load_state_dict(student.state_dict())
