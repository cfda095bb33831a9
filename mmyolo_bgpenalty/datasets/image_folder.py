"""A folder of images as a set without labels."""

import array
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.unreadable_images import SkipUnreadable

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_SUFFIXES = tuple(extension.encode() for extension in EXTENSIONS)


def list_images(folder: str) -> tuple[np.ndarray, np.ndarray]:
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


def _entries(folder: bytes, entered: set[tuple[int, int]]) -> list[bytes]:
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


def _identity(path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


@DATASETS.register_module()
class ImageFolderDataset(SkipUnreadable, BaseDetDataset):
    """The images in ``data_prefix['img']`` and its sub-folders, without labels; see ``list_images``.

    Nothing but the paths is kept, some 50 bytes each, which worker processes share; a file is opened when it is
    needed, and neither size nor boxes are known before. One that cannot be read gives way to the next one that can,
    with one warning a file.

    Args:
        data_prefix: ``dict(img=...)``, the folder, relative to ``data_root``.
        max_refetch: unreadable files in a row after which it gives up.

    Attributes:
        first_readable: ``ReadableImages`` of it.
        unreadable: number of files found unreadable so far, by all worker processes of this process.

    Raises:
        ValueError: an ``ann_file``; a folder that is not there, cannot be listed or has no images; too many
            unreadable files in a row.
    """

    _fully_initialized: bool

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        folder = self.data_prefix.get('img')
        if not folder:
            raise ValueError(f"Expected `data_prefix` to be dict(img='a folder'), but got {dict(self.data_prefix)!r}")
        if self.ann_file:
            raise ValueError(
                f"Expected no `ann_file` of ImageFolderDataset (ann_file=''), but got {self.ann_file}; "
                'annotated images take CheckedCocoDataset'
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
        self._reset_readable()

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
