"""Checks of classes, validation and test."""

import os.path as osp
import re
from collections.abc import Mapping
from itertools import combinations, zip_longest

from mmyolo_bgpenalty.config_check.findings import Findings, error, first_of, warning
from mmyolo_bgpenalty.config_check.parts import ConfigParts, class_of, kind_of, names_of

COCO_KEYS = re.compile(r'(bbox|segm)_mAP(_50|_75|_s|_m|_l)?$|AR|.*_precision$')
PREFIXES = dict(CocoMetric='coco', PrecisionRecallMetric='pr')


def check_classes(parts: ConfigParts) -> Findings:
    """Number and order of the classes in the head, the assigner and the datasets."""
    module = parts.part(f'{parts.head.path}.head_module', 'MODELS')
    if not (module.node or parts.semi):  # a detector without a head module may have several lists of classes
        return
    head = module if 'num_classes' in module.node else parts.head
    number = head.node.get('num_classes')
    where = f'{parts.detector.path}.train_cfg.assigner.num_classes'
    assigned = parts.get(where)
    if None not in (number, assigned) and number != assigned:
        yield error(where, f'{assigned}, but the head has {number} classes', f'write {number}')
    labeled = [(one, parts.classes_of(one)) for one in parts.train if one.has_labels]
    train = [(dataset, classes) for dataset, classes in labeled if classes]
    for dataset, classes in train:
        if number is None or len(classes) == number:
            continue
        what = f'the head has {number} classes, but {dataset.path} has {len(classes)}: {first_of(classes)}'
        if len(classes) < number:
            what = f'{what}. The first prediction of another class stops validation'
        level = warning if len(classes) < number and not parts.val else error
        yield level(f'{head.path}.num_classes', what, f'write {len(classes)}, here and in the assigner')
    for dataset in parts.datasets if train else ():
        (first, expected), found = train[0], parts.classes_of(dataset)
        if found is None or found == expected:
            continue
        moved = any(name in expected and expected.index(name) != place for place, name in enumerate(found))
        same = next(place for place, (a, b) in enumerate(zip_longest(found, expected)) if a != b)
        ours, theirs = (first_of(names[same:]) or 'nothing' for names in (found, expected))
        what = f'label {same} and later are {ours}, but {first.path} has {theirs}: labels have other names'
        level = error if moved and dataset.has_labels else warning
        yield level(f'{dataset.path}.metainfo.classes', what, 'write one list in one order for all sets')


def check_class_names(parts: ConfigParts) -> Findings:
    """MMEngine takes a text as the path of a file of names. If there is no such file, each letter is a class."""
    for dataset in parts.datasets:
        meta = dataset.node.get('metainfo') or {}
        for key in ('classes', 'CLASSES'):
            names = meta.get(key) if isinstance(meta, Mapping) else None
            if isinstance(names, str) and '://' not in names and not osp.isfile(names):
                what = f'{names!r} is a text and no list of names, so its letters would be classes'
                yield error(f'{dataset.path}.metainfo.{key}', what, f'write ({names!r},), with the comma')


def check_validation(parts: ConfigParts) -> Findings:
    both = kind_of(parts.get('val_cfg')) == 'TeacherStudentValLoop'
    if both and not parts.semi and parts.model.node:
        yield error('val_cfg.type', 'TeacherStudentValLoop needs a model with a teacher', "write type='ValLoop'")
    yield from _save_best(parts, both)
    for dataset in (*parts.val, *parts.test) if 'YOLODetector' in parts.detector.names else ():
        letterbox = any('LetterResize' in transform.names for transform in dataset.transforms)
        needed = ['scale_factor', 'pad_param'] if letterbox else ['scale_factor']
        for transform in dataset.transforms:
            keys = transform.node.get('meta_keys') if 'PackDetInputs' in transform.names else None
            lacking = ' and '.join(f'`{key}`' for key in needed if key not in (keys or needed))
            if lacking:
                what = f'no {lacking}: boxes cannot be mapped to the original image'
                yield error(f'{transform.path}.meta_keys', what, f'add {lacking}')


def _save_best(parts: ConfigParts, both: bool) -> Findings:
    """Find a wrong metric before the first validation. ``both``: teacher and student are evaluated."""
    prefixes = _prefixes(parts)
    for hook in parts.hooks_of('CheckpointHook'):
        keys = hook.node.get('save_best') or []
        for key in [keys] if isinstance(keys, str) else keys:
            model, _, rest = key.partition('/') if both else ('teacher', '', key)
            prefix, _, name = rest.partition('/')
            known = not prefixes or (prefix in prefixes and (prefix != 'coco' or COCO_KEYS.match(name)))
            if key != 'auto' and not (known and model in ('teacher', 'student')):
                metric = 'coco/bbox_mAP_50' if 'coco' in prefixes or not prefixes else f'{sorted(prefixes)[0]}/…'
                instead = f'write {"teacher/" * both}{metric}'
                yield error(f'{hook.path}.save_best', f'no evaluator reports `{key}`', instead)


def _prefixes(parts: ConfigParts) -> set[str]:
    """The prefixes of all metrics. Empty if an evaluator is unknown."""
    prefixes = set()
    for _, node in parts.entries('val_evaluator'):
        name = getattr(class_of(node, 'METRICS', parts.scope), '__name__', '')
        if name not in PREFIXES:
            return set()
        prefixes |= {node.get('prefix') or PREFIXES[name], *(['coco'] if node.get('coco') else [])}
    return prefixes


def check_evaluator_files(parts: ConfigParts) -> Findings:
    """An evaluator must read the json file of its dataset, or another json file with the same images."""
    for name, datasets in (('val', parts.val), ('test', parts.test)):
        files = [dataset.ann_file for dataset in datasets]
        ours = {dataset.ann_file: _images(parts.coco_of(dataset)) for dataset in datasets}
        evaluators = parts.entries(f'{name}_evaluator')
        by_ids = any('CocoMetric' in names_of(node, 'METRICS', parts.scope) for _, node in evaluators)
        for one, other in combinations(ours, 2) if by_ids else ():
            common = ours[one].keys() & ours[other].keys()
            if common:
                what = f'{one} and {other} both have the image id {min(common, key=str)!r}: predictions are mixed up'
                yield error(f'{name}_dataloader.dataset', what, 'give all images different ids')
        expected = {image: file for images in ours.values() for image, file in images.items()}
        for where, node in evaluators:
            theirs = node.get('ann_file')
            if not theirs or not files or not all(ours.values()):
                continue
            found = expected if [*map(osp.realpath, files)] == [osp.realpath(theirs)] else _images(parts.coco(theirs))
            if found and found != expected:
                reads = f'the dataset reads {files[0]}' if len(files) == 1 else f'the datasets read {first_of(files)}'
                instead = f'write {files[0]}' if len(files) == 1 else 'write a json file with the images of all sets'
                yield error(f'{where}.ann_file', f'{theirs}, but {reads}, which has other images', instead)
            yield from _ids(parts, where, node)


def _images(coco: dict | ValueError | None) -> dict:
    """The names of the images by their ids, without folders and extensions. {} if the json file cannot be read."""
    images = coco['images'] if isinstance(coco, dict) else ()
    return {image['id']: osp.splitext(osp.basename(image['file_name']))[0] for image in images}


def _ids(parts: ConfigParts, where: str, node: Mapping) -> Findings:
    """CocoMetric of MMDetection needs ids that PrecisionRecallMetric does not need."""
    coco, names = parts.coco(node['ann_file']), names_of(node, 'METRICS', parts.scope)
    if 'CocoMetric' not in names or 'PrecisionRecallMetric' in names or not isinstance(coco, dict):
        return
    fatal = [one for one in coco['annotations'] if one.get('iscrowd') is None or isinstance(one['id'], str)]
    lost = [one for one in coco['annotations'] if not isinstance(one['id'], int) or one['id'] == 0]
    if fatal or lost:
        what = f'the annotation {(fatal or lost)[0]["id"]!r} of {node["ann_file"]} '
        what += 'cannot be evaluated' if fatal else 'is lost'
        what += ': CocoMetric needs `iscrowd`, and ids that are whole numbers and not 0'
        yield (error if fatal else warning)(f'{where}.type', what, "write type='PrecisionRecallMetric', coco=True")


CHECKS = (check_class_names, check_classes, check_validation, check_evaluator_files)
