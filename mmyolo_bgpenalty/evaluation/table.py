"""The report of ``precision_recall`` as text."""

from collections.abc import Sequence

import numpy as np
from terminaltables import AsciiTable

from mmyolo_bgpenalty.evaluation.matching import MISTAKES


def report_table(report: dict, iou_thr: float, score_thr: float, recalls: Sequence[float], classwise: bool) -> str:
    """A table with the mean over classes, and with ``classwise`` each class, and two lines on false positives."""
    metrics, fixed = report['metrics'], f'{score_thr:g}'
    best = f'{metrics["best_confidence"]:.3f}'
    columns = {'P': 'precision', 'R': 'recall', 'F1': 'f1'}
    columns |= {f'{title}@{fixed}': f'{key}_at_{fixed}' for title, key in columns.items()}
    columns |= {f'P at R={recall:g}': f'precision_at_recall_{recall:g}' for recall in recalls}
    columns['AP'] = 'ap'
    mean = dict(
        metrics,
        name='mean',
        ap=np.mean(report['curve']['precision']),
        objects=sum(entry['objects'] for entry in report['classes']),
    )
    cells = [
        [row['name'], row['objects'], *(f'{row[key]:.3f}' for key in columns.values())]
        for row in [*(report['classes'] if classwise else ()), mean]
    ]
    table = AsciiTable([['class', 'objects', *columns], *cells]).table
    fp = []
    for suffix, confidence in (('', best), (f'_at_{fixed}', fixed)):
        empty = f' ({metrics["fp_per_empty_image" + suffix]:.3f} an empty one)' if report['empty_images'] else ''
        fp.append(f'{metrics["fp_per_image" + suffix]:.3f}{empty} at {confidence}')
    fp += [f'{metrics[f"fp_per_image_at_recall_{recall:g}"]:.3f} at R={recall:g}' for recall in recalls]
    mistakes = ', '.join(f'{name} {metrics[f"fp_{name}"]:.3f}' for name in MISTAKES)
    return (
        f'\nPrecision and recall at IoU {iou_thr:g}, at the best confidence, {best}, and at {fixed}:\n{table}'
        f'\nFalse positives an image: {", ".join(fp)}\nAt the best confidence they are: {mistakes}'
    )
