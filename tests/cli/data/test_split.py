"""The command that splits a set into labeled and unlabeled images."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mmyolo_bgpenalty.cli.data.split import main
from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.coco_split import objects, part, semi_names
from tests.helpers.coco_sets import coco_set
from tests.helpers.tiny import ROOT

TOOL = ROOT / 'tools/split_dataset.py'


@pytest.fixture
def annotations(tmp_path):
    file = tmp_path / 'set/annotations/train.json'
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(coco_set()))
    return file


@pytest.fixture
def folder(annotations):
    """Where the parts go."""
    return annotations.parent.parent / 'semi_anns'


@pytest.fixture
def split(monkeypatch, capsys):
    """Run the command; return its exit code, output and errors."""
    monkeypatch.setattr(sys, 'argv', [str(TOOL)])

    def call(*arguments):
        return (main(list(map(str, arguments))), *capsys.readouterr())

    return call


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_files_of_every_fold_and_percent(split, annotations, folder):
    code, out, err = split(annotations, '--percent', 10, '2.50', 50, 10, '--folds', 2)
    assert (code, err) == (0, '') and f'wrote 12 files to {folder}' in out
    whole, draws = read_coco(annotations), set()
    for fold, (percent, labeled) in itertools.product((1, 2), ((10, 4), (2.5, 1), (50, 20))):
        parts = [read_coco(folder / name) for name in semi_names('train', fold, percent)]
        ids = {image['id'] for image in parts[0]['images']}
        mask = np.array([image['id'] in ids for image in whole['images']])
        assert mask.sum() == labeled and parts == [part(whole, mask), part(whole, ~mask)]
        draws.add(frozenset(ids))
    assert len(draws) == 6 and len(contents(folder)) == 12


def test_the_same_bytes_in_every_process(split, annotations, folder, tmp_path):
    split(annotations, '--seed', 3)
    command = [sys.executable, '-W', 'ignore', str(TOOL), str(annotations), '--seed', '3', '--out', str(tmp_path / 'b')]
    environment = {**os.environ, 'PYTHONHASHSEED': '77', 'LC_ALL': 'C', 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / 'b') == contents(folder)


def test_only_force_overwrites_other_contents(split, annotations, folder):
    split(annotations, '--folds', 2)
    first = contents(folder)
    assert split(annotations, '--folds', 2)[0] == 0
    code, out, err = split(annotations, '--folds', 3, '--seed', 1)
    assert (code, out, err.count('\n')) == (2, '', 1) and 'train.1@10.json: exists with other contents' in err
    assert contents(folder) == first
    assert split(annotations, '--folds', 2, '--seed', 1, '--force')[0] == 0
    assert contents(folder).keys() == first.keys() and not set(contents(folder).values()) & set(first.values())


def test_the_parts_of_a_file_in_the_root_are_written_to_semi_anns_beside_it(split, annotations, folder, monkeypatch):
    annotations.rename(folder.with_name('all.json'))
    monkeypatch.chdir(folder.parent)
    assert split('all.json')[0] == 0
    assert list(contents(folder)) == ['all.1@10-unlabeled.json', 'all.1@10.json']


def test_the_table_counts_images_and_objects(split, annotations, folder):
    _, out, _ = split(annotations, '--percent', 50)
    sets = [objects(read_coco(file)) for file in (annotations, folder / 'train.1@50.json')]
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in out.splitlines() if '│' in line]
    for label, row in enumerate(rows[:-1]):
        (images, boxes), few = ((len(set(image[own == label])), sum(own == label)) for image, own in sets)
        assert row == [f'class {[4, 90, 17, 2][label]}', str(images), str(boxes), '{} ({})'.format(*few)]
    assert rows[-1] == ['all', '40', str(len(sets[0][0])), f'20 ({len(sets[1][0])})']


def test_a_class_without_a_labeled_object_is_named(split, annotations, folder):
    """There is room for two of the three classes. The fourth class has no object, and is not named."""
    coco = coco_set()
    coco['annotations'] = [
        dict(image_id=image['id'], category_id=category, bbox=[0, 0, 9, 9])
        for image, category in zip(coco['images'], (4, 4, 4, 90, 17, 17))
    ]
    annotations.write_text(json.dumps(coco))
    code, _, err = split(annotations, '--percent', 5)
    (lost,) = {0, 1, 2} - set(objects(read_coco(folder / 'train.1@5.json'))[1])
    assert code == 0 and err.count('\n') == 1 and 'all 3 classes' in err
    assert err.startswith(f'warning: train.1@5.json has no object of class {[4, 90, 17][lost]}: ')
    assert split(annotations, '--percent', 7.5)[2] == ''


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('--percent', 10, 'nan'), '`percent`'),
        (('--percent', 10, 1), 'leave an image in each part, but 1 % of 40 images is 0'),
        (('--folds', 0), '`--folds` to be a whole number >= 1, but got 0'),
        (('--seed', -1), '`seed`'),
    ],
)
def test_bad_arguments_give_an_error_of_one_line(split, annotations, arguments, message):
    code, out, err = split(annotations, *arguments)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert err.startswith('split_dataset.py: ') and message in err
    assert os.listdir(annotations.parent.parent) == ['annotations']


def test_a_bad_file_gives_an_error_of_one_line(split, annotations, folder):
    annotations.write_text(json.dumps(dict(coco_set(), images=[])))
    code, out, err = split(annotations)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert err.startswith(f'split_dataset.py: {annotations}: ') and '`images` is empty' in err and not folder.exists()
