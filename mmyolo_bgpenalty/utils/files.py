"""Read json files, and write files completely or not at all. Standard library only."""

import filecmp
import gc
import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

NAMED = 10  # largest number of faults that a message lists


def write_whole(path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to a file, completely or not at all. Make its folder."""
    write_together([(path, content)], overwrite=True)


def write_together(files: Iterable[tuple[str | Path, str | bytes]], overwrite: bool = False) -> None:
    """Write (path, content) pairs under temporary names. Rename the files when all are complete.

    Raises:
        ValueError: a path is a folder, or it exists with other contents and ``overwrite`` is False. No file changes.
        OSError: a file cannot be written (no file changes) or renamed (files renamed before it have changed).
    """
    drafts = {}
    try:
        for path, content in files:
            path = Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f'.{uuid.uuid4().hex}{path.suffix}.tmp')
            drafts[draft] = path
            # Bytes, because write_text changes line endings on some systems.
            draft.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8'))
            with draft.open('rb+') as file:
                os.fsync(file.fileno())  # otherwise a power failure may leave an empty file with the new name
        for draft, path in drafts.items():
            if path.is_dir():
                raise ValueError(f'{path}: is a folder')
            if not overwrite and path.exists() and not filecmp.cmp(draft, path, shallow=False):
                raise ValueError(f'{path}: exists with other contents; use --force to overwrite it')
        for draft, path in drafts.items():
            os.replace(draft, path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def read_json(path):
    """The content of a json file.

    Raises:
        ValueError: the file cannot be read, or is not valid json.
    """
    collects = gc.isenabled()
    gc.disable()  # garbage collection would double the time for COCO's annotations
    try:
        return json.loads(Path(path).read_bytes())  # from bytes, json also reads UTF-16 and byte order marks
    except FileNotFoundError:
        raise ValueError(f'{path}: no such file') from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: cannot be read: {reason(error)}') from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: is not valid json: {error}') from None
    finally:
        if collects:
            gc.enable()


def printable(text) -> str:
    """Escape lone surrogates, which cannot be printed. Names of files have them where a byte is not valid UTF-8."""
    return str(text).encode('utf-8', 'backslashreplace').decode()


def reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)
