"""The command that splits a set into labeled and unlabeled images."""

import itertools
import json
import os
import subprocess
import sys
from fractions import Fraction
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from mmyolo_bgpenalty.cli.data.split import main
from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.coco_split import (
    class_counts,
    draw,
    labeled_count,
    objects,
    part,
    percent_name,
    semi_names,
)
from tests.helpers.tiny import ROOT
from tests.helpers.coco_sets import coco_set


TOOL = ROOT / 'tools/split_dataset.py'


@pytest.fixture
def annotations(tmp_path):
    file = tmp_path / 'set/annotations/train.json'
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(coco_set()))
    return file


@pytest.fixture
def split(monkeypatch, capsys):
    """The command's exit code, output and errors."""
    monkeypatch.setattr(sys, 'argv', [str(TOOL)])

    def call(*arguments):
        return (main(list(map(str, arguments))), *capsys.readouterr())

    return call


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_files_of_every_fold_and_percent(split, annotations):
    code, out, err = split(annotations, '--percent', 10, '2.50', 50, 10, '--folds', 2)
    folder = annotations.parent.parent / 'semi_anns'
    assert (code, err) == (0, '') and f'wrote 12 files to {folder}' in out
    assert sorted(contents(folder)) == sorted(
        name for fold in (1, 2) for percent in (10, 2.5, 50) for name in semi_names('train', fold, percent)
    )
    whole = read_coco(annotations)
    draws = []
    for fold, (percent, labeled) in itertools.product((1, 2), ((10, 4), (2.5, 1), (50, 20))):
        few, many = (read_coco(folder / name) for name in semi_names('train', fold, percent))
        assert (len(few['images']), len(many['images'])) == (labeled, 40 - labeled)
        ids = [{image['id'] for image in half['images']} for half in (few, many)]
        assert not ids[0] & ids[1]
        for half, own in zip((few, many), ids):
            # In the file's order, untouched, and with all other fields.
            assert half == part(whole, [image['id'] in own for image in whole['images']]) and list(half) == list(whole)
        draws.append(frozenset(ids[0]))
    assert len(set(draws)) == 6


def test_the_same_bytes_in_every_process(split, annotations, tmp_path):
    split(annotations, '--seed', 3)
    command = [sys.executable, '-W', 'ignore', str(TOOL), str(annotations), '--seed', '3', '--out', str(tmp_path / 'b')]
    environment = {**os.environ, 'PYTHONHASHSEED': '77', 'LC_ALL': 'C', 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / 'b') == contents(annotations.parent.parent / 'semi_anns')
    split(annotations, '--seed', 4, '--out', tmp_path / 'c')
    assert not set(contents(tmp_path / 'b').values()) & set(contents(tmp_path / 'c').values())


def test_other_files_are_not_overwritten(split, annotations):
    folder = annotations.parent.parent / 'semi_anns'
    split(annotations, '--folds', 2)
    first = contents(folder)
    assert split(annotations, '--folds', 2)[0] == 0
    code, out, err = split(annotations, '--folds', 3, '--seed', 1)
    assert (code, out) == (2, '') and len(err.splitlines()) == 1
    assert 'train.1@10.json: exists with other contents' in err and '--force' in err
    assert contents(folder) == first
    assert split(annotations, '--folds', 2, '--seed', 1, '--force')[0] == 0
    assert contents(folder).keys() == first.keys() and not set(contents(folder).values()) & set(first.values())


def test_beside_a_file_that_lies_in_the_root(split, annotations, monkeypatch):
    root = annotations.parent.parent
    annotations.rename(root / 'all.json')
    monkeypatch.chdir(root)
    assert split('all.json')[0] == 0
    assert sorted(contents(root / 'semi_anns')) == ['all.1@10-unlabeled.json', 'all.1@10.json']


def test_the_table_counts_images_and_objects(split, annotations):
    _, out, _ = split(annotations, '--percent', 50)
    few = json.loads((annotations.parent.parent / 'semi_anns/train.1@50.json').read_text())
    image_of, class_of = objects(few)
    whole_image_of, whole_class_of = objects(read_coco(annotations))
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in out.splitlines() if '│' in line]
    assert rows[-1] == ['all', '40', str(len(whole_image_of)), f'20 ({len(image_of)})']
    for label, row in enumerate(rows[:-1]):
        labels = whole_class_of == label, class_of == label
        images = [len(set(places[own])) for places, own in zip((whole_image_of, image_of), labels)]
        assert row == [
            f'class {[4, 90, 17, 2][label]}',
            str(images[0]),
            str(labels[0].sum()),
            f'{images[1]} ({labels[1].sum()})',
        ]


def test_a_class_without_room_is_named(split, tmp_path):
    coco = coco_set()
    coco['annotations'] = [
        dict(image_id=image['id'], category_id=category, bbox=[0, 0, 9, 9])
        for image, category in zip(coco['images'], (4, 4, 4, 90, 17, 17))
    ]
    (tmp_path / 'train.json').write_text(json.dumps(coco))
    code, _, err = split(tmp_path / 'train.json', '--percent', 5)
    # Room for two of the three classes that there are; the fourth has no object at all and is not lost.
    assert code == 0 and len(err.splitlines()) == 1
    assert err.startswith('warning: train.1@5.json has no object of class ') and 'all 3 classes' in err
    kept = {label for label in objects(json.loads((tmp_path / 'semi_anns/train.1@5.json').read_text()))[1]}
    assert len(kept) == 2
    (lost,) = {0, 1, 2} - kept
    assert f'of class {[4, 90, 17][lost]}:' in err
    assert split(tmp_path / 'train.json', '--percent', 7.5)[2] == ''


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('--percent', 0), '`percent`'),
        (('--percent', 10, 'nan'), '`percent`'),
        (('--percent', 10, 1), 'leave an image in each part, but 1 % of 40 images is 0'),
        (('--folds', 0), '`--folds` to be a whole number >= 1, but got 0'),
        (('--seed', -1), '`seed`'),
    ],
)
def test_bad_arguments_are_one_line(split, annotations, arguments, message):
    code, out, err = split(annotations, *arguments)
    assert (code, out, len(err.splitlines())) == (2, '', 1)
    assert err.startswith('split_dataset.py: ') and message in err
    assert os.listdir(annotations.parent.parent) == ['annotations']


def test_bad_files_are_one_line(split, annotations, tmp_path):
    for content, message in (('{', 'no valid json'), (json.dumps(dict(coco_set(), images=[])), '`images` is empty')):
        annotations.write_text(content)
        code, out, err = split(annotations)
        assert (code, out, len(err.splitlines())) == (2, '', 1) and f'{annotations}: ' in err and message in err
    assert split(tmp_path / 'none.json')[::2] == (2, f'split_dataset.py: {tmp_path}/none.json: no such file\n')
    assert os.listdir(annotations.parent.parent) == ['annotations']


def test_mmdetection_reads_the_parts(split, tmp_path):
    from tests.helpers.tiny import CLASSES, make_images

    make_images(tmp_path, 'train', 12, seed=0, crowd=True)
    assert split(tmp_path / 'train.json', '--percent', 25)[0] == 0
    sizes = []
    for name in semi_names('train', 1, 25):
        dataset = CocoDataset(
            data_root=str(tmp_path),
            ann_file=f'semi_anns/{name}',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=CLASSES),
        )
        image_of, _ = objects(read_coco(tmp_path / 'semi_anns' / name))
        trained = [
            [i for i in dataset.get_data_info(n)['instances'] if not i['ignore_flag']] for n in range(len(dataset))
        ]
        assert sum(map(len, trained)) == len(image_of)
        sizes.append(len(dataset))
    assert sizes == [3, 9] and Fraction(3, 12) == Fraction(25, 100)
