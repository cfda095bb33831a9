# A student and its EMA teacher. Both are the supervised detector.
_base_ = './supervised_yolov8_bgpenalty.py'

detector = _base_.model
# The penalty is the mean over the hard background: priors with a score above 0.1 that lie outside every box. With λ =
# 0.3 it removes 9 to 15 % of the false positives at confidence 0.25. Recall at 0.25 falls by one point. No loss of mAP
# could be shown, and no gain at equal recall (docs/lab_notes).
detector.bbox_head.update(bg_penalty=dict(normalizer='hard', region='outside'), ignored_in_cls=True)
detector.data_preprocessor.update(type='mmdet.DetDataPreprocessor', pad_size_divisor=32, non_blocking=True)

model = dict(
    _delete_=True,
    type='SemiYOLODetector',
    detector=detector,
    data_preprocessor=dict(
        type='SemiDataPreprocessor',
        data_preprocessor=dict(detector.data_preprocessor, type='StackingDetDataPreprocessor'),
    ),
    semi_train_cfg=dict(
        unsup_weight=1.0,
        unsup_loss_weights=dict(loss_bg=0.0),  # only labeled images show what is background
        channels_last=True,
        # Each class has its own threshold. A box of the teacher above it is a pseudo-box. If some labeled images
        # have ten boxes of a class, the same number of unlabeled images gets six pseudo-boxes.
        class_thresholds=dict(type='ClassFrequency', window=200),
        # Boxes with a lower score, down to 0.02, are unsure. The student learns their score, but not their coordinates.
        unsure_thr=0.02,
        soft_unsure=True,
        teacher_flips=['horizontal'],
        pseudo_test_cfg=dict(score_thr=0.4, nms=dict(type='nms', iou_threshold=0.4, class_agnostic=True)),
    ),
    semi_test_cfg=dict(predict_on='teacher'),
)
