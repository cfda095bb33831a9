"""Transforms that record their geometry, and the split into views.

MMYOLO's transforms below move pixels without (wholly) entering it in ``results['homography_matrix']``, which
is what projects a teacher's boxes into the student's view. Each subclass adds the entry, and of several images in
one also ``results['mosaic_tiles']``, where there is picture and not padding. An image that a crop has cut gets tiles,
too, before padding takes the place of what was cut off.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform, RandomChoice
from mmcv.transforms.utils import cache_randomness
from mmdet.datasets.transforms import MultiBranch
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import Compose
from mmyolo.datasets.transforms import LetterResize, Mosaic, YOLOv5MixUp, YOLOv5RandomAffine
from mmyolo.datasets.transforms.mix_img_transforms import BaseMixImageTransform, YOLOXMixUp
from mmyolo.registry import TRANSFORMS

from mmyolo_bgpenalty.utils.arguments import non_negative


def _record(results: dict, matrix: np.ndarray) -> None:
    """Compose ``matrix``, (3, 3), onto the homography recorded so far."""
    before = results.get('homography_matrix')
    results['homography_matrix'] = (matrix if before is None else matrix @ before).astype(np.float32)


def _pictures(results: dict) -> np.ndarray:
    """Boxes, (K, 4), where there is picture, in the coordinates that the recorded homography starts from."""
    if 'mosaic_tiles' in results:
        return results['mosaic_tiles'].astype(np.float64)
    height, width = results['ori_shape'][:2]
    return np.array([[0.0, 0.0, width, height]])


def _upright(matrix: np.ndarray) -> bool:
    """Whether a homography takes upright boxes to upright boxes."""
    return not (matrix[[0, 1], [1, 0]].any() or matrix[2, :2].any())


def _map_upright(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    corners = boxes.reshape(-1, 2, 2) * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def _shown(results: dict) -> tuple[np.ndarray, bool]:
    """What the image shows of the pictures, boxes (K, 4) in its own pixels; whether a pixel or more is cut off."""
    height, width = results['img'].shape[:2]
    whole = _map_upright(_pictures(results), np.asarray(results.get('homography_matrix', np.eye(3)), np.float64))
    shown = np.concatenate([whole[:, :2].clip(0), np.minimum(whole[:, 2:], [width, height])], axis=1)
    return shown[(shown[:, 2:] > shown[:, :2]).all(1)], bool((np.abs(whole - shown) >= 1).any())


def _cut_pictures(results: dict) -> None:
    """Record what crops have cut off, which padding may replace. After a rotation or shear it is no box and stays."""
    matrix = np.asarray(results.get('homography_matrix', np.eye(3)), np.float64)
    if 'ori_shape' in results and _upright(matrix):
        shown, cut = _shown(results)
        if cut:
            results['mosaic_tiles'] = _map_upright(shown, np.linalg.inv(matrix)).astype(np.float32)


@TRANSFORMS.register_module()
class RecordedLetterResize(LetterResize):
    """LetterResize that records its padding too, not its scale alone."""

    def transform(self, results: dict) -> dict:
        _cut_pictures(results)
        return super().transform(results)

    def _record_homography_matrix(self, results: dict) -> None:
        super()._record_homography_matrix(results)
        top, _, left, _ = results['pad_param']
        _record(results, np.array([[1, 0, left], [0, 1, top], [0, 0, 1]]))


@TRANSFORMS.register_module()
class RecordedYOLOv5RandomAffine(YOLOv5RandomAffine):
    """YOLOv5RandomAffine that records its matrix, and keeps what is visible of crowd boxes however little it is."""

    def _get_random_homography_matrix(self, height, width):
        self._random = super()._get_random_homography_matrix(height, width)
        return self._random

    def filter_gt_bboxes(self, origin_bboxes, wrapped_bboxes) -> torch.Tensor:
        # Of a crowd a tenth is still no background.
        visible = (wrapped_bboxes.widths > self.min_bbox_size) & (wrapped_bboxes.heights > self.min_bbox_size)
        return super().filter_gt_bboxes(origin_bboxes, wrapped_bboxes) | (visible & self._ignored)

    def transform(self, results: dict) -> dict:
        _cut_pictures(results)
        height, width = results['img'].shape[:2]
        self._ignored = torch.as_tensor(results.get('gt_ignore_flags', ()), dtype=torch.bool)
        results = super().transform(results)
        # The parent turns about the image's centre.
        _record(results, self._random[0] @ np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]]))
        return results


class _PreTransform(Compose):
    """Loads a partner image; in place of one that cannot be read the dataset gives the next that can."""

    def __call__(self, data: dict) -> dict:
        first_readable = getattr(data['dataset'], 'first_readable', None)
        if first_readable is None or 'img' in data:
            return super().__call__(data)
        return first_readable(data['sample_idx'], self.transforms)


class _PartnerImages(BaseMixImageTransform):
    """For MMYOLO's transforms of several images: also of images without boxes, and of ImageFolderDataset."""

    pre_transform: Compose | None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.pre_transform is not None:
            self.pre_transform = _PreTransform(self.pre_transform.transforms)

    def mix_img_transform(self, results: dict) -> dict:
        for partner in results['mix_results']:
            # LoadEmptyAnnotations' boxes are an array, which MMYOLO converts in the first image alone.
            if isinstance(partner['gt_bboxes'], np.ndarray):
                partner['gt_bboxes'] = HorizontalBoxes(partner['gt_bboxes'])
        if 'known_empty' in results:  # of the mixed image, as of each
            results['known_empty'] = all(one.get('known_empty') for one in (results, *results['mix_results']))
        return super().mix_img_transform(results)


@TRANSFORMS.register_module()
class RecordedMosaic(_PartnerImages, Mosaic):
    """Mosaic that records where its pictures lie.

    The homography starts anew from the mosaic's canvas, and ``mosaic_tiles``, (4, 4), are the pictures'
    boxes there; the rest of the canvas is padding.
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
    """YOLOv5MixUp that records where either image has picture.

    The homography starts anew from the mixed image, and ``mosaic_tiles``, (K, 4), are both images' pictures there.
    As YOLOv5MixUp it expects two images of one size.

    Raises:
        ValueError: an image has been rotated or sheared, after which its picture is no box.
    """

    def mix_img_transform(self, results: dict) -> dict:
        images = [results, *results['mix_results']]
        for image in images:
            matrix = np.asarray(image.get('homography_matrix', np.eye(3)))
            if not _upright(matrix):
                raise ValueError(
                    'Expected RecordedMixUp to come before what rotates or shears, but got an image with the '
                    f'homography_matrix {matrix.tolist()}'
                )
        tiles = [_shown(image)[0] for image in images]
        results = super().mix_img_transform(results)
        results['mosaic_tiles'] = np.concatenate(tiles).astype(np.float32)
        results['homography_matrix'] = np.eye(3, dtype=np.float32)
        return results


@TRANSFORMS.register_module()
class RandomGaussianBlur(BaseTransform):
    """Blur by a Gaussian, which of the libraries only albumentations does, from random numbers of its own.

    Args:
        prob: in [0, 1].
        sigma: lowest and highest standard deviation, pixels, > 0; each image's is drawn uniformly.

    Raises:
        ValueError: an argument as described above is not met.
    """

    def __init__(self, prob: float = 0.5, sigma: tuple[float, float] = (0.1, 2.0)):
        if not non_negative('prob', prob) <= 1:
            raise ValueError(f'Expected `prob` to be in [0, 1], but got {prob!r}')
        if len(sigma) != 2 or not 0 < non_negative('sigma[0]', sigma[0]) <= non_negative('sigma[1]', sigma[1]):
            raise ValueError(f'Expected `sigma` to be two numbers, 0 < low <= high, but got {sigma!r}')
        self.prob = prob
        self.sigma = (sigma[0], sigma[1])

    @cache_randomness
    def _draw(self) -> tuple[bool, float]:
        return np.random.rand() < self.prob, np.random.uniform(*self.sigma)

    def transform(self, results: dict) -> dict:
        apply, sigma = self._draw()
        if apply:
            results['img'] = cv2.GaussianBlur(results['img'], (0, 0), sigma)
        return results


@TRANSFORMS.register_module()
class Views(MultiBranch):
    """MultiBranch that does not deep-copy the dataset, which MMYOLO's datasets put into ``results``."""

    def transform(self, results: dict) -> dict:
        results.pop('dataset', None)
        return super().transform(results)


def _mixes(transform: Any) -> bool:
    """Whether an image of a transform, or of one within it, may be of several."""
    inner = getattr(transform, 'transforms', ())
    return isinstance(transform, BaseMixImageTransform) or any(map(_mixes, inner if isinstance(inner, list) else ()))


def single_images(transforms: Sequence[Any]) -> list[Any]:
    """A pipeline's transforms without those that mix images.

    MixUp is left out, and of a RandomChoice the candidates that mix; of those that stay the probabilities keep their
    ratios, and are equal where all are 0. What mixes nothing is returned as it is.

    Args:
        transforms: built transforms, as ``Compose.transforms``.

    Raises:
        ValueError: a transform whose place in the pipeline nothing can take: a mosaic, after which the image is of
            another size, or candidates that all mix.
    """
    kept: list[Any] = []
    for transform in transforms:
        if isinstance(transform, RandomChoice) and _mixes(transform):
            places = [place for place, candidate in enumerate(transform.transforms) if not _mixes(candidate)]
            if places:
                kept.append(_chosen_among(transform, places))
                continue
        elif isinstance(transform, (YOLOv5MixUp, YOLOXMixUp)):
            continue
        if _mixes(transform):
            raise ValueError(
                f'Expected a RandomChoice of a mosaic and a single image, or no mosaic, but got {transform}'
            )
        kept.append(transform)
    return kept


def _chosen_among(choice: RandomChoice, places: list[int]) -> BaseTransform:
    if len(places) == 1:
        return choice.transforms[places[0]]
    weights = [choice.prob[place] if choice.prob else 1.0 for place in places]
    total = sum(weights)
    fewer = RandomChoice([choice.transforms[place].transforms for place in places])
    fewer.prob = [weight / total for weight in weights] if total else None
    return fewer
