import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmyolo_bgpenalty.utils.coco_split import (
    class_counts,
    draw,
    labeled_count,
    objects,
    part,
    percent_name,
    semi_names,
)
from tests.helpers.coco_sets import coco_set


@pytest.mark.parametrize(
    'percent, name',
    [
        (10, '10'),
        (10.0, '10'),
        (0.5, '0.5'),
        (1.0, '1'),
        (12.25, '12.25'),
        (1e-5, '0.00001'),
        (33.3333333, '33.3333333'),
        (np.float64(0.1), '0.1'),
    ],
)
def test_file_names_have_the_percent(percent, name):
    assert percent_name(percent) == name
    assert semi_names('instances_train2017', 3, percent) == (
        f'instances_train2017.3@{name}.json',
        f'instances_train2017.3@{name}-unlabeled.json',
    )


@given(st.integers(6, 10**6))
def test_ten_percent_is_a_tenth_rounded(number):
    assert labeled_count(number, 10) == labeled_count(number, 10.0) == round(0.1 * number)


@pytest.mark.parametrize(
    'number, percent, count',
    # x.5 is rounded to the even number. 0.35 % of 1000 is exactly 3.5, though the float 0.35 is not exact.
    [(1000, 0.35, 4), (1000, 0.45, 4), (118287, 0.5, 591), (292, 10, 29), (25, 10, 2), (35, 10, 4), (200, 5.75, 12)],
)
def test_counts_are_computed_exactly_and_rounded(number, percent, count):
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
    """A random mask of the classes in each image, (number, classes), and its objects. Some are there twice."""
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
def test_exact_counts_and_all_classes_if_there_is_room(example):
    there, image_of, class_of, number, labeled, rng = example
    mask = draw(image_of, class_of, number, labeled, seed=5, fold=2)
    assert mask.dtype == bool and mask.shape == (number,) and mask.sum() == labeled
    present = there.any(0)
    if labeled >= present.sum():
        assert (there[mask].any(0) == present).all()
    # Neither the order of the objects nor another object of the same class in an image changes the draw.
    shuffled = rng.permutation(len(image_of))
    assert (draw(image_of[shuffled], class_of[shuffled], number, labeled, seed=5, fold=2) == mask).all()
    again = np.append(image_of, image_of[:1]), np.append(class_of, class_of[:1])
    assert (draw(*again, number, labeled, seed=5, fold=2) == mask).all()


def test_few_images_have_all_classes_if_that_is_possible():
    """Compare with all possible choices. The draw has at least 75 % of the classes that the best choice has."""
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
    # Large classes have hundreds of images, but at most 5 are too many or too few.
    assert ours.max() <= 5 and ours.mean() < 1
    by_chance = [
        deviation(np.isin(np.arange(number), np.random.default_rng(s).permutation(number)[:labeled])).mean()
        for s in range(20)
    ]
    assert ours.mean() < 0.5 * np.mean(by_chance)


def test_equal_images_are_equally_probable():
    drawn = np.zeros(20)
    for fold in range(400):
        drawn += draw(np.arange(15), np.zeros(15, int), 20, 8, seed=1, fold=fold)
    # 400 draws with 6 of the 15 images that have an object and 2 of the 5 without.
    assert np.abs(drawn - 160).max() < 4.5 * np.sqrt(400 * 0.4 * 0.6)


def test_each_seed_and_fold_gives_another_draw_that_never_changes():
    _, image_of, class_of = long_tail(np.random.default_rng(3))
    masks = {(s, f): draw(image_of, class_of, 3000, 300, seed=s, fold=f) for s in (0, 1) for f in (1, 2, 3)}
    for one, other in itertools.combinations(masks.values(), 2):
        assert 0 < (one & other).sum() < 150  # 30 are expected
    # From x86-64 with NumPy 2.4. All machines and versions must draw these.
    image_of, class_of = [0, 1, 2, 3, 4, 4, 5, 9, 11], [0, 0, 0, 0, 0, 1, 1, 2, 0]
    golden = [np.flatnonzero(draw(np.array(image_of), np.array(class_of), 16, 5, s, f)).tolist() for s, f in masks]
    assert golden == [
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


def test_objects_are_the_boxes_for_training():
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


def test_a_part_has_its_images_and_their_annotations():
    coco = coco_set()
    mask = np.arange(40) % 3 == 0
    found = part(coco, mask)
    assert found['images'] == coco['images'][::3] and list(found) == list(coco)
    ids = {image['id'] for image in found['images']}
    assert found['annotations'] == [entry for entry in coco['annotations'] if entry['image_id'] in ids]
    assert part(coco, np.ones(40, dtype=bool)) == coco
