import copy
import json
import math

import pytest

from mmyolo_bgpenalty.utils.coco_json import numbered_classes, read_coco
from mmyolo_bgpenalty.utils.files import printable


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'set.json'


@pytest.fixture
def fault(file):
    """The message of ``read_coco`` on a set, without the name of the file."""

    def read(coco, training=False):
        file.write_text(json.dumps(coco))
        with pytest.raises(ValueError) as caught:
            read_coco(file, training)
        name, _, message = str(caught.value).partition(': ')
        assert name == str(file)
        return message

    return read


COCO = dict(
    info=dict(year=2024),
    images=[dict(id=7, file_name='a.jpg'), dict(id='x', file_name='b.jpg', width=4, height=3)],
    annotations=[dict(id=1, image_id=7, category_id=9, bbox=[0, 0.5, 2, 0], iscrowd=1)],
    categories=[dict(id=9, name='cat'), dict(id=2.5, name='dog')],
)


def test_a_valid_set_is_returned_unchanged(file):
    file.write_text(json.dumps(COCO))
    assert read_coco(file) == COCO == read_coco(str(file))
    file.write_text(json.dumps({name: COCO[name] for name in ('images', 'categories')}))
    assert read_coco(file)['annotations'] == []


@pytest.mark.parametrize(
    'path, value, message',
    [
        (['images'], None, 'expected a list `images`, but got nothing'),
        (['images'], {}, 'expected a list `images`, but got dict'),
        (['images'], [], '`images` is empty'),
        (['categories'], [], '`categories` is empty'),
        (['annotations'], 'none', 'expected a list `annotations`, but got str'),
        (['images', 0], 3, '`images[0]` has no `id`'),
        (['images', 1], dict(id=3), '`images[1]` has no `file_name`'),
        (['annotations', 0], dict(image_id=7, bbox=[0, 0, 1, 1]), '`annotations[0]` has no `category_id`'),
        (['images', 0, 'id'], None, '`images[0].id` is None; expected a number'),
        (['images', 0, 'file_name'], 'a\ud800.jpg', r"`images[0].file_name` is 'a\ud800.jpg'; expected a name"),
        (['categories', 0, 'name'], '\udce9', r"`categories[0].name` is '\udce9'; expected a name"),
        (['images', 0, 'id'], True, '`images[0].id` is True; expected a number'),
        (['images', 0, 'id'], float('nan'), '`images[0].id` is nan; expected a number'),
        (['images', 0, 'id'], [1], '`images[0].id` is [1]; expected a number'),
        (['images', 0, 'file_name'], '', "`images[0].file_name` is ''; expected a name"),
        (['categories', 0, 'name'], 5, '`categories[0].name` is 5; expected a name'),
        (['images', 0, 'id'], 'x', "`images` has 2 entries with the id 'x'"),
        (['images', 0, 'file_name'], 'b.jpg', "`images` has 2 entries with the file_name 'b.jpg'"),
        (['categories', 0, 'id'], 2.5, '`categories` has 2 entries with the id 2.5'),
        (['categories', 0, 'name'], 'dog', "`categories` has 2 entries with the name 'dog'"),
        (['annotations'], COCO['annotations'] * 3, '`annotations` has 3 entries with the id 1'),
        (['annotations', 0, 'image_id'], '7', "`annotations[0].image_id` is '7', which is unknown"),
        (['annotations', 0, 'category_id'], 1, '`annotations[0].category_id` is 1, which is unknown'),
        (
            ['annotations', 0, 'bbox'],
            [0, 0, 1],
            '`annotations[0].bbox` is [0, 0, 1]; expected [x, y, width, height], finite in fp32, width and height >= 0',
        ),
        (['annotations', 0, 'bbox'], [0, 0, -1, 1], '`annotations[0].bbox` is [0, 0, -1, 1]; expected'),
        (['annotations', 0, 'bbox'], [0, 0, 1, '1'], "`annotations[0].bbox` is [0, 0, 1, '1']; expected"),
        (['annotations', 0, 'bbox'], [0, 0, 1, True], '`annotations[0].bbox` is [0, 0, 1, True]; expected'),
        (['annotations', 0, 'bbox'], [float('nan'), 0, 1, 1], '`annotations[0].bbox` is [nan, 0, 1, 1]; expected'),
        (['annotations', 0, 'bbox'], [0, float('inf'), 1, 1], '`annotations[0].bbox` is [0, inf, 1, 1]; expected'),
        (
            ['annotations', 0, 'bbox'],
            [0, 10**400, 1, 1],
            '; expected [x, y, width, height], finite in fp32, width and height >= 0',
        ),
        (['annotations', 0, 'bbox'], [0, 0, 1e39, 1], '`annotations[0].bbox` is [0, 0, 1e+39, 1]; expected'),
        (['annotations', 0, 'bbox'], [0, 3e38, 1, 3e38], '`annotations[0].bbox` is [0, 3e+38, 1, 3e+38]; expected'),
        (['annotations', 0, 'iscrowd'], '0', "`annotations[0].iscrowd` is '0'; expected 0 or 1"),
        (['annotations', 0, 'ignore'], [], '`annotations[0].ignore` is []; expected 0 or 1'),
    ],
)
def test_an_invalid_set_is_refused_with_file_and_field(fault, path, value, message):
    coco = copy.deepcopy(COCO)
    node = coco
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert message in fault(coco)


TRAINED = dict(
    images=[dict(id=i, file_name=f'{i}.jpg', width=40, height=30.0) for i in range(3)],
    annotations=[dict(id=i, image_id=i % 3, category_id=1, bbox=[0, 0, 4, 3], area=12) for i in range(30)],
    categories=[dict(id=1, name='cat')],
)


@pytest.mark.parametrize(
    'path, value, message',
    [
        (['images', 1, 'width'], ..., '`images[1]` has no `width`'),
        (['images', 2, 'height'], 0, '`images[2].height` is 0; expected a finite number >= 1'),
        (['images', 2, 'height'], 1e-320, '`images[2].height` is 1e-320; expected a finite number >= 1'),
        (['annotations', 3, 'id'], 'a', "`annotations[3].id` is 'a'; expected a number, like `annotations[0].id`"),
        (['annotations', 0, 'id'], 'a', '`annotations[1].id` is 1; expected a string, like `annotations[0].id`'),
        (['images', 0, 'width'], math.inf, '`images[0].width` is inf; expected a finite number >= 1'),
        (['annotations', 4, 'area'], ..., '`annotations[4]` has no `area`'),
        (['annotations', 4, 'area'], math.nan, '`annotations[4].area` is nan; expected a finite number >= 0'),
        (['annotations', 4, 'area'], '12', "`annotations[4].area` is '12'; expected a finite number >= 0"),
        (['annotations', 4, 'area'], -1, '`annotations[4].area` is -1; expected a finite number >= 0'),
        (['annotations', 4, 'id'], ..., '`annotations[4]` has no `id`'),
        (['annotations', 4, 'id'], {}, '`annotations[4].id` is {}; expected a number or a string'),
    ],
)
def test_training_needs_more_fields(file, fault, path, value, message):
    coco = copy.deepcopy(TRAINED)
    name, place, field = path
    if value is ...:
        del coco[name][place][field]
    else:
        coco[name][place][field] = value
    assert fault(coco, training=True) == message
    assert read_coco(file)
    file.write_text(json.dumps(TRAINED))
    assert read_coco(file, training=True) == TRAINED


def test_a_file_name_need_not_be_valid_utf_8(file):
    coco = copy.deepcopy(COCO)
    coco['images'][0]['file_name'] = '\udce9.jpg'  # from os.fsdecode of a name in Latin-1
    file.write_text(json.dumps(coco))
    assert read_coco(file) == coco
    assert printable('λ\udce9') == 'λ\\udce9'


def test_faults_are_counted_and_the_first_ten_are_named(fault):
    coco = copy.deepcopy(TRAINED)
    for place in range(3, 18):
        coco['annotations'][place]['bbox'] = [0, 0, -4, 3]
    expected = (
        '`annotations[3].bbox` is [0, 0, -4, 3]; expected [x, y, width, height], finite in fp32, width and height >= 0'
    )
    assert fault(coco) == f'{expected} (and 14 more, at 4, 5, 6, 7, 8, 9, 10, 11, 12, …)'
    coco = copy.deepcopy(TRAINED)
    for place in range(6):
        coco['annotations'][place]['id'] = place // 2
    assert fault(coco) == '`annotations` has 2 entries with the id 0 (in all, 3 values are repeated)'
    coco = copy.deepcopy(TRAINED)
    for place in (7, 9):
        coco['annotations'][place]['category_id'] = 'x' * 300
    shown = "'" + 'x' * 199 + '…'
    assert fault(coco) == f'`annotations[7].category_id` is {shown}, which is unknown (and 1 more, at 9)'


def test_classes_in_the_order_of_the_file():
    coco = dict(categories=[dict(id=5, name='b'), dict(id=1, name='d'), dict(id=2, name='a')])
    assert numbered_classes(coco, ['a', 'b', 'c']) == (['b', 'a'], ['c'])
    assert numbered_classes(coco, ['b', 'd']) == (['b', 'd'], [])


@pytest.mark.parametrize('content', [[], 3, 'images', None])
def test_other_json_is_not_a_set(fault, content):
    expected = 'expected an object with `images`, `annotations` and `categories`, but got '
    assert fault(content) == expected + type(content).__name__
