"""A folder of images as a set without labels."""

import array
import logging
import os
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from mmdet.datasets import BaseDetDataset
from mmengine.logging import print_log
from mmyolo.registry import DATASETS

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_SUFFIXES = tuple(extension.encode() for extension in EXTENSIONS)


def list_images(folder: str) -> Tuple[np.ndarray, np.ndarray]:
    """Paths of the images below ``folder``, relative to it and in order, as one run of bytes.

    Links are followed, but no folder is entered twice; what begins with a dot is left out. The order is that of the
    paths' bytes with '/' between the parts, whatever the file system and the locale.

    Returns:
        The paths' bytes, uint8, and where each path ends among them, int64.

    Raises:
        OSError: a folder cannot be listed.
    """
    root = os.fsencode(folder)
    paths, ends = bytearray(), array.array('q')
    # Links to what the folder lies in would lead round in a circle, too.
    entered = {_identity(parent) for parent in Path(os.path.realpath(folder)).parents}
    # A stack, since folders may be nested deeper than Python calls: of each open folder what is left, last first.
    stack = [(b'', _entries(root, entered))]
    while stack:
        prefix, left = stack[-1]
        if not left:
            stack.pop()
            continue
        path = prefix + left.pop()
        if path.endswith(b'/'):
            stack.append((path, _entries(os.path.join(root, path), entered)))
        else:
            paths += path
            ends.append(len(paths))
    return np.frombuffer(paths, dtype=np.uint8), np.frombuffer(ends, dtype=np.int64)


def _entries(folder: bytes, entered: Set[Tuple[int, int]]) -> List[bytes]:
    """Names of a folder's images and, with '/', of its folders, last first; none if it was entered before."""
    identity, names = _identity(folder), []
    if identity not in entered:
        entered.add(identity)
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(b'.'):
                    continue
                if name.lower().endswith(_SUFFIXES) and _is(entry.is_file):
                    names.append(name)
                elif _is(entry.is_dir):
                    names.append(name + b'/')
    return sorted(names, reverse=True)


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False


def _identity(path) -> Tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


@DATASETS.register_module()
class ImageFolderDataset(BaseDetDataset):
    """The images in ``data_prefix['img']`` and its sub-folders, without labels; see :func:`list_images`.

    Nothing but the paths is kept, some 50 bytes each, which worker processes share; a file is opened when it is
    needed. One that cannot be read gives way to the next one that can, with one warning a file. Its pipeline begins
    with the transform that loads the image; neither size nor boxes are known before.

    Args:
        data_prefix: ``dict(img=...)``, the folder, relative to ``data_root``.
        max_refetch: unreadable files in a row after which it gives up.

    Attributes:
        unreadable: number of files found unreadable so far, by all worker processes of this process.

    Raises:
        ValueError: an ``ann_file``; a folder that is not there, cannot be listed or has no images; too many
            unreadable files in a row.
    """

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        folder = self.data_prefix.get('img')
        if not folder:
            raise ValueError(f"Expected `data_prefix` to be dict(img='a folder'), but got {dict(self.data_prefix)!r}")
        if self.ann_file:
            raise ValueError(
                f"Expected no `ann_file` of ImageFolderDataset (ann_file=''), but got {self.ann_file}; "
                'annotated images take YOLOv5CocoDataset'
            )
        if not os.path.isdir(folder):
            raise ValueError(f'Expected a folder of images at `data_prefix.img`, but there is none: {folder!r}')
        try:
            # Under the names that BaseDataset's own subsets are made from.
            self.data_bytes, self.data_address = list_images(folder)
        except OSError as error:
            raise ValueError(f'{error.filename and os.fsdecode(error.filename)}: {error.strerror}') from None
        if not len(self.data_address):
            raise ValueError(f'Expected images ({", ".join(EXTENSIONS)}) in {folder}, but found none')
        self.serialize_data = True
        self._fully_initialized = True
        if self._indices is not None:
            self.get_subset_(self._indices)
        self._forget()

    def _forget(self) -> None:
        # In shared memory: what one worker process finds, all know.
        self._bad = torch.zeros(len(self), dtype=torch.bool).share_memory_()

    @property
    def unreadable(self) -> int:
        return int(self._bad.sum())

    def get_subset_(self, indices) -> None:
        super().get_subset_(indices)
        self._forget()

    def get_subset(self, indices) -> 'ImageFolderDataset':
        subset = super().get_subset(indices)
        subset._forget()
        return subset

    def get_data_info(self, idx: int) -> dict:
        """``img_path``, ``img_id`` and ``sample_idx`` (the place in the list), and no ``instances``."""
        if not self._fully_initialized:
            self.full_init()
        idx = range(len(self))[idx]
        start = self.data_address[idx - 1] if idx else 0
        path = os.fsdecode(self.data_bytes[start : self.data_address[idx]].tobytes())
        return dict(
            img_path=os.path.join(self.data_prefix['img'], path),
            img_id=idx,
            sample_idx=idx,
            instances=[],
        )

    def __getitem__(self, idx: int) -> dict:
        if self.test_mode:
            return super().__getitem__(idx)
        return self.first_readable(idx, self.pipeline.transforms)

    def first_readable(self, idx: int, transforms: Sequence[Callable]) -> dict:
        """What ``transforms``, whose first loads the image, make of image ``idx`` or the next one that can be read.

        As MMYOLO's datasets do, it hands itself to them in ``results['dataset']``, for those that mix images.

        Raises:
            ValueError: too many unreadable files in a row.
        """
        number, reason = len(self), 'they were found unreadable before'
        tries = min(number, self.max_refetch + 1)
        for place in ((int(idx) + step) % number for step in range(tries)):
            if self._bad[place]:
                continue
            results, reason = self._load(place, transforms)
            if results is None:
                self._bad[place] = True
                print_log(
                    f'{self.get_data_info(place)["img_path"]} cannot be read and is skipped ({reason}); '
                    f'so far {self.unreadable} of {number} images cannot',
                    logger='current',
                    level=logging.WARNING,
                )
                continue
            for transform in transforms[1:]:
                results = transform(results)
                if results is None:
                    reason = f'{type(transform).__name__} returned nothing'
                    break
            else:
                return results
        raise ValueError(
            f'Expected images that can be read in {self.data_prefix["img"]}, but {tries} in a row cannot: {reason}'
        )

    def _load(self, place: int, transforms: Sequence[Callable]) -> Tuple[Optional[dict], str]:
        """What the first transform makes of the image, or None and why."""
        info = dict(self.get_data_info(place), dataset=self)
        if not transforms:
            return info, ''
        try:
            return transforms[0](info), 'its loader returned nothing'
        except Exception as error:  # what a broken file raises depends on the loader's backend
            return None, f'{type(error).__name__}: {" ".join(str(error).split())}'
