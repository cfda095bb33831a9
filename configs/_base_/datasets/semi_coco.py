# COCO in MMDetection's semi-supervised layout, at 640 px: fold 1, 10 % labeled.
_base_ = __import__('mmyolo_bgpenalty').config(
    '_base_/datasets/semi_solar.py',
    data_root='data/coco/',
    img_scale=(640, 640),
    flip={'type': 'mmdet.RandomFlip', 'prob': 0.5},  # horizontal only: photographs have a top
)

ann_file = 'semi_anns/instances_train2017.1@10'
val_ann_file = 'annotations/instances_val2017.json'

coco = dict(type='CheckedCocoDataset', data_root=_base_.data_root, metainfo=dict(_delete_=True))
train = dict(coco, data_prefix=dict(img='train2017/'))
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    dataset=dict(
        labeled=dict(ann_file=f'{ann_file}.json', **train),
        unlabeled=dict(ann_file=f'{ann_file}-unlabeled.json', **train),
    ),
)
val = dict(coco, data_prefix=dict(img='val2017/'))
val_dataloader = dict(dataset=dict(ann_file=val_ann_file, **val))
val_evaluator = dict(ann_file=_base_.data_root + val_ann_file, classwise=False)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
