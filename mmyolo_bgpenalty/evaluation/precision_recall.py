"""Precision, recall and false positives of matched detections. Pure NumPy.

Shapes: D detections; K classes; R recalls.

A detection counts at a confidence c if its score is >= c. It is a true positive (tp) if it was matched to an object,
and otherwise a false positive (fp). With num_gt, the number of objects,

    precision = tp / (tp + fp),    recall = tp / num_gt,    f1 = 2 · tp / (tp + fp + num_gt),

and each is 0 where its denominator is 0. All classes share one confidence. A mean over classes covers the classes that
have objects, and is 0 if none has.

The report of ``precision_recall`` is a dict of Python numbers and lists:

``images``, ``empty_images``
    Number of images, and of images without any box.
``metrics``
    - ``best_confidence``: the score with the highest mean of f1 over classes; 1 without detections.
    - ``precision``, ``recall``, ``f1``: means over classes at that confidence.
    - ``fp_per_image``, ``fp_per_empty_image``: false positives of all classes at that confidence, per image and per
      image without any box; nan without such images.
    - ``fp_background``, ``fp_place``, ``fp_class``, ``fp_duplicate``: ``fp_per_image`` by ``kinds_of_mistakes``.
    - ``precision_at_0.25``, …, ``fp_per_empty_image_at_0.25``: ``precision`` … ``fp_per_empty_image`` at ``score_thr``.
    - ``precision_at_recall_0.6``, …: COCO's interpolated precision, mean over classes. For one class this is the
      highest precision at any confidence that reaches the recall, and 0 if none does.
    - ``fp_per_image_at_recall_0.6``, …: false positives per image at the highest confidence at which all classes
      together reach the recall; inf if none does, and nan without objects.
``classes``
    For each class ``objects``, ``detections``, its own precision, recall and f1 as above, and ``ap``, the mean of the
    interpolated precision over COCO's 101 recalls.
``curve``
    ``recall``, COCO's 101, and the interpolated ``precision``, mean over classes. Its mean is COCO's AP at this IoU,
    except that detections with the same score count together here.
"""

from collections.abc import Sequence

import numpy as np

from mmyolo_bgpenalty.evaluation.bootstrap import resampled_images
from mmyolo_bgpenalty.evaluation.matching import MISTAKES, Matches

RECALLS = np.linspace(0, 1, 101)
RECALLS_SHOWN = (0.6, 0.7, 0.8, 0.9)


def precision_recall(matches: Matches, score_thr: float = 0.25, recalls: Sequence[float] = RECALLS_SHOWN) -> dict:
    """The report that the module's docstring describes. ``score_thr`` is in [0, 1], ``recalls`` (R,) in (0, 1]."""
    counts = _Counts(matches)
    metrics: dict[str, float] = {}
    classes: list[dict] = [dict(objects=int(n), detections=len(p)) for n, p in zip(matches.num_gt, counts.places)]

    def add(name: str, values: np.ndarray) -> None:
        metrics[name] = counts.mean(values)
        for entry, value in zip(classes, values):
            entry[name] = float(value)

    best = counts.best_confidence()
    for confidence, suffix in ((best, ''), (score_thr, f'_at_{score_thr:g}')):
        for name, values in zip(('precision', 'recall', 'f1'), counts.ratios(confidence)):
            add(name + suffix, values)
        stop = counts.stop(confidence)
        metrics['fp_per_image' + suffix] = _per_image(stop - counts.tp[stop], matches.images)
        metrics['fp_per_empty_image' + suffix] = _per_image(counts.in_empty[stop], matches.empty_images)
    metrics['best_confidence'] = best
    wrong = matches.mistakes[~matches.tp & (matches.scores >= best)]
    for name, number in zip(MISTAKES, np.bincount(wrong, minlength=len(MISTAKES))):
        metrics[f'fp_{name}'] = _per_image(number, matches.images)
    precisions = counts.interpolated_precision(recalls)
    for recall, values, fp in zip(recalls, precisions.T, counts.false_positives_at_recalls(recalls)):
        add(f'precision_at_recall_{recall:g}', values)
        metrics[f'fp_per_image_at_recall_{recall:g}'] = _per_image(fp, matches.images)

    precisions = counts.interpolated_precision(RECALLS)
    for entry, values in zip(classes, precisions):
        entry['ap'] = float(values.mean())
    curve = precisions[counts.present].mean(axis=0) if len(counts.present) else np.zeros_like(RECALLS)
    return dict(
        images=matches.images,
        empty_images=matches.empty_images,
        metrics=metrics,
        classes=classes,
        curve=dict(recall=RECALLS.tolist(), precision=curve.tolist()),
    )


def ratio_samples(matches: Matches, score_thr: float = 0.25, resamples: int = 1000) -> dict[str, np.ndarray]:
    """``precision_at_0.25``, ``recall_at_0.25`` and ``f1_at_0.25``, at ``score_thr``, of each bootstrap sample, (S,).

    The images are drawn by ``resampled_images``. A sample without objects of a class has no value of this class.
    """
    images, classes = matches.images, len(matches.num_gt)
    if not images:
        return {}

    def table(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.bincount(image * classes + labels, minlength=images * classes).reshape(images, classes)

    counted = matches.scores >= score_thr
    right = counted & matches.tp
    weights = resampled_images(images, resamples)
    tp, found, objects = (
        weights @ table(*columns)
        for columns in (
            (matches.image[right], matches.labels[right]),
            (matches.image[counted], matches.labels[counted]),
            (np.repeat(np.arange(images), matches.objects), matches.object_labels),
        )
    )
    present = objects > 0
    sums = dict(precision=(tp, found), recall=(tp, objects), f1=(2 * tp, found + objects))
    with np.errstate(invalid='ignore'):  # a sample without any object
        means = {
            name: (part / np.maximum(total, 1) * present).sum(axis=1) / present.sum(axis=1)
            for name, (part, total) in sums.items()
        }
    return {f'{name}_at_{score_thr:g}': values for name, values in means.items()}


def false_positive_samples(matches: Matches, recalls: Sequence[float], resamples: int = 1000) -> dict[str, np.ndarray]:
    """``fp_per_image_at_recall_0.8`` … of each bootstrap sample of the images, (S,). The images are drawn as above."""
    names, ends = [f'fp_per_image_at_recall_{recall:g}' for recall in recalls], _ends(matches.scores)
    values = np.full((resamples if matches.images else 0, len(names)), np.nan)
    for row, weights in zip(values, resampled_images(matches.images, resamples) if matches.images else ()):
        objects = weights @ matches.objects
        if objects:
            counts = weights[matches.image]
            hits, all_found = np.append(0, np.cumsum(counts * matches.tp))[ends], np.append(0, np.cumsum(counts))[ends]
            row[:] = np.append(all_found - hits, np.inf)[np.searchsorted(hits / objects, recalls)] / matches.images
    return dict(zip(names, values.T))


def confidence_curves(matches: Matches, confidences: Sequence[float] | np.ndarray) -> np.ndarray:
    """Precision, recall and f1 of each class at each of C confidences, (3, K, C); nan where nothing is found."""
    counts = _Counts(matches)
    ratios = np.stack([counts.ratios(confidence) for confidence in confidences], axis=-1)
    highest = np.array([matches.scores[places].max(initial=-np.inf) for places in counts.places])
    return np.where(np.asarray(confidences) > highest[:, None], np.nan, ratios)


def recall_curves(matches: Matches) -> np.ndarray:
    """COCO's interpolated precision of each class at ``RECALLS``, (K, 101)."""
    return _Counts(matches).interpolated_precision(RECALLS)


class _Counts:
    """Cumulative counts of the detections, for all classes together and for each class."""

    def __init__(self, matches: Matches):
        self.scores, self.num_gt = matches.scores, matches.num_gt
        self.present = np.flatnonzero(self.num_gt)  # classes that have objects
        self.places = [np.flatnonzero(matches.labels == k) for k in range(len(self.num_gt))]
        self.ends = _ends(self.scores)
        # For the first 0, 1, …, D detections: how many are true positives, and how many are in empty images.
        self.tp, self.in_empty = (np.append(0, flags).cumsum() for flags in (matches.tp, matches.in_empty))
        self.class_tp = [np.append(0, matches.tp[places]).cumsum() for places in self.places]

    def mean(self, values: np.ndarray) -> float:
        """Mean of values (K,) over the classes that have objects."""
        return float(values[self.present].mean()) if len(self.present) else 0.0

    def ratios(self, confidence: float) -> tuple[np.ndarray, ...]:
        """Precision, recall and f1 of each class, (K,) each."""
        stop = self.stop(confidence)
        found = np.array([np.searchsorted(places, stop) for places in self.places], int)
        tp = np.array([counts[number] for counts, number in zip(self.class_tp, found)], int)
        pairs = (tp, found), (tp, self.num_gt), (2 * tp, found + self.num_gt)
        return tuple(part / np.maximum(total, 1) for part, total in pairs)

    def false_positives_at_recalls(self, recalls: Sequence[float]) -> np.ndarray:
        """Numbers (R,) of false positives; inf if no confidence reaches the recall, nan without objects."""
        if not self.num_gt.sum():
            return np.full(len(recalls), np.nan)
        reached = self.tp[self.ends] / self.num_gt.sum()
        return np.append(self.ends - self.tp[self.ends], np.inf)[np.searchsorted(reached, recalls)]

    def interpolated_precision(self, recalls: Sequence[float] | np.ndarray) -> np.ndarray:
        """COCO's interpolated precision of each class at each recall, (K, R)."""
        rows = np.zeros((len(self.places), len(recalls)))
        for row, places, counts, num_gt in zip(rows, self.places, self.class_tp, self.num_gt):
            ends = _ends(self.scores[places])
            best = np.maximum.accumulate((counts[ends] / ends)[::-1])[::-1]
            row[:] = np.append(best, 0)[np.searchsorted(counts[ends] / max(num_gt, 1), recalls)]
        return rows

    def best_confidence(self) -> float:
        """The score with the highest mean of f1 over classes. If several are equal, the highest score."""
        if not len(self.scores):
            return 1.0
        # Each detection changes the f1 of its class. The cumulative sum of the changes is the mean f1 at each score.
        change = np.zeros(len(self.scores))
        for k in self.present:
            places, tp = self.places[k], self.class_tp[k][1:]
            f1 = 2 * tp / (np.arange(1, len(places) + 1) + self.num_gt[k])
            change[places] = np.diff(f1, prepend=0) / len(self.present)
        f1 = np.cumsum(change)[self.ends - 1]
        return float(self.scores[self.ends - 1][np.argmax(f1 > f1.max() - 1e-9)])

    def stop(self, confidence: float) -> int:
        """Number of detections that count at a confidence."""
        return int(np.searchsorted(-self.scores, -confidence, side='right'))


def _ends(scores: np.ndarray) -> np.ndarray:
    """For each distinct score, the number of detections with at least this score."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) + 1 if len(scores) else np.zeros(0, int)


def _per_image(number: float, images: int) -> float:
    return float(number / images) if images else float('nan')
