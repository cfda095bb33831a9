"""Reading COCO json, looking at image files, and writing files whole. Standard library only."""

import filecmp
import gc
import json
import os
import re
import uuid
from pathlib import Path
from typing import Iterable, Tuple, Union

NAMED = 10  # of many faults a message names the first
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
        raise ValueError(f'{path}: cannot be read: {reason(error)}') from None
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


def printable(text) -> str:
    """A text with its lone surrogates, as in names of files that are no text, escaped: it can be logged and printed."""
    return str(text).encode('utf-8', 'backslashreplace').decode()


def reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)
