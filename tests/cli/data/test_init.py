"""The command that makes a project from labeled pictures."""

import json
import re
import shutil

import pytest
import torch
from mmengine.config import Config

from mmyolo_bgpenalty.cli.data import init
from mmyolo_bgpenalty.cli.data.init import main
from mmyolo_bgpenalty.cli.data.leaf_config import median_side
from mmyolo_bgpenalty.cli.train import main as train
from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.label_formats.labeled_set import Box, Picture
from tests.helpers.labels import NAMES, make_coco, make_voc, make_yolo, save_picture

SMALL = ('--model', 'n', '--size', 64)
TEN = [f'{number}.jpg' for number in range(10)]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in a folder of its own; return its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(init, 'training_time', lambda *_: 'about 25 min on this CPU')

    def call(*arguments):
        return (main(list(map(str, arguments))), *capsys.readouterr())

    return call


def project(tmp_path, name='cells'):
    """The config of a project and its sets."""
    folder = tmp_path / name
    sets = {file.stem: read_coco(file, training=True) for file in (folder / 'annotations').glob('*.json')}
    return Config.fromfile(folder / f'{name}.py'), sets


def names_in(coco):
    return [image['file_name'] for image in coco['images']]


def test_from_voc_to_a_config_for_labels_only(run, tmp_path):
    make_voc(tmp_path / 'voc', TEN)
    torch.save({'backbone.stem.conv.weight': torch.zeros(32, 3, 3, 3)}, tmp_path / 'w.pth')
    code, out, err = run('cells', '--labeled', 'voc', '--size', 96, 64, '--weights', 'w.pth')
    assert (code, err) == (0, '')
    cfg, sets = project(tmp_path)
    assert sorted(sets) == ['train', 'val'] and not check_config(cfg)
    assert [len(sets[name]['images']) for name in ('train', 'val')] == [8, 2]
    assert sorted(names_in(sets['train']) + names_in(sets['val'])) == TEN
    assert [category['name'] for category in sets['train']['categories']] == sorted(NAMES) == list(cfg.classes)
    assert {tuple(box['bbox']) for box in sets['train']['annotations']} == {(10, 20, 20, 16)}
    assert cfg.img_scale == (96, 64) and cfg.load_from == str(tmp_path / 'w.pth')
    assert cfg.model.backbone.widen_factor == 0.5
    assert '│ pictures           │     8 │   2 │' in out and '--split' not in out
    assert out.endswith(
        'Next:\n'
        '    python -m mmyolo_bgpenalty check cells/cells.py --step\n'
        '    python -m mmyolo_bgpenalty train cells/cells.py\n'
        '    python -m mmyolo_bgpenalty report work_dirs/cells\n'
    )


def test_from_yolo_with_most_labels_hidden(run, tmp_path):
    file = make_yolo(tmp_path / 'yolo', {'train': TEN, 'val': TEN[:4]})
    code, out, err = run('cells', '--labeled', file, '--split', 40, *SMALL)
    assert (code, err) == (0, '')
    cfg, sets = project(tmp_path)
    assert not check_config(cfg)
    assert {name: len(coco['images']) for name, coco in sets.items()} == {'train': 4, 'unlabeled': 6, 'val': 4}
    assert sorted(names_in(sets['train']) + names_in(sets['unlabeled'])) == [f'train/{name}' for name in TEN]
    assert sum(len(coco['annotations']) for name, coco in sets.items() if name != 'val') == 14
    assert 'names no weights to start from' in out and 'yolov8n.pt' in out and cfg.load_from is None


def test_from_coco_and_unlabeled_pictures_to_a_training(run, tmp_path):
    """A project may be moved. The pictures stay."""
    file = make_coco(tmp_path / 'set', TEN)
    for name in ('more/a.jpg', 'more/b.JPG', 'good/c.jpg', 'more/3.jpg'):
        save_picture(tmp_path / name)
    shutil.copy(tmp_path / 'good/c.jpg', tmp_path / 'more/c.jpg')
    (tmp_path / 'more/d.jpg').touch()
    (tmp_path / 'more/1.jpg').symlink_to(tmp_path / 'set/images/1.jpg')
    code, out, err = run('cells', '--labeled', file, '--unlabeled', 'more', '--empty', 'good', *SMALL)
    assert (code, err) == (0, '')
    assert 'unlabeled: pictures that cannot be read: 1 (d.jpg: empty)\n' in out
    assert 'train: classes without a box: left out: 1 (nothing)\n' in out
    assert 'left out: 1 (1.jpg)\n' in out
    (tmp_path / 'cells').rename(tmp_path / 'moved')
    (tmp_path / 'moved/cells.py').rename(tmp_path / 'moved/moved.py')
    cfg, sets = project(tmp_path, 'moved')
    assert not check_config(cfg)
    assert names_in(sets['unlabeled']) == ['more/3.jpg', 'more/a.jpg', 'more/b.JPG', 'more/c.jpg']
    assert (tmp_path / 'moved/annotations/empty.txt').read_text() == 'good/c.jpg\n'
    short = ['train_cfg.max_epochs=2', 'burn_in=1', 'lambda_bg_warmup=1', 'default_hooks.checkpoint.interval=9']
    loaders = [
        f'{name}_dataloader.{key}' for name in ('train', 'val') for key in ('num_workers=0', 'persistent_workers=0')
    ]
    assert train(['moved/moved.py', '--work-dir', 'wd', '--cfg-options', *short, *loaders]) == 0
    assert next((tmp_path / 'wd').glob('best_*.pth'))


def test_a_given_set_to_validate_on(run, tmp_path):
    """The validation set keeps the pictures that are in both sets."""
    make_voc(tmp_path / 'voc', TEN)
    make_coco(tmp_path / 'set', TEN[:3])
    for name in TEN[:3]:
        (tmp_path / 'voc/JPEGImages' / name).unlink()
        (tmp_path / 'voc/JPEGImages' / name).symlink_to(tmp_path / 'set/images' / name)
    code, out, _ = run('cells', '--labeled', 'voc', '--val', 'set/labels.json', *SMALL)
    _, sets = project(tmp_path)
    assert code == 0 and [len(sets[name]['images']) for name in ('train', 'val')] == [7, 3]
    assert 'train: pictures that are also in val: left out: 3 (0.jpg, 1.jpg, 2.jpg)' in out


def test_training_pictures_that_are_also_named_for_validation(run, tmp_path):
    """As in coco128.yaml of Ultralytics."""
    file = make_yolo(tmp_path / 'yolo', {'train': TEN}, 'train: images/train\nval: images/train\n')
    code, out, _ = run('cells', '--labeled', file, *SMALL)
    _, sets = project(tmp_path)
    assert code == 0 and {name: len(coco['images']) for name, coco in sets.items()} == {'train': 8, 'val': 2}
    assert 'names the pictures of `train` for validation, too' in out


def test_pictures_without_objects_alone(run, tmp_path):
    make_coco(tmp_path / 'set', TEN)
    for name in ('good/a.jpg', 'good/b/a.jpg'):
        save_picture(tmp_path / name)
    code, out, _ = run('cells', '--labeled', 'set', '--empty', 'good', *SMALL)
    cfg, sets = project(tmp_path)
    assert code == 0 and not check_config(cfg)
    assert {name: len(coco['images']) for name, coco in sets.items()} == {'train': 8, 'val': 2}
    assert (tmp_path / 'cells/annotations/empty.txt').read_text() == 'good/a.jpg\ngood/b/a.jpg\n'
    assert re.search(r'┃ +┃ train ┃ val ┃ empty ┃', out) and re.search('│ pictures +│     8 │   2 │     2 │', out)
    assert cfg.train_dataloader.batch_size == 4  # and 4 empty pictures
    assert cfg.model.type == 'EmptyImagesYOLODetector' and cfg.train_dataloader.dataset.empty.endswith('empty.txt')


@pytest.mark.parametrize('number, aside', [(2, 0), (3, 1), (10, 2)])
def test_some_empty_pictures_are_validated(run, tmp_path, number, aside):
    """They count the false alarms. A validation set that is given stays as it is."""
    make_coco(tmp_path / 'set', TEN)
    make_coco(tmp_path / 'other', TEN[:3])
    for i in range(number):
        save_picture(tmp_path / f'good/{i}.jpg')
    _, out, _ = run('cells', '--labeled', 'set', '--empty', 'good', *SMALL)
    _, sets = project(tmp_path)
    validated = [name for name in names_in(sets['val']) if name.startswith('good/')]
    listed = (tmp_path / 'cells/annotations/empty.txt').read_text().split()
    assert len(validated) == aside and sorted(validated + listed) == [f'good/{i}.jpg' for i in range(number)]
    not_counted = 'No validation picture is empty'
    assert (f'{aside} of the {number} empty pictures are set aside' if aside else not_counted) in out
    _, out, _ = run('given', '--labeled', 'set', '--val', 'other', '--empty', 'good', *SMALL)
    assert not_counted in out and len(project(tmp_path, 'given')[1]['val']['images']) == 3


def test_boxes_of_unlabeled_pictures_are_kept_to_measure(run, tmp_path):
    make_coco(tmp_path / 'set', TEN)
    make_coco(tmp_path / 'other', TEN)
    arguments = ('--labeled', 'set/labels.json', *SMALL, '--unlabeled')
    assert run('cells', *arguments, 'other/labels.json')[0] == 0
    assert len(project(tmp_path)[1]['unlabeled']['annotations']) == 10
    save_picture(tmp_path / 'more/a.jpg')
    assert 'one path of --unlabeled has no boxes' in run('plain', *arguments, 'other/labels.json', 'more')[1]
    unlabeled = project(tmp_path, 'plain')[1]['unlabeled']
    assert len(unlabeled['images']) == 11 and not unlabeled['annotations']


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('--labeled', 'none'), 'none: no such file or folder'),
        (('--labeled', 'more'), 'more: has no labels. Expected a COCO json'),
        (('--labeled', 'bare.json'), 'bare.json: expected a list `images`, but got nothing'),
        (
            ('--labeled', 'set', '--unlabeled', 'set/labels.json'),
            'Expected other pictures for unlabeled, but other sets have all 10',
        ),
        (('--labeled', 'set', '--unlabeled', 'void'), 'void: Expected pictures'),
        (
            ('--labeled', 'set', '--empty', 'other'),
            'Expected pictures without objects, because of --empty, but 10 have',
        ),
        (('--labeled', 'unboxed'), 'unboxed: Expected boxes to train on, but its 10 pictures have none'),
        (
            ('--labeled', 'set', '--val', 'unboxed'),
            'unboxed: Expected validation pictures with a box of a trained class',
        ),
        (('--labeled', 'one'), 'one: Expected at least 2 labeled pictures, to train and to validate, but got 1'),
        (('--labeled', 'set', '--split', '1'), 'Expected `percent` to leave an image in each part, but 1 % of 8'),
        (('--labeled', 'set', '--split', '10', '--unlabeled', 'more'), 'Expected either --split or --unlabeled'),
        (('--labeled', 'set', '--size', '100'), 'Expected --size to be one or two multiples of 32, but got 100'),
        (('--labeled', 'set', '--size', '0'), 'Expected --size to be one or two multiples of 32, but got 0'),
        (('--labeled', 'set', '--model', 'big'), 'Expected `--model` to be one of n, s, m, l, x, but got '),
        (('--labeled', 'set', '--weights', 'w.pt'), 'w.pt: no such file'),
        (('--labeled', 'set', '--batch', '3', '--split', '50'), 'Expected --batch to be even'),
        (('--labeled', 'set', '--iterations', '0'), 'Expected `--iterations` to be a whole number >= 1, but got 0'),
    ],
)
def test_mistakes_give_an_error_of_one_line_and_no_files(run, tmp_path, arguments, message):
    for name in ('set', 'other', 'unboxed'):
        file = make_coco(tmp_path / name, TEN)
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(annotations=[])))
    make_coco(tmp_path / 'one', TEN[:1])
    save_picture(tmp_path / 'more/a.jpg')
    (tmp_path / 'void').mkdir()
    (tmp_path / 'bare.json').write_text('{}')
    code, out, err = run('a/cells', *arguments)
    assert (code, out, err.count('\n')) == (2, '', 1) and message in err
    assert not (tmp_path / 'a').exists()


def test_no_file_is_overwritten(run, tmp_path):
    make_coco(tmp_path / 'set', TEN)
    (tmp_path / 'cells/annotations').mkdir(parents=True)
    (tmp_path / 'cells/annotations/val.json').write_text('mine')
    code, out, err = run('cells', '--labeled', 'set')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'cells/annotations/val.json: exists already, and nothing is overwritten' in err
    assert [file.name for file in (tmp_path / 'cells').rglob('*.*')] == ['val.json']


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_behind(run, tmp_path, monkeypatch, error):
    make_coco(tmp_path / 'set', TEN)
    whole = init.write_together

    def fails(files):
        whole(list(files)[:2])
        raise error

    monkeypatch.setattr(init, 'write_together', fails)
    with pytest.raises(error):
        run('a/cells', '--labeled', 'set')
    assert not (tmp_path / 'a').exists()


def test_an_apostrophe_in_the_path_of_a_project(run, tmp_path):
    make_voc(tmp_path / 'voc', TEN)
    assert run("Bob's cells", '--labeled', 'voc', *SMALL)[0] == 0
    cfg, _ = project(tmp_path, "Bob's cells")
    assert cfg.data_root == f"{tmp_path}/Bob's cells/" and not check_config(cfg)


def test_the_weights_say_the_size_of_the_model(run, tmp_path):
    make_voc(tmp_path / 'voc', TEN)
    torch.save({'backbone.stem.conv.weight': torch.zeros(48, 3, 3, 3)}, tmp_path / 'w.pth')
    code, _, err = run('s', '--labeled', 'voc', '--weights', 'w.pth', '--model', 's')
    assert code == 2 and 'Expected --model m, because w.pth is of YOLOv8-m, but got --model s' in err
    assert run('m', '--labeled', 'voc', '--weights', 'w.pth', '--size', 64)[0] == 0
    assert project(tmp_path, 'm')[0].model_size == 'm'


def test_validation_pictures_that_training_has_too(run, tmp_path):
    yaml = 'train: images/train\nval: [images/train, images/val]\n'
    make_yolo(tmp_path / 'yolo', {'train': TEN, 'val': ['v.jpg', 'w.jpg']}, yaml)
    assert run('cells', '--labeled', 'yolo', *SMALL)[0] == 0
    assert sorted(names_in(project(tmp_path)[1]['val'])) == ['val/v.jpg', 'val/w.jpg']


def test_a_class_that_validation_lacks_is_named(run, tmp_path):
    make_voc(tmp_path / 'voc', TEN)
    make_voc(tmp_path / 'val', ['x.jpg'])
    code, out, _ = run('cells', '--labeled', 'voc', '--val', 'val', *SMALL)
    assert code == 0 and f'No validation picture has a box of {NAMES[1]}' in out


@pytest.mark.parametrize('number, percent', [(12, None), (24, None), (25, 50), (50, 25), (125, 10)])
def test_a_split_is_offered_if_it_leaves_10_labeled_pictures(run, tmp_path, number, percent):
    """A fifth of the pictures is set aside to validate on."""
    make_voc(tmp_path / 'voc', [f'{name}.jpg' for name in range(number)])
    code, out, _ = run('cells', '--labeled', 'voc', *SMALL)
    offers = re.findall(r'add --split (\d+): then only (\d+) %', out)
    assert code == 0 and offers == ([(str(percent), str(percent))] if percent else [])


@pytest.mark.parametrize('iterations', [60, 745, 1000])
def test_the_teacher_follows_the_student_in_a_short_run(run, tmp_path, iterations):
    make_voc(tmp_path / 'voc', TEN)
    save_picture(tmp_path / 'more/a.jpg')
    arguments = ('--labeled', 'voc', '--unlabeled', 'more', *SMALL, '--batch', 8, '--iterations', iterations)
    out = run('cells', *arguments)[1]
    cfg, _ = project(tmp_path)
    found = check_config(cfg)
    assert all('too few for a good detector' in finding.what for finding in found)
    assert bool(found) == ('a good detector needs 1,000 or more' in out) == (iterations < 1000)
    assert (cfg.default_hooks.mean_teacher.momentum == 0.004) == (iterations >= 750)
    assert cfg.default_hooks.mean_teacher.momentum_warmup == 1 / 12


@pytest.mark.parametrize('size, small', [(64, True), (640, False)])
def test_places_of_small_pseudo_boxes_are_not_learned(run, tmp_path, size, small):
    """The same boxes are small or large, as the pictures are resized."""
    make_voc(tmp_path / 'voc', TEN)
    save_picture(tmp_path / 'more/a.jpg')
    run('cells', '--labeled', 'voc', '--unlabeled', 'more', '--model', 'n', '--size', size)
    weights = project(tmp_path)[0].model.semi_train_cfg.unsup_loss_weights
    expected = dict(loss_bg=0.0, loss_bbox=0.0, loss_dfl=0.0) if small else dict(loss_bg=0.0)
    assert weights == expected
    assert ('median side' in (tmp_path / 'cells/cells.py').read_text()) == small


def test_the_median_side_of_boxes():
    """Pictures of 100 x 50 and 50 x 200 pixels become 200 x 100 and 50 x 200. The ignored box does not count."""
    boxes = {
        Picture('a', 100, 50, 1): [Box('x', 0, 0, 10, 40), Box('x', 0, 0, 90, 40, True)],
        Picture('b', 50, 200, 1): [Box('x', 0, 0, 3, 12), Box('x', 0, 0, 20, 5)],
    }
    assert median_side(boxes, (200, 200)) == 10
