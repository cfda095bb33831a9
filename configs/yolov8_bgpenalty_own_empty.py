# yolov8_bgpenalty_own.py with images that are known to show no object, such as good parts. Each batch gets as many of
# them as labeled images.
_base_ = __import__('mmyolo_bgpenalty').config('yolov8_bgpenalty_own.py')

empty = 'empty/'  # a folder, a json or text file, or a list of these, in data_root

branches = ['sup', 'bg']
load_empty = [_base_.load_image, dict(type='mmdet.LoadEmptyAnnotations', with_bbox=True)]
# They are augmented as labeled images are. Otherwise a mosaic would mean "shows objects".
empty_mosaic = [dict(_base_.mosaic, pre_transform=load_empty), _base_.middle]
empty_canvas = dict(_base_.canvas, transforms=[empty_mosaic, _base_.single])
empty_mixup = dict(_base_.mixup, pre_transform=[*load_empty, empty_canvas])
empty_views = dict(type='Views', branch_field=branches, bg=[_base_.pack])
sup_views = dict(type='Views', branch_field=branches, sup=[_base_.pack])
train_dataloader = dict(
    batch_sampler=dict(type='LabeledUnlabeledBatchSampler', epoch_of='labeled'),
    collate_fn=dict(type='branch_collate'),
    dataset=dict(
        _delete_=True,
        type='LabeledUnlabeledDataset',
        labeled=dict(_base_.train_dataloader.dataset, pipeline=[*_base_.pipeline[:-1], sup_views]),
        empty=empty,
        empty_pipeline=[*load_empty, empty_canvas, empty_mixup, _base_.colour, _base_.flip, empty_views],
    ),
)
images = dict(_base_.model.data_preprocessor, type='StackingDetDataPreprocessor', pad_size_divisor=32)
data_preprocessor = dict(_delete_=True, type='SemiDataPreprocessor', data_preprocessor=images)
# The penalty is on empty images only: labeled images may show objects that nobody has marked.
model = dict(type='EmptyImagesYOLODetector', data_preprocessor=data_preprocessor, sup_loss_weights=dict(loss_bg=0.0))
default_hooks = dict(misfires=dict(type='MisfiresFirstHook'))  # images with false alarms are drawn more often
