# The shipped recipe, but the penalty as published: the mean over all background of labeled and unlabeled images.
_base_ = './yolov8_semi_bgpenalty.py'

lambda_bg = 1.0
model = dict(
    detector=dict(bbox_head=dict(bg_penalty=dict(normalizer='background', region='all'))),
    semi_train_cfg=dict(unsup_loss_weights=dict(loss_bg=1.0)),
)
