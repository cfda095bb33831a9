"""Print a table of paired differences from experiments_runs.csv or good_parts.csv, which have a line for every run.

    python docs/results/data/tables.py solar 'labels only' 'recipe, share 0.6, burn-in 1080' \
        --images test --sessions 3 4 --metrics mAP mAP_50

The first line has the mean ± standard deviation of the first variant, the baseline. The other lines have the mean
difference to it, paired by fold and seed, with a 95 % confidence interval (none for a single pair). If several sessions
made the same run, the latest of the named sessions counts.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from mmyolo_bgpenalty.cli.ablation.comparison import mean_and_std, paired_difference

RUNS = Path(__file__).with_name('experiments_runs.csv')
SESSIONS = ('3', '4', '5', '6', '7')
METRICS = (
    'mAP',
    'mAP_50',
    'precision_at_recall_0.6',
    'precision_at_recall_0.7',
    'precision_at_recall_0.8',
    'f1',
    'precision_at_0.25',
    'recall_at_0.25',
    'fp_per_image_at_0.25',
)
Values = dict[tuple[str, str], float]


def read_runs(path: Path = RUNS) -> list[dict]:
    """The lines of the file, in order."""
    with open(path, encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def values_of(runs: Sequence[dict], metric: str, **wanted: Sequence[str]) -> Values:
    """(fold, seed) -> ``metric``, for the runs that have one of the ``wanted`` values in each of these columns.

    Raises:
        ValueError: there is no such run or no such column.
    """
    unknown = sorted({metric, *wanted} - set(runs[0]))
    if unknown:
        raise ValueError(f'Expected columns among {", ".join(runs[0])}, but got {unknown}')
    chosen = [run for run in runs if run[metric] and all(run[column] in among for column, among in wanted.items())]
    if not chosen:
        raise ValueError(f'Expected a run with {metric} and {wanted}, but there is none')
    ordered = sorted(chosen, key=lambda run: int(run['session']))
    return {(run['fold'], run['seed']): float(run[metric]) for run in ordered}


def table(runs: Sequence[dict], variants: Sequence[str], metrics: Sequence[str], **wanted: Sequence[str]) -> list[str]:
    """The table's lines, in Markdown."""
    lines = [['', 'runs', *metrics], ['---'] * (2 + len(metrics))]
    baseline, *others = variants
    base_values = [values_of(runs, metric, variant=[baseline], **wanted) for metric in metrics]
    spread = [mean_and_std(list(values.values())) for values in base_values]
    digits = [0 if metric.startswith('alarms') else 3 for metric in metrics]
    cells = [f'{s.mean:.{n}f}' + ('' if s.std is None else f' ± {s.std:.{n}f}') for s, n in zip(spread, digits) if s]
    lines.append([baseline, str(len(base_values[0])), *cells])
    for variant in others:
        row, number = [], 0
        for metric, base, n in zip(metrics, base_values, digits, strict=True):
            difference = paired_difference(values_of(runs, metric, variant=[variant], **wanted), base)
            if difference is None:
                raise ValueError(f'Expected a fold and seed that both {baseline!r} and {variant!r} have')
            low_high = difference.interval and [_signed(value, n) for value in difference.interval]
            row.append(_signed(difference.mean, n) + (' [{}, {}]'.format(*low_high) if low_high else ''))
            number = difference.number
        lines.append([variant, str(number), *row])
    return ['| ' + ' | '.join(cells) + ' |' for cells in lines]


def _signed(value: float, digits: int) -> str:
    return f'{value:+.{digits}f}'.replace('-', '−')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('set', help='solar, BCCD or DeepPCB')
    parser.add_argument('--runs', type=Path, default=RUNS, help='file with the runs')
    parser.add_argument('variants', nargs='+', help='names in the column variant; the first is the baseline')
    parser.add_argument('--images', default='test', help="the images of the evaluation: 'test', 'val', 'held out', …")
    parser.add_argument('--iterations', nargs='+', default=['5400', '1920'], help='lengths of training')
    parser.add_argument('--sessions', nargs='+', default=SESSIONS, help='sessions')
    parser.add_argument('--metrics', nargs='+', default=METRICS, help='columns')
    args = parser.parse_args()
    wanted = dict(set=[args.set], images=[args.images], iterations=args.iterations, session=args.sessions)
    try:
        print('\n'.join(table(read_runs(args.runs), args.variants, args.metrics, nms=['0.5'], **wanted)))
    except ValueError as problem:
        parser.error(str(problem))


if __name__ == '__main__':
    main()
