"""Real runs whose losses and weights must stay finite."""

import math
from pathlib import Path

from mmengine.hooks import Hook

from tests.helpers import tiny


class Watch(Hook):
    """Records the losses, the numbers of objects and the shapes of pictures of every iteration."""

    def __init__(self):
        self.losses, self.objects, self.shapes = [], [], set()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: float(value) for name, value in outputs.items() if 'loss' in name})
        if not isinstance(data_batch['inputs'], dict):  # a tensor in a supervised run
            self.shapes.add(tuple(data_batch['inputs'].shape[2:]))
        else:
            self.objects.append([len(sample.gt_instances) for sample in data_batch['data_samples']['sup'] if sample])
            pictures = [image for images in data_batch['inputs'].values() for image in images if image is not None]
            self.shapes |= {tuple(picture.shape[1:]) for picture in pictures}


def train(cfg, *hooks):
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.default_hooks.checkpoint.save_best = None
    cfg.default_hooks.checkpoint.interval = -1
    watch = Watch()
    runner = tiny.train(cfg, watch, *hooks)
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert watch.losses and all(math.isfinite(v) for losses in watch.losses for v in losses.values())
    assert all(p.isfinite().all() for p in runner.model.parameters())
    assert 'Skipped iteration' not in log
    return runner, watch, log


PLAN = dict(
    burn_in=1,
    lambda_bg_warmup=0,
    train_cfg__max_epochs=2,
    default_hooks__pictures__interval=-1,
    model__semi_train_cfg__pseudo_test_cfg__score_thr=0.0,
    model__semi_train_cfg__pseudo_test_cfg__max_per_img=5,
)
SUPERVISED_PLAN = dict(burn_in=0, lambda_bg_warmup=0, train_cfg__max_epochs=2)
