"""Draw detections and objects into pictures. Needs NumPy, matplotlib and Pillow."""

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from mmyolo_bgpenalty.evaluation.matching import Detections, Truth, assign_boxes
from mmyolo_bgpenalty.utils.files import printable, write_whole

HIT, FALSE, MISSED, IGNORED, WHITE = '#00e676', '#ff5a5a', '#ffea00', '#bdbdbd', '#ffffff'
# The colours of matplotlib without its greys: first the strong ones, then the light ones.
PALETTE = [to_hex(colormaps['tab20'](i)) for i in (*range(0, 20, 2), *range(1, 20, 2)) if i not in (14, 15)]
SMALLEST = 640  # smaller pictures are enlarged, so that their text can be read


class DrawnBox(NamedTuple):
    box: Sequence[float]  # x, y, width, height in pixels
    text: str
    colour: str
    dashed: bool = False


Title = Sequence[tuple[str, str]]  # texts and their colours


def predicted_boxes(found: Detections, classes: Sequence[str]) -> list[DrawnBox]:
    """Boxes with class and score, in a colour for each class."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    return [DrawnBox(b, f'{classes[k]} {score:.2f}', PALETTE[k % len(PALETTE)]) for b, score, k in rows]


def judged_boxes(
    found: Detections, truth: Truth, classes: Sequence[str], iou_thr: float = 0.5
) -> tuple[list[DrawnBox], Title]:
    """Detections and missed objects, coloured by ``match_boxes``, and a title with their numbers.

    Green: a hit, which is a detection that is matched to an object. Red: a false positive. Yellow and dashed: an object
    that is missed. Grey: an ignored box (dashed), or a detection that only matches ignored boxes.
    """
    objects, ignored = assign_boxes(found, truth, iou_thr)
    colours = np.select([objects >= 0, ignored], [HIT, IGNORED], FALSE).tolist()
    missed = np.setdiff1d(np.flatnonzero(~truth.ignored), objects)
    drawn = [DrawnBox(box, '', IGNORED, True) for box in truth.boxes[truth.ignored].tolist()]
    drawn += [DrawnBox(truth.boxes[i].tolist(), classes[truth.labels[i]], MISSED, True) for i in missed]
    drawn += [box._replace(colour=colour) for box, colour in zip(predicted_boxes(found, classes), colours)]
    hits, wrong = colours.count(HIT), colours.count(FALSE)
    return drawn, [(f'{hits} hit', HIT), (f'{wrong} false', FALSE), (f'{len(missed)} missed', MISSED)]


def draw_boxes(image: np.ndarray, boxes: Sequence[DrawnBox], title: Title = ()) -> np.ndarray:
    """A copy of a picture with boxes and, above the picture, a title.

    A picture that is smaller than 640 pixels is enlarged by a whole number.

    Args:
        image: (H, W, 3) in RGB or (H, W), with values from 0 to 255.

    Returns:
        (H', W', 3), RGB, uint8.
    """
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).convert('RGB')
    factor = -(-SMALLEST // max(picture.size))
    picture = picture.resize((picture.width * factor, picture.height * factor))
    longest = max(picture.size)
    width, font = max(2, longest // 400), _font(max(13, longest // 60))
    draw = ImageDraw.Draw(picture, 'RGBA')
    placed = [(np.multiply(entry.box, factor), entry) for entry in boxes]
    for (x, y, w, h), entry in placed:
        corners = np.clip([x, y, x + w, y + h], 0, np.tile(picture.size, 2) - 1).tolist()
        _outline(draw, corners, entry, width)
    for (x, y, _, h), entry in placed:
        if entry.text:
            # Missed objects have their text below the box, so that the text of a detection does not hide it.
            _label(draw, (x, y + h if entry.dashed else y), entry, font, picture.size)
    return np.asarray(_with_title(picture, title, font) if title else picture)


def _outline(draw: ImageDraw.ImageDraw, corners: Sequence[float], entry: DrawnBox, width: int) -> None:
    x1, y1, x2, y2 = corners
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline='#00000080', width=width + 2)
    if not entry.dashed:
        draw.rectangle(corners, outline=entry.colour, width=width)
        return
    dash = 4 * width
    for start in np.arange(x1, x2, 2 * dash).tolist():
        for y in (y1, y2):
            draw.line((start, y, min(start + dash, x2), y), entry.colour, width)
    for start in np.arange(y1, y2, 2 * dash).tolist():
        for x in (x1, x2):
            draw.line((x, start, x, min(start + dash, y2)), entry.colour, width)


def _label(draw: ImageDraw.ImageDraw, place: tuple, entry: DrawnBox, font, size: tuple[int, int]) -> None:
    """The text above ``place``, or below it for a dashed box. It stays inside the picture."""
    text = printable(entry.text)
    width, height = font.getlength(text) + 4, font.size + 4
    x = min(max(place[0], 0), max(size[0] - width, 0))
    y = place[1] if entry.dashed else place[1] - height
    y = min(max(y, 0), size[1] - height)
    draw.rectangle((x, y, x + width, y + height), entry.colour + 'c0')
    draw.text((x + 2, y + height / 2), text, 'black', font, anchor='lm')


def _with_title(picture: Image.Image, title: Title, font) -> Image.Image:
    """The picture below a black strip with the title. Texts that are too wide go to a further line."""
    places, x, y, line = [], 6.0, 0, round(1.5 * font.size)
    for text, _ in title:
        width = font.getlength(printable(text))
        if x > 6 and x + width > picture.width:
            x, y = 6, y + line
        places.append((x, y + line / 2))
        x += width + font.size
    sheet = Image.new('RGB', (picture.width, picture.height + y + line))
    sheet.paste(picture, (0, y + line))
    draw = ImageDraw.Draw(sheet)
    for place, (text, colour) in zip(places, title):
        draw.text(place, printable(text), colour, font, anchor='lm')
    return sheet


@lru_cache
def _font(size: int):
    return ImageFont.truetype(findfont('DejaVu Sans'), size)  # a font of matplotlib with Greek and Cyrillic letters


class PictureFolder:
    """Writes JPEG files under the names of their sources, such as ``a/b.png`` -> ``folder/a/b.jpg``.

    If ``a/b.jpg`` is taken, the picture becomes ``a/b.png.jpg``.
    """

    def __init__(self, folder):
        self.folder, self._taken = Path(folder), set()

    def write(self, name: str, image: np.ndarray) -> None:
        """Write a picture, (H, W, 3), RGB, uint8."""
        own = name[: -len(Path(name).suffix)] if Path(name).suffix else name
        file = next(file for file in self._names(own, name) if file not in self._taken)
        self._taken.add(file)
        content = io.BytesIO()
        Image.fromarray(image).save(content, 'JPEG', quality=90)
        write_whole(self.folder / file, content.getvalue())

    @staticmethod
    def _names(stem: str, name: str) -> Iterable[str]:
        yield f'{stem}.jpg'
        yield f'{name}.jpg'
        number = 2
        while True:
            yield f'{name}_{number}.jpg'
            number += 1
