"""Metrics as text: the report of ``precision_recall``, and the few values that a person reads first."""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np
from terminaltables import AsciiTable

from mmyolo_bgpenalty.evaluation.bootstrap import Interval
from mmyolo_bgpenalty.evaluation.false_alarms import ENOUGH, OperatingPoint, where_recall_ends
from mmyolo_bgpenalty.evaluation.matching import Matches
from mmyolo_bgpenalty.utils.files import printable

# logger.info(text, extra=FILE_ONLY): the text is for the log file. ValidationLoggerHook keeps it off the console.
FILE_ONLY = dict(file_only=True)

# Column of `summary_table` -> the last part of the names of CocoMetric, VOCMetric and PrecisionRecallMetric.
_COLUMNS = {
    'mAP': 'bbox_mAP|segm_mAP|mAP',
    'mAP50': 'bbox_mAP_50|segm_mAP_50|AP50',
    'precision': r'precision_at_(\d[\d.e-]*)',
    'recall': r'recall_at_(\d[\d.e-]*)',
    'false positives per image': r'fp_per_image_at_(\d[\d.e-]*)',
    'per 100 good at recall 0.8': r'alarms_per_100_good_at_recall_0\.8',
}

# The same for a class, with the name of the model and of the class: teacher/coco/cell_precision.
_MODEL = '(?:(teacher|student)/)?'
_CLASS_COLUMNS = {
    'AP': f'{_MODEL}coco/(.+)_precision',
    'AP50': f'{_MODEL}[^/]+/(.+)_ap_50',
    'recall': rf'{_MODEL}[^/]+/(.+)_recall_at_(\d[\d.e-]*)',
}
_CLASSES = 20  # rows of the table of classes

# The same for the figures of `false_alarms` at a recall, in the rows of `good_parts_table`.
_ALARM_COLUMNS = {
    'all objects:\nalarms per 100 good': 'alarms_per_100_good_at_recall_{recall}',
    'all objects:\ngood with alarm': 'good_with_alarm_at_recall_{recall}',
    'defective parts:\nalarms per 100 good': 'alarms_per_100_good_at_part_recall_{recall}',
    'defective parts:\ngood with alarm': 'good_with_alarm_at_part_recall_{recall}',
    'all objects: precision\nif {share} of parts are good': 'precision_at_recall_{recall}_at_prevalence_{share}',
}
_ALARM_RECALLS = ('0.7', '0.8', '0.9')


def headline(metrics: Mapping, model: str = 'model') -> dict[str, dict[str, float]]:
    """The values that a person reads first, such as ``{'teacher': {'mAP': 0.31, …}, 'student': {…}}``.

    Args:
        metrics: what an evaluator returns: ``coco/bbox_mAP``, ``teacher/pr/recall_at_0.25`` …. Other names are left
            out, and so are values that are undefined (nan or inf, or -1 of CocoMetric).
        model: name of the model whose metrics have no ``teacher/`` or ``student/`` before them.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        *where, last = name.split('/')
        column = next((title for title, names in _COLUMNS.items() if re.fullmatch(names, last)), None)
        if column is None or not _is_known(value):
            continue
        role = '/'.join(where[:-1]) or (where[0] if where and where[0] in ('teacher', 'student') else model)
        rows.setdefault(role, {}).setdefault(column, float(value))
    return rows


def summary_table(metrics: Mapping, title: str, model: str = 'model') -> str | None:
    """``headline`` as a table with one row per model, or None if the metrics have none of its values."""
    rows = headline(metrics, model)
    columns = [column for column in _COLUMNS if any(column in row for row in rows.values())]
    if not columns:
        return None
    confidence = next((match[1] for name in metrics if (match := re.search(_COLUMNS['recall'] + '$', name))), None)
    if confidence is not None:
        title += f' (precision, recall and false positives at confidence {confidence})'
    cells = [[name, *(f'{row[key]:.3f}' if key in row else '-' for key in columns)] for name, row in rows.items()]
    return f'{title}\n{AsciiTable([["", *columns], *cells]).table}'


def class_table(metrics: Mapping, title: str) -> str | None:
    """AP, AP50 and recall of the first 20 classes, or None if the metrics have no classes.

    With a teacher the values are those of the teacher. A class without objects has no row.
    """
    models: dict[str | None, dict[str, dict[str, float]]] = {}
    confidence = ''
    for name, value in metrics.items():
        for column, names in _CLASS_COLUMNS.items():
            if (match := re.fullmatch(names, name)) and _is_known(value):
                model, label, *at = match.groups()
                confidence = at[0] if at else confidence
                models.setdefault(model, {}).setdefault(label, {}).setdefault(column, value)
    if not models:
        return None
    model, rows = next(iter(models.items()))
    columns = [column for column in _CLASS_COLUMNS if any(column in row for row in rows.values())]
    cells = [
        [printable(name), *(f'{row[key]:.3f}' if key in row else '-' for key in columns)] for name, row in rows.items()
    ]
    heads = [f'recall at {confidence}' if column == 'recall' else column for column in columns]
    title += f', by class ({model})' if model else ', by class'
    left = f'\n… {len(cells) - _CLASSES} more, see metrics.json of `test --out`' if len(cells) > _CLASSES else ''
    return f'{title}\n{AsciiTable([["class", *heads], *cells[:_CLASSES]]).table}{left}'


def _is_known(value) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < math.inf


def good_parts_table(metrics: Mapping, title: str) -> str | None:
    """The figures of ``false_alarms`` at recalls from 0.7 on, or None if the metrics have none.

    A row is the share that is found: of the objects, or of the defective parts. With a teacher the values are those of
    the teacher.
    """
    models: dict[str | None, dict[str, float]] = {}
    for name, value in metrics.items():
        match = re.fullmatch(f'{_MODEL}[^/]+/([^/]+_at_(?:part_)?recall_[^/]+)', name)
        if match and isinstance(value, Real):
            models.setdefault(match[1], {}).setdefault(match[2], float(value))
    model, figures = next(iter(models.items()), (None, {}))
    share = next((name.partition('_at_prevalence_')[2] for name in figures if '_at_prevalence_' in name), '')
    columns = {head: name for head, name in _ALARM_COLUMNS.items() if share or '{share}' not in name}
    rows = []
    for recall in _ALARM_RECALLS:
        names = [name.format(recall=recall, share=share) for name in columns.values()]
        if names[0] in figures:
            rows.append([recall, *(_shown(figures[name]) if name in figures else '-' for name in names)])
    if not rows:
        return None
    title += f', false alarms on good parts where this share is found{f" ({model})" if model else ""}'
    return f'{title}\n{AsciiTable([["found", *(head.format(share=share) for head in columns)], *rows]).table}'


def _shown(value: float) -> str:
    return 'not reached' if value == math.inf else 'unknown' if value != value else f'{value:.3f}'


def alarm_table(figures: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """The figures of ``false_alarms`` with their intervals."""
    rows = [
        [name.replace('_', ' '), _shown(value), f'[{_shown(intervals[name].low)}, {_shown(intervals[name].high)}]']
        for name, value in figures.items()
    ]
    title = 'False alarms on the empty images (good parts), with 95 % intervals over the images'
    return f'\n{title}\n{AsciiTable([["", "value", "interval"], *rows]).table}'


def operating_table(points: Sequence[OperatingPoint], good: int) -> str:
    """``operating_points`` as a table, and how few false alarms ``good`` good parts can show."""
    least = few_good_parts(good)
    if not points:
        return f'\n{least}'
    heads = ['false alarms per 100 good parts, at most', 'confidence', 'objects found', 'defective parts found']
    rows = [
        [f'{one.alarms:g}', *('none' if value == math.inf else f'{value:.3f}' for value in one[1:])] for one in points
    ]
    title = f'A confidence to choose for a production line, by {_good_parts(good)}'
    return f'\n{title}\n{AsciiTable([heads, *rows]).table}' + (f'\n{least}' if least else '')


def few_good_parts(good: int) -> str:
    """What ``good`` good parts cannot show, see ``supported``. '' for none, and for enough."""
    if not 0 < good < ENOUGH:
        return ''
    shown = f'fewer than {min(100, ENOUGH / good):.3g} false alarms per 100 cannot be shown'
    return f'With {_good_parts(good)}, {shown}. For 1 per 100, {ENOUGH} are needed.'


def _good_parts(good: int) -> str:
    return f'{good} good part{"s" * (good > 1)}'


def unreached(matches: Matches, recalls: Sequence[float], names: Sequence[str]) -> str:
    """A line on the classes that do not reach all of ``recalls``, or ''.

    If all classes together do not reach one, the line is about the lowest such recall. Else it is about the highest.
    """
    together, ends = where_recall_ends(matches)
    least = min((recall for recall in recalls if recall > together), default=None)
    goal = max(recalls, default=0.0) if least is None else least
    low = [f'{printable(name)} at {end:.2f}' for name, end in zip(names, ends) if end < goal]
    more = f', and {len(low) - _CLASSES} more' if len(low) > _CLASSES else ''
    listed = f': {", ".join(low[:_CLASSES])}{more}' if low else ''
    if least is None:
        return f'Recall {goal:g} is not reached by{listed}' if low else ''
    return f'Recall {goal:g} is not reached. All classes together end at {together:.2f}{listed}'


def report_table(report: dict, iou_thr: float, score_thr: float, recalls: Sequence[float], classwise: bool) -> str:
    """A table of the mean over classes and, with ``classwise``, of each class. Then a line with the false positives."""
    metrics, fixed = report['metrics'], f'{score_thr:g}'
    columns = {'P': 'precision', 'R': 'recall', 'F1': 'f1'}
    columns |= {f'{title}@{fixed}': f'{key}_at_{fixed}' for title, key in columns.items()}
    columns |= {f'P at R={recall:g}': f'precision_at_recall_{recall:g}' for recall in recalls}
    columns['AP'] = 'ap'
    objects = sum(entry['objects'] for entry in report['classes'])
    mean = dict(metrics, name='mean', ap=np.mean(report['curve']['precision']), objects=objects)
    rows = [['class', 'objects', *columns]]
    for entry in [*(report['classes'] if classwise else ()), mean]:
        rows.append([printable(entry['name']), entry['objects'], *(f'{entry[key]:.3f}' for key in columns.values())])
    return (
        f'\nPrecision and recall at IoU {iou_thr:g}, at the best confidence, {metrics["best_confidence"]:.3f}, and at '
        f'{fixed}:\n{AsciiTable(rows).table}\nFalse positives per image: '
        + ', '.join(f'{name} {value:.3f}' for name, value in metrics.items() if name.startswith('fp_'))
    )
