"""Transforms that record how they move pixels, and transforms for views.

``results['homography_matrix']`` maps the original image to the input. With it, boxes of the teacher are projected into
the view of the student. MMYOLO's transforms do not record all of it; the subclasses do. Transforms that join images
also record ``results['mosaic_tiles']``. A tile is the box of one source image. Pixels outside the tiles are padding. A
cropped image gets a tile too, because a later transform may put padding where the crop has removed pixels.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform, RandomChoice
from mmdet.datasets.transforms import MultiBranch
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import Compose
from mmyolo.datasets.transforms import LetterResize, Mosaic, YOLOv5MixUp, YOLOv5RandomAffine
from mmyolo.datasets.transforms.mix_img_transforms import BaseMixImageTransform, YOLOXMixUp
from mmyolo.registry import TRANSFORMS

from mmyolo_bgpenalty.utils.arguments import fraction, non_negative


def _homography(results: dict) -> np.ndarray:
    return np.asarray(results.get('homography_matrix', np.eye(3)), np.float64)


def _record(results: dict, matrix: np.ndarray) -> None:
    """Apply ``matrix``, (3, 3), after the recorded homography."""
    results['homography_matrix'] = (matrix @ _homography(results)).astype(np.float32)


def _is_upright(results: dict) -> bool:
    """Whether the recorded homography only scales, flips and shifts."""
    matrix = _homography(results)
    return not (matrix[[0, 1], [1, 0]].any() or matrix[2, :2].any())


def _map_upright(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    corners = boxes.reshape(-1, 2, 2) * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def _shown(results: dict) -> tuple[np.ndarray, bool]:
    """The visible parts of the tiles, (K, 4), in pixels of ``results['img']``, and whether a pixel or more is cut."""
    height, width = results['ori_shape'][:2]
    pictures = np.asarray(results.get('mosaic_tiles', [[0, 0, width, height]]), np.float64)
    boxes = _map_upright(pictures, _homography(results))
    height, width = results['img'].shape[:2]
    shown = np.concatenate([boxes[:, :2].clip(0), np.minimum(boxes[:, 2:], [width, height])], axis=1)
    return shown[(shown[:, 2:] > shown[:, :2]).all(1)], bool((np.abs(boxes - shown) >= 1).any())


def _record_cuts(results: dict) -> None:
    """Limit the tiles to the parts that crops have kept. After a rotation or shear the tiles stay as they are."""
    if 'ori_shape' in results and _is_upright(results):
        shown, cut = _shown(results)
        if cut:
            results['mosaic_tiles'] = _map_upright(shown, np.linalg.inv(_homography(results))).astype(np.float32)


@TRANSFORMS.register_module()
class RecordedLetterResize(LetterResize):
    """LetterResize that records its scale and its padding. MMYOLO records only the scale."""

    def transform(self, results: dict) -> dict:
        _record_cuts(results)
        return super().transform(results)

    def _record_homography_matrix(self, results: dict) -> None:
        super()._record_homography_matrix(results)
        top, _, left, _ = results['pad_param']
        _record(results, np.array([[1, 0, left], [0, 1, top], [0, 0, 1]]))


@TRANSFORMS.register_module()
class RecordedYOLOv5RandomAffine(YOLOv5RandomAffine):
    """YOLOv5RandomAffine that records its matrix. It keeps crowd boxes even if only a small part is visible."""

    def _get_random_homography_matrix(self, height, width):
        self._random = super()._get_random_homography_matrix(height, width)
        return self._random

    def filter_gt_bboxes(self, origin_bboxes, wrapped_bboxes) -> torch.Tensor:
        # A crowd is never background, even if only a small part of it is visible.
        visible = (wrapped_bboxes.widths > self.min_bbox_size) & (wrapped_bboxes.heights > self.min_bbox_size)
        return super().filter_gt_bboxes(origin_bboxes, wrapped_bboxes) | (visible & self._ignored)

    def transform(self, results: dict) -> dict:
        _record_cuts(results)
        height, width = results['img'].shape[:2]
        self._ignored = torch.as_tensor(results.get('gt_ignore_flags', ()), dtype=torch.bool)
        results = super().transform(results)
        # The parent class rotates and scales the image around its centre.
        _record(results, self._random[0] @ np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]]))
        return results


class _PreTransform(Compose):
    """Loads a partner image. If it is unreadable, the next readable image of the dataset replaces it."""

    def __call__(self, data: dict) -> dict:
        first_readable = getattr(data['dataset'], 'first_readable', None)
        if first_readable is None or 'img' in data:
            return super().__call__(data)
        return first_readable(data['sample_idx'], self.transforms)


class _PartnerImages(BaseMixImageTransform):
    """Lets MMYOLO's transforms that join images accept images without boxes and images of an ImageFolderDataset."""

    pre_transform: Compose | None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.pre_transform is not None:
            self.pre_transform = _PreTransform(self.pre_transform.transforms)

    def mix_img_transform(self, results: dict) -> dict:
        for partner in results['mix_results']:
            # LoadEmptyAnnotations makes an array of boxes. MMYOLO converts it only in the first image.
            if isinstance(partner['gt_bboxes'], np.ndarray):
                partner['gt_bboxes'] = HorizontalBoxes(partner['gt_bboxes'])
        if 'known_empty' in results:
            results['known_empty'] = all(one.get('known_empty') for one in (results, *results['mix_results']))
        return super().mix_img_transform(results)


@TRANSFORMS.register_module()
class RecordedMosaic(_PartnerImages, Mosaic):
    """Mosaic that records where it puts its source images, as ``mosaic_tiles``, (4, 4).

    ``homography_matrix`` becomes the identity.
    """

    def _mosaic_combine(self, loc, center_position_xy, img_shape_wh):
        paste, crop = super()._mosaic_combine(loc, center_position_xy, img_shape_wh)
        self._tiles.append(paste)
        return paste, crop

    def mix_img_transform(self, results: dict) -> dict:
        self._tiles: list[tuple[int, int, int, int]] = []
        results = super().mix_img_transform(results)
        results['mosaic_tiles'] = np.array(self._tiles, dtype=np.float32)
        results['homography_matrix'] = np.eye(3, dtype=np.float32)
        return results


@TRANSFORMS.register_module()
class RecordedMixUp(_PartnerImages, YOLOv5MixUp):
    """YOLOv5MixUp that records the tiles of both images as ``mosaic_tiles``, (K, 4).

    ``homography_matrix`` becomes the identity. Both images must have the same size. An image that was rotated
    or sheared raises a ValueError, because its tiles are not axis-aligned boxes.
    """

    def mix_img_transform(self, results: dict) -> dict:
        images = [results, *results['mix_results']]
        if not all(map(_is_upright, images)):
            raise ValueError('Expected RecordedMixUp before transforms that rotate or shear, but it comes after one')
        tiles = [_shown(image)[0] for image in images]
        results = super().mix_img_transform(results)
        results['mosaic_tiles'] = np.concatenate(tiles).astype(np.float32)
        results['homography_matrix'] = np.eye(3, dtype=np.float32)
        return results


@TRANSFORMS.register_module()
class RandomGaussianBlur(BaseTransform):
    """Gaussian blur. A number out of range raises a ValueError.

    Args:
        prob: probability of the blur, in [0, 1].
        sigma: range of the standard deviation in pixels, (low, high), > 0. Each image gets a uniform random value.
    """

    def __init__(self, prob: float = 0.5, sigma: tuple[float, float] = (0.1, 2.0)):
        if len(sigma) != 2 or not 0 < non_negative('sigma[0]', sigma[0]) <= non_negative('sigma[1]', sigma[1]):
            raise ValueError(f'Expected `sigma` to be two numbers, 0 < low <= high, but got {sigma!r}')
        self.prob = fraction('prob', prob)
        self.sigma = sigma

    def transform(self, results: dict) -> dict:
        chance, sigma = np.random.rand(), np.random.uniform(*self.sigma)
        if chance < self.prob:
            results['img'] = cv2.GaussianBlur(results['img'], (0, 0), sigma)
        return results


@TRANSFORMS.register_module()
class Views(MultiBranch):
    """MultiBranch that does not deep-copy the dataset. MMYOLO's training datasets put themselves into ``results``."""

    def transform(self, results: dict) -> dict:
        results.pop('dataset', None)
        return super().transform(results)


def _mixes(transform: Any) -> bool:
    """Whether a transform, or a transform inside it, may join several images."""
    inner = getattr(transform, 'transforms', ())
    return isinstance(transform, BaseMixImageTransform) or any(map(_mixes, inner if isinstance(inner, list) else ()))


def single_images(transforms: Sequence[Any]) -> list[Any]:
    """The transforms of a pipeline without those that join images.

    MixUp is left out. A RandomChoice keeps the candidates that join no images. The ratios of their probabilities
    stay the same. If all probabilities are 0, they become equal.

    Args:
        transforms: built transforms, such as ``Compose.transforms``.

    Raises:
        ValueError: a mosaic is in no RandomChoice that also offers a single image. Its removal would change the size.
    """
    kept: list[Any] = []
    for transform in transforms:
        if isinstance(transform, (YOLOv5MixUp, YOLOXMixUp)):
            continue
        if isinstance(transform, RandomChoice) and _mixes(transform):
            transform = _choice_of_single_images(transform)
        if _mixes(transform):
            raise ValueError(f'Expected a RandomChoice of a mosaic and a single image, but got {transform}')
        kept.append(transform)
    return kept


def _choice_of_single_images(choice: RandomChoice) -> BaseTransform:
    places = [place for place, candidate in enumerate(choice.transforms) if not _mixes(candidate)]
    if len(places) < 2:
        return choice.transforms[places[0]] if places else choice
    weights = [choice.prob[place] if choice.prob else 1.0 for place in places]
    total = sum(weights)
    fewer = RandomChoice([choice.transforms[place].transforms for place in places])
    fewer.prob = [weight / total for weight in weights] if total else None
    return fewer
