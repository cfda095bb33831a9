# The student learns unlabeled images from the teacher's predictions at every prior, without pseudo-boxes: no threshold
# decides what is background (Dense Teacher, https://arxiv.org/abs/2207.05775). On the solar set it was worse than the
# labels alone (docs/experiments.md).
_base_ = './yolov8_semi_bgpenalty.py'

# Both views have the same geometry: one affine and one flip for both, before `Views`.
unsup_pipeline = [
    *_base_.unsup_pipeline[:3],
    _base_.affine,
    _base_.flip,
    dict(
        type='Views',
        branch_field=_base_.branches,
        unsup_teacher=[_base_.pack],
        unsup_student=[_base_.colour, _base_.pack],
    ),
]
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unsup_pipeline)))
model = dict(
    type='DenseSemiYOLODetector',
    dense=dict(share=0.01, gamma=2.0),
    detector=dict(bbox_head=dict(ignored_in_cls=False)),
    semi_train_cfg=dict(unsure_thr=None, soft_unsure=False, class_thresholds=None),  # there is no threshold
)
