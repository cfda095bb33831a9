# The method on a set in COCO format: the blood cells of BCCD (github.com/Shenggan/BCCD_Dataset, MIT), 10 % labeled.
_base_ = './yolov8_semi_bgpenalty.py'

burn_in, lambda_bg_warmup = 6, 3  # epochs of 66 iterations
data_root = 'data/bccd/'
classes = ('RBC', 'WBC', 'Platelets')
num_classes = len(classes)
coco = dict(type='CheckedCocoDataset', data_root=data_root, metainfo=dict(classes=classes))

model = dict(
    detector=dict(
        bbox_head=dict(head_module=dict(num_classes=num_classes)),
        train_cfg=dict(assigner=dict(num_classes=num_classes)),
    ),
    semi_train_cfg=dict(soft_unsure=False),  # many cells have no box: do not learn unsure boxes as objects
)
train_dataloader = dict(
    dataset=dict(
        # The pictures are full of cells. Mosaics gained nothing here.
        labeled=dict(ann_file='semi_anns/train.1@10.json', pipeline=_base_.single_pipeline, **coco),
        unlabeled=dict(ann_file='semi_anns/train.1@10-unlabeled.json', **coco),
        empty_pipeline=_base_.single_empty_pipeline,
    )
)
val_dataloader = dict(dataset=dict(ann_file='annotations/test.json', **coco))
val_evaluator = dict(ann_file=data_root + 'annotations/test.json')
test_dataloader, test_evaluator = val_dataloader, val_evaluator
train_cfg = dict(max_epochs=18, val_interval=6)
param_scheduler = [dict(_base_.warmup, length=0.042), _base_.cosine]  # 50 of the 1,188 iterations
default_hooks = dict(checkpoint=dict(interval=6), mean_teacher=dict(momentum_warmup=0.084))  # 100 iterations
