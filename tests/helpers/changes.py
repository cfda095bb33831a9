"""Changes of a config at dotted paths, and of COCO json files."""

import json
from pathlib import Path

from mmengine.config import ConfigDict

DELETED = object()


class Before:
    """A transform that is inserted before the one at a path."""

    def __init__(self, step: dict):
        self.step = step


def change(cfg, changes) -> None:
    """Apply changes: values by dotted paths, or a function that changes the config. A dict replaces the old value."""
    if callable(changes):
        changes(cfg)
        return
    for path, value in changes.items():
        *parents, last = path.split('.')
        node = cfg
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node[key]
        last = int(last) if isinstance(node, list) else last
        if value is DELETED:
            node.pop(last)
        elif isinstance(value, Before):
            node.insert(last, ConfigDict(value.step))
        else:
            node[last] = ConfigDict(value) if isinstance(value, dict) else value


def edit(root: Path, name: str, change) -> None:
    """Let ``change`` edit the content of ``root/name.json``."""
    coco = json.loads((root / f'{name}.json').read_text())
    change(coco)
    (root / f'{name}.json').write_text(json.dumps(coco))


# A loop of iterations, and MMDetection's sampler of two sets, which never ends.
ITERATIONS = {
    'train_cfg': dict(type='IterBasedTrainLoop', max_iters=12000, val_interval=100),
    'burn_in': 4000,
    'param_scheduler': [],
    'default_hooks.lambda_bg': dict(type='LambdaBgSchedulerHook', by_epoch=False),
}
MULTI_SOURCE = {
    'train_dataloader.sampler': dict(type='mmdet.MultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
    'train_dataloader.batch_sampler': DELETED,
    **ITERATIONS,
}
