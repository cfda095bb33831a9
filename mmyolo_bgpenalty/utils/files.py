"""Read json files, write files completely or not at all, and lock folders. Standard library only."""

import filecmp
import gc
import json
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO

if sys.platform != 'win32':
    import fcntl

from mmyolo_bgpenalty.utils.arguments import is_meant

NAMED = 10  # largest number of faults that a message lists
LOCK = '.lock'  # file name of a lock
_held: dict[tuple[int, Path], IO[str]] = {}  # the locks of this process, by process and folder


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
            try:
                # Bytes, because write_text changes line endings on some systems.
                draft.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8'))
                with draft.open('rb+') as file:
                    os.fsync(file.fileno())  # otherwise a power failure may leave an empty file with the new name
            except OSError as error:  # that of a full disk names no file, others name the draft
                raise OSError(error.errno, error.strerror, str(path)) from None
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
        raise ValueError(f'{path}: no such file{is_meant(path)}') from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: cannot be read: {reason(error)}') from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: is not valid json: {error}') from None
    finally:
        if collects:
            gc.enable()


def lock_folder(folder: str | Path) -> None:
    """Lock a folder for this process, until ``unlock_folders`` or the end of the process. Make it if it is missing.

    The operating system frees the lock if the process is killed, and child processes do not inherit it. A process may
    lock a folder again. A file system without locks, and Windows, let every process pass.

    Raises:
        ValueError: another process holds the lock. The message names it.
        OSError: the file of the lock cannot be written.
    """
    folder = Path(folder).resolve()
    key = (os.getpid(), folder)  # a forked process inherits `_held`, but no lock
    folder.mkdir(parents=True, exist_ok=True)
    if key in _held or sys.platform == 'win32':
        return
    file = (folder / LOCK).open('a+', encoding='utf-8', errors='replace')
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        holder = ' '.join(file.read(200).split()) or 'another process'
        file.close()
        raise ValueError(
            f'Expected a folder that no other process uses, but {folder} is used by {holder}: wait until it has ended, '
            'or choose another --work-dir'
        ) from None
    except OSError:  # no locks on this file system
        file.close()
        return
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()} since {time.strftime("%Y-%m-%d %H:%M:%S")}\n')
    file.flush()
    _held[key] = file


def unlock_folders(*folders: str | Path) -> None:
    """Free the locks of this process on these folders, or all its locks if none is given. Their empty files stay."""
    named = {Path(folder).resolve() for folder in folders}
    for key in [key for key in _held if key[0] == os.getpid() and (not named or key[1] in named)]:
        file = _held.pop(key)
        file.truncate(0)
        file.close()


def printable(text) -> str:
    """A text in one line, without effect on a terminal, for names from files.

    It escapes line breaks and other control characters, marks that reverse the direction of the text, and lone
    surrogates. A file name has lone surrogates where a byte is not valid UTF-8.
    """
    return _UNSAFE.sub(_escaped, str(text))


def printable_lines(text) -> str:
    """``printable``, but tabs and line breaks stay. A line break before what looks like a log record is escaped."""
    lines = _RECORD_STARTS.sub(_escaped, str(text)).split('\n')
    return '\n'.join('\t'.join(map(printable, line.split('\t'))) for line in lines)


_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
_RECORD_STARTS = re.compile(r'\n(?=\s*(?:\d{4}[/-])?\d\d[/-]\d\d \d\d:\d\d)')


def _escaped(found: re.Match) -> str:
    return found[0].encode('unicode_escape').decode()


def reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)
