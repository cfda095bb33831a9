# Options of the penalty that are meant to be stronger than the published formula:
#   python tools/ablation.py configs/yolov8_semi_bgpenalty_bccd.py --variants configs/ablations/bg_options.py \
#       --seeds 0 1 2
# The results are in docs/lab_notes.
penalty = 'model.detector.bbox_head.bg_penalty'
published = {f'{penalty}.normalizer': 'background', f'{penalty}.region': 'all'}
positives, hard = {**published, f'{penalty}.normalizer': 'positives'}, {**published, f'{penalty}.normalizer': 'hard'}
outside = {f'{penalty}.region': 'outside'}
# By default only labeled images are penalised. This also penalises unlabeled images.
both = {'model.semi_train_cfg.unsup_loss_weights.loss_bg': 1.0}
variants = {
    'λ=0': dict(lambda_bg=0.0),
    'hard, outside': {'lambda_bg': 1.0, **hard, **outside},
    'published': {'lambda_bg': 1.0, **published, **both},
    'positives': {'lambda_bg': 1.0, **positives, **both},
    'positives, outside': {'lambda_bg': 3.0, **positives, **outside, **both},
    'hard': {'lambda_bg': 1.0, **hard},
    'hard, outside, focal': {'lambda_bg': 1.0, 'use_focal_bg': True, **hard, **outside},
    'hard, outside, unlabeled too': {'lambda_bg': 1.0, **hard, **outside, **both},
    **{f'hard, outside, λ={value}': {'lambda_bg': value, **hard, **outside} for value in (0.1, 0.3, 3.0, 10.0, 30.0)},
}
