# The conservative preset: a strong, slowly rising penalty with its weight on the most confident false positives.
_base_ = './yolov8_semi_bgpenalty_published.py'

lambda_bg = 1.5
lambda_bg_warmup = 10
use_focal_bg = True
