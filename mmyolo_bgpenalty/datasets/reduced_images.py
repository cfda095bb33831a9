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


@TRANSFORMS.register_module()
class LoadReducedImage(LoadImageFromFile):
    r"""LoadImageFromFile that decodes a JPEG of H × W pixels to 1 / k of its size, k = 1, 2, 4 or 8.

    .. math:: k = \max \{k : 1 / k \ge \min(w / W, h / H)\}

    (w, h) is ``scale``. So the image is still as large as, or larger than, a later resize to ``scale`` that keeps its
    ratio. A JPEG decoder computes 1 / k from the frequencies of each block of 8 × 8 pixels. This is faster, and has
    less aliasing, than to decode all pixels and then leave most of them out.

    ``ori_shape`` is (H, W), and ``homography_matrix`` begins with 1 / k. The boxes in ``instances`` are scaled. Put it
    before LoadAnnotations. It is for training: a test pipeline should load what is used later, so all pixels.

    Args:
        scale: width and height of the input in pixels.
        backend_args: see LoadImageFromFile.

    Source: scaled decoding of libjpeg, https://libjpeg-turbo.org; OpenCV's IMREAD_REDUCED_COLOR_2, _4 and _8.
    """

    def __init__(self, scale: Sequence[int], backend_args: dict | None = None):
        super().__init__(backend_args=backend_args)
        if len(scale) != 2 or min(scale) <= 0:
            raise ValueError(f'Expected `scale` to be a width and a height above 0, but got {scale!r}')
        self.scale = tuple(scale)

    def transform(self, results: dict) -> dict:
        content = fileio.get(results['img_path'], backend_args=self.backend_args)
        height, width = jpeg_shape(content) or (0, 0)
        factor = reduction(height, width, self.scale)
        image = mmcv.imfrombytes(content, flag=FLAGS.get(factor, self.color_type), backend=self.imdecode_backend)
        if image is None:
            raise ValueError('the image cannot be decoded')
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        if factor > 1:
            results['ori_shape'] = height, width
            results['homography_matrix'] = np.diag([1 / factor, 1 / factor, 1]).astype(np.float32)
            results['instances'] = [_scaled(one, factor) for one in results.get('instances', ())]
        return results


def reduction(height: int, width: int, scale: Sequence[int]) -> int:
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


def _scaled(instance: dict, factor: int) -> dict:
    return {**instance, 'bbox': [side / factor for side in instance['bbox']]} if 'bbox' in instance else instance
