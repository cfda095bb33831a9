"""LabeledUnlabeledDataset: labeled and unlabeled images as one dataset."""

import os

import torch
from mmengine.dataset import BaseDataset, ConcatDataset
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.coco import read_checked
from mmyolo_bgpenalty.datasets.known_empty import places_of, read_names
from mmyolo_bgpenalty.datasets.samplers import seeded_by
from mmyolo_bgpenalty.datasets.unreadable_images import ReadableImages, loads_as_usual
from mmyolo_bgpenalty.utils.files import printable, read_json


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

    def __init__(self, labeled: dict, unlabeled: dict, known_empty: str | None = None, **kwargs):
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
            read_checked(dataset)
            dataset.data_list = None  # full_init sets it. MMEngine cannot serialise an empty list and raises an error.
            try:
                dataset.full_init()
                images = len(dataset)
            except ValueError as error:
                if dataset.data_list != []:
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
