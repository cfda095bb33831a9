"""ImageFolderDataset: a folder of images without labels."""

import logging
import os
from collections import Counter

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmengine.logging import print_log
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.unreadable_images import ReadableImages, SkipUnreadable
from mmyolo_bgpenalty.utils.files import printable
from mmyolo_bgpenalty.utils.image_files import EXTENSIONS, list_images, not_read


@DATASETS.register_module()
class ImageFolderDataset(SkipUnreadable, BaseDetDataset):
    """The images that ``list_images`` finds in ``data_prefix['img']``, without labels.

    A warning counts files with other extensions. Only the paths are kept in memory, with 8 more bytes each. Worker
    processes share them.

    Args:
        data_prefix: ``dict(img=...)``, the folder relative to ``data_root``.
        max_refetch: see ``ReadableImages``.

    Raises:
        ValueError: ``ann_file`` is set, or the folder does not exist, cannot be listed or has no images.
    """

    _fully_initialized: bool

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        # BaseDataset makes subsets from attributes with these names.
        self.data_bytes, self.data_address = self._list_images()
        self.serialize_data = True
        self._fully_initialized = True
        if self._indices is not None:
            self.get_subset_(self._indices)
        self.first_readable = ReadableImages(self)

    def _list_images(self) -> tuple[np.ndarray, np.ndarray]:
        """The paths relative to ``data_prefix['img']``, as ``list_images`` returns them."""
        folder = self.data_prefix.get('img')
        if not folder:
            raise ValueError(f"Expected `data_prefix` to be dict(img='a folder'), but got {dict(self.data_prefix)!r}")
        if self.ann_file:
            raise ValueError(f"Expected `ann_file` of ImageFolderDataset to be '', but got {self.ann_file!r}")
        return images_of(folder, '`data_prefix`')

    def get_data_info(self, idx: int) -> dict:
        """``img_path``; ``img_id`` and ``sample_idx``, both the index of the image; ``instances``, an empty list."""
        self.full_init()
        idx = range(len(self))[idx]
        start = self.data_address[idx - 1] if idx else 0
        path = os.fsdecode(self.data_bytes[start : self.data_address[idx]].tobytes())
        return dict(img_path=os.path.join(self.data_prefix['img'], path), img_id=idx, sample_idx=idx, instances=[])


def images_of(folder: str, setting: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of a folder, as ``list_images`` returns them. A warning counts files with other extensions.

    Raises:
        ValueError: the folder, which is the value of ``setting``, cannot be listed or has no images.
    """
    left_out: Counter[str] = Counter()
    try:
        paths, ends = list_images(folder, left_out)
    except OSError as error:
        path = os.fsdecode(error.filename)
        raise ValueError(f'Expected {setting} to be a folder of images, but {path}: {error.strerror}') from None
    if not len(ends):
        others = f'; {not_read(left_out)}' if left_out else ''
        raise ValueError(f'Expected images ({", ".join(EXTENSIONS)}) in {folder}, but found none{others}')
    if left_out:
        print_log(f'{printable(folder)}: {not_read(left_out)}', logger='current', level=logging.WARNING)
    return paths, ends
