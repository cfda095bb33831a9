"""The table and the picture of an ablation.

A result is a dict with ``variant``, ``seed``, ``metrics`` (name -> number) and, if there is one, ``curve`` with the
lists ``recall`` and ``precision``.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from itertools import product

from matplotlib.figure import Figure

from mmyolo_bgpenalty.cli.ablation.comparison import mean_and_std, paired_difference
from mmyolo_bgpenalty.utils.files import write_whole

# Metric -> (heading, whether more is better), in the order of the table. Metrics without a result are left out.
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
COLUMNS = 4


def compare(results: list[dict], variants: Sequence[str]) -> list[dict]:
    """One row per variant and metric.

    ``mean``, ``std`` and ``number`` are over the seeds. ``difference`` to the first variant is paired by seed. ``low``
    and ``high`` are its 95 % interval. Values that do not exist are None.
    """
    metrics = [metric for metric in METRICS if any(metric in result['metrics'] for result in results)]
    rows = []
    for variant, metric in product(variants, metrics):
        own, baseline = (_by_seed(results, name, metric) for name in (variant, variants[0]))
        over = mean_and_std(list(own.values()))
        difference = None if variant == variants[0] else paired_difference(own, baseline)
        low, high = (difference and difference.interval) or (None, None)
        row = dict(variant=variant, metric=metric, mean=over and over.mean, std=over and over.std)
        row.update(number=over.number if over else 0, difference=difference and difference.mean, low=low, high=high)
        rows.append(row)
    return rows


def _by_seed(results: list[dict], variant: str, metric: str) -> dict[int, float]:
    own = [result for result in results if result['variant'] == variant]
    return {r['seed']: float(r['metrics'][metric]) for r in own if r['metrics'].get(metric) is not None}


def markdown(rows: list[dict]) -> str:
    """Two tables: mean ± standard deviation, and the differences to the first variant with their intervals."""
    variants, metrics = _names(rows)
    cells = {(row['variant'], row['metric']): row for row in rows}

    def table(names: Sequence[str], text: Callable[[dict], str]) -> list[str]:
        rows = [['', 'runs', *(METRICS[metric][0] for metric in metrics)], ['---'] * (2 + len(metrics))]
        for name in names:
            own = [cells[name, metric] for metric in metrics]
            rows.append([name, str(max(cell['number'] for cell in own)), *map(text, own)])
        return [f'| {" | ".join(row)} |' for row in rows]

    lines = ['Mean ± standard deviation over the seeds:', '', *table(variants, _value)]
    if len(variants) > 1:
        lines += ['', f'Difference to {variants[0]}, paired by seed, with its 95 % confidence interval:', '']
        lines += table(variants[1:], _change)
    return '\n'.join(lines) + '\n'


def _names(rows: list[dict]) -> tuple[list[str], list[str]]:
    """The variants and the metrics, each once."""
    variants, metrics = (list(dict.fromkeys(row[key] for row in rows)) for key in ('variant', 'metric'))
    return variants, metrics


def _value(row: dict) -> str:
    if row['mean'] is None:
        return '–'
    return f'{row["mean"]:.3f}' + ('' if row['std'] is None else f' ± {row["std"]:.3f}')


def _change(row: dict) -> str:
    if row['difference'] is None:
        return '–'
    interval = '' if row['low'] is None else f' [{row["low"]:+.3f}, {row["high"]:+.3f}]'
    return f'{row["difference"]:+.3f}{interval}'


def write_report(path, results: list[dict], variants: Sequence[str]) -> None:
    """Write ``path``.md, .csv, .json and .png.

    Raises:
        ValueError: no result has a metric of the table.
    """
    rows = compare(results, variants)
    if not rows:
        raise ValueError(f'Expected results with one of {", ".join(METRICS)}, but got none: nothing to report')
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_whole(f'{path}.md', markdown(rows))
    write_whole(f'{path}.csv', text.getvalue())
    content = dict(baseline=variants[0], table=rows, runs=results)
    write_whole(f'{path}.json', json.dumps(content, indent=1, ensure_ascii=False) + '\n')
    write_whole(f'{path}.png', picture(rows, results))


def picture(rows: list[dict], results: list[dict]) -> bytes:
    """PNG: precision over recall with a line per variant (mean over seeds), and a panel of bars per metric."""
    variants, metrics = _names(rows)
    colours = {variant: f'C{i % 10}' for i, variant in enumerate(variants)}
    bar_rows = -(-len(metrics) // COLUMNS)
    figure = Figure(figsize=(14, 5.5 + 2.6 * bar_rows), layout='constrained')
    grid = figure.add_gridspec(1 + bar_rows, COLUMNS, height_ratios=[2.1] + [1] * bar_rows)
    plot = figure.add_subplot(grid[0, :])
    for variant in variants:
        curves = [r['curve'] for r in results if r['variant'] == variant and r.get('curve')]
        if curves:
            precision = [sum(at) / len(at) for at in zip(*(curve['precision'] for curve in curves), strict=False)]
            plot.plot(curves[0]['recall'], precision, color=colours[variant], label=variant)
    plot.set(xlabel='recall', ylabel='precision', title='Precision over recall, mean over classes and seeds')
    plot.grid(alpha=0.3)
    if plot.lines:
        plot.legend()
    for place, metric in enumerate(metrics):
        axes = figure.add_subplot(grid[1 + place // COLUMNS, place % COLUMNS])
        _bars(axes, metric, [row for row in rows if row['metric'] == metric], results, colours)
    figure.supxlabel('bars: mean, whiskers: standard deviation, dots: seeds; axes may start above 0', fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, metadata={'Software': None})
    return buffer.getvalue()


def _bars(axes, metric: str, rows: list[dict], results: list[dict], colours: dict[str, str]) -> None:
    seen: list[float] = []
    for place, row in enumerate(rows):
        values = list(_by_seed(results, row['variant'], metric).values())
        if row['mean'] is not None:
            axes.bar(place, row['mean'], yerr=row['std'], color=colours[row['variant']], alpha=0.6, capsize=3)
        axes.plot([place] * len(values), values, 'k.', markersize=4)
        seen += values
    if seen:
        # With an axis from 0, all bars would look alike.
        room = max(max(seen) - min(seen), 1e-3)
        axes.set_ylim(max(0, min(seen) - room), max(seen) + 0.5 * room)
    heading, more = METRICS[metric]
    axes.set_title(f'{heading} ({"more" if more else "less"} is better)', fontsize=9)
    axes.set_xticks([])
    axes.tick_params(labelsize=8)
