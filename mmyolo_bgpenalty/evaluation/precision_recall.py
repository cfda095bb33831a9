"""Precision, recall and false positives of detections. NumPy and pycocotools alone.

Shapes: N detections and G objects of one image; D detections of all images; K classes.

A detection counts at a confidence c if its score is >= c. It is a true positive (tp) if COCO's matching gives it an
object of its class, and a false positive (fp) if not. Crowd and ignored boxes are no objects, and what is matched to
them counts as neither. With num_gt the number of objects,

    precision = tp / (tp + fp),    recall = tp / num_gt,    f1 = 2 · tp / (tp + fp + num_gt),

each 0 where its denominator is.
"""

from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from pycocotools import mask

RECALLS = np.linspace(0, 1, 101)  # of COCO's curves
CONFIDENCES = np.linspace(0, 1, 101)


def match_boxes(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    gt_boxes: np.ndarray,
    gt_labels: np.ndarray,
    gt_ignored: Optional[np.ndarray] = None,
    iou_thr: float = 0.5,
) -> Tuple[np.ndarray, np.ndarray]:
    """Match the detections of one image to its objects, as COCO does.

    From the highest score down, each detection takes the free object of its class with the highest IoU, if that is
    >= ``iou_thr``. An ignored box is a region, as COCO's crowd: what it covers to the same share of its own area,
    and is no true positive, is ignored, in any number.

    Args:
        boxes: (N, 4), x1, y1, x2, y2 in pixels.
        scores: (N,).
        labels: (N,), class indices.
        gt_boxes: (G, 4), as ``boxes``.
        gt_labels: (G,).
        gt_ignored: (G,), what is a region to ignore; None is no box.
        iou_thr: in (0, 1].

    Returns:
        (N,) bool each, in the order given: true positives; ignored. What is neither is a false positive.

    Raises:
        ValueError: lengths that differ.
    """
    return match_coco_boxes(xywh(boxes), scores, labels, xywh(gt_boxes), gt_labels, gt_ignored, iou_thr)


def match_coco_boxes(boxes, scores, labels, gt_boxes, gt_labels, gt_ignored=None, iou_thr=0.5):
    """``match_boxes`` for boxes x, y, width, height, as they stand in a COCO file."""
    boxes, gt_boxes = (np.asarray(b, dtype=np.float64).reshape(-1, 4) for b in (boxes, gt_boxes))
    scores, labels, gt_labels = (np.asarray(values) for values in (scores, labels, gt_labels))
    crowd = np.zeros(len(gt_boxes), bool) if gt_ignored is None else np.asarray(gt_ignored).astype(bool)
    if not len(boxes) == len(scores) == len(labels) or not len(gt_boxes) == len(gt_labels) == len(crowd):
        raise ValueError(
            'Expected `boxes`, `scores`, `labels` and `gt_boxes`, `gt_labels`, `gt_ignored` to be as long as each '
            f'other, but got {len(boxes)}, {len(scores)}, {len(labels)} and {len(gt_boxes)}, {len(gt_labels)}, '
            f'{len(crowd)}'
        )
    tp = np.zeros(len(boxes), bool)
    if not len(boxes) or not len(gt_boxes):
        return tp, tp.copy()
    iou = mask.iou(boxes, gt_boxes, crowd.astype(np.uint8))
    near = (iou >= min(iou_thr, 1 - 1e-10)) & (labels[:, None] == gt_labels)
    rank = np.empty(len(boxes), int)
    rank[np.argsort(-scores, kind='stable')] = np.arange(len(boxes))
    detections, objects = np.nonzero(near & ~crowd)
    # Of objects with equal IoU pycocotools takes the last.
    order = np.lexsort((-objects, -iou[detections, objects], rank[detections]))
    taken = set()
    for detection, gt in zip(detections[order].tolist(), objects[order].tolist()):
        if not tp[detection] and gt not in taken:
            tp[detection] = True
            taken.add(gt)
    return tp, near[:, crowd].any(axis=1) & ~tp


# What a false positive may be, as TIDE has it (Bolya et al., 2020, https://arxiv.org/abs/2008.08115)
MISTAKES = ('background', 'place', 'class', 'duplicate')


def kinds_of_mistakes(boxes, labels, gt_boxes, gt_labels, gt_ignored=None, iou_thr: float = 0.5) -> np.ndarray:
    """What each detection of an image is if it is a false positive, as an index into ``MISTAKES``.

    With an object of its own class at an IoU >= ``iou_thr`` it is a 'duplicate', since another detection has the
    object; else with one of another class there, of the wrong 'class'; else with one of its own class at 0.1 at least,
    out of 'place'; else with one of another class at 0.1, of the wrong 'class', too; else 'background'. Regions to
    ignore are no objects.

    Args:
        boxes, labels, gt_boxes, gt_labels, gt_ignored, iou_thr: as ``match_coco_boxes``.

    Returns:
        (N,) int.
    """
    boxes, gt_boxes = (np.asarray(b, dtype=np.float64).reshape(-1, 4) for b in (boxes, gt_boxes))
    if gt_ignored is not None:
        objects = ~np.asarray(gt_ignored).astype(bool)
        gt_boxes, gt_labels = gt_boxes[objects], np.asarray(gt_labels)[objects]
    kinds = np.full(len(boxes), MISTAKES.index('background'))
    if not len(boxes) or not len(gt_boxes):
        return kinds
    iou = mask.iou(boxes, gt_boxes, np.zeros(len(gt_boxes), np.uint8))
    same = np.asarray(labels)[:, None] == np.asarray(gt_labels)
    own, other = (np.where(which, iou, 0).max(axis=1) for which in (same, ~same))
    # From the least to the most.
    for name, where in (
        ('class', other >= 0.1),
        ('place', own >= 0.1),
        ('class', other >= iou_thr),
        ('duplicate', own >= iou_thr),
    ):
        kinds[where] = MISTAKES.index(name)
    return kinds


class Matches(NamedTuple):
    """The detections of a set of images, without the ignored ones, and what is to be found in it."""

    scores: np.ndarray  # (D,), highest first
    labels: np.ndarray  # (D,)
    tp: np.ndarray  # (D,) bool
    in_empty: np.ndarray  # (D,) bool: in an image without any box, not even an ignored one
    kinds: np.ndarray  # (D,), of kinds_of_mistakes
    num_gt: np.ndarray  # (K,), objects of each class
    images: int
    empty_images: int


def match_images(images: Iterable[Sequence], num_classes: int, iou_thr: float = 0.5) -> Matches:
    """Match the detections of many images.

    Args:
        images: of each the arguments of ``match_coco_boxes`` up to ``gt_ignored``. A detection whose score is
            not finite reaches no confidence and is left out.
        num_classes: K; labels are in [0, K).
        iou_thr: in (0, 1].

    Raises:
        ValueError: a label that is not in [0, K).
    """
    parts, gt_parts, empty_images = [_no_detections()], [np.zeros(0, int)], []
    for boxes, scores, labels, gt_boxes, gt_labels, gt_ignored in images:
        tp, ignored = match_coco_boxes(boxes, scores, labels, gt_boxes, gt_labels, gt_ignored, iou_thr)
        kept = ~ignored & np.isfinite(scores)
        empty_images.append(not len(gt_boxes))
        kinds = kinds_of_mistakes(boxes, labels, gt_boxes, gt_labels, gt_ignored, iou_thr)
        parts.append([values[kept] for values in (scores, labels, tp, np.full(len(tp), empty_images[-1]), kinds)])
        gt_parts.append(np.asarray(gt_labels, int)[~np.asarray(gt_ignored, bool)])
    scores, labels, tp, in_empty, kinds = (np.concatenate(values) for values in zip(*parts))
    gt_labels = np.concatenate(gt_parts)
    for name, values in (('labels', labels), ('gt_labels', gt_labels)):
        if len(values) and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f'Expected `{name}` to be in [0, {num_classes}), the classes of the set, but got '
                f'{values.min()} to {values.max()}'
            )
    order = np.argsort(-scores, kind='stable')
    num_gt = np.bincount(gt_labels, minlength=num_classes)
    scores, labels, tp, in_empty, kinds = (values[order] for values in (scores, labels, tp, in_empty, kinds))
    return Matches(scores, labels, tp, in_empty, kinds, num_gt, len(empty_images), sum(empty_images))


def precision_recall(matches: Matches, score_thr: float = 0.25, recalls: Sequence[float] = (0.6, 0.7, 0.8)) -> dict:
    """Precision, recall and false positives, as floats and lists of them.

    Means are over the classes that have objects, and 0 where none has. All classes share one confidence.

    Args:
        matches: of ``match_images``.
        score_thr: the fixed confidence, in [0, 1].
        recalls: each in (0, 1].

    Returns:
        ``images``, ``empty_images``: numbers of them.

        ``metrics``:

        - ``best_confidence``: the score at which the mean of f1 over classes is highest; the highest of equals, 1
          without detections.
        - ``precision``, ``recall``, ``f1``: means over classes, at that confidence.
        - ``fp_per_image``: false positives of all classes at that confidence, an image.
        - ``fp_per_empty_image``: the same an image without any box, over those alone; nan without such images.
        - ``fp_background``, ``fp_place``, ``fp_class``, ``fp_duplicate``: how many of them, an image, are which of
          ``MISTAKES``, see ``kinds_of_mistakes``.
        - ``precision_at_0.25``, … ``fp_per_empty_image_at_0.25``: the same at ``score_thr``.
        - ``precision_at_recall_0.6``, …: COCO's interpolated precision: of each class the highest at any confidence
          that reaches the recall, 0 where none does; the mean over classes.
        - ``fp_per_image_at_recall_0.6``, …: at the highest confidence at which the classes together reach the
          recall; nan where none does.

        ``classes``: a dict a class with its ``objects`` and ``detections`` and, as above, ``precision``, ``recall``,
        ``f1`` (at the one best confidence), the same at ``score_thr``, ``precision_at_recall_…``, and ``ap``, the mean
        of its own curve.

        ``curve``: ``recall`` (COCO's 101) and the interpolated ``precision`` there, mean over classes; its mean is
        COCO's AP at this IoU, but for detections with the same score, which count together here.

        ``confidence_curve``: ``confidence`` (101) and the mean ``precision``, ``recall`` and ``f1`` there.
    """
    scores, labels, tp, in_empty, kinds, num_gt, images, empty_images = matches
    present = np.flatnonzero(num_gt)
    places = [np.flatnonzero(labels == k) for k in range(len(num_gt))]
    tps = [_counts(tp[place]) for place in places]
    all_tps, all_empty = _counts(tp), _counts(in_empty)

    def mean(values) -> float:
        return float(values[present].mean()) if len(present) else 0.0

    def at(confidence: float):
        """Ratios of the classes, (3, K), and the false positives an image and an empty image."""
        stop = np.searchsorted(-scores, -confidence, side='right')
        number = np.array([np.searchsorted(place, stop) for place in places], int)
        hits = np.array([counts[n] for counts, n in zip(tps, number)], int)
        ratios = _ratio(hits, number), _ratio(hits, num_gt), _ratio(2 * hits, number + num_gt)
        fp = stop - all_tps[stop]
        return ratios, fp / images if images else np.nan, all_empty[stop] / empty_images if empty_images else np.nan

    def interpolated(k: int, wanted) -> np.ndarray:
        stops = _ends(scores[places[k]])
        hits = tps[k][stops]
        best = np.maximum.accumulate((hits / stops)[::-1])[::-1]
        return np.append(best, 0)[np.searchsorted(hits / max(num_gt[k], 1), wanted)]

    # The mean of f1 as it changes from score to score: each detection adds what it does to its class's f1.
    change = np.zeros(len(scores))
    for k in present:
        number = np.arange(1, len(places[k]) + 1)
        change[places[k]] = np.diff(2 * tps[k][1:] / (number + num_gt[k]), prepend=0) / len(present)
    stops = _ends(scores)
    f1 = np.cumsum(change)[stops - 1]
    best_confidence = float(scores[stops - 1][np.argmax(f1 > f1.max() - 1e-9)]) if len(f1) else 1.0

    metrics = {}
    classes: List[Dict[str, float]] = [dict(objects=int(n), detections=len(place)) for n, place in zip(num_gt, places)]
    for confidence, suffix in ((best_confidence, ''), (score_thr, f'_at_{score_thr:g}')):
        ratios, fp, fp_empty = at(confidence)
        for name, values in zip(('precision', 'recall', 'f1'), ratios):
            metrics[name + suffix] = mean(values)
            for entry, value in zip(classes, values):
                entry[name + suffix] = float(value)
        metrics['fp_per_image' + suffix] = float(fp)
        metrics['fp_per_empty_image' + suffix] = float(fp_empty)
    metrics['best_confidence'] = best_confidence
    counts = np.bincount(kinds[~tp & (scores >= best_confidence)], minlength=len(MISTAKES))
    for name, count in zip(MISTAKES, counts):
        metrics[f'fp_{name}'] = float(count / images) if images else float('nan')

    at_recalls = np.array([interpolated(k, recalls) for k in range(len(num_gt))]).reshape(len(num_gt), len(recalls))
    reached = np.searchsorted(all_tps[stops] / max(num_gt.sum(), 1), recalls)
    for place, recall in enumerate(recalls):
        metrics[f'precision_at_recall_{recall:g}'] = mean(at_recalls[:, place])
        for entry, value in zip(classes, at_recalls[:, place]):
            entry[f'precision_at_recall_{recall:g}'] = float(value)
        stop = stops[reached[place]] if reached[place] < len(stops) else None
        metrics[f'fp_per_image_at_recall_{recall:g}'] = (
            float('nan') if stop is None else float((stop - all_tps[stop]) / images)
        )

    curves = [interpolated(k, RECALLS) for k in range(len(num_gt))]
    for entry, of_class in zip(classes, curves):
        entry['ap'] = float(of_class.mean())
    curve = np.mean([curves[k] for k in present], axis=0) if len(present) else np.zeros_like(RECALLS)
    confidence_curve = np.array([[mean(values) for values in at(confidence)[0]] for confidence in CONFIDENCES])
    return dict(
        images=images,
        empty_images=empty_images,
        metrics=metrics,
        classes=classes,
        curve=dict(recall=RECALLS.tolist(), precision=curve.tolist()),
        confidence_curve=dict(
            confidence=CONFIDENCES.tolist(),
            **dict(zip(('precision', 'recall', 'f1'), confidence_curve.T.tolist())),
        ),
    )


def _no_detections():
    return np.zeros(0), np.zeros(0, int), np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, int)


def _counts(flags: np.ndarray) -> np.ndarray:
    """(D + 1,): how many of the first 0, 1, … D flags are set."""
    return np.concatenate([[0], np.cumsum(flags)]).astype(int)


def _ends(scores: np.ndarray) -> np.ndarray:
    """The numbers of detections that some confidence leaves, > 0: equal scores stay together."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) + 1 if len(scores) else np.zeros(0, int)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)


def xywh(boxes) -> np.ndarray:
    """(N, 4) of x, y, width, height in float64 for boxes x1, y1, x2, y2; a copy."""
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes
