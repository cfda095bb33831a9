"""Pictures that do not fit their json file, or lose their values."""

import json
import shutil

import cv2
import numpy as np
import pytest
from mmengine.runner import Runner
from PIL import Image

from mmyolo_bgpenalty.config_check.check import check_at_start, check_config
from tests.helpers.changes import change, edit
from tests.helpers.tiny import SEMI, load

LABELED, UNLABELED = 'train_dataloader.dataset.labeled', 'train_dataloader.dataset.unlabeled'
VAL = 'val_dataloader.dataset'
E, W = 'error', 'warning'


@pytest.fixture
def root(data, tmp_path):
    return shutil.copytree(data, tmp_path / 'set')


def turn(root, name, orientation, number=None):
    """Let EXIF turn the pictures of a set. The json file keeps their sizes and boxes."""

    def turned(coco):
        for image in coco['images'][:number]:
            old = root / 'images' / image['file_name']
            image['file_name'] = f'{old.stem}.jpg'
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.open(old).save(old.with_suffix('.jpg'), exif=exif.tobytes())

    edit(root, name, turned)


def deepen(root, name, highest):
    """Store 16 bits, of which only the lower ones are used."""
    for image in json.loads((root / f'{name}.json').read_text())['images']:
        path = str(root / 'images' / image['file_name'])
        grey = cv2.imread(path, cv2.IMREAD_GRAYSCALE).astype(np.float64)
        cv2.imwrite(path, (grey * highest / 255).astype(np.uint16))


def name_urls(coco):
    for image in coco['images']:
        image['file_name'] = f'http://localhost:8080/data/1/{image["file_name"]}'


MISTAKES = {
    'val turned': (lambda root: turn(root, 'val', 6), E, VAL, '4 of the 4 images looked at have another size'),
    'one of val turned': (
        lambda root: turn(root, 'val', 8, 1),
        E,
        VAL,
        'it is 64 x 80, but its annotation says 80 x 64',
    ),
    'one labeled turned': (lambda root: turn(root, 'labeled', 6, 1), W, LABELED, '1 of the 6 images'),
    'all labeled turned': (lambda root: turn(root, 'labeled', 5), E, LABELED, '6 of the 6 images'),
    'all unlabeled turned': (lambda root: turn(root, 'unlabeled', 7), E, UNLABELED, '10 of the 10 images'),
    'val upside down': (lambda root: turn(root, 'val', 3), W, VAL, 'EXIF turns or mirrors 4 images'),
    'another size': (
        lambda root: edit(root, 'val', lambda coco: coco['images'][1].update(width=160, height=128)),
        *(E, VAL, 'it is 80 x 64, but its annotation says 160 x 128)'),
    ),
    '10 of 16 bits': (
        lambda root: deepen(root, 'unlabeled', 1023),
        W,
        UNLABELED,
        'keeps 8 of the 16 bits of 10',
    ),
    '12 of 16 bits in val': (lambda root: deepen(root, 'val', 4095), W, VAL, 'grey levels are left'),
    'urls': (
        lambda root: edit(root, 'unlabeled', name_urls),
        E,
        UNLABELED,
        '10 of the 10 images looked at cannot be read',
    ),
    'urls in val': (lambda root: edit(root, 'val', name_urls), E, VAL, '4 of the 4 images looked at cannot be read'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_in_images(root, tiny, tmp_path, mistake, only_finding):
    spoil, *expected = MISTAKES[mistake]
    spoil(root)
    only_finding(check_config(tiny(SEMI, root, tmp_path / 'work')), *expected)


def join(cfg):
    """Join the validation set with itself."""
    one = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, one])
    cfg.test_dataloader = cfg.val_dataloader


def test_images_in_two_validation_sets_count_twice(root, tiny, tmp_path, only_finding):
    cfg = tiny(SEMI, root, tmp_path / 'work')
    join(cfg)
    only_finding(check_config(cfg), W, f'{VAL}.datasets.1', 'val_000.png: they count twice')


def test_only_training_skips_images(root, tiny, tmp_path, only_finding):
    """Even if a validation set lacks ``test_mode``."""
    cfg = tiny(SEMI, root, tmp_path / 'work')
    change(cfg, {f'{VAL}.test_mode': False})
    (root / 'images/val_001.png').unlink()
    only_finding(check_config(cfg), E, VAL, '1 of the 4 images looked at cannot be read')


@pytest.mark.parametrize('bits', ['all', 'none'])
def test_pictures_that_fit(root, tiny, tmp_path, bits):
    """All 16 bits are used, or the loader does not turn the pictures."""
    cfg = tiny(SEMI, root, tmp_path / 'work')
    if bits == 'all':
        deepen(root, 'val', 65535)
    else:
        turn(root, 'val', 6)
        change(cfg, {f'{VAL}.pipeline.0.color_type': 'color_ignore_orientation'})
    assert check_config(cfg) == []


AT_START = {
    'val turned': (lambda root: turn(root, 'val', 6), {}, 'val_dataloader.dataset: 4 of the 4 .* another size'),
    'val of two sets turned': (
        lambda root: turn(root, 'val', 6),
        join,
        'val_dataloader.dataset: 4 of the 4 .* another size',
    ),
    'unlabeled turned': (lambda root: turn(root, 'unlabeled', 6), {}, 'unlabeled: 10 of the 10 .* another size'),
    'urls': (lambda root: edit(root, 'unlabeled', name_urls), {}, 'unlabeled: 10 of the 10 .* cannot be read'),
    'val of crowds': (
        lambda root: edit(root, 'val', lambda coco: [one.update(iscrowd=1) for one in coco['annotations']]),
        *({}, 'val_dataloader.dataset.ann_file: .* so recall and AP cannot be computed'),
    ),
    'wrong pipeline': (
        lambda root: None,
        {f'{UNLABELED}.pipeline.0.color_type': 'colour'},
        'usable images in .*unlabeled.json',
    ),
}


@pytest.mark.parametrize('mistake', AT_START)
def test_training_does_not_start(root, tiny, tmp_path, mistake):
    """What is wrong with the unlabeled and the validation set is known before the first iteration."""
    spoil, changes, message = AT_START[mistake]
    spoil(root)
    cfg = tiny(SEMI, root, tmp_path / 'work')
    change(cfg, changes)
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(cfg.train_cfg)
    runner._val_loop = runner.build_val_loop(cfg.val_cfg)
    with pytest.raises(ValueError, match=f'(?s){message}'):
        check_at_start(runner)


def test_files_that_an_image_folder_does_not_read_are_a_warning(data, tmp_path):
    cfg = load(SEMI, data, tmp_path)
    (tmp_path / 'new').mkdir()
    shutil.copy(data / 'images/labeled_000.png', tmp_path / 'new/a.png')
    for name in ('b.heic', 'c.heic', 'notes.txt'):
        (tmp_path / 'new' / name).touch()
    cfg.train_dataloader.dataset.unlabeled = dict(
        type='ImageFolderDataset', data_prefix=dict(img=str(tmp_path / 'new'))
    )
    what = f'{tmp_path}/new: 2 files are not read as images (2 .heic)'
    found = [one for one in check_config(cfg) if what in one.what]
    assert [(one.level, one.where) for one in found] == [(W, f'{UNLABELED}.data_prefix')]
