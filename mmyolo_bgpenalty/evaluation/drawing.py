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
MOST_COVERED = 0.12  # share of a picture that texts may cover


class DrawnBox(NamedTuple):
    box: Sequence[float]  # x, y, width, height in pixels
    text: str
    colour: str
    dashed: bool = False
    short: str = ''  # the text in a picture with many boxes


Title = Sequence[tuple[str, str]]  # texts and their colours


def predicted_boxes(found: Detections, classes: Sequence[str]) -> list[DrawnBox]:
    """Boxes with class and score, in a colour for each class. Without room for the classes they have only scores."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    return [DrawnBox(b, f'{classes[k]} {score:.2f}', _colour(k), short=f'{score:.2f}') for b, score, k in rows]


def true_label_boxes(truth: Truth, classes: Sequence[str]) -> list[DrawnBox]:
    """Annotated boxes in a colour for each class. Ignored ones are grey and dashed."""
    rows = zip(truth.boxes.tolist(), truth.labels.tolist(), truth.ignored.tolist())
    names = {k: name for k, name in enumerate(classes)} | {-1: ''}  # an ignored box may have no class
    return [
        DrawnBox(box, names.get(k, str(k)), IGNORED if ignored else _colour(k), ignored) for box, k, ignored in rows
    ]


def class_legend(found: Detections, classes: Sequence[str]) -> Title:
    """The classes of the detections in the colours of ``predicted_boxes``."""
    return [(classes[k], _colour(k)) for k in np.unique(found.labels).tolist()]


def _colour(k: int) -> str:
    return PALETTE[k % len(PALETTE)]


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


def draw_boxes(image: np.ndarray, boxes: Sequence[DrawnBox], title: Title = (), legend: Title = ()) -> np.ndarray:
    """A copy of a picture with boxes and, above the picture, a title.

    A picture that is smaller than 640 pixels is enlarged by a whole number. Texts do not overlap. If one has no room,
    or if they would hide more than 12 % of the picture, the boxes have their short texts. If these would hide as much,
    the boxes have no text.

    Args:
        image: (H, W, 3) in RGB or (H, W), with values from 0 to 255.
        legend: what the short texts do not say. It follows the title of a picture with short texts.

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
    labels, area = _place_texts(placed, [entry.text for entry in boxes], font, picture.size)
    if None in labels.values() or area > MOST_COVERED:
        title = [*title, *legend]
        labels, area = _place_texts(placed, [entry.short for entry in boxes], font, picture.size)
        labels = labels if area <= MOST_COVERED else {}
    for (number, text), place in labels.items():
        if place:
            draw.rectangle(place, boxes[number].colour + 'c0')
            draw.text((place[0] + 2, (place[1] + place[3]) / 2), text, 'black', font, anchor='lm')
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


def _place_texts(placed: Sequence[tuple], texts: Sequence[str], font, size: tuple[int, int]) -> tuple[dict, float]:
    """Number of the box and its text -> left, top, right and bottom of the text, or None if it has no room.

    Also returns the share of the picture that the texts cover.
    """
    taken: list[np.ndarray] = []
    found: dict[tuple[int, str], list[float] | None] = {}
    for number, ((box, entry), text) in enumerate(zip(placed, map(printable, texts))):
        if text:
            extent, corners = np.array([font.getlength(text) + 4, font.size + 4]), np.append(box[:2], box[:2] + box[2:])
            # Missed objects have their text below the box, because a detection has it above.
            place = free_place(corners, extent, np.array(size), not entry.dashed, taken)
            found[number, text] = None if place is None else place.tolist()
            taken += [] if place is None else [place]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in taken)
    return found, covered / (size[0] * size[1])


def free_place(
    box: np.ndarray, extent: np.ndarray, panel: np.ndarray, above: bool, taken: Sequence[np.ndarray]
) -> np.ndarray | None:
    """The place of a text at an edge of ``box`` where it overlaps no other text, or None if there is no room.

    Args:
        box: left, top, right and bottom.
        extent: width and height of the text.
        panel: width and height of the picture.
        above: whether a place above the box is better than a place below it.
        taken: left, top, right and bottom of the other texts.
    """
    (x1, y1), (x2, y2) = np.clip(box.reshape(2, 2), 0, panel).tolist()
    w, h = extent.tolist()
    over, under = [(x1, y1 - h), (x2 - w, y1 - h)], [(x1, y2), (x2 - w, y2)]
    beside, inside = [(x2, y1), (x1 - w, y1)], [(x1, y1), (x2 - w, y1), (x1, y2 - h), (x2 - w, y2 - h)]
    others = np.reshape(taken, (-1, 4))
    for x, y in [*(over + under if above else under + over), *beside, *inside]:
        start = np.array([np.clip(x, 0, max(panel[0] - w, 0)), y])
        end = start + extent
        overlap = (start < others[:, 2:]).all(axis=1) & (others[:, :2] < end).all(axis=1)
        if 0 <= y <= panel[1] - h and not overlap.any():
            return np.concatenate([start, end])
    return None


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
