"""Checks of files: json files, their classes and boxes, images, and images that two sets share."""

import math
import os
import os.path as osp
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from mmengine.runner import Runner

from mmyolo_bgpenalty.config_check.findings import Findings, error, first_of, warning
from mmyolo_bgpenalty.config_check.overrides import similar
from mmyolo_bgpenalty.config_check.parts import ConfigParts, Dataset
from mmyolo_bgpenalty.datasets.known_empty import places_of, read_names
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError
from mmyolo_bgpenalty.engine.checkpoints.start_weights import SIZES, model_size, read_weights
from mmyolo_bgpenalty.utils.coco_json import numbered_classes
from mmyolo_bgpenalty.utils.files import NAMED, reason
from mmyolo_bgpenalty.utils.image_files import image_fault, image_names

LOOKED_AT = 20_000  # at most this many images of a set are checked
OPENED = 500  # at most this many of them are opened


class ImageSet(NamedTuple):
    """The images of a dataset. ``skips``: if an image cannot be read, the dataset loads another one."""

    role: str
    where: str
    paths: Sequence[str]
    skips: bool


def check_load_from(parts: ConfigParts) -> Findings:
    """A checkpoint that cannot be read, or that is of another model size."""
    path = parts.get('load_from')
    if not isinstance(path, str) or '://' in path or parts.get('resume'):
        return
    try:
        _, weights = read_weights(path)
    except (CheckpointError, OSError) as problem:
        what = f'{path}: {reason(problem)}' if isinstance(problem, OSError) else str(problem)
        yield error('load_from', what, 'write the path of a checkpoint file')
        return
    width = parts.get(f'{parts.detector.path}.backbone.widen_factor', 1.0)
    there, here = model_size(weights), SIZES.get(8 * math.ceil(64 * width / 8))
    if there and here and there != here:
        what = f'{path} is YOLOv8-{there}, but the config builds YOLOv8-{here}, so most weights do not fit'
        yield warning('load_from', what, f"write model_size='{there}', or take weights of YOLOv8-{here}")


def check_json(parts: ConfigParts) -> Findings:
    stated = next(map(parts.classes_of, parts.train), None)
    for dataset in parts.datasets:
        coco, classes = parts.coco_of(dataset), parts.classes_of(dataset)
        if isinstance(coco, ValueError):
            yield error(f'{dataset.path}.ann_file', str(coco), 'correct the path or the file')
        elif coco and dataset.role != 'unlabeled':
            yield from _dropped_boxes(dataset, coco)
            if classes:
                yield from _categories(dataset, coco, classes, classes == stated, 'classes' in parts.given)
                if dataset in parts.train:
                    yield from _boxes_by_class(dataset, coco, classes, 'classes' in parts.given)


def _categories(dataset: Dataset, coco: dict, classes: list[str], as_in_training: bool, given: bool) -> Findings:
    """MMDetection numbers the labels of a set in the order of the categories in the json file.

    ``given``: the classes are a variable of ``config(…)``.
    """
    where, (found, lacking) = f'{dataset.path}.metainfo.classes', numbered_classes(coco, classes)
    if not found:
        names = first_of(category['name'] for category in coco['categories'])
        what = f'{dataset.ann_file} has none of {first_of(classes)}. Its categories are {names}'
        yield error(where, what, 'write the categories of the json file')
    elif found != classes[: len(found)] and as_in_training:  # otherwise check_classes reports it
        what = f'{dataset.ann_file} has the order {first_of(found)}. MMDetection numbers labels in that order'
        instead = 'write the same classes in the same order here and in the json file'
        yield error(where, f'{what}: names are mixed up', instead)
    elif lacking:
        place = '`classes` in config(…)' if given else '`classes` and `num_classes`'
        instead = f'add it to the categories of the json file, or remove it from {place}'
        meant = similar(lacking[0], [category['name'] for category in coco['categories']])
        if meant:
            instead = f'is {meant} meant? Otherwise {instead}'
        yield warning(where, f'{dataset.ann_file} lacks {first_of(lacking)}', instead)


def _boxes_by_class(dataset: Dataset, coco: dict, classes: list[str], given: bool) -> Findings:
    names = {category['id']: category['name'] for category in coco['categories']}
    boxes = Counter(names[annotation['category_id']] for annotation in coco['annotations'])
    found = [name for name in classes if name in names.values()]
    empty = [name for name in found if not boxes[name]]
    if empty:
        what = f'{dataset.ann_file} has no box of {first_of(empty)}'
        yield (error if empty == found else warning)(f'{dataset.path}.ann_file', what, 'label images of these classes')
    extra = [name for name in boxes if name not in classes]
    if extra and empty != found:
        number = sum(boxes[name] for name in extra)
        what = f'{number} boxes of {first_of(extra)} in {dataset.ann_file} are dropped and learned as background'
        instead = 'add them to `classes` in config(…)' if given else 'add the classes to all sets and to the head'
        yield warning(f'{dataset.path}.metainfo.classes', what, instead)


def _dropped_boxes(dataset: Dataset, coco: dict) -> Findings:
    """Boxes that MMDetection drops without a message."""
    sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
    dropped = []
    for annotation in coco['annotations']:
        (x, y, width, height), (right, bottom) = annotation['bbox'], sizes[annotation['image_id']]
        outside = min(x + width, right) <= max(x, 0) or min(y + height, bottom) <= max(y, 0)
        if (outside or annotation['area'] <= 0 or min(width, height) < 1) and not annotation.get('ignore'):
            dropped.append(annotation['id'])
    if dropped:
        what = f'{len(dropped)} of {len(coco["annotations"])} boxes of {dataset.ann_file} are dropped: they lie '
        what += f'outside the image, are smaller than a pixel, or have `area` 0: annotations {first_of(dropped, NAMED)}'
        yield warning(f'{dataset.path}.ann_file', what, 'correct the boxes, or the sizes of the images')


def check_images(parts: ConfigParts) -> Findings:
    both, sets = 'LabeledUnlabeledDataset' in parts.train_set.names, []
    for dataset in parts.datasets:
        try:
            paths = _image_paths(parts, dataset)
        except OSError as problem:
            what = f'{os.fsdecode(problem.filename)}: {problem.strerror}'
            yield error(f'{dataset.path}.data_prefix', what, 'correct the path, or the permissions of the folder')
            continue
        skips = not dataset.node.get('test_mode') and (both or 'SkipUnreadable' in dataset.names)
        sets.append(ImageSet(dataset.role, dataset.path, paths, skips))
    yield from image_findings(sets)


def _image_paths(parts: ConfigParts, dataset: Dataset) -> list[str]:
    """The images of a json file or of an ImageFolderDataset. Raises an OSError if the folder cannot be listed."""
    coco, names = parts.coco_of(dataset), []
    if isinstance(coco, dict):
        names = [image['file_name'] for image in coco['images']]
    elif 'ImageFolderDataset' in dataset.names and dataset.is_local(dataset.folder):
        names = image_names(dataset.folder)
    return [osp.join(dataset.folder, name) for name in names]


def check_known_empty(parts: ConfigParts) -> Findings:
    name, unlabeled = parts.train_set.node.get('known_empty'), [one for one in parts.train if one.role == 'unlabeled']
    if not name or not unlabeled or 'LabeledUnlabeledDataset' not in parts.train_set.names:
        return
    where, file, folder = f'{parts.train_set.path}.known_empty', unlabeled[0].joined(name), unlabeled[0].folder
    try:
        names = read_names(file)
        paths = _image_paths(parts, unlabeled[0])
        if paths:  # else another check reports the set
            places_of(names, paths, folder)
    except OSError:  # check_images reports it
        return
    except ValueError as problem:
        yield error(where, str(problem), f'correct the path (relative to data_root) or the names in {file}')


def image_findings(sets: Sequence[ImageSet]) -> Findings:
    """Images that cannot be read, and images in two sets."""
    for one in sets:
        yield from image_faults(one.where, one.paths, one.skips)
    for one, other in combinations(sets, 2):
        common = {*map(osp.normpath, one.paths)} & {*map(osp.normpath, other.paths)}
        if common and {one.role, other.role} != {'val', 'test'}:
            harm = 'they count twice'
            if other.role == 'unlabeled':
                harm = 'the teacher labels labeled images'
            elif other.role in ('val', 'test'):
                harm = 'the model is evaluated on images that it was trained on'
            what = f'{len(common)} images are also in {one.where}, such as {min(common)}: {harm}'
            yield warning(other.where, what, 'remove them from one of the sets')


def image_faults(where: str, paths: Sequence[str], skips: bool) -> Findings:
    """Images that cannot be read. At most ``LOOKED_AT`` images are checked, evenly spread."""
    paths = [path for path in _spread(paths, LOOKED_AT) if '://' not in path]
    opened = set(_spread(paths, OPENED))
    found = [(path, image_fault(path, look_inside=path in opened)) for path in paths]
    faults = [f'{path} ({fault})' for path, fault in found if fault]
    if not faults:
        return
    what = f'{len(faults)} of the {len(paths)} images looked at cannot be read: {first_of(faults, NAMED)}'
    if skips and len(faults) < len(paths):
        yield warning(where, what, 'restore them. Otherwise training takes the next image in their place')
    else:
        yield error(where, what, 'restore them, or correct data_root and data_prefix=dict(img=…)')


def _spread(values: Sequence, most: int) -> Sequence:
    return values[:: max(1, -(-len(values) // most))]


CHECKS = (check_load_from, check_json, check_images, check_known_empty)


def check_built_sets(runner: Runner) -> Findings:
    """Mistakes in the datasets of a Runner."""
    loader, where = runner.train_dataloader, 'train_dataloader.dataset'
    yield from orientations(getattr(loader.sampler, 'group2size_per_source', ()))
    members = getattr(loader.dataset, 'datasets', None)
    datasets = [('train', where, loader.dataset)]
    if members is not None:
        names = ['labeled', 'unlabeled'] if len(members) == 2 else [f'datasets.{i}' for i in range(len(members))]
        datasets = [(name, f'{where}.{name}', dataset) for name, dataset in zip(names, members)]
    val = getattr(getattr(runner.val_loop, 'dataloader', None), 'dataset', None)
    sets, has_boxes = [], []
    for role, place, dataset in (*datasets, ('val', 'val_dataloader.dataset', val)):
        if not hasattr(dataset, 'get_data_info'):
            continue
        if role != 'val':
            infos = map(dataset.get_data_info, range(len(dataset)))
            has_boxes.append(any(info.get('instances', True) for info in infos))
        if not getattr(dataset, 'backend_args', None):
            infos = map(dataset.get_data_info, _spread(range(len(dataset)), LOOKED_AT))
            skips = hasattr(dataset, 'first_readable') and not dataset.test_mode
            sets.append(ImageSet(role, place, [info['img_path'] for info in infos if info.get('img_path')], skips))
    if has_boxes and not any(has_boxes):
        yield error(where, 'none of its images has a box of its classes', 'see `ann_file` and `metainfo.classes`')
    yield from image_findings(sets)


def orientations(counts: Sequence[Mapping[int, int]]) -> Findings:
    """``counts``: for each set, the number of images that are taller than wide (key 0) and of the others (key 1)."""
    for group, name in ((0, 'taller than wide'), (1, 'at least as wide as tall')):
        numbers = [sizes.get(group, 0) for sizes in counts]
        if any(numbers) and not all(numbers):
            what = f'no image of set {numbers.index(0)} is {name}: GroupMultiSourceSampler waits for one forever'
            instead = "write type='MultiSourceSampler', or use a LabeledUnlabeledBatchSampler"
            yield error('train_dataloader.sampler.type', what, instead)
