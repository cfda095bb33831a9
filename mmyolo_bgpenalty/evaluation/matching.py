"""Match detections to objects, image by image. Needs NumPy and pycocotools.

Shapes: N detections and G annotated boxes of one image; D detections of all I images; K classes. Boxes are x, y, width,
height in pixels, as in a COCO file.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask

from mmyolo_bgpenalty.utils.coco_json import is_crowd

# The kinds of false positives, similar to those of TIDE (Bolya et al., 2020, https://arxiv.org/abs/2008.08115).
MISTAKES = ('background', 'place', 'class', 'duplicate')


class Detections(NamedTuple):
    boxes: np.ndarray  # (N, 4)
    scores: np.ndarray  # (N,)
    labels: np.ndarray  # (N,), class indices


class Truth(NamedTuple):
    """The annotated boxes of one image. Ignored boxes are regions, like crowds in COCO. The others are objects."""

    boxes: np.ndarray  # (G, 4)
    labels: np.ndarray  # (G,)
    ignored: np.ndarray  # (G,) bool


class Matches(NamedTuple):
    """The detections of a set of images, without the ignored ones, and the numbers of objects."""

    scores: np.ndarray  # (D,), highest first
    labels: np.ndarray  # (D,)
    tp: np.ndarray  # (D,) bool, true positives
    in_empty: np.ndarray  # (D,) bool, whether the image has no box at all, not even an ignored one
    mistakes: np.ndarray  # (D,), see `kinds_of_mistakes`
    num_gt: np.ndarray  # (K,), number of objects of each class
    images: int
    empty_images: int
    image: np.ndarray  # (D,), index of the image of each detection
    objects: np.ndarray  # (I,), number of objects of each image
    object_labels: np.ndarray  # (G,), of the objects of the first image, then of the second, and so on
    empty: np.ndarray  # (I,) bool, images without any box


def true_boxes(instances: Sequence[dict]) -> np.ndarray:
    """MMDetection's ``instances`` as (G, 6), fp32: x1, y1, x2, y2, class, ignored."""
    rows = [(*item['bbox'], item['bbox_label'], item.get('ignore_flag', 0)) for item in instances]
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def truth_of(rows: np.ndarray) -> Truth:
    """The rows of ``true_boxes`` as objects and ignored boxes."""
    return Truth(xywh(rows[:, :4]), rows[:, 4].astype(int), rows[:, 5] > 0)


def truth_by_image(coco: Mapping, categories: Sequence) -> list[Truth]:
    """The boxes of each image of a COCO set. Labels are places in ``categories``, the ids of the classes."""
    labels = {category: label for label, category in enumerate(categories)}
    rows: dict[Any, list[tuple]] = {image['id']: [] for image in coco['images']}
    for one in coco.get('annotations') or ():
        if one['category_id'] in labels:
            rows[one['image_id']].append((*one['bbox'], labels[one['category_id']], is_crowd(one)))
    tables = (np.array(one, dtype=float).reshape(-1, 6) for one in rows.values())
    return [Truth(table[:, :4], table[:, 4].astype(int), table[:, 5] > 0) for table in tables]


def xywh(boxes: np.ndarray) -> np.ndarray:
    """A copy of (N, 4) boxes x1, y1, x2, y2 as x, y, width, height in float64."""
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def match_boxes(found: Detections, truth: Truth, iou_thr: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Match the detections of one image to its objects, as COCO does. ``iou_thr`` is in (0, 1].

    Detections are matched in descending order of score. Each is matched to the unmatched object of its class with the
    highest IoU, if this IoU is >= ``iou_thr``. An unmatched detection is ignored if an ignored box of its class covers
    a share >= ``iou_thr`` of its area.

    ``COCOeval.evaluateImg`` of pycocotools has the same result, but is 8 to 25 times slower and needs annotation ids.

    Returns:
        Two bool arrays (N,): true positives, and ignored detections. The rest are false positives.
    """
    objects, ignored = assign_boxes(found, truth, iou_thr)
    return objects >= 0, ignored


def assign_boxes(found: Detections, truth: Truth, iou_thr: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """The matching of ``match_boxes``, with the objects.

    Returns:
        (N,) int, the index of the object of each detection, -1 without one; and (N,) bool, ignored detections.
    """
    matched = np.full(len(found.boxes), -1)
    iou = box_iou(found, truth)
    near = (iou >= min(iou_thr, 1 - 1e-10)) & (found.labels[:, None] == truth.labels)
    rank = np.empty(len(matched), int)
    rank[np.argsort(-found.scores, kind='stable')] = np.arange(len(matched))
    detections, objects = np.nonzero(near & ~truth.ignored)
    # pycocotools takes the last of several objects with the same IoU.
    order = np.lexsort((-objects, -iou[detections, objects], rank[detections]))
    taken = set()
    for detection, gt in zip(detections[order].tolist(), objects[order].tolist()):
        if matched[detection] < 0 and gt not in taken:
            matched[detection] = gt
            taken.add(gt)
    return matched, near[:, truth.ignored].any(axis=1) & (matched < 0)


def box_iou(found: Detections, truth: Truth) -> np.ndarray:
    """(N, G). For an ignored box it is the share of the detection that the box covers."""
    # pycocotools reads the memory of an array in C order, whatever its order is.
    boxes, objects = (np.ascontiguousarray(one, dtype=float) for one in (found.boxes, truth.boxes))
    iou = mask.iou(boxes, objects, truth.ignored.astype(np.uint8))
    return np.reshape(iou, (len(found.boxes), len(truth.boxes)))  # pycocotools returns [] without boxes


def kinds_of_mistakes(found: Detections, truth: Truth, iou_thr: float = 0.5) -> np.ndarray:
    """The kind of mistake of each false positive of an image. For other detections the result has no meaning.

    The first condition that is true decides:

    - 'duplicate': IoU >= ``iou_thr`` with an object of its class that is matched to another detection.
    - 'class': IoU >= ``iou_thr`` with an object of another class.
    - 'place': IoU >= 0.1 with an object of its class.
    - 'class': IoU >= 0.1 with an object of another class.
    - 'background': none of these conditions is true.

    Returns:
        (N,) int, indices into ``MISTAKES``.
    """
    mistakes = np.full(len(found.boxes), MISTAKES.index('background'))
    same, iou = found.labels[:, None] == truth.labels, box_iou(found, truth)
    own, other = (np.where(which & ~truth.ignored, iou, 0).max(axis=1, initial=0) for which in (same, ~same))
    mistakes[other >= 0.1] = MISTAKES.index('class')
    mistakes[own >= 0.1] = MISTAKES.index('place')
    mistakes[other >= iou_thr] = MISTAKES.index('class')
    mistakes[own >= iou_thr] = MISTAKES.index('duplicate')
    return mistakes


def match_images(images: Iterable[tuple[Detections, Truth]], num_classes: int, iou_thr: float = 0.5) -> Matches:
    """Match the detections of many images. Detections whose score is not finite are left out.

    Raises:
        ValueError: the label of a detection is not in [0, ``num_classes``).
    """
    parts = [(np.zeros(0), *(np.zeros(0, kind) for kind in (int, bool, bool, int, int)))]
    objects, empty = [np.zeros(0, int)], []
    for number, (found, truth) in enumerate(images):
        tp, ignored = match_boxes(found, truth, iou_thr)
        empty.append(not len(truth.boxes))
        mistakes = kinds_of_mistakes(found, truth, iou_thr)
        kept = ~ignored & np.isfinite(found.scores)
        columns = (found.scores, found.labels, tp, np.full(len(tp), empty[-1]), mistakes, np.full(len(tp), number))
        parts.append(tuple(column[kept] for column in columns))
        objects.append(truth.labels[~truth.ignored])
    scores, labels, *rest = (np.concatenate(columns) for columns in zip(*parts))
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f'Expected `labels` to be in [0, {num_classes}), but got {labels.min()} to {labels.max()}')
    order = np.argsort(-scores, kind='stable')
    tp, in_empty, mistakes, image = (column[order] for column in rest)
    return Matches(
        *(scores[order], labels[order], tp, in_empty, mistakes),
        num_gt=np.bincount(np.concatenate(objects), minlength=num_classes),
        images=len(empty),
        empty_images=sum(empty),
        image=image,
        objects=np.array([len(labels) for labels in objects[1:]], int),
        object_labels=np.concatenate(objects),
        empty=np.array(empty, bool),
    )
