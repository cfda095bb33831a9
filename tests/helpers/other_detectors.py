"""Detectors of MMDetection and MMYOLO with other heads than YOLOv8's, from their shipped configs, with 3 classes."""

import copy
from inspect import signature
from pathlib import Path

import mmdet
import mmyolo
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmyolo.registry import MODELS

MMDET, MMYOLO = 'mmdet', 'mmyolo'
FOLDERS = {package.__name__: Path(package.__file__).parent / '.mim/configs' for package in (mmdet, mmyolo)}
# Head -> scope, config file, the loss that gets the penalty
HEADS = {
    'RetinaNet': (MMDET, 'retinanet/retinanet_r18_fpn_1x_coco.py', 'loss_cls'),
    'FCOS': (MMDET, 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 'loss_cls'),
    'ATSS': (MMDET, 'atss/atss_r50_fpn_1x_coco.py', 'loss_cls'),
    'GFL': (MMDET, 'gfl/gfl_r50_fpn_1x_coco.py', 'loss_cls'),
    'TOOD': (MMDET, 'tood/tood_r50_fpn_1x_coco.py', 'loss_cls'),
    'RTMDet of MMDetection': (MMDET, 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'loss_cls'),
    'YOLOX of MMDetection': (MMDET, 'yolox/yolox_tiny_8xb8-300e_coco.py', 'loss_obj'),
    'RTMDet': (MMYOLO, 'rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_coco.py', 'loss_cls'),
    'YOLOv5': (MMYOLO, 'yolov5/yolov5_n-v61_syncbn_fast_8xb16-300e_coco.py', 'loss_obj'),
    'YOLOv6': (MMYOLO, 'yolov6/yolov6_n_syncbn_fast_8xb32-300e_coco.py', 'loss_cls'),
    'YOLOv7': (MMYOLO, 'yolov7/yolov7_tiny_syncbn_fast_8x16b-300e_coco.py', 'loss_obj'),
    'YOLOv8': (MMYOLO, 'yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py', 'loss_cls'),
    'YOLOX': (MMYOLO, 'yolox/yolox_tiny_fast_8xb8-300e_coco.py', 'loss_obj'),
    'PP-YOLOE': (MMYOLO, 'ppyoloe/ppyoloe_s_fast_8xb32-300e_coco.py', 'loss_cls'),
}


def model_cfg(name: str, **penalty) -> ConfigDict:
    """The model of a shipped config, with random weights. With ``penalty``, its loss is a BackgroundPenaltyLoss."""
    scope, file, loss = HEADS[name]
    with DefaultScope.overwrite_default_scope(scope):
        cfg = Config.fromfile(FOLDERS[scope] / file).model
        cfg.backbone.init_cfg = None
        head = cfg.bbox_head
        head.get('head_module', head).num_classes = 3
        train_cfg = cfg.setdefault('train_cfg', ConfigDict()) or ConfigDict()
        for assigner in (train_cfg, train_cfg.get('assigner', {}), train_cfg.get('initial_assigner', {})):
            if 'num_classes' in assigner:
                assigner.num_classes = 3
        if penalty:
            # The config of YOLOv6 leaves `loss_cls` to the default of the head.
            own = copy.deepcopy(head.get(loss) or signature(MODELS.get(head.type)).parameters[loss].default)
            head[loss] = dict(own, type='mmyolo.BackgroundPenaltyLoss', loss=own, **penalty)
    return ConfigDict(cfg, _scope_=scope)


def build(cfg: ConfigDict, scope: str):
    """Build a part of such a model."""
    with DefaultScope.overwrite_default_scope(scope):
        return (MODELS if scope == MMYOLO else MMDET_MODELS).build(cfg)
