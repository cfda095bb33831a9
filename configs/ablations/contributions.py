# What unlabeled images and the penalty gain. Two runs are the bounds: labels only, and all labels.
#   python tools/ablation.py configs/yolov8_semi_bgpenalty.py --variants configs/ablations/contributions.py \
#       --seeds 0 1 2
labels_only = {'burn_in': 1000}  # longer than any training
variants = {
    'labels only': labels_only,
    'unlabeled images': {'lambda_bg': 0.0},
    'unlabeled images and penalty': {},
    'all labels': {**labels_only, 'train_dataloader.dataset.labeled.ann_file': 'annotations/train.json'},
}
