# Semi-supervised YOLOv8 with the background penalty, on the solar set. A tenth of the images has
# labels. An EMA teacher labels the others.
#   python tools/train.py configs/yolov8_semi_bgpenalty.py [--cfg-options lambda_bg=1.5 burn_in=3 ...]
_base_ = [
    './_base_/models/semi_yolov8_bgpenalty.py',
    './_base_/datasets/semi_solar.py',
    './_base_/schedules/semi_adamw.py',
]

# Settings. The hooks read them when training starts. A child config or --cfg-options sets them by the same names.
lambda_bg = 0.3  # weight of the penalty at its maximum
lambda_bg_warmup = 5  # epochs from 0 to the maximum, after burn-in
lambda_bg_schedule = 'linear'  # constant, linear, step or cosine
use_focal_bg = False
burn_in = 8  # epochs without penalty and without unlabeled images. An epoch is 135 iterations
