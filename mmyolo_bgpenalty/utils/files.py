"""Reading COCO json, looking at image files, and writing files whole. Standard library only."""

import filecmp
import gc
import json
import os
import re
import stat
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Iterable, List, Mapping, Sequence, Tuple, Union

NO_FILE = 'no file'  # but a folder, a pipe or the like
NAMED = 10  # of many faults a message names the first
MOST_IN_FP32 = 3.4e38  # of which models have their boxes
MOST_NESTED = 100  # lists and objects within each other: what json can still read, copying and pickling may not


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
            draft = path.with_name(f'.{uuid.uuid4().hex}{path.suffix}.tmp')
            drafts[draft] = path
            # Not write_text, which ends lines as the system does.
            draft.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8'))
            with draft.open('rb+') as file:
                os.fsync(file.fileno())  # or a power cut may leave the new name without its contents
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
        ValueError: it is missing, no file, no json, or nested deeper than ``MOST_NESTED``; the message names it.
    """
    collects = gc.isenabled()
    gc.disable()  # or it looks again and again through what is read: half of the time with COCO's annotations
    try:
        # From bytes: a byte order mark and UTF-16 are read too.
        content = Path(path).read_bytes()
        value = json.loads(content)
        if _may_be_deep(content) and _is_deep(value):
            raise ValueError(f'it is nested deeper than {MOST_NESTED} levels')
        return value
    except FileNotFoundError:
        raise ValueError(f'{path}: no such file') from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: cannot be read: {_reason(error)}') from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: is no valid json: {error}') from None
    finally:
        if collects:
            gc.enable()


def _may_be_deep(content: bytes) -> bool:
    """Whether brackets are left when the innermost pairs are taken out again and again; those in names may be, too."""
    brackets = content.translate(None, _NO_BRACKETS)
    for _ in range(MOST_NESTED):
        if not brackets:
            return False
        brackets = _PAIR.sub(b'', brackets)
    return bool(brackets)


_PAIR = re.compile(rb'\[\]|\{\}')
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}'))


def _is_deep(value) -> bool:
    level = [value]
    for _ in range(MOST_NESTED):
        inside = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in inside if isinstance(inner, (list, dict))]
    return bool(level)


def read_coco(path, training: bool = False) -> dict:
    """A COCO detection set: a dict with the lists ``images``, ``categories`` and ``annotations`` ([] if absent).

    Args:
        path: the json file.
        training: check also what MMDetection and pycocotools read: an image's ``width`` and ``height``, an annotation's
            ``id`` and ``area``, and that the ids of a list, which are sorted, are all numbers or all texts.

    Raises:
        ValueError: names the file and the field, and counts: no json, a list that is missing or empty (``images``,
            ``categories``), an entry without its fields, an id or file name that comes twice, an annotation of
            an unknown image or category, a box or area that is not of finite numbers with a size >= 0, an image's
            size that is not of finite numbers >= 1, or a flag (``iscrowd``, ``ignore``) that is neither 0 nor 1.
    """
    coco = read_json(path)
    if not isinstance(coco, dict):
        raise ValueError(f'{path}: expected an object with `images`, `annotations` and `categories`')
    coco.setdefault('annotations', [])
    for name, needed in _NEEDED.items():
        entries = coco.get(name)
        if not isinstance(entries, list):
            raise ValueError(f'{path}: expected a list `{name}`, but got {_kind(entries)}')
        if not entries and name != 'annotations':
            raise ValueError(f'{path}: `{name}` is empty')
        strange = [place for place, entry in enumerate(entries) if not isinstance(entry, dict)]
        if strange:
            raise ValueError(f'{path}: `{name}[{strange[0]}]` has no `{needed[0]}`{_and_more(strange)}')
        needed = (*needed, *_READ_IN_TRAINING.get(name, ())) if training else needed
        for field in needed:
            lacking = [place for place, entry in enumerate(entries) if field not in entry]
            if lacking:
                raise ValueError(f'{path}: `{name}[{lacking[0]}]` has no `{field}`{_and_more(lacking)}')
        for field in (*needed, *_OPTIONAL.get(name, ())):
            valid, expected = _VALID[field]
            wrong = [place for place, entry in enumerate(entries) if field in entry and not valid(entry[field])]
            if wrong:
                raise ValueError(
                    f'{path}: `{name}[{wrong[0]}].{field}` is {_shown(entries[wrong[0]][field])}; '
                    f'expected {expected}{_and_more(wrong)}'
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
            repeated = [(value, times) for value, times in Counter(values).most_common() if times > 1]
            value, times = repeated[0]
            raise ValueError(
                f'{path}: `{name}` has the {field} {_shown(value)} {times} times'
                + (f', and {len(repeated) - 1} others more than once' if len(repeated) > 1 else '')
            )
    for name in _NEEDED if training else ():
        texts = [isinstance(entry['id'], str) for entry in coco[name]]
        if any(texts) and not all(texts):
            place = texts.index(not texts[0])
            raise ValueError(
                f'{path}: `{name}[{place}].id` is {_shown(coco[name][place]["id"])}; expected '
                f'a {"text" if texts[0] else "number"}, as `{name}[0].id`'
            )
    images, categories = ({entry['id'] for entry in coco[name]} for name in ('images', 'categories'))
    for field, known in (('image_id', images), ('category_id', categories)):
        unknown = [place for place, annotation in enumerate(coco['annotations']) if annotation[field] not in known]
        if unknown:
            value = coco['annotations'][unknown[0]][field]
            raise ValueError(
                f'{path}: `annotations[{unknown[0]}].{field}` is {_shown(value)}, which is not there'
                f'{_and_more(unknown)}'
            )
    return coco


def numbered_classes(coco: Mapping, classes: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Those of ``classes`` that a set's categories have, by label, as MMDetection numbers them; and what they lack.

    Labels are wrong where something is lacking and the first are not the first of ``classes``, too.
    """
    found = [category['name'] for category in coco['categories'] if category['name'] in classes]
    return found, [name for name in classes if name not in found]


def printable(text) -> str:
    """A text with its lone surrogates, as in names of files that are no text, escaped: it can be logged and printed."""
    return str(text).encode('utf-8', 'backslashreplace').decode()


def image_fault(path, look_inside: bool = True) -> str:
    """Why an image cannot be read or is not whole, so far as that is known without decoding it; '' if it seems good.

    Args:
        path: of a local file.
        look_inside: open it too, which takes longer where the disk does not know it yet.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return NO_FILE
        if not status.st_size:
            return 'empty'
        if look_inside:
            with open(path, 'rb') as file:
                if file.read(2) == _JPEG_STARTS and _is_cut_off(file, status.st_size):
                    return 'cut off: a JPEG without its end'
    except (OSError, ValueError) as error:
        return _reason(error)
    return ''


_JPEG_STARTS, _JPEG_ENDS = b'\xff\xd8', b'\xff\xd9'


def _is_cut_off(file, size: int) -> bool:
    """Whether a JPEG's last scan does not end. OpenCV before 5 decodes such a file, and leaves the rest grey."""
    file.seek(max(0, size - 64))
    if file.read().rstrip(b'\0\r\n').endswith(_JPEG_ENDS):
        return False
    # Something may follow the image; a preview before it has an end of its own.
    file.seek(0)
    content, place = file.read(), 2
    while 0 <= place < len(content) - 1:
        marker = content[place : place + 2]
        if marker == _JPEG_ENDS:
            return False
        if content[place] != 0xFF or len(content) < place + 4:
            return True
        length = int.from_bytes(content[place + 2 : place + 4], 'big')
        place += 2 + length
        if marker == b'\xff\xda':
            ends = _NEXT_MARKER.search(content, place)
            if not ends:
                return True
            place = ends.start()
    return True


# In a scan 0xff is followed by 0, a restart marker or another 0xff.
_NEXT_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')


def _is_id(value) -> bool:
    return isinstance(value, (int, str, float)) and not isinstance(value, bool) and value == value


def _is_name(value) -> bool:
    return isinstance(value, str) and value != '' and printable(value) == value


def _is_file_name(value) -> bool:
    try:
        return isinstance(value, str) and os.fsencode(value) != b''  # it may be no text, as the system's names
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


_NEEDED = dict(images=('id', 'file_name'), categories=('id', 'name'), annotations=('image_id', 'category_id', 'bbox'))
_READ_IN_TRAINING = dict(images=('width', 'height'), annotations=('id', 'area'))
_OPTIONAL = dict(annotations=('iscrowd', 'ignore'))
_VALID = {
    **dict.fromkeys(('id', 'image_id', 'category_id'), (_is_id, 'a number')),
    'file_name': (_is_file_name, 'a name'),
    'name': (_is_name, 'a name'),
    'bbox': (_is_box, '[x, y, width, height]'),
    'area': (lambda value: _finite(value) and value >= 0, 'a finite number >= 0'),
    **dict.fromkeys(('width', 'height'), (lambda value: _finite(value) and value >= 1, 'a finite number >= 1')),
    **dict.fromkeys(('iscrowd', 'ignore'), (_is_flag, '0 or 1')),
}


def _kind(value) -> str:
    return 'nothing' if value is None else type(value).__name__


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)


def _shown(value) -> str:
    """A value in a message, cut where it is long."""
    try:
        text = repr(value)
    except RecursionError:
        text = f'a nested {type(value).__name__}'
    return text if len(text) <= 200 else f'{text[:200]}…'


def _and_more(places: Sequence[int]) -> str:
    """Of the first of ``places`` a message speaks already."""
    if len(places) == 1:
        return ''
    rest = ', '.join(map(str, places[1:NAMED]))
    return f' (and {len(places) - 1} more: {rest}{", …" if len(places) > NAMED else ""})'
