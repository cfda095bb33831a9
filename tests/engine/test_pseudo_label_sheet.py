"""What a sheet shows: pictures that stay visible, texts that stay readable."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from mmyolo_bgpenalty.engine.pseudo_label_sheet import KINDS, Box, View, draw_sheet, pixels_of

LEGEND = dict.fromkeys([*KINDS, 'padding'], '')
LEGEND = {name: f'meaning of {name}' for name in LEGEND}
GRAY = 120


def view(height=60, width=100, title='', **boxes):
    return View(title, np.full((height, width, 3), GRAY, np.uint8), boxes)


def scattered(number, texts, height, width):
    """Boxes at random places, which overlap if there are many."""
    rng = np.random.default_rng(number)
    corners = rng.uniform(0, 0.7, (number, 2)) * (width, height)
    sizes = rng.uniform(0.05, 0.3, (number, 2)) * (width, height)
    return [Box((*start, *(start + size)), texts) for start, size in zip(corners, sizes)]


def inside(sheet, axes):
    """The pixels of the picture that ``axes`` shows."""
    x1, y1, x2, y2 = axes.bbox.extents.round().astype(int)
    return sheet[len(sheet) - y2 : len(sheet) - y1, x1:x2]


def test_only_padding_is_dark():
    """Most of the picture keeps its colour, even where unsure boxes cover all of it."""
    everywhere = [*scattered(20, ['0.04'], 640, 640), Box((0, 0, 640, 640), ['0.03'])]
    padding = np.zeros((640, 640), bool)
    padding[480:] = True
    weak, strong = view(640, 640), view(640, 640, unsure=everywhere)._replace(padding=padding)
    figure = draw_sheet([(weak, strong)], ('', ''), LEGEND)
    left, right = (inside(pixels_of(figure), axes) for axes in figure.axes)
    assert (left == GRAY).all()
    edge = int(len(right) * 0.75)
    assert (right[: edge - 2] == GRAY).mean() > 0.85
    striped = figure.axes[1].images[0].get_array()[480:]
    assert set(np.unique(striped)) == {30, 54} and np.median(right[edge + 2 :]) < 60


def test_boxes_look_as_their_kind():
    boxes = {name: [Box((10.0 + i, 20, 50, 40), [name])] for i, name in enumerate(KINDS)}
    figure = draw_sheet([(view(), view(**boxes))], ('title', 'state'), LEGEND)
    left, right = figure.axes
    assert not left.patches and (right.get_xlim(), right.get_ylim()) == ((0, 100), (60, 0))
    drawn = [(patch.get_x(), to_hex(patch.get_edgecolor()), patch.get_fill()) for patch in right.patches]
    assert drawn == [(10 + i, kind.colour, False) for i, kind in enumerate(KINDS.values())]
    assert KINDS['unsure'].width < 1 and KINDS['label'].width >= 2
    assert [text.get_text() for text in figure.texts] == ['title', 'state']


def test_a_true_box_is_black_and_white():
    """It is visible on white and on black pictures."""
    for gray in (0, 255):
        image = np.full((50, 50, 3), gray, np.uint8)
        strong = View('', image, dict(truth=[Box((10, 10, 40, 40))]))
        figure = draw_sheet([(strong, strong)], ('', ''), LEGEND)
        line = inside(pixels_of(figure), figure.axes[1])[125:135].min(axis=-1)
        assert line.min() < 90 and line.max() > 200


def test_the_legend_lists_what_the_sheet_shows():
    def listed(*views):
        (legend,) = draw_sheet([views], ('', ''), LEGEND).legends
        return [text.get_text().removeprefix('meaning of ') for text in legend.get_texts()]

    boxes, empty = {name: [Box((1, 1, 9, 9))] for name in KINDS}, dict.fromkeys(KINDS, ())
    padding = np.ones((60, 100), bool)
    assert listed(view(), view(**empty)) == []
    assert listed(view(truth=[Box((1, 1, 9, 9))]), view()._replace(padding=padding)) == ['truth', 'padding']
    every = listed(view(), view(**boxes)._replace(padding=padding))
    assert every == ['label', 'wrong', 'truth', 'unsure', 'background', 'padding']


@pytest.mark.parametrize('height, width', [(64, 64), (64, 96), (640, 640), (96, 1280), (640, 160)])
@pytest.mark.parametrize('number', [1, 30])
def test_texts_overlap_no_other_text(height, width, number):
    texts = ['a long name of a class 0.93', '0.93']
    kinds = dict(label=(number, texts), wrong=(number // 3, texts), truth=(3, texts[:1]))
    kinds |= dict(background=(5, texts[1:]), unsure=(20, texts[1:]))
    boxes = {name: scattered(number, texts, height, width) for name, (number, texts) in kinds.items()}
    strong = view(height, width, title='$a_{$' + 200 * 'n', **boxes)
    figure = draw_sheet([(strong, strong)] * 2, (200 * 'title', 200 * 'state'), LEGEND)
    figure.canvas.draw()
    sheet = figure.bbox.extents
    for axes in figure.axes:
        # The picture keeps its shape.
        np.testing.assert_allclose(axes.bbox.height / axes.bbox.width, height / width, rtol=0.01)
        extents = [text.get_window_extent() for text in axes.texts]
        assert not any(a.overlaps(b) for a, b in combinations(extents, 2))
        frame = axes.bbox.padded(1)
        assert all(frame.contains(*corner) for extent in extents for corner in extent.get_points())
        assert len(axes.texts) >= 5
    for text in [*figure.texts, *(axes._left_title for axes in figure.axes)]:
        x1, _, x2, y2 = text.get_window_extent().extents
        assert sheet[0] <= x1 and x2 <= sheet[2] and y2 <= sheet[3] and text.get_text().endswith('…')
    titles = [axes._left_title.get_window_extent() for axes in figure.axes]
    assert not any(a.overlaps(b) for a, b in combinations(titles, 2))
    assert max(figure.bbox.size) < 4000


def test_a_text_covers_no_small_box_if_there_is_room_beside_it():
    small = Box((48, 0, 52, 4), ['0.93'])
    figure = draw_sheet([(view(), view(label=[small], unsure=[small]))], ('', ''), LEGEND)
    axes = figure.axes[1]
    scale = axes.bbox.width / 100
    (x1, x2), y1 = ((axes.bbox.x0 + x * scale) for x in (48, 52)), axes.bbox.y1 - 4 * scale
    assert len(axes.texts) == 2
    for text in axes.texts:
        extent = text.get_window_extent()
        assert extent.y1 <= y1 + 1 or extent.x1 <= x1 + 1 or extent.x0 >= x2 - 1
