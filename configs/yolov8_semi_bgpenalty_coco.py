# The method on COCO in MMDetection's semi-supervised layout, YOLOv8-s at 640 px, 8 GPUs × (8 + 8) images.
_base_ = './yolov8_semi_bgpenalty.py'

fold = 1
percent = 10
data_root = 'data/coco/'
max_epochs = 60  # of 1,650 iterations at 10 %; stated below for the loop and for the schedule
img_scale = (640, 640)
num_classes = 80


def for_coco(node, key=None):
    """The solar set's pipeline at this scale, flipped to the side alone."""
    if key in ('scale', 'img_scale'):
        return img_scale
    if key == 'border':
        return -img_scale[0] // 2, -img_scale[1] // 2
    if isinstance(node, (list, tuple)):
        return type(node)(for_coco(step) for step in node)
    if not isinstance(node, dict):
        return node
    if node.get('type') == 'mmdet.RandomFlip':
        return dict(type='mmdet.RandomFlip', prob=0.5)
    return {key: for_coco(value, key) for key, value in node.items()}


coco = dict(
    type='CheckedCocoDataset',
    data_root=data_root,
    metainfo=dict(_delete_=True),
    data_prefix=dict(img='train2017/'),
)
ann_file = f'semi_anns/instances_train2017.{fold}@{percent}'
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    dataset=dict(
        labeled=dict(ann_file=f'{ann_file}.json', pipeline=for_coco(_base_.sup_pipeline), **coco),
        unlabeled=dict(ann_file=f'{ann_file}-unlabeled.json', pipeline=for_coco(_base_.unsup_pipeline), **coco),
    ),
)
val_ann_file = 'annotations/instances_val2017.json'
coco['data_prefix'] = dict(img='val2017/')
val_dataloader = dict(dataset=dict(ann_file=val_ann_file, pipeline=for_coco(_base_.test_pipeline), **coco))
val_evaluator = dict(ann_file=data_root + val_ann_file, classwise=False)
test_dataloader = val_dataloader
test_evaluator = val_evaluator

widen_factor = 0.5
model = dict(
    detector=dict(
        backbone=dict(widen_factor=widen_factor),
        neck=dict(widen_factor=widen_factor),
        bbox_head=dict(head_module=dict(num_classes=num_classes, widen_factor=widen_factor)),
        train_cfg=dict(assigner=dict(num_classes=num_classes)),
        test_cfg=dict(nms=dict(iou_threshold=0.7)),
    ),
    semi_train_cfg=dict(pseudo_test_cfg=dict(nms=dict(iou_threshold=0.6))),  # objects overlap here
)

# MMYOLO's own optimizer and schedule
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True,
        type='SGD',
        lr=0.01,
        momentum=0.937,
        weight_decay=0.0005,
        nesterov=True,
        batch_size_per_gpu=16,
    )
)
param_scheduler = None
default_hooks = dict(
    param_scheduler=dict(
        _delete_=True,
        type='YOLOv5ParamSchedulerHook',
        scheduler_type='linear',
        lr_factor=0.01,
        max_epochs=max_epochs,
    ),
    mean_teacher=dict(momentum=0.0004, momentum_warmup=4000),
    logger=dict(interval=50),
    pictures=dict(interval=5000),
)
