# AdamW with a cosine schedule over the whole training, whatever train_cfg.max_epochs is.
_base_ = '../default_runtime.py'

max_epochs = 300
train_cfg = dict(type='ResumableTrainLoop', max_epochs=max_epochs, val_interval=50)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    clip_grad=dict(max_norm=10.0),
    optimizer=dict(type='FusedAdamW', lr=1e-3, weight_decay=0.05),
    constructor='YOLOv5OptimizerConstructor',
)
# Lengths below 1 are shares of the iterations of the run. So they fit a run of any length. The warm-up takes 50 of the
# 2,400 iterations on the solar set.
param_scheduler = [
    dict(type='WarmupLR', length=1 / 48, start_factor=0.01, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=2e-5, by_epoch=True, convert_to_iter_based=True),
]
