"""Labeled pictures in memory. They are the same whatever format their labels had."""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

from mmyolo_bgpenalty.utils.image_files import image_fault, opened_header, orientation_of


class Picture(NamedTuple):
    """A picture that can be read. Its size is the size after the EXIF orientation, as OpenCV loads it."""

    path: str  # absolute
    width: int
    height: int
    orientation: int  # of EXIF, 1 to 8


class Box(NamedTuple):
    """A box in pixels. Training and evaluation ignore the place of an ``ignored`` box."""

    name: str  # of its class
    x: float
    y: float
    width: float
    height: float
    ignored: bool = False


@dataclass
class LabeledSet:
    """Pictures with boxes, and what was left out.

    Attributes:
        kind: name of the format.
        source: the file or folder that was read.
        classes: names of the classes.
        boxes: the boxes of each picture.
        notes: what was left out or changed: what happened -> the names of the files.
    """

    kind: str
    source: str
    classes: list[str]
    boxes: dict[Picture, list[Box]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, name: str) -> None:
        self.notes.setdefault(what, []).append(name)

    def add_picture(self, path: str, stated: tuple[int, int] | None = None) -> Picture | None:
        """Add a picture without boxes. None if it cannot be read, or its size is not ``stated`` (width, height)."""
        try:
            picture = read_picture(path)
        except ValueError as error:
            self.note('pictures that cannot be read', f'{os.path.basename(path)}: {error}')
            return None
        size = picture.width, picture.height
        if stated and stated not in (size, size[::-1] if picture.orientation > 4 else size):
            text = '{}: {} x {}, but its label says {} x {}'.format(os.path.basename(path), *size, *stated)
            self.note('pictures with another size than in their label', text)
            return None
        self.boxes.setdefault(picture, [])
        return picture

    def add_box(self, picture: Picture, box: Box, where: str, stated: tuple[int, int] | None = None) -> None:
        """Add a box. It is cut at the edge of the picture. A box with a side below 1 pixel is left out.

        Args:
            where: the file to name if the box is left out or cut.
            stated: (width, height) of the picture that the box was made for. If they are swapped, the box was made
                before the EXIF orientation, and it is turned.
        """
        if stated and stated != (picture.width, picture.height):
            box = turned(box, stated, picture.orientation)
        x, y = max(box.x, 0.0), max(box.y, 0.0)
        right, bottom = min(box.x + box.width, picture.width), min(box.y + box.height, picture.height)
        if right <= x or bottom <= y:
            what = 'boxes outside their picture, or without an area: left out'
        elif right - x < 1 or bottom - y < 1:
            what = 'boxes with a side below 1 pixel: left out'
        else:
            what = ''
            # Rounding errors of relative coordinates are no fault.
            if max(x - box.x, y - box.y, box.x + box.width - right, box.y + box.height - bottom) > 1:
                what = 'boxes that reach beyond their picture: cut at its edge'
            width, height = right - x, bottom - y
            self.boxes[picture].append(box._replace(x=x, y=y, width=width, height=height))
        if what:
            self.note(what, where)


def read_picture(path: str) -> Picture:
    """Read size and orientation from the header of a picture.

    Raises:
        ValueError: the file cannot be read. The message is the reason.
    """
    fault = image_fault(path)
    if fault:
        raise ValueError(fault)
    try:
        with opened_header(path) as image:
            (width, height), orientation = image.size, orientation_of(image)
    except Exception as error:  # Pillow's readers raise many kinds for broken files
        raise ValueError('no picture, or a broken header') from error
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return Picture(os.path.abspath(path), width, height, orientation)


def turned(box: Box, stored: tuple[int, int], orientation: int) -> Box:
    """Turn a box by EXIF orientation 5 to 8. ``stored`` is (width, height) of the picture before the turn."""
    x, y, width, height = box[1:5]
    left = y if orientation in (5, 8) else stored[1] - y - height
    top = x if orientation in (5, 6) else stored[0] - x - width
    return box._replace(x=left, y=top, width=height, height=width)


def check_names(source: str, names: list[str]) -> list[str]:
    """Return the class names.

    Raises:
        ValueError: there is no name, or a name is empty or occurs twice.
    """
    if not names or not all(name.strip() for name in names):
        raise ValueError(f'{source}: Expected one or more class names, none of them empty, but got {names}')
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'{source}: Expected each class once, but got {", ".join(twice)} more than once in {names}')
    return names
