# The detector of retinanet_r18_bgpenalty.py, with a student and its EMA teacher, on the solar set, from scratch.
_base_ = '../yolov8_semi_bgpenalty.py'

detector = __import__('mmengine').Config.fromfile('{{ fileDirname }}/retinanet_r18_bgpenalty.py').model
detector.data_preprocessor.type = 'mmdet.DetDataPreprocessor'
model = dict(
    type='SemiSingleStageDetector',
    detector=dict(_delete_=True, **detector),
    data_preprocessor=dict(data_preprocessor=dict(detector.data_preprocessor, _delete_=True)),
    # Only YOLOv8's head of this package knows unsure objects.
    semi_train_cfg=dict(unsure_thr=None, soft_unsure=False),
)
