# COCO in MMDetection's semi-supervised layout, at 640 px: fold 1, 10 % labeled.
_base_ = './semi_solar.py'

data_root = 'data/coco/'
img_scale = (640, 640)
ann_file = 'semi_anns/instances_train2017.1@10'
val_ann_file = 'annotations/instances_val2017.json'

# The pipelines of the solar set at this scale. Images are flipped horizontally, not vertically.
resize = dict(_base_.resize, scale=img_scale)
mosaic = dict(_base_.mosaic, img_scale=img_scale)
middle = dict(_base_.affine, border=(-img_scale[0] // 2, -img_scale[1] // 2))
flip = dict(type='mmdet.RandomFlip', prob=0.5)
single = [resize, _base_.affine]
canvas = dict(_base_.canvas, transforms=[[dict(mosaic, pre_transform=_base_.load), middle], single])
mixup = dict(_base_.mixup, pre_transform=[*_base_.load, canvas])
sup_pipeline = [*_base_.load, canvas, mixup, _base_.colour, flip, _base_.sup_views]
unsup_views = dict(
    _base_.unsup_views,
    unsup_teacher=[flip, _base_.pack],
    unsup_student=[_base_.affine, _base_.colour, flip, _base_.pack],
)
unsup_pipeline = [*_base_.load_unlabeled, resize, unsup_views]
test_pipeline = [_base_.load_image, resize, _base_.load_boxes, _base_.test_pack]

coco = dict(type='CheckedCocoDataset', data_root=data_root, metainfo=dict(_delete_=True))
train = dict(coco, data_prefix=dict(img='train2017/'))
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    dataset=dict(
        labeled=dict(ann_file=f'{ann_file}.json', pipeline=sup_pipeline, **train),
        unlabeled=dict(ann_file=f'{ann_file}-unlabeled.json', pipeline=unsup_pipeline, **train),
    ),
)
val = dict(coco, data_prefix=dict(img='val2017/'))
val_dataloader = dict(dataset=dict(ann_file=val_ann_file, pipeline=test_pipeline, **val))
val_evaluator = dict(ann_file=data_root + val_ann_file, classwise=False)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
