"""ImageFolderDataset: a folder of images without labels."""

import array
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.unreadable_images import ReadableImages, SkipUnreadable

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_SUFFIXES = tuple(extension.encode() for extension in EXTENSIONS)


def list_images(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """List the images in a folder and its sub-folders.

    Names that begin with a dot are left out. Links are followed, but no folder is entered twice. The paths are sorted
    by their bytes, so the order does not depend on the file system or the locale.

    Returns:
        All paths relative to ``folder``, joined as bytes, uint8; and the index at which each path ends, int64.

    Raises:
        OSError: a folder cannot be listed.
    """
    paths, ends = bytearray(), array.array('q')
    # A link may also lead to a folder that contains ``folder``.
    entered = {os.fsencode(parent) for parent in Path(os.path.realpath(folder)).parents}
    for path in _images(os.fsencode(folder), b'', entered):
        paths += path
        ends.append(len(paths))
    return np.frombuffer(paths, dtype=np.uint8), np.frombuffer(ends, dtype=np.int64)


def _images(root: bytes, prefix: bytes, entered: set[bytes]) -> Iterator[bytes]:
    folder = os.path.realpath(os.path.join(root, prefix))
    if folder in entered:
        return
    entered.add(folder)
    with os.scandir(folder) as entries:
        names = sorted(map(_name, entries))
    for name in names:
        if name.endswith(b'/'):
            yield from _images(root, prefix + name, entered)
        elif name:
            yield prefix + name


def _name(entry: os.DirEntry) -> bytes:
    """The name of an image, or the name of a folder plus '/'. Empty for anything else."""
    name = entry.name
    try:
        if name.startswith(b'.'):
            return b''
        if name.lower().endswith(_SUFFIXES) and entry.is_file():
            return name
        return name + b'/' if entry.is_dir() else b''
    except OSError:  # a link to itself
        return b''


@DATASETS.register_module()
class ImageFolderDataset(SkipUnreadable, BaseDetDataset):
    """The images that ``list_images`` finds in ``data_prefix['img']``, without labels.

    Only the paths are kept in memory, about 50 bytes each. Worker processes share them.

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
        try:
            # BaseDataset makes subsets from attributes with these names.
            self.data_bytes, self.data_address = list_images(folder)
        except OSError as error:
            path = os.fsdecode(error.filename)
            raise ValueError(f'Expected `data_prefix` to be a folder of images, but {path}: {error.strerror}') from None
        if not len(self.data_address):
            raise ValueError(f'Expected images ({", ".join(EXTENSIONS)}) in {folder}, but found none')
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
