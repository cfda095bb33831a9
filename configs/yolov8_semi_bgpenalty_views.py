# Stronger views of unlabeled images: mosaic and MixUp in both views, and colour jitter, grey, blur and erasing in the
# view of the student. On the solar set mosaics gained nothing, and the other changes did harm (docs/lab_notes).
_base_ = './yolov8_semi_bgpenalty.py'

# Both views are made from one canvas. The canvas is not scaled, because the strong view is.
unsup_middle = dict(_base_.middle, scaling_ratio_range=(1.0, 1.0), max_translate_ratio=0.0)
unsup_canvas = dict(
    type='RandomChoice',
    transforms=[[dict(_base_.mosaic, pre_transform=_base_.load_unlabeled), unsup_middle], [_base_.resize]],
    prob=[0.5, 0.5],
)
unsup_mixup = dict(type='RecordedMixUp', prob=0.15, pre_transform=[*_base_.load_unlabeled, unsup_canvas])

jitter = [dict(type=f'mmdet.{name}', min_mag=0.6, max_mag=1.4) for name in ('Brightness', 'Contrast', 'Color')]
erase = [dict(type='mmdet.RandomErasing', n_patches=(1, 5), ratio=(0.0, 0.2))]  # pseudo-boxes of erased objects stay
strong = [
    _base_.affine,
    _base_.colour,
    dict(type='RandomApply', transforms=jitter, prob=0.8),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299)),
    dict(type='RandomGaussianBlur', prob=0.5, sigma=(0.1, 2.0)),
    dict(type='RandomApply', transforms=erase, prob=0.7),
    _base_.flip,
    _base_.pack,
]
unsup_pipeline = [*_base_.load_unlabeled, unsup_canvas, unsup_mixup, dict(_base_.unsup_views, unsup_student=strong)]
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unsup_pipeline)))
