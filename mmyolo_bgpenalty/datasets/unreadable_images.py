"""In training, another image replaces an image that cannot be read."""

import logging
import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from mmyolo.datasets.yolov5_coco import BatchShapePolicyDataset

from mmyolo_bgpenalty.datasets.reduced_images import LoadReducedImage
from mmyolo_bgpenalty.utils.files import NAMED, printable
from mmyolo_bgpenalty.utils.image_files import MOST_PIXELS, NO_FILE, TOO_LARGE, image_fault, image_size, size_fault

LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class ReadableImages:
    """Loads images for training. The next readable image replaces an unreadable one.

    An image is unreadable in three cases:

    * A transform raises an error or returns None before ``results['img']`` is set. But an error of a transform
      that comes before LoadImageFromFile (or LoadReducedImage) reaches the caller.
    * The file is not a regular file (for example, a pipe), or is a truncated JPEG (OpenCV before 5 decodes a part), or
      its header states too many pixels, see ``image_fault``.
    * The image has boxes, and its size differs from the size in its annotation.

    An unreadable image is logged once for all worker processes and is not tried again, unless the system failed
    (for example, a network drive does not answer). A file is examined only before its first load.

    Attributes:
        bad: bool, (images,): images found unreadable. Worker processes share it.
        examined: bool, (images,): images whose files were found intact. Worker processes share it.
        known_empty: bool, (images,): the value of ``results['known_empty']``. If None, the key is not set.
    """

    def __init__(self, dataset: BaseDataset):
        self.dataset = dataset
        self.source = dataset.ann_file or dataset.data_prefix.get('img') or type(dataset).__name__
        self.bad, self.examined = (torch.zeros(len(dataset), dtype=torch.bool).share_memory_() for _ in range(2))
        self.known_empty: torch.Tensor | None = None

    def __call__(self, idx: int, transforms: Sequence[Callable]) -> dict:
        """Apply ``transforms`` to image ``idx``. If it is unreadable or a transform returns None, try the next image.

        Raises:
            ValueError: none of ``dataset.max_refetch`` + 1 images in a row (or of all images, if fewer) gives a result.
        """
        number, reason = len(self.bad), 'they were found unreadable before'
        tries = min(number, self.dataset.max_refetch + 1)
        for place in ((int(idx) + step) % number for step in range(tries)):
            if self.bad[place]:
                continue
            left = list(transforms)
            results, reason = self._load(place, left)
            while left and results is not None:
                transform = left.pop(0)
                results = transform(results)
                reason = f'{type(transform).__name__} returned nothing'
            if results is not None:
                return results
        raise ValueError(f'Expected usable images in {self.source}, but {tries} in a row are not usable: {reason}')

    def summary(self) -> str:
        """A text with the number of unreadable images in all processes and the first paths. '' if there are none."""
        bad = self.bad.int()
        all_reduce(bad, 'max')
        places = bad.nonzero()[:, 0].tolist()
        if not places:
            return ''
        named = [self.dataset.get_data_info(place).get('img_path') for place in places[:NAMED]]
        more = ', …' if len(places) > NAMED else ''
        return printable(f'{len(places)} of {len(bad)} images in {self.source} ({", ".join(map(str, named))}{more})')

    def _load(self, place: int, transforms: list[Callable]) -> tuple[dict | None, str]:
        """Pop and apply the transforms up to the one that loads the image. On failure return None and the fault."""
        results = dict(self.dataset.get_data_info(place))
        if self.known_empty is not None:
            results['known_empty'] = bool(self.known_empty[place])
        if isinstance(self.dataset, (SkipUnreadable, BatchShapePolicyDataset)):  # for transforms that join images
            results['dataset'] = self.dataset
        path = results.get('img_path')
        # Only boxes need the size that the json file states.
        stated = bool(results.get('instances')) and None not in (results.get('height'), results.get('width'))
        size = (results['height'], results['width']) if stated else ()
        # Another loader may load another size than the file has.
        known = stated and any(type(transform) in (LoadImageFromFile, LoadReducedImage) for transform in transforms)
        transform = None
        fault = '' if self.examined[place] else _file_fault(path, math.inf if known else MOST_PIXELS)
        if known and not (fault or self.examined[place]):
            stored = image_size(path)
            if stored and sorted(stored) != sorted(size):  # else EXIF may turn it
                fault = size_fault(stored[::-1], size)
                return self._report(place, fault)
        # Reading a pipe would never end, and a huge image would fill the memory.
        if fault.startswith((NO_FILE, TOO_LARGE)):
            return self._report(place, fault)
        while transforms and 'img' not in results:
            transform = transforms.pop(0)
            try:
                results = transform(results)
            except Exception as error:  # each loading backend raises its own errors for a broken file
                if any(isinstance(later, LoadImageFromFile) for later in transforms):
                    raise  # a transform before the loader has failed, so the image is not at fault
                lasting = not isinstance(error, OSError) or isinstance(error, LASTING)
                text = f'{type(error).__name__}: {" ".join(str(error).split())}'
                return self._report(place, fault or _file_fault(path) or text, lasting)
            if results is None:
                return self._report(place, fault or _file_fault(path) or 'its loader returned nothing')
        if stated and not fault and 'img' in results:
            reduced = type(transform) is LoadReducedImage  # it has loaded the image
            fault = size_fault(results['ori_shape'] if reduced else np.shape(results['img'])[:2], size)
        self.examined[place] = not fault
        return self._report(place, fault) if fault else (results, '')

    def _report(self, place: int, fault: str, lasting: bool = True) -> tuple[None, str]:
        if not self.bad[place]:  # if it is bad, another worker process has reported it in the meantime
            self.bad[place] = lasting
            path = self.dataset.get_data_info(place).get('img_path')
            count = f'images skipped permanently so far: {self.bad.sum()} of {len(self.bad)}'
            text = printable(f'{path} cannot be read and is skipped ({fault}); {count}')
            print_log(text, logger='current', level=logging.WARNING)
        return None, fault


def _file_fault(path: str | None, most_pixels: float = MOST_PIXELS) -> str:
    """The fault of a local file. '' if it has none, or if there is no local file with this path."""
    return image_fault(path, most_pixels=most_pixels) if path and os.path.exists(path) else ''


def loads_as_usual(dataset) -> bool:
    """Whether ``ReadableImages`` may load the images, because the dataset loads them as MMEngine or MMYOLO does."""
    kind, usual = type(dataset), (BaseDataset.prepare_data, BatchShapePolicyDataset.prepare_data)
    return kind.__getitem__ is BaseDataset.__getitem__ and kind.prepare_data in usual


class SkipUnreadable(BaseDataset):
    """A mixin for MMEngine datasets. It must come before the dataset class, because its methods call ``super()``.

    In training ``first_readable``, a ``ReadableImages``, loads the images. In testing an unreadable image is an error,
    because no other image may replace it.
    """

    def full_init(self) -> None:
        if not self._fully_initialized:
            super().full_init()
            self.first_readable = ReadableImages(self)

    def get_subset_(self, indices) -> None:
        super().get_subset_(indices)
        self.first_readable = ReadableImages(self)

    def get_subset(self, indices) -> 'SkipUnreadable':
        subset = super().get_subset(indices)
        subset.first_readable = ReadableImages(subset)
        return subset

    def __getitem__(self, idx: int) -> dict:
        return super().__getitem__(idx) if self.test_mode else self.first_readable(idx, self.pipeline.transforms)
