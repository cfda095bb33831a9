"""Boxes and priors under homographies. Pure torch, fp32 whatever autocast says.

Shapes: B images, N priors, M boxes. A box is (x1, y1, x2, y2) in pixels. A homography is a (3, 3) matrix H
that takes a point of the original image to the network's input: (x', y', w')ᵀ = H (x, y, 1)ᵀ.
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
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


# Directions as MMDetection's RandomFlip has them, and the axes of (B, C, H, W) that they turn.
FLIPS = {'horizontal': (3,), 'vertical': (2,), 'diagonal': (2, 3)}


def flipped_back(
    cls_scores: Sequence[Tensor], distances: Sequence[Tensor], direction: str
) -> Tuple[List[Tensor], List[Tensor]]:
    """Predictions on a flipped input as predictions on the input itself, at the same priors.

    Args:
        cls_scores: logits, (B, C, H, W) each level.
        distances: from a prior to left, top, right and bottom of its box, (B, 4, H, W) each level.
        direction: one of ``FLIPS``.
    """
    axes = FLIPS[direction]
    left, right = (2, 0) if 3 in axes else (0, 2)
    top, bottom = (3, 1) if 2 in axes else (1, 3)
    sides = [left, top, right, bottom]
    return [level.flip(axes) for level in cls_scores], [level.flip(axes)[:, sides] for level in distances]


def mean_predictions(predictions: Sequence[Tuple[Sequence[Tensor], Sequence[Tensor]]]):
    """Predictions at the same priors, averaged: probabilities, as logits again, and distances; in fp32.

    Args:
        predictions: pairs of logits, (B, C, H, W) each level, and distances, (B, 4, H, W) each level.

    Returns:
        A pair as each of them.
    """
    scores, distances = zip(*predictions)
    # An fp32 sigmoid is 1 from 17 on, whose logit is infinite.
    least = torch.finfo(torch.float32).eps
    means = [torch.stack([level.float().sigmoid() for level in levels]).mean(0) for levels in zip(*scores)]
    return (
        [mean.clamp(least, 1 - least).logit() for mean in means],
        [torch.stack([level.float() for level in levels]).mean(0) for levels in zip(*distances)],
    )


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


class Grid(NamedTuple):
    """Points in rows and columns, numbered row by row; ``xs`` (W,) and ``ys`` (H,) ascend."""

    xs: Tensor
    ys: Tensor


def as_grids(points: Tensor, most: int = 16) -> Optional[List[Grid]]:
    """The grids that points (N, 2) are made of, one after the other, or None: more than ``most``, or none at all."""
    x, y = points.float().cpu().unbind(-1)
    grids: List[Grid] = []
    start = 0
    while start < len(x):
        if len(grids) == most:
            return None
        width = _run(y[start:] == y[start])
        rows = (len(x) - start) // width
        block = slice(start, start + rows * width)
        xs, ys = x[block].reshape(rows, width), y[block].reshape(rows, width)
        same = (xs == xs[0]).all(1) & (ys == ys[:, :1]).all(1)
        same[1:] &= ys[1:, 0] > ys[:-1, 0]
        rows = _run(same)
        if not (xs[0, 1:] > xs[0, :-1]).all():
            return None
        grids.append(Grid(xs[0].to(points), ys[:rows, 0].to(points)))
        start += rows * width
    return grids


def _run(flags: Tensor) -> int:
    """How many are True before the first that is not."""
    return int(flags.long().cumprod(0).sum())


def priors_in_boxes(
    points: Tensor, boxes: Tensor, valid: Tensor, grids: Optional[List[Grid]] = None, eps: float = 1e-9
) -> Tuple[Tensor, Tensor, Tensor]:
    """Pairs of a box and a point that lies inside, more than ``eps`` from every edge.

    Args:
        points: (N, 2).
        boxes: (R, 4).
        valid: (R,), bool; other boxes have no point.
        grids: ``as_grids(points)``; with them the work grows with the pairs, without with R · N.

    Returns:
        ``box`` and ``point``, (P,), int64, by box, then by point; and ``counts``, (R,), points of each box.
    """
    if grids is None:
        x, y = points.unbind(-1)
        x1, y1, x2, y2 = boxes[..., None].unbind(1)
        inside = (x - x1 > eps) & (y - y1 > eps) & (x2 - x > eps) & (y2 - y > eps) & valid[:, None]
        box, point = inside.nonzero(as_tuple=True)
        return box, point, inside.sum(1)
    firsts, sizes = [], []
    for low, high, axis in ((boxes[:, :1], boxes[:, 2:3], 0), (boxes[:, 1:2], boxes[:, 3:], 1)):
        lines = [grid[axis] for grid in grids]
        line = torch.cat(lines)
        bounds = [0, *torch.tensor([len(x) for x in lines]).cumsum(0).tolist()]
        # In a grid the lines inside are neighbours: as many before them as are not beyond the low edge.
        beyond, before = line - low > eps, high - line > eps
        first, end = (
            torch.stack([flags[:, a:b].sum(1) for a, b in zip(bounds, bounds[1:])], dim=1)
            for flags in (~beyond, before)
        )
        firsts.append(first)
        sizes.append((end - first).clamp(min=0) * valid[:, None])
    widths = torch.tensor([len(grid.xs) for grid in grids], device=boxes.device)
    numbers = torch.tensor([len(grid.xs) * len(grid.ys) for grid in grids], device=boxes.device)
    # Segments: of each box its part of each grid.
    count = (sizes[0] * sizes[1]).flatten()
    segment = torch.repeat_interleave(count)
    place = torch.arange(len(segment), device=boxes.device) - (count.cumsum(0) - count)[segment]
    columns = sizes[0].flatten()[segment]
    row = place.div(columns, rounding_mode='floor')
    corner = (numbers.cumsum(0) - numbers) + firsts[1] * widths + firsts[0]
    width = widths.expand(len(boxes), -1).flatten()[segment]
    point = corner.flatten()[segment] + row * width + place - row * columns
    box = segment.div(len(grids), rounding_mode='floor')
    return box, point, count.reshape(len(boxes), len(grids)).sum(1)


def box_agreement(
    bboxes: Tensor,
    labels: Tensor,
    predicted: Tensor,
    scores: Tensor,
    points: Tensor,
    grids: Optional[List[Grid]] = None,
) -> Tensor:
    r"""How well the predictions at the priors within a box agree on its place.

    .. math:: q_k = \frac{\sum_i s_{i, c_k}^2 \, \mathrm{IoU}(b_i, B_k)}{\sum_i s_{i, c_k}^2}

    over the priors i whose points lie inside the box :math:`B_k` of class :math:`c_k`; the square lets those that are
    sure of the class speak. Where a detector knows what, but not where, its boxes differ.

    Args:
        bboxes: (K, 4). labels: (K,).
        predicted: (N, 4), the priors' boxes. scores: (N, C), in [0, 1].
        points: (N, 2). grids: ``as_grids(points)``.

    Returns:
        (K,), in [0, 1]; 0 where no prior is inside.
    """
    valid = torch.ones(len(bboxes), dtype=torch.bool, device=bboxes.device)
    box, prior, _ = priors_in_boxes(points, bboxes, valid, grids)
    weights = scores[prior, labels[box]].float().square()
    one, other = predicted[prior].float(), bboxes[box].float()
    sides = torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])
    common = sides.clamp(min=0).prod(dim=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (one, other)]
    iou = common / (areas[0] + areas[1] - common).clamp(min=1e-9)
    total, agreeing = (torch.zeros_like(bboxes[:, 0], dtype=torch.float32) for _ in range(2))
    total.index_add_(0, box, weights)
    agreeing.index_add_(0, box, weights * iou)
    return agreeing / total.clamp(min=1e-9)


def sample_scores(points: Tensor, maps: List[Tensor], shape: Tuple[int, int], to_view: Tensor) -> Tensor:
    """The highest score that any of a view's maps has at points of another view.

    Objects may be of another size there, and so on another level: hence the highest.

    Args:
        points: (N, 2), pixels of the other view.
        maps: (h, w) each, scores in [0, 1], which cover the view.
        shape: height and width of the view, pixels.
        to_view: (3, 3), homography from the other view's pixels to the view's.

    Returns:
        (N,), bilinear, fp32; 0 outside the view.
    """
    size = torch.tensor((shape[1], shape[0]), device=points.device)
    grid = (_transform(points, to_view) / size * 2 - 1)[None, None]
    seen = [
        F.grid_sample(one[None, None].float(), grid, padding_mode='border', align_corners=False)[0, 0, 0]
        for one in maps
    ]
    inside = (grid[0, 0].abs() <= 1).all(dim=1)
    return torch.stack(seen).amax(dim=0).masked_fill(~inside, 0)
