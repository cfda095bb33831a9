"""Read and check COCO json files. Standard library only."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmyolo_bgpenalty.utils.files import NAMED, read_json

MOST_IN_FP32 = 3.4e38  # models store boxes in float32


def read_coco(path, training: bool = False, same_names: bool = False) -> dict:
    """Read a COCO set: a dict with the lists ``images``, ``categories`` and ``annotations`` ([] if absent).

    Args:
        path: the json file.
        training: also check the fields that MMDetection and pycocotools read: ``width`` and ``height`` of the images,
            ``id`` and ``area`` of the annotations. The ids of a list must be all numbers or all strings, because
            they are sorted.
        same_names: several categories may have the same name.

    Raises:
        ValueError: the message names the file, the field and the number of faults. These are faults:

            - the file is not valid json;
            - ``images`` or ``categories`` is missing or empty, or an entry lacks a field;
            - two entries have the same id, file name or class name;
            - an annotation has an unknown image or category;
            - a number is not finite, a side of a box or an area is negative, or a side of an image is below 1;
            - ``iscrowd`` or ``ignore`` is not 0, 1 or null.
    """
    coco = read_json(path)
    if not isinstance(coco, dict):
        got = type(coco).__name__
        raise ValueError(f'{path}: expected an object with `images`, `annotations` and `categories`, but got {got}')
    coco.setdefault('annotations', [])
    fault = next(_faults(coco, training, same_names), None)
    if fault:
        raise ValueError(f'{path}: {fault}')
    return coco


def _faults(coco: dict, training: bool, same_names: bool) -> Iterator[str]:
    """Each check assumes that the checks before it found no fault."""
    for name, (needed, trained, optional) in _FIELDS.items():
        yield from _faults_of_entries(name, coco.get(name), needed + trained if training else needed, optional)
    for name, field in _UNIQUE if not same_names else [pair for pair in _UNIQUE if pair != ('categories', 'name')]:
        counts = Counter(entry[field] for entry in coco[name] if _is_id(entry.get(field)))
        repeated = [(value, times) for value, times in counts.most_common() if times > 1]
        if repeated:
            total = f' (in all, {len(repeated)} values are repeated)' if len(repeated) > 1 else ''
            yield f'`{name}` has {repeated[0][1]} entries with the {field} {_shown(repeated[0][0])}{total}'
    for name in _FIELDS if training else ():
        texts = [isinstance(entry['id'], str) for entry in coco[name]]
        if len(set(texts)) > 1:
            place = texts.index(not texts[0])
            expected = f'a {"string" if texts[0] else "number"}, like `{name}[0].id`'
            yield f'`{name}[{place}].id` is {_shown(coco[name][place]["id"])}; expected {expected}'
    for field, name in (('image_id', 'images'), ('category_id', 'categories')):
        known = {entry['id'] for entry in coco[name]}
        values = [annotation[field] for annotation in coco['annotations']]
        unknown = [place for place, value in enumerate(values) if value not in known]
        if unknown:
            value = _shown(values[unknown[0]])
            yield f'`annotations[{unknown[0]}].{field}` is {value}, which is unknown{_and_more(unknown)}'


def _faults_of_entries(name: str, entries, needed: tuple, optional: tuple) -> Iterator[str]:
    if not isinstance(entries, list):
        yield f'expected a list `{name}`, but got {"nothing" if entries is None else type(entries).__name__}'
    if not entries and name != 'annotations':
        yield f'`{name}` is empty'
    for field in needed:
        lacking = [place for place, entry in enumerate(entries) if not isinstance(entry, dict) or field not in entry]
        if lacking:
            yield f'`{name}[{lacking[0]}]` has no `{field}`{_and_more(lacking)}'
    for field in needed + optional:
        valid, expected = _VALID[field]
        wrong = [place for place, entry in enumerate(entries) if field in entry and not valid(entry[field])]
        if wrong:
            value = _shown(entries[wrong[0]][field])
            yield f'`{name}[{wrong[0]}].{field}` is {value}; expected {expected}{_and_more(wrong)}'


def numbered_classes(coco: Mapping, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names in ``classes`` that the set has, in the order of the file, and the names that it lacks.

    MMDetection numbers labels in the order of the file. So ``classes`` must start with the first list.
    """
    found = [category['name'] for category in coco['categories'] if category['name'] in classes]
    return found, [name for name in classes if name not in found]


def with_own_ids(coco: Mapping, images: Mapping[Any, int]) -> dict:
    """A copy of a set for pycocotools and faster-coco-eval, which do not take every id that a json may have.

    For example, both take the annotation id 0 for "no match". In the copy all ids are whole numbers from 1 on:
    annotations and categories are numbered in the order of the file. ``iscrowd`` is 0 or 1. It is 1 also for
    annotations with ``ignore``, since pycocotools overwrites ``ignore``.

    Args:
        coco: a set as ``read_coco`` returns it, with the fields for training.
        images: from an image's id to its number in the copy. Other images and their annotations are left out.
    """
    categories = {category['id']: number for number, category in enumerate(coco['categories'], 1)}
    kept = [annotation for annotation in coco['annotations'] if annotation['image_id'] in images]
    return dict(
        images=[dict(image, id=images[image['id']]) for image in coco['images'] if image['id'] in images],
        categories=[dict(category, id=categories[category['id']]) for category in coco['categories']],
        annotations=[
            dict(
                annotation,
                id=number,
                image_id=images[annotation['image_id']],
                category_id=categories[annotation['category_id']],
                iscrowd=int(is_crowd(annotation)),
            )
            for number, annotation in enumerate(kept, 1)
        ],
    )


def is_crowd(annotation: Mapping) -> bool:
    """Whether an annotation is a region to ignore, and no object."""
    return bool(annotation.get('iscrowd') or annotation.get('ignore'))


def _is_id(value) -> bool:
    return isinstance(value, (int, str, float)) and not isinstance(value, bool) and value == value


def _is_name(value) -> bool:
    try:
        return isinstance(value, str) and value.encode() != b''
    except UnicodeEncodeError:
        return False


def _is_file_name(value) -> bool:
    try:
        return isinstance(value, str) and os.fsencode(value) != b''  # a file name need not be valid UTF-8
    except UnicodeEncodeError:
        return False


def _is_box(value) -> bool:
    if not (isinstance(value, list) and len(value) == 4 and all(map(_finite, value))):
        return False
    x, y, width, height = value
    return min(width, height) >= 0 and max(map(abs, (x, y, x + width, y + height))) <= MOST_IN_FP32


def _finite(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_flag(value) -> bool:
    return value is None or (isinstance(value, (int, float)) and value in (0, 1))


# For each list: fields that every set needs, fields that only training needs, and optional fields.
_FIELDS: dict[str, tuple[tuple, tuple, tuple]] = dict(
    images=(('id', 'file_name'), ('width', 'height'), ()),
    categories=(('id', 'name'), (), ()),
    annotations=(('image_id', 'category_id', 'bbox'), ('id', 'area'), ('iscrowd', 'ignore')),
)
_UNIQUE = ('images', 'id'), ('images', 'file_name'), ('categories', 'id'), ('categories', 'name'), ('annotations', 'id')
_VALID = {
    **dict.fromkeys(('id', 'image_id', 'category_id'), (_is_id, 'a number or a string')),
    'file_name': (_is_file_name, 'a name'),
    'name': (_is_name, 'a name'),
    'bbox': (_is_box, '[x, y, width, height], finite in fp32, width and height >= 0'),
    'area': (lambda value: _finite(value) and value >= 0, 'a finite number >= 0'),
    **dict.fromkeys(('width', 'height'), (lambda value: _finite(value) and value >= 1, 'a finite number >= 1')),
    **dict.fromkeys(('iscrowd', 'ignore'), (_is_flag, '0 or 1')),
}


def _shown(value) -> str:
    """The first 200 characters of a value."""
    text = repr(value)
    return text if len(text) <= 200 else f'{text[:200]}…'


def _and_more(places: Sequence[int]) -> str:
    """The number and the indices of the faults after the first one. The message has already named the first."""
    if len(places) == 1:
        return ''
    rest = ', '.join(map(str, places[1:NAMED]))
    return f' (and {len(places) - 1} more, at {rest}{", …" if len(places) > NAMED else ""})'
