# Dense Teacher (https://arxiv.org/abs/2207.02541): on unlabeled images the student learns the teacher's scores at the
# surest 1 % of the priors, and 0 at the others. On the solar set this was worse than labels only (docs/lab_notes).
_base_ = './yolov8_semi_bgpenalty.py'

# Both views have the same geometry: the affine and the flip come before `Views`.
unsup_views = dict(_base_.unsup_views, unsup_teacher=[_base_.pack], unsup_student=[_base_.colour, _base_.pack])
unsup_pipeline = [*_base_.load_unlabeled, _base_.resize, _base_.affine, _base_.flip, unsup_views]
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unsup_pipeline)))
model = dict(
    type='DenseSemiYOLODetector',
    dense=dict(share=0.01, gamma=2.0),
    detector=dict(bbox_head=dict(ignored_in_cls=False)),
    semi_train_cfg=dict(unsure_thr=None, soft_unsure=False, class_thresholds=None),  # dense learning has no thresholds
)
