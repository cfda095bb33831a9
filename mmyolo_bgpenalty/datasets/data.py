"""Labeled and unlabeled images in one loader: datasets and batches."""

import math
import os
import random
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from typing import Iterator, List, Optional, Sequence

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO
from mmengine.dataset import BaseDataset, ConcatDataset, DefaultSampler, pseudo_collate
from mmengine.registry import FUNCTIONS
from mmyolo.datasets import YOLOv5CocoDataset
from mmyolo.datasets.utils import yolov5_collate
from mmyolo.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Sampler

from mmyolo_bgpenalty.datasets.known_empty import places_of, read_names
from mmyolo_bgpenalty.datasets.shared_batch import SharedBatch
from mmyolo_bgpenalty.datasets.solar_panels import generate as synthetic
from mmyolo_bgpenalty.datasets.unreadable_images import ReadableImages, SkipUnreadable, loads_as_usual
from mmyolo_bgpenalty.utils.arguments import one_of
from mmyolo_bgpenalty.utils.files import numbered_classes, printable, read_coco, read_json


class CheckedCOCO(COCO):
    """MMDetection's COCO of a file that ``read_coco`` accepts for training.

    Raises:
        ValueError: the file is none, or MMDetection would give its classes other numbers than ``classes`` has.
    """

    def __init__(self, annotation_file: str, classes: Sequence[str] = ()):
        super().__init__()
        self.dataset = read_coco(annotation_file, training=True)
        found, lacking = numbered_classes(self.dataset, classes)
        if found != list(classes)[: len(found)] and self.dataset['annotations']:
            why = f'it lacks {lacking}: the labels of the classes after it count down by one'
            if not lacking:
                why = f'it has them in the order {found}, by which MMDetection numbers labels: write `classes` so'
            raise ValueError(f'Expected {annotation_file} to have the categories {list(classes)}, but {why}')
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs


def _read_checked(dataset: BaseDataset) -> None:
    """Have a dataset of MMDetection's that reads COCO json read it by CheckedCOCO."""
    if getattr(dataset, 'COCOAPI', None) is COCO:
        dataset.COCOAPI = partial(CheckedCOCO, classes=dataset.metainfo['classes'])


class SeededIndex(int):
    """An index into a dataset that carries the seed of its sample's augmentation."""

    seed: int

    def __new__(cls, index: int, seed: int):
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __getnewargs__(self):
        return int(self), self.seed


def _seed_of(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


@contextmanager
def seeded_by(idx: int):
    """Within it, the generators of Python, NumPy and, on the CPU, torch start from the seed of a ``SeededIndex``.

    So a sample depends neither on the worker that loads it nor on what was loaded before: a resumed run sees the same.
    The generators are left as they were, whatever the number of workers.
    """
    if not isinstance(idx, SeededIndex):
        yield
        return
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(idx.seed)
    np.random.seed(idx.seed)
    torch.default_generator.manual_seed(idx.seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@DATASETS.register_module()
class CheckedCocoDataset(SkipUnreadable, YOLOv5CocoDataset):
    """YOLOv5CocoDataset that refuses a json with mistakes and, in training, skips images that cannot be read.

    A ``SeededIndex`` seeds its sample's augmentation.

    Attributes:
        first_readable: ``ReadableImages`` of it.

    Raises:
        ValueError: as CheckedCOCO; ``filter_cfg`` leaves no image; in training, too many unreadable images in a row.
    """

    def load_data_list(self) -> List[dict]:
        _read_checked(self)
        return super().load_data_list()

    def filter_data(self) -> List[dict]:
        left = super().filter_data()
        if not left:  # MMEngine fails to serialise an empty list with "need at least one array to concatenate".
            raise ValueError(f'Expected images in {self.ann_file}, but filter_cfg={self.filter_cfg} leaves none')
        return left

    def __getitem__(self, idx: int) -> dict:
        with seeded_by(idx):
            return super().__getitem__(idx)


@DATASETS.register_module()
class SolarPanelDataset(CheckedCocoDataset):
    """The embedded set of ``generate``, made in ``data_root`` on first use."""

    METAINFO = dict(classes=synthetic.CLASSES)

    def load_data_list(self) -> List[dict]:
        try:
            synthetic.generate(self.data_root)
        except ValueError as error:
            raise ValueError(f"{error}. A set of your own takes `type='CheckedCocoDataset'`") from None
        return super().load_data_list()


@DATASETS.register_module()
class LabeledUnlabeledDataset(ConcatDataset):
    """ConcatDataset whose two members a child config reaches by name.

    Json with mistakes is refused as by ``CheckedCocoDataset``, and images that cannot be read give way to others
    (``ReadableImages``), unless a member's class loads them in a way of its own. A
    ``SeededIndex`` seeds its sample's augmentation.

    Args:
        labeled: config of the labeled images.
        unlabeled: config of the unlabeled images; boxes it may have are not read by training.
        known_empty: a text file, relative to the unlabeled set's ``data_root``, that names unlabeled images known to
            show no object, a line each, relative to its ``data_prefix['img']``; 'a/b/' are all images in that folder.
            The pipeline gets ``known_empty``, True or False, which SemiYOLODetector reads from the meta.

    Raises:
        ValueError: one of the two is empty, or no labeled image has a box of the classes; ``known_empty`` cannot be
            read, names what is no image of the set, or one that has boxes there.
    """

    def __init__(self, labeled: dict, unlabeled: dict, known_empty: Optional[str] = None, **kwargs):
        if known_empty is not None and (not isinstance(known_empty, str) or not known_empty):
            raise ValueError(f'Expected `known_empty` to be the path of a text file, but got {known_empty!r}')
        self.known_empty = known_empty
        members = [DATASETS.build(dict(member, lazy_init=True)) for member in (labeled, unlabeled)]
        # What the unlabeled set does not state, as a folder of images does not, is the labeled set's.
        kwargs.setdefault('ignore_keys', [key for key in members[0].metainfo if key not in members[1].metainfo])
        super().__init__(members, **kwargs)

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        for name, dataset in zip(('labeled', 'unlabeled'), self.datasets):
            _read_checked(dataset)
            try:
                dataset.full_init()
                images = len(dataset)
            except ValueError as error:
                # MMEngine fails to serialise an empty list with "need at least one array to concatenate".
                if 'concatenate' not in str(error):
                    raise ValueError(f'`{name}` set: {error}') from error
                images = 0
            if not images:
                source = dataset.ann_file or dict(dataset.data_prefix)
                raise ValueError(f'Expected images in the `{name}` set, but {source} leaves none')
            if loads_as_usual(dataset):
                dataset.first_readable = ReadableImages(dataset)
        if self.known_empty is not None:
            self._mark_empty(self.datasets[1], self.known_empty)
        super().full_init()
        labeled = self.datasets[0]
        if not any(labeled.get_data_info(i)['instances'] for i in range(len(labeled))):
            found = [category['name'] for category in read_json(labeled.ann_file).get('categories', [])]
            raise ValueError(
                f'Expected boxes of the classes {list(labeled.metainfo["classes"])} in {labeled.ann_file}, but it '
                f'has none; its categories are {found}'
            )

    def _mark_empty(self, dataset: BaseDataset, known_empty: str) -> None:
        readable = getattr(dataset, 'first_readable', None)
        if readable is None or dataset.test_mode:
            why = 'in test_mode' if readable else 'which loads images in a way of its own'
            raise ValueError(f'Expected no `known_empty` with {type(dataset).__name__}, {why}')
        file, folder = os.path.join(dataset.data_root or '', known_empty), dataset.data_prefix.get('img') or ''
        infos = map(dataset.get_data_info, range(len(dataset)))
        try:
            places = places_of(read_names(file), (info['img_path'] for info in infos), folder)
        except ValueError as problem:
            raise ValueError(f'`known_empty`: {problem}') from None
        boxed = [info['img_path'] for info in map(dataset.get_data_info, places) if info.get('instances')]
        if boxed:
            raise ValueError(
                f'Expected images without boxes in `known_empty` {file}, but {dataset.ann_file} has boxes in '
                f'{len(boxed)} of {len(places)}, the first {printable(boxed[0])}'
            )
        flags = torch.zeros(len(dataset), dtype=torch.bool)
        flags[places] = True
        readable.known_empty = flags

    @property
    def pipeline(self):
        """The labeled images' pipeline, which MMDetection's PipelineSwitchHook sets."""
        return self.datasets[0].pipeline

    @pipeline.setter
    def pipeline(self, pipeline) -> None:
        self.datasets[0].pipeline = pipeline

    def __getitem__(self, idx: int) -> dict:
        member, place = self._get_ori_dataset_idx(idx)
        dataset = self.datasets[member]
        with seeded_by(idx):
            if loads_as_usual(dataset) and not dataset.test_mode:
                return dataset.first_readable(place, dataset.pipeline.transforms)
            return dataset[place]


@DATA_SAMPLERS.register_module()
class SeededBatchSampler(Sampler):
    """torch's BatchSampler, which keeps the last batch, with a seed for each sample's augmentation.

    Epoch and seed alone determine it, whatever the number of processes; see ``seeded_by``.

    Args:
        sampler: mmengine's DefaultSampler.
        batch_size: images in a batch of one process.

    Attributes:
        first_batch: where the next pass begins; the one after it begins at 0.

    Raises:
        ValueError: another sampler.
    """

    def __init__(self, sampler, batch_size: int):
        if not isinstance(sampler, DefaultSampler):
            raise ValueError(f'Expected `sampler` to be a DefaultSampler, but got {type(sampler).__name__}')
        self.sampler = sampler
        self.batch_size = batch_size
        self.first_batch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.batch_size)

    def __iter__(self) -> Iterator[List[int]]:
        first, self.first_batch = self.first_batch, 0
        sampler, size = self.sampler, self.batch_size
        indices = list(sampler)
        for start in range(first * size, len(indices), size):
            places = range(start, min(start + size, len(indices)))
            yield [SeededIndex(indices[i], self._seed(i * sampler.world_size + sampler.rank)) for i in places]

    def _seed(self, place: int) -> int:
        return _seed_of(self.sampler.seed, self.sampler.epoch, place)


@DATA_SAMPLERS.register_module()
class LabeledUnlabeledBatchSampler(Sampler):
    """Batches of labeled images followed by unlabeled ones; an epoch is one pass over one of the sets.

    Epoch and seed alone determine the order, which is the same whatever the number of processes: each takes
    its share of every global batch. The set that ends first within an epoch is shuffled and begun again. As
    a batch sampler it is given the loader's own ``batch_size``.

    Args:
        sampler: mmengine's DefaultSampler over a LabeledUnlabeledDataset; its seed, epoch, ``shuffle``,
            rank and world size are used.
        batch_size: images in a batch of one process, labeled and unlabeled.
        source_ratio: labeled : unlabeled, two whole numbers > 0 whose sum divides ``batch_size``.
        epoch_of: 'unlabeled' or 'labeled', the set of which an epoch is one pass (rounded up to whole batches).

    Attributes:
        labeled_only: number of batches from the start of training without their unlabeled part (burn-in).
        first_batch: where the next pass begins; the one after it begins at 0.

    Raises:
        ValueError: an argument as described above is not met.
    """

    def __init__(self, sampler, batch_size: int, source_ratio: Sequence[int] = (1, 1), epoch_of: str = 'unlabeled'):
        ratio = list(source_ratio)
        if len(ratio) != 2 or not all(isinstance(n, int) and n > 0 for n in ratio):
            raise ValueError(f'Expected `source_ratio` to be two whole numbers > 0, but got {source_ratio!r}')
        if batch_size % sum(ratio):
            raise ValueError(
                f'Expected `batch_size` to be a multiple of {sum(ratio)}, the sum of `source_ratio` {ratio}, '
                f'but got {batch_size}'
            )
        one_of('epoch_of', epoch_of, ('labeled', 'unlabeled'))
        self.sampler = sampler
        self.batch_size = batch_size
        self.shares = [batch_size // sum(ratio) * n for n in ratio]
        self.sizes = [len(dataset) for dataset in sampler.dataset.datasets]
        source = ('labeled', 'unlabeled').index(epoch_of)
        self._length = math.ceil(self.sizes[source] / (self.shares[source] * sampler.world_size))
        self.labeled_only = 0
        self.first_batch = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[List[int]]:
        skipped, self.first_batch = self.first_batch, 0
        labeled, unlabeled = (self._indices(source, skipped * self.shares[source]) for source in (0, 1))
        first = self.sampler.epoch * self._length
        for batch in range(first + skipped, first + self._length):
            # Both streams advance in burn-in too: the order does not depend on its length.
            indices, rest = list(islice(labeled, self.shares[0])), list(islice(unlabeled, self.shares[1]))
            yield indices if batch < self.labeled_only else indices + rest

    def _indices(self, source: int, skipped: int) -> Iterator[int]:
        """This process's share of the epoch's endless, reshuffled passes over one of the sets, less its first."""
        sampler, size, offset = self.sampler, self.sizes[source], sum(self.sizes[:source])
        rng = np.random.default_rng([sampler.seed, sampler.epoch, source])

        def endless():
            for _ in count():
                yield from rng.permutation(size) if sampler.shuffle else range(size)

        first = skipped * sampler.world_size + sampler.rank
        for place, index in islice(enumerate(endless()), first, None, sampler.world_size):
            yield SeededIndex(offset + int(index), _seed_of(sampler.seed, sampler.epoch, source, place))


@FUNCTIONS.register_module()
def branch_collate(data_batch: Sequence[dict]) -> dict:
    """MMEngine's pseudo_collate, which keeps branches apart; the batch leaves a worker in one piece."""
    return SharedBatch(pseudo_collate(data_batch))


@FUNCTIONS.register_module()
def bg_penalty_collate(data_batch: Sequence[dict], use_ms_training: bool = False) -> dict:
    """MMYOLO's yolov5_collate, with what tells background from padding and ignored objects: ``regions``.

    The batch leaves a worker in one piece.
    """
    collated = yolov5_collate(data_batch, use_ms_training)
    keys = ('homography_matrix', 'mosaic_tiles', 'ori_shape', 'img_shape', 'img_path')
    regions = []
    for sample in (item['data_samples'] for item in data_batch):
        regions.append({key: sample.metainfo[key] for key in keys if key in sample.metainfo})
        if 'bboxes' in sample.ignored_instances:
            regions[-1]['ignored_bboxes'] = sample.ignored_instances.bboxes.tensor
        if 'labels' in sample.ignored_instances:
            regions[-1]['ignored_labels'] = sample.ignored_instances.labels
    collated['data_samples']['regions'] = regions
    return SharedBatch(collated)
