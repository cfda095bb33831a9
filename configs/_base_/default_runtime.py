# Settings that all configs share. A schedule may override some of them.
default_scope = 'mmyolo'
custom_imports = dict(imports=['mmyolo_bgpenalty'])

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='ValidationLoggerHook', interval=20),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='ResumableCheckpointHook', interval=50, max_keep_ckpts=2, save_best='coco/bbox_mAP_50'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='mmdet.DetVisualizationHook'),
    check=dict(type='ConfigCheckHook'),
    lambda_bg=dict(type='LambdaBgSchedulerHook'),
    guard=dict(type='NonFiniteGuardHook'),
    collapse=dict(type='CollapseMonitorHook'),
    progress=dict(type='ProgressBarHook'),
    slowdown=dict(type='SlowdownHook'),
)
custom_hooks = []

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
visualizer = dict(type='mmdet.DetLocalVisualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
report = False  # True: `train` ends with report.html in the work dir, the mistakes of the best checkpoint
resume = False
randomness = dict(seed=0)
