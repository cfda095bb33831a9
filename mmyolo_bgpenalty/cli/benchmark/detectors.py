"""The detectors that are compared: ours as shipped, and MMYOLO's YOLOv8."""

from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS

from mmyolo_bgpenalty.cli.benchmark.scenes import Shape
from mmyolo_bgpenalty.utils.shipped_configs import config

MMYOLO = 'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'


def our_config(shape: Shape, overrides: dict | None = None, name: str = 'yolov8_bgpenalty.py') -> Config:
    """A shipped config with the classes of ``shape`` and λ at its maximum. ``overrides`` are for the detector."""
    cfg = Config.fromfile(config(name))
    # LambdaBgSchedulerHook sets these values in training.
    penalty = {'bbox_head.bg_penalty.lambda_bg': cfg.lambda_bg, 'bbox_head.bg_penalty.focal': cfg.use_focal_bg}
    _merge(cfg, 'model.detector' if 'detector' in cfg.model else 'model', shape, {**penalty, **(overrides or {})})
    return cfg


def their_detector(shape: Shape, ours: ConfigDict) -> ConfigDict:
    """MMYOLO's YOLOv8-n with the width of our detector and the number of classes of ``shape``."""
    cfg = get_config(MMYOLO)
    _merge(cfg, 'model', shape, at_width(ours.backbone.widen_factor))
    return cfg.model


def at_width(widen_factor: float) -> dict:
    """Overrides that set the width of a detector. YOLOv8-n has 0.25."""
    return {f'{part}.widen_factor': widen_factor for part in ('backbone', 'neck', 'bbox_head.head_module')}


def _merge(cfg: Config, detector: str, shape: Shape, overrides: dict) -> None:
    classes = {f'{part}.num_classes': shape.classes for part in ('bbox_head.head_module', 'train_cfg.assigner')}
    cfg.merge_from_dict({f'{detector}.{name}': value for name, value in {**classes, **overrides}.items()})


def build(cfg: ConfigDict, device: str) -> Any:
    init_default_scope('mmyolo')
    torch.manual_seed(0)
    return MODELS.build(cfg).to(device)


def build_head(detector: ConfigDict, device: str) -> Any:
    return build(dict(detector.bbox_head, train_cfg=detector.train_cfg, test_cfg=detector.test_cfg), device)
