"""The report of ``precision_recall`` as text."""

from collections.abc import Sequence

import numpy as np
from terminaltables import AsciiTable


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
        rows.append([entry['name'], entry['objects'], *(f'{entry[key]:.3f}' for key in columns.values())])
    return (
        f'\nPrecision and recall at IoU {iou_thr:g}, at the best confidence, {metrics["best_confidence"]:.3f}, and at '
        f'{fixed}:\n{AsciiTable(rows).table}\nFalse positives per image: '
        + ', '.join(f'{name} {value:.3f}' for name, value in metrics.items() if name.startswith('fp_'))
    )
