"""LabeledUnlabeledDataset: labeled, unlabeled and empty images as one dataset."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.dataset import BaseDataset, ClassBalancedDataset, Compose, ConcatDataset, RepeatDataset
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.coco import read_checked
from mmyolo_bgpenalty.datasets.empty_images import EmptyImageDataset
from mmyolo_bgpenalty.datasets.known_empty import places_of, read_names
from mmyolo_bgpenalty.datasets.samplers import seeded_by
from mmyolo_bgpenalty.datasets.unreadable_images import ReadableImages, loads_as_usual
from mmyolo_bgpenalty.utils.files import printable, read_json

WRAPPERS = (ClassBalancedDataset, RepeatDataset)


@DATASETS.register_module()
class LabeledUnlabeledDataset(ConcatDataset):
    """ConcatDataset of labeled, unlabeled and empty images. A child config can change one of the sets by its key.

    Like ``CheckedCocoDataset``, it refuses a json with mistakes. ``ReadableImages`` loads the images and replaces
    unreadable ones, unless the class of a dataset has its own way to load images.

    Each dataset may be wrapped in a ClassBalancedDataset, a RepeatDataset or a ConcatDataset.

    Args:
        labeled: config of the labeled images.
        unlabeled: config of the unlabeled images, or None. Training does not read their boxes.
        known_empty: a text file that names unlabeled images known to show no object, one on each line. Its path is
            relative to the ``data_root`` of the unlabeled set. The names are relative to ``data_prefix['img']``.
            'a/b/' stands for all images in that folder. ``results['known_empty']`` becomes True or False.
        empty: images that are known to show no object, as the ``source`` of ``EmptyImageDataset``. Its paths begin
            where those of the labeled images begin. None (default): no such images.
        empty_pipeline: the pipeline of ``empty``.
        lazy_init, kwargs: as for ConcatDataset.

    Attributes:
        sources: names of the ``datasets``, in their order: 'labeled', 'unlabeled' and 'empty', without those that are
            None.

    Raises:
        ValueError: one of the sets has no images; all boxes of the classes in the labeled images are crowds, or there
            are none; ``known_empty`` cannot be read, names an image that is not in the set, or names an image with
            boxes; ``empty`` cannot be read, or has images with boxes.
    """

    def __init__(
        self,
        labeled: dict,
        unlabeled: dict | None = None,
        known_empty: str | None = None,
        empty: str | Sequence[str] | None = None,
        empty_pipeline: Sequence[dict] = (),
        lazy_init: bool = False,
        **kwargs,
    ):
        if known_empty is not None and (not isinstance(known_empty, str) or not known_empty):
            raise ValueError(f'Expected `known_empty` to be the path of a text file, but got {known_empty!r}')
        if known_empty is not None and unlabeled is None:
            raise ValueError('Expected an `unlabeled` set for `known_empty`, but got None')
        self.known_empty = known_empty
        named = {'labeled': DATASETS.build(_lazy(labeled))}
        if unlabeled is not None:
            named['unlabeled'] = DATASETS.build(_lazy(unlabeled))
        if empty is None:
            Compose([*empty_pipeline])  # a mistake in it is found although nothing reads it yet
        else:
            named['empty'] = _empty_set(empty, empty_pipeline, next(leaves_of(named['labeled'])))
        self.sources, members = [*named], [*named.values()]
        # The metainfo comes from the labeled set. The others, for example folders of images, may lack keys.
        first = [next(leaves_of(member)) for member in members]
        lacking = [key for key in first[0].metainfo if any(key not in one.metainfo for one in first[1:])]
        kwargs.setdefault('ignore_keys', lacking)
        # ConcatDataset compares the metainfo, but refuses wrappers.
        super().__init__(first, lazy_init=True, **kwargs)
        self.datasets = members
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        for name, member in zip(self.sources, self.datasets):
            for dataset in leaves_of(member):
                _load(name, dataset)
            member.full_init()
        if self.known_empty is not None:
            self._mark_empty(self.datasets[1], self.known_empty)
        super().full_init()
        _check_has_objects([*leaves_of(self.datasets[0])])

    def _mark_empty(self, dataset: BaseDataset, known_empty: str) -> None:
        readable = getattr(dataset, 'first_readable', None)
        if readable is None or dataset.test_mode:
            wrapped = next(leaves_of(dataset)) is not dataset
            why = 'is in test_mode' if readable else 'is a wrapper' if wrapped else 'loads images in its own way'
            raise ValueError(f'Expected no `known_empty`, because {type(dataset).__name__} {why}')
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
        readable.known_empty = torch.zeros(len(dataset), dtype=torch.bool)
        readable.known_empty[places] = True

    @property
    def pipeline(self):
        """The pipeline of the labeled images. PipelineSwitchHook of MMDetection sets it."""
        return next(leaves_of(self.datasets[0])).pipeline

    @pipeline.setter
    def pipeline(self, pipeline) -> None:
        for dataset in leaves_of(self.datasets[0]):
            dataset.pipeline = pipeline

    @property
    def empty_set(self) -> BaseDataset | None:
        return dict(zip(self.sources, self.datasets)).get('empty')

    def __getitem__(self, idx: int) -> dict:
        dataset, place = _leaf_at(self, int(idx))
        with seeded_by(idx):
            if loads_as_usual(dataset) and not dataset.test_mode:
                return dataset.first_readable(place, dataset.pipeline.transforms)
            return dataset[place]


def _empty_set(empty: str | Sequence[str], pipeline: Sequence[dict], labeled: BaseDataset) -> BaseDataset:
    try:
        return EmptyImageDataset(
            source=empty,
            data_root=labeled.data_root,
            data_prefix=dict(img=os.path.abspath(labeled.data_prefix.get('img') or '')),  # it has `data_root` already
            metainfo=labeled.metainfo,
            pipeline=[*pipeline],
            lazy_init=True,
        )
    except ValueError as problem:
        raise ValueError(f'`empty`: {problem}') from None


def _check_has_objects(labeled: list[BaseDataset]) -> None:
    crowds = 0
    for info in (dataset.get_data_info(i) for dataset in labeled for i in range(len(dataset))):
        if not all(one.get('ignore_flag') for one in info['instances']):
            return
        crowds += len(info['instances'])
    files = ', '.join(dataset.ann_file for dataset in labeled)
    found = [category['name'] for category in read_json(labeled[0].ann_file).get('categories', [])]
    raise ValueError(
        f'Expected boxes of the classes {list(labeled[0].metainfo["classes"])} in {files}, but found none'
        f'{f", only {crowds} crowds (`iscrowd` is 1)" * bool(crowds)}; categories of {labeled[0].ann_file}: {found}'
    )


def leaves_of(dataset) -> Iterator:
    """The datasets that read files, in the wrappers of MMEngine."""
    if isinstance(dataset, ConcatDataset):
        for member in dataset.datasets:
            yield from leaves_of(member)
    elif isinstance(dataset, WRAPPERS):
        yield from leaves_of(dataset.dataset)
    else:
        yield dataset


def _leaf_at(dataset, place: int) -> tuple[Any, int]:
    """The dataset that reads image ``place``, and the index of the image there."""
    while isinstance(dataset, (ConcatDataset, *WRAPPERS)):
        found = dataset._get_ori_dataset_idx(place)
        member, place = found if isinstance(found, tuple) else (None, found)
        dataset = dataset.dataset if member is None else dataset.datasets[member]
    return dataset, place


def _lazy(cfg: dict) -> dict:
    """The config of a dataset that reads no file when it is built."""
    cfg = dict(cfg, lazy_init=True)
    if isinstance(cfg.get('dataset'), dict):
        cfg['dataset'] = _lazy(cfg['dataset'])
    if isinstance(cfg.get('datasets'), (list, tuple)):
        cfg['datasets'] = [_lazy(member) for member in cfg['datasets']]
    return cfg


def _load(name: str, dataset: BaseDataset) -> None:
    """Read the files of a dataset. ``name``: the set to which it belongs."""
    read_checked(dataset)
    dataset.data_list = None  # full_init sets it
    try:
        dataset.full_init()
        if not len(dataset):
            raise ValueError('it has no image')
    except ValueError as error:
        # MMEngine cannot serialise an empty list. Its error does not name the file.
        none = dataset.data_list == [] and f'Expected images in {dataset.ann_file}, but none is left'
        raise ValueError(f'`{name}` set: {none or error}') from error
    if loads_as_usual(dataset):
        dataset.first_readable = ReadableImages(dataset)
