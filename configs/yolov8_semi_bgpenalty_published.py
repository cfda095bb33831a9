# The method as published. Pseudo-boxes have one threshold. The teacher is a copy of the student until burn-in ends. The
# penalty is the mean over all background of labeled and unlabeled images. There are no mosaics.
_base_ = './yolov8_semi_bgpenalty.py'

lambda_bg = 1.0
train_dataloader = dict(
    dataset=dict(labeled=dict(pipeline=_base_.single_pipeline), empty_pipeline=_base_.single_empty_pipeline)
)
model = dict(
    detector=dict(
        bbox_head=dict(bg_penalty=dict(normalizer='background', region='all'), ignored_in_cls=False),
        test_cfg=dict(nms=dict(iou_threshold=0.7)),
    ),
    semi_train_cfg=dict(
        unsup_weight=0.5,
        unsup_loss_weights=dict(_delete_=True),
        class_thresholds=None,
        unsure_thr=None,
        soft_unsure=False,
        teacher_flips=[],
        pseudo_test_cfg=dict(nms=dict(iou_threshold=0.6)),
    ),
)
default_hooks = dict(mean_teacher=dict(average_in_burn_in=False, momentum_warmup=0))
