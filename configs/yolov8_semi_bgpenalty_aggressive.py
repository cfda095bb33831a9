# The published preset "aggressive": the penalty rises fast, but it is weak. It costs little recall.
_base_ = './yolov8_semi_bgpenalty_published.py'

lambda_bg = 0.5
lambda_bg_warmup = 3
