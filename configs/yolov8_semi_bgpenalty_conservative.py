# The published preset "conservative": the penalty rises slowly, but it is strong. The focal form puts its weight on the
# false positives with the highest scores.
_base_ = './yolov8_semi_bgpenalty_published.py'

lambda_bg = 1.5
lambda_bg_warmup = 10
use_focal_bg = True
