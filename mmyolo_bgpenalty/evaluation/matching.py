"""Matching of detections to objects, image by image. Needs NumPy and pycocotools.

Shapes: N detections and G boxes of the ground truth in one image; D detections in all images; K classes.
Boxes are x, y, width, height in pixels, as in a COCO file.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask

# The kinds of false positives, named after TIDE (Bolya et al., 2020, https://arxiv.org/abs/2008.08115).
MISTAKES = ('background', 'place', 'class', 'duplicate')


class Matches(NamedTuple):
    """The matched detections of a set of images, and the counts of its objects. Ignored detections are left out."""

    scores: np.ndarray  # (D,), highest first
    labels: np.ndarray  # (D,)
    tp: np.ndarray  # (D,) bool, true positives
    in_empty: np.ndarray  # (D,) bool, whether the image has no box at all, not even an ignored one
    mistakes: np.ndarray  # (D,), see `kinds_of_mistakes`
    num_gt: np.ndarray  # (K,), number of objects of each class
    images: int
    empty_images: int


def xywh(boxes: np.ndarray) -> np.ndarray:
    """A copy of (N, 4) boxes x1, y1, x2, y2 as x, y, width, height in float64."""
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def match_boxes(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    gt_boxes: np.ndarray,
    gt_labels: np.ndarray,
    gt_ignored: np.ndarray,
    iou_thr: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Match the detections of one image to its objects, as COCO does.

    The detections choose in the order of their scores, the highest first. Each takes the free object of its class with
    the highest IoU, if this IoU is >= ``iou_thr``. An ignored box is a region, like a crowd of COCO. A detection that
    took no object is ignored if such a region of its class covers a share >= ``iou_thr`` of its area.

    ``COCOeval.evaluateImg`` of pycocotools does the same, 8 to 25 times as slowly, and needs annotation ids.

    Args:
        boxes, scores, labels: the detections, (N, 4), (N,) and (N,).
        gt_boxes, gt_labels, gt_ignored: the ground truth, (G, 4), (G,) and bool (G,).
        iou_thr: in (0, 1].

    Returns:
        Two bool arrays (N,): true positives, and ignored detections. The rest are false positives.
    """
    tp = np.zeros(len(boxes), bool)
    if not len(boxes) or not len(gt_boxes):
        return tp, tp.copy()
    iou = mask.iou(boxes, gt_boxes, gt_ignored.astype(np.uint8))
    near = (iou >= min(iou_thr, 1 - 1e-10)) & (labels[:, None] == gt_labels)
    rank = np.empty(len(boxes), int)
    rank[np.argsort(-scores, kind='stable')] = np.arange(len(boxes))
    detections, objects = np.nonzero(near & ~gt_ignored)
    # pycocotools takes the last of several objects with the same IoU.
    order = np.lexsort((-objects, -iou[detections, objects], rank[detections]))
    taken = set()
    for detection, gt in zip(detections[order].tolist(), objects[order].tolist()):
        if not tp[detection] and gt not in taken:
            tp[detection] = True
            taken.add(gt)
    return tp, near[:, gt_ignored].any(axis=1) & ~tp


def kinds_of_mistakes(
    boxes: np.ndarray,
    labels: np.ndarray,
    gt_boxes: np.ndarray,
    gt_labels: np.ndarray,
    gt_ignored: np.ndarray,
    iou_thr: float = 0.5,
) -> np.ndarray:
    """The kind of mistake that each detection of an image is, if it is a false positive.

    The first line that holds decides:

    - 'duplicate': IoU >= ``iou_thr`` with an object of its class, which another detection has taken.
    - 'class': IoU >= ``iou_thr`` with an object of another class.
    - 'place': IoU >= 0.1 with an object of its class.
    - 'class': IoU >= 0.1 with an object of another class.
    - 'background': none of these.

    Args: as ``match_boxes``. Ignored boxes are no objects.

    Returns:
        (N,) int, indices into ``MISTAKES``.
    """
    mistakes = np.full(len(boxes), MISTAKES.index('background'))
    gt_boxes, gt_labels = gt_boxes[~gt_ignored], gt_labels[~gt_ignored]
    if not len(boxes) or not len(gt_boxes):
        return mistakes
    iou = mask.iou(boxes, gt_boxes, np.zeros(len(gt_boxes), np.uint8))
    same = labels[:, None] == gt_labels
    own, other = (np.where(which, iou, 0).max(axis=1) for which in (same, ~same))
    # Later lines overwrite earlier ones.
    mistakes[other >= 0.1] = MISTAKES.index('class')
    mistakes[own >= 0.1] = MISTAKES.index('place')
    mistakes[other >= iou_thr] = MISTAKES.index('class')
    mistakes[own >= iou_thr] = MISTAKES.index('duplicate')
    return mistakes


def match_images(images: Iterable[Sequence[np.ndarray]], num_classes: int, iou_thr: float = 0.5) -> Matches:
    """Match the detections of many images.

    Args:
        images: for each image the arguments of ``match_boxes`` up to ``gt_ignored``. Detections whose score is not
            finite are left out.
        num_classes: K.
        iou_thr: in (0, 1].

    Raises:
        ValueError: a label is not in [0, K).
    """
    found = [(np.zeros(0), np.zeros(0, int), np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, int))]
    real, empty = [np.zeros(0, int)], []
    for boxes, scores, labels, gt_boxes, gt_labels, gt_ignored in images:
        tp, ignored = match_boxes(boxes, scores, labels, gt_boxes, gt_labels, gt_ignored, iou_thr)
        mistakes = kinds_of_mistakes(boxes, labels, gt_boxes, gt_labels, gt_ignored, iou_thr)
        empty.append(not len(gt_boxes))
        kept = ~ignored & np.isfinite(scores)
        in_empty = np.full(len(tp), empty[-1])
        found.append(tuple(values[kept] for values in (scores, labels, tp, in_empty, mistakes)))
        real.append(gt_labels[~gt_ignored])
    scores, labels, tp, in_empty, mistakes = (np.concatenate(values) for values in zip(*found))
    gt_labels = np.concatenate(real)
    for name, values in (('labels', labels), ('gt_labels', gt_labels)):
        if len(values) and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f'Expected `{name}` to be in [0, {num_classes}), the classes of the set, but got '
                f'{values.min()} to {values.max()}'
            )
    order = np.argsort(-scores, kind='stable')
    scores, labels, tp, in_empty, mistakes = (values[order] for values in (scores, labels, tp, in_empty, mistakes))
    num_gt = np.bincount(gt_labels, minlength=num_classes)
    return Matches(scores, labels, tp, in_empty, mistakes, num_gt, len(empty), sum(empty))
