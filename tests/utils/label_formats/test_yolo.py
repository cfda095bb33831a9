"""YOLO txt with data.yaml."""

import shutil
from pathlib import Path

import pytest

from mmyolo_bgpenalty.cli.data.project_sets import read_sets
from mmyolo_bgpenalty.utils.label_formats.read import NoLabels, read_labeled
from tests.helpers.labels import NAMES, SIZE, bright_box, make_yolo, save_picture, yolo_line


@pytest.fixture
def yaml(tmp_path):
    return make_yolo(tmp_path, {'train': ['a b.jpg', 'C.JPG', 'sub/c.png'], 'val': ['v.png']})


def boxes_of(found, name):
    """The boxes of the picture with this name: class, x, y, width, height and whether it is ignored."""
    (boxes,) = [boxes for picture, boxes in found.boxes.items() if Path(picture.path).name == name]
    return [(box.name, *(round(value, 3) for value in box[1:5]), box.ignored) for box in boxes]


def labels(yaml, name, *lines):
    (yaml.parent / 'labels/train' / name).write_bytes('\n'.join(lines).encode())


def test_boxes_in_the_layout_of_ultralytics(yaml):
    sets = read_labeled(yaml.parent)
    assert list(sets) == ['train', 'val']
    found = sets['train']
    assert found.classes == list(NAMES) and found.notes == {}
    paths = sorted(picture.path for picture in found.boxes)
    assert paths == [str(yaml.parent / 'images/train' / name) for name in ('C.JPG', 'a b.jpg', 'sub/c.png')]
    assert {picture[1:] for picture in found.boxes} == {(*SIZE, 1)}
    assert boxes_of(found, 'C.JPG') == [(NAMES[0], 10, 20, 20, 16, False)]
    assert [box[0] for box in boxes_of(found, 'a b.jpg')] == list(NAMES)
    assert len(boxes_of(sets['val'], 'v.png')) == 2


@pytest.mark.parametrize(
    'text',
    [
        'path: .\ntrain: images/train\nval: images/val',
        'path: /content/datasets/cells\ntrain: images/train\nval: images/val',  # from another machine
        'train: ../images/train\nval: ../images/val',  # Roboflow
        'train: [images/train]\nval:\n  - images/val',
        'train: train.txt\nval: images/val',
    ],
)
def test_the_paths_that_a_yaml_may_have(yaml, text):
    lines = [f'./images/train/{name}' for name in ('a b.jpg', 'C.JPG', 'sub/c.png')]
    (yaml.parent / 'train.txt').write_text('\r\n'.join(lines))
    names = f'{{1: {NAMES[1]}, 0: {NAMES[0]}}}'
    yaml.write_text(f'names: {names}\n{text}\n', encoding='utf-8')
    sets = read_labeled(yaml)
    assert [len(sets[role].boxes) for role in ('train', 'val')] == [3, 1]
    assert sets['train'].classes == list(NAMES)
    assert [box[0] for box in boxes_of(sets['train'], 'a b.jpg')] == list(NAMES)


def test_the_layout_of_roboflow(yaml, monkeypatch):
    root = yaml.parent
    for part, name in (('train', 'train'), ('val', 'valid')):
        for kind in ('images', 'labels'):
            (root / name).mkdir(exist_ok=True)
            shutil.move(root / kind / part, root / name / kind)
    yaml.write_text(f'train: ../train/images\nval: ../valid/images\nnc: 2\nnames: {list(NAMES)}\n', encoding='utf-8')
    monkeypatch.chdir(root)
    sets = read_labeled(Path('data.yaml'))
    assert [len(sets[role].boxes) for role in ('train', 'val')] == [3, 1]
    assert sum(map(len, sets['train'].boxes.values())) == 4 and sets['train'].notes == {}
    # A part alone has no names. They come from the other part.
    assert len(read_labeled(Path('valid'), list(NAMES))['train'].boxes) == 1


def test_empty_missing_and_strange_label_files(yaml):
    root = yaml.parent
    labels(yaml, 'a b.txt')
    (root / 'labels/train/C.txt').unlink()
    labels(yaml, 'left.txt', '0 .5 .5 .1 .1')
    labels(yaml, 'classes.txt', *NAMES)
    save_picture(root / 'images/train/d.jpg').write_bytes(b'no picture')
    (root / 'images/train/e.jpg').touch()
    found = read_labeled(yaml)['train']
    assert boxes_of(found, 'a b.jpg') == boxes_of(found, 'C.JPG') == []
    assert len(found.boxes) == 3
    assert found.notes == {
        'pictures without a label file, taken as pictures without objects': ['C.JPG'],
        'pictures that cannot be read': ['d.jpg: no picture, or a broken header', 'e.jpg: empty'],
        'label files without a picture': ['left.txt'],
    }


def test_lines_of_all_kinds(yaml):
    lines = [
        yolo_line(0, 10, 20, 20, 16) + '\r',
        '',
        yolo_line(1, 10, 20, 20, 16) + ' 0.9',  # a score
        '1.0 0.125 0.25 0.5 0.25 0.5 0.75 0.125 0.75',  # a polygon
        yolo_line(0, -30, 20, 60, 16),  # reaches beyond
        yolo_line(0, -30, 20, 20, 16),  # outside
        yolo_line(0, 10, 20, 0.5, 16),
        yolo_line(7, 10, 20, 20, 16),
        'cell 0.5 0.5 0.1 0.1',
        '0 0.5 0.5 -0.1 0.1',
        '0 nan 0.5 0.1 0.1',
        '0 0.5 0.5',
    ]
    labels(yaml, 'C.txt', *lines)
    found = read_labeled(yaml)['train']
    assert boxes_of(found, 'C.JPG') == [
        (NAMES[0], 10, 20, 20, 16, False),
        (NAMES[1], 10, 20, 20, 16, False),
        (NAMES[1], 10, 16, 30, 32, False),
        (NAMES[0], 0, 20, 30, 16, False),
    ]
    assert found.notes == {
        'boxes that reach beyond their picture: cut at its edge': ['C.txt'],
        'boxes outside their picture, or without an area: left out': ['C.txt'],
        'boxes with a side below 1 pixel: left out': ['C.txt'],
        'boxes of classes that `names` lacks: left out': ['C.txt, class 7'],
        'lines that are no labels': [f'C.txt, line {number}' for number in (9, 10, 11, 12)],
    }


def test_keypoints_are_not_taken_for_a_polygon(yaml):
    with yaml.open('a') as file:
        file.write('kpt_shape: [2, 3]\n')
    labels(yaml, 'C.txt', yolo_line(0, 10, 20, 20, 16) + ' 0.1 0.1 2 0.9 0.9 2')
    assert boxes_of(read_labeled(yaml)['train'], 'C.JPG') == [(NAMES[0], 10, 20, 20, 16, False)]


@pytest.mark.parametrize('turn', range(1, 9))
def test_a_picture_that_exif_turns(yaml, turn):
    """Relative coordinates belong to the picture as it is shown."""
    path = save_picture(yaml.parent / 'images/train/C.JPG', turn=turn)
    x, y, width, height = bright_box(path)
    across, down = SIZE[::-1] if turn > 4 else SIZE
    labels(yaml, 'C.txt', f'0 {(x + width / 2) / across} {(y + height / 2) / down} {width / across} {height / down}')
    found = read_labeled(yaml)['train']
    assert boxes_of(found, 'C.JPG') == [(NAMES[0], x, y, width, height, False)]


def test_names_in_classes_txt(yaml):
    yaml.unlink()
    (yaml.parent / 'labels/classes.txt').write_text('\n'.join(NAMES), encoding='utf-8')
    found = read_labeled(yaml.parent)['train']
    assert len(found.boxes) == 4 and found.classes == list(NAMES)
    flat = yaml.parent / 'flat'  # as labelImg leaves it
    flat.mkdir()
    for file in [*yaml.parent.glob('*/train/*.*'), yaml.parent / 'labels/classes.txt']:
        shutil.move(file, flat / file.name)
    found = read_labeled(flat)['train']
    assert [len(boxes) for boxes in found.boxes.values()] == [1, 2] and found.notes == {}


@pytest.mark.parametrize(
    'text, message',
    [
        ('train: images/train', 'Expected `names` with the names of the classes, but found none'),
        ('names: [a, b, a]\ntrain: images/train', 'Expected each class once, but got a more than once'),
        ('names: []\ntrain: images/train', 'Expected one or more class names, none of them empty, but got []'),
        ('names: {0: a, 2: b}\ntrain: images/train', 'Expected `names` to have the numbers 0 to 1, but got 0, 2'),
        (
            'names: [a, b]\ntrain: images/trian',
            'but got images/trian',
        ),
        ('names: [a, b]\ntrain: images/train\nval: images/vaal', '/images/val meant?'),
        ('names: [a, b]\ntrain: images/train\nval: images/xyz', 'but got images/xyz. If you remove `val`, some'),
        ('names: [a', 'is not valid YAML'),
    ],
)
def test_mistakes_in_a_yaml_are_named(yaml, text, message):
    yaml.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_labeled(yaml)
    assert str(caught.value).startswith(f'{yaml}: ') and message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_folder_without_names(yaml):
    yaml.unlink()
    with pytest.raises(NoLabels, match='has txt files, but no data.yaml'):
        read_labeled(yaml.parent)


@pytest.mark.parametrize('line', ['100 100 40 20', '0,0.5,0.5,0.2,0.2', yolo_line(9, 10, 20, 20, 16)])
def test_a_picture_whose_labels_are_all_refused_is_no_background(yaml, line):
    labels(yaml, 'C.txt', line)
    found = read_labeled(yaml)['train']
    assert 'C.JPG' not in {Path(picture.path).name for picture in found.boxes}
    assert found.notes['pictures without a usable label among their labels: left out'] == ['C.JPG']


def test_names_that_yaml_takes_for_truth_values(yaml):
    yaml.write_text('names: [no, yes]\ntrain: images/train\n')
    assert read_labeled(yaml)['train'].classes == ['no', 'yes']


def test_a_picture_that_two_paths_name_is_read_once(yaml):
    yaml.write_text(f'names: {list(NAMES)}\ntrain: [images/train, images]\n', encoding='utf-8')
    assert len(boxes_of(read_labeled(yaml)['train'], 'C.JPG')) == 1


@pytest.mark.parametrize('path', ['/content/datasets/cells', 'labels'])
def test_a_wrong_path_in_a_yaml_is_named(yaml, path):
    yaml.write_text(f'names: {list(NAMES)}\npath: {path}\ntrain: images/train\nval: images/val\n', encoding='utf-8')
    for role, found in read_labeled(yaml).items():
        assert found.notes == {f'wrong `path`, not used: `{role}` is in {yaml.parent}': [path]}
    yaml.write_text(f'names: {list(NAMES)}\npath: {path}\ntrain: images/trian\n', encoding='utf-8')
    with pytest.raises(ValueError, match=f'in .*, but got images/trian; is {yaml.parent}/images/train meant'):
        read_labeled(yaml)


def test_a_missing_folder_of_labels_is_named(yaml):
    root = yaml.parent
    (root / 'labels/val').rename(root / 'labels/vall')
    found = read_labeled(yaml)
    folder = f'{root}/labels/val; is {root}/labels/vall meant?'
    assert found['val'].notes['label folders without a file for any picture'] == [folder]
    assert not found['train'].notes
    with pytest.raises(ValueError, match=r'got none\. Looked for their label files in .*/labels/val; is'):
        read_sets(yaml, None, [], [], None)
    shutil.rmtree(root / 'labels')
    with pytest.raises(ValueError, match='boxes to train on.* none. Looked for their label files in .*train'):
        read_sets(yaml, None, [], [], None)
