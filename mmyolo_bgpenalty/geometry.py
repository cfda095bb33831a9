"""Boxes and priors under homographies. Pure torch, fp32 whatever autocast says.

Shapes: B images, N priors, M boxes. A box is (x1, y1, x2, y2) in pixels. A homography is a (3, 3) matrix H
that takes a point of the original image to the network's input: (x', y', w')ᵀ = H (x, y, 1)ᵀ.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor


def _transform(points: Tensor, homography: Tensor) -> Tensor:
    """Apply (..., 3, 3) to (..., N, 2)."""
    # Written as sums, not as a matmul, since autocast and TF32 would round a matmul to 10 bits or fewer.
    x, y = points.float().unbind(-1)
    rows = homography.float()[..., None, :, :]
    mapped = rows[..., 0] * x[..., None] + rows[..., 1] * y[..., None] + rows[..., 2]
    return mapped[..., :2] / mapped[..., 2:]


def project_boxes(boxes: Tensor, homography: Tensor, clip_shape: Optional[Tuple[int, int]] = None) -> Tensor:
    """Smallest upright boxes around the images of ``boxes``.

    Args:
        boxes: (M, 4).
        homography: (3, 3).
        clip_shape: (height, width) to clip to, or None.

    Returns:
        (M, 4) in fp32.
    """
    x1, y1, x2, y2 = boxes.float().unbind(-1)
    corners = torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], dim=-1).reshape(-1, 2)
    corners = _transform(corners, homography).reshape(-1, 4, 2)
    low, high = corners.amin(dim=1), corners.amax(dim=1)
    if clip_shape is not None:
        height, width = clip_shape
        x1, y1, x2, y2 = (*low.unbind(-1), *high.unbind(-1))
        clipped = [x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)]
        return torch.stack(clipped, dim=-1)
    return torch.cat([low, high], dim=-1)


def priors_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points lie in any of the boxes, edges included.

    Args:
        points: (..., N, 2).
        boxes: (..., M, 4).

    Returns:
        (..., N), bool.
    """
    x, y = points[..., None, 0], points[..., None, 1]
    x1, y1, x2, y2 = boxes[..., None, :, :].unbind(-1)
    return ((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)).any(-1)


def priors_on_image(points: Tensor, to_image: Tensor, image_boxes: Tensor) -> Tensor:
    """Which priors see a picture, and not padding.

    Args:
        points: (N, 2), centres of the priors in the input, pixels.
        to_image: (B, 3, 3), inverse homographies, from the input to the image.
        image_boxes: (B, M, 4), where there is picture: the image's frame, or the tiles of a mosaic.

    Returns:
        (B, N), bool.
    """
    return priors_inside(_transform(points, to_image), image_boxes)
