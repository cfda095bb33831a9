"""Reading COCO json and writing files whole. Standard library only."""

import filecmp
import gc
import json
import os
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Iterable, Tuple, Union


def write_whole(path, content: Union[str, bytes]) -> None:
    """Write text (as UTF-8) or bytes to ``path``; the file is there whole or not at all, and its folder is made."""
    write_together([(path, content)], overwrite=True)


def write_together(files: Iterable[Tuple[Union[str, Path], Union[str, bytes]]], overwrite: bool = False) -> None:
    """Write pairs of path and content under temporary names, and rename them when all are complete.

    Raises:
        ValueError: a path is a folder, or, without ``overwrite``, a file with other contents; nothing is written.
        OSError: as the system says; nothing is written unless it comes from renaming.
    """
    drafts = {}
    try:
        for path, content in files:
            path = Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f'.{uuid.uuid4().hex}.tmp')
            drafts[draft] = path
            # Not write_text, which ends lines as the system does.
            draft.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8'))
        for draft, path in drafts.items():
            if path.is_dir():
                raise ValueError(f'{path}: is a folder')
            if not overwrite and path.exists() and not filecmp.cmp(draft, path, shallow=False):
                raise ValueError(f'{path}: is there with other contents, which only --force overwrites')
        for draft, path in drafts.items():
            os.replace(draft, path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def read_json(path):
    """What a json file holds.

    Raises:
        ValueError: it is missing, no file, or no json; the message names it.
    """
    collects = gc.isenabled()
    gc.disable()  # or it looks again and again through what is read: half of the time with COCO's annotations
    try:
        # From bytes: a byte order mark and UTF-16 are read too.
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise ValueError(f'{path}: no such file') from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: cannot be read: {getattr(error, "strerror", None) or error}') from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: is no valid json: {error}') from None
    finally:
        if collects:
            gc.enable()


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
            for field in needed:
                if not isinstance(entry, dict) or field not in entry:
                    raise ValueError(f'{path}: `{name}[{place}]` has no `{field}`')
                if not _VALID[field](entry[field]):
                    raise ValueError(
                        f'{path}: `{name}[{place}].{field}` is {entry[field]!r}; expected {_EXPECTED[field]}'
                    )
    for name, field in (
        ('images', 'id'),
        ('images', 'file_name'),
        ('categories', 'id'),
        ('categories', 'name'),
        ('annotations', 'id'),
    ):
        values = [entry[field] for entry in coco[name] if _is_id(entry.get(field))]
        if len(set(values)) < len(values):
            value, times = Counter(values).most_common(1)[0]
            raise ValueError(f'{path}: `{name}` has the {field} {value!r} {times} times')
    images, categories = ({entry['id'] for entry in coco[name]} for name in ('images', 'categories'))
    for place, annotation in enumerate(coco['annotations']):
        for field, known in (('image_id', images), ('category_id', categories)):
            if annotation[field] not in known:
                raise ValueError(f'{path}: `annotations[{place}].{field}` is {annotation[field]!r}, which is not there')
    return coco


def _is_id(value) -> bool:
    return isinstance(value, (int, str, float)) and not isinstance(value, bool) and value == value


def _is_name(value) -> bool:
    return isinstance(value, str) and value != ''


def _is_box(value) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_finite, value)) and min(value[2:]) >= 0


def _finite(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


_VALID = dict(id=_is_id, image_id=_is_id, category_id=_is_id, file_name=_is_name, name=_is_name, bbox=_is_box)
_EXPECTED = {
    **dict.fromkeys(('id', 'image_id', 'category_id'), 'a number'),
    **dict.fromkeys(('file_name', 'name'), 'a name'),
    'bbox': '[x, y, width, height]',
}


def _kind(value) -> str:
    return 'nothing' if value is None else type(value).__name__
