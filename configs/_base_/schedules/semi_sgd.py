# MMYOLO's own optimizer and schedule for YOLOv8, over 60 epochs.
_base_ = './semi_adamw.py'

max_epochs = 60
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
    mean_teacher=dict(momentum=0.0004, momentum_warmup=0.04),
    logger=dict(interval=50),
    pictures=dict(interval=0.05),
)
