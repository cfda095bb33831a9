"""A tiny COCO set and tiny variants of the shipped configs, for real runs in seconds."""

import json
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
SEMI = 'yolov8_semi_bgpenalty_published.py'  # only the published method
SUPERVISED = 'yolov8_bgpenalty.py'
CLASSES = ('square', 'disc', 'bar')
SIZE = (80, 64)  # width, height
INPUT = (96, 64)


def make_images(root: Path, name: str, number: int, seed: int, crowd: bool = False) -> None:
    """Write ``root/name.json`` and its images, each with one or two bright squares on noise."""
    rng = np.random.default_rng(seed)
    (root / 'images').mkdir(parents=True, exist_ok=True)
    width, height = SIZE
    images, annotations = [], []
    for i in range(number):
        picture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        for _ in range(rng.integers(1, 3)):
            side = int(rng.integers(14, 26))
            x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
            label = int(rng.integers(0, 3))
            picture[y : y + side, x : x + side, label] = 230
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=i,
                    category_id=label + 1,
                    bbox=[x, y, side, side],
                    area=side * side,
                    iscrowd=int(crowd and rng.random() < 0.5),
                    segmentation=[],
                )
            )
        file_name = f'{name}_{i:03}.png'
        cv2.imwrite(str(root / 'images' / file_name), picture)
        images.append(dict(id=i, file_name=file_name, width=width, height=height))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    (root / f'{name}.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def make_set(root: Path) -> Path:
    """6 labeled, 10 unlabeled and 4 validation images."""
    for seed, (name, number) in enumerate((('labeled', 6), ('unlabeled', 10), ('val', 4))):
        make_images(root, name, number, seed)
    return root


def data_options(root: Path) -> dict:
    """Options that make a shipped semi-supervised config read the files of ``make_set``."""
    options = {'val_evaluator.ann_file': f'{root}/val.json'}
    for key, name in (
        ('train_dataloader.dataset.labeled', 'labeled'),
        ('train_dataloader.dataset.unlabeled', 'unlabeled'),
        ('val_dataloader.dataset', 'val'),
    ):
        options |= {
            f'{key}.type': 'YOLOv5CocoDataset',
            f'{key}.data_root': f'{root}/',
            f'{key}.ann_file': f'{name}.json',
            f'{key}.metainfo.classes': CLASSES,
        }
    return options


# 0.1 M parameters, batches of 2 labeled and 2 unlabeled images, no worker processes.
SMALL = {
    'model.detector.backbone.widen_factor': 0.0625,
    'model.detector.neck.widen_factor': 0.0625,
    'model.detector.bbox_head.head_module.widen_factor': 0.0625,
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'default_hooks.logger.interval': 1,
    'randomness.seed': 0,
}


def load(name: str, root: Path, work_dir: Path, **options) -> Config:
    """A shipped config for the tiny set and its size. In the names of ``options``, ``__`` stands for a dot."""
    cfg = Config.fromfile(CONFIGS / name)
    overrides = {**data_options(root), **SMALL}
    if 'other_heads' in name:  # a ResNet has no `widen_factor`
        overrides = {key: value for key, value in overrides.items() if not key.endswith('widen_factor')}
    if 'detector' not in cfg.model:
        overrides = {
            key.replace('model.detector', 'model').replace('dataset.labeled', 'dataset'): value
            for key, value in overrides.items()
            if 'unlabeled' not in key
        }
    if cfg.param_scheduler:  # few iterations at low learning rates, so that rounding errors stay small
        overrides['param_scheduler.0.length'] = 50
    # Without a name all runs of a process would share one visualizer.
    overrides |= {'visualizer.name': str(work_dir), 'work_dir': str(work_dir)}
    cfg.merge_from_dict(overrides | {key.replace('__', '.'): value for key, value in options.items()})
    shrink(cfg.train_dataloader)
    shrink(cfg.val_dataloader)
    return cfg


def train(cfg: Config, *hooks: Hook) -> Runner:
    """Train with these hooks and return the runner."""
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def stated(options: dict) -> list[str]:
    """These options for ``--cfg-options``."""
    texts = {name: ','.join(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return [f'{name}={text}' for name, text in texts.items()]


def shrink(node) -> None:
    """Set the input size of all resizes and mosaics in ``node``, and the border of all affine transforms."""
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list)):
            shrink(child)
    if isinstance(node, dict):
        for key, value in dict(scale=INPUT, img_scale=INPUT, border=(-INPUT[0] // 2, -INPUT[1] // 2)).items():
            if key in node:
                node[key] = value
