# Optimizer and schedule of adamw.py, for a student with an EMA teacher.
_base_ = './adamw.py'

max_epochs = 20
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='mmdet.TeacherStudentValLoop')
# Lengths below 1 are shares of the run. On the solar set it has 2,700 iterations. The learning rate rises for 50
# of them, and `momentum_warmup` is 300.
warmup, cosine = _base_.param_scheduler
param_scheduler = [dict(warmup, length=1 / 54), cosine]
default_hooks = dict(
    # One of the checkpoints is at the end of burn-in. Runs that differ only after burn-in can start from it.
    checkpoint=dict(interval=4, save_best='teacher/coco/bbox_mAP_50'),
    # The teacher is an average from the first iteration on. The weight of the student falls from 1 to `momentum`
    # with the time constant `momentum_warmup`.
    mean_teacher=dict(
        type='BurnInMeanTeacherHook',
        momentum=0.004,
        average_in_burn_in=True,
        momentum_warmup=1 / 9,
        unsup_warmup=1,
    ),
    quality=dict(type='PseudoLabelQualityHook'),
    thresholds=dict(type='ClassThresholdsHook'),
    pictures=dict(type='PseudoLabelPicturesHook', interval=0.2),
    last_epochs=dict(type='LastEpochsPipelineHook', share=0.1),
)
log_processor = dict(
    custom_cfg=[
        dict(data_src=f'semi/pseudo_{name}', method_name='mean', window_size=50) for name in ('boxes', 'score', 'empty')
    ]
)
