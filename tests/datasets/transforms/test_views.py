"""Boxes and padding of two views of one mosaic or mixed image."""

import copy

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from mmyolo.registry import TRANSFORMS

from mmyolo_bgpenalty.utils.geometry import project_boxes
from tests.helpers.pictures import (
    PAD,
    PICTURES,
    Pictures,
    affine,
    build,
    flip,
    letter,
    on_picture,
    picture,
    seeds,
    through,
)

SCALE = (64, 64)
PACK = {'type': 'mmdet.PackDetInputs', 'meta_keys': ('homography_matrix', 'mosaic_tiles', 'ori_shape', 'img_shape')}
# Cuts the middle out of a mosaic. Pixels stay the same.
MIDDLE = affine(
    max_rotate_degree=0.0,
    max_shear_degree=0.0,
    max_translate_ratio=0.0,
    scaling_ratio_range=(1.0, 1.0),
    border=(-SCALE[0] // 2, -SCALE[1] // 2),
    max_aspect_ratio=1000.0,
    min_area_ratio=0.0,
    bbox_clip_border=True,
)
# Shrinks the image, so that padding takes the place of parts that were cut off.
STRONG = affine(scaling_ratio_range=(0.4, 0.8), max_translate_ratio=0.1, min_area_ratio=0.0)


def mosaic(**kwargs):
    return {'type': 'RecordedMosaic', 'img_scale': SCALE, 'pad_val': float(PAD), **kwargs}


def mixup(**kwargs):
    return {'type': 'RecordedMixUp', **kwargs}


class Loaded(Pictures):
    """Images that are already loaded. Each access gives a copy."""

    def get_data_info(self, index):
        return copy.deepcopy(self[index])


def canvas(seed, *transforms):
    np.random.seed(seed)
    pictures = Loaded(picture(*args) for args in PICTURES)
    first = pictures.get_data_info(seed % len(pictures))
    return build(*transforms)({**first, 'dataset': pictures, 'img_id': 1, 'img_path': 'one.png'})


def two_views(results, weak, strong):
    branches = {'unsup_teacher': [*weak, PACK], 'unsup_student': [*strong, PACK]}
    packed = TRANSFORMS.build({'type': 'Views', 'branch_field': list(branches), **branches})(results)
    views = []
    for name in branches:
        image = packed['inputs'][name].numpy().transpose(1, 2, 0)
        views.append((image, packed['data_samples'][name]))
    return views


def same_up_to_a_pixel(mask, picture, padding):
    """Whether a mask is True on ``picture`` and False on ``padding``, except at the pixels along their edges.

    The border of the whole image is not compared either, since ``picture`` may end inside the last pixel.
    """
    inner, outer = (
        cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
        for part in (picture, padding)
    )
    return mask[inner == 1].all() and not mask[outer == 1].any()


def padding_is_known(sample, image):
    """Channel 0 is PAD in padding, 0 in tiles, and in between where MixUp joins a tile with padding."""
    return same_up_to_a_pixel(on_picture(sample), image[..., 0] <= 0.55 * PAD, image[..., 0] >= PAD - 2)


def test_same_up_to_a_pixel_detects_a_shift_of_two_pixels():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    for shift, same in ((0, True), (1, True), (-1, True), (2, False), (-2, False)):
        assert same_up_to_a_pixel(np.roll(mask, shift, axis=1), mask, ~mask) == same
    assert not same_up_to_a_pixel(np.ones_like(mask), mask, ~mask)
    assert not same_up_to_a_pixel(np.zeros_like(mask), mask, ~mask)


def check_views(results, weak, strong):
    """Check the boxes and the padding of two views of one image. Return the number of boxes that both show."""
    (weak_image, weak), (strong_image, strong) = two_views(results, weak, strong)
    for image, sample in ((weak_image, weak), (strong_image, strong)):
        assert padding_is_known(sample, image)
    between = strong.homography_matrix.astype(np.float64) @ np.linalg.inv(weak.homography_matrix.astype(np.float64))
    number = 0
    # A perfect teacher finds the visible part of each square in the weak view.
    components, _, boxes, _ = cv2.connectedComponentsWithStats((weak_image[..., 2] > 148).astype(np.uint8))
    for x, y, width, height, area in boxes[1:components]:
        if width * height != area or min(width, height) < 6:
            continue  # overlapping squares, or slivers
        found = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)
        projected = project_boxes(found, torch.from_numpy(between).float(), strong.img_shape[:2])[0].numpy()
        if (projected[2:] - projected[:2] < 6).any():
            continue
        corners = through(np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]), between)
        # In the strong view the square is the painted area around the centre of the projected corners.
        cx, cy = corners.mean(0)
        seen = strong_image[..., 2] > 148
        if not (0 <= cx < seen.shape[1] and 0 <= cy < seen.shape[0] and seen[int(cy), int(cx)]):
            continue
        labels = cv2.connectedComponents(seen.astype(np.uint8))[1]
        rows, columns = np.nonzero(labels == labels[int(cy), int(cx)])
        there = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(projected, there, atol=1.01)
        number += 1
    return number


UPRIGHT_STRONG = {**STRONG, 'max_rotate_degree': 0.0, 'max_shear_degree': 0.0}
CANVASES = {
    'whole mosaic': [mosaic()],
    'middle of a mosaic': [mosaic(), MIDDLE],
    'a mosaic cut, then letterboxed': [mosaic(), MIDDLE, letter((96, 64))],
    'a single image': [mosaic(prob=0.0), letter(SCALE)],
}


@pytest.mark.parametrize('name', CANVASES)
def test_boxes_and_padding_are_right_in_both_views(name):
    numbers = []

    @given(seeds)
    def check(seed):
        results = canvas(seed, *CANVASES[name])
        numbers.append(check_views(results, [flip('horizontal')], [UPRIGHT_STRONG, flip('diagonal')]))

    check()
    assert sum(numbers) >= len(numbers) // 2


@given(seeds)
def test_padding_is_known_in_a_rotated_strong_view(seed):
    _, (image, sample) = two_views(canvas(seed, mosaic(), MIDDLE), [flip('vertical')], [STRONG])
    assert padding_is_known(sample, image)


def test_boxes_and_padding_are_right_in_both_views_of_mixed_images():
    numbers = []

    @given(seeds)
    def check(seed):
        one = [mosaic(), MIDDLE]
        # The ratio is 0.5. A square has the value (255 + 114) / 2 = 185 over padding and 148 over a picture.
        results = canvas(seed, *one, mixup(alpha=1e6, beta=1e6, pre_transform=one))
        assert results['img'].shape == (64, 64, 3) and len(results['mosaic_tiles']) > 1
        numbers.append(check_views(results, [flip('horizontal')], [UPRIGHT_STRONG]))

    check()
    assert sum(numbers) > 5


def test_an_image_mixed_from_two_has_the_boxes_and_tiles_of_both():
    results = canvas(1, letter(SCALE), mixup(pre_transform=[letter(SCALE)]))
    tiles = results['mosaic_tiles']
    assert len(tiles) == len(results['gt_bboxes']) == 2
    assert np.array_equal(results['homography_matrix'], np.eye(3)) and results['homography_matrix'].dtype == np.float32
    # Seed 1 begins with the second picture, 32 x 64. In 64 x 64 it has 16 columns of padding on either side.
    assert tiles[0].tolist() == [16, 0, 48, 64]


def test_without_mixing_there_are_no_tiles():
    results = canvas(0, letter(SCALE), mixup(prob=0.0, pre_transform=[letter(SCALE)]))
    assert 'mosaic_tiles' not in results and len(results['gt_bboxes']) == 1


def test_a_rotated_image_cannot_be_mixed():
    turned = [letter(SCALE), affine(max_rotate_degree=30.0)]
    with pytest.raises(ValueError, match='RecordedMixUp before transforms that rotate'):
        canvas(0, *turned, mixup(pre_transform=turned))
    with pytest.raises(ValueError, match='RecordedMixUp before transforms that rotate'):
        canvas(0, letter(SCALE), mixup(pre_transform=turned))


CROP = {'type': 'mmdet.RandomCrop', 'crop_size': (24, 30), 'allow_negative_crop': True}
CUTS = {
    'crop, letterbox': [CROP],
    'crop of one pixel, letterbox': [{**CROP, 'crop_size': (63, 47)}],
    'zoom in, letterbox': [{**UPRIGHT_STRONG, 'scaling_ratio_range': (1.6, 2.0)}],
    'crop, flip, letterbox': [CROP, flip('diagonal')],
}


@pytest.mark.parametrize('name', CUTS)
@given(seeds)
def test_padding_is_known_after_a_crop(name, seed):
    np.random.seed(seed)
    results = build(*CUTS[name], letter((96, 64)), UPRIGHT_STRONG)(picture(64, 48, [20, 10, 44, 30]))
    sample = type('Sample', (), {'img_shape': results['img_shape'], 'metainfo': results})
    assert padding_is_known(sample, results['img'])
    assert 'mosaic_tiles' in results


@given(seeds)
def test_without_a_crop_no_tiles_are_recorded(seed):
    np.random.seed(seed)
    results = build(letter((96, 64)), UPRIGHT_STRONG, flip('horizontal'))(picture(61, 47, [20, 10, 44, 30]))
    assert 'mosaic_tiles' not in results


def test_a_tile_that_is_cut_off_is_removed():
    results = picture(64, 48, [20, 10, 44, 30])
    results['mosaic_tiles'] = np.array([[0, 0, 20, 48], [20, 0, 64, 48]], np.float32)
    # The left 30 columns are cut off, and the first tile with them.
    results['homography_matrix'] = np.array([[1, 0, -30], [0, 1, 0], [0, 0, 1]], np.float32)
    results['img'] = results['img'][:, 30:].copy()
    results = build(letter((96, 48)))(results)
    assert results['mosaic_tiles'].tolist() == [[30, 0, 64, 48]]


@pytest.mark.parametrize('crowd', [False, True])
@pytest.mark.parametrize('x2, left, kept', [(36, 20, 'both'), (19, 3, 'crowd'), (17, 1, 'none')])
def test_a_small_visible_part_of_a_crowd_is_kept(crowd, x2, left, kept):
    """If less than a tenth is visible, an object is dropped, but a crowd is kept. A strip of 1 px is always dropped."""
    results = picture(64, 64, [0, 0, x2, 64])
    results['gt_ignore_flags'][:] = crowd
    results = build({**MIDDLE, 'min_area_ratio': 0.1, 'max_aspect_ratio': 20.0, 'border': (-16, -16)})(results)
    seen = kept == 'both' or (kept == 'crowd' and crowd)
    assert results['gt_bboxes'].numpy().tolist() == ([[0, 0, left, 32]] if seen else [])
    assert results['gt_ignore_flags'].tolist() == ([crowd] if seen else [])
