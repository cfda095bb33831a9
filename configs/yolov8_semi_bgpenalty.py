# Semi-supervised YOLOv8 with the background penalty: an EMA teacher labels the unlabeled nine tenths of the
# embedded solar-panel set.
#   python tools/train.py configs/yolov8_semi_bgpenalty.py [--cfg-options lambda_bg=1.5 burn_in=3 ...]
_base_ = './yolov8_bgpenalty.py'

# Settings, as in the base; an epoch is 135 iterations.
lambda_bg = 0.3
burn_in = 8
lambda_bg_warmup = 5

# Data: batches of as many labeled as unlabeled images; an epoch is one pass over the unlabeled ones.
branches = ['sup', 'unsup_teacher', 'unsup_student']
# Labeled images: mosaics, some of them mixed, as Ultralytics has it, and single images in the last tenth of training.
# `prob`: of a mosaic, of a single image. Few images are worth far more so (docs/experiments.md).
mosaic = dict(type='RecordedMosaic', img_scale=_base_.img_scale, pad_val=114.0)
# The middle of the mosaic's canvas, which is twice the input's size.
middle = dict(_base_.affine, border=(-_base_.img_scale[0] // 2, -_base_.img_scale[1] // 2))
single = [_base_.resize, _base_.affine]
sup_canvas = dict(
    type='RandomChoice', transforms=[[dict(mosaic, pre_transform=_base_.load), middle], single], prob=[1.0, 0.0]
)
sup_mixup = dict(type='RecordedMixUp', prob=0.15, pre_transform=[*_base_.load, sup_canvas])
sup_pack = [_base_.colour, _base_.flip, dict(type='Views', branch_field=branches, sup=[_base_.pack])]
sup_pipeline = [*_base_.load, sup_canvas, sup_mixup, *sup_pack]
single_pipeline = [*_base_.load, *single, *sup_pack]
unsup_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadEmptyAnnotations', with_bbox=True),
    _base_.resize,
    dict(
        type='Views',
        branch_field=branches,
        unsup_teacher=[_base_.flip, _base_.pack],
        unsup_student=[_base_.affine, _base_.colour, _base_.flip, _base_.pack],
    ),
]
train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='LabeledUnlabeledBatchSampler', source_ratio=[1, 1], epoch_of='unlabeled'),
    collate_fn=dict(type='branch_collate'),
    dataset=dict(
        type='LabeledUnlabeledDataset',
        labeled=dict(ann_file='semi_anns/train.1@10.json', pipeline=sup_pipeline, **_base_.dataset),
        unlabeled=dict(ann_file='semi_anns/train.1@10-unlabeled.json', pipeline=unsup_pipeline, **_base_.dataset),
    ),
    **_base_.workers,
)

# Model: student and teacher are the base's detector.
detector = _base_.model
# The penalty that lessens false positives at a fixed confidence (at equal recall it changes nothing, see
# docs/experiments.md): the mean over the background outside every box that is scored above 0.1. λ = 0.3 takes a tenth
# to a fifth of them at 0.25, with a point of recall, and costs no mAP; 1 takes a quarter, and costs some. The mean over
# all background, the formula as published, is in yolov8_semi_bgpenalty_published.py.
detector.bbox_head.update(bg_penalty=dict(normalizer='hard', region='outside'), ignored_in_cls=True)
detector.data_preprocessor.update(type='mmdet.DetDataPreprocessor', pad_size_divisor=32, non_blocking=True)
model = dict(
    _delete_=True,
    type='SemiYOLODetector',
    detector=detector,
    data_preprocessor=dict(
        type='SemiDataPreprocessor',
        data_preprocessor=dict(detector.data_preprocessor, type='StackingDetDataPreprocessor'),
    ),
    semi_train_cfg=dict(
        unsup_weight=1.0,
        # Only of labeled images is it known what is background.
        unsup_loss_weights=dict(loss_bg=0.0),
        channels_last=True,
        # Of each class the surest, six for ten boxes that labeled images have of it; whatever else the teacher sees, be
        # it faintly, is taught as what it is to the teacher: an object at its score, without a box.
        class_thresholds=dict(type='ClassFrequency', window=200),
        unsure_thr=0.02,
        soft_unsure=True,
        teacher_flips=['horizontal'],
        pseudo_test_cfg=dict(score_thr=0.4, nms=dict(type='nms', iou_threshold=0.4, class_agnostic=True)),
    ),
    semi_test_cfg=dict(predict_on='teacher'),
)

# Training
train_cfg = dict(max_epochs=20, val_interval=10)
val_cfg = dict(type='mmdet.TeacherStudentValLoop')
log_processor = dict(
    custom_cfg=[
        dict(data_src=f'semi/pseudo_{name}', method_name='mean', window_size=50) for name in ('boxes', 'score', 'empty')
    ]
)
default_hooks = dict(
    # Burn-in's end is among them: runs that differ after it alone can go on from there.
    checkpoint=dict(interval=4, save_best='teacher/coco/bbox_mAP_50'),
    # An average from the start, whose time constant grows in the first third of burn-in: steady at the hand-over.
    mean_teacher=dict(
        type='BurnInMeanTeacherHook',
        momentum=0.004,
        average_in_burn_in=True,
        momentum_warmup=300,
        unsup_warmup=1,
    ),
    quality=dict(type='PseudoLabelQualityHook'),
    thresholds=dict(type='ClassThresholdsHook'),
    pictures=dict(type='PseudoLabelPicturesHook', interval=500),
    last_epochs=dict(type='LastEpochsPipelineHook', share=0.1),
)
custom_hooks = []  # no EMAHook: the teacher is the average
