# The base for one's own pictures: YOLOv8-s at 640 px, with labeled and unlabeled pictures. `python -m mmyolo_bgpenalty
# init` writes a config that inherits it.
_base_ = __import__('mmyolo_bgpenalty').config(
    'yolov8_semi_bgpenalty.py',
    model_size='s',  # 'n', 's', 'm', 'l' or 'x'
    img_scale=(640, 640),  # width and height of the input, multiples of 32
    flip={'type': 'mmdet.RandomFlip', 'prob': 0.5},  # horizontal only: photographs have a top
    max_epochs=36,
    dataset_type='CheckedCocoDataset',
    data_root='data/own/',
    labeled_ann_file='annotations/train.json',
    unlabeled_ann_file='annotations/unlabeled.json',
    classes=('object',),
)

burn_in = 14
num_classes = len(_base_.classes)
model = dict(
    detector=dict(
        bbox_head=dict(head_module=dict(num_classes=num_classes)),
        train_cfg=dict(assigner=dict(num_classes=num_classes)),
    )
)
train_cfg = dict(val_interval=max(1, _base_.max_epochs // 10))
# Chosen for a start from COCO weights (docs/lab_notes)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [dict(_base_.warmup, length=1 / 24), _base_.cosine]
saves = dict(interval=train_cfg['val_interval'], save_best='teacher/coco/bbox_mAP')
default_hooks = dict(checkpoint=saves, mean_teacher=dict(momentum_warmup=1 / 12))
