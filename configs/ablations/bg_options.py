# What can be done about the published penalty's weakness, each at a λ of about the same effect on precision:
#   python tools/ablation.py configs/yolov8_semi_bgpenalty_bccd.py --variants configs/ablations/bg_options.py \
#       --seeds 0 1 2
# docs/experiments.md has what was measured.
penalty, semi = 'model.detector.bbox_head.bg_penalty', 'model.semi_train_cfg'
positives, hard = {f'{penalty}.normalizer': 'positives'}, {f'{penalty}.normalizer': 'hard'}
outside = {f'{penalty}.region': 'outside'}
variants = {
    'λ=0': dict(lambda_bg=0.0),
    'published': dict(lambda_bg=1.0),
    'positives': {'lambda_bg': 1.0, **positives},
    'positives, outside': {'lambda_bg': 3.0, **positives, **outside},
    'hard': {'lambda_bg': 1.0, **hard},
    'hard, outside': {'lambda_bg': 1.0, **hard, **outside},
    'hard, outside, focal': {'lambda_bg': 1.0, 'use_focal_bg': True, **hard, **outside},
    'hard, outside, labeled alone': {
        'lambda_bg': 1.0,
        **hard,
        **outside,
        f'{semi}.unsup_loss_weights.loss_bg': 0.0,
    },
    'hard, outside, soft': {'lambda_bg': 1.0, **hard, **outside, f'{semi}.soft_background': True},
    'rank': {'lambda_bg': 1.0, **hard, f'{penalty}.rank': True},
    'rank, outside': {'lambda_bg': 1.0, **hard, **outside, f'{penalty}.rank': True},
}
