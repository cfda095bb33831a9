"""The command predict, with a detector that sees bright squares."""

import json
import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from mmyolo_bgpenalty.cli import predict, train
from mmyolo_bgpenalty.cli.data import init
from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.label_formats.read import read_labeled
from tests.helpers.seen_squares import see_squares, write_checkpoint, write_square
from tests.helpers.tiny import CLASSES

SQUARES = {'a/x.png': ((240, 192), (30, 60, 90, 45), 1), 'b/x.png': ((80, 64), (16, 8, 24, 24), 2)}


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    return list(map(str, write_checkpoint(tmp_path_factory.mktemp('trained'), data)))


@pytest.fixture
def run(trained, monkeypatch, capsys, tmp_path):
    """Run the command on a path in an empty folder. Returns its exit code, stdout and stderr."""
    see_squares(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['predict.py'])
    return lambda *arguments: (predict.main([*trained, *map(str, arguments)]), *capsys.readouterr())


@pytest.fixture
def pictures(tmp_path):
    """Two pictures with the same name in two folders, one without an object, one that is broken."""
    for name, (size, box, label) in SQUARES.items():
        write_square(tmp_path / 'set' / name, size, box, label)
    write_square(tmp_path / 'set/empty.png', (40, 40), (0, 0, 0, 0), 0)
    (tmp_path / 'set/broken.jpg').write_text('no picture')
    return tmp_path / 'set'


@pytest.fixture
def video(tmp_path):
    """Three frames of 64 x 48. The square moves."""
    writer = cv2.VideoWriter(str(tmp_path / 'clip.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 5, (64, 48))
    for x in (8, 16, 24):
        frame = np.full((48, 64, 3), 30, np.uint8)
        frame[8:24, x : x + 16, 0] = 230
        writer.write(frame)
    writer.release()
    return tmp_path / 'clip.avi'


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def test_init_reads_the_pictures_without_drawn_boxes(run, tmp_path):
    write_square(tmp_path / 'set/x.jpg', *SQUARES['b/x.png'])
    assert run('set', '--out', 'new', '--labels', 'coco')[0] == 0
    (picture,) = read_labeled(tmp_path / 'new')['train'].boxes
    assert Path(picture.path).resolve() == tmp_path / 'set/x.jpg' and (tmp_path / 'new/pictures/x.jpg').exists()


def test_a_folder_gives_pictures_and_both_kinds_of_labels(run, pictures, tmp_path):
    code, out, err = run('set', '--out', 'new', '--labels', 'coco', 'yolo')
    assert code == 0 and '3 pictures with 2 boxes (score >= 0.25): square 0, disc 1, bar 1' in out
    assert err.startswith('1 of 4 pictures cannot be read: broken.jpg (') and err.count('\n') == 1
    names = ['a/x', 'b/x', 'empty']
    expected = ['data.yaml', *(f'labels/{name}.txt' for name in names), *(f'pictures/{name}.jpg' for name in names)]
    expected += [f'images/{name}.png' for name in names]
    assert files(tmp_path / 'new') == sorted([*expected, 'predictions.json'])

    coco = read_coco('new/predictions.json', training=True)
    assert [entry['name'] for entry in coco['categories']] == list(CLASSES)
    images = {entry['file_name']: entry for entry in coco['images']}
    assert {name: (entry['width'], entry['height']) for name, entry in images.items()} == {
        **{name: size for name, (size, _, _) in SQUARES.items()},
        'empty.png': (40, 40),
    }
    assert len(coco['annotations']) == 2
    for name, (size, box, label) in SQUARES.items():
        (found,) = [a for a in coco['annotations'] if a['image_id'] == images[name]['id']]
        np.testing.assert_allclose(found['bbox'], box, atol=1.01 * size[0] / 80)
        assert (found['category_id'], found['score']) == (label + 1, 0.9)

        (line,) = (tmp_path / 'new/labels' / name).with_suffix('.txt').read_text().splitlines()
        number, x, y, width, height = map(float, line.split())
        read = np.array([x - width / 2, y - height / 2, width, height]) * np.tile(size, 2)
        assert number == label
        np.testing.assert_allclose(read, found['bbox'], atol=0.01)
    assert (tmp_path / 'new/labels/empty.txt').read_text() == ''
    assert yaml.safe_load((tmp_path / 'new/data.yaml').read_text())['names'] == dict(enumerate(CLASSES))


def test_the_pictures_show_the_boxes(run, pictures, tmp_path):
    assert run('set/b/x.png')[0] == 0
    drawn = np.asarray(Image.open('predictions/x/pictures/x.jpg')).astype(int)
    assert files(tmp_path / 'predictions') == ['x/pictures/x.jpg'] and drawn.shape == (512, 640, 3)
    enlarged = np.asarray(Image.open('set/b/x.png').convert('RGB').resize((640, 512))).astype(int)
    changed = np.abs(drawn - enlarged).max(axis=-1) > 60
    rows, columns = np.nonzero(changed[:, 200:])  # the text is left of this
    assert abs(rows.min() - 64) < 8 and abs(rows.max() - 256) < 8 and abs(columns.max() + 200 - 320) < 8


def test_each_run_without_out_has_a_folder_of_its_own(run, pictures, tmp_path):
    for folder in ('x', 'x2', 'x3'):
        code, out, _ = run('set/b/x.png')
        assert code == 0 and f'written to predictions/{folder}: pictures' in out
    assert run('set/b')[0] == 0
    assert sorted(path.name for path in (tmp_path / 'predictions').iterdir()) == ['b', 'x', 'x2', 'x3']


def test_a_score_threshold_and_scores_in_yolo_files(run, pictures, tmp_path):
    assert run('set', '--out', 'new', '--labels', 'yolo', '--save-conf')[0] == 0
    assert float((tmp_path / 'new/labels/a/x.txt').read_text().split()[5]) == pytest.approx(0.9, abs=1e-5)
    assert '3 pictures with 0 boxes (score >= 0.95)' in run('set', '--score', 0.95, '--out', 'other')[1]


def test_yolo_labels_of_a_folder_are_a_set_to_train_on(run, pictures, tmp_path):
    """The pictures are links, since they may be large."""
    assert run('set', '--out', 'new', '--labels', 'yolo')[0] == 0
    found = read_labeled(Path('new'))['train']  # as `init` reads it
    assert sorted(os.path.relpath(picture.path, tmp_path / 'new/images') for picture in found.boxes) == sorted(
        os.path.relpath(path, tmp_path / 'set') for path in (tmp_path / 'set').rglob('*.png')
    )
    assert all(os.path.islink(picture.path) for picture in found.boxes) and any(found.boxes.values())


def test_voc_labels_of_a_folder_are_those_of_the_coco_json(run, pictures, tmp_path):
    """A box that is corrected by hand is read as `init` reads it."""
    assert run('set', '--out', 'new', '--labels', 'voc', 'coco')[0] == 0
    coco = read_coco('new/predictions.json')
    names = {image['id']: image['file_name'] for image in coco['images']}
    expected = {names[one['image_id']]: one['bbox'] for one in coco['annotations']}
    (tmp_path / 'new/predictions.json').unlink()
    (tmp_path / 'set/broken.jpg').unlink()
    found = read_labeled(Path('new'))['train']
    read = {os.path.relpath(picture.path, tmp_path / 'new/images'): boxes for picture, boxes in found.boxes.items()}
    assert read['empty.png'] == [] and len(expected) == 2
    for name, box in expected.items():
        (one,) = read[name]
        np.testing.assert_allclose(one[1:5], box, atol=0.011)
    xml = tmp_path / 'new/Annotations/a/x.xml'
    text = xml.read_text()
    old = re.search('<xmin>(.*?)</xmin>', text).group(1)
    xml.write_text(text.replace(f'<xmin>{old}<', f'<xmin>{float(old) + 3}<'))
    corrected = read_labeled(Path('new'))['train'].boxes
    (box,) = next(boxes for picture, boxes in corrected.items() if '/a/' in picture.path)
    assert box.x == pytest.approx(expected['a/x.png'][0] + 3, abs=0.011)


def test_a_round_trip_ends_with_a_training(run, tmp_path, monkeypatch):
    """Predict, correct one box by hand, make a project of the corrected file, and train on."""
    for number in range(10):
        write_square(tmp_path / f'set/{number}.png', (96, 64), (8 * number, 16, 16, 16), number % len(CLASSES))
    assert run('set', '--out', 'new', '--labels', 'coco')[0] == 0
    file = tmp_path / 'new/predictions.json'
    coco = json.loads(file.read_text())
    assert len(coco['annotations']) == 10 and all('score' in one for one in coco['annotations'])
    coco['annotations'][3]['bbox'][2] += 5
    corrected = coco['annotations'][3]['bbox']
    file.write_text(json.dumps(coco))
    assert init.main(['mine', '--labeled', str(file), '--model', 'n', '--size', '64']) == 0
    sets = [read_coco(path) for path in (tmp_path / 'mine/annotations').glob('*.json')]
    assert corrected in [one['bbox'] for found in sets for one in found['annotations']]
    monkeypatch.undo()  # the network sees again
    monkeypatch.chdir(tmp_path)
    loaders = [f'{name}_dataloader.num_workers=0' for name in ('train', 'val')]
    options = ['train_cfg.max_epochs=1', 'burn_in=0', 'lambda_bg_warmup=0', f'visualizer.name={tmp_path}', *loaders]
    assert train.main(['mine/mine.py', '--work-dir', 'wd', '--cfg-options', *options]) == 0
    assert (tmp_path / 'wd/last_checkpoint').exists()


def test_a_video_becomes_a_video_and_labeled_frames(run, video, tmp_path):
    code, out, _ = run('clip.avi', '--out', 'new', '--labels', 'coco', 'yolo')
    assert code == 0 and '3 pictures with 3 boxes' in out
    names = [f'clip_00000{number}' for number in (1, 2, 3)]
    expected = [*(f'images/{name}.jpg' for name in names), *(f'labels/{name}.txt' for name in names)]
    assert files(tmp_path / 'new') == sorted([*expected, 'data.yaml', 'predictions.json', 'video.mp4'])
    coco = json.loads((tmp_path / 'new/predictions.json').read_text())
    assert [entry['file_name'] for entry in coco['images']] == [f'{name}.jpg' for name in names]
    np.testing.assert_allclose([a['bbox'] for a in coco['annotations']], [[x, 8, 16, 16] for x in (8, 16, 24)], atol=2)
    for path in ('new/data.yaml', 'new/predictions.json'):
        found = read_labeled(Path(path))['train']  # as `init` reads it
        assert found.classes == list(CLASSES) and not found.notes
        boxes = [tuple(box[1:5]) for _, boxes in sorted(found.boxes.items()) for box in boxes]
        np.testing.assert_allclose(boxes, [a['bbox'] for a in coco['annotations']], atol=0.01)
    drawn = cv2.VideoCapture('new/video.mp4')
    assert (drawn.get(cv2.CAP_PROP_FRAME_COUNT), drawn.get(cv2.CAP_PROP_FPS)) == (3, 5)
    assert drawn.read()[1].shape == (480, 640, 3)


def test_without_a_video_codec_the_frames_are_pictures(run, video, tmp_path, monkeypatch):
    class NoCodec:
        def __init__(self, *args):
            pass

        def isOpened(self):
            return False

    monkeypatch.setattr('mmyolo_bgpenalty.cli.predict.cv2.VideoWriter', NoCodec)
    NoCodec.fourcc = staticmethod(cv2.VideoWriter_fourcc)
    assert run('clip.avi', '--out', 'new')[0] == 0
    assert files(tmp_path / 'new') == [f'pictures/clip_00000{number}.jpg' for number in (1, 2, 3)]


def test_what_was_predicted_is_kept_if_the_command_is_stopped(run, pictures, tmp_path, monkeypatch):
    def stop(self, name, image):
        if name == 'b/x.png':
            raise KeyboardInterrupt

    monkeypatch.setattr('mmyolo_bgpenalty.cli.predict.PictureFolder.write', stop)
    with pytest.raises(KeyboardInterrupt):
        run('set', '--out', 'new', '--labels', 'coco', '--cfg-options', 'test_dataloader.batch_size=1')
    assert [image['file_name'] for image in read_coco('new/predictions.json')['images']] == ['a/x.png']


def test_bad_input_gives_an_error_of_one_line_and_no_folder(run, pictures, tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/mine.txt').write_text('mine')
    write_square(tmp_path / 'set/a/x.jpg', (8, 8), (0, 0, 0, 0), 0)
    for arguments, message in (
        (['none'], 'none: no such file or folder'),
        (['full'], 'full: expected pictures (.jpg, '),
        (['full/mine.txt'], 'mine.txt: expected a picture'),
        (['set', '--out', 'full'], 'Expected --out to be a new or an empty folder, but full has content'),
        (['set', '--score', 2], 'Expected `--score` to be in [0, 1], but got 2.0'),
        (['set', '--save-conf'], 'Expected --save-conf only with --labels yolo'),
        (['set', '--labels', 'yolo'], 'a/x.jpg and a/x.png would share the label file a/x.txt'),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and message in err and err.count('\n') == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['full', 'set'] and files(tmp_path / 'full') == [
        'mine.txt'
    ]


def test_pictures_of_which_none_can_be_read_give_an_exit_code(run, pictures, tmp_path):
    code, out, err = run('set/broken.jpg', '--labels', 'coco')
    assert code == 1 and '1 of 1 pictures cannot be read: broken.jpg' in err and '0 pictures' in out
