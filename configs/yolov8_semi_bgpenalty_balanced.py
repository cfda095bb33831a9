# The balanced preset.
_base_ = './yolov8_semi_bgpenalty_published.py'

lambda_bg = 1.0
lambda_bg_warmup = 5
lambda_bg_schedule = 'linear'
