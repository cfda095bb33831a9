"""Pascal VOC xml files and COCO json files."""

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmyolo_bgpenalty.utils.label_formats.labeled_set import read_picture
from mmyolo_bgpenalty.utils.label_formats.read import NoLabels, read_labeled, read_pictures
from tests.helpers.labels import NAMES, SIZE, bright_box, make_coco, make_voc, save_picture, voc_xml

FIVE = ['a.jpg', 'B.JPG', 'c d.png', 'é.jpeg', 'e.png']


def by_name(found):
    """Name of a picture -> its boxes: class, x, y, width, height and whether it is ignored."""
    return {Path(picture.path).name: [tuple(box) for box in boxes] for picture, boxes in found.boxes.items()}


def test_voc_folders(tmp_path):
    """Pixels are counted from 1, and the last pixel belongs to the box."""
    found = read_labeled(make_voc(tmp_path, FIVE))['train']
    assert found.classes == sorted(NAMES) and found.notes == {}
    assert by_name(found) == {name: [(NAMES[i % 2], 10, 20, 20, 16, False)] for i, name in enumerate(FIVE)}
    assert bright_box(tmp_path / 'JPEGImages/a.jpg') == [10, 20, 20, 16]


def test_voc_pixels_from_0(tmp_path):
    root = make_voc(tmp_path, FIVE)
    (root / 'Annotations/e.xml').write_text(voc_xml('e.png', [('cell', 0, 0.5, 30.5, 36)]))
    found = by_name(read_labeled(root)['train'])
    assert found['e.png'] == [('cell', 0, 0.5, 30.5, 35.5, False)]
    assert found['a.jpg'] == [('cell', 11, 21, 19, 15, False)]


def test_voc_parts(tmp_path):
    root = make_voc(tmp_path, FIVE)
    (root / 'ImageSets/Main').mkdir(parents=True)
    for part, stems in (('train', 'a\nB\n'), ('val', 'e  1\n'), ('test', 'é\n')):
        (root / f'ImageSets/Main/{part}.txt').write_text(stems)
    sets = read_labeled(root)
    assert {role: list(by_name(found)) for role, found in sets.items()} == {
        'train': ['B.JPG', 'a.jpg'],
        'val': ['e.png'],
    }
    assert sets['train'].notes == {}


def test_voc_beside_the_pictures(tmp_path):
    """Roboflow's folders. The same name may be in both of them."""
    for part in ('train', 'valid'):
        root = make_voc(tmp_path / part, ['a.jpg', 'b.jpg'])
        for file in [*root.glob('*/*')]:
            shutil.move(file, root / file.name)
    sets = read_labeled(tmp_path)
    paths = {role: [picture.path for picture in found.boxes] for role, found in sets.items()}
    assert paths['train'] == [str(tmp_path / 'train' / name) for name in ('a.jpg', 'b.jpg')]
    assert paths['val'] == [str(tmp_path / 'valid' / name) for name in ('a.jpg', 'b.jpg')]
    assert len(read_labeled(tmp_path / 'valid')['train'].boxes) == 2


def test_what_is_left_out_of_voc(tmp_path):
    root = make_voc(tmp_path, FIVE)
    (root / 'Annotations/B.xml').write_text('<annotation>')
    (root / 'Annotations/e.xml').unlink()
    (root / 'Annotations/f.xml').write_text(voc_xml('f.png', []))
    (root / 'Annotations/a.xml').write_text(voc_xml('a.jpg', [('cell', 10, 20, 5, 36), ('cell', 'x', 1, 2, 3)]))
    (root / 'Annotations/é.xml').write_text(
        voc_xml('é.jpeg', [('cell', 5, 5, 9, 9)], size=(640, 480)), encoding='utf-8'
    )
    easy = voc_xml('c d.png', [('cell', 11, 21, 30, 36)], size=(0, 0), extra='<difficult>1</difficult>')
    (root / 'Annotations/c d.xml').write_text(easy)
    found = read_labeled(root)['train']
    assert by_name(found) == {'a.jpg': [], 'c d.png': [('cell', 10, 20, 20, 16, True)]}
    assert found.notes == {
        'label files that cannot be read': ['B.xml: no element found: line 1, column 12'],
        'objects without a proper box or name: left out': ['a.xml', 'a.xml'],
        'objects marked as difficult: neither object nor background': ['c d.xml'],
        'label files without a picture': ['f.xml'],
        'pictures with another size than in their label': ['é.jpeg: 80 x 64, but its label says 640 x 480'],
        'pictures without an xml file: left out': ['e.png'],
    }


@pytest.mark.parametrize('turn', range(1, 9))
def test_pictures_on_their_side(tmp_path, turn):
    """The label has the size of the stored or of the shown picture. Both give the box of the shown picture."""
    root = make_voc(tmp_path, ['a.jpg', 'b.jpg'])
    path = save_picture(root / 'JPEGImages/a.jpg', turn=turn)
    shown = tuple(bright_box(path))
    x, y, width, height = shown
    as_shown = voc_xml('a.jpg', [('cell', x + 1, y + 1, x + width, y + height)], SIZE[::-1] if turn > 4 else SIZE)
    as_stored = voc_xml('a.jpg', [('cell', 11, 21, 30, 36)])
    for text in (as_shown, as_stored) if turn > 4 else (as_shown,):
        (root / 'Annotations/a.xml').write_text(text)
        (picture, (box,)) = next(iter(read_labeled(root)['train'].boxes.items()))
        assert tuple(box) == ('cell', *shown, False)
        assert (picture.width, picture.height) == (SIZE[::-1] if turn > 4 else SIZE)


def test_a_coco_json_and_the_folder_of_its_pictures(tmp_path):
    file = make_coco(tmp_path, FIVE)
    for path in (file, tmp_path):
        found = read_labeled(path)['train']
        assert by_name(found) == {name: [(NAMES[i % 2], 10, 20, 20, 16, False)] for i, name in enumerate(FIVE)}
        assert found.classes == ['nothing', *NAMES] and found.notes == {}


def test_coco_parts_in_annotations_and_in_folders(tmp_path):
    for layout in ('like COCO', 'like Roboflow'):
        root = tmp_path / layout
        for part, names in (('train', FIVE[:3]), ('val', FIVE[3:])):
            file = make_coco(root, names)
            target = root / f'annotations/instances_{part}2017.json'
            if layout == 'like Roboflow':
                target = root / part / '_annotations.coco.json'
            target.parent.mkdir(exist_ok=True, parents=True)
            file.rename(target)
            (root / part).mkdir(exist_ok=True)
            (root / 'images').rename(root / part / 'images')
        sets = read_labeled(root)
        assert {role: list(by_name(found)) for role, found in sets.items()} == {'train': FIVE[:3], 'val': FIVE[3:]}


def test_what_is_left_out_of_coco(tmp_path):
    file = make_coco(tmp_path, FIVE)
    coco = json.loads(file.read_text())
    coco['annotations'][0]['iscrowd'] = 1
    coco['annotations'][1]['bbox'] = [70, 20, 30, 16]
    coco['images'][2]['width'] = 81
    coco['images'][3]['file_name'] = 'lost.jpg'
    file.write_text(json.dumps(coco))
    found = read_labeled(file)['train']
    assert by_name(found) == {
        'a.jpg': [(NAMES[0], 10, 20, 20, 16, True)],
        'B.JPG': [(NAMES[1], 70, 20, 10, 16, False)],
        'e.png': [(NAMES[0], 10, 20, 20, 16, False)],
    }
    assert found.notes == {
        'pictures with another size than in their label': ['c d.png: 80 x 64, but its label says 81 x 64'],
        'pictures that cannot be read': ['lost.jpg: No such file or directory'],
        'boxes that reach beyond their picture: cut at its edge': ['B.JPG'],
    }


@pytest.mark.parametrize(
    'make, kind, message',
    [
        (lambda root: root / 'none', ValueError, 'no such file or folder'),
        (lambda root: save_picture(root / 'a.jpg').parent, NoLabels, 'has no labels. Expected a COCO json, YOLO txt'),
        (lambda root: make_voc(root / 'set', FIVE).parent, NoLabels, 'Name one of its folders with labels: set'),
        (lambda root: save_picture(root / 'a.jpg'), ValueError, 'Expected a COCO json, YOLO txt'),
        (lambda root: make_coco(root, []), ValueError, '`images` is empty'),
        (lambda root: make_coco(root, ['x.jpg']).with_name('other.json'), ValueError, 'no such file or folder'),
    ],
)
def test_paths_without_labels(tmp_path, make, kind, message):
    path = make(tmp_path)
    with pytest.raises(kind) as caught:
        read_labeled(path)
    assert str(caught.value).startswith(f'{path}: ') and message in str(caught.value)


def test_json_files_that_are_not_clear(tmp_path):
    for name in ('one.json', 'two.json'):
        make_coco(tmp_path, FIVE, name)
    with pytest.raises(ValueError, match='has several json files. Name one of them: one.json, two.json'):
        read_labeled(tmp_path)
    shutil.rmtree(tmp_path / 'images')
    with pytest.raises(
        ValueError, match='one.json: Expected its pictures in .*, but found none of the first 5, such as a.jpg'
    ):
        read_labeled(tmp_path / 'one.json')


def test_pictures_without_labels(tmp_path):
    save_picture(tmp_path / 'more/a.jpg')
    (tmp_path / 'more/b.jpg').touch()
    found = read_pictures(tmp_path / 'more')
    assert by_name(found) == {'a.jpg': []} and found.notes == {'pictures that cannot be read': ['b.jpg: empty']}
    assert len(read_pictures(make_coco(tmp_path, FIVE)).boxes) == 5
    (tmp_path / 'more/a.jpg').unlink()
    with pytest.raises(ValueError, match='but found none; 1 cannot be read, such as b.jpg: empty'):
        read_pictures(tmp_path / 'more')


def test_without_globox_coco_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'globox', None)
    assert read_labeled(make_coco(tmp_path / 'coco', FIVE))
    with pytest.raises(ImportError, match='read by globox: pip install globox$'):
        read_labeled(make_voc(tmp_path / 'voc', FIVE))


def test_names_with_spaces_in_image_sets(tmp_path):
    root = make_voc(tmp_path, ['my pic 0.jpg', 'my pic 1.jpg', 'b.jpg'])
    (root / 'ImageSets/Main').mkdir(parents=True)
    (root / 'ImageSets/Main/train.txt').write_text('my pic 0\nb 1\n')  # a list of one class has numbers
    (root / 'ImageSets/Main/val.txt').write_text('my pic 1\n')
    sets = read_labeled(root)
    names = {role: sorted(Path(picture.path).name for picture in found.boxes) for role, found in sets.items()}
    assert names == {'train': ['b.jpg', 'my pic 0.jpg'], 'val': ['my pic 1.jpg']}


@pytest.mark.parametrize('encoding', ['gb2312', 'no-encoding'])
def test_an_xml_in_an_encoding_that_python_cannot_read_is_noted(tmp_path, encoding):
    root = make_voc(tmp_path, ['a.jpg', 'b.jpg'])
    (root / 'Annotations/a.xml').write_text(f'<?xml version="1.0" encoding="{encoding}"?><annotation/>')
    found = read_labeled(root)['train']
    assert len(found.boxes) == 1 and any('a.xml' in file for files in found.notes.values() for file in files)


def test_orientation_comes_from_exif_and_not_from_xmp(tmp_path):
    """OpenCV reads EXIF only."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    picture = Image.fromarray(np.zeros((40, 100, 3), np.uint8))
    picture.save(tmp_path / 'a.jpg', xmp=xmp)
    height, width = cv2.imread(str(tmp_path / 'a.jpg')).shape[:2]
    assert read_picture(str(tmp_path / 'a.jpg'))[1:3] == (width, height) == (100, 40)


def test_a_coco_json_that_states_no_size(tmp_path):
    file = make_coco(tmp_path, FIVE)
    coco = json.loads(file.read_text())
    for image in coco['images']:
        image.update(width=0, height=0)
    file.write_text(json.dumps(coco))
    assert len(read_labeled(file)['train'].boxes) == 5


def test_sub_folders_of_annotations(tmp_path):
    """The pictures are in the same sub-folder, or in one folder."""
    root = make_voc(tmp_path, FIVE)
    (root / 'Annotations/one/two').mkdir(parents=True)
    for name in ('a', 'c d', 'e'):
        (root / f'Annotations/{name}.xml').rename(root / f'Annotations/one/two/{name}.xml')
    (root / 'JPEGImages/one/two').mkdir(parents=True)
    (root / 'JPEGImages/c d.png').rename(root / 'JPEGImages/one/two/c d.png')
    for file in (root / 'Annotations').glob('*.xml'):
        file.unlink()
    for folder in (root, root / 'Annotations'):
        found = read_labeled(folder)['train']
        assert sorted(by_name(found)) == ['a.jpg', 'c d.png', 'e.png'] and all(found.boxes.values())
        assert found.notes == {'pictures without an xml file: left out': ['B.JPG', 'é.jpeg']}
    (root / 'ImageSets/Main').mkdir(parents=True)
    (root / 'ImageSets/Main/train.txt').write_text('one/two/a\n')
    assert list(by_name(read_labeled(root)['train'])) == ['a.jpg']


def test_a_picture_counts_once(tmp_path):
    """Jupyter's copies of files are not read. Of two files of one picture the second is noted."""
    root = make_voc(tmp_path, FIVE)
    boxes = by_name(read_labeled(root)['train'])
    (root / 'Annotations/one').mkdir()
    for file in (root / 'Annotations').glob('*.xml'):
        file.rename(root / 'Annotations/one' / file.name)
    for copy in ('one/.ipynb_checkpoints/a-checkpoint.xml', 'two/a.xml'):
        (root / 'Annotations' / copy).parent.mkdir()
        shutil.copy(root / 'Annotations/one/a.xml', root / 'Annotations' / copy)
    found = read_labeled(root)['train']
    assert by_name(found) == boxes
    assert found.notes == {'label files left out, because their picture has another label file': ['a.xml']}


def test_parts_as_sub_folders_of_annotations(tmp_path):
    root = make_voc(tmp_path, FIVE)
    for part, names in (('train', ('a', 'B', 'é')), ('val', ('c d', 'e'))):
        (root / 'Annotations' / part).mkdir()
        for name in names:
            (root / f'Annotations/{name}.xml').rename(root / f'Annotations/{part}/{name}.xml')
    sets = read_labeled(root)
    assert {role: len(found.boxes) for role, found in sets.items()} == {'train': 3, 'val': 2}
    assert not sets['train'].notes and not sets['val'].notes


@pytest.mark.parametrize('used', [(3,), (1,), (1, 3), ()])
def test_two_coco_categories_with_the_same_name(tmp_path, used):
    """Roboflow's category of the group may have the name of a class."""
    file = make_coco(tmp_path, FIVE)
    coco = json.loads(file.read_text())
    coco['categories'] = [dict(id=1, name='cell'), dict(id=3, name='cell'), dict(id=4, name='x')]
    for number, annotation in enumerate(coco['annotations']):
        annotation['category_id'] = used[number % len(used)] if used else 4
    file.write_text(json.dumps(coco))
    if len(used) > 1:
        message = "Expected each class once, but the categories 1 and 3 have boxes and the same name 'cell'"
        with pytest.raises(ValueError, match=f'labels.json: {message}. Rename'):
            read_labeled(file)
        return
    found = read_labeled(file)['train']
    assert found.classes == ['cell', 'x']
    assert {name for boxes in by_name(found).values() for name, *_ in boxes} == {'cell' if used else 'x'}
    assert found.notes == {'categories without boxes that have the name of another one: left out': ['cell']}
