"""False alarms on good parts. Pure NumPy.

A part is an image. It is good if it has no annotated box, and defective if it has an object. All classes share one
confidence. A detection on a good part is a false alarm.

Shapes: D detections, I images, E distinct scores, S resamples.

The figures of ``false_alarms`` are Python numbers:

- ``alarms_per_100_good_at_0.25``: false alarms per 100 good parts at confidence ``score_thr``.
- ``good_with_alarm_at_0.25``: share of good parts with at least one false alarm.
- ``…_at_recall_0.8``: the same at the highest confidence at which that share of the objects is found.
- ``…_at_part_recall_0.8``: the same at the highest confidence at which that share of the defective parts is found. A
  part is found if one of its objects is.
- ``precision_at_recall_0.8_at_prevalence_0.99``: tp / (tp + fp) at the first of these confidences, on a line where 99 %
  of the parts are good. Each good part counts w = p / (1 − p) · (other parts) / (good parts), with p = ``prevalence``.

A figure is inf if no confidence reaches the recall (a precision is 0), and nan without good parts or without what the
recall is of.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmyolo_bgpenalty.evaluation.bootstrap import Interval, interval_of, resampled_images
from mmyolo_bgpenalty.evaluation.matching import Matches

ENOUGH = 300  # good parts that can show 1 false alarm per 100, by the rule of three: see `widened`


class OperatingPoint(NamedTuple):
    """What a detector finds at a confidence that is chosen for its number of false alarms."""

    alarms: float  # the most false alarms per 100 good parts that are allowed
    confidence: float  # inf if no detection may count
    recall: float  # share of the objects that are found; nan without objects
    part_recall: float  # share of the defective parts that are found; nan without defective parts


def false_alarms(
    matches: Matches, score_thr: float = 0.25, recalls: Sequence[float] = (0.8,), prevalence: float | None = None
) -> dict[str, float]:
    """The figures that the module's docstring describes. ``recalls`` are in (0, 1], ``prevalence`` in (0, 1)."""
    return _Ranking(matches).figures(np.ones(matches.images), score_thr, recalls, prevalence)


def false_alarm_intervals(
    matches: Matches,
    score_thr: float = 0.25,
    recalls: Sequence[float] = (0.8,),
    prevalence: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % intervals of the figures: percentiles over ``resamples`` bootstrap samples of the images.

    See ``intervals_of``.
    """
    samples = false_alarm_samples(matches, score_thr, recalls, prevalence, resamples, seed)
    return intervals_of(samples, matches.empty_images)


def intervals_of(samples: Mapping[str, np.ndarray], good: int) -> dict[str, Interval]:
    """The intervals of the figures of ``false_alarm_samples`` of a set with ``good`` good parts.

    A figure that is nan in a sample, for example because the sample has no good part, is left out of the percentiles.
    See ``widened`` for figures without any alarm. A precision at a prevalence has no known lower end then, nan.
    """
    found = {name: interval_of(values) for name, values in samples.items()}
    for name in found:
        recall = name.removeprefix('precision_at_').partition('_at_prevalence')[0]
        if 'prevalence' in name and found[f'alarms_per_100_good_at_{recall}'].high == 0:
            found[name] = found[name]._replace(low=float('nan'))
    return {name: widened(name, interval, good) for name, interval in found.items()}


def widened(name: str, interval: Interval, good: int) -> Interval:
    """The interval of the figure ``name``, by the rule of three if no part has an alarm.

    If none of n good parts has an alarm, no bootstrap sample has one, and the interval would be [0, 0]. But up to 3 / n
    of all parts may have one, with 95 % confidence.
    """
    if interval.high == 0 and name.startswith(('alarms_per_100_good', 'good_with_alarm')):
        share = min(1.0, 3 / good)
        return interval._replace(high=100 * share if name.startswith('alarms') else share)
    return interval


def false_alarm_samples(
    matches: Matches,
    score_thr: float = 0.25,
    recalls: Sequence[float] = (0.8,),
    prevalence: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The figures of each bootstrap sample of the images, (S,) each. Equal images and seeds have the same samples."""
    ranking, images = _Ranking(matches), matches.images
    if not images:
        return {}
    counts = resampled_images(images, resamples, seed)
    samples = [ranking.figures(weights, score_thr, recalls, prevalence) for weights in counts]
    return {name: np.array([sample[name] for sample in samples]) for name in samples[0]}


def supported(alarms: Sequence[float], good: int) -> list[float]:
    """The numbers of false alarms per 100 good parts that a set with ``good`` good parts can show.

    These are the entries of ``alarms`` from ``ENOUGH`` / good on.
    """
    return [number for number in alarms if number * good >= ENOUGH]


def operating_points(matches: Matches, alarms: Sequence[float]) -> list[OperatingPoint]:
    """For each number in ``alarms`` (>= 0), the lowest score with at most so many false alarms per 100 good parts.

    Raises:
        ValueError: there is no good part.
    """
    if not matches.empty_images:
        raise ValueError('Expected good parts, which are images without a box, but got none')
    ranking = _Ranking(matches)
    # For no detection and for each distinct score, (E + 1,)
    per_100 = np.append(0, np.cumsum(matches.in_empty)[ranking.ends - 1]) * 100 / matches.empty_images
    hits = np.append(0, np.cumsum(matches.tp)[ranking.ends - 1])
    parts = np.append(0, np.searchsorted(ranking.first_hit[1], ranking.ends))
    confidences = np.append(np.inf, ranking.scores)
    found = []
    for limit in alarms:
        stop = int(np.searchsorted(per_100, limit + 1e-9, side='right')) - 1
        recalls = _share(hits[stop], matches.num_gt.sum()), _share(parts[stop], (matches.objects > 0).sum())
        found.append(OperatingPoint(limit, float(confidences[stop]), *recalls))
    return found


def where_recall_ends(matches: Matches) -> tuple[float, np.ndarray]:
    """The recall of all detections: of all classes together, and of each class, (K,). nan without objects."""
    tp = np.bincount(matches.labels[matches.tp].astype(int), minlength=len(matches.num_gt))
    with np.errstate(invalid='ignore'):
        return float(np.divide(tp.sum(), matches.num_gt.sum())), tp / matches.num_gt


class _Ranking:
    """The detections in the order of their scores."""

    def __init__(self, matches: Matches):
        self.image, self.tp, self.objects = matches.image, matches.tp, matches.objects
        self.good, self.in_good = matches.empty, matches.in_empty
        changes = matches.scores[1:] != matches.scores[:-1]
        self.ends = np.flatnonzero(np.append(changes, True)) + 1 if len(matches.scores) else np.zeros(0, int)
        self.scores = matches.scores[self.ends - 1]  # (E,), highest first
        defective = self.objects > 0
        self.first_alarm = self._first(self.in_good, self.good)
        self.first_hit = self._first(self.tp, defective)

    def _first(self, counted: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images in the order of their first detection that counts, and its place, D without one."""
        places = np.full(len(images), len(counted))
        at = np.flatnonzero(counted)[::-1]
        places[self.image[at]] = at
        chosen = np.flatnonzero(images)
        order = chosen[np.argsort(places[chosen], kind='stable')]
        return order, places[order]

    def figures(
        self, weights: np.ndarray, score_thr: float, recalls: Sequence[float], prevalence: float | None
    ) -> dict[str, float]:
        """The figures if image i occurs ``weights[i]`` times, (I,)."""

        def detections(counted: np.ndarray) -> np.ndarray:
            return np.append(0.0, np.cumsum(weights[self.image] * counted)[self.ends - 1])

        def images(first: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
            order, places = first
            total = np.append(0.0, np.cumsum(weights[order]))
            return np.append(0.0, total[np.searchsorted(places, self.ends)])

        # For no detection and for each distinct score, (E + 1,)
        hits, alarms, all_found = map(detections, (self.tp, self.in_good, np.ones(len(self.image))))
        good, objects, parts = weights[self.good].sum(), weights @ self.objects, weights[self.objects > 0].sum()
        curves = dict(alarms_per_100_good=100 * alarms, good_with_alarm=images(self.first_alarm))
        stop = int(np.searchsorted(-self.scores, -score_thr, side='right'))
        figures = {f'{name}_at_{score_thr:g}': _share(curve[stop], good) for name, curve in curves.items()}
        for what, found, total in (('', hits, objects), ('part_', images(self.first_hit), parts)):
            for recall in recalls:
                # The tolerance is for weights that are no whole numbers of objects: 0.7 · 10 is 7.000000000000001.
                stop = int(np.searchsorted(found, recall * total - 1e-9))
                reached = stop < len(found)
                for name, curve in curves.items():
                    value = _share(curve[stop] if reached else np.inf, good) if total else np.nan
                    figures[f'{name}_at_{what}recall_{recall:g}'] = value
                if prevalence is not None and not what:
                    weight = prevalence / (1 - prevalence) * _share(weights.sum() - good, good)
                    fp_good = weight * alarms[stop] if reached else np.inf
                    below = (all_found[stop] - alarms[stop] if reached else 1) + fp_good
                    value = float(hits[stop] / below) if reached and below else 0.0 if total and good else np.nan
                    figures[f'precision_at_recall_{recall:g}_at_prevalence_{prevalence:g}'] = value
        return figures


def _share(number: float, total: float) -> float:
    return float(number / total) if total else float('nan')
