"""Reading COCO json and writing files whole. Standard library only."""

import json
import math
import os
import uuid
from collections import Counter
from numbers import Real
from pathlib import Path


def write_whole(path, content) -> None:
    """Write text or bytes to ``path`` under a temporary name first: the file is there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}.tmp')
    try:
        if isinstance(content, bytes):
            draft.write_bytes(content)
        else:
            draft.write_text(content, encoding='utf-8')
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path):
    """What a json file holds.

    Raises:
        ValueError: it is missing, no file, or no json; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise ValueError(f'{path}: no such file') from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: cannot be read: {getattr(error, "strerror", None) or error}') from None
    except ValueError as error:
        raise ValueError(f'{path}: is no valid json: {error}') from None


def read_coco(path) -> dict:
    """A COCO detection set: a dict with the lists ``images``, ``categories`` and ``annotations`` ([] if absent).

    Raises:
        ValueError: names the file and the field: no json, a list that is missing or empty (``images``,
            ``categories``), an entry without its fields, an id or file name that comes twice, an annotation of
            an unknown image or category, or a box that is not four finite numbers with a size >= 0.
    """
    coco = read_json(path)
    if not isinstance(coco, dict):
        raise ValueError(f'{path}: expected an object with `images`, `annotations` and `categories`')
    coco.setdefault('annotations', [])
    fields = dict(
        images=('id', 'file_name'), categories=('id', 'name'), annotations=('image_id', 'category_id', 'bbox')
    )
    for name, needed in fields.items():
        entries = coco.get(name)
        if not isinstance(entries, list):
            raise ValueError(f'{path}: expected a list `{name}`, but got {_kind(entries)}')
        if not entries and name != 'annotations':
            raise ValueError(f'{path}: `{name}` is empty')
        for place, entry in enumerate(entries):
            missing = [field for field in needed if not isinstance(entry, dict) or field not in entry]
            if missing:
                raise ValueError(f'{path}: `{name}[{place}]` has no `{missing[0]}`')
            for field in needed:
                if field.endswith('id') and (
                    isinstance(entry[field], bool) or not isinstance(entry[field], (int, str))
                ):
                    raise ValueError(f'{path}: `{name}[{place}].{field}` is {entry[field]!r}; expected a number')
                if field.endswith('name') and not (isinstance(entry[field], str) and entry[field]):
                    raise ValueError(f'{path}: `{name}[{place}].{field}` is {entry[field]!r}; expected a name')
    for name, field in (('images', 'id'), ('images', 'file_name'), ('categories', 'id'), ('categories', 'name')):
        value, times = Counter(entry[field] for entry in coco[name]).most_common(1)[0]
        if times > 1:
            raise ValueError(f'{path}: `{name}` has the {field} {value!r} {times} times')
    images, categories = ({entry['id'] for entry in coco[name]} for name in ('images', 'categories'))
    for place, annotation in enumerate(coco['annotations']):
        for field, known in (('image_id', images), ('category_id', categories)):
            if annotation[field] not in known:
                raise ValueError(f'{path}: `annotations[{place}].{field}` is {annotation[field]!r}, which is not there')
        box = annotation['bbox']
        if not (isinstance(box, list) and len(box) == 4 and all(map(_finite, box)) and min(box[2:]) >= 0):
            raise ValueError(f'{path}: `annotations[{place}].bbox` is {box!r}; expected [x, y, width, height]')
    return coco


def _finite(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _kind(value) -> str:
    return 'nothing' if value is None else type(value).__name__
