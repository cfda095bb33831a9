"""The recorded homography maps the corners of a painted square to the place where the image shows it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmyolo.registry import TRANSFORMS

from tests.helpers.pictures import (
    AFFINE,
    PAD,
    PICTURES,
    Pictures,
    affine,
    build,
    flip,
    letter,
    picture,
    seeds,
    through,
)

UPRIGHT = {**AFFINE, 'max_rotate_degree': 0.0, 'max_shear_degree': 0.0}
sizes = st.tuples(st.integers(48, 120), st.integers(48, 120))  # width, height
targets = st.tuples(st.integers(2, 5), st.integers(2, 5)).map(lambda n: (32 * n[0], 32 * n[1]))


def square_in(width, height, seed):
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(width // 4, width // 3), rng.integers(height // 4, height // 3)
    return [int(n) for n in (x1, y1, x1 + width / rng.uniform(2.5, 4), y1 + height / rng.uniform(2.5, 4))]


def corners_of(box):
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float64)


def depth(shape, quadrilateral):
    """Distance of the centre of each pixel from the edge of a convex quadrilateral, in pixels. Negative outside."""
    start, end = quadrilateral, np.roll(quadrilateral, -1, 0)
    turn = np.sign(np.sum(start[:, 0] * end[:, 1] - end[:, 0] * start[:, 1]))
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    sides = [((b - a)[0] * (y - a[1]) - (b - a)[1] * (x - a[0])) / np.linalg.norm(b - a) for a, b in zip(start, end)]
    return np.min(turn * np.array(sides), axis=0)


def seen_at(found, quadrilaterals, tolerance=1.0):
    """Whether the pixels ``found`` fill the quadrilaterals, up to ``tolerance`` pixels at the edges."""
    inside = np.max([depth(found.shape, q) for q in quadrilaterals], axis=0)
    return not found[inside < -tolerance].any() and found[inside > tolerance].all()


def bright(results):
    return results['img'][..., 2] > 148


def check(results, square):
    """Check that pixels, box and homography agree. Return the mapped corners of the square."""
    assert results['homography_matrix'].dtype == np.float32
    corners = through(corners_of(square), results['homography_matrix'])
    assert bright(results).sum() > 5
    assert seen_at(bright(results), [corners])
    np.testing.assert_allclose(results['gt_bboxes'].numpy(), [[*corners.min(0), *corners.max(0)]], atol=0.01)
    return corners


def test_seen_at_detects_a_shift_of_two_pixels():
    results = picture(60, 50, [10, 12, 30, 40])
    assert seen_at(bright(results), [corners_of([10, 12, 30, 40])])
    for wrong in ([12, 12, 30, 40], [10, 12, 32, 40], [10, 10, 30, 40], [10, 12, 30, 38]):
        assert not seen_at(bright(results), [corners_of(wrong)])


@given(
    size=sizes,
    target=targets,
    up=st.booleans(),
    mode=st.sampled_from(['', 'use_mini_pad', 'stretch_only', 'half_pad_param']),
    seed=seeds,
)
def test_letter_resize_is_recorded(size, target, up, mode, seed):
    square = square_in(*size, seed)
    results = build(letter(target, allow_scale_up=up, **({mode: True} if mode else {})))(picture(*size, square))
    check(results, square)
    frame = through(corners_of([0, 0, *size]), results['homography_matrix'])
    # In this mode MMYOLO records half pixels for an odd padding, but pads by whole pixels.
    tolerance = 0.51 if mode == 'half_pad_param' else 0.01
    assert seen_at(results['img'][..., 0] != PAD, [frame], tolerance)


@given(size=sizes, seed=seeds, border=st.tuples(st.integers(-8, 8), st.integers(-8, 8)))
def test_random_affine_is_recorded(size, seed, border):
    square = square_in(*size, seed)
    np.random.seed(seed)
    results = build(affine(border=border))(picture(*size, square))
    check(results, square)
    frame = through(corners_of([0, 0, *size]), results['homography_matrix'])
    assert seen_at(results['img'][..., 0] < PAD // 2, [frame])


CHAINS = {
    'two resizes': (letter((128, 96)), letter((96, 160), allow_scale_up=False)),
    'resize affine flip': (letter((128, 96)), affine(), flip('horizontal')),
    'flip resize affine': (flip('diagonal'), letter((96, 128), allow_scale_up=False), affine()),
    'affine flip resize': (affine(), flip('vertical'), letter((128, 128))),
    'two upright affines': (affine(**UPRIGHT), letter((128, 96)), affine(**UPRIGHT), flip('horizontal')),
}


@pytest.mark.parametrize('chain', CHAINS)
@given(size=sizes, seed=seeds)
def test_chains_of_transforms_are_recorded(chain, size, seed):
    square = square_in(*size, seed)
    np.random.seed(seed)
    results = build(*CHAINS[chain])(picture(*size, square))
    check(results, square)


def mosaic(seed, **kwargs):
    np.random.seed(seed)
    first, *rest = (picture(*args) for args in PICTURES)
    transform = TRANSFORMS.build({'type': 'RecordedMosaic', 'img_scale': (64, 64), 'pad_val': PAD, **kwargs})
    return transform({**first, 'dataset': Pictures(rest), 'homography_matrix': np.diag([3, 3, 1]).astype(np.float32)})


def quadrilaterals(results, boxes):
    return [through(corners_of(box), results['homography_matrix']) for box in boxes]


@given(seeds)
def test_mosaic_is_recorded(seed):
    results = mosaic(seed)
    tiles = results['mosaic_tiles']
    assert tiles.shape == (4, 4) and tiles.dtype == results['homography_matrix'].dtype == np.float32
    x, y = tiles[3, :2]
    assert tiles[:, [2, 3]][0].tolist() == [x, y] and (tiles[1, 0], tiles[2, 1]) == (x, y)
    assert seen_at(results['img'][..., 0] != PAD, quadrilaterals(results, tiles), tolerance=0.01)
    # The box of an object may go beyond the tile of its image.
    low, high = np.split(results['gt_bboxes'].numpy(), 2, axis=1)
    visible = np.concatenate([np.maximum(low, tiles[:, :2]), np.minimum(high, tiles[:, 2:])], axis=1)
    visible = visible[(visible[:, 2:] - visible[:, :2] > 2).all(1)]
    assert len(visible)
    assert seen_at(bright(results), quadrilaterals(results, visible))


@given(seeds)
def test_tiles_of_a_mosaic_through_the_affine(seed):
    """A mosaic of twice the size is cut to its middle, as in YOLOv8."""
    results = mosaic(seed)
    canvas = results['img'].shape[:2]
    transform = build(affine(border=(-32, -32)))
    results = transform(results)
    assert canvas == (128, 128) and results['img'].shape[:2] == (64, 64)
    assert seen_at(results['img'][..., 0] < PAD // 2, quadrilaterals(results, results['mosaic_tiles']))


def test_without_a_mosaic_no_tiles_are_recorded():
    results = mosaic(0, prob=0.0)
    assert 'mosaic_tiles' not in results
    assert results['homography_matrix'].tolist() == np.diag([3, 3, 1]).tolist()


def test_the_next_image_has_its_own_homography():
    transform = build(affine())
    turns = set()
    for square, size in (([30, 20, 50, 40], (80, 60)), ([20, 30, 50, 60], (70, 90))):
        results = transform(picture(*size, square))
        check(results, square)
        turns.add(results['homography_matrix'][0, 1])
    assert len(turns) == 2
    mosaics = TRANSFORMS.build({'type': 'RecordedMosaic', 'img_scale': (64, 64), 'pad_val': PAD})
    for _ in range(2):
        results = mosaics({**picture(*PICTURES[0]), 'dataset': Pictures(picture(*args) for args in PICTURES)})
        assert len(results['mosaic_tiles']) == 4


PACK = {'type': 'mmdet.PackDetInputs', 'meta_keys': ('homography_matrix',)}


def views(results, **branches):
    return TRANSFORMS.build({'type': 'Views', 'branch_field': ['sup', *branches], **branches})({**results, 'img_id': 1})


def test_views_do_not_copy_the_dataset():
    square = [10, 20, 40, 50]
    results = {**picture(80, 60, square), 'dataset': Pictures()}
    branches = views(results, weak=[letter((64, 64)), PACK], strong=[letter((64, 64)), flip('horizontal'), PACK])
    assert branches['inputs']['sup'] is branches['data_samples']['sup'] is None
    for name, mirrored in (('weak', False), ('strong', True)):
        image = branches['inputs'][name].numpy().transpose(1, 2, 0)
        matrix = branches['data_samples'][name].homography_matrix
        assert seen_at(image[..., 2] > 148, [through(corners_of(square), matrix)])
        assert (matrix[0, 0] < 0) == mirrored


def test_no_view_changes_the_pixels_of_another():
    def paint(results):
        results['img'][:] = 1
        return results

    results = picture(8, 6, [2, 2, 4, 4])
    image = results['img'].copy()
    inputs = views(results, painted=[paint, PACK], plain=[PACK])['inputs']
    assert (inputs['painted'] == 1).all() and np.array_equal(inputs['plain'].numpy().transpose(1, 2, 0), image)
