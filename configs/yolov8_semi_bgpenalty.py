# Semi-supervised YOLOv8 with the background penalty, on the embedded solar-panel set.
#   python tools/train.py configs/yolov8_semi_bgpenalty.py [--cfg-options lambda_bg=1.5 burn_in=3 ...]
_base_ = 'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'
custom_imports = dict(imports=['mmyolo_bgpenalty'])

# Settings. A child config or --cfg-options changes them here; the hooks read them when training starts.
lambda_bg = 1.0  # weight of the penalty at its maximum
lambda_bg_warmup = 5  # epochs from 0 to the maximum, after burn-in
lambda_bg_schedule = 'linear'  # constant, linear, step or cosine
use_focal_bg = False
burn_in = 5  # epochs on labeled images alone

# Data
data_root = 'data/solar/'
classes = ('hot_cell', 'hot_string', 'crack')
img_scale = (320, 256)  # width, height; multiples of 32
max_epochs = 20

resize = dict(type='RecordedLetterResize', scale=img_scale, pad_val=dict(img=114))
affine = dict(
    type='RecordedYOLOv5RandomAffine',
    max_rotate_degree=0.0,
    max_shear_degree=0.0,
    scaling_ratio_range=(0.5, 1.5),
    max_aspect_ratio=100,
    border_val=(114, 114, 114),
)
flip = dict(type='mmdet.RandomFlip', prob=0.5)
pack = dict(
    type='mmdet.PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'homography_matrix', 'mosaic_tiles'),
)
branches = ['sup', 'unsup_teacher', 'unsup_student']

# MMDetection's LoadAnnotations: MMYOLO's drops crowd boxes, which the penalty leaves alone.
sup_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    resize,
    affine,
    dict(type='YOLOv5HSVRandomAug'),
    flip,
    dict(type='Views', branch_field=branches, sup=[pack]),
]
unsup_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadEmptyAnnotations', with_bbox=True),
    resize,
    dict(
        type='Views',
        branch_field=branches,
        unsup_teacher=[flip, pack],
        unsup_student=[affine, dict(type='YOLOv5HSVRandomAug'), flip, pack],
    ),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'pad_param'),
    ),
]

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
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='LabeledUnlabeledBatchSampler', source_ratio=[1, 1], epoch_of='unlabeled'),
    dataset=dict(
        type='LabeledUnlabeledDataset',
        labeled=dict(ann_file='semi_anns/train.1@10.json', pipeline=sup_pipeline, **dataset),
        unlabeled=dict(ann_file='semi_anns/train.1@10-unlabeled.json', pipeline=unsup_pipeline, **dataset),
    ),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        _delete_=True, ann_file='annotations/val.json', pipeline=test_pipeline, test_mode=True, **dataset
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator

# Model: student and teacher are MMYOLO's YOLOv8, with the penalty in the head.
detector = _base_.model
detector.data_preprocessor = dict(
    type='mmdet.DetDataPreprocessor',
    mean=[0.0, 0.0, 0.0],
    std=[255.0, 255.0, 255.0],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
detector.backbone.widen_factor = 0.25
detector.neck.widen_factor = 0.25
detector.bbox_head.type = 'BgPenaltyYOLOv8Head'
detector.bbox_head.head_module.widen_factor = 0.25
detector.bbox_head.head_module.num_classes = len(classes)
detector.train_cfg.assigner.num_classes = len(classes)
model = dict(
    _delete_=True,
    type='SemiYOLODetector',
    detector=detector,
    data_preprocessor=dict(type='SemiDataPreprocessor', data_preprocessor=detector.data_preprocessor),
    semi_train_cfg=dict(unsup_weight=1.0, pseudo_test_cfg=dict(score_thr=0.4)),
    semi_test_cfg=dict(predict_on='teacher'),
)

# Training
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='mmdet.TeacherStudentValLoop')
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=2e-5, begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(
    param_scheduler=dict(_delete_=True, type='ParamSchedulerHook'),
    checkpoint=dict(interval=5, save_best='teacher/coco/bbox_mAP_50', rule='greater'),
    logger=dict(interval=20),
    lambda_bg=dict(type='LambdaBgSchedulerHook'),
    mean_teacher=dict(type='BurnInMeanTeacherHook', momentum=0.002, unsup_warmup=1),
)
# No EMAHook (the teacher is the average) and no switch of pipelines.
custom_hooks = []
