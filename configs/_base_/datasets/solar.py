# The solar set, made in data_root on first use. A tenth of its training images is labeled.
dataset_type = 'SolarPanelDataset'
data_root = 'data/solar/'
image_folder = 'images/'  # relative to data_root, like the json files
labeled_ann_file = 'semi_anns/train.1@10.json'
val_ann_file = 'annotations/val.json'
classes = ('hot_cell', 'hot_string', 'crack')
img_scale = (320, 256)  # width and height, multiples of 32

# Transforms. MMDetection's LoadAnnotations keeps crowd boxes, so they are not background. MMYOLO's drops them.
load_image = dict(type='LoadImageFromFile')
load_boxes = dict(type='mmdet.LoadAnnotations', with_bbox=True)
reduce_jpegs = False  # True: training loads large JPEGs at 1/2, 1/4 or 1/8 of their size, as long as it fits img_scale
load_for_training = dict(type='LoadReducedImage', scale=img_scale) if reduce_jpegs else load_image
load = [load_for_training, load_boxes]
resize = dict(type='RecordedLetterResize', scale=img_scale, pad_val=dict(img=114))
mosaic = dict(type='RecordedMosaic', img_scale=img_scale, pad_val=114.0)
affine = dict(
    type='RecordedYOLOv5RandomAffine',
    max_rotate_degree=0.0,
    max_shear_degree=0.0,
    scaling_ratio_range=(0.5, 1.5),
    max_aspect_ratio=100,
    border_val=(114, 114, 114),
)
# A mosaic is twice as wide and twice as high as the input. This cuts out its middle.
middle = dict(affine, border=(-img_scale[0] // 2, -img_scale[1] // 2))
single = [resize, affine]
# `prob`: the probabilities of a mosaic and of a single image
canvas = dict(type='RandomChoice', transforms=[[dict(mosaic, pre_transform=load), middle], single], prob=[1.0, 0.0])
mixup = dict(type='RecordedMixUp', prob=0.15, pre_transform=[*load, canvas])
colour = dict(type='YOLOv5HSVRandomAug')
# A panel seen from above has no top, so all flips are allowed.
flip = dict(type='mmdet.RandomFlip', prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal'])
pack = dict(
    type='mmdet.PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'homography_matrix', 'mosaic_tiles', 'known_empty'),
)
test_pack = dict(
    type='mmdet.PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'pad_param'),
)

train_pipeline = [*load, dict(mosaic, pre_transform=load), middle, colour, flip, pack]
test_pipeline = [load_image, resize, load_boxes, test_pack]

dataset = dict(
    type=dataset_type,
    data_root=data_root,
    metainfo=dict(classes=classes),
    data_prefix=dict(img=image_folder),
    filter_cfg=dict(filter_empty_gt=False),
)
workers = dict(num_workers=2, persistent_workers=True, pin_memory=True)
train_dataloader = dict(
    batch_size=8,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='SeededBatchSampler'),
    collate_fn=dict(type='bg_penalty_collate'),
    dataset=dict(ann_file=labeled_ann_file, pipeline=train_pipeline, **dataset),
    **workers,
)
val_dataloader = dict(
    batch_size=8,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file=val_ann_file, pipeline=test_pipeline, test_mode=True, **dataset),
    **workers,
)
test_dataloader = val_dataloader
# The values of CocoMetric, and precision, recall and false positives per image
val_evaluator = dict(
    type='PrecisionRecallMetric',
    coco=True,
    classwise=True,
    proposal_nums=(100, 1, 10),
    metric='bbox',
    ann_file=data_root + val_ann_file,
)
test_evaluator = val_evaluator
