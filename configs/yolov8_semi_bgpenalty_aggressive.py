# The aggressive preset: a weak, early penalty that risks little recall.
_base_ = './yolov8_semi_bgpenalty_published.py'

lambda_bg = 0.5
lambda_bg_warmup = 3
use_focal_bg = False
