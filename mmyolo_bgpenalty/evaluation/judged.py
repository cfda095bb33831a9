"""What became of each detection and of each object of a set of images. Needs NumPy and pycocotools.

Shapes: D detections and G objects of all images. Boxes are x, y, width, height in pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmyolo_bgpenalty.evaluation.matching import (
    MISTAKES,
    Detections,
    Truth,
    assign_boxes,
    box_iou,
    kinds_of_mistakes,
)

HIT = len(MISTAKES)  # the kind of a true positive. The kinds of false positives are indices into MISTAKES


class Judged(NamedTuple):
    """The detections of a run, highest score first and without the ignored ones, and the objects."""

    image: np.ndarray  # (D,), index
    boxes: np.ndarray  # (D, 4)
    scores: np.ndarray  # (D,), fp32
    labels: np.ndarray  # (D,)
    kinds: np.ndarray  # (D,), an index into MISTAKES, or HIT
    object_image: np.ndarray  # (G,), index
    object_boxes: np.ndarray  # (G, 4)
    object_labels: np.ndarray  # (G,)
    object_scores: np.ndarray  # (G,), fp32, the score of the detection that finds the object; 0 without one


def judged(found: Sequence[Detections], truth: Sequence[Truth], iou_thr: float = 0.5) -> Judged:
    """Match the detections of each image to its objects, see ``assign_boxes`` and ``kinds_of_mistakes``.

    The detections that count at a confidence c are those with a score >= c, and the objects that are found at c are
    those with an ``object_scores`` >= c: the matching goes from the highest score down.
    """
    rows: list[list[np.ndarray]] = [[] for _ in Judged._fields]
    for place, (detections, objects) in enumerate(zip(found, truth, strict=True)):
        partners, ignored = assign_boxes(detections, objects, iou_thr)
        kinds = np.where(partners >= 0, HIT, kinds_of_mistakes(detections, objects, iou_thr))
        scores = np.zeros(len(objects.boxes), np.float32)
        scores[partners[partners >= 0]] = detections.scores[partners >= 0]
        kept, real = ~ignored & np.isfinite(detections.scores), ~objects.ignored
        for column, values in zip(
            rows,
            (
                np.full(kept.sum(), place),
                detections.boxes[kept],
                detections.scores[kept],
                detections.labels[kept],
                kinds[kept],
                np.full(real.sum(), place),
                objects.boxes[real],
                objects.labels[real],
                scores[real],
            ),
        ):
            column.append(values)
    columns = [np.concatenate(column) if column else np.zeros(0) for column in rows]
    order = np.argsort(-columns[2], kind='stable')
    return Judged(*(column[order] for column in columns[:5]), *columns[5:])


def partner_scores(one: Judged, other: Judged, iou_thr: float = 0.5) -> np.ndarray:
    """(D,): the highest score of a false positive of ``other`` at the place of each detection of ``one``, or 0.

    At its place means: in the same image, of the same class, and with an IoU of at least ``iou_thr``.
    """
    scores = np.zeros(len(one.scores), np.float32)
    wrong = np.flatnonzero(other.kinds != HIT)
    by_image = np.split(wrong[np.argsort(other.image[wrong], kind='stable')], _starts(other.image[wrong]))
    groups = {int(other.image[group[0]]): group for group in by_image if len(group)}
    for image in np.unique(one.image):
        mine, theirs = np.flatnonzero(one.image == image), groups.get(int(image))
        if theirs is None:
            continue
        none = np.zeros(len(theirs), bool)
        pairs = Detections(one.boxes[mine], one.scores[mine], one.labels[mine])
        near = box_iou(pairs, Truth(other.boxes[theirs], other.labels[theirs], none)) >= iou_thr
        near &= one.labels[mine][:, None] == other.labels[theirs]
        scores[mine] = np.where(near, other.scores[theirs], 0).max(axis=1, initial=0)
    return scores


def _starts(values: np.ndarray) -> np.ndarray:
    """Where a new value begins in the sorted values."""
    return np.flatnonzero(np.diff(np.sort(values))) + 1
