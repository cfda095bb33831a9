"""Checks of json files: their classes, their boxes, and the names of empty images."""

from collections import Counter
from collections.abc import Mapping

from mmyolo_bgpenalty.config_check.files.boxes import box_findings, objects_of
from mmyolo_bgpenalty.config_check.files.images import image_paths
from mmyolo_bgpenalty.config_check.findings import Findings, error, first_of, warning
from mmyolo_bgpenalty.config_check.overrides import similar
from mmyolo_bgpenalty.config_check.parts import ConfigParts, Dataset
from mmyolo_bgpenalty.datasets.empty_images import empty_images
from mmyolo_bgpenalty.datasets.known_empty import places_of, read_names
from mmyolo_bgpenalty.utils.coco_json import numbered_classes


def check_json(parts: ConfigParts) -> Findings:
    for loader in (parts.train, parts.val, parts.test):
        objects = _objects(parts, loader)
        for dataset in loader:
            coco, classes = parts.coco_of(dataset), parts.classes_of(dataset)
            if isinstance(coco, ValueError):
                yield error(f'{dataset.path}.ann_file', str(coco), 'correct the path or the file')
            elif coco and dataset.has_labels:
                yield from box_findings(dataset, coco)
                if classes:
                    yield from _categories(parts, dataset, coco, classes, objects)
                    yield from _boxes_by_class(parts, dataset, coco, classes, objects)


def _objects(parts: ConfigParts, loader: list[Dataset]) -> Counter[str]:
    """The number of objects of each category in all sets of a loader. A category without objects has the entry 0."""
    counts: Counter[str] = Counter()
    for dataset in (one for one in loader if one.has_labels):
        coco = parts.coco_of(dataset)
        if isinstance(coco, dict):
            names = {category['id']: category['name'] for category in coco['categories']}
            counts.update(dict.fromkeys(names.values(), 0))
            counts.update(names[annotation['category_id']] for annotation in objects_of(coco))
        else:  # the file is not read, so it may have all classes
            counts.update(parts.classes_of(dataset) or ())
    return counts


def _categories(
    parts: ConfigParts, dataset: Dataset, coco: dict, classes: list[str], objects: Counter[str]
) -> Findings:
    """MMDetection numbers the labels of a set in the order of the categories in the json file."""
    where, (found, lacking) = f'{dataset.path}.metainfo.classes', numbered_classes(coco, classes)
    lacking = [name for name in lacking if name not in objects]  # another set of the loader may have them
    if not found:
        names = first_of(category['name'] for category in coco['categories'])
        what = f'{dataset.ann_file} has none of {first_of(classes)}. Its categories are {names}'
        yield error(where, what, 'write the categories of the json file')
    elif found != classes[: len(found)] and classes == next(map(parts.classes_of, parts.train), None):
        # check_classes reports sets with other classes than in training
        what = f'{dataset.ann_file} has the order {first_of(found)}. MMDetection numbers labels in that order'
        instead = 'write the same classes in the same order here and in the json file'
        yield error(where, f'{what}: names are mixed up', instead)
    elif lacking:
        place = '`classes` in config(…)' if 'classes' in parts.given else '`classes` and `num_classes`'
        instead = f'add it to the categories of the json file, or remove it from {place}'
        meant = similar(lacking[0], [category['name'] for category in coco['categories']])
        if meant:
            instead = f'is {meant} meant? Otherwise {instead}'
        # An evaluator that reads a json file needs each class. Training does not.
        files = (parts.coco(node['ann_file']) for node in _evaluators(parts, dataset) if node.get('ann_file'))
        needed = any(numbered_classes(one, classes)[1] for one in files if isinstance(one, dict))
        yield (error if needed else warning)(where, f'{dataset.ann_file} lacks {first_of(lacking)}', instead)


def _boxes_by_class(
    parts: ConfigParts, dataset: Dataset, coco: dict, classes: list[str], objects: Counter[str]
) -> Findings:
    names = {category['id']: category['name'] for category in coco['categories']}
    train, boxes = dataset in parts.train, Counter(names[one['category_id']] for one in coco['annotations'])
    empty = [name for name in classes if name in names.values() and not objects[name]]
    none = bool(empty) and not any(objects[name] for name in classes)
    if empty and (train or (none and any(not node.get('format_only') for node in _evaluators(parts, dataset)))):
        what = f'{dataset.ann_file} has no box of {first_of(empty)}'
        ignored = sum(boxes[name] for name in empty)
        if ignored:
            what += f' that counts: {ignored} boxes are crowds (`iscrowd` or `ignore` is 1), or are dropped'
        if not train:
            what += ', so recall and AP cannot be computed'
        instead = 'write `iscrowd` 0 if each box has one object' if ignored else 'label images of these classes'
        # False positives on empty images can be counted, but they do not tell which checkpoint is best.
        needed = train or any(hook.node.get('save_best') for hook in parts.hooks_of('CheckpointHook'))
        yield (error if none and needed else warning)(f'{dataset.path}.ann_file', what, instead)
    extra = [name for name in boxes if name not in classes]
    if train and extra and not none:
        number = sum(boxes[name] for name in extra)
        what = f'{number} boxes of {first_of(extra)} in {dataset.ann_file} are dropped and learned as background'
        given = 'classes' in parts.given
        instead = 'add them to `classes` in config(…)' if given else 'add the classes to all sets and to the head'
        yield warning(f'{dataset.path}.metainfo.classes', what, instead)


def _evaluators(parts: ConfigParts, dataset: Dataset) -> list[Mapping]:
    return [node for _, node in parts.entries(f'{dataset.role}_evaluator')]


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


def check_empty(parts: ConfigParts) -> Findings:
    for dataset in (one for one in parts.train if one.kind == 'EmptyImageDataset'):
        try:
            empty_images(dataset.node.get('source') or (), dataset.node.get('data_root') or '', dataset.folder)
        except ValueError as problem:
            yield error(dataset.path, str(problem), 'write a folder, a json or text file, or a list of these')


CHECKS = (check_json, check_known_empty, check_empty)
