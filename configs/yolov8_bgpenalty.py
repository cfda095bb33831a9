# Supervised YOLOv8 with the background penalty: labeled images only, no teacher, MMYOLO's fast data path.
_base_ = './yolov8_semi_bgpenalty.py'

burn_in = 2
lambda_bg_warmup = 5

mosaic = dict(
    type='RecordedMosaic',
    img_scale=_base_.img_scale,
    pad_val=114.0,
    pre_transform=[dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)],
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    mosaic,
    # The mosaic's canvas is twice the input's size.
    dict(_base_.affine, border=(-_base_.img_scale[0] // 2, -_base_.img_scale[1] // 2)),
    dict(type='YOLOv5HSVRandomAug'),
    _base_.flip,
    _base_.pack,
]
train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='bg_penalty_collate'),
    dataset=dict(ann_file='semi_anns/train.1@10.json', pipeline=train_pipeline, **_base_.dataset),
)

model = _base_.detector
model._delete_ = True
model.data_preprocessor = dict(
    type='BgPenaltyDetDataPreprocessor', mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True
)
val_cfg = dict(_delete_=True, type='ValLoop')
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP_50'), mean_teacher=None)
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
