"""The confusion matrix: which class is predicted for which object. Needs NumPy and pycocotools."""

from collections.abc import Iterable

import numpy as np

from mmyolo_bgpenalty.evaluation.matching import Detections, Truth, assign_boxes, box_iou


def confusion_matrix(
    images: Iterable[tuple[Detections, Truth]], num_classes: int, score_thr: float = 0.25, iou_thr: float = 0.5
) -> np.ndarray:
    """Count the detections with a score >= ``score_thr`` by predicted and by true class.

    1. Detections are matched to objects of their class, as in ``match_boxes``. So the diagonal has the true positives
       of ``precision_recall``, and a diagonal entry divided by the sum of its column is the recall of the class.
    2. The detections and objects that are left are paired if their IoU is >= ``iou_thr``, the highest IoU first. These
       are objects with a wrong class.
    3. Each detection that is left is predicted on background. Each object that is left is missed.

    Ignored boxes, and detections that match only them, do not count. The layout is that of Ultralytics.

    Returns:
        (K + 1, K + 1) int. A row is a predicted class, a column is a true class. The last row and the last column are
        background: the last row has missed objects, the last column has detections on background.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    for found, truth in images:
        kept = np.isfinite(found.scores) & (found.scores >= score_thr)
        found = Detections(found.boxes[kept], found.scores[kept], found.labels[kept])
        predicted, true = _pairs(found, truth, num_classes, iou_thr)
        np.add.at(counts, (predicted, true), 1)
    return counts


def _pairs(found: Detections, truth: Truth, background: int, iou_thr: float) -> tuple[list[int], list[int]]:
    """Predicted and true class of each detection and each object that counts."""
    objects, ignored = assign_boxes(found, truth, iou_thr)
    left = set(np.flatnonzero(~truth.ignored).tolist()) - set(objects.tolist())
    iou = box_iou(found, truth)
    detections, near = np.nonzero(iou >= min(iou_thr, 1 - 1e-10))
    order = np.argsort(-iou[detections, near], kind='stable')
    for detection, gt in zip(detections[order].tolist(), near[order].tolist()):
        if objects[detection] < 0 and not ignored[detection] and gt in left:
            objects[detection] = gt
            left.remove(gt)
    labels = np.append(truth.labels, background)  # index -1: no object
    missed = truth.labels[sorted(left)].tolist()
    predicted = found.labels[~ignored].tolist() + [background] * len(missed)
    return predicted, labels[objects[~ignored]].tolist() + missed
