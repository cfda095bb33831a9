"""The table and the picture of an ablation. Imports no mm* package.

A result is a dict with ``variant``, ``seed``, ``metrics`` (name -> number) and, if there is one, ``curve`` with the
lists ``recall`` and ``precision``.
"""

import csv
import io
import json
from typing import Dict, List, Optional, Sequence

from mmyolo_bgpenalty.cli.ablation.comparison import paired_difference, summary
from mmyolo_bgpenalty.utils.files import write_whole

# Metric -> (heading, whether more is better), in the table's order; those that no result has are left out.
METRICS = {
    'coco/bbox_mAP': ('mAP', True),
    'coco/bbox_mAP_50': ('mAP50', True),
    'pr/f1': ('best F1', True),
    'pr/precision_at_0.25': ('precision @ 0.25', True),
    'pr/recall_at_0.25': ('recall @ 0.25', True),
    'pr/fp_per_image_at_0.25': ('FP / image @ 0.25', False),
    'pr/fp_per_empty_image_at_0.25': ('FP / empty image @ 0.25', False),
    'pr/precision_at_recall_0.6': ('precision @ recall 0.6', True),
    'pr/precision_at_recall_0.7': ('precision @ recall 0.7', True),
    'pr/precision_at_recall_0.8': ('precision @ recall 0.8', True),
}


def compare(results: List[dict], variants: Sequence[str]) -> List[dict]:
    """One row a variant and metric: ``mean``, ``std``, ``number``, and ``difference``, ``low``, ``high``, the paired
    difference to the first variant with its 95 % interval (None where there is none)."""
    names = [name for name in METRICS if any(name in result['metrics'] for result in results)]
    values: Dict[tuple, Dict[int, float]] = {}
    for result in results:
        for name in names:
            if result['metrics'].get(name) is not None:
                values.setdefault((result['variant'], name), {})[result['seed']] = float(result['metrics'][name])
    rows = []
    for variant in variants:
        for name in names:
            own = values.get((variant, name), {})
            over = summary(list(own.values()))
            difference = None if variant == variants[0] else paired_difference(own, values.get((variants[0], name), {}))
            low, high = (difference and difference.interval) or (None, None)
            rows.append(
                dict(
                    variant=variant,
                    metric=name,
                    mean=over and over.mean,
                    std=over and over.std,
                    number=over.number if over else 0,
                    difference=difference and difference.mean,
                    low=low,
                    high=high,
                )
            )
    return rows


def markdown(rows: List[dict]) -> str:
    """Two tables: mean ± std, and the differences to the first variant with their intervals."""
    variants = list(dict.fromkeys(row['variant'] for row in rows))
    metrics = list(dict.fromkeys(row['metric'] for row in rows))
    cells = {(row['variant'], row['metric']): row for row in rows}
    runs = {variant: max(cells[variant, metric]['number'] for metric in metrics) for variant in variants}
    head = [f'| {" | ".join(["", "runs", *(METRICS[m][0] for m in metrics)])} |', '|---' * (len(metrics) + 2) + '|']
    table = [f'| {" | ".join([v, str(runs[v]), *(_value(cells[v, m]) for m in metrics)])} |' for v in variants]
    change = [f'| {" | ".join([v, str(runs[v]), *(_change(cells[v, m]) for m in metrics)])} |' for v in variants[1:]]
    lines = ['Mean ± standard deviation over the seeds:', '', *head, *table]
    if change:
        lines += ['', f'Difference to {variants[0]}, paired by seed, with its 95 % confidence interval:', '', *head]
        lines += change
    return '\n'.join(lines) + '\n'


def write_report(path, results: List[dict], variants: Sequence[str]) -> None:
    """Write ``path``.md, .csv, .json and .png.

    Raises:
        ValueError: no result has any metric of the table.
    """
    rows = compare(results, variants)
    if not rows:
        raise ValueError(f'Expected results with any of {", ".join(METRICS)}, but got none: nothing to report')
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_whole(f'{path}.md', markdown(rows))
    write_whole(f'{path}.csv', text.getvalue())
    content = dict(baseline=variants[0], table=rows, runs=results)
    write_whole(f'{path}.json', json.dumps(content, indent=1, ensure_ascii=False) + '\n')
    write_whole(f'{path}.png', picture(rows, results))


def picture(rows: List[dict], results: List[dict]) -> bytes:
    """PNG: precision over recall, a line a variant (mean over seeds), and a panel of bars for each metric."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    variants = list(dict.fromkeys(row['variant'] for row in rows))
    metrics = list(dict.fromkeys(row['metric'] for row in rows))
    curves = {
        variant: [r['curve'] for r in results if r['variant'] == variant and r.get('curve')] for variant in variants
    }
    colours = {variant: f'C{i % 10}' for i, variant in enumerate(variants)}
    columns = 4
    bar_rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(14, 5.5 + 2.6 * bar_rows), layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + bar_rows, columns, height_ratios=[2.1] + [1] * bar_rows)
    plot = figure.add_subplot(grid[0, :])
    for variant in variants:
        if curves[variant]:
            precision = [
                sum(points) / len(points) for points in zip(*(curve['precision'] for curve in curves[variant]))
            ]
            plot.plot(curves[variant][0]['recall'], precision, color=colours[variant], label=variant)
    plot.set(xlabel='recall', ylabel='precision', title='Precision over recall, mean over classes and seeds')
    plot.grid(alpha=0.3)
    if any(curves.values()):
        plot.legend()
    for place, metric in enumerate(metrics):
        axes = figure.add_subplot(grid[1 + place // columns, place % columns])
        _bars(axes, metric, [row for row in rows if row['metric'] == metric], results, colours)
    figure.supxlabel('bars: mean, whiskers: standard deviation, dots: seeds; these axes do not start at 0', fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, metadata={'Software': None})
    return buffer.getvalue()


def _bars(axes, metric: str, rows: List[dict], results: List[dict], colours: Dict[str, str]) -> None:
    seen = []
    for place, row in enumerate(rows):
        values = [r['metrics'].get(metric) for r in results if r['variant'] == row['variant']]
        values = [value for value in values if value is not None]
        if row['mean'] is not None:
            axes.bar(place, row['mean'], yerr=row['std'], color=colours[row['variant']], alpha=0.6, capsize=3)
        axes.plot([place] * len(values), values, 'k.', markersize=4)
        seen += values
    if seen:
        # Not from 0, where all bars would look alike.
        room = max(max(seen) - min(seen), 1e-3)
        axes.set_ylim(max(0, min(seen) - room), max(seen) + 0.5 * room)
    heading, more = METRICS[metric]
    axes.set_title(f'{heading} ({"more" if more else "less"} is better)', fontsize=9)
    axes.set_xticks([])
    axes.tick_params(labelsize=8)


def _value(row: dict) -> str:
    if row['mean'] is None:
        return '–'
    return f'{row["mean"]:.3f}' + ('' if row['std'] is None else f' ± {row["std"]:.3f}')


def _change(row: dict) -> str:
    if row['difference'] is None:
        return '–'
    interval: Optional[str] = None if row['low'] is None else f' [{row["low"]:+.3f}, {row["high"]:+.3f}]'
    return f'{row["difference"]:+.3f}{interval or ""}'
