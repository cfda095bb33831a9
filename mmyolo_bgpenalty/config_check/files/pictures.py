"""What the header of a picture says: its size as it is loaded, its EXIF orientation, its bits."""

from typing import NamedTuple

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile

from mmyolo_bgpenalty.datasets.reduced_images import LoadReducedImage
from mmyolo_bgpenalty.utils.image_files import opened_header, orientation_of

BITS = 258  # tag of TIFF
FEW_LEVELS = 32
LOADERS = {LoadImageFromFile.__name__, LoadReducedImage.__name__}


class Loader(NamedTuple):
    """How a pipeline loads pictures. ``turns``: by their EXIF orientation. ``eight_bits``: as 8 bits a channel."""

    turns: bool
    eight_bits: bool


class Header(NamedTuple):
    size: tuple[int, int]  # height and width as loaded
    orientation: int  # of EXIF. 1: as stored
    bits: int  # of a channel


def loader_of(kind: type | None, color_type: str = 'color', imdecode_backend: str | None = 'cv2') -> Loader | None:
    """How LoadImageFromFile or LoadReducedImage loads pictures. None if it is another class or does not use OpenCV."""
    if kind is None or kind.__name__ not in LOADERS or imdecode_backend not in (None, 'cv2'):
        return None
    return Loader('ignore_orientation' not in color_type and color_type != 'unchanged', color_type != 'unchanged')


def read_header(path: str, loader: Loader) -> Header | None:
    """The header of a picture. None if Pillow cannot read it."""
    try:
        with opened_header(path) as picture:
            (width, height), orientation, kind = picture.size, orientation_of(picture), picture.format
            bits = 16 if picture.mode.startswith('I;16') else max(getattr(picture, 'tag_v2', {}).get(BITS, (8,)))
        if kind == 'PNG':
            with open(path, 'rb') as file:
                bits = file.read(25)[24]
        size = (height, width)
        if orientation >= 5 and loader.turns:  # OpenCV's version decides for other formats
            size = (width, height) if kind in ('JPEG', 'MPO') else cv2.imread(path).shape[:2]  # type: ignore[union-attr]
        return Header(size, orientation if loader.turns else 1, bits)
    except Exception:  # Pillow raises errors of many types. Another check reports files that cannot be read.
        return None


def lost_levels(path: str) -> str:
    """Says how few grey levels a 16-bit picture keeps as 8 bits. '' if it keeps enough."""
    stored = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16:
        return ''
    before, after = (len(np.unique(values)) for values in (stored, stored // 256))
    return f'{path}, {after} of {before} grey levels' if after <= FEW_LEVELS and before > 2 * after else ''
