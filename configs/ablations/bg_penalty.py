# What the background penalty does, at several strengths and in several forms:
#   python tools/ablation.py configs/yolov8_semi_bgpenalty_published.py --variants configs/ablations/bg_penalty.py \
#       --seeds 0 1 2
# A variant is a name and its --cfg-options. The first variant is the baseline.
variants = {
    'Baseline λ=0': dict(lambda_bg=0.0),
    'λ=1.0': dict(lambda_bg=1.0),
    'λ=1.0 focal': dict(lambda_bg=1.0, use_focal_bg=True),
    'λ=1.5': dict(lambda_bg=1.5),
    'λ=0.5, warm-up 3': dict(lambda_bg=0.5, lambda_bg_warmup=3),
    'λ=1.5, warm-up 10, focal': dict(lambda_bg=1.5, lambda_bg_warmup=10, use_focal_bg=True),
    'λ=1.0 cosine': dict(lambda_bg=1.0, lambda_bg_schedule='cosine'),
}
