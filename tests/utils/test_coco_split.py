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
    part_writer,
    percent_name,
    semi_names,
)
from tests.helpers.tiny import ROOT

TOOL = ROOT / 'tools/split_dataset.py'


@pytest.mark.parametrize(
    'percent, name',
    [
        (10, '10'),
        (10.0, '10'),
        (0.5, '0.5'),
        (0.50, '0.5'),
        (1.0, '1'),
        (12.25, '12.25'),
        (1e-5, '0.00001'),
        (33.3333333, '33.3333333'),
        (np.float64(0.1), '0.1'),
    ],
)
def test_names(percent, name):
    assert percent_name(percent) == name
    assert semi_names('instances_train2017', 3, percent) == (
        f'instances_train2017.3@{name}.json',
        f'instances_train2017.3@{name}-unlabeled.json',
    )


@given(st.integers(6, 10**6))
def test_trap_15_ten_percent_is_a_tenth_rounded(number):
    assert labeled_count(number, 10) == labeled_count(number, 10.0) == round(0.1 * number)


@pytest.mark.parametrize(
    'number, percent, count',
    # Halves go to the even number; 0.35 % of 1000 is one, though no float is exactly 0.35.
    [(1000, 0.35, 4), (1000, 0.45, 4), (118287, 0.5, 591), (292, 10, 29), (25, 10, 2), (35, 10, 4), (200, 5.75, 12)],
)
def test_counts(number, percent, count):
    assert labeled_count(number, percent) == count


@pytest.mark.parametrize('percent', [0, 100, -1, 100.5, float('nan'), float('inf'), True, '10', None])
def test_bad_percents_are_refused(percent):
    for function in (percent_name, lambda p: labeled_count(1000, p)):
        with pytest.raises(ValueError, match='Expected `percent` to be a number above 0 and below 100, but got'):
            function(percent)


@pytest.mark.parametrize('number, percent', [(10, 1), (10, 99), (1, 50)])
def test_a_part_without_images_is_refused(number, percent):
    with pytest.raises(ValueError, match=rf'{percent} % of {number} images is'):
        labeled_count(number, percent)


def presence(rng, number, classes, density):
    """Which image has which class, (number, classes); more than one object of a class in some."""
    there = rng.random((number, classes)) < density
    pairs = np.argwhere(there)
    twice = pairs[rng.random(len(pairs)) < 0.3]
    image_of, class_of = np.concatenate([pairs, twice]).T
    return there, image_of, class_of


@st.composite
def sets(draw_):
    rng = np.random.default_rng(draw_(st.integers(0, 2**32)))
    number = draw_(st.integers(2, 60))
    classes = draw_(st.integers(1, 12))
    density = rng.choice([0.02, 0.1, 0.5]) * rng.random(classes)
    labeled = draw_(st.integers(1, number - 1))
    return (*presence(rng, number, classes, density), number, labeled, rng)


@given(sets())
def test_exact_counts_and_no_class_lost_where_there_is_room(example):
    there, image_of, class_of, number, labeled, rng = example
    mask = draw(image_of, class_of, number, labeled, seed=5, fold=2)
    assert mask.dtype == bool and mask.shape == (number,) and mask.sum() == labeled
    present = there.any(0)
    if labeled >= present.sum():
        assert (there[mask].any(0) == present).all()
    # The order of the annotations says nothing, nor do objects of a class that an image has already.
    shuffled = rng.permutation(len(image_of))
    assert (draw(image_of[shuffled], class_of[shuffled], number, labeled, seed=5, fold=2) == mask).all()
    again = np.append(image_of, image_of[:1]), np.append(class_of, class_of[:1])
    assert (draw(*again, number, labeled, seed=5, fold=2) == mask).all()


def test_with_less_room_than_classes_all_are_kept_where_some_choice_keeps_them():
    """Against every possible choice; where none holds all classes, most of the best choice's."""
    rng = np.random.default_rng(0)
    tight = 0
    for seed in range(150):
        number, labeled = int(rng.integers(4, 9)), int(rng.integers(1, 4))
        there, image_of, class_of = presence(rng, number, int(rng.integers(labeled + 1, 10)), rng.choice([0.3, 0.5]))
        best = max(there[list(choice)].any(0).sum() for choice in itertools.combinations(range(number), labeled))
        kept = there[draw(image_of, class_of, number, labeled, seed=seed)].any(0).sum()
        if best == there.any(0).sum():
            tight += 1
            assert kept == best
        assert kept >= 0.75 * best
    assert tight > 30


def long_tail(rng, number=3000, classes=25):
    return presence(rng, number, classes, 0.4 / np.arange(1, classes + 1) ** 1.6)


@pytest.mark.parametrize('percent', [1, 5, 10, 50, 90])
def test_each_class_has_its_share(percent):
    there, image_of, class_of = long_tail(np.random.default_rng(3))
    assert 0 < there.sum(0).min() < 20 and there.sum(0).max() > 1000 and (~there.any(1)).sum() > 300
    number = len(there)
    labeled = labeled_count(number, percent)

    def deviation(mask):
        share = labeled / number
        got, sizes = there[mask].sum(0), there.sum(0)
        bare, all_bare = (~there[mask].any(1)).sum(), (~there.any(1)).sum()
        return np.abs(np.append(got - np.maximum(sizes * share, 1), bare - all_bare * share))

    ours = deviation(draw(image_of, class_of, number, labeled))
    # Of hundreds of images per class at most a few are too many or too few.
    assert ours.max() <= 5 and ours.mean() < 1
    by_chance = [
        deviation(np.isin(np.arange(number), np.random.default_rng(s).permutation(number)[:labeled])).mean()
        for s in range(20)
    ]
    assert ours.mean() < 0.5 * np.mean(by_chance)


def test_images_alike_are_drawn_alike():
    drawn = np.zeros(20)
    for fold in range(400):
        drawn += draw(np.arange(15), np.zeros(15, int), 20, 8, seed=1, fold=fold)
    # 400 draws with 6 of the 15 images that have an object and 2 of the 5 without.
    assert np.abs(drawn - 160).max() < 4.5 * np.sqrt(400 * 0.4 * 0.6)


def test_seeds_and_folds_are_other_draws_and_the_same_ones_for_ever():
    _, image_of, class_of = long_tail(np.random.default_rng(3))
    masks = {(s, f): draw(image_of, class_of, 3000, 300, seed=s, fold=f) for s in (0, 1) for f in (1, 2, 3)}
    for one, other in itertools.combinations(masks.values(), 2):
        assert 0 < (one & other).sum() < 150  # by chance 30
    # Written down on x86-64 with NumPy 2.4: another machine or version must draw these.
    image_of, class_of = [0, 1, 2, 3, 4, 4, 5, 9, 11], [0, 0, 0, 0, 0, 1, 1, 2, 0]
    golden = [np.flatnonzero(draw(np.array(image_of), np.array(class_of), 16, 5, s, f)).tolist() for s, f in masks]
    assert golden == GOLDEN


GOLDEN = [
    [4, 7, 9, 10, 11],
    [0, 4, 6, 9, 14],
    [3, 4, 8, 9, 13],
    [0, 5, 9, 14, 15],
    [2, 5, 6, 9, 15],
    [1, 5, 9, 12, 13],
]


def test_a_set_without_objects_is_drawn_too():
    nothing = np.array([], dtype=np.int64)
    assert draw(nothing, nothing, 10, 3).sum() == 3


@pytest.mark.parametrize('bad', [dict(seed=-1), dict(fold=1.5), dict(seed=True), dict(labeled=0), dict(labeled=10)])
def test_bad_draws_are_refused(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f'Expected `{name}` to be .*, but got {value}'):
        draw(np.array([0]), np.array([0]), 10, **{'labeled': 3, **bad})


def coco_set(number=40):
    """String and number ids with gaps, crowd and ignored boxes, slivers, images without size and without boxes."""
    rng = np.random.default_rng(1)
    images = [dict(file_name=f'd/{i}.jpg', id=f'id {i}' if i % 2 else 7 * i, extra=[i, None]) for i in range(number)]
    for image in images[: number // 2]:
        image.update(width=64, height=48)
    annotations = []
    for place in rng.integers(0, number - 10, 4 * number):
        annotations.append(
            dict(
                id=3 * len(annotations),
                image_id=images[place]['id'],
                category_id=[4, 90, 17][len(annotations) % 3],
                bbox=[1.25, 2, 10, 12],
                area=120.0,
                iscrowd=0,
                segmentation=[[0.1, 1e-07, 3.0]],
                note='ä',
            )
        )
    annotations[0]['iscrowd'] = 1
    annotations[1]['ignore'] = True
    annotations[2]['bbox'] = [1, 1, 0.5, 9]
    annotations[3]['area'] = 0
    del annotations[4]['area'], annotations[4]['iscrowd']
    annotations[5]['area'] = None
    return dict(
        info=dict(year=2024, url='λ'),
        annotations=annotations,
        licenses=[dict(id=1)],
        images=images,
        categories=[dict(id=i, name=f'class {i}', supercategory='x') for i in (4, 90, 17, 2)],
        more=None,
    )


def test_objects_are_what_is_trained_on():
    coco = coco_set()
    image_of, class_of = objects(coco)
    assert len(image_of) == len(coco['annotations']) - 4
    for place, label, annotation in zip(image_of, class_of, coco['annotations'][4:]):
        assert coco['images'][place]['id'] == annotation['image_id']
        assert coco['categories'][label]['id'] == annotation['category_id']
    counts = class_counts(image_of, class_of, np.ones(40, dtype=bool), 4)
    for label, (images, boxes) in enumerate(counts):
        own = [place for place, other in zip(image_of, class_of) if other == label]
        assert (images, boxes) == (len(set(own)), len(own))


def test_the_writer_writes_the_part():
    coco = coco_set()
    write = part_writer(coco)
    for mask in (np.arange(40) % 3 == 0, np.zeros(40, dtype=bool), np.ones(40, dtype=bool)):
        ids = {image['id'] for image, chosen in zip(coco['images'], mask) if chosen}
        assert write(mask) == json.dumps(part(coco, ids))
    assert json.loads(write(mask)) == coco


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
            assert half == part(whole, own) and list(half) == list(whole)
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
    assert 'train.1@10.json: is there with other contents' in err and '--force' in err
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
        (('--percent', 10, 1), 'leave an image in either part, but 1 % of 40 images is 0'),
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
