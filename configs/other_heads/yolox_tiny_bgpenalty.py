# YOLOX-tiny of MMYOLO with the background penalty, on the labeled tenth of the solar set, from scratch.
_base_ = '../yolov8_bgpenalty.py'

detector = __import__('mmengine.hub').hub.get_config('mmyolo::yolox/yolox_tiny_fast_8xb8-300e_coco.py').model
head = detector.bbox_head
head.loss_obj = dict(head.loss_obj, type='BackgroundPenaltyLoss', loss=head.loss_obj)  # only objectness sees background
head.head_module.num_classes = len(_base_.classes)
# Resizing a batch would move pixels after the geometry was recorded.
detector.data_preprocessor.update(type='BgPenaltyDetDataPreprocessor', batch_augments=None)
model = dict(_delete_=True, **detector)
