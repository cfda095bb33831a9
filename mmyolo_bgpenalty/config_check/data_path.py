"""What a config's files must be: there, of the classes, and with no image in two sets."""

import os
import os.path as osp
from collections import Counter
from itertools import combinations
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from mmyolo_bgpenalty.config_check.check import Finding, Findings, classes_of, error, some, warning
from mmyolo_bgpenalty.config_check.parts import ConfigParts, Dataset
from mmyolo_bgpenalty.datasets.image_folder import list_images
from mmyolo_bgpenalty.datasets.known_empty import read_names
from mmyolo_bgpenalty.utils.coco_json import numbered_classes, read_coco
from mmyolo_bgpenalty.utils.files import NAMED
from mmyolo_bgpenalty.utils.image_files import image_fault

MOST = 20_000  # images of a set whose files are looked for, and whose paths are compared
OPENED = 500  # of them those that are looked into


def check_sets(parts: ConfigParts) -> Findings:
    """The json files, their classes and images."""
    read: Dict[str, Optional[dict]] = {}
    sets: List[Tuple[Dataset, dict]] = []
    for dataset in _all(parts):
        file, where = dataset.ann_file, f'{dataset.path}.ann_file'
        if not file.endswith('.json') or not _local(dataset, file):
            continue
        if file not in read:
            try:
                read[file] = read_coco(file, training=True)
            except ValueError as problem:
                read[file] = None
                yield error(where, str(problem), 'correct the path or the file')
        coco = read[file]
        if coco is not None:
            sets.append((dataset, coco))
    yield from _classes(parts, sets)
    for dataset, coco in sets:
        yield from _boxes(dataset, coco)
        paths = [osp.join(dataset.folder, image['file_name']) for image in coco['images']]
        yield from image_faults(f'{dataset.path}.data_prefix', paths, _skips(parts, dataset))
    if 'GroupMultiSourceSampler' in parts.sampler.names:
        counts = [Counter(_tall(image) for image in coco['images']) for dataset, coco in sets if dataset in parts.train]
        yield from orientations(counts)
    yield from _shared(sets)
    for name, datasets in (('val', parts.val), ('test', parts.test)):
        yield from evaluator_files(parts, name, datasets, read)


def check_folders(parts: ConfigParts) -> Findings:
    """Sets without json: their file or folder."""
    for dataset in _all(parts):
        file, folder = dataset.ann_file, dataset.folder
        if file and not file.endswith('.json') and _local(dataset, file) and not osp.exists(file):
            yield error(f'{dataset.path}.ann_file', f'{file}: no such file', 'correct the path')
        elif not file and folder and _local(dataset, folder):
            where = f'{dataset.path}.data_prefix'
            if not osp.isdir(folder):
                yield error(where, f'{folder}: no such folder', 'correct the path')
            elif 'ImageFolderDataset' in dataset.names:
                try:
                    paths, ends = list_images(folder)
                except OSError as problem:
                    yield error(where, f'{problem.filename!r}: {problem.strerror}', 'let it be listed')
                    continue
                names = [paths[start:end].tobytes() for start, end in zip([0, *ends[:-1]], ends)]
                yield from image_faults(where, [osp.join(folder, os.fsdecode(name)) for name in names], True)


def check_known_empty(parts: ConfigParts) -> Findings:
    """That the file names images; which of the set they are is looked at where the set is built."""
    name = parts.train_set.node.get('known_empty')
    for dataset in parts.train:
        if isinstance(name, str) and dataset.role == 'unlabeled':
            file = osp.join(dataset.node.get('data_root') or '', name)
            if _local(dataset, file):
                try:
                    read_names(file)
                except ValueError as problem:
                    yield error(f'{parts.train_set.path}.known_empty', str(problem), 'correct the path or the file')


DATA_CHECKS = (check_sets, check_folders, check_known_empty)


def check_built_sets(runner) -> Findings:
    """A Runner's sets as they are built. Of a large one, ``MOST`` images spread over it are compared."""
    loader = runner.train_dataloader
    counts = getattr(loader.sampler, 'group2size_per_source', None)
    if counts is not None:  # by source, though GroupMultiSourceSampler names it the other way
        yield from orientations([{group == 0: number for group, number in sizes.items()} for sizes in counts])
    train = 'train_dataloader.dataset'
    members = getattr(loader.dataset, 'datasets', None)
    names: Sequence[str] = ['train']
    if members is not None:
        names = ['labeled', 'unlabeled'] if len(members) == 2 else [f'datasets.{i}' for i in range(len(members))]
    sets = dict(zip(names, [loader.dataset] if members is None else members))
    places = dict.fromkeys(sets, train) if members is None else {name: f'{train}.{name}' for name in sets}
    if not any(map(_has_boxes, (dataset for name, dataset in sets.items() if name != 'unlabeled'))):
        yield error(train, 'none of its images has a box of its classes', 'see `ann_file` and `metainfo.classes`')
    val = getattr(getattr(runner.val_loop, 'dataloader', None), 'dataset', None)
    if val is not None:
        sets['val'], places['val'] = val, 'val_dataloader.dataset'
    paths = {name: _built_paths(dataset) for name, dataset in sets.items()}
    for name, dataset in sets.items():
        if not getattr(dataset, 'backend_args', None):
            skips = hasattr(dataset, 'first_readable') and not dataset.test_mode
            yield from image_faults(places[name], paths[name], skips)
    unlike = {name: {osp.normpath(path) for path in found} for name, found in paths.items()}
    for one, other in combinations(unlike, 2):
        common = unlike[one] & unlike[other]
        if common:
            least = max(map(len, (sets[one], sets[other]))) > MOST
            yield _both(train, one, other, common, 'at least ' if least else '')


def check_evaluator_paths(parts: ConfigParts) -> Findings:
    """The evaluators' files by their names alone."""
    for name, datasets in (('val', parts.val), ('test', parts.test)):
        yield from evaluator_files(parts, name, datasets, {})


def _all(parts: ConfigParts) -> List[Dataset]:
    return [*parts.train, *parts.val, *parts.test]


def _local(dataset: Dataset, path: str) -> bool:
    """Whether a file can be looked for on disk. SolarPanelDataset makes its own on first use."""
    made = 'SolarPanelDataset' not in dataset.names or osp.exists(
        osp.join(dataset.node.get('data_root') or '', 'solar.json')
    )
    return made and '://' not in path and not dataset.node.get('backend_args')


def _tall(image: Mapping) -> bool:
    return image['width'] < image['height']


def _classes(parts: ConfigParts, sets: Sequence[Tuple[Dataset, dict]]) -> Findings:
    """MMDetection numbers a set's labels in the order of its json's categories, those that `classes` names."""
    first: Optional[List[str]] = None  # the training set's names by label
    stated = next((classes_of(parts, dataset) for dataset in parts.train), None)
    for dataset, coco in sets:
        classes = classes_of(parts, dataset)
        if not classes or dataset.role == 'unlabeled':
            if not coco['annotations'] and (dataset.node.get('filter_cfg') or {}).get('filter_empty_gt'):
                where = f'{dataset.path}.filter_cfg.filter_empty_gt'
                yield error(where, 'it leaves no image of a set without boxes', 'write False')
            continue
        where, file = f'{dataset.path}.metainfo.classes', dataset.ann_file
        names = {category['id']: category['name'] for category in coco['categories']}
        boxes = Counter(names[annotation['category_id']] for annotation in coco['annotations'])
        found, lacking = numbered_classes(coco, classes)
        shifted = lacking and found != classes[: len(found)]
        if dataset in parts.train and not shifted:
            first = first or found
        if not found:
            what = f'{file} has none of {some(classes)}; its categories are {some(names.values())}'
            yield error(where, what, 'write the categories of the json')
        elif shifted:
            what = f'{file} lacks {some(lacking)}: the labels of the classes after it count down by one'
            yield error(where, what, 'add the category to the json, or leave it out of `classes` and `num_classes`')
        elif lacking:
            yield warning(
                where, f'{file} lacks {some(lacking)}', 'add the category to the json, or leave it out of `classes`'
            )
        elif classes != stated:
            pass  # check_classes says so
        elif first and any(ours != theirs for ours, theirs in zip(found, first)):
            what = f'{file} has its categories in the order {some(found)}, the training set {some(first)}'
            yield error(where, f'{what}: MMDetection numbers labels by the json', 'order the categories alike')
        elif found != classes:
            what = f'{file} has the order {some(found)}, by which MMDetection numbers labels: names are mixed up'
            refused = 'CheckedCocoDataset' in dataset.names or dataset.role == 'labeled'
            yield (error if refused else warning)(where, what, 'state the classes in the order of the json')
        if dataset not in parts.train or not found:
            continue
        if not any(boxes[name] for name in found):
            yield error(f'{dataset.path}.ann_file', f'{file} has no box of {some(found)}', 'label some images')
            continue
        for name in found:
            if not boxes[name]:
                yield warning(f'{dataset.path}.ann_file', f'{file} has no box of {name}', 'label some of that class')
        extra = [name for name in names.values() if boxes[name] and name not in classes]
        if extra:
            number = sum(boxes[name] for name in extra)
            what = f'{number} boxes of {some(extra)} in {file} are dropped, and penalised as background'
            yield warning(where, what, 'add the classes to all sets and to the head')


def _boxes(dataset: Dataset, coco: dict) -> Findings:
    """The boxes that MMDetection leaves out without a word."""
    if dataset.role == 'unlabeled':
        return
    sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
    lost = []
    for annotation in coco['annotations']:
        (x, y, width, height), (right, bottom) = annotation['bbox'], sizes[annotation['image_id']]
        outside = min(x + width, right) <= max(x, 0) or min(y + height, bottom) <= max(y, 0)
        if (outside or annotation['area'] <= 0 or min(width, height) < 1) and not annotation.get('ignore'):
            lost.append(annotation['id'])
    if lost:
        what = (
            f'{len(lost)} of {len(coco["annotations"])} boxes in {dataset.ann_file} lie outside their image or are '
            f'less than a pixel wide, high or large, and count for nothing: the annotations {some(lost, NAMED)}'
        )
        yield warning(f'{dataset.path}.ann_file', what, 'correct the boxes, or the sizes of the images')


def image_faults(where: str, paths: Sequence[str], skips: bool) -> Findings:
    """What is known of images that cannot be read, of a large set of ``MOST`` spread over it.

    Args:
        where: the set's place in the config.
        paths: of its images.
        skips: whether the set goes on without them.
    """
    paths = [path for path in _spread(paths, MOST) if '://' not in path]
    opened = set(_spread(paths, OPENED))
    found = [(path, image_fault(path, look_inside=path in opened)) for path in paths]
    faults = [f'{path} ({fault})' for path, fault in found if fault]
    if not faults:
        return
    what = f'{len(faults)} of the {len(paths)} images looked at cannot be read: {some(faults, NAMED)}'
    if skips and len(faults) < len(paths):
        yield warning(where, what, 'restore them; without them, training takes the next image in their place')
    else:
        yield error(where, what, 'restore them, or correct data_root and data_prefix=dict(img=…)')


def _spread(values: Sequence, most: int) -> Sequence:
    return values[:: max(1, -(-len(values) // most))]


def _skips(parts: ConfigParts, dataset: Dataset) -> bool:
    """Whether images that cannot be read give way to others."""
    if dataset.node.get('test_mode'):
        return False
    return 'SkipUnreadable' in dataset.names or 'LabeledUnlabeledDataset' in parts.train_set.names


def orientations(counts: Iterable[Mapping[bool, int]]) -> Findings:
    """Of each set, how many images are taller than wide (True) and not (False)."""
    counts = list(counts)
    for tall, name in ((True, 'taller than wide'), (False, 'at least as wide as tall')):
        numbers = [count.get(tall, 0) for count in counts]
        if any(numbers) and not all(numbers):
            yield error(
                'train_dataloader.sampler.type',
                f'no image of set {numbers.index(0)} is {name}: GroupMultiSourceSampler looks for one for ever',
                "write type='MultiSourceSampler', or use a LabeledUnlabeledBatchSampler",
            )


def _shared(sets: Sequence[Tuple[Dataset, dict]]) -> Findings:
    paths = [
        (dataset, {osp.normpath(osp.join(dataset.folder, image['file_name'])) for image in coco['images']})
        for dataset, coco in sets
    ]
    for (one, ours), (other, theirs) in combinations(paths, 2):
        common = ours & theirs
        if common and {one.role, other.role} != {'val', 'test'}:
            yield _both(f'{other.path}.ann_file', one.role, other.role, common)


def _both(where: str, one: str, other: str, common: set, least: str = '') -> Finding:
    harm = 'is measured on what it learnt' if other in ('val', 'test') else 'labels images whose labels it knows'
    what = f'{least}{len(common)} images are in {one} and {other}, among them {min(common)}: the detector {harm}'
    return warning(where, what, 'leave them out of one of the two')


def _has_boxes(dataset) -> bool:
    """Or may have, where that cannot be told."""
    if not hasattr(dataset, 'get_data_info'):
        return True
    return any(dataset.get_data_info(place).get('instances', True) for place in range(len(dataset)))


def _built_paths(dataset) -> List[str]:
    if not hasattr(dataset, 'get_data_info'):
        return []
    found = (dataset.get_data_info(place).get('img_path') for place in _spread(range(len(dataset)), MOST))
    return [path for path in found if path]


def evaluator_files(parts: ConfigParts, name: str, datasets: Sequence[Dataset], read: Mapping) -> Findings:
    """``read`` holds the json files read so far by path, None of those that cannot be."""
    evaluators = parts.get(f'{name}_evaluator')
    if len(datasets) != 1 or not datasets[0].ann_file.endswith('.json'):
        return
    dataset, alone = datasets[0], isinstance(evaluators, Mapping)
    for place, node in enumerate([evaluators] if alone else evaluators or []):
        file = node.get('ann_file') if isinstance(node, Mapping) else None
        if not file or osp.realpath(file) == osp.realpath(dataset.ann_file):
            continue
        where = f'{name}_evaluator.ann_file' if alone else f'{name}_evaluator.{place}.ann_file'
        what, level = f'{file}, but the loader reads {dataset.ann_file}', warning
        if read.get(dataset.ann_file):
            try:
                coco = read_coco(file, training=True)
            except ValueError as problem:
                yield error(where, str(problem), f'write {dataset.ann_file}')
                continue
            ours, theirs = ({image['id'] for image in one['images']} for one in (coco, read[dataset.ann_file]))
            if ours == theirs:
                continue
            what, level = f'{what}, which has other images', error
        yield level(where, what, f'write {dataset.ann_file}')
