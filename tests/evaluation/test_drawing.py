"""Pictures with boxes."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from mmyolo_bgpenalty.evaluation.drawing import (
    FALSE,
    HIT,
    IGNORED,
    MISSED,
    DrawnBox,
    PictureFolder,
    class_legend,
    draw_boxes,
    judged_boxes,
    predicted_boxes,
)
from mmyolo_bgpenalty.evaluation.matching import Detections, Truth

NAMES = ('cell', 'crack')


def boxes(*rows):
    return np.array(rows, float).reshape(-1, 4)


def near(pixels, colour):
    return (np.abs(pixels - 255 * np.array(to_rgb(colour))) < 3).all(axis=-1)


def test_hits_mistakes_and_missed_objects_can_be_told_apart():
    place = boxes([0, 0, 10, 10], [50, 0, 10, 10], [0, 50, 10, 10], [50, 50, 10, 10])
    truth = Truth(place, np.array([0, 0, 1, 1]), np.array([False, False, False, True]))
    found = Detections(place[[0, 1, 3]], np.array([0.9, 0.8, 0.7]), np.array([0, 1, 1]))
    drawn, title = judged_boxes(found, truth, NAMES)
    shown = {(tuple(box.box[:2]), box.text): (box.colour, box.dashed) for box in drawn}
    assert shown == {
        ((0, 0), 'cell 0.90'): (HIT, False),
        ((50, 0), 'crack 0.80'): (FALSE, False),  # another class
        ((50, 0), 'cell'): (MISSED, True),
        ((0, 50), 'crack'): (MISSED, True),
        ((50, 50), ''): (IGNORED, True),
        ((50, 50), 'crack 0.70'): (IGNORED, False),
    }
    assert title == [('1 hit', HIT), ('1 false', FALSE), ('2 missed', MISSED)]


def test_predictions_have_a_colour_for_each_class():
    found = Detections(np.zeros((3, 4)), np.full(3, 0.5), np.array([0, 1, 0]))
    first, second, third = predicted_boxes(found, NAMES)
    assert first.colour == third.colour != second.colour and first.text == 'cell 0.50'
    many = Detections(np.zeros((1, 4)), np.ones(1), np.array([79]))
    assert predicted_boxes(many, [f'c{k}' for k in range(80)])[0].text == 'c79 1.00'


@pytest.mark.parametrize('shape', [(640, 800), (640, 800, 3)], ids=['grey', 'colour'])
def test_a_box_lies_on_its_pixels(shape):
    image = np.full(shape, 100, np.uint8)
    entry = DrawnBox([200, 300, 100, 50], '', HIT)
    drawn = draw_boxes(image, [entry])
    assert drawn.shape == (640, 800, 3) and (image == 100).all()
    rows, columns = np.nonzero(near(drawn, HIT))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (200, 300, 300, 350)
    dashed = near(draw_boxes(image, [entry._replace(dashed=True)]), HIT)
    assert 0.3 < dashed[300:352, 200:302].sum() / near(drawn, HIT).sum() < 0.8
    assert not near(drawn, HIT)[305:345, 205:295].any()


def test_a_small_picture_is_enlarged_and_the_title_is_above_it():
    drawn = draw_boxes(np.zeros((30, 80, 3), np.uint8), [DrawnBox([10, 10, 20, 10], 'cell 0.90', HIT)])
    assert drawn.shape == (240, 640, 3)
    rows, columns = np.nonzero(near(drawn, HIT))
    assert (columns.min(), columns.max(), rows.max()) == (80, 240, 160)
    # A title that is too long goes to a second line.
    heights = [draw_boxes(np.zeros((30, 80)), [], [('word ' * 8, 'white')] * n).shape[0] for n in (1, 2, 9)]
    assert 240 < heights[0] == heights[1] < heights[2]


def test_boxes_and_texts_outside_the_picture_are_drawn_at_its_edge():
    entries = [DrawnBox([x, y, 400, 300], 'a long text ' * 9, FALSE) for x in (-300, 900) for y in (-200, 700)]
    assert draw_boxes(np.zeros((640, 800, 3), np.uint8), entries).shape == (640, 800, 3)


def test_the_names_of_the_files_follow_the_sources_and_are_unique(tmp_path):
    folder = PictureFolder(tmp_path / 'new')
    names = ['a/x.png', 'b/x.png', 'b/x.jpg', 'b/x.jpg', 'b/x.jpg', 'no_suffix', 'two.dots.tif']
    for shade, name in enumerate(names):
        folder.write(name, np.full((8, 8, 3), 30 * shade, np.uint8))
    files = ['a/x', 'b/x', 'b/x.jpg', 'b/x.jpg_2', 'b/x.jpg_3', 'no_suffix', 'two.dots']
    written = {str(path.relative_to(tmp_path / 'new')) for path in (tmp_path / 'new').rglob('*.jpg')}
    assert written == {f'{file}.jpg' for file in files}
    for shade, file in enumerate(files):
        assert abs(np.asarray(Image.open(tmp_path / 'new' / f'{file}.jpg')).mean() - 30 * shade) < 3


def many(number, side=640):
    """Boxes of 30 pixels in rows, with long and short texts, and the number of pixels of a text."""
    places = [(40 * (k % 16) + 5.0, 40 * (k // 16) + 20.0) for k in range(number)]
    entries = [DrawnBox([x, y, 30, 15], 'junction box 0.90', HIT, short='0.90') for x, y in places]
    drawn = draw_boxes(np.zeros((side, side, 3), np.uint8), entries, [('title', 'white')], [('junction box', HIT)])
    texts = (drawn[-side:] > 0).any(axis=-1).mean()
    outlines = (draw_boxes(np.zeros((side, side)), [entry._replace(text='') for entry in entries]) > 0).any(-1).mean()
    title = draw_boxes(np.zeros((side, side)), [], [('title', 'white')])[:-side]
    return texts - outlines, (drawn[:-side] != title).any()


def test_texts_do_not_hide_a_picture_with_many_boxes():
    """First they have the classes and scores, then only scores and a legend, then only the legend."""
    few, with_legend = many(2)
    assert 0.005 < few < 0.12 and not with_legend
    scores, with_legend = many(60)
    assert 0.03 < scores < 0.12 and with_legend
    nothing, with_legend = many(240)
    assert nothing == 0 and with_legend


def test_texts_do_not_hide_each_other():
    """Two boxes on the same place."""
    texts = [DrawnBox([100, 100, 200, 50], text, colour) for text, colour in (('first', HIT), ('second', FALSE))]
    both = draw_boxes(np.zeros((640, 640)), texts)
    for entry in texts:
        alone = draw_boxes(np.zeros((640, 640)), [entry._replace(box=[100, 300, 200, 50])])
        plate = tuple(0.75 * value for value in to_rgb(entry.colour))
        hidden = 1 - near(both, plate).sum() / near(alone, plate).sum()
        assert hidden < 0.1


def test_the_legend_has_the_colours_of_the_boxes():
    found = Detections(np.zeros((3, 4)), np.full(3, 0.5), np.array([1, 1, 0]))
    assert dict(class_legend(found, NAMES)) == {
        entry.text.split()[0]: entry.colour for entry in predicted_boxes(found, NAMES)
    }
