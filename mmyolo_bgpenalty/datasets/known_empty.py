"""Images that are known to show no object, named in a text file. Standard library only."""

import codecs
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmyolo_bgpenalty.utils.files import NAMED, printable


def read_names(path) -> list[str]:
    """The file's lines, less blank ones; '/' at the end is a folder, of which all images are meant.

    Raises:
        ValueError: the file cannot be read, is no text (or UTF-16), or names nothing.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f'{path}: {error.strerror}') from None
    if b'\0' in content:
        raise ValueError(f'{path}: is no UTF-8 text')
    # As the system has names, whose bytes need not be UTF-8.
    lines = content[3 if content.startswith(codecs.BOM_UTF8) else 0 :].split(b'\n')
    names = [os.fsdecode(line.strip()) for line in lines if line.strip()]
    if not names:
        raise ValueError(f'{path}: names no image')
    return names


def is_known_empty(sample) -> bool:
    """Whether a data sample's meta says so, as that of LabeledUnlabeledDataset's ``known_empty`` does."""
    return bool(sample.metainfo.get('known_empty', False))


def places_of(names: Sequence[str], paths: Iterable[str], folder: str = '') -> list[int]:
    """Which of ``paths`` are among ``names``.

    Args:
        names: paths relative to ``folder``; those that end with '/' are folders.
        paths: images, as ``folder`` absolute or relative to the working directory.

    Raises:
        ValueError: a name is none of an image; the message has the first of them.
    """
    whole = {name: os.path.normpath(os.path.join(folder, name)) for name in names}
    files = {path for name, path in whole.items() if not name.endswith('/')}
    folders = {path for name, path in whole.items() if name.endswith('/')}
    found: list[int] = []
    met: set[str] = set()
    for place, path in enumerate(map(os.path.normpath, paths)):
        hits = {path} & files
        if folders:
            hits |= {*_parents(path)} & folders
        if hits:
            met |= hits
            found.append(place)
    lacking = [name for name, path in whole.items() if path not in met]
    if lacking:
        first = printable(', '.join(lacking[:NAMED])) + (', …' if len(lacking) > NAMED else '')
        raise ValueError(
            f'{len(lacking)} of {len(whole)} names are of no image of the set: {first}. Expected names relative to '
            f"{folder or 'the set'}, with '/' at the end of folders, of images that the set has (`filter_cfg` and "
            '`indices` may leave some out)'
        )
    return found


def _parents(path: str) -> Iterable[str]:
    while path not in ('', '.', os.path.dirname(path)):
        path = os.path.dirname(path) or '.'
        yield path
