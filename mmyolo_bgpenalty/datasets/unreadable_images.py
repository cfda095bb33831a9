"""Training images that can be read, in place of those that cannot."""

import logging
import os
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from mmyolo.datasets.yolov5_coco import BatchShapePolicyDataset

from mmyolo_bgpenalty.utils.files import NAMED, printable
from mmyolo_bgpenalty.utils.image_files import NO_FILE, image_fault

LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class ReadableImages:
    """The images of a dataset of MMEngine's; one that cannot be read gives way to the next that can.

    What raises an error (or returns None) before ``results['img']`` is there cannot be read; nor can a JPEG that is
    cut off, which OpenCV before 5 decodes in part, or an image with boxes whose size is not its annotation's. Each is
    warned of once, whichever worker process meets it, and not tried again, unless it was the system that failed
    (a network drive that is away).

    Args:
        dataset: fully initialised.

    Attributes:
        bad: (images,), bool, shared by the worker processes of this process: what was found unreadable so far.
        known_empty: (images,), bool: what ``results['known_empty']`` says of each; None: nothing.
    """

    def __init__(self, dataset: BaseDataset):
        self.dataset = dataset
        self.bad = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()
        self.known_empty: Optional[torch.Tensor] = None

    def __call__(self, idx: int, transforms: Sequence[Callable]) -> dict:
        """What ``transforms`` make of image ``idx`` or the next one that can be read.

        MMYOLO's datasets and ours hand themselves to them in ``results['dataset']``, for those that mix images.

        Raises:
            ValueError: more unreadable images in a row than the dataset's ``max_refetch``.
        """
        number, reason = len(self.bad), 'they were found unreadable before'
        tries = min(number, self.dataset.max_refetch + 1)
        for place in ((int(idx) + step) % number for step in range(tries)):
            if self.bad[place]:
                continue
            info = dict(self.dataset.get_data_info(place))
            if self.known_empty is not None:
                info['known_empty'] = bool(self.known_empty[place])
            if isinstance(self.dataset, (SkipUnreadable, BatchShapePolicyDataset)):
                info['dataset'] = self.dataset
            path, loading = info.get('img_path'), list(transforms)
            results, fault, lasting = self._load(info, loading)
            if fault:
                reason = fault
                if not self.bad[place]:  # another worker may have met it meanwhile
                    self.bad[place] = lasting
                    print_log(
                        printable(
                            f'{path} cannot be read and is skipped ({reason}); so far {self.unreadable} of {number} '
                            'images cannot'
                        ),
                        logger='current',
                        level=logging.WARNING,
                    )
                continue
            for transform in loading:
                results = transform(results)
                if results is None:
                    reason = f'{type(transform).__name__} returned nothing'
                    break
            else:
                return results
        raise ValueError(f'Expected images that can be read in {self._source}, but {tries} in a row cannot: {reason}')

    @property
    def unreadable(self) -> int:
        """Number of images found unreadable so far."""
        return int(self.bad.sum())

    def summary(self) -> str:
        """How many images of all processes were unreadable, and the first of them; '' if none was."""
        bad = self.bad.int()
        all_reduce(bad, 'max')
        places = bad.nonzero()[:, 0].tolist()
        if not places:
            return ''
        named = [self.dataset.get_data_info(place).get('img_path') for place in places[:NAMED]]
        more = ', …' if len(places) > NAMED else ''
        return printable(f'{len(places)} of {len(bad)} images in {self._source} ({", ".join(map(str, named))}{more})')

    @property
    def _source(self) -> str:
        dataset = self.dataset
        return dataset.ann_file or (dataset.data_prefix or {}).get('img') or type(dataset).__name__

    def _load(self, results: dict, transforms: List[Callable]) -> Tuple[dict, str, bool]:
        """Take from ``transforms`` those up to the one that loads the image.

        Returns:
            What they made of it, the fault ('' for none), and whether that will last.
        """
        path, size = results.get('img_path'), (results.get('height'), results.get('width'))
        boxes = bool(results.get('instances'))
        fault = image_fault(path) if path and os.path.exists(path) else ''  # else it may be of another backend
        if fault == NO_FILE:  # reading a pipe would wait for ever
            return {}, fault, True
        while transforms and isinstance(results, dict) and 'img' not in results:
            try:
                results = transforms.pop(0)(results)
            except Exception as error:  # what a broken file raises depends on the loader's backend
                lasting = not isinstance(error, OSError) or isinstance(error, LASTING)
                return {}, fault or f'{type(error).__name__}: {" ".join(str(error).split())}', lasting
            if results is None:
                return {}, fault or 'its loader returned nothing', True
        found = np.shape(results['img'])[:2] if isinstance(results, dict) and 'img' in results else ()
        if not fault and found and boxes and None not in size and found != size:
            fault = 'it is {1} x {0}, but its annotation says {3} x {2}'.format(*found, *size)
            if found == size[::-1]:
                fault += '; its EXIF may turn it'
        return results, fault, True


def loads_as_usual(dataset) -> bool:
    """Whether ``ReadableImages`` does what the dataset itself does, which has no way of loading of its own."""
    if not isinstance(dataset, BaseDataset):
        return False
    kind, usual = type(dataset), (BaseDataset.prepare_data, BatchShapePolicyDataset.prepare_data)
    return kind.__getitem__ is BaseDataset.__getitem__ and kind.prepare_data in usual


class SkipUnreadable(BaseDataset):
    """For datasets of MMEngine's, before them in the bases: ``ReadableImages`` of it is ``first_readable``.

    When testing nothing takes the place of an image: what cannot be read is an error.
    """

    def full_init(self) -> None:
        if not self._fully_initialized:
            super().full_init()
            self._forget()

    def _forget(self) -> None:
        self.first_readable = ReadableImages(self)

    @property
    def unreadable(self) -> int:
        """Number of files found unreadable so far, by all worker processes of this process."""
        return self.first_readable.unreadable

    def get_subset_(self, indices) -> None:
        super().get_subset_(indices)
        self._forget()

    def get_subset(self, indices) -> 'SkipUnreadable':
        subset = super().get_subset(indices)
        subset._forget()
        return subset

    def __getitem__(self, idx: int) -> dict:
        return super().__getitem__(idx) if self.test_mode else self.first_readable(idx, self.pipeline.transforms)
