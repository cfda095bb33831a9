"""Colour transforms and erasing change pixels and do not move them."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmyolo.registry import TRANSFORMS

from tests.helpers.pictures import build, letter, picture
from tests.helpers.tiny import CONFIGS

VIEWS = 'yolov8_semi_bgpenalty_views.py'


def student_steps():
    """The student's transforms in the shipped config, by type. A wrapper's key is the type of its first transform."""
    pipeline = Config.fromfile(CONFIGS / VIEWS).train_dataloader.dataset.unlabeled.pipeline
    (views,) = (step for step in pipeline if step.type == 'Views')
    return {step.get('transforms', [step])[0].type: dict(step) for step in views.unsup_student}


STEPS = student_steps()
STUDENT = {
    'jitter': STEPS['mmdet.Brightness'],
    'grey': STEPS['RandomGrayscale'],
    'blur': STEPS['RandomGaussianBlur'],
    'erasing': STEPS['mmdet.RandomErasing'],
    # One of MMDetection's colour transforms, as in SoftTeacher.
    'RandAugment': dict(
        type='mmdet.RandAugment',
        aug_num=1,
        aug_space=[
            [dict(type=f'mmdet.{name}')]
            for name in ('ColorTransform', 'AutoContrast', 'Equalize', 'Sharpness', 'Posterize', 'Solarize', 'Color')
        ],
    ),
}


@pytest.mark.parametrize('name', STUDENT)
def test_colour_and_erasing_change_only_pixels(name):
    step = dict(STUDENT[name], prob=1.0) if name != 'RandAugment' else STUDENT[name]
    before = build(letter((96, 64)))(picture(90, 50, [20, 10, 44, 30]))
    noise = np.random.default_rng(0).integers(0, 255, before['img'].shape, dtype=np.uint8)
    before['img'] = noise
    transform, changed, again = build(step), 0, []
    for seed in range(20):
        np.random.seed(seed)
        results = transform(copy.deepcopy(before))
        image = results.pop('img')
        assert image.dtype == np.uint8 and image.shape == noise.shape
        changed += not np.array_equal(image, noise)
        assert results.keys() >= before.keys() - {'img'} and 'mosaic_tiles' not in results
        assert np.array_equal(results['homography_matrix'], before['homography_matrix'])
        assert torch.equal(results['gt_bboxes'].tensor, before['gt_bboxes'].tensor)
        np.random.seed(seed)
        again.append(np.array_equal(transform(copy.deepcopy(before))['img'], image))
    assert all(again) and changed >= 15


def test_blur_is_a_gaussian():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    blurred = build(dict(type='RandomGaussianBlur', prob=1.0, sigma=(1.5, 1.5)))({'img': image})['img'].astype(float)
    y, x = np.mgrid[-20:21, -20:21]
    expected = np.exp(-(x**2 + y**2) / (2 * 1.5**2)) * 255 / (2 * np.pi * 1.5**2)
    assert np.abs(blurred[..., 0] - expected).max() <= 1
    kept = build(dict(type='RandomGaussianBlur', prob=0.0))({'img': image.copy()})['img']
    assert np.array_equal(kept, image)


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(prob=1.5), r'`prob` to be in \[0, 1\], but got 1.5'),
        (dict(prob='often'), "`prob`.*got 'often'"),
        (dict(sigma=(2.0, 1.0)), r'`sigma` to be two numbers.*got \(2.0, 1.0\)'),
        (dict(sigma=(0.0, 1.0)), '`sigma`'),
        (dict(sigma=(1.0,)), '`sigma`'),
    ],
)
def test_a_bad_blur_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(dict(type='RandomGaussianBlur', **bad))
