"""The plan of a run: iterations of an epoch, of burn-in and in all, from a config without building anything."""

import functools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from mmengine.dist import get_world_size

from mmyolo_bgpenalty.config_check.parts import ConfigParts, Dataset
from mmyolo_bgpenalty.utils.image_files import list_images


class RunPlan(NamedTuple):
    """Lengths in iterations. ``epoch`` is None if the run does not count epochs and the length of one is unknown."""

    epoch: int | None
    burn_in: int
    total: int

    def __str__(self) -> str:
        epoch = [] if self.epoch is None else [f'an epoch = {self.epoch:,} iterations']
        return '; '.join([*epoch, f'burn-in {self.burn_in:,}', f'total {self.total:,}'])


def run_plan(cfg: Mapping) -> RunPlan | None:
    """The plan of a config. None if it cannot be known: a file is missing, or a setting is wrong."""
    return plan_of(ConfigParts(cfg))


@functools.lru_cache(maxsize=1)  # several checks need the plan
def plan_of(parts: ConfigParts) -> RunPlan | None:
    try:
        return _plan_of(parts)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OSError, ZeroDivisionError):
        return None  # other checks report such a setting


def _plan_of(parts: ConfigParts) -> RunPlan | None:
    epoch, length = epoch_length(parts), parts.length
    if not length or (epoch is None and parts.by_epoch):
        return None
    total = int(length * epoch if epoch and parts.by_epoch else length)
    hooks, plan = parts.hooks_of('LambdaBgSchedulerHook'), parts.plan
    if plan is None or plan['burn_in'] == 0:
        return RunPlan(epoch, 0, total)
    if not hooks[0].node.get('by_epoch', True):
        return RunPlan(epoch, plan['burn_in'], total)
    return None if epoch is None else RunPlan(epoch, math.ceil(plan['burn_in'] * epoch - 1e-6), total)


def epoch_length(parts: ConfigParts) -> int | None:
    """Iterations of an epoch. None if the config does not tell."""
    if parts.epoch_length is not None:
        return parts.epoch_length
    base = re.escape(parts.train_set.path)
    sets = [one for one in parts.train if one.role != 'empty']  # no epoch is a pass over empty images
    direct = all(re.fullmatch(rf'{base}(\.labeled|\.unlabeled|\.datasets\.\d+)?', one.path) for one in sets)
    counts = [_images(parts, dataset) for dataset in sets] if direct else []
    images = [number for number in counts if number is not None]
    if not images or len(images) < len(counts):
        return None
    size, processes = parts.get('train_dataloader.batch_size', 1), get_world_size()
    if 'LabeledUnlabeledBatchSampler' in parts.batch_sampler.names:
        ratio = parts.batch_sampler.node.get('source_ratio', (1, 1)) if len(images) > 1 else (1,)
        source = ('labeled', 'unlabeled').index(parts.batch_sampler.node.get('epoch_of', 'unlabeled'))
        return math.ceil(images[source] / (size // sum(ratio) * ratio[source] * processes))
    if 'DefaultSampler' not in parts.sampler.names:
        return None
    batches = math.ceil(sum(images) / processes) / size
    drop = parts.get('train_dataloader.drop_last') or parts.batch_sampler.node.get('drop_last')
    return math.floor(batches) if drop else math.ceil(batches)


def _images(parts: ConfigParts, dataset: Dataset) -> int | None:
    """The number of images that a dataset loads. None if it is unknown."""
    if 'indices' in dataset.node:
        return None
    if 'ImageFolderDataset' in dataset.names and dataset.is_local(dataset.folder):
        return len(list_images(dataset.folder)[1])
    coco = parts.coco_of(dataset)
    if not isinstance(coco, dict):
        return None
    return len(_kept(coco, dataset.node.get('filter_cfg') or {}, parts.classes_of(dataset) or []))


def _kept(coco: dict, filter_cfg: Mapping, classes: list[str]) -> set:
    """The images that MMDetection's ``filter_cfg`` keeps."""
    least = filter_cfg.get('min_size', 0)
    kept = {image['id'] for image in coco['images'] if min(image['width'], image['height']) >= least}
    if filter_cfg.get('filter_empty_gt'):
        ids = {category['id'] for category in coco['categories'] if category['name'] in classes}
        kept &= {box['image_id'] for box in coco['annotations'] if box['category_id'] in ids}
    return kept
