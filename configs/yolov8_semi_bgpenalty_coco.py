# The method on COCO with YOLOv8-s at 640 px, for 8 GPUs × (8 + 8) images. An epoch is 1,664 iterations.
_base_ = [
    './_base_/models/semi_yolov8_bgpenalty.py',
    './_base_/datasets/semi_coco.py',
    './_base_/schedules/semi_sgd.py',
]

lambda_bg = 0.3
lambda_bg_warmup = 5
lambda_bg_schedule = 'linear'
use_focal_bg = False
burn_in = 8

widen_factor = 0.5
num_classes = 80
model = dict(
    detector=dict(
        backbone=dict(widen_factor=widen_factor),
        neck=dict(widen_factor=widen_factor),
        bbox_head=dict(head_module=dict(num_classes=num_classes, widen_factor=widen_factor)),
        train_cfg=dict(assigner=dict(num_classes=num_classes)),
        test_cfg=dict(nms=dict(iou_threshold=0.7)),  # objects overlap here
    ),
    semi_train_cfg=dict(pseudo_test_cfg=dict(nms=dict(iou_threshold=0.6))),
)
