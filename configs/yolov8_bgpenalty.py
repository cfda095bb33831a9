# Supervised YOLOv8 with the background penalty, on the labeled tenth of the solar set.
_base_ = [
    './_base_/models/supervised_yolov8_bgpenalty.py',
    './_base_/datasets/solar.py',
    './_base_/schedules/adamw.py',
]

# Settings. The hooks read them when training starts. A child config or --cfg-options sets them by the same names.
lambda_bg = 1.0  # weight of the penalty at its maximum
lambda_bg_warmup = 30  # epochs from 0 to the maximum, after burn-in
lambda_bg_schedule = 'linear'  # constant, linear, step or cosine
use_focal_bg = False
burn_in = 30  # epochs without penalty. An epoch is 8 iterations

default_hooks = dict(channels_last=dict(type='ChannelsLastHook'))
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ForeachEMA',
        momentum=0.002,
        update_buffers=True,
        strict_load=False,
        priority=49,
    )
]
