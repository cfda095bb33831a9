# The base for one's own pictures if all of them have labels. The settings are those of yolov8_semi_bgpenalty_own.py.
_base_ = __import__('mmyolo_bgpenalty').config(
    'yolov8_bgpenalty.py',
    model_size='s',
    img_scale=(640, 640),
    flip={'type': 'mmdet.RandomFlip', 'prob': 0.5},
    max_epochs=36,
    dataset_type='CheckedCocoDataset',
    data_root='data/own/',
    labeled_ann_file='annotations/train.json',
    classes=('object',),
)

lambda_bg = 0.3
burn_in = 14
lambda_bg_warmup = 5
num_classes = len(_base_.classes)
penalty = dict(bg_penalty=dict(normalizer='hard', region='outside'), ignored_in_cls=True)
model = dict(
    bbox_head=dict(head_module=dict(num_classes=num_classes), **penalty),
    train_cfg=dict(assigner=dict(num_classes=num_classes)),
)
pipeline = [*_base_.load, _base_.canvas, _base_.mixup, _base_.colour, _base_.flip, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
train_cfg = dict(val_interval=max(1, _base_.max_epochs // 10))
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [dict(_base_.param_scheduler[0], length=1 / 24), _base_.param_scheduler[1]]
saves = dict(interval=train_cfg['val_interval'], save_best='coco/bbox_mAP')
default_hooks = dict(checkpoint=saves, last_epochs=dict(type='LastEpochsPipelineHook', share=0.1))
custom_hooks = [dict(_base_.custom_hooks[0], momentum=0.004, gamma=100)]
