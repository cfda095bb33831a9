import copy
import json
import math
import os

import cv2
import numpy as np
import pytest

from mmyolo_bgpenalty.utils.coco_json import numbered_classes, read_coco
from mmyolo_bgpenalty.utils.files import printable, read_json, write_together, write_whole
from mmyolo_bgpenalty.utils.image_files import image_fault

COCO = dict(
    info=dict(year=2024),
    images=[dict(id=7, file_name='a.jpg'), dict(id='x', file_name='b.jpg', width=4, height=3)],
    annotations=[dict(id=1, image_id=7, category_id=9, bbox=[0, 0.5, 2, 0], iscrowd=1)],
    categories=[dict(id=9, name='cat'), dict(id=2.5, name='dog')],
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'set.json'


def test_a_good_set_is_returned_as_it_is(file):
    file.write_text(json.dumps(COCO))
    assert read_coco(file) == COCO == read_coco(str(file))


def test_annotations_may_be_absent(file):
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
        (['images', 0, 'file_name'], '', "`images[0].file_name` is ''; expected a name"),
        (['categories', 0, 'name'], '\udce9', r"`categories[0].name` is '\udce9'; expected a name"),
        (['images', 0, 'id'], True, '`images[0].id` is True; expected a number'),
        (['images', 0, 'id'], float('nan'), '`images[0].id` is nan; expected a number'),
        (['images', 0, 'id'], [1], '`images[0].id` is [1]; expected a number'),
        (['images', 0, 'file_name'], '', "`images[0].file_name` is ''; expected a name"),
        (['categories', 0, 'name'], 5, '`categories[0].name` is 5; expected a name'),
        (['images', 0, 'id'], 'x', "`images` has the id 'x' 2 times"),
        (['images', 0, 'file_name'], 'b.jpg', "`images` has the file_name 'b.jpg' 2 times"),
        (['categories', 0, 'id'], 2.5, '`categories` has the id 2.5 2 times'),
        (['categories', 0, 'name'], 'dog', "`categories` has the name 'dog' 2 times"),
        (['annotations'], COCO['annotations'] * 3, '`annotations` has the id 1 3 times'),
        (['annotations', 0, 'image_id'], '7', "`annotations[0].image_id` is '7', which is not there"),
        (['annotations', 0, 'category_id'], 1, '`annotations[0].category_id` is 1, which is not there'),
        (['annotations', 0, 'bbox'], [0, 0, 1], '`annotations[0].bbox` is [0, 0, 1]; expected [x, y, width, height]'),
        (['annotations', 0, 'bbox'], None, '`annotations[0].bbox` is None; expected'),
        (['annotations', 0, 'bbox'], [0, 0, -1, 1], '`annotations[0].bbox` is [0, 0, -1, 1]; expected'),
        (['annotations', 0, 'bbox'], [0, 0, 1, '1'], "`annotations[0].bbox` is [0, 0, 1, '1']; expected"),
        (['annotations', 0, 'bbox'], [0, 0, 1, True], '`annotations[0].bbox` is [0, 0, 1, True]; expected'),
        (['annotations', 0, 'bbox'], [float('nan'), 0, 1, 1], '`annotations[0].bbox` is [nan, 0, 1, 1]; expected'),
        (['annotations', 0, 'bbox'], [0, float('inf'), 1, 1], '`annotations[0].bbox` is [0, inf, 1, 1]; expected'),
        (['annotations', 0, 'bbox'], [0, 10**400, 1, 1], '; expected [x, y, width, height]'),
        (['annotations', 0, 'bbox'], [0, 0, 1e39, 1], '`annotations[0].bbox` is [0, 0, 1e+39, 1]; expected'),
        (['annotations', 0, 'bbox'], [0, 3e38, 1, 3e38], '`annotations[0].bbox` is [0, 3e+38, 1, 3e+38]; expected'),
        (['annotations', 0, 'bbox'], [0, 0, 10**308, 1], '; expected [x, y, width, height]'),
        (['annotations', 0, 'iscrowd'], '0', "`annotations[0].iscrowd` is '0'; expected 0 or 1"),
        (['annotations', 0, 'ignore'], [], '`annotations[0].ignore` is []; expected 0 or 1'),
    ],
)
def test_a_bad_set_is_refused_with_file_and_field(file, path, value, message):
    coco = copy.deepcopy(COCO)
    node = coco
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file.write_text(json.dumps(coco))
    with pytest.raises(ValueError) as caught:
        read_coco(file)
    assert str(caught.value).startswith(f'{file}: ') and message in str(caught.value)


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
        (['images', 2, 'height'], -3, '`images[2].height` is -3; expected a finite number >= 1'),
        (['images', 2, 'height'], 1e-320, '`images[2].height` is 1e-320; expected a finite number >= 1'),
        (['annotations', 3, 'id'], 'a', "`annotations[3].id` is 'a'; expected a number, as `annotations[0].id`"),
        (['annotations', 0, 'id'], 'a', '`annotations[1].id` is 1; expected a text, as `annotations[0].id`'),
        (['images', 0, 'width'], math.inf, '`images[0].width` is inf; expected a finite number >= 1'),
        (['annotations', 4, 'area'], ..., '`annotations[4]` has no `area`'),
        (['annotations', 4, 'area'], math.nan, '`annotations[4].area` is nan; expected a finite number >= 0'),
        (['annotations', 4, 'area'], '12', "`annotations[4].area` is '12'; expected a finite number >= 0"),
        (['annotations', 4, 'area'], -1, '`annotations[4].area` is -1; expected a finite number >= 0'),
        (['annotations', 4, 'id'], ..., '`annotations[4]` has no `id`'),
        (['annotations', 4, 'id'], {}, '`annotations[4].id` is {}; expected a number'),
    ],
)
def test_for_training_there_must_be_more(file, path, value, message):
    coco = copy.deepcopy(TRAINED)
    name, place, field = path
    if value is ...:
        del coco[name][place][field]
    else:
        coco[name][place][field] = value
    file.write_text(json.dumps(coco))
    assert read_coco(file)
    with pytest.raises(ValueError) as caught:
        read_coco(file, training=True)
    assert str(caught.value) == f'{file}: {message}'
    file.write_text(json.dumps(TRAINED))
    assert read_coco(file, training=True) == TRAINED


@pytest.mark.parametrize('inner, levels', [('[{0}]', 1), ('{{"a": {0}}}', 1), ('[1, {{"[": [], "b": [ {0} ]}}]', 3)])
def test_what_is_nested_too_deep_for_others_is_refused(file, inner, levels):
    """json reads it, but copying, pickling or printing it may end in a RecursionError."""

    def nested(depth):
        text = '0'
        for _ in range(depth // levels):
            text = inner.format(text)
        file.write_text(json.dumps(TRAINED)[:-1] + f', "more": {text}' + '}')

    nested(99)  # in the set itself
    assert read_coco(file)['more'] == json.loads(file.read_text())['more']
    for depth in (99 + levels, 600):
        nested(depth)
        with pytest.raises(ValueError) as caught:
            read_coco(file)
        assert str(caught.value) == f'{file}: is no valid json: it is nested deeper than 100 levels'


def test_brackets_in_names_are_no_nesting(file):
    coco = dict(TRAINED, categories=[dict(id=1, name='[{' * 300)])
    for encoding in ('utf-8', 'utf-16'):
        file.write_bytes(json.dumps(coco).encode(encoding))
        assert read_coco(file, training=True) == coco


def test_names_that_are_no_text_can_be_printed(file):
    coco = copy.deepcopy(COCO)
    coco['images'][0]['file_name'] = '\udce9.jpg'  # what os.fsdecode makes of a name in Latin-1
    file.write_text(json.dumps(coco))
    assert read_coco(file) == coco
    assert printable('λ\udce9') == 'λ\\udce9'


def test_mistakes_are_counted_and_the_first_ten_named(file):
    coco = copy.deepcopy(TRAINED)
    for place in range(3, 18):
        coco['annotations'][place]['bbox'] = [0, 0, -4, 3]
    file.write_text(json.dumps(coco))
    with pytest.raises(ValueError) as caught:
        read_coco(file)
    expected = '`annotations[3].bbox` is [0, 0, -4, 3]; expected [x, y, width, height]'
    assert str(caught.value) == f'{file}: {expected} (and 14 more: 4, 5, 6, 7, 8, 9, 10, 11, 12, …)'
    coco = copy.deepcopy(TRAINED)
    for place in range(6):
        coco['annotations'][place]['id'] = place // 2
    for place in (7, 9):
        coco['annotations'][place]['category_id'] = 'x' * 300
    file.write_text(json.dumps(coco))
    with pytest.raises(ValueError, match='`annotations` has the id 0 2 times, and 2 others more than once'):
        read_coco(file)
    for place in range(6):
        coco['annotations'][place]['id'] = place
    file.write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=r"`annotations\[7\].category_id` is '(x{199})…, which is not .* 1 more: 9\)$"):
        read_coco(file)


def test_labels_that_mmdetection_would_count_otherwise():
    coco = dict(categories=[dict(id=5, name='b'), dict(id=1, name='d'), dict(id=2, name='a')])
    assert numbered_classes(coco, ['a', 'b', 'c']) == (['b', 'a'], ['c'])
    assert numbered_classes(coco, ['b', 'd']) == (['b', 'd'], [])


# Image files


@pytest.fixture(scope='module')
def jpegs():
    """A JPEG, a progressive one with restart markers, and one with a preview before the picture."""
    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8), (200, 160))

    def encode(picture, *options):
        return bytes(cv2.imencode('.jpg', picture, list(options))[1])

    plain, preview = encode(picture), encode(picture[:32, :40])
    progressive = encode(picture, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
    header = b'\xff\xd8\xff\xe1' + (len(preview) + 2).to_bytes(2, 'big')
    return [plain, progressive, header + preview + plain[2:]]


def test_jpegs_that_are_cut_off(jpegs, tmp_path):
    file = tmp_path / 'a.jpg'
    for content in jpegs:
        for behind in (b'', b'\0\0\n', b'\xff\xda\xff\xc0 a film' * 99, content[:3000]):
            file.write_bytes(content + behind)
            assert image_fault(file) == ''
        for length in {len(content) - 1, len(content) - 2, *np.linspace(2, len(content) - 3, 60).astype(int).tolist()}:
            file.write_bytes(content[:length])
            assert image_fault(file) == 'cut off: a JPEG without its end', length
        assert image_fault(file, look_inside=False) == ''


def test_what_is_no_image_file(tmp_path):
    (tmp_path / 'empty.png').touch()
    os.mkfifo(tmp_path / 'pipe.png')  # which would be waited at for ever
    for name, fault in (
        ('empty.png', 'empty'),
        ('pipe.png', 'no file'),
        ('', 'no file'),
        ('none.png', 'No such file or directory'),
        ('a\0b.png', 'embedded null'),
        ('\ud800.png', 'surrogates not allowed'),
    ):
        assert fault in image_fault(f'{tmp_path}/{name}')
        assert image_fault(f'{tmp_path}/{name}', look_inside=False)
    (tmp_path / 'text.png').write_text('any')
    assert image_fault(tmp_path / 'text.png') == ''  # which is for the decoder to say


@pytest.mark.parametrize('content', ['[]', '3', '"images"', 'null'])
def test_something_else_is_no_set(file, content):
    file.write_text(content)
    with pytest.raises(ValueError, match=r'set\.json: expected an object with `images`'):
        read_coco(file)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_json_in_the_encodings_of_other_systems(file, encoding):
    file.write_bytes('{"Größe": [1.5, "λ"]}'.encode(encoding))
    assert read_json(file) == {'Größe': [1.5, 'λ']}


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'is no valid json'),
        (b'{"images": [', 'is no valid json'),
        (b'[' * 200_000, 'is no valid json'),
        (b'{"a": "\xff\xfe\xfa"}', 'cannot be read'),
    ],
)
def test_broken_json_is_named(file, content, message):
    file.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_json(file)
    assert str(caught.value).startswith(f'{file}: {message}')


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'none\.json: no such file'):
        read_json(tmp_path / 'none.json')
    with pytest.raises(ValueError, match='cannot be read: Is a directory'):
        read_json(tmp_path)


def test_reading_leaves_the_garbage_collector_as_it_was(file):
    import gc

    file.write_text('{')
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            with pytest.raises(ValueError):
                read_json(file)
            assert gc.isenabled() == enabled
        finally:
            gc.enable()


def test_text_and_bytes_are_written_alike_on_every_system(tmp_path):
    write_whole(tmp_path / 'new/folder/a.txt', 'ä\nb\r\n')
    write_whole(str(tmp_path / 'b.bin'), b'\x00\r\n')
    assert (tmp_path / 'new/folder/a.txt').read_bytes() == b'\xc3\xa4\nb\r\n'
    assert (tmp_path / 'b.bin').read_bytes() == b'\x00\r\n'
    write_whole(tmp_path / 'b.bin', 'new')
    assert (tmp_path / 'b.bin').read_text() == 'new'
    assert sorted(os.listdir(tmp_path)) == ['b.bin', 'new']


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    write_whole(tmp_path / 'a', 'old')

    def full(self, content):
        with self.open('wb') as handle:
            handle.write(content[:2])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('pathlib.Path.write_bytes', full)
    with pytest.raises(OSError, match='No space'):
        write_whole(tmp_path / 'a', 'something new')
    assert (tmp_path / 'a').read_text() == 'old' and os.listdir(tmp_path) == ['a']


def test_together_means_all_or_none(tmp_path):
    def files():
        yield tmp_path / 'a', 'A'
        yield tmp_path / 'b', 'B'
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_together(files())
    assert os.listdir(tmp_path) == []
    write_together([(tmp_path / 'a', 'A'), (tmp_path / 'b', 'B')])
    # A path that cannot be replaced keeps the others from being written, even when told to overwrite.
    (tmp_path / 'folder').mkdir()
    with pytest.raises(ValueError, match='folder: is a folder'):
        write_together([(tmp_path / 'a', 'new'), (tmp_path / 'folder', 'x')], overwrite=True)
    assert (tmp_path / 'a').read_text() == 'A' and sorted(os.listdir(tmp_path)) == ['a', 'b', 'folder']


def test_other_contents_are_replaced_only_on_request(tmp_path):
    write_together([(tmp_path / 'a', 'A'), (tmp_path / 'b', 'B')])
    write_together([(tmp_path / 'a', 'A'), (tmp_path / 'b', 'B'), (tmp_path / 'c', 'C')])
    # Of the same length, so that it is not the size that tells.
    with pytest.raises(ValueError, match='b: is there with other contents'):
        write_together([(tmp_path / 'd', 'D'), (tmp_path / 'b', 'X')])
    assert sorted(os.listdir(tmp_path)) == ['a', 'b', 'c'] and (tmp_path / 'b').read_text() == 'B'
    write_together([(tmp_path / 'd', 'D'), (tmp_path / 'b', 'X')], overwrite=True)
    assert (tmp_path / 'd').read_text() == 'D' and (tmp_path / 'b').read_text() == 'X'
