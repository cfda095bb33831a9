"""EmptyImageDataset: images that are known to show no object, such as good parts."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.image_folder import ImageFolderDataset, images_of
from mmyolo_bgpenalty.datasets.known_empty import read_names
from mmyolo_bgpenalty.utils.files import printable, read_json


@DATASETS.register_module()
class EmptyImageDataset(ImageFolderDataset):
    """Images that are known to show no object. ``results['known_empty']`` is True.

    Args:
        source: one of these, or a list of them. Their paths are relative to ``data_root``.

            - a folder: all images in it and in its sub-folders;
            - a json file in COCO format, in which no image has a box;
            - a text file with the name of an image on each line. 'a/b/' stands for all images in that folder.

            The names in a json or text file are relative to ``data_prefix['img']``. An image that is named twice
            counts once.
        kwargs: as for ImageFolderDataset.

    Raises:
        ValueError: ``source`` is something else, cannot be read, has no images, or has images with boxes.
    """

    data_prefix: dict

    def __init__(self, *args, source: str | Sequence[str], **kwargs):
        self.sources = _listed(source)
        super().__init__(*args, **kwargs)

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        super().full_init()
        self.first_readable.known_empty = torch.ones(len(self), dtype=torch.bool)
        self.first_readable.source = ', '.join(self.sources)

    def _list_images(self) -> tuple[np.ndarray, np.ndarray]:
        paths = empty_images(self.sources, self.data_root or '', self.data_prefix.get('img') or '')
        self.data_prefix = dict(img='')
        stored = [*map(os.fsencode, paths)]
        return np.frombuffer(b''.join(stored), np.uint8), np.cumsum([len(path) for path in stored])


def _listed(source: Any) -> list[str]:
    sources = [source] if isinstance(source, (str, os.PathLike)) else source
    is_list = isinstance(sources, (list, tuple)) and len(sources) > 0
    if not is_list or not all(isinstance(one, (str, os.PathLike)) and os.fspath(one) for one in sources):
        raise ValueError(f'Expected a folder, a json or text file, or a list of these, but got {source!r}')
    return [os.fspath(one) for one in sources]


def empty_images(source: str | Sequence[str], data_root: str, folder: str) -> list[str]:
    """The paths of the images that the ``source`` of an EmptyImageDataset names, without repeats.

    ``folder``: where the names in json and text files begin.
    """
    paths = [path for one in _listed(source) for path in _paths_of(os.path.join(data_root, one), folder)]
    return [*dict.fromkeys(paths)]


def _paths_of(source: str, folder: str) -> list[str]:
    if not os.path.exists(source):
        raise ValueError(f'{source}: no such file or folder')
    if os.path.isdir(source):
        stored, ends = images_of(source, '`empty`')
        names, folder = [os.fsdecode(stored[a:b].tobytes()) for a, b in zip([0, *ends[:-1]], ends)], source
    elif source.endswith('.json'):
        names = _names_in_json(source)
    else:
        lines = [os.path.join(folder, name) for name in read_names(source)]
        listed = [_paths_of(line, '') if line.endswith('/') else [os.path.normpath(line)] for line in lines]
        return [path for paths in listed for path in paths]
    return [os.path.normpath(os.path.join(folder, name)) for name in names]


def _names_in_json(file: str) -> list[str]:
    content = read_json(file)
    images = content.get('images') if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise ValueError(f'{file}: expected a COCO set with `images`, but there are none')
    names: list[Any] = [image.get('file_name') if isinstance(image, dict) else None for image in images]
    wrong = next((place for place, name in enumerate(names) if not isinstance(name, str) or not name), None)
    if wrong is not None:
        raise ValueError(f'{file}: expected `images[{wrong}].file_name` to be a name, but got {names[wrong]!r}')
    boxed = {box.get('image_id') for box in content.get('annotations') or () if isinstance(box, dict)}
    boxed_names = [name for name, image in zip(names, images) if image.get('id') in boxed]
    if boxed_names:
        raise ValueError(
            f'{file}: expected images without boxes, but {len(boxed_names)} of {len(names)} have boxes, the first '
            f'{printable(boxed_names[0])}'
        )
    return names
