# The method on COCO with YOLOv8-s at 640 px, for 8 GPUs × (8 + 8) images. An epoch is 1,664 iterations.
_base_ = [
    __import__('mmyolo_bgpenalty').config('_base_/models/semi_yolov8_bgpenalty.py', model_size='s', num_classes=80),
    './_base_/datasets/semi_coco.py',
    './_base_/schedules/semi_sgd.py',
]

lambda_bg = 0.3
lambda_bg_warmup = 5
lambda_bg_schedule = 'linear'
use_focal_bg = False
burn_in = 8

model = dict(
    detector=dict(test_cfg=dict(nms=dict(iou_threshold=0.7))),  # objects overlap here
    semi_train_cfg=dict(pseudo_test_cfg=dict(nms=dict(iou_threshold=0.6))),
)
