"""Plots of precision, recall, F1 and confusion. Needs NumPy and matplotlib.

Shapes: K classes; C confidences.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmyolo_bgpenalty.evaluation.matching import Matches
from mmyolo_bgpenalty.evaluation.precision_recall import RECALLS, confidence_curves, recall_curves
from mmyolo_bgpenalty.utils.files import printable, write_together

MOST_NAMED = 10  # with more classes, the lines of the classes are grey and have no names
MOST_IN_MATRIX = 100  # classes; a larger confusion matrix has colours, but no texts
CONFIDENCES = np.linspace(0, 1, 501)
RATIOS = ('P', 'precision'), ('R', 'recall'), ('F1', 'f1')
MEAN: dict[str, Any] = dict(color='black', linewidth=3)
CLASS: dict[str, Any] = dict(linewidth=1.2)


class Mark(NamedTuple):
    """A confidence that the plots show."""

    confidence: float
    name: str
    suffix: str  # of its entries in the report
    marker: str
    size: float
    linestyle: str


def write_plots(
    folder, matches: Matches, report: dict, confusion: np.ndarray, iou_thr: float, score_thr: float
) -> None:
    """Write ``precision_recall.png``, ``confidence.png`` and ``confusion_matrix.png`` to a folder.

    Args:
        folder: it is made if there is none. Files with these names are replaced.
        report: of ``precision_recall``, with a ``name`` in each entry of ``classes``.
        confusion: (K + 1, K + 1), of ``confusion_matrix``.
    """
    names = [entry['name'] for entry in report['classes']]
    overview = f'{matches.images} images, {matches.num_gt.sum()} objects, IoU {iou_thr:g}'
    overview += '' if matches.tp.any() else ', no detection hits an object'
    figures = {
        'precision_recall': precision_recall_plot(matches, report, score_thr),
        'confidence': confidence_plot(matches, report, score_thr),
        'confusion_matrix': confusion_plot(confusion, names),
    }
    files = []
    for name, figure in figures.items():
        title = f'{overview}, confidence {score_thr:g}' if name == 'confusion_matrix' else overview
        figure.suptitle(title, size=11)
        content = io.BytesIO()
        figure.savefig(content, format='png', bbox_inches='tight')
        files.append((Path(folder) / f'{name}.png', content.getvalue()))
    write_together(files, overwrite=True)


def precision_recall_plot(matches: Matches, report: dict, score_thr: float) -> Figure:
    """Interpolated precision over recall. Points show each class at the confidence ``score_thr`` and at the best F1.

    With many classes they show the means of precision and recall. These are near the mean curve, but not on it.
    """
    figure, (axes,) = _panels(1)
    curves, lines = recall_curves(matches), dict(_class_lines(report))
    for k, line in lines.items():
        axes.plot(RECALLS, curves[k], **line)
    mean = report['curve']['precision']
    axes.plot(RECALLS, mean, label=f'mean, AP {np.mean(mean):.3f}', **MEAN)
    named = {k: line['color'] for k, line in lines.items() if 'label' in line}
    entries = [(report['classes'][k], colour) for k, colour in named.items()] or [(report['metrics'], 'black')]
    for mark in _marks(report, score_thr):
        values = ', '.join(f'{letter} {report["metrics"][key + mark.suffix]:.3f}' for letter, key in RATIOS)
        style: dict = dict(marker=mark.marker, s=mark.size, edgecolors='black', zorder=5)
        axes.scatter([], [], color='white', label=f'{mark.name}\nmean {values}', **style)
        for entry, colour in entries:
            point = entry['recall' + mark.suffix], entry['precision' + mark.suffix]
            axes.scatter(*point, color=colour, clip_on=False, **style)
    axes.set(xlabel='recall', ylabel='precision')
    _legend(figure, axes)
    return figure


def confidence_plot(matches: Matches, report: dict, score_thr: float) -> Figure:
    """Precision, recall and F1 over confidence. Each line ends where its class has no detection.

    From there on the class counts as 0 in the means, as in the report. COCO's AP counts a class without a detection
    as 0, too.
    """
    figure, panels = _panels(3)
    curves = confidence_curves(matches, CONFIDENCES)
    present = [k for k, entry in enumerate(report['classes']) if entry['objects']]
    found = CONFIDENCES <= matches.scores.max(initial=-np.inf)
    for axes, name, values in zip(panels, ('precision', 'recall', 'F1'), curves):
        for k, line in _class_lines(report):
            axes.plot(CONFIDENCES, values[k], **line)
        if present:
            mean = np.where(found, np.nan_to_num(values[present]).mean(axis=0), np.nan)
            ended = np.isnan(values[present][:, found]).any()
            axes.plot(CONFIDENCES, mean, label='mean; 0 for a class whose line has ended' if ended else 'mean', **MEAN)
        for mark in _marks(report, score_thr):
            axes.axvline(mark.confidence, color='black', linestyle=mark.linestyle, label=mark.name)
        axes.set(xlabel='confidence', ylabel=name)
    _legend(figure, panels[-1])
    return figure


def confusion_plot(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """The matrix in numbers, and in shares of each column. Rows are predicted classes, columns are true classes."""
    labels = [*map(_short, names), 'background']
    few, named = len(labels) <= MOST_NAMED + 1, len(labels) <= MOST_IN_MATRIX + 1
    side = (0.6 if few else 0.34) * len(labels) + 0.08 * max(map(len, labels)) + 1.5
    side = side if named else 20
    figure = Figure(figsize=(2 * side, side + 0.3), layout='constrained')
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    panels: Any = figure.subplots(1, 2)
    for axes, values, what in zip(panels, (counts, shares), ('number', 'share of the column')):
        axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)  # in both panels, because the columns have different sums
        axes.set_title(what, size=10)
        axes.set(xlabel='true', ylabel='predicted')
        if named:
            axes.set_xticks(range(len(labels)), labels, rotation=90, parse_math=False)
            axes.set_yticks(range(len(labels)), labels, parse_math=False)
        for row, column in np.argwhere(counts) if named else ():
            text = f'{counts[row, column]}' if values is counts else f'{shares[row, column]:.2f}'
            colour = 'white' if shares[row, column] > 0.5 else 'black'
            axes.text(column, row, text, ha='center', va='center', size=10 if few else 6, color=colour)
    return figure


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3 + 5 * number, 5), layout='constrained')
    panels = list(figure.subplots(1, number, squeeze=False)[0])
    for axes in panels:
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    return figure, panels


def _class_lines(report: dict) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index and line style of each class that has objects. With one class the mean is enough."""
    classes = report['classes']
    for k, entry in enumerate(classes):
        if entry['objects'] and len(classes) > MOST_NAMED:
            yield k, dict(CLASS, color='0.7')
        elif entry['objects'] and len(classes) > 1:
            label = f'{_short(entry["name"])}, AP {entry["ap"]:.3f}'
            yield k, dict(CLASS, color=colormaps['tab10'](k), label=label)


def _marks(report: dict, score_thr: float) -> list[Mark]:
    """``score_thr``, and the confidence of the best F1 if there is a hit."""
    best = report['metrics']['best_confidence']
    marks = [Mark(score_thr, f'confidence {score_thr:g}', f'_at_{score_thr:g}', 'o', 70, ':')]
    if report['metrics']['f1']:
        marks.append(Mark(best, f'best F1, confidence {best:.3f}', '', '*', 200, '--'))
    return marks


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc='outside right center', frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 28 else f'{name[:15]}…{name[-12:]}'
