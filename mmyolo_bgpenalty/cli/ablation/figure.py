"""The picture of an ablation: curves of precision over recall, and a panel of dots with intervals for each metric."""

import io
import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from mmyolo_bgpenalty.cli.ablation.comparison import values_by_seed

COLUMNS = 5  # the largest number of panels side by side
NAME_WIDTH = 26  # letters in a line of a variant's name
MOST_IN_LINE = 3


def picture(rows: Sequence[dict], results: Sequence[dict], headings: dict[str, tuple[str, bool]]) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    draw(rows, results, headings).savefig(buffer, dpi=100, metadata={'Software': None})
    return buffer.getvalue()


def draw(rows: Sequence[dict], results: Sequence[dict], headings: dict[str, tuple[str, bool]]) -> Figure:
    """The curves, if there are any, and a panel for each metric in ``rows``.

    Args:
        rows: the table that ``compare`` makes.
        results: see ``report``.
        headings: metric -> (heading, whether more is better).
    """
    variants, metrics = (list(dict.fromkeys(row[key] for row in rows)) for key in ('variant', 'metric'))
    names = {variant: '\n'.join(textwrap.wrap(variant, NAME_WIDTH)[:MOST_IN_LINE]) for variant in variants}
    colours = {variant: f'C{i % 10}' for i, variant in enumerate(variants)}
    lines = -(-len(metrics) // COLUMNS)
    columns = -(-len(metrics) // lines)
    height = 0.7 + 0.22 * sum(name.count('\n') + 1.5 for name in names.values())
    # Without a correct detection, all curves lie on the axis.
    with_curves = any(any(result['curve']['precision']) for result in results if result.get('curve'))
    figure = Figure(figsize=(2.2 + 2.9 * columns, 4.6 * with_curves + height * lines + 0.5), layout='constrained')
    grid = figure.add_gridspec(with_curves + lines, columns, height_ratios=[4.6] * with_curves + [height] * lines)
    if with_curves:
        _curves(figure.add_subplot(grid[0, :]), variants, results, colours)
    for place, metric in enumerate(metrics):
        axes = figure.add_subplot(grid[with_curves + place // columns, place % columns])
        values = {variant: list(values_by_seed(results, variant, metric).values()) for variant in variants}
        _dots(axes, [row for row in rows if row['metric'] == metric], values, colours)
        heading, more = headings[metric]
        axes.set_title(f'{heading}\n({"more" if more else "less"} is better)', fontsize=9)
        axes.set_yticks(range(len(variants)), names.values() if place % columns == 0 else [])
    legend = 'large dot: mean; small dots: seeds'
    if len(variants) > 1:
        legend += '; dashed: mean of the first variant; line: 95 % interval of the difference to it'
    figure.supxlabel(legend, fontsize=9)
    return figure


def _curves(axes, variants: Sequence[str], results: Sequence[dict], colours: dict[str, str]) -> None:
    for variant in variants:
        curves = [r['curve'] for r in results if r['variant'] == variant and r.get('curve')]
        if curves:
            precision = [sum(at) / len(at) for at in zip(*(curve['precision'] for curve in curves), strict=False)]
            axes.plot(curves[0]['recall'], precision, color=colours[variant], label=variant)
    axes.set(xlabel='recall', ylabel='precision', title='Precision over recall, mean over classes and seeds')
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(loc='lower left')


def _dots(axes, rows: Sequence[dict], values: dict[str, list[float]], colours: dict[str, str]) -> None:
    """One line for each variant, the first on top."""
    baseline = rows[0]['mean']
    for place, row in enumerate(rows):
        colour, seeds = colours[row['variant']], values[row['variant']]
        axes.plot(seeds, [place + 0.25] * len(seeds), 'o', color=colour, markersize=4, alpha=0.4, mew=0)
        if row['mean'] is not None:
            axes.plot(row['mean'], place, 'o', color=colour, markersize=7)
        if row['low'] is not None and baseline is not None:
            # The difference is paired. So its interval is drawn around the baseline's mean plus the difference.
            axes.plot([baseline + row['low'], baseline + row['high']], [place, place], color=colour)
    if baseline is not None:
        axes.axvline(baseline, color='grey', linestyle='--', linewidth=0.8, zorder=0)
    left, right = axes.get_xlim()
    room = max(0.01 - (right - left), 0) / 2
    axes.set_xlim(left - room, right + room)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.locator_params(axis='x', nbins=4)
    axes.tick_params(labelsize=8)
    axes.grid(axis='x', alpha=0.3)
