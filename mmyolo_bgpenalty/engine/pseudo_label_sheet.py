"""Draw sheets of unlabeled images: a row has the weak and the strong view of an image.

Shapes: H rows and W columns of pixels. Boxes are x1, y1, x2, y2 in pixels of their view.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke, withStroke
from matplotlib.text import Text

from mmyolo_bgpenalty.evaluation.drawing import free_place

DPI = 100
WIDEST, NARROWEST = 6.5, 4.0  # width of a view in inches, if two views are side by side
GAP, HEADER, LEGEND_LINE, VIEW_TITLE = 0.14, 0.68, 0.24, 0.3  # heights in inches
FONT = 11
MANY = 12  # pseudo-labels of a view


class Kind(NamedTuple):
    """How boxes of a kind look, and where their texts are."""

    colour: str
    width: float  # of the line, in points
    dashes: Any = '-'  # as ``linestyle`` of matplotlib
    plate: bool = True  # the text stands on a plate of this colour
    above: bool = True  # the text is preferably above the box


# The last kind is drawn on top. 'wrong' is a pseudo-label, too.
KINDS = {
    'unsure': Kind('#ffca28', 0.8, plate=False),
    'background': Kind('#ff4df8', 1.4, (0, (5, 2)), above=False),
    'label': Kind('#00e676', 2.0),
    'wrong': Kind('#ff6e5e', 2.0),
    'truth': Kind('#ffffff', 1.0, (0, (3, 3)), plate=False, above=False),
}
IMPORTANCE = ('wrong', 'label', 'truth', 'background', 'unsure')  # the order in which texts choose their place


class Box(NamedTuple):
    corners: Sequence[float]
    texts: Sequence[str] = ()  # the first text with enough room is drawn


class View(NamedTuple):
    title: str
    image: np.ndarray  # (H, W, 3), RGB, uint8
    boxes: Mapping[str, Sequence[Box]]  # the boxes of each kind, the most important first
    padding: np.ndarray = np.zeros((1, 1), bool)  # (H, W), or (1, 1): one value for the whole picture


def draw_sheet(rows: Sequence[tuple[View, View]], title: tuple[str, str], legend: Mapping[str, str]) -> Figure:
    """A sheet with a row for each image. All views have the same size.

    Args:
        rows: the weak and the strong view of each image.
        title: a bold line and a plain line.
        legend: the meaning of each key of ``KINDS``, and of 'padding'. The sheet lists only what the views have.
    """
    views = [view for row in rows for view in row]
    height, width = views[0].image.shape[:2]
    columns = 1 if height < 0.4 * width else 2  # the views of a very wide image are below each other
    across = 2 * WIDEST if columns == 1 else min(max(WIDEST * width / height, NARROWEST), WIDEST)
    down = across * height / width
    handles, lines = [*_legend_handles(views, legend)], -(-len(views) // columns)
    legend_columns = max(1, round(columns * across / WIDEST))
    top = HEADER + LEGEND_LINE * -(-len(handles) // legend_columns)
    sheet = columns * (across + GAP) + GAP, top + lines * (VIEW_TITLE + down) + GAP
    figure = Figure(sheet, dpi=DPI)  # without pyplot, because its figures are global
    FigureCanvasAgg(figure)
    for text, y, weight, size in zip(title, (0.22, 0.48), ('bold', 'normal'), (FONT + 2, FONT)):
        line = figure.text(0.5, 1 - y / sheet[1], text, weight=weight, size=size, ha='center', va='center')
        _cut(line, sheet[0] - 2 * GAP)
    where: dict[str, Any] = dict(loc='upper center', bbox_to_anchor=(0.5, 1 - HEADER / sheet[1]), ncols=legend_columns)
    figure.legend(handles=handles, frameon=False, fontsize=FONT, borderpad=0, borderaxespad=0, **where)
    for i, view in enumerate(views):
        row, column = divmod(i, columns)
        x, y = GAP + column * (across + GAP), sheet[1] - top - (row + 1) * (VIEW_TITLE + down)
        _draw_view(figure.add_axes((x / sheet[0], y / sheet[1], across / sheet[0], down / sheet[1])), view)
    return figure


def pixels_of(figure: Figure) -> np.ndarray:
    """(H, W, 3), RGB, uint8."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _legend_handles(views: Sequence[View], legend: Mapping[str, str]) -> Iterator[Patch]:
    for name in ('label', 'wrong', 'truth', 'unsure', 'background'):
        if any(view.boxes.get(name) for view in views):
            yield Patch(label=legend[name], **_line(KINDS[name]))
    if any(view.padding.any() for view in views):
        yield Patch(label=legend['padding'], facecolor='0.3', edgecolor='0.6', hatch='////')


def _line(kind: Kind) -> dict[str, Any]:
    """How to draw an outline: on a black line without gaps, so that it is visible on any picture."""
    black = Stroke(linewidth=kind.width + 1, foreground='black', alpha=0.7, dashes=dict(dash_offset=0, dash_list=None))
    style = dict(edgecolor=kind.colour, linewidth=kind.width, linestyle=kind.dashes)
    return dict(fill=False, path_effects=[black, Normal()], **style)


def _draw_view(axes: Axes, view: View) -> None:
    height, width = view.image.shape[:2]
    stripes = np.add.outer(np.arange(height), np.arange(width)) // max(width // 60, 2) % 2
    dark = view.image * (0.25 + 0.2 * stripes[..., None])
    image = np.where(view.padding[..., None], dark, view.image).astype(np.uint8)
    axes.imshow(image, extent=(0, width, height, 0), aspect='auto')
    axes.set_axis_off()
    _cut(axes.set_title(view.title, size=FONT, loc='left', pad=4), axes.bbox.width / DPI)
    for name, kind in KINDS.items():
        for (x1, y1, x2, y2), _ in view.boxes.get(name, ()):
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **_line(kind)))
    _write_texts(axes, view, axes.bbox.width / width)


def _write_texts(axes: Axes, view: View, scale: float) -> None:
    """Write texts at their boxes where they overlap no other text. ``scale`` is the size of a pixel of the view."""
    taken: list[np.ndarray] = []
    crowded = sum(len(view.boxes.get(name, ())) for name in ('label', 'wrong')) > MANY
    for name in IMPORTANCE:
        kind = KINDS[name]
        for corners, texts in view.boxes.get(name, ()):
            box = np.multiply(corners, scale)
            for text in texts:
                label = axes.text(0, 0, text, va='top', clip_on=True, parse_math=False, zorder=5)
                if kind.plate:
                    label.set(size=FONT, bbox=dict(facecolor=kind.colour, edgecolor='none', alpha=0.8, pad=1))
                else:
                    label.set(size=FONT - 2, color=kind.colour, path_effects=[withStroke(linewidth=2, foreground='k')])
                extent = _extent(label)
                place = free_place(box, extent, np.array(axes.bbox.size), kind.above, taken)
                # Among many boxes, wide texts would hide the picture.
                too_wide = crowded and text != texts[-1] and extent[0] > box[2] - box[0]
                if place is not None and not too_wide:
                    label.set_position((place[0] / scale, place[1] / scale))
                    taken.append(place)
                    break
                label.remove()


def _extent(text: Text) -> np.ndarray:
    """Width and height in pixels of the sheet."""
    figure: Any = text.get_figure()
    return np.array(text.get_window_extent(figure.canvas.get_renderer()).size) + 2


def _cut(text: Text, inches: float) -> None:
    """Shorten a text to this width."""
    text.set_parse_math(False)
    whole, width = text.get_text(), _extent(text)[0]
    if width > inches * DPI:
        text.set_text(whole[: int(len(whole) * inches * DPI / width) - 1] + '…')
