# What each of the stronger views does, alone, and all together, and mosaics of labeled images, which the base has:
#   python tools/ablation.py configs/yolov8_semi_bgpenalty_views.py --variants configs/ablations/views.py --seeds 0 1 2
# The first variant has the views of configs/yolov8_semi_bgpenalty.py.
labeled = 'train_dataloader.dataset.labeled.pipeline'
unlabeled = 'train_dataloader.dataset.unlabeled.pipeline'
student = f'{unlabeled}.4.unsup_student'

off = {
    f'{unlabeled}.2.prob': [0.0, 1.0],
    f'{unlabeled}.3.prob': 0.0,
    f'{student}.2.prob': 0.0,
    f'{student}.3.prob': 0.0,
    f'{student}.4.prob': 0.0,
    f'{student}.5.prob': 0.0,
}
no_mixup = {f'{labeled}.3.prob': 0.0}
single = {f'{labeled}.2.prob': [0.0, 1.0], **no_mixup}
mosaic = {f'{unlabeled}.2.prob': [0.5, 0.5]}
mixup = {f'{unlabeled}.3.prob': 0.15}
colour = {f'{student}.2.prob': 0.8, f'{student}.3.prob': 0.2, f'{student}.4.prob': 0.5}
erasing = {f'{student}.5.prob': 0.7}
variants = {
    'Baseline': off,
    'labeled images single': {**off, **single},
    'labeled images without MixUp': {**off, **no_mixup},
    'mosaic of unlabeled': {**off, **mosaic},
    'mosaic and MixUp of unlabeled': {**off, **mosaic, **mixup},
    'colour, grey, blur': {**off, **colour},
    'erasing': {**off, **erasing},
    'colour, grey, blur, erasing': {**off, **colour, **erasing},
    'all': {**off, **mosaic, **mixup, **colour, **erasing},
}
