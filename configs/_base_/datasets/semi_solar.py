# The solar set for semi-supervised training. A batch has as many labeled as unlabeled images. An epoch is one pass over
# the unlabeled images.
_base_ = './solar.py'

unlabeled_ann_file = 'semi_anns/train.1@10-unlabeled.json'
empty = None  # images that are known to show no object: a folder, a json or text file, or a list of these

# Labeled images are mosaics, and some are mixed (MixUp), as in Ultralytics. In the last tenth of training they are
# single images. Mosaics help if there are few labels (docs/lab_notes).
branches = ['sup', 'unsup_teacher', 'unsup_student', 'bg']
sup_views = dict(type='Views', branch_field=branches, sup=[_base_.pack])
sup_pipeline = [*_base_.load, _base_.canvas, _base_.mixup, _base_.colour, _base_.flip, sup_views]
single_pipeline = [*_base_.load, *_base_.single, _base_.colour, _base_.flip, sup_views]

# The teacher sees a weak view of an unlabeled image, the student a strong one.
load_unlabeled = [_base_.load_for_training, dict(type='mmdet.LoadEmptyAnnotations', with_bbox=True)]
unsup_views = dict(
    type='Views',
    branch_field=branches,
    unsup_teacher=[_base_.flip, _base_.pack],
    unsup_student=[_base_.affine, _base_.colour, _base_.flip, _base_.pack],
)
unsup_pipeline = [*load_unlabeled, _base_.resize, unsup_views]

# Empty images are augmented as labeled images are. Otherwise a mosaic would mean "shows objects".
empty_mosaic = [dict(_base_.mosaic, pre_transform=load_unlabeled), _base_.middle]
empty_canvas = dict(_base_.canvas, transforms=[empty_mosaic, _base_.single])
empty_mixup = dict(_base_.mixup, pre_transform=[*load_unlabeled, empty_canvas])
empty_views = dict(type='Views', branch_field=branches, bg=[_base_.pack])
single_empty_pipeline = [*load_unlabeled, *_base_.single, _base_.colour, _base_.flip, empty_views]
empty_pipeline = [*load_unlabeled, empty_canvas, empty_mixup, _base_.colour, _base_.flip, empty_views]

train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='LabeledUnlabeledBatchSampler', source_ratio=[1, 1], epoch_of='unlabeled'),
    collate_fn=dict(type='branch_collate'),
    dataset=dict(
        type='LabeledUnlabeledDataset',
        labeled=dict(ann_file=_base_.labeled_ann_file, pipeline=sup_pipeline, **_base_.dataset),
        unlabeled=dict(ann_file=unlabeled_ann_file, pipeline=unsup_pipeline, **_base_.dataset),
        empty=empty,
        empty_pipeline=empty_pipeline,
    ),
    **_base_.workers,
)
