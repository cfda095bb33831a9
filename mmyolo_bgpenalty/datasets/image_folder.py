"""ImageFolderDataset: a folder of images without labels."""

import logging
import os
from collections import Counter

from mmdet.datasets import BaseDetDataset
from mmengine.logging import print_log
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.unreadable_images import ReadableImages, SkipUnreadable
from mmyolo_bgpenalty.utils.files import printable
from mmyolo_bgpenalty.utils.image_files import EXTENSIONS, list_images, not_read


@DATASETS.register_module()
class ImageFolderDataset(SkipUnreadable, BaseDetDataset):
    """The images that ``list_images`` finds in ``data_prefix['img']``, without labels.

    A warning counts files with other extensions. Only the paths are kept in memory, about 50 bytes each. Worker
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
        folder = self.data_prefix.get('img')
        if not folder:
            raise ValueError(f"Expected `data_prefix` to be dict(img='a folder'), but got {dict(self.data_prefix)!r}")
        if self.ann_file:
            raise ValueError(f"Expected `ann_file` of ImageFolderDataset to be '', but got {self.ann_file!r}")
        left_out: Counter[str] = Counter()
        try:
            # BaseDataset makes subsets from attributes with these names.
            self.data_bytes, self.data_address = list_images(folder, left_out)
        except OSError as error:
            path = os.fsdecode(error.filename)
            raise ValueError(f'Expected `data_prefix` to be a folder of images, but {path}: {error.strerror}') from None
        if not len(self.data_address):
            others = f'; {not_read(left_out)}' if left_out else ''
            raise ValueError(f'Expected images ({", ".join(EXTENSIONS)}) in {folder}, but found none{others}')
        if left_out:
            print_log(f'{printable(folder)}: {not_read(left_out)}', logger='current', level=logging.WARNING)
        self.serialize_data = True
        self._fully_initialized = True
        if self._indices is not None:
            self.get_subset_(self._indices)
        self.first_readable = ReadableImages(self)

    def get_data_info(self, idx: int) -> dict:
        """``img_path``; ``img_id`` and ``sample_idx``, both the index of the image; ``instances``, an empty list."""
        self.full_init()
        idx = range(len(self))[idx]
        start = self.data_address[idx - 1] if idx else 0
        path = os.fsdecode(self.data_bytes[start : self.data_address[idx]].tobytes())
        return dict(img_path=os.path.join(self.data_prefix['img'], path), img_id=idx, sample_idx=idx, instances=[])
