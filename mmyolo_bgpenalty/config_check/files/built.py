"""Checks of the datasets of a Runner."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmyolo_bgpenalty.config_check.files.images import LOOKED_AT, ImageSet, image_findings, spread
from mmyolo_bgpenalty.config_check.files.pictures import Loader, loader_of
from mmyolo_bgpenalty.config_check.findings import Findings, error
from mmyolo_bgpenalty.config_check.settings.culprit import message_of
from mmyolo_bgpenalty.datasets.labeled_unlabeled import LabeledUnlabeledDataset, leaves_of
from mmyolo_bgpenalty.datasets.samplers import SeededIndex, seeded_by
from mmyolo_bgpenalty.datasets.unreadable_images import loads_as_usual
from mmyolo_bgpenalty.utils.distributed import unwrapped


def check_built_sets(runner: Runner) -> Findings:
    """Mistakes in the datasets of a Runner."""
    where = 'train_dataloader.dataset'
    yield from orientations(getattr(runner.train_dataloader.sampler, 'group2size_per_source', ()))
    sets, has_objects = [], []
    for role, place, dataset in built_sets(runner):
        if not hasattr(dataset, 'get_data_info'):
            continue
        if role != 'val':
            has_objects.append(any(_has_objects(dataset.get_data_info(index)) for index in range(len(dataset))))
        if not getattr(dataset, 'backend_args', None):
            infos = [dataset.get_data_info(index) for index in spread(range(len(dataset)), LOOKED_AT)]
            infos = [info for info in infos if info.get('img_path')]
            sizes = {
                info['img_path']: (info['height'], info['width'])
                for info in infos
                if info.get('instances') and {'height', 'width'} <= info.keys()
            }
            paths = [info['img_path'] for info in infos]
            sets.append(ImageSet(role, place, paths, _skips(dataset), sizes, _loader(dataset)))
    if has_objects and not any(has_objects):
        what = 'none of its images has a box of its classes that counts as an object'
        yield error(where, what, 'see `ann_file`, `metainfo.classes`, and `iscrowd` in the json file')
    yield from image_findings(sets)


def built_sets(runner: Runner) -> Iterator[tuple[str, str, Any]]:
    """Yield the role, the place in the config, and the dataset, of each set that training and validation read."""
    where, dataset = 'train_dataloader.dataset', runner.train_dataloader.dataset
    members = getattr(dataset, 'datasets', None)
    if members is None:
        yield from (('train', where, leaf) for leaf in leaves_of(dataset))
    else:
        both = isinstance(dataset, LabeledUnlabeledDataset)
        names = dataset.sources if both else [f'datasets.{i}' for i in range(len(members))]
        for name, member in zip(names, members):
            yield from ((name, f'{where}.{name}', leaf) for leaf in leaves_of(member))
    val = getattr(getattr(runner.val_loop, 'dataloader', None), 'dataset', None)
    yield from (('val', 'val_dataloader.dataset', leaf) for leaf in leaves_of(val))


def try_first_images(runner: Runner) -> None:
    """Load the first image of each dataset that loads as MMEngine or MMYOLO does. In validation sets, also predict it.

    Otherwise a mistake in a pipeline or in the model may be met after burn-in, or at the first validation. The random
    generators, the pipelines and the modes of the model stay as they are.

    Raises:
        ValueError: the model cannot predict the image.
        Exception: an image cannot be loaded.
    """
    for role, _, dataset in built_sets(runner):
        usual = isinstance(dataset, BaseDataset) and (hasattr(dataset, 'first_readable') or loads_as_usual(dataset))
        if not usual:  # its own sampler may give something else than an index
            continue
        dataset = copy.copy(dataset)
        try:
            dataset.pipeline = copy.deepcopy(dataset.pipeline)
        except Exception:  # a transform holds what cannot be copied, such as a lock
            continue
        with seeded_by(SeededIndex(0, 0)):
            if _skips(dataset):  # as LabeledUnlabeledDataset does
                dataset.first_readable(0, dataset.pipeline.transforms)
            else:
                image = dataset[0]
                if role == 'val':
                    _predict(unwrapped(runner.model), runner.val_dataloader.collate_fn([image]))


def _predict(model: BaseModel, batch: Any) -> None:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            model.test_step(batch)
    except Exception as problem:
        what = message_of(problem)
        raise ValueError(f'Expected the model to predict the first validation image, but got {what}') from problem
    finally:
        for module, mode in modes:
            module.training = mode


def _skips(dataset: Any) -> bool:
    """Whether a dataset takes another image in place of one that cannot be read."""
    return hasattr(dataset, 'first_readable') and not dataset.test_mode


def _has_objects(info: dict) -> bool:
    """A dataset without `instances` may still have boxes."""
    return 'instances' not in info or any(not instance.get('ignore_flag') for instance in info['instances'])


def _loader(dataset: Any) -> Loader | None:
    for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
        if isinstance(transform, LoadImageFromFile):
            return loader_of(type(transform), transform.color_type, transform.imdecode_backend)
    return None


def orientations(counts: Sequence[Mapping[int, int]]) -> Findings:
    """``counts``: for each set, the number of images that are taller than wide (key 0) and of the others (key 1)."""
    for group, name in ((0, 'taller than wide'), (1, 'at least as wide as tall')):
        numbers = [sizes.get(group, 0) for sizes in counts]
        if any(numbers) and not all(numbers):
            what = f'no image of set {numbers.index(0)} is {name}: GroupMultiSourceSampler waits for one forever'
            instead = "write type='MultiSourceSampler', or use a LabeledUnlabeledBatchSampler"
            yield error('train_dataloader.sampler.type', what, instead)
