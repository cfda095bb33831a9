"""The command browse: the pictures on its sheets are those of the first batches."""

import re

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image

from mmyolo_bgpenalty.cli import browse
from tests.helpers.tiny import SEMI, SUPERVISED, load


def write(name, data, folder):
    cfg = load(name, data, folder / 'work')
    if name == SUPERVISED:  # this dataset seeds the augmentation of each image
        cfg.train_dataloader.dataset.type = 'CheckedCocoDataset'
    cfg.dump(folder / 'tiny.py')
    return folder / 'tiny.py'


def first_batch(config):
    cfg = Config.fromfile(config)
    init_default_scope('mmyolo')
    return next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=cfg.randomness.seed)))


def pictures_on(sheet, number):
    """The pictures of a sheet without their titles, which stand above them."""
    image = Image.open(sheet)
    rows = -(-number // 4)
    height = image.height // rows
    boxes = [(browse.WIDTH * (i % 4), height * (i // 4)) for i in range(number)]
    return [image.crop((x, y + height - 320, x + browse.WIDTH, y + height)) for x, y in boxes]


@pytest.mark.parametrize('name', [SEMI, SUPERVISED])
def test_the_sheets_show_the_first_batch_of_the_training(name, data, tmp_path, capsys):
    config = write(name, data, tmp_path)
    assert browse.main([str(config), '--out', str(tmp_path / 'out')]) == 0
    inputs = first_batch(config)['inputs']
    branches = inputs if name == SEMI else {'sup': inputs}
    branches = {branch: [image for image in images if image is not None] for branch, images in branches.items()}
    branches = {branch: images for branch, images in branches.items() if images}
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(f'1_{key}.jpg' for key in branches)
    assert 'written to' in capsys.readouterr().out
    for branch, images in branches.items():
        shown = pictures_on(tmp_path / f'out/1_{branch}.jpg', len(images))
        for image, picture in zip(images, shown, strict=True):
            rgb = Image.fromarray(np.asarray(image)[[2, 1, 0]].transpose(1, 2, 0)).resize(picture.size, 0)
            difference = np.abs(np.asarray(picture, int) - np.asarray(rgb, int)).max(axis=-1)
            # Boxes and their texts cover a part of a picture.
            assert (difference < 60).mean() > 0.7
    (first, *_), (other, *_) = (pictures_on(tmp_path / 'out/1_sup.jpg', 2)[i : i + 1] for i in (0, 1))
    assert np.abs(np.asarray(first, int) - np.asarray(other, int)).mean() > 2


def test_boxes_have_the_colours_of_their_classes(data, tmp_path):
    """The set has a bright square for each object. Its box is drawn around it."""
    config = write(SUPERVISED, data, tmp_path)
    assert browse.main([str(config), '--batches', '2', '--out', str(tmp_path / 'out')]) == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['1_sup.jpg', '2_sup.jpg']
    sheet = np.asarray(Image.open(tmp_path / 'out/1_sup.jpg'), int)
    palette = [(31, 119, 180), (255, 127, 14), (44, 160, 44)]  # the first colours of matplotlib
    near = [(np.abs(sheet - colour).max(axis=-1) < 30).sum() for colour in palette]
    assert sum(number > 100 for number in near) >= 2


def test_bad_input_is_one_line(data, tmp_path, capsys):
    config = write(SEMI, data, tmp_path)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/file').touch()
    assert browse.main([str(config), '--out', str(tmp_path / 'full')]) == 2
    assert re.search(r'--out to be a new or an empty folder.*has content\n$', capsys.readouterr().err)
    assert browse.main([str(config), '--batches', '0', '--out', str(tmp_path / 'new')]) == 2
    assert '--batches' in capsys.readouterr().err and not (tmp_path / 'new').exists()
