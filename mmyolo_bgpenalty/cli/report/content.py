"""What a report shows: figures, curves, and the entries of the gallery with their pictures."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from mmyolo_bgpenalty.cli.report.sources import Run, Source
from mmyolo_bgpenalty.evaluation.bootstrap import Interval, interval_of
from mmyolo_bgpenalty.evaluation.false_alarms import (
    false_alarm_samples,
    false_alarms,
    intervals_of,
    operating_points,
    supported,
)
from mmyolo_bgpenalty.evaluation.judged import HIT, Judged, judged, partner_scores
from mmyolo_bgpenalty.evaluation.matching import (
    MISTAKES,
    Detections,
    Matches,
    Truth,
    box_iou,
    match_images,
)
from mmyolo_bgpenalty.evaluation.precision_recall import false_positive_samples, precision_recall, ratio_samples
from mmyolo_bgpenalty.evaluation.table import few_good_parts

MISSED = -1  # the kind of a missed object
NEAR = 0.1  # lowest IoU of a detection that is near an object
LEAST = 0.01  # the lowest confidence on the page
ALARMS, RECALLS = (1.0, 5.0, 20.0), (0.7, 0.8, 0.9)
SIZES = {'small': 32**2, 'medium': 96**2, 'large': np.inf}  # area in pixels below which a box has this size, as in COCO
FIGURES = {  # name -> what the page calls it, the factor, and the digits
    'alarms_per_100_good': ('false alarms per 100 good parts', 1, 1),
    'good_with_alarm': ('good parts with an alarm, %', 100, 1),
    'fp_per_image': ('false positives per image', 1, 2),
    'precision': ('precision', 1, 3),
    'recall': ('recall', 1, 3),
    'f1': ('F1', 1, 3),
}
MOST_OBJECTS = 20  # that a crop shows
CROP = 144  # pixels of the longer side of a picture


class Figures(NamedTuple):
    """All figures of a run, those of each bootstrap sample of the images, (S,), and their 95 % intervals."""

    values: dict[str, float]
    samples: dict[str, np.ndarray]
    intervals: dict[str, Interval]


def content_of(runs: Sequence[Run], most: int, resamples: int) -> dict[str, Any]:
    """The content of the page for runs on the same images. ``most``: mistakes of each run in the gallery."""
    source = runs[0].source
    all_judged = [judged(run.found, source.truth, source.iou_thr) for run in runs]
    pictures = Pictures(source.paths, source.truth)
    entries = [
        entry for place in range(len(runs)) for entry in _entries(all_judged, place, pictures, source.truth, most)
    ]
    good = [not len(truth.boxes) for truth in source.truth]
    matches = [match_images(zip(run.found, source.truth), len(source.classes), source.iou_thr) for run in runs]
    first = _figures(matches[0], source, resamples)
    return dict(
        file=source.file,
        classes=source.classes,
        iou=source.iou_thr,
        confidence=source.score_thr,
        images=len(source.images),
        good=sum(good),
        few=few_good_parts(sum(good)),
        goodImages=_packed(np.array(good), np.uint16),
        objects=np.bincount(all_judged[0].object_labels.astype(int), minlength=len(source.classes)).tolist(),
        sizes=[*SIZES],
        objectSizes=_packed(_sizes(all_judged[0].object_boxes), np.uint16),
        kinds=MISTAKES,
        objectLabels=_packed(all_judged[0].object_labels, np.uint16),
        objectImages=_packed(all_judged[0].object_image, np.uint32),
        runs=[_run(*parts, all_judged, good, source, first, resamples) for parts in zip(runs, all_judged, matches)],
        names=[str(image['file_name']) for image in source.images],
        links=[Path(path).as_uri() for path in source.paths],
        pictures=pictures.encoded,
        truth=pictures.truth,
        entries=entries,
    )


def _run(
    run: Run,
    one: Judged,
    matches: Matches,
    judged_runs: Sequence[Judged],
    good: Sequence[bool],
    source: Source,
    first: Figures,
    resamples: int,
) -> dict[str, Any]:
    shown = one.scores >= LEAST
    return dict(
        name=run.name,
        points=_points(matches),
        key=[*_coco_figures(run.metrics), *_key_figures(matches, source, first, resamples)],
        scores=_packed(one.scores[shown], np.float32),
        labels=_packed(one.labels[shown], np.uint16),
        kinds=_packed(one.kinds[shown], np.uint16),
        others=[_packed(partner_scores(one, other)[shown], np.float32) for other in judged_runs],
        good=_packed(np.asarray(good)[one.image[shown].astype(int)], np.uint16),
        images=_packed(one.image[shown], np.uint32),
        sizes=_packed(_sizes(one.boxes[shown]), np.uint16),
        foundAt=_packed(one.object_scores, np.float32),
        curve=_curve(matches),
    )


def _sizes(boxes: np.ndarray) -> np.ndarray:
    """The place of each box, (N, 4), in ``SIZES``."""
    return np.searchsorted([*SIZES.values()], boxes[:, 2] * boxes[:, 3], side='right')


def _coco_figures(metrics: Mapping[str, float | None]) -> list[list[str]]:
    """mAP and mAP50, if the evaluation had them, as rows of ``_key_figures``. A teacher comes before its student."""
    values = {name: [v for key, v in metrics.items() if key.endswith(f'bbox_{name}')] for name in ('mAP', 'mAP_50')}
    return [
        ['over all confidences', name.replace('_', ''), '–' if not found or found[0] is None else f'{found[0]:.3f}', '']
        for name, found in values.items()
    ]


def _figures(matches: Matches, source: Source, resamples: int) -> Figures:
    """Equal images have the same samples."""
    score_thr, prevalence = source.score_thr, source.prevalence
    values = precision_recall(matches, score_thr, RECALLS)['metrics']
    values |= false_alarms(matches, score_thr, RECALLS, prevalence)
    good = matches.empty_images
    alarms = false_alarm_samples(matches, score_thr, RECALLS, prevalence, resamples) if good else {}
    found = false_positive_samples(matches, RECALLS, resamples) | ratio_samples(matches, score_thr, resamples)
    intervals = intervals_of(alarms, good) | {name: interval_of(one) for name, one in found.items()}
    return Figures(values, alarms | found, intervals)


def _key_figures(matches: Matches, source: Source, first: Figures, resamples: int) -> list[list[str]]:
    """[where, what, the figure with its interval, its difference to the first run with its interval, if there is any].

    The intervals are 95 % over the images. ``first``: the figures of the first run.
    """
    own = _figures(matches, source, resamples)
    rows = []
    for where, key, what, factor, digits in _named(source):
        # Without objects only the false alarms at a confidence are known.
        if key in own.samples and not np.isnan(own.samples[key]).all():
            figure = _with_interval(own.values[key], own.intervals[key], factor, digits)
            change = (
                factor * (own.values[key] - first.values[key]),
                _difference(own.samples[key], first.samples[key], factor, digits),
            )
            # If an end is unknown, because no good part has an alarm, so is how much the runs differ.
            known = change[1] and not np.isnan([own.intervals[key].low, first.intervals[key].low]).any()
            rows.append([where, what, figure, f'{change[0]:+.{digits}f} {change[1]}' if known else ''])
    return rows


def _named(source: Source) -> Iterator[tuple[str, str, str, float, int]]:
    """Where each figure is, its name, what the page calls it, the factor, and the digits."""
    places = {f'recall_{recall:g}': f'at recall {recall:g} of all objects' for recall in RECALLS}
    places |= {f'part_recall_{recall:g}': f'at recall {recall:g} of the defective parts' for recall in RECALLS}
    places[f'{source.score_thr:g}'] = f'at confidence {source.score_thr:g}'
    share = source.prevalence
    for place, where in places.items():
        figures = {f'{name}_at_{place}': figure for name, figure in FIGURES.items()}
        if share is not None:
            what = f'precision if {share:g} of the parts are good'
            figures[f'precision_at_{place}_at_prevalence_{share:g}'] = what, 1, 3
        for name, figure in figures.items():
            yield where, name, *figure


def _with_interval(value: float, interval: Interval, factor: float, digits: int) -> str:
    """A figure and its interval. An infinite number stands for a recall that is not reached, nan for an unknown end."""
    texts = [
        'unknown' if np.isnan(one) else f'{factor * one:.{digits}f}' if np.isfinite(one) else 'not reached'
        for one in (value, *interval)
    ]
    return f'{texts[0]} [{texts[1]}, {texts[2]}]' if np.isfinite(value) else texts[0]


def _difference(samples: np.ndarray, first: np.ndarray, factor: float, digits: int) -> str:
    """The interval of a difference. '' if there is none, or if a recall is not reached in too many samples."""
    with np.errstate(invalid='ignore'):  # inf - inf is nan
        low, high = (factor * edge for edge in interval_of(samples - first))
    known = np.isfinite([low, high]).all() and not np.array_equal(samples, first, equal_nan=True)
    return f'[{low:+.{digits}f}, {high:+.{digits}f}]' if known else ''


def _points(matches: Matches) -> list[list]:
    """Confidences to copy: [what for, confidence, share of all objects found, false positives per image]."""
    objects, hits = matches.num_gt.sum(), np.cumsum(matches.tp)
    best = _below(precision_recall(matches)['metrics']['best_confidence'])
    found: list[tuple[str, float | None]] = [('best F1, mean over classes', best)]
    for recall in RECALLS if objects else ():
        place = np.searchsorted(hits / objects, recall)
        found.append((f'recall {recall:g}', _below(matches.scores[place]) if place < len(matches.scores) else None))
    shown = supported(ALARMS, matches.empty_images)
    for point in operating_points(matches, shown) if shown else ():
        confidence = -_below(-point.confidence) if np.isfinite(point.confidence) else None
        found.append((f'at most {point.alarms:g} false alarms per 100 good parts', confidence))
    return [[what, one, *_at(matches, one)] for what, one in found]


def _at(matches: Matches, confidence: float | None) -> tuple[float | None, float | None]:
    """The share of the objects that are found at a confidence, and the false positives per image."""
    if confidence is None:
        return None, None
    counted, objects = matches.scores >= confidence, matches.num_gt.sum()
    found = matches.tp[counted].sum()
    return _rounded(found / objects) if objects else None, _rounded((counted.sum() - found) / matches.images)


def _below(confidence: float) -> float:
    """Rounded down to 6 digits, so that the detection with this score still counts."""
    return float(np.floor(confidence * 1e6) / 1e6)


def _curve(matches: Matches) -> list[list[float]]:
    """Recall and precision of all classes together, at up to 200 confidences."""
    if not len(matches.scores) or not matches.num_gt.sum():
        return []
    ends = np.flatnonzero(np.append(np.diff(matches.scores) != 0, True))
    tp = np.cumsum(matches.tp)
    recall, precision = tp / matches.num_gt.sum(), tp / np.arange(1, len(tp) + 1)
    ends = ends[np.unique(np.searchsorted(recall[ends], np.linspace(0, recall[-1], 200)))]
    return np.round(np.stack([recall[ends], precision[ends]], axis=1), 4).tolist()


def _packed(values: np.ndarray, kind: type) -> str:
    """Numbers for the page, as base64 of their bytes in little-endian order."""
    return base64.b64encode(np.asarray(values, dtype=np.dtype(kind).newbyteorder('<')).tobytes()).decode()


def _entries(runs: Sequence[Judged], place: int, pictures: 'Pictures', truth: Sequence[Truth], most: int) -> list[list]:
    """The mistakes of a run: [run, kind, label, score, image, picture, box in it, scores of the runs, near].

    The kind of a missed object is -1, and its score is that of the detection that finds it, or 0. The other runs have
    the highest score of a false positive at the same place, or the score with which they find the object. ``near`` of a
    mistake of the kind 'class' is the label of the object. Of a missed object it is [label, score, IoU, box in the
    picture, whether it finds another object] of the surest detection with an IoU of at least 0.1, if possible of one
    that finds no other object. Else it is None.
    """
    one = runs[place]

    def entry(kind: int, label: int, score: float, image: int, box: np.ndarray, others: Sequence[float]) -> list:
        picture, shares, corners = pictures.add(int(image), box)
        near: Any = None
        if kind == MISTAKES.index('class'):
            near = _label_at(box, label, truth[int(image)])
        elif kind == MISSED and corners:
            near = _detection_at(box, one, int(image), corners)
        scores = [*map(_rounded, others)]
        return [place, int(kind), int(label), _rounded(score), int(image), picture, shares, scores, near]

    wrong = np.flatnonzero((one.kinds != HIT) & (one.scores >= LEAST))[:most]
    others = np.stack([partner_scores(one, other)[wrong] for other in runs], axis=1)
    columns = one.kinds, one.labels, one.scores, one.image, one.boxes
    entries = [entry(*row) for row in zip(*(column[wrong] for column in columns), others)]
    missed = np.argsort(one.object_scores, kind='stable')[:most]
    found = np.stack([run.object_scores for run in runs], axis=1)
    columns = one.object_labels, one.object_scores, one.object_image, one.object_boxes, found
    return entries + [entry(MISSED, *row) for row in zip(*(column[missed] for column in columns))]


def _label_at(box: np.ndarray, label: int, truth: Truth) -> int:
    """The label of the object of another class that overlaps a box most."""
    iou = box_iou(Detections(box[None], np.ones(1), np.array([label])), truth)[0]
    return int(truth.labels[np.argmax(np.where((truth.labels != label) & ~truth.ignored, iou, -1))])


def _detection_at(box: np.ndarray, run: Judged, image: int, corners: Sequence[int]) -> list | None:
    """The last entry of a missed object, see ``_entries``."""
    here = np.flatnonzero((run.image == image) & (run.scores >= LEAST))  # the surest first
    only = Truth(box[None], np.zeros(1, int), np.zeros(1, bool))
    iou = box_iou(Detections(run.boxes[here], run.scores[here], run.labels[here]), only)[:, 0]
    near = np.flatnonzero(iou >= NEAR)
    if not len(near):
        return None
    place = min(near, key=lambda one: run.kinds[here[one]] == HIT)  # the first of equals
    one = here[place]
    values = _rounded(run.scores[one]), _rounded(iou[place]), _shares(run.boxes[one], corners)
    return [int(run.labels[one]), *values, bool(run.kinds[one] == HIT)]


def _rounded(score: float) -> float:
    return round(float(score), 4)


class Pictures:
    """Crops around boxes, as JPEG in base64. Boxes at one place share a crop."""

    def __init__(self, paths: Sequence[str], truth: Sequence[Truth]):
        self._paths, self._truth = paths, truth
        self._open: tuple[int, Image.Image | None] = (-1, None)
        self._places: dict[tuple, int] = {}
        self.encoded: list[str] = []
        self.truth: list[list[list]] = []  # the objects in each crop: label, and the box in it as shares of its sides

    def add(self, image: int, box: np.ndarray) -> list:
        """The index of the crop, the box in it as shares of its sides, and its corners: left, top, right, bottom.

        If the picture cannot be read: -1 and empty lists.
        """
        picture = self._picture(image)
        if picture is None:
            return [-1, [], []]
        x, y, width, height = map(float, box)
        side = max(3 * max(width, height), 48.0)
        # A grid of crops, so that boxes of several runs at one place share one.
        step = side / 4
        left, top = (round((middle - side / 2) / step) * step for middle in (x + width / 2, y + height / 2))
        left, top = (min(max(low, 0.0), max(size - side, 0.0)) for low, size in zip((left, top), picture.size))
        right, bottom = (min(low + side, size) for low, size in zip((left, top), picture.size))
        corners = round(left), round(top), round(max(right, left + 1)), round(max(bottom, top + 1))
        key = image, *corners
        if key not in self._places:
            self._places[key] = len(self.encoded)
            crop = picture.crop(corners)
            crop.thumbnail((CROP, CROP))  # it only shrinks
            buffer = io.BytesIO()
            crop.save(buffer, 'JPEG', quality=80)
            self.encoded.append(base64.b64encode(buffer.getvalue()).decode())
            objects = zip(self._truth[image].labels.tolist(), self._truth[image].boxes)
            inside = ([int(label), _shares(one, corners)] for label, one in objects if _overlap(one, corners))
            self.truth.append([*inside][:MOST_OBJECTS])
        return [self._places[key], _shares(box, corners), corners]

    def _picture(self, image: int) -> Image.Image | None:
        if self._open[0] != image:
            try:
                with Image.open(self._paths[image]) as opened:
                    self._open = image, ImageOps.exif_transpose(opened).convert('RGB')
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # the figures do not need it
                self._open = image, None
        return self._open[1]


def _shares(box: Sequence[float] | np.ndarray, corners: Sequence[int]) -> list[float]:
    """A box as shares of the sides of a crop. ``corners``: left, top, right, bottom."""
    x, y, width, height = map(float, box)
    left, top, sides = corners[0], corners[1], (corners[2] - corners[0], corners[3] - corners[1])
    shares = (x - left) / sides[0], (y - top) / sides[1], width / sides[0], height / sides[1]
    return [round(share, 4) for share in shares]


def _overlap(box: Sequence[float] | np.ndarray, corners: Sequence[int]) -> bool:
    x, y, width, height = map(float, box)
    return x < corners[2] and y < corners[3] and x + width > corners[0] and y + height > corners[1]
