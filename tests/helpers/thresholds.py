"""Random scores and labels of a teacher, and a ClassFrequency module."""

import numpy as np
import torch

from mmyolo_bgpenalty.models.pseudo_boxes.thresholds import build_thresholds


def images(number, seed=0, most=6):
    rng = np.random.default_rng(seed)
    return [
        (
            torch.tensor(np.sort(rng.random(n))[::-1].copy(), dtype=torch.float32),
            torch.from_numpy(rng.integers(0, 3, n)),
        )
        for n in rng.integers(0, most + 1, number)
    ]


def frequency(objects=(1.0, 0.5, 0.0), **options):
    options = {'window': 8, 'min_images': 4, 'floor': 0.05, 'share': 1.0, **options}
    module = build_thresholds(dict(type='ClassFrequency', **options), 3, 5, 0.4)
    module.objects_per_image = None if objects is None else torch.tensor(objects)
    return module
