"""Read the text file that names the images known to show no object. Standard library only."""

import codecs
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from mmyolo_bgpenalty.utils.files import NAMED, printable


def read_names(path) -> list[str]:
    """The lines of a file, without blank lines.

    Raises:
        ValueError: the file cannot be read, has a zero byte (as UTF-16 has), or names no image.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f'{path}: {error.strerror}') from None
    if b'\0' in content:
        raise ValueError(f'{path}: is not UTF-8 text')
    # A file name need not be valid UTF-8. fsdecode keeps its bytes.
    lines = map(bytes.strip, content.removeprefix(codecs.BOM_UTF8).split(b'\n'))
    names = [os.fsdecode(line) for line in lines if line]
    if not names:
        raise ValueError(f'{path}: names no image')
    return names


def is_known_empty(sample) -> bool:
    """Whether the image of a data sample is known to show no object."""
    return bool(sample.metainfo.get('known_empty', False))


def places_of(names: Sequence[str], paths: Iterable[str], folder: str = '') -> list[int]:
    """The indices in ``paths`` of the images that ``names`` lists.

    Args:
        names: paths relative to ``folder``. A name with '/' at its end is a folder and names all images in it.
        paths: paths of images. Like ``folder``, they are absolute or relative to the working directory.

    Raises:
        ValueError: a name matches no image. The message lists the first of these names.
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
            f"Expected image names relative to {folder or 'the working directory'}, folders with '/' at the end, but "
            f'{len(lacking)} of {len(targets)} names match no image of the set: {first}'
        )
    return found
