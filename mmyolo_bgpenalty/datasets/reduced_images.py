"""LoadReducedImage: large JPEGs become smaller while they are decoded."""

import io
from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmyolo.registry import TRANSFORMS

from mmyolo_bgpenalty.utils.image_files import JPEG_STARTS, opened_header, orientation_of

FLAGS = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
MOVED = {'bbox', 'mask', 'bbox_label', 'ignore_flag'}  # keys of an instance that are scaled, or have no place


@TRANSFORMS.register_module()
class LoadReducedImage(LoadImageFromFile):
    r"""LoadImageFromFile that decodes a JPEG of H × W pixels to 1 / k of its size, k = 1, 2, 4 or 8.

    .. math:: k = \max \{k : 1 / k \ge \min(w / W, h / H)\}

    (w, h) is ``scale``. So a later resize to ``scale`` that keeps the ratio does not enlarge the image. No later
    transform should resize to more than ``scale``. A JPEG decoder computes 1 / k from the frequencies of each block of
    8 × 8 pixels. This is faster than to decode all pixels and then leave most of them out. It also has less aliasing.

    ``ori_shape`` is (H, W). ``homography_matrix`` and ``scale_factor`` begin with 1 / k. Boxes and polygons in
    ``instances`` are scaled. Put it before LoadAnnotations. It is for training: a test pipeline should decode all
    pixels, because the program that uses the detector does.

    These images are loaded as by LoadImageFromFile: images in another format or color type, and images whose
    annotations have anything else than boxes and polygons.

    Args:
        scale: width and height of the input in pixels.
        options: of LoadImageFromFile, by keyword.

    Raises:
        ValueError: ``scale`` is not a pair of numbers above 0; the image cannot be decoded; or annotations are loaded
            before the image.

    Source: scaled decoding of libjpeg, https://libjpeg-turbo.org; OpenCV's IMREAD_REDUCED_COLOR_2, _4 and _8.
    """

    def __init__(self, scale: Sequence[float], **options):
        super().__init__(**options)
        numbers = isinstance(scale, (list, tuple)) and all(isinstance(side, (int, float)) for side in scale)
        if not numbers or len(scale) != 2 or min(scale) <= 0:
            raise ValueError(f'Expected `scale` to be a width and a height above 0, but got {scale!r}')
        self.scale = tuple(scale)
        plain = self.color_type == 'color' and self.imdecode_backend == 'cv2'
        self._may_reduce = plain and not (self.to_float32 or self.ignore_empty or self.file_client_args)

    def transform(self, results: dict) -> dict | None:
        instances = results.get('instances', ())
        if not self._may_reduce or results.get('seg_map_path') or not all(map(_can_be_scaled, instances)):
            return super().transform(results)
        if 'gt_bboxes' in results:
            raise ValueError('Expected LoadReducedImage before LoadAnnotations, but it comes after it')
        content = fileio.get(results['img_path'], backend_args=self.backend_args)
        height, width = jpeg_shape(content) or (0, 0)
        factor = reduction(height, width, self.scale)
        image = mmcv.imfrombytes(content, flag=FLAGS.get(factor, self.color_type), backend=self.imdecode_backend)
        if image is None:
            raise ValueError(f'failed to decode {results["img_path"]}')
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        if factor > 1:
            results.update(ori_shape=(height, width), scale_factor=(1 / factor, 1 / factor))
            results['homography_matrix'] = np.diag([1 / factor, 1 / factor, 1]).astype(np.float32)
            if instances:
                results['instances'] = [_scaled(one, factor) for one in instances]
        return results

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, scale={self.scale})'


def reduction(height: int, width: int, scale: Sequence[float]) -> int:
    """By which of 8, 4, 2 and 1 an image may be divided so that a resize to ``scale``, (w, h), does not enlarge it."""
    if not height or not width:
        return 1
    ratio = min(scale[0] / width, scale[1] / height)
    return next((factor for factor in FLAGS if 1 / factor >= ratio), 1)


def jpeg_shape(content: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG, turned by its EXIF orientation. None for another format and for a broken header."""
    if not content.startswith(JPEG_STARTS):
        return None
    try:
        with opened_header(io.BytesIO(content)) as image:
            (width, height), orientation = image.size, orientation_of(image)
    except Exception:  # Pillow's readers raise many kinds of errors. OpenCV may still read the file
        return None
    return (width, height) if orientation >= 5 else (height, width)


def _can_be_scaled(instance: dict) -> bool:
    """Whether an instance has only boxes and polygons. A mask may also be a dict, which is run-length encoded."""
    return instance.keys() <= MOVED and isinstance(instance.get('mask', []), list)


def _scaled(instance: dict, factor: int) -> dict:
    scaled = dict(instance)
    if 'bbox' in instance:
        scaled['bbox'] = [side / factor for side in instance['bbox']]
    if 'mask' in instance:
        scaled['mask'] = [[side / factor for side in polygon] for polygon in instance['mask']]
    return scaled
