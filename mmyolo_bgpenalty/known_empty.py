"""Images that are known to show no object, named in a text file. Standard library only."""

import codecs
import os
from pathlib import Path
from typing import Iterable, List, Sequence, Set

from .files import NAMED, printable


def read_names(path) -> List[str]:
    """The file's lines, less blank ones; '/' at the end is a folder, of which all images are meant.

    Raises:
        ValueError: the file cannot be read, or names nothing.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f'{path}: {error.strerror}') from None
    # As the system has names, whose bytes need not be UTF-8.
    lines = content[3 if content.startswith(codecs.BOM_UTF8) else 0 :].split(b'\n')
    names = [os.fsdecode(line.strip()) for line in lines if line.strip()]
    if not names:
        raise ValueError(f'{path}: names no image')
    return names


def places_of(names: Sequence[str], paths: Iterable[str], folder: str = '') -> List[int]:
    """Which of ``paths`` are among ``names``.

    Args:
        names: paths relative to ``folder``; those that end with '/' are folders.
        paths: images, below ``folder`` if that is given.

    Raises:
        ValueError: a name is none of an image; the message has the first of them.
    """
    files: Set[str] = set()
    folders: Set[str] = set()
    met: Set[str] = set()
    found = []
    for name in names:
        (folders if name.endswith('/') else files).add(os.path.normpath(name))
    root = os.path.join(os.path.normpath(folder), '') if folder else ''
    for place, path in enumerate(paths):
        path = os.path.normpath(path)
        path = path[len(root) :] if path.startswith(root) else path
        hits = ({path} & files) | ({*_parents(path)} & folders if folders else set())
        if hits:
            met |= hits
            found.append(place)
    lacking = [name for name in names if os.path.normpath(name) not in met]
    if lacking:
        more = ', …' if len(lacking) > NAMED else ''
        raise ValueError(
            f'{len(lacking)} of {len(names)} names are of no image in {folder or "the set"}: '
            + printable(', '.join(lacking[:NAMED]) + more)
        )
    return found


def _parents(path: str) -> Iterable[str]:
    yield '.'
    for end, character in enumerate(path):
        if character == '/':
            yield path[:end]
