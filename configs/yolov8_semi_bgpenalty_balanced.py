# The balanced preset: λ = 1, 5 epochs of linear warm-up, not focal. These are the settings of the published method.
_base_ = './yolov8_semi_bgpenalty_published.py'
