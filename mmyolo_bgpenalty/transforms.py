"""Transforms that record their geometry, and the split into views.

MMYOLO's transforms below move pixels without (wholly) entering it in ``results['homography_matrix']``, which
is what projects a teacher's boxes into the student's view. Each subclass adds the entry and nothing else.
"""

import numpy as np
from mmdet.datasets.transforms import MultiBranch
from mmyolo.datasets.transforms import LetterResize, Mosaic, YOLOv5RandomAffine
from mmyolo.registry import TRANSFORMS


def _record(results: dict, matrix: np.ndarray) -> None:
    """Compose ``matrix``, (3, 3), onto the homography recorded so far."""
    before = results.get('homography_matrix')
    results['homography_matrix'] = (matrix if before is None else matrix @ before).astype(np.float32)


@TRANSFORMS.register_module()
class RecordedLetterResize(LetterResize):
    """LetterResize that records its padding too, not its scale alone."""

    def _record_homography_matrix(self, results: dict) -> None:
        super()._record_homography_matrix(results)
        top, _, left, _ = results['pad_param']
        _record(results, np.array([[1, 0, left], [0, 1, top], [0, 0, 1]]))


@TRANSFORMS.register_module()
class RecordedYOLOv5RandomAffine(YOLOv5RandomAffine):
    """YOLOv5RandomAffine that records its matrix."""

    def _get_random_homography_matrix(self, height, width):
        self._random = super()._get_random_homography_matrix(height, width)
        return self._random

    def transform(self, results: dict) -> dict:
        height, width = results['img'].shape[:2]
        results = super().transform(results)
        # The parent turns about the image's centre.
        _record(results, self._random[0] @ np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]]))
        return results


@TRANSFORMS.register_module()
class RecordedMosaic(Mosaic):
    """Mosaic that records where its pictures lie.

    The homography starts anew from the mosaic's canvas, and ``mosaic_tiles``, (4, 4), are the pictures'
    boxes there; the rest of the canvas is padding.
    """

    def _mosaic_combine(self, loc, center_position_xy, img_shape_wh):
        paste, crop = super()._mosaic_combine(loc, center_position_xy, img_shape_wh)
        self._tiles.append(paste)
        return paste, crop

    def mix_img_transform(self, results: dict) -> dict:
        self._tiles = []
        results = super().mix_img_transform(results)
        results['mosaic_tiles'] = np.array(self._tiles, dtype=np.float32)
        results['homography_matrix'] = np.eye(3, dtype=np.float32)
        return results


@TRANSFORMS.register_module()
class Views(MultiBranch):
    """MultiBranch that does not deep-copy the dataset, which MMYOLO's datasets put into ``results``."""

    def transform(self, results: dict) -> dict:
        results.pop('dataset', None)
        return super().transform(results)
