"""Metrics as text: the report of ``precision_recall``, and the few values that a person reads first."""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np
from terminaltables import AsciiTable

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
    'per empty image': r'fp_per_empty_image_at_(\d[\d.e-]*)',
}


def headline(metrics: Mapping, model: str = 'model') -> dict[str, dict[str, float]]:
    """The values that a person reads first, such as ``{'teacher': {'mAP': 0.31, …}, 'student': {…}}``.

    Args:
        metrics: what an evaluator returns: ``coco/bbox_mAP``, ``teacher/pr/recall_at_0.25`` …. Other names are left
            out, and so are values that are undefined (nan, or -1 of CocoMetric).
        model: name of the model whose metrics have no ``teacher/`` or ``student/`` before them.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        *where, last = name.split('/')
        column = next((title for title, names in _COLUMNS.items() if re.fullmatch(names, last)), None)
        if column is None or not isinstance(value, Real) or math.isnan(value) or value < 0:
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
