"""Checks of json files: their classes, their boxes, and the names of empty images."""

from collections import Counter

from mmyolo_bgpenalty.config_check.files.boxes import box_findings, objects_of
from mmyolo_bgpenalty.config_check.files.images import image_paths
from mmyolo_bgpenalty.config_check.findings import Findings, error, first_of, warning
from mmyolo_bgpenalty.config_check.overrides import similar
from mmyolo_bgpenalty.config_check.parts import ConfigParts, Dataset
from mmyolo_bgpenalty.datasets.known_empty import places_of, read_names
from mmyolo_bgpenalty.utils.coco_json import numbered_classes


def check_json(parts: ConfigParts) -> Findings:
    stated = next(map(parts.classes_of, parts.train), None)
    for dataset in parts.datasets:
        coco, classes = parts.coco_of(dataset), parts.classes_of(dataset)
        if isinstance(coco, ValueError):
            yield error(f'{dataset.path}.ann_file', str(coco), 'correct the path or the file')
        elif coco and dataset.role != 'unlabeled':
            yield from box_findings(dataset, coco)
            if classes:
                yield from _categories(dataset, coco, classes, classes == stated, 'classes' in parts.given)
                yield from _boxes_by_class(dataset, coco, classes, 'classes' in parts.given, dataset in parts.train)


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
        # An evaluator needs each class. Training does not.
        level = error if dataset.role in ('val', 'test') else warning
        yield level(where, f'{dataset.ann_file} lacks {first_of(lacking)}', instead)


def _boxes_by_class(dataset: Dataset, coco: dict, classes: list[str], given: bool, train: bool) -> Findings:
    names = {category['id']: category['name'] for category in coco['categories']}
    found = [name for name in classes if name in names.values()]
    objects, boxes = (
        Counter(names[annotation['category_id']] for annotation in annotations)
        for annotations in (objects_of(coco), coco['annotations'])
    )
    empty = [name for name in found if not objects[name]]
    if empty and (train or empty == found):
        what = f'{dataset.ann_file} has no box of {first_of(empty)}'
        ignored = sum(boxes[name] for name in empty)
        if ignored:
            what += f' that counts: {ignored} boxes are crowds (`iscrowd` or `ignore` is 1), or are dropped'
        if empty == found and not train:
            what += ', so nothing can be evaluated'
        instead = 'write `iscrowd` 0 if each box has one object' if ignored else 'label images of these classes'
        yield (error if empty == found else warning)(f'{dataset.path}.ann_file', what, instead)
    extra = [name for name in boxes if name not in classes]
    if train and extra and empty != found:
        number = sum(boxes[name] for name in extra)
        what = f'{number} boxes of {first_of(extra)} in {dataset.ann_file} are dropped and learned as background'
        instead = 'add them to `classes` in config(…)' if given else 'add the classes to all sets and to the head'
        yield warning(f'{dataset.path}.metainfo.classes', what, instead)


def check_known_empty(parts: ConfigParts) -> Findings:
    name, unlabeled = parts.train_set.node.get('known_empty'), [one for one in parts.train if one.role == 'unlabeled']
    if not name or not unlabeled or 'LabeledUnlabeledDataset' not in parts.train_set.names:
        return
    where, file, folder = f'{parts.train_set.path}.known_empty', unlabeled[0].joined(name), unlabeled[0].folder
    try:
        names = read_names(file)
        paths = image_paths(parts, unlabeled[0])
        if paths:  # else another check reports the set
            places_of(names, paths, folder)
    except OSError:  # check_images reports it
        return
    except ValueError as problem:
        yield error(where, str(problem), f'correct the path (relative to data_root) or the names in {file}')


CHECKS = (check_json, check_known_empty)
