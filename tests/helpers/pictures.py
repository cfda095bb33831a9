"""Painted pictures and short configs, for tests of the geometry that transforms record."""

import numpy as np
import torch
from hypothesis import strategies as st
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import Compose
from mmyolo.registry import TRANSFORMS

from mmyolo_bgpenalty.utils.geometry import picture_frames, priors_on_image

PAD = 114
AFFINE = {  # small changes: every square stays in the picture
    'max_rotate_degree': 8.0,
    'max_shear_degree': 3.0,
    'max_translate_ratio': 0.05,
    'scaling_ratio_range': (0.7, 1.2),
    'border_val': (PAD, PAD, PAD),
    'bbox_clip_border': False,
}
seeds = st.integers(0, 999)


def build(*transforms):
    return Compose([TRANSFORMS.build(dict(cfg)) for cfg in transforms])


def letter(scale, **kwargs):
    cfg = {'scale': scale, 'pad_val': {'img': PAD}, 'clip_object_border': False}
    return {'type': 'RecordedLetterResize', **cfg, **kwargs}


def affine(**kwargs):
    return {'type': 'RecordedYOLOv5RandomAffine', **AFFINE, **kwargs}


def flip(direction):
    return {'type': 'mmdet.RandomFlip', 'prob': 1.0, 'direction': direction}


def picture(width, height, square):
    """Results of an image with a bright square. Channel 0 is 0 in pictures and PAD in padding."""
    x1, y1, x2, y2 = square
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = 40
    image[y1:y2, x1:x2, 2] = 255
    return {
        'img': image,
        'img_shape': image.shape[:2],
        'ori_shape': image.shape[:2],
        'gt_bboxes': HorizontalBoxes(np.array([square], dtype=np.float32)),
        'gt_bboxes_labels': np.zeros(1, np.int64),
        'gt_ignore_flags': np.zeros(1, bool),
    }


def through(points, matrix):
    mapped = np.concatenate([points, np.ones((len(points), 1))], 1) @ np.asarray(matrix, dtype=np.float64).T
    return mapped[:, :2] / mapped[:, 2:]


class Pictures(list):
    """A dataset that must not be copied."""

    def get_data_info(self, index):
        return self[index]

    def __deepcopy__(self, memo):
        raise AssertionError('the dataset is copied')


# Resized to fit into a tile of 64 x 64, these sizes are whole numbers, so both sides have the same scale.
PICTURES = (
    (64, 32, [10, 6, 40, 26]),
    (32, 64, [4, 20, 28, 60]),
    (128, 96, [20, 30, 90, 80]),
    (40, 80, [5, 15, 35, 65]),
)


def on_picture(sample):
    """Bool, (H, W): the pixels of an input that the penalty does not treat as padding."""
    height, width = sample.img_shape[:2]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing='ij')
    points = torch.stack([x.flatten(), y.flatten()], dim=-1)
    return priors_on_image(points, *picture_frames([sample.metainfo]))[0].reshape(height, width).numpy()
