# RTMDet-tiny of MMYOLO with the background penalty, on the labeled tenth of the solar set, from scratch.
_base_ = '../yolov8_bgpenalty.py'

detector = __import__('mmengine.hub').hub.get_config('mmyolo::rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_coco.py').model
head = detector.bbox_head
head.loss_cls = dict(head.loss_cls, type='BackgroundPenaltyLoss', loss=head.loss_cls)
head.head_module.num_classes = detector.train_cfg.assigner.num_classes = len(_base_.classes)
detector.backbone.init_cfg = None
detector.data_preprocessor.type = 'BgPenaltyDetDataPreprocessor'
model = dict(_delete_=True, **detector)
