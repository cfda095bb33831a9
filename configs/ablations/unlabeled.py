# What the unlabeled images are worth, and each means that is to make them pay, alone and together:
#   python tools/ablation.py configs/yolov8_semi_bgpenalty_bccd.py --variants configs/ablations/unlabeled.py \
#       --seeds 0 1 2 --cfg-options lambda_bg=0
# Two runs without unlabeled images bound it, at as many steps and with the same augmentation and average: on the
# labeled tenth, and on all labels. docs/experiments.md has what was measured.
average = {
    'default_hooks.mean_teacher.average_in_burn_in': True,
    'default_hooks.mean_teacher.momentum_warmup': 300,
}
labeled_only = {**average, 'burn_in': 1000}  # longer than any training
semi_train_cfg, head = 'model.semi_train_cfg', 'model.detector.bbox_head'
unsure = {f'{semi_train_cfg}.unsure_thr': 0.1, f'{head}.ignored_in_cls': True}
frequency = {
    f'{semi_train_cfg}.class_thresholds.type': 'ClassFrequency',
    f'{semi_train_cfg}.class_thresholds.window': 200,
}
weight_1 = {f'{semi_train_cfg}.unsup_weight': 1.0}
classes_alone = {f'{semi_train_cfg}.unsup_loss_weights.{loss}': 0.0 for loss in ('loss_bbox', 'loss_dfl')}
variants = {
    'labeled images only': labeled_only,
    'all labels': {**labeled_only, 'train_dataloader.dataset.labeled.ann_file': 'annotations/train.json'},
    'semi': average,
    'three zones': {**average, **unsure},
    'three zones, soft targets': {**average, **unsure, f'{semi_train_cfg}.soft_unsure': True},
    'thresholds by class frequency': {**average, **frequency},
    'thresholds by mixture': {**average, f'{semi_train_cfg}.class_thresholds.type': 'Mixture'},
    'thresholds by class frequency, three zones': {**average, **frequency, **unsure},
    'scale of the labeled images': {**average, f'{semi_train_cfg}.unsup_scale': 'labeled'},
    'boxes by agreement': {**average, f'{semi_train_cfg}.box_quality': 'agreement'},
    'classes alone': {**average, **classes_alone},
    'three zones, weight 1': {**average, **unsure, **weight_1},
    'three zones, weight 1, classes alone': {**average, **unsure, **weight_1, **classes_alone},
    'one forward pass': {**average, f'{semi_train_cfg}.joint_forward': True},
    'weight 1': {**average, **weight_1},
    'BN statistics copied': {**average, 'default_hooks.mean_teacher.buffers': 'copy'},
}
