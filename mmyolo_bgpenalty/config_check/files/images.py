"""Checks of images: files that cannot be read, sizes, grey levels, and images that two sets share."""

import math
import os
import os.path as osp
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from mmyolo_bgpenalty.config_check.files.pictures import Header, Loader, loader_of, lost_levels, read_header
from mmyolo_bgpenalty.config_check.findings import Findings, error, first_of, warning
from mmyolo_bgpenalty.config_check.parts import ConfigParts, Dataset, class_of
from mmyolo_bgpenalty.datasets.empty_images import empty_images
from mmyolo_bgpenalty.utils.files import NAMED
from mmyolo_bgpenalty.utils.image_files import MOST_PIXELS, image_fault, image_names, not_read, size_fault

LOOKED_AT = 20_000  # at most this many images of a set are checked
OPENED = 500  # at most this many of them are opened, if the dataset skips unreadable images
DEEP = 5  # at most this many 16-bit images of a set are decoded
REMOTE = re.compile(r'[\w.+:-]+://')
NOT_TURNED = "color_type='color_ignore_orientation' in every LoadImageFromFile and LoadReducedImage"


class ImageSet(NamedTuple):
    """The images of a dataset.

    ``skips``: if an image cannot be read, the dataset loads another one. ``sizes``: from a path to the (height, width)
    in the json file, for images with boxes. ``loader``: None if it is not known.
    """

    role: str
    where: str
    paths: Sequence[str]
    skips: bool
    sizes: Mapping[str, tuple] = {}
    loader: Loader | None = None


def check_images(parts: ConfigParts) -> Findings:
    both, sets = 'LabeledUnlabeledDataset' in parts.train_set.names, []
    for dataset in parts.datasets:
        left_out: Counter[str] = Counter()
        try:
            paths = image_paths(parts, dataset, left_out)
        except OSError as problem:
            what = f'{os.fsdecode(problem.filename)}: {problem.strerror}'
            yield error(f'{dataset.path}.data_prefix', what, 'correct the path, or the permissions of the folder')
            continue
        if left_out:  # an EmptyImageDataset logs them itself
            what = f'{dataset.folder}: {not_read(left_out)}'
            yield warning(f'{dataset.path}.data_prefix', what, 'convert them, for example to PNG, if they are images')
        skipping = 'SkipUnreadable' in dataset.names or (both and dataset in parts.train)
        skips = skipping and not dataset.node.get('test_mode')
        sizes = dict(_stated_sizes(parts, dataset))
        sets.append(ImageSet(dataset.role, dataset.path, paths, skips, sizes, _loader(parts, dataset)))
    yield from image_findings(sets)


def image_paths(parts: ConfigParts, dataset: Dataset, left_out: Counter | None = None) -> list[str]:
    """The images of a json file or of a dataset of images. Raises an OSError if the folder cannot be listed.

    ``left_out``: see ``list_images``.
    """
    coco, names = parts.coco_of(dataset), []
    if dataset.kind == 'EmptyImageDataset':
        node = dataset.node
        try:
            return empty_images(node.get('source') or (), node.get('data_root') or '', dataset.folder)
        except ValueError:  # check_empty reports it
            return []
    if isinstance(coco, dict):
        names = [image['file_name'] for image in coco['images']]
    elif 'ImageFolderDataset' in dataset.names and dataset.is_local(dataset.folder):
        names = image_names(dataset.folder, left_out)
    return [osp.join(dataset.folder, name) for name in names]


def _stated_sizes(parts: ConfigParts, dataset: Dataset) -> Iterator[tuple[str, tuple]]:
    coco = parts.coco_of(dataset)
    if isinstance(coco, dict):
        boxed = {annotation['image_id'] for annotation in coco['annotations']}
        for image in coco['images']:
            if image['id'] in boxed:
                yield osp.join(dataset.folder, image['file_name']), (image['height'], image['width'])


def _loader(parts: ConfigParts, dataset: Dataset) -> Loader | None:
    for transform in dataset.transforms:
        if 'LoadImageFromFile' in transform.names:
            options = {key: transform.node[key] for key in ('color_type', 'imdecode_backend') if key in transform.node}
            return loader_of(class_of(transform.node, 'TRANSFORMS', parts.scope), **options)
    return None


def image_findings(sets: Sequence[ImageSet]) -> Findings:
    """Images that cannot be read or do not fit, and images in two sets."""
    for one in sets:
        yield from image_faults(one)
    for one, other in combinations(sets, 2):
        common = {*map(osp.normpath, one.paths)} & {*map(osp.normpath, other.paths)}
        if common and {one.role, other.role} != {'val', 'test'}:
            harm = 'they count twice'
            if other.role == 'unlabeled':
                harm = 'the teacher labels labeled images'
            elif other.role == 'empty' and one.role == 'labeled':
                harm = 'the model learns their objects as background'
            elif other.role in ('val', 'test') and one.role != other.role:
                harm = 'the model is evaluated on images that it was trained on'
            what = f'{len(common)} images are also in {one.where}, such as {min(common)}: {harm}'
            yield warning(other.where, what, 'remove them from one of the sets')


def image_faults(one: ImageSet) -> Findings:
    """Images that cannot be read or do not fit their annotations. At most ``LOOKED_AT`` are checked, evenly spread."""
    paths = [path for path in spread(one.paths, LOOKED_AT) if not REMOTE.match(path)]
    opened = spread(paths, OPENED) if one.skips else paths
    look_inside = set(opened)
    limits = {path: math.inf if path in one.sizes else MOST_PIXELS for path in paths}
    found = [(path, image_fault(path, path in look_inside, limits[path])) for path in paths]
    faults = {path: fault for path, fault in found if fault}
    instead = 'restore them, or correct data_root and data_prefix=dict(img=…)'
    if any('://' in path for path in faults):
        instead = 'write paths relative to data_prefix in `file_name` of the json file, and no URLs'
    yield from _unusable(one, len(paths), 'cannot be read', faults, instead)
    if one.loader is not None:
        readable = [path for path in opened if path not in faults]
        headers = {path: read_header(path, one.loader) for path in readable}
        known = {path: header for path, header in headers.items() if header}
        yield from _size_faults(one, known)
        deep = [path for path, header in known.items() if header.bits > 8]
        lost = [text for text in map(lost_levels, spread(deep, DEEP)) if text] if one.loader.eight_bits else []
        if lost:
            what = f'LoadImageFromFile keeps 8 of the 16 bits of {len(deep)} images. In {lost[0]} are left'
            yield warning(one.where, what, 'scale their values to 8 bits, and save them again')


def _size_faults(one: ImageSet, headers: Mapping[str, Header]) -> Findings:
    """Finds images that have boxes, and another size than in the json file or an EXIF turn that keeps the size."""
    boxed = {path: header for path, header in headers.items() if path in one.sizes}
    faults = {path: size_fault(header.size, one.sizes[path]) for path, header in boxed.items()}
    faults = {path: fault for path, fault in faults.items() if fault}
    instead = f'correct the json file. If the boxes fit the pictures before EXIF turns them, write {NOT_TURNED}'
    yield from _unusable(one, len(headers), 'have another size than in the json file', faults, instead)
    turned = {path: header for path, header in boxed.items() if header.orientation > 1 and path not in faults}
    unclear = [path for path, header in turned.items() if header.orientation < 5 or len(set(header.size)) == 1]
    if unclear:
        what = f'EXIF turns or mirrors {len(unclear)} images, which does not change their size, such as {unclear[0]}'
        yield warning(one.where, what, f'make sure that the boxes fit the turned pictures, or write {NOT_TURNED}')


def _unusable(one: ImageSet, number: int, kind: str, faults: Mapping[str, str], instead: str) -> Findings:
    if not faults:
        return
    named = first_of((f'{path} ({fault})' for path, fault in faults.items()), NAMED)
    what = f'{len(faults)} of the {number} images looked at {kind}: {named}'
    if one.skips and len(faults) < number:
        yield warning(one.where, what, f'{instead}. Otherwise training takes the next image in their place')
    else:
        yield error(one.where, what, instead)


def spread(values: Sequence, most: int) -> Sequence:
    """At most ``most`` of the values, evenly spread."""
    return values[:: max(1, -(-len(values) // most))]


CHECKS = (check_images,)
