"""The answers, the tables and the files of an ablation.

A result is a dict with ``variant``, ``seed``, ``metrics`` (name -> number) and, if there is one, ``curve`` with the
lists ``recall`` and ``precision``. ``seconds`` is the time of the run, and ``train_seconds`` that of its iterations.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

from mmyolo_bgpenalty.cli.ablation.comparison import (
    LEAST_SEEDS,
    Difference,
    conclusion,
    mean_and_std,
    paired_difference,
    values_by_seed,
)
from mmyolo_bgpenalty.cli.ablation.figure import picture
from mmyolo_bgpenalty.utils.files import write_together

# Metric -> (heading, whether more is better), in the order of the table. Metrics without a value are left out.
METRICS = {
    'coco/bbox_mAP': ('mAP', True),
    'coco/bbox_mAP_50': ('mAP50', True),
    'pr/f1': ('best F1', True),
    'pr/precision_at_0.25': ('precision @ 0.25', True),
    'pr/recall_at_0.25': ('recall @ 0.25', True),
    'pr/fp_per_image_at_0.25': ('FP / image @ 0.25', False),
    'pr/alarms_per_100_good_at_0.25': ('alarms / 100 good @ 0.25', False),
    'pr/alarms_per_100_good_at_recall_0.7': ('alarms / 100 good at recall 0.7', False),
    'pr/alarms_per_100_good_at_recall_0.8': ('alarms / 100 good at recall 0.8', False),
    'pr/alarms_per_100_good_at_recall_0.9': ('alarms / 100 good at recall 0.9', False),
    'pr/good_with_alarm_at_recall_0.8': ('good with alarm at recall 0.8', False),
    'pr/alarms_per_100_good_at_part_recall_0.8': ('alarms / 100 good at part recall 0.8', False),
    'pr/precision_at_recall_0.6': ('precision at recall 0.6', True),
    'pr/precision_at_recall_0.7': ('precision at recall 0.7', True),
    'pr/precision_at_recall_0.8': ('precision at recall 0.8', True),
}
# One metric answers the questions. With many, one would differ by chance.
ANSWERED_BY, ADDED = 'coco/bbox_mAP', 'pr/precision_at_recall_0.8'
SHORT = ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'pr/precision_at_recall_0.8', 'pr/fp_per_image_at_0.25')
LEARNT = 0.05  # a baseline with a lower mAP50 has learnt nothing
LEGEND = """\
mAP, mAP50: COCO's average precision (AP), mean over classes; IoU 0.5 to 0.95, and 0.5. @ 0.25: at a confidence of 0.25.
FP: false positives. A good image shows no object, and alarms are the false positives on good images. good with alarm:
the share of the good images with an alarm. precision at recall 0.8: where the model finds 80 % of the objects. at part
recall 0.8: where it finds an object in 80 % of the images with objects.
"""
STATISTICS = f"""\
If there were no true difference, 1 of 20 such intervals would still not contain 0. Fewer than {LEAST_SEEDS} seeds
cannot show a difference. The seeds show what chance does in training, but not what it does in the choice of images.
"""


class Question(NamedTuple):
    """What does ``variant`` change, compared with ``reference``?"""

    title: str
    variant: str
    reference: str


def compare(results: list[dict], variants: Sequence[str]) -> list[dict]:
    """One row per variant and metric.

    ``mean``, ``std`` and ``number`` are over the seeds. ``difference`` to the first variant is paired by seed. ``low``
    and ``high`` are its 95 % interval. ``conclusion`` is its meaning. Values that do not exist are None. A figure that
    some runs lack, because they do not reach the recall, is over the others: ``number`` and ``pairs`` say how many.
    """
    values = {key: values_by_seed(results, *key) for key in product(variants, METRICS)}
    metrics = [metric for metric in METRICS if any(values[variant, metric] for variant in variants)]
    fault = _learnt_nothing(results, variants[0])
    rows = []
    for variant, metric in product(variants, metrics):
        own = values[variant, metric]
        over = mean_and_std(list(own.values()))
        difference = None if variant == variants[0] else paired_difference(own, values[variants[0], metric])
        low, high = (difference and difference.interval) or (None, None)
        row = dict(variant=variant, metric=metric, mean=over and over.mean, std=over and over.std)
        row.update(number=over.number if over else 0, difference=difference and difference.mean, low=low, high=high)
        row['pairs'] = difference.number if difference else 0
        row['conclusion'] = difference and (fault or conclusion(difference, METRICS[metric][1]))
        rows.append(row)
    return rows


def _learnt_nothing(results: list[dict], variant: str) -> str | None:
    """Why nothing can be concluded from a comparison with this variant. None if it has learnt something."""
    for metric, name, least in (('coco/bbox_mAP_50', 'mAP50', LEARNT), ('pr/recall_at_0.25', 'recall @ 0.25', 1e-9)):
        over = mean_and_std(list(values_by_seed(results, variant, metric).values()))
        if over and over.mean < least:
            return f'cannot conclude: "{variant}" has learnt too little ({name} {over.mean:.3f}), train longer'
    return None


def answer(results: list[dict], question: Question) -> dict:
    """The answer to a question by ``ANSWERED_BY``, also as ``text``. Another metric is added without a conclusion."""
    metric, other = ANSWERED_BY, ADDED
    change, added = (_paired(results, question, name) for name in (metric, other))
    fault = _learnt_nothing(results, question.reference)
    said = fault or conclusion(change, METRICS[metric][1])
    text = f'{question.title}: '
    if change is not None and not fault:
        number = change.number
        text += f'{METRICS[metric][0]} {_change(change)} ({number} seed{"s" if number > 1 else ""}): '
    text += f'{said}.'
    if added is not None and not fault:
        text += f' {METRICS[other][0].capitalize()}: {_change(added)}.'
    return dict(question._asdict(), metric=metric, conclusion=said, text=text)


def _paired(results: list[dict], question: Question, metric: str) -> Difference | None:
    return paired_difference(*(values_by_seed(results, name, metric) for name in question[1:]))


def how_long(results: list[dict]) -> str:
    """How long the runs took, and how much of it was no training. '' if a result does not tell."""
    taken, trained = (_total(results, key) for key in ('seconds', 'train_seconds'))
    if taken is None:
        return ''
    text = f'{len(results)} run{"s" if len(results) > 1 else ""} took {_duration(taken)} in all'
    if trained is None:
        return f'{text}.'
    share = 1 - trained / taken if taken else 0.0
    rest = f'{_duration(taken - trained)} ({share:.0%}) to start, validate and test'
    return f'{text}: {_duration(trained)} to train, {rest}.'


def _total(results: list[dict], key: str) -> float | None:
    values = [result.get(key) for result in results]
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


def markdown(rows: list[dict], answers: Sequence[dict] = (), took: str = '') -> str:
    """The answers. Then two tables: mean ± standard deviation, and the differences to the first variant.

    ``took``: the line of ``how_long``.
    """
    variants, metrics = _names(rows)
    lines = [f'- {one["text"]}' for one in answers] + [''] * bool(answers)
    lines += ['Mean ± standard deviation over the seeds:', '', *_table(rows, variants, metrics, _value)]
    if len(variants) > 1:
        lines += ['', f'Difference to {variants[0]}, paired by seed, with its 95 % confidence interval:', '']
        lines += _table(rows, variants[1:], metrics, _change_of, 'conclusion')
        lines += ['', f'The conclusion is about {METRICS[metrics[0]][0]}. {STATISTICS}'.rstrip()]
    return '\n'.join([*lines, '', LEGEND, *([f'{took}\n'] if took else [])])


def summary(rows: list[dict], answers: Sequence[dict], took: str = '') -> str:
    """What the command prints: the table of a few metrics, the answers and the line of ``how_long``."""
    variants, metrics = _names(rows)
    table = _table(rows, variants, [metric for metric in metrics if metric in SHORT] or metrics, _value)
    return '\n'.join([*table, '', *(one['text'] for one in answers), *([took] if took else [])])


def _table(
    rows: list[dict], variants: Sequence[str], metrics: Sequence[str], text: Callable[[dict, int], str], last: str = ''
) -> list[str]:
    """The lines of an aligned Markdown table. ``last``: key of a last column, from the row of the first metric."""
    cells = {(row['variant'], row['metric']): row for row in rows}
    table = [['', 'runs', *(METRICS[metric][0] for metric in metrics), *([last] if last else [])]]
    for name in variants:
        own = [cells[name, metric] for metric in metrics]
        runs = max(cell['number'] for cell in own)
        table.append([name, str(runs), *(text(cell, runs) for cell in own)])
        if last:
            table[-1].append(own[0][last] or '–')
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, ['-' * max(width, 3) for width in widths])
    return [f'| {" | ".join(map(str.ljust, row, widths))} |' for row in table]


def _names(rows: list[dict]) -> tuple[list[str], list[str]]:
    """The variants and the metrics, each once."""
    variants, metrics = (list(dict.fromkeys(row[key] for row in rows)) for key in ('variant', 'metric'))
    return variants, metrics


def _value(row: dict, runs: int) -> str:
    if row['mean'] is None:
        return '–'
    spread = '' if row['std'] is None else f' ± {row["std"]:.3f}'
    return f'{row["mean"]:.3f}{spread}{_of(row["number"], runs)}'


def _of(number: int, runs: int) -> str:
    return '' if number == runs else f' ({number} of {runs} runs)'


def _change(difference: Difference) -> str:
    interval = '' if difference.interval is None else ' [{:+.3f}, {:+.3f}]'.format(*difference.interval)
    return f'{difference.mean:+.3f}{interval}'


def _change_of(row: dict, runs: int) -> str:
    if row['difference'] is None:
        return '–'
    interval = None if row['low'] is None else (row['low'], row['high'])
    return _change(Difference(row['difference'], interval, row['pairs'])) + _of(row['pairs'], runs)


def write_report(path, results: list[dict], variants: Sequence[str], questions: Sequence[Question] = ()) -> str:
    """Write ``path``.md, .csv, .json and .png. Return what the command prints.

    Raises:
        ValueError: no result has a metric of the table.
    """
    rows = compare(results, variants)
    if not rows:
        raise ValueError(f'Expected results with one of {", ".join(METRICS)}, but got none: nothing to report')
    answers, took = [answer(results, question) for question in questions], how_long(results)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    content = dict(baseline=variants[0], answers=answers, table=rows, runs=results)
    files: list[tuple[str, str | bytes]] = [
        (f'{path}.md', markdown(rows, answers, took)),
        (f'{path}.csv', text.getvalue()),
        (f'{path}.json', json.dumps(content, indent=1, ensure_ascii=False) + '\n'),
        (f'{path}.png', picture(rows, results, METRICS)),
    ]
    write_together(files, overwrite=True)
    return summary(rows, answers, took)
