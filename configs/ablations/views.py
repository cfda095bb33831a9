# What each of the stronger views does, alone, and all together:
#   python tools/ablation.py configs/yolov8_semi_bgpenalty_views.py --variants configs/ablations/views.py --seeds 0 1 2
# The first variant has the views of configs/yolov8_semi_bgpenalty.py.
labeled = 'train_dataloader.dataset.labeled.pipeline'
unlabeled = 'train_dataloader.dataset.unlabeled.pipeline'
student = f'{unlabeled}.4.unsup_student'

off = {
    f'{labeled}.2.prob': [0.0, 1.0],
    f'{labeled}.3.prob': 0.0,
    f'{unlabeled}.2.prob': [0.0, 1.0],
    f'{unlabeled}.3.prob': 0.0,
    f'{student}.2.prob': 0.0,
    f'{student}.3.prob': 0.0,
    f'{student}.4.prob': 0.0,
    f'{student}.5.prob': 0.0,
}
labeled_mosaic = {f'{labeled}.2.prob': [1.0, 0.0]}
mosaic = {f'{unlabeled}.2.prob': [0.5, 0.5]}
mixup = {f'{labeled}.3.prob': 0.15, f'{unlabeled}.3.prob': 0.15}
colour = {f'{student}.2.prob': 0.8, f'{student}.3.prob': 0.2, f'{student}.4.prob': 0.5}
erasing = {f'{student}.5.prob': 0.7}
variants = {
    'Baseline': off,
    'mosaic of labeled': {**off, **labeled_mosaic},
    'mosaic of unlabeled': {**off, **mosaic},
    'mosaic of both': {**off, **labeled_mosaic, **mosaic},
    'mosaic of both, MixUp': {**off, **labeled_mosaic, **mosaic, **mixup},
    'colour, grey, blur': {**off, **colour},
    'erasing': {**off, **erasing},
    'all': {**off, **labeled_mosaic, **mosaic, **mixup, **colour, **erasing},
}
