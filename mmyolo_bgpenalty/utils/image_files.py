"""List image files, and check them without decoding them. NumPy and the standard library only."""

import array
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmyolo_bgpenalty.utils.files import reason

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_SUFFIXES = tuple(extension.encode() for extension in EXTENSIONS)


def list_images(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """List the images in a folder and its sub-folders.

    Names that begin with a dot are left out. Links are followed, but no folder is entered twice. The paths are sorted
    by their bytes, so the order does not depend on the file system or the locale.

    Returns:
        All paths relative to ``folder``, joined as bytes, uint8; and the index at which each path ends, int64.

    Raises:
        OSError: a folder cannot be listed.
    """
    paths, ends = bytearray(), array.array('q')
    # A link may also lead to a folder that contains ``folder``.
    entered = {os.fsencode(parent) for parent in Path(os.path.realpath(folder)).parents}
    for path in _images(os.fsencode(folder), b'', entered):
        paths += path
        ends.append(len(paths))
    return np.frombuffer(paths, dtype=np.uint8), np.frombuffer(ends, dtype=np.int64)


def _images(root: bytes, prefix: bytes, entered: set[bytes]) -> Iterator[bytes]:
    folder = os.path.realpath(os.path.join(root, prefix))
    if folder in entered:
        return
    entered.add(folder)
    with os.scandir(folder) as entries:
        names = sorted(map(_name, entries))
    for name in names:
        if name.endswith(b'/'):
            yield from _images(root, prefix + name, entered)
        elif name:
            yield prefix + name


def _name(entry: os.DirEntry) -> bytes:
    """The name of an image, or the name of a folder plus '/'. Empty for anything else."""
    name = entry.name
    try:
        if name.startswith(b'.'):
            return b''
        if name.lower().endswith(_SUFFIXES) and entry.is_file():
            return name
        return name + b'/' if entry.is_dir() else b''
    except OSError:  # a link to itself
        return b''


def image_names(folder) -> list[str]:
    """The paths of ``list_images``, relative to ``folder``."""
    paths, ends = list_images(folder)
    return [os.fsdecode(paths[start:end].tobytes()) for start, end in zip([0, *ends[:-1]], ends)]


def image_paths(folder) -> list[str]:
    """The paths of ``list_images``, joined with ``folder``."""
    return [os.path.join(folder, name) for name in image_names(folder)]


NO_FILE = 'not a regular file'  # for example, a folder or a pipe


def image_fault(path, look_inside: bool = True) -> str:
    """Why an image file cannot be read or is incomplete; '' if no fault is found.

    Args:
        path: a local file.
        look_inside: also read the file, which takes longer.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return NO_FILE
        if not status.st_size:
            return 'empty'
        if look_inside:
            with open(path, 'rb') as file:
                head = file.read(8)
                if head[:2] == _JPEG_STARTS and _is_cut_off(file, status.st_size):
                    return 'truncated JPEG'
                if head == _PNG_STARTS and not _has_png_end(file, status.st_size):
                    return 'truncated PNG'
    except (OSError, ValueError) as error:
        return reason(error)
    return ''


def size_fault(loaded: Sequence[float], stated: Sequence[float]) -> str:
    """The fault of an image with boxes whose loaded (height, width) is not the one in its json file. '' if it is."""
    if tuple(loaded) == tuple(stated):
        return ''
    fault = 'it is {1} x {0}, but its annotation says {3} x {2}'.format(*loaded, *stated)
    return fault + '; its EXIF orientation may rotate it' * (tuple(loaded) == tuple(stated)[::-1])


_JPEG_STARTS, _JPEG_ENDS = b'\xff\xd8', b'\xff\xd9'


def _is_cut_off(file, size: int) -> bool:
    """Whether a JPEG is truncated. OpenCV 4 decodes such a file and leaves the rest grey."""
    file.seek(max(0, size - 64))
    if file.read().rstrip(b'\0\r\n').endswith(_JPEG_ENDS):
        return False
    # Other data may follow the image, and a preview in its header has an end marker too. So read segment by segment.
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


# Inside a scan, 0xff is followed by 0, a restart marker or another 0xff.
_NEXT_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')

_PNG_STARTS = b'\x89PNG\r\n\x1a\n'


def _has_png_end(file, size: int) -> bool:
    file.seek(max(0, size - 64))
    if b'IEND' in file.read():
        return True
    file.seek(len(_PNG_STARTS))  # other data may follow the image, so go from chunk to chunk
    while len(header := file.read(8)) == 8:
        if header[4:] == b'IEND':
            return True
        file.seek(int.from_bytes(header[:4], 'big') + 4, os.SEEK_CUR)
    return False
