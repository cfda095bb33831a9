"""A text file names the images that are known to show no object. Standard library only."""

import codecs
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from mmyolo_bgpenalty.utils.files import NAMED, printable


def read_names(path) -> list[str]:
    """The lines of a file, without blank lines.

    Raises:
        ValueError: the file cannot be read, is no UTF-8 text, or names nothing.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f'{path}: {error.strerror}') from None
    if b'\0' in content:
        raise ValueError(f'{path}: is no UTF-8 text')
    # File names are bytes that need not be UTF-8, so no line is decoded as UTF-8.
    lines = map(bytes.strip, content.removeprefix(codecs.BOM_UTF8).split(b'\n'))
    names = [os.fsdecode(line) for line in lines if line]
    if not names:
        raise ValueError(f'{path}: names no image')
    return names


def is_known_empty(sample) -> bool:
    """Whether the image of a data sample is known to show no object."""
    return bool(sample.metainfo.get('known_empty', False))


def places_of(names: Sequence[str], paths: Iterable[str], folder: str = '') -> list[int]:
    """The indices of the ``paths`` that ``names`` name.

    Args:
        names: paths relative to ``folder``. A name with '/' at its end is a folder and names all images in it.
        paths: paths of images, absolute or relative to the working directory, as ``folder`` is.

    Raises:
        ValueError: a name fits no image. The message contains the first such names.
    """
    targets = {name: os.path.normpath(os.path.join(folder, name)) for name in names}
    files = {path for name, path in targets.items() if not name.endswith('/')}
    folders = {path for name, path in targets.items() if name.endswith('/')}
    found: list[int] = []
    used: set[str] = set()
    for place, path in enumerate(map(os.path.normpath, paths)):
        hits = files & {path}
        if folders:
            hits |= folders.intersection(map(str, PurePath(path).parents))
        if hits:
            used |= hits
            found.append(place)
    lacking = [name for name, path in targets.items() if path not in used]
    if lacking:
        first = printable(', '.join(lacking[:NAMED])) + (', …' if len(lacking) > NAMED else '')
        raise ValueError(
            f"Expected names of images relative to {folder or 'the set'}, folders with '/' at the end, but "
            f'{len(lacking)} of {len(targets)} names fit no image of the set: {first}'
        )
    return found
