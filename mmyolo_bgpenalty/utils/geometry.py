"""Map boxes and priors by homographies. Pure torch. The arithmetic is in fp32, also under autocast.

Shapes: B images, N priors, M boxes. A box is (x1, y1, x2, y2) in pixels. A homography is a (3, 3) matrix H. It maps a
point of the original image to the input of the network: (x', y', w')ᵀ = H (x, y, 1)ᵀ.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def _transform(points: Tensor, homography: Tensor) -> Tensor:
    """Map points, (..., N, 2), by homographies, (..., 3, 3)."""
    # Sums, because autocast and TF32 would round a matmul to 10 bits or fewer.
    x, y = points.float()[..., None, :, :].unbind(-1)
    by_x, by_y, constant = homography.float().split(1, dim=-1)
    mapped = by_x * x + by_y * y + constant  # (..., 3, N)
    return (mapped[..., :2, :] / mapped[..., 2:, :]).mT


def project_boxes(boxes: Tensor, homography: Tensor, clip_shape: tuple[int, int] | None = None) -> Tensor:
    """Smallest axis-aligned boxes around the mapped ``boxes``, (M, 4), fp32, clipped to (height, width)."""
    x1, y1, x2, y2 = boxes.float().unbind(-1)
    corners = torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], dim=-1).reshape(-1, 2)
    corners = _transform(corners, homography).reshape(-1, 4, 2)
    projected = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=-1)
    if clip_shape is not None:
        height, width = clip_shape
        projected[:, 0::2].clamp_(0, width)
        projected[:, 1::2].clamp_(0, height)
    return projected


# The directions of MMDetection's RandomFlip, and the axes of (B, C, H, W) that they flip.
FLIPS = {'horizontal': (3,), 'vertical': (2,), 'diagonal': (2, 3)}


def flip_boxes(boxes: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """The boxes, (M, 4), after a flip of an image of ``shape`` (H, W). ``axes``: a value of ``FLIPS``, or none."""
    for axis in axes:
        low, size = 3 - axis, shape[axis - 2]
        boxes = boxes.clone()
        boxes[:, [low, low + 2]] = size - boxes[:, [low + 2, low]]
    return boxes


def flipped_back(
    cls_scores: Sequence[Tensor], distances: Sequence[Tensor], direction: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Convert predictions on a flipped input to predictions on the input before the flip.

    Args:
        cls_scores: logits of each level, (B, C, H, W).
        distances: from a prior to the left, top, right and bottom of its box, (B, 4, H, W) for each level.
        direction: a key of ``FLIPS``.
    """
    axes = FLIPS[direction]
    left, right = (2, 0) if 3 in axes else (0, 2)
    top, bottom = (3, 1) if 2 in axes else (1, 3)
    sides = [left, top, right, bottom]
    return [level.flip(axes) for level in cls_scores], [level.flip(axes)[:, sides] for level in distances]


def mean_predictions(predictions: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]]):
    """Average pairs of logits and distances, in fp32. The new logits are those of the mean probabilities."""
    scores, distances = zip(*predictions)
    # In fp32 the sigmoid of 17 is 1, and the logit of 1 is infinite.
    least = torch.finfo(torch.float32).eps
    means = [torch.stack([level.float().sigmoid() for level in levels]).mean(0) for levels in zip(*scores)]
    return (
        [mean.clamp(least, 1 - least).logit() for mean in means],
        [torch.stack([level.float() for level in levels]).mean(0) for levels in zip(*distances)],
    )


def priors_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(..., N), bool: which points, (..., N, 2), lie in at least one box, (..., M, 4). Edges count as inside."""
    x, y = points[..., None, 0], points[..., None, 1]
    x1, y1, x2, y2 = boxes[..., None, :, :].unbind(-1)
    return ((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)).any(-1)


def priors_on_image(points: Tensor, to_image: Tensor, image_boxes: Tensor) -> Tensor:
    """(B, N), bool: which points of the input, (N, 2), lie on the picture, not in padding.

    ``to_image``, (B, 3, 3), and ``image_boxes``, (B, M, 4), come from ``picture_frames``.
    """
    return priors_inside(_transform(points, to_image), image_boxes)


def picture_frames(metas: Sequence[dict]) -> tuple[Tensor, Tensor]:
    """The homographies from inputs to images, (B, 3, 3), and the boxes of the pictures, (B, M, 4), in pixels of images.

    If a meta has a ``homography_matrix``, the picture is the original image or its ``mosaic_tiles``. Otherwise the
    picture is the input before padding (``img_shape``), or the whole input if the meta has no ``img_shape``. Boxes are
    padded with NaN. No point lies in such a box.
    """
    matrices, boxes = [], []
    for meta in metas:
        homography = meta.get('homography_matrix')
        if homography is None:
            homography, tiles = torch.eye(3), None
            height, width = meta.get('img_shape', (torch.inf, torch.inf))[:2]
        elif (tiles := meta.get('mosaic_tiles')) is None:
            height, width = meta['ori_shape'][:2]
        matrices.append(torch.as_tensor(homography, dtype=torch.float64))
        boxes.append(torch.as_tensor([[0, 0, width, height]] if tiles is None else tiles, dtype=torch.float32))
    to_image = torch.linalg.inv(torch.stack(matrices)).float()
    return to_image, pad_sequence(boxes, batch_first=True, padding_value=torch.nan)


class Grids(NamedTuple):
    """The points of L grids. Each grid has rows and columns, and its points are numbered row by row, grid by grid."""

    lines: Tensor  # (2, L, K): x of the columns and y of the rows, ascending, padded with inf
    widths: Tensor  # (L,), int64, the number of columns
    starts: Tensor  # (L,), int64, the number of the first point


@lru_cache(maxsize=4)
def as_grids(priors: Tensor) -> Grids:
    """The grid of each level. ``priors``, (N, 4), are (x, y, stride, stride), as from MlvlPointGenerator.

    The result is cached for each tensor, because the computation waits for the GPU. So do not change ``priors`` later.
    """
    sizes = priors[:, 2].float().unique_consecutive(return_counts=True)[1].tolist()
    levels = priors[:, :2].split(sizes)
    widths = [int((level[:, 1] == level[0, 1]).sum()) for level in levels]
    xs = [level[:width, 0] for level, width in zip(levels, widths)]
    ys = [level[::width, 1] for level, width in zip(levels, widths)]
    lines = pad_sequence(xs + ys, batch_first=True, padding_value=torch.inf).unflatten(0, (2, -1))
    starts = [0, *accumulate(sizes[:-1])]
    return Grids(lines, *(torch.tensor(x, device=priors.device) for x in (widths, starts)))


def priors_in_boxes(grids: Grids, boxes: Tensor, valid: Tensor, eps: float = 1e-9) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of a box and a point inside it, more than ``eps`` away from every edge.

    Computes only these pairs, not all R · N combinations.

    Args:
        grids: the N points.
        boxes: (R, 4).
        valid: (R,), bool. A box with False gets no points.

    Returns:
        ``box`` and ``point``, (P,), int64, sorted by box, then by point; and ``counts``, (R,), points of each box.
    """
    # The lines of a grid inside a box are consecutive. The first one follows all lines up to the low edge.
    low, high = boxes[:, :, None, None].split(2, dim=1)
    first = (grids.lines - low <= eps).sum(-1)
    size = ((high - grids.lines > eps).sum(-1) - first).clamp_(min=0) * valid[:, None, None]  # (R, 2, L)
    # A segment is the part of one grid inside one box.
    columns, rows = size.unbind(1)
    count = (columns * rows).flatten()
    corner = grids.starts + first[:, 1] * grids.widths + first[:, 0]
    segment = torch.repeat_interleave(count)
    place = torch.arange(len(segment), device=boxes.device) - (count.cumsum(0) - count)[segment]
    # In a segment, ``skip`` points of each row of the grid lie outside of the box.
    width = columns.flatten()[segment]
    skip = (grids.widths - columns).flatten()[segment]
    point = corner.flatten()[segment] + place + place // width * skip
    return segment // len(grids.widths), point, count.view(columns.shape).sum(1)
