# RetinaNet-R18 of MMDetection with the background penalty, on the labeled tenth of the solar set, from scratch.
_base_ = '../yolov8_bgpenalty.py'

detector = __import__('mmengine.hub').hub.get_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py').model
head = detector.bbox_head
head.loss_cls = dict(head.loss_cls, type='mmyolo.BackgroundPenaltyLoss', loss=head.loss_cls)
head.num_classes = len(_base_.classes)
detector.backbone.update(init_cfg=None, frozen_stages=-1, norm_eval=False)  # these are for pretrained weights
detector.test_cfg.score_thr = 0.001  # as in the other configs, so that precision is known at high recall
model = dict(_delete_=True, _scope_='mmdet', **detector)
train_dataloader = dict(collate_fn=dict(_delete_=True, type='pseudo_collate'))  # MMYOLO's heads have another format
