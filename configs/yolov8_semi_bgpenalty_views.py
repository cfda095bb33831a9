# The semi-supervised config with stronger views of unlabeled images: mosaic and MixUp, and for the student colour
# jitter, grey, blur and random erasing. Each has a probability and stands alone:
#   --cfg-options train_dataloader.dataset.unlabeled.pipeline.3.prob=0.0
# configs/ablations/views.py names them all. On the solar set what the student's views have more was a loss, and mosaics
# of unlabeled images gained nothing (docs/experiments.md).
_base_ = './yolov8_semi_bgpenalty.py'

# Unlabeled images: one canvas, of which both views are made. It is cut out as it is, not scaled, since the strong view
# scales it and the weak one is the teacher's.
unsup_load = _base_.unsup_pipeline[:2]
unsup_canvas = dict(
    type='RandomChoice',
    transforms=[
        [
            dict(_base_.mosaic, pre_transform=unsup_load),
            dict(_base_.middle, scaling_ratio_range=(1.0, 1.0), max_translate_ratio=0.0),
        ],
        [_base_.resize],
    ],
    prob=[0.5, 0.5],
)
unsup_pipeline = [
    *unsup_load,
    unsup_canvas,
    dict(type='RecordedMixUp', prob=0.15, pre_transform=[*unsup_load, unsup_canvas]),
    dict(
        type='Views',
        branch_field=_base_.branches,
        unsup_teacher=[_base_.flip, _base_.pack],
        unsup_student=[
            _base_.affine,
            _base_.colour,
            dict(
                type='RandomApply',
                transforms=[
                    dict(type=f'mmdet.{name}', min_mag=0.6, max_mag=1.4) for name in ('Brightness', 'Contrast', 'Color')
                ],
                prob=0.8,
            ),
            dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299)),
            dict(type='RandomGaussianBlur', prob=0.5, sigma=(0.1, 2.0)),
            # What is erased stays picture, not padding, and keeps its pseudo-boxes.
            dict(
                type='RandomApply',
                transforms=[dict(type='mmdet.RandomErasing', n_patches=(1, 5), ratio=(0.0, 0.2))],
                prob=0.7,
            ),
            _base_.flip,
            _base_.pack,
        ],
    ),
]
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unsup_pipeline)))
