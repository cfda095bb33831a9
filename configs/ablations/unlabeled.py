# What unlabeled images gain, and what each part of the recipe adds, alone and together:
#   python tools/ablation.py configs/yolov8_semi_bgpenalty_bccd.py --variants configs/ablations/unlabeled.py \
#       --seeds 0 1 2 --cfg-options lambda_bg=0
# Two runs without unlabeled images are the bounds: the labeled tenth, and all labels. They have the same number of
# steps, the same augmentation and the same EMA. The results are in docs/lab_notes.
semi_train_cfg, head = 'model.semi_train_cfg', 'model.detector.bbox_head'
share = f'{semi_train_cfg}.class_thresholds.share'
# Only the thresholds of the recipe, without its other options
frequency = {
    f'{semi_train_cfg}.unsup_weight': 0.5,
    f'{semi_train_cfg}.unsure_thr': None,
    f'{semi_train_cfg}.soft_unsure': False,
    f'{semi_train_cfg}.teacher_flips': [],
    f'{semi_train_cfg}.pseudo_test_cfg.nms.iou_threshold': 0.6,
    f'{head}.ignored_in_cls': False,
}
# Soft Teacher with YOLOv8: one threshold. Boxes below it are background. In `three zones`, those above 0.1 are unsure.
plain = {**frequency, f'{semi_train_cfg}.class_thresholds': None}
labeled_only = {'burn_in': 1000}  # longer than any training
unsure = {f'{semi_train_cfg}.unsure_thr': 0.1, f'{head}.ignored_in_cls': True}
weight_1 = {f'{semi_train_cfg}.unsup_weight': 1.0}
variants = {
    'labeled images only': labeled_only,
    'all labels': {**labeled_only, 'train_dataloader.dataset.labeled.ann_file': 'annotations/train.json'},
    'shipped recipe': {},
    'as many pseudo-boxes as labeled ones': {share: 1.0},
    'soft targets': {f'{semi_train_cfg}.soft_unsure': True},
    'unsure from 0.1 on': {f'{semi_train_cfg}.unsure_thr': 0.1},
    'thresholds of 0.7 at most': {f'{semi_train_cfg}.class_thresholds.ceiling': 0.7},
    # One part of the recipe is replaced
    'recipe, thresholds by mixture': {f'{semi_train_cfg}.class_thresholds.type': 'Mixture'},
    'recipe, weight 0.5': {f'{semi_train_cfg}.unsup_weight': 0.5},
    'recipe, weight 2': {f'{semi_train_cfg}.unsup_weight': 2.0},
    # Without the recipe
    'semi, one threshold': plain,
    'three zones': {**plain, **unsure},
    'three zones, soft targets': {**plain, **unsure, f'{semi_train_cfg}.soft_unsure': True},
    'thresholds by class frequency': frequency,
    'thresholds by mixture': {**frequency, f'{semi_train_cfg}.class_thresholds.type': 'Mixture'},
    'thresholds by class frequency, three zones': {**frequency, **unsure},
    'three zones, weight 1': {**plain, **unsure, **weight_1},
    'weight 1': {**plain, **weight_1},
    'the teacher sees flips': {**plain, f'{semi_train_cfg}.teacher_flips': ['horizontal']},
}
