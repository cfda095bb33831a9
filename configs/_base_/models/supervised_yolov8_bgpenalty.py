# YOLOv8 with the background penalty. The architecture and the losses are those of MMYOLO's YOLOv8.
model_size = 'n/2'  # 'n', 's', 'm', 'l' or 'x', as in YOLOv8. 'n/2' has half the width of n
depths = {'n/2': 0.33, 'n': 0.33, 's': 0.33, 'm': 0.67, 'l': 1.0, 'x': 1.0}
widths = {'n/2': 0.125, 'n': 0.25, 's': 0.5, 'm': 0.75, 'l': 1.0, 'x': 1.25}
deepen_factor = depths[model_size]
widen_factor = widths[model_size]
last_channels = {'m': 768, 'l': 512, 'x': 512}.get(model_size, 1024)
num_classes = 3
channels = [256, 512, last_channels]
strides = [8, 16, 32]
norm_cfg = dict(type='BN', momentum=0.03, eps=0.001)
act_cfg = dict(type='SiLU', inplace=False)  # in place, autograd would copy its input

model = dict(
    type='YOLODetector',
    data_preprocessor=dict(
        type='BgPenaltyDetDataPreprocessor', mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True
    ),
    backbone=dict(
        type='YOLOv8CSPDarknet',
        arch='P5',
        last_stage_out_channels=channels[-1],
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    neck=dict(
        type='YOLOv8PAFPN',
        deepen_factor=deepen_factor,
        widen_factor=widen_factor,
        in_channels=channels,
        out_channels=channels,
        num_csp_blocks=3,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    bbox_head=dict(
        type='BgPenaltyYOLOv8Head',
        head_module=dict(
            type='YOLOv8HeadModule',
            num_classes=num_classes,
            in_channels=channels,
            widen_factor=widen_factor,
            reg_max=16,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            featmap_strides=strides,
        ),
        prior_generator=dict(type='mmdet.MlvlPointGenerator', offset=0.5, strides=strides),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='none', loss_weight=0.5),
        loss_bbox=dict(
            type='IoULoss', iou_mode='ciou', bbox_format='xyxy', reduction='sum', loss_weight=7.5, return_iou=False
        ),
        loss_dfl=dict(type='mmdet.DistributionFocalLoss', reduction='mean', loss_weight=1.5 / 4),
    ),
    train_cfg=dict(
        assigner=dict(
            type='SparseTaskAlignedAssigner',
            num_classes=num_classes,
            use_ciou=True,
            topk=10,
            alpha=0.5,
            beta=6.0,
            eps=1e-9,
        )
    ),
    test_cfg=dict(
        multi_label=True,
        nms_pre=30000,
        score_thr=0.001,
        # MMYOLO's 0.7 is for objects that overlap. It leaves two boxes on a thin object, and one is a false positive.
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=300,
    ),
)
