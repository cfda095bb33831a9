"""The plots of a report, as SVG with the colours of the page."""

import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmyolo_bgpenalty.evaluation.plots import confusion_plot

COLOURS = ('#3b7dd8', '#d9772b', '#2f9e6e', '#a45bc4', '#c2455a', '#7a7f87')  # of the runs
TEXT = '#010203'  # becomes the colour of the page's text
STYLE: Any = {key: TEXT for key in ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color', 'ytick.color')}
STYLE |= {'axes.spines.top': False, 'axes.spines.right': False, 'axes.titlesize': 10, 'svg.hashsalt': 'report'}
MAP = 'mAP in validation'
# What a training logs -> panel. The first name that a run has counts.
HISTORY: dict[str, tuple[str, ...]] = {
    MAP: ('teacher/coco/bbox_mAP', 'coco/bbox_mAP'),
    'loss': ('loss',),
    'precision of pseudo-labels': ('semi/pseudo_precision',),
    'recall of pseudo-labels': ('semi/pseudo_recall',),
    'mean threshold of pseudo-labels': ('semi/threshold_',),
    'λ of the penalty': ('semi/lambda_bg',),
}
Line = list[tuple[float, float]]


def precision_recall_svg(curves: Sequence[Sequence[Sequence[float]]]) -> tuple[str, dict[str, float]]:
    """Recall and precision of each run, and where 0 and 1 of the axes are in the units of the SVG."""

    def draw(figure: Figure) -> dict[str, float]:
        axes = figure.add_axes((0.12, 0.15, 0.85, 0.82))
        for i, curve in enumerate(curves):
            axes.plot(*(zip(*curve) if curve else ((), ())), color=COLOURS[i % len(COLOURS)])
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel='recall', ylabel='precision')
        axes.grid(alpha=0.3)
        (left, bottom), (right, top) = axes.transData.transform([(0, 0), (1, 1)])
        height, scale = figure.bbox.height, 72 / figure.dpi  # the unit of an SVG is 1/72 inch
        edges = dict(left=left, right=right, bottom=height - bottom, top=height - top)
        return {name: round(float(value) * scale, 2) for name, value in edges.items()}

    return _svg((5.6, 4.0), draw)


def history_svg(histories: Sequence[dict[str, Line]]) -> str:
    """The panels of ``HISTORY`` in which any run has a line, '' if there is none. A line has two points or more."""
    names = shown_panels(histories)
    if not names:
        return ''

    def draw(figure: Figure) -> None:
        columns = min(len(names), 3)
        panels = figure.subplots(-(-len(names) // columns), columns, squeeze=False).flat
        for name, axes in zip(names, panels):  # in this order, no panel is taken in vain
            _panel(axes, name, histories)
        for axes in list(panels):
            axes.remove()
        figure.tight_layout()

    return _svg((10.0, 2.4 * -(-len(names) // 3)), draw)[0]


def shown_panels(histories: Sequence[dict[str, Line]]) -> list[str]:
    """The panels of ``HISTORY`` in which any run has two points, not all of them 0."""
    lines = ((name, history.get(name, [])) for name in HISTORY for history in histories)
    return [*dict.fromkeys(name for name, line in lines if len(line) > 1 and any(value for _, value in line))]


def _panel(axes: Axes, name: str, histories: Iterable[dict[str, Line]]) -> None:
    for i, history in enumerate(histories):
        line = history.get(name, [])
        axes.plot(
            *(zip(*line) if line else ((), ())), color=COLOURS[i % len(COLOURS)], marker='.' if len(line) < 3 else ''
        )
    axes.set_title(name)
    axes.set_xlabel('iteration')
    axes.grid(alpha=0.3)


def confusion_svg(counts: np.ndarray, classes: Sequence[str]) -> str:
    """The plot of ``confusion_matrix``."""
    with mpl.rc_context(STYLE | {'axes.spines.top': True, 'axes.spines.right': True}):
        return _as_svg(confusion_plot(counts, classes))


def training_history(checkpoint: str, student: bool = False) -> dict[str, Line]:
    """The lines of ``HISTORY`` in the logs beside a checkpoint. Of a ``student`` only its mAP.

    A resumed part replaces what was logged from its first iteration on.
    """
    panels = {MAP: ('student/coco/bbox_mAP',)} if student else HISTORY
    logs = sorted(Path(checkpoint).parent.glob('*/vis_data/scalars.json'))
    found: dict[str, dict[float, float]] = {}
    for log in logs:
        iteration, rows = 0.0, _rows(log)
        first = next((row['iter'] for row in rows if 'iter' in row), math.inf)
        for line in found.values():  # what an earlier run logged from here on is not of this one
            for later in [one for one in line if one >= first]:
                del line[later]
        for row in rows:
            iteration = float(row.get('iter', iteration))  # a validation only has its epoch
            for name, keys in panels.items():
                values = next(filter(None, ([v for k, v in row.items() if _is(k, key)] for key in keys)), [])
                if values:
                    found.setdefault(name, {})[iteration] = sum(values) / len(values)
    return {name: sorted(line.items()) for name, line in found.items()}


def _is(name: str, key: str) -> bool:
    return name.startswith(key) if key.endswith('_') else name == key


def _rows(log: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()]
    except (OSError, ValueError):  # the report is complete without it
        return []
    return [{k: v for k, v in row.items() if isinstance(v, (int, float)) and v == v} for row in rows]


def _svg(inches: tuple[float, float], draw: Callable[[Figure], Any]) -> tuple[str, Any]:
    with mpl.rc_context(STYLE):
        figure = Figure(inches)
        result = draw(figure)
        return _as_svg(figure), result


def _as_svg(figure: Figure) -> str:
    content, nothing = io.StringIO(), dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(content, format='svg', transparent=True, metadata=nothing)
    text = content.getvalue()
    return text[text.index('<svg') :].replace(TEXT, 'currentColor')
