# Supervised YOLOv8 with the background penalty, on the labeled tenth of the embedded solar-panel set:
# no teacher, MMYOLO's fast data path. yolov8_semi_bgpenalty.py builds on it.
_base_ = 'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'
# MMEngine takes a config that imports before it names its base for one of another syntax.
import torch  # noqa: E402

custom_imports = dict(imports=['mmyolo_bgpenalty'])

# Settings. A child config or --cfg-options changes them here; the hooks read them when training starts.
lambda_bg = 1.0  # weight of the penalty at its maximum
lambda_bg_warmup = 30  # epochs from 0 to the maximum, after burn-in
lambda_bg_schedule = 'linear'  # constant, linear, step or cosine
use_focal_bg = False
burn_in = 30  # epochs without penalty, and without teacher

# Data
data_root = 'data/solar/'
classes = ('hot_cell', 'hot_string', 'crack')
img_scale = (320, 256)  # width, height; multiples of 32
max_epochs = 300  # of 8 iterations

resize = dict(type='RecordedLetterResize', scale=img_scale, pad_val=dict(img=114))
affine = dict(
    type='RecordedYOLOv5RandomAffine',
    max_rotate_degree=0.0,
    max_shear_degree=0.0,
    scaling_ratio_range=(0.5, 1.5),
    max_aspect_ratio=100,
    border_val=(114, 114, 114),
)
colour = dict(type='YOLOv5HSVRandomAug')
# Seen from above, there is no upright.
flip = dict(type='mmdet.RandomFlip', prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal'])
pack = dict(
    type='mmdet.PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'homography_matrix', 'mosaic_tiles', 'known_empty'),
)
# MMDetection's LoadAnnotations: MMYOLO's drops crowd boxes, which the penalty must know to leave alone.
load = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]
train_pipeline = [
    *load,
    dict(type='RecordedMosaic', img_scale=img_scale, pad_val=114.0, pre_transform=load),
    # The mosaic's canvas is twice the input's size.
    dict(affine, border=(-img_scale[0] // 2, -img_scale[1] // 2)),
    colour,
    flip,
    pack,
]
test_pipeline = [
    load[0],
    resize,
    load[1],
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'pad_param'),
    ),
]

# Where there is no GPU, torch warns of pinning.
workers = dict(num_workers=2, persistent_workers=True, pin_memory=torch.cuda.is_available())
dataset = dict(
    type='SolarPanelDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    data_prefix=dict(img='images/'),
    filter_cfg=dict(filter_empty_gt=False),
)
train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='SeededBatchSampler'),
    collate_fn=dict(type='bg_penalty_collate'),
    dataset=dict(ann_file='semi_anns/train.1@10.json', pipeline=train_pipeline, **dataset),
    **workers,
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(_delete_=True, ann_file='annotations/val.json', pipeline=test_pipeline, test_mode=True, **dataset),
    **workers,
)
test_dataloader = val_dataloader
# CocoMetric's figures, and precision, recall and false positives an image
val_evaluator = dict(
    type='PrecisionRecallMetric', coco=True, classwise=True, ann_file=data_root + 'annotations/val.json'
)
test_evaluator = val_evaluator

# Model: YOLOv8-n at half its width
widen_factor = 0.125
num_classes = len(classes)
model = dict(
    data_preprocessor=dict(type='BgPenaltyDetDataPreprocessor'),
    backbone=dict(widen_factor=widen_factor),
    neck=dict(widen_factor=widen_factor),
    bbox_head=dict(type='BgPenaltyYOLOv8Head', head_module=dict(num_classes=num_classes, widen_factor=widen_factor)),
    train_cfg=dict(assigner=dict(type='SparseTaskAlignedAssigner', num_classes=num_classes)),
    # 0.7 is for objects that overlap; of thin ones it leaves two boxes, and most false positives are the second.
    test_cfg=dict(nms=dict(iou_threshold=0.5)),
)

# Training
randomness = dict(seed=0)
train_cfg = dict(_delete_=True, type='ResumableTrainLoop', max_epochs=max_epochs, val_interval=50)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    # to the last epoch, whatever train_cfg.max_epochs is
    dict(type='CosineAnnealingLR', eta_min=2e-5, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(
    param_scheduler=dict(_delete_=True, type='ParamSchedulerHook'),
    checkpoint=dict(type='ResumableCheckpointHook', interval=50, save_best='coco/bbox_mAP_50'),
    logger=dict(interval=20),
    check=dict(type='ConfigCheckHook'),
    lambda_bg=dict(type='LambdaBgSchedulerHook'),
    collapse=dict(type='CollapseMonitorHook'),
    progress=dict(type='ProgressBarHook'),
)
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=0.002,
        update_buffers=True,
        strict_load=False,
        priority=49,
    )
]
