"""Boxes that count for nothing, and boxes that are written in another way."""

import shutil

import pytest

from mmyolo_bgpenalty.config_check.check import check_config
from tests.helpers.changes import edit
from tests.helpers.spoilt import pair
from tests.helpers.tiny import SEMI

JSON, VAL = 'train_dataloader.dataset.labeled.ann_file', 'val_dataloader.dataset.ann_file'
E, W = 'error', 'warning'


@pytest.fixture
def root(data, tmp_path):
    return shutil.copytree(data, tmp_path / 'set')


def every(change, rows=slice(None)):
    def changed(coco):
        for annotation in coco['annotations'][rows]:
            annotation.update(change(*annotation['bbox']))

    return changed


def of_class(number, **values):
    return lambda coco: [one.update(values) for one in coco['annotations'] if one['category_id'] == number]


def repeat(coco):
    coco['annotations'].append(dict(coco['annotations'][2], id=99))


MISTAKES = {
    'all crowds': (
        'labeled',
        every(lambda *box: dict(iscrowd=1)),
        E,
        'no box of square, disc, bar that counts: 8 boxes',
    ),
    'all ignored': ('labeled', every(lambda *box: dict(ignore=True)), E, 'no box of square, disc, bar that counts'),
    'all crowds in validation': (
        'val',
        every(lambda *box: dict(iscrowd=1)),
        *(E, 'are crowds (`iscrowd` or `ignore` is 1), or are dropped, so recall and AP cannot be computed'),
    ),
    'no boxes in validation': (
        'val',
        lambda coco: coco['annotations'].clear(),
        E,
        'so recall and AP cannot be computed',
    ),
    'a class of crowds': ('labeled', of_class(3, iscrowd=1), W, 'no box of bar that counts'),
    'a class of area 0': ('labeled', of_class(3, iscrowd=1, area=0), W, 'no box of bar that counts'),
    'corners': ('labeled', every(lambda x, y, w, h: dict(bbox=[x, y, x + w, y + h])), W, 'of 8 boxes of '),
    'corners in validation': ('val', every(lambda x, y, w, h: dict(bbox=[x, y, x + w, y + h])), W, 'end outside their'),
    'a box twice': ('labeled', repeat, W, '1 of 9 boxes of '),
    'a box twice in validation': ('val', repeat, W, 'are there twice, with the same class, so they count twice'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_in_boxes(root, tiny, tmp_path, mistake):
    name, change, level, what = MISTAKES[mistake]
    edit(root, name, change)
    found = check_config(tiny(SEMI, root, tmp_path / 'work'))
    (finding,) = [one for one in found if 'are dropped: they lie' not in one.what]
    assert (finding.level, finding.where) == (level, VAL if name == 'val' else JSON) and what in finding.what


@pytest.mark.parametrize(
    'form, hint',
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], 'if read as x1, y1, x2, y2'),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], 'if read as centre x, centre y, width, height'),
        (lambda x, y, w, h: [1.2 * x, 1.2 * y, 1.2 * w, 1.2 * h], 'correct the boxes, or the sizes of the images'),
    ],
)
def test_the_form_of_the_boxes_is_guessed(root, tiny, tmp_path, form, hint):
    def put_in_corners(coco):
        corners = ([0, 0], [60, 0], [0, 44], [60, 44])
        for place, one in enumerate(coco['annotations']):
            one['bbox'] = form(*corners[place % 4], 20, 20)

    edit(root, 'labeled', put_in_corners)
    found = check_config(tiny(SEMI, root, tmp_path / 'work'))
    (finding,) = [one for one in found if 'end outside their image' in one.what]
    assert hint in finding.instead


def test_shares_of_the_image_are_guessed(root, tiny, tmp_path):
    edit(root, 'labeled', every(lambda x, y, w, h: dict(bbox=[x / 80, y / 64, w / 80, h / 64])))
    (finding,) = [one for one in check_config(tiny(SEMI, root, tmp_path / 'work')) if one.level == 'warning']
    assert 'these look like shares of the image' in finding.instead


def test_boxes_that_are_a_little_too_large_are_fine(root, tiny, tmp_path):
    edit(root, 'labeled', every(lambda x, y, w, h: dict(bbox=[79, 10, 2, 20]), slice(0, 1)))
    assert check_config(tiny(SEMI, root, tmp_path / 'work')) == []


def test_training_on_crowds_alone_is_refused(root):
    edit(root, 'labeled', every(lambda *box: dict(iscrowd=1)))
    with pytest.raises(ValueError, match=r'labeled.json, but found none, only 8 crowds \(`iscrowd` is 1\)'):
        pair(root)
