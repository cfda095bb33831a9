"""List image files, and check them without decoding them."""

import array
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmyolo_bgpenalty.utils.files import NAMED, printable, reason

# Formats that not every build of OpenCV has. Most builds that read one also write it.
_BUILT_IN = dict(avif=['.avif'], gif=['.gif'], jp2=['.jp2', '.j2k', '.j2c', '.jpc', '.jpf', '.jpx'])
EXTENSIONS = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.png', '.bmp', '.tif', '.tiff', '.webp'),
    *('.pbm', '.pgm', '.ppm', '.pnm'),
    *(name for kind, names in _BUILT_IN.items() if cv2.haveImageWriter(f'.{kind}') for name in names),
)
_SUFFIXES = tuple(extension.encode() for extension in EXTENSIONS)
# Files beside images that nobody takes for an image.
_NO_IMAGES = (
    *('.txt', '.json', '.xml', '.csv', '.tsv', '.yaml', '.yml', '.md', '.cache', '.npy', '.npz', '.zip', '.db'),
    *('.ini', '.html', '.pdf', '.py', '.log'),
)


def list_images(folder: str, left_out: Counter | None = None) -> tuple[np.ndarray, np.ndarray]:
    """List the images in a folder and its sub-folders.

    Names that begin with a dot are left out. Links are followed, but no folder is entered twice. The paths are sorted
    by their bytes, so the order does not depend on the file system or the locale.

    Args:
        left_out: counts the files that may be images, but have no extension of ``EXTENSIONS``, see ``not_read``.

    Returns:
        All paths relative to ``folder``, joined as bytes, uint8; and the index at which each path ends, int64.

    Raises:
        OSError: a folder cannot be listed.
    """
    paths, ends = bytearray(), array.array('q')
    # A link may also lead to a folder that contains ``folder``.
    entered = {os.fsencode(parent) for parent in Path(os.path.realpath(folder)).parents}
    for path in _images(os.fsencode(folder), b'', entered, Counter() if left_out is None else left_out):
        paths += path
        ends.append(len(paths))
    return np.frombuffer(paths, dtype=np.uint8), np.frombuffer(ends, dtype=np.int64)


def _images(root: bytes, prefix: bytes, entered: set[bytes], left_out: Counter) -> Iterator[bytes]:
    folder = os.path.realpath(os.path.join(root, prefix))
    if folder in entered:
        return
    entered.add(folder)
    with os.scandir(folder) as entries:
        names = sorted(_name(entry, left_out) for entry in entries)
    for name in names:
        if name.endswith(b'/'):
            yield from _images(root, prefix + name, entered, left_out)
        elif name:
            yield prefix + name


def _name(entry: os.DirEntry, left_out: Counter) -> bytes:
    """The name of an image, or the name of a folder plus '/'. Empty for anything else."""
    name = entry.name
    try:
        if name.startswith(b'.'):
            return b''
        if name.lower().endswith(_SUFFIXES) and entry.is_file():
            return name
        if entry.is_dir():
            return name + b'/'
        extension = os.fsdecode(os.path.splitext(name)[1].lower())
        if extension not in _NO_IMAGES:
            left_out[extension] += 1
        return b''
    except OSError:  # a link to itself
        return b''


def not_read(left_out: Counter) -> str:
    """The counts of ``list_images`` as a text, such as '3 files are not read as images (2 .heic, 1 .dng)', or ''."""
    if not left_out:
        return ''
    kinds = [f'{number} {extension or "without an extension"}' for extension, number in left_out.most_common()]
    listed = ', '.join(kinds[:NAMED]) + (', …' if len(kinds) > NAMED else '')
    number = left_out.total()
    return printable(f'{number} file{"s are" if number > 1 else " is"} not read as images ({listed})')


def image_names(folder, left_out: Counter | None = None) -> list[str]:
    """The paths of ``list_images``, relative to ``folder``."""
    paths, ends = list_images(folder, left_out)
    return [os.fsdecode(paths[start:end].tobytes()) for start, end in zip([0, *ends[:-1]], ends)]


def image_paths(folder) -> list[str]:
    """The paths of ``list_images``, joined with ``folder``."""
    return [os.path.join(folder, name) for name in image_names(folder)]


NO_FILE = 'not a regular file'  # for example, a folder or a pipe
TOO_LARGE = 'too large'  # its pixels could fill the memory
MOST_PIXELS = 2**28  # of an image whose size no json file states: 0.8 GB as 8-bit RGB
_ORIENTATION = 0x0112  # tag of EXIF


def image_fault(path, look_inside: bool = True, most_pixels: float = MOST_PIXELS) -> str:
    """Why an image file cannot be read or is incomplete; '' if no fault is found.

    Args:
        path: a local file.
        look_inside: also read the file, which takes longer.
        most_pixels: an image with more of them counts as too large, with ``look_inside``.
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
                if head[:2] == JPEG_STARTS and _is_cut_off(file, status.st_size):
                    return 'truncated JPEG'
                if head == _PNG_STARTS and not _has_png_end(file, status.st_size):
                    return 'truncated PNG'
            width, height = image_size(path) or (0, 0)
            if width * height > most_pixels:
                return f'{TOO_LARGE}: {width} x {height} pixels. Cut it into tiles'
    except (OSError, ValueError) as error:
        return reason(error)
    return ''


def size_fault(loaded: Sequence[float], stated: Sequence[float]) -> str:
    """The fault of an image with boxes whose loaded (height, width) is not the one in its json file. '' if it is."""
    if tuple(loaded) == tuple(stated):
        return ''
    fault = 'it is {1} x {0}, but its annotation says {3} x {2}'.format(*loaded, *stated)
    return fault + '; its EXIF orientation may rotate it' * (tuple(loaded) == tuple(stated)[::-1])


@contextmanager
def opened_header(path) -> Iterator[Image.Image]:
    """A Pillow image, to read its header. Its size may be any: ``image_fault`` has a limit, in place of Pillow's."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        image = Image.open(path)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. ``image.getexif()`` also takes XMP data, which OpenCV ignores."""
    exif = Image.Exif()
    exif.load(image.info.get('exif') or b'')
    return exif.get(_ORIENTATION, 1)


def image_size(path) -> tuple[int, int] | None:
    """Width and height in the header of a local file, before EXIF turns the image. None: Pillow cannot read it."""
    try:
        with opened_header(path) as image:
            return image.size
    except Exception:  # Pillow's readers raise many kinds of errors. OpenCV may still read the file
        return None


JPEG_STARTS = b'\xff\xd8'
_JPEG_ENDS = b'\xff\xd9'


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
