"""The ablation's table and picture."""

import csv
import json
import math

import cv2
import numpy as np
import pytest
from scipy import stats

from mmyolo_bgpenalty.cli.ablation.figure import draw
from mmyolo_bgpenalty.cli.ablation.report import METRICS, Question, answer, compare, how_long, markdown, write_report

VALUES = {'base': {0: 0.5, 1: 0.7}, 'more': {0: 0.6, 1: 0.8}, 'lost': {0: 0.4}, 'never': {}}
CURVE = dict(recall=[0.0, 0.5, 1.0], precision=[1.0, 0.8, 0.2])


@pytest.fixture
def results():
    return [
        dict(variant=name, seed=seed, metrics={'coco/bbox_mAP_50': value, 'other': 3.0}, curve=CURVE)
        for name, seeds in VALUES.items()
        for seed, value in seeds.items()
    ]


def test_the_table(results):
    # The metric of a run is None if it is not known.
    results[0]['metrics']['pr/f1'], results[2]['metrics']['pr/f1'] = None, 0.25
    rows = compare(results, list(VALUES))
    assert [row['metric'] for row in rows] == ['coco/bbox_mAP_50', 'pr/f1'] * 4
    base, more, lost, never = rows[::2]
    assert (base['mean'], base['std'], base['number']) == (pytest.approx(0.6), pytest.approx(0.02**0.5), 2)
    assert [more[name] for name in ('difference', 'low', 'high')] == pytest.approx([0.1] * 3)
    assert (lost['difference'], lost['low'], lost['std']) == (pytest.approx(-0.1), None, None)
    assert (never['mean'], never['number'], base['difference']) == (None, 0, None)
    mean, difference = map(_cells, markdown(rows).split('Difference to base'))
    for line in (
        ['base', '2', '0.600 ± 0.141', '–'],
        ['more', '2', '0.700 ± 0.141', '0.250 (1 of 2 runs)'],
        ['lost', '1', '0.400', '–'],
    ):
        assert line in mean
    few = 'cannot conclude: 2 seeds are too few, use --seeds 0 1 2'
    one = 'cannot conclude: 1 seed has no spread, use --seeds 0 1 2'
    assert ['more', '2', '+0.100 [+0.100, +0.100]', '–', few] in difference
    assert ['lost', '1', '-0.100', '–', one] in difference and ['never', '0', '–', '–', '–'] in difference


def _cells(text):
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line[:1] == '|']


def _runs(metric='coco/bbox_mAP', /, **variants):
    return [
        dict(variant=name, seed=seed, metrics={metric: value, 'coco/bbox_mAP_50': 0.5}, curve=CURVE)
        for name, values in variants.items()
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    'values, said',
    [
        ((0.40, 0.41, 0.43), 'helps'),
        ((0.20, 0.21, 0.21), 'harms'),
        ((0.30, 0.33, 0.28), 'no difference shown'),
        ((0.40, 0.50), 'cannot conclude: 2 seeds are too few, use --seeds 0 1 2'),
        ((0.40,), 'cannot conclude: 1 seed has no spread, use --seeds 0 1 2'),
    ],
)
def test_an_answer_in_one_sentence(values, said):
    results = _runs(base=(0.30, 0.30, 0.30), other=values)
    change, seeds = f'{np.mean(values) - 0.30:+.3f}', f'{len(values)} seeds' if len(values) > 1 else '1 seed'
    if len(values) > 1:
        interval = stats.ttest_1samp(np.subtract(values, 0.30), 0).confidence_interval(0.95)
        change += ' [{:+.3f}, {:+.3f}]'.format(*interval)
    assert answer(results, Question('Q', 'other', 'base'))['text'] == f'Q: mAP {change} ({seeds}): {said}.'


def test_the_answer_without_a_common_seed_and_with_a_second_metric():
    results = _runs(base=(0.30, 0.30, 0.30), other=())
    assert answer(results, Question('Q', 'other', 'base'))['text'] == 'Q: cannot conclude: no seed has both values.'
    for seed, result in enumerate(results):
        result['metrics']['pr/precision_at_recall_0.8'] = 0.5
        results = [*results, dict(result, variant='other', metrics={**result['metrics'], 'coco/bbox_mAP': 0.3 + seed})]
    end = 'no difference shown. Precision at recall 0.8: +0.000 [+0.000, +0.000].'
    assert answer(results, Question('Q', 'other', 'base'))['text'].endswith(end)


def test_rounded_figures_cannot_show_a_difference():
    """COCO's mAP has three decimals. Three equal differences of 0.001 may all come from rounding."""
    results = _runs(base=(0.300, 0.310, 0.320), other=(0.301, 0.311, 0.321), more=(0.303, 0.313, 0.323))
    assert answer(results, Question('Q', 'other', 'base'))['conclusion'] == 'no difference shown'
    assert answer(results, Question('Q', 'more', 'base'))['conclusion'] == 'helps'


@pytest.mark.parametrize('name, value', [('coco/bbox_mAP_50', 0.04), ('pr/recall_at_0.25', 0.0)])
def test_a_baseline_that_has_learnt_nothing_cannot_be_compared(name, value):
    results = _runs(base=(0.01, 0.02, 0.01), other=(0.3, 0.3, 0.4))
    for result in results:
        result['metrics'][name] = value if result['variant'] == 'base' else 0.5
    found = answer(results, Question('Q', 'other', 'base'))
    assert (
        found['text'].startswith('Q: cannot conclude: "base" has learnt too little')
        and 'train longer.' in found['text']
    )
    rows = [row for row in compare(results, ['base', 'other']) if row['variant'] == 'other']
    assert all(row['conclusion'] == found['conclusion'] for row in rows)


def test_less_is_better_for_false_positives():
    fewer = _runs('pr/fp_per_image_at_0.25', base=(0.9, 0.8, 0.9), other=(0.3, 0.2, 0.2))
    rows = compare(fewer, ['base', 'other'])
    assert [row['conclusion'] for row in rows if row['metric'].startswith('pr/fp')] == [None, 'helps']


def test_the_figure_has_no_blank_panels_and_no_bars():
    results = _runs(base=(0.3, 0.3, 0.4), other=(0.3, 0.4, 0.4))
    for result in results:
        result['metrics'] |= {'pr/fp_per_empty_image_at_0.25': math.nan, 'pr/f1': None}
    rows = compare(results, ['base', 'other'])
    assert {row['metric'] for row in rows} == {'coco/bbox_mAP', 'coco/bbox_mAP_50'}
    curves, *panels = draw(rows, results, METRICS).axes
    assert [axes.get_title().splitlines()[0] for axes in panels] == ['mAP', 'mAP50'] and curves.get_xlabel() == 'recall'
    nothing = [dict(result, curve=dict(CURVE, precision=[0.0] * 3)) for result in results]
    assert len(draw(rows, nothing, METRICS).axes) == len(panels)
    for axes in panels:
        assert not axes.patches and axes.get_ylim() == (1.5, -0.5)
    # The mean of `other` is 0.367, and each seed has a dot. The line is the interval around the mean.
    shown = [sorted(map(float, line.get_xdata())) for line in panels[0].lines]
    assert [0.3, 0.4, 0.4] in shown and [pytest.approx(1.1 / 3)] in shown
    low, high = next((row['low'], row['high']) for row in rows if row['low'] is not None)
    assert pytest.approx([1 / 3 + low, 1 / 3 + high]) in shown


def test_the_report_is_written_as_csv_json_markdown_and_png(tmp_path, results):
    printed = write_report(tmp_path / 'report', results, list(VALUES), [Question('More', 'more', 'base')])
    assert 'More: cannot conclude' in printed and '| lost  | 1    | 0.400         |' in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'report.{e}' for e in ('csv', 'json', 'md', 'png')]
    rows = list(csv.DictReader((tmp_path / 'report.csv').read_text().splitlines()))
    assert [row['variant'] for row in rows] == list(VALUES) and float(rows[1]['difference']) == pytest.approx(0.1)
    content = json.loads((tmp_path / 'report.json').read_text())
    assert content['baseline'] == 'base' and content['runs'] == results and len(content['table']) == 4
    assert (tmp_path / 'report.md').read_text() == markdown(content['table'], content['answers'])
    assert content['answers'][0]['text'] in (tmp_path / 'report.md').read_text()
    picture = cv2.imread(str(tmp_path / 'report.png'))
    # the colours of the variants 'base' and 'lost' (C0 and C2 of matplotlib)
    for red, green, blue in ((31, 119, 180), (44, 160, 44)):
        assert (picture == (blue, green, red)).all(2).any()


def test_one_run_without_a_curve_is_still_a_report(tmp_path, results):
    write_report(tmp_path / 'r', [dict(results[0], curve=None)], ['base'])
    assert 'Difference' not in (tmp_path / 'r.md').read_text() and (tmp_path / 'r.png').stat().st_size > 1000


@pytest.mark.parametrize(
    'times, line',
    [
        ([(60, 45), (40, 25)], '2 runs took 100 s in all: 70 s to train, 30 s (30%) to start, validate and test.'),
        ([(7200, 7000)], '1 run took 2.0 h in all: 117 min to train, 3 min (3%) to start, validate and test.'),
        ([(60, 45), (540, None)], '2 runs took 10 min in all.'),
        ([(None, None), (40, 25)], ''),
    ],
)
def test_the_time_of_the_runs(tmp_path, results, times, line):
    """The time of the iterations of a run, or all times, may not be known."""
    timed = [
        {**result, **{key: value for key, value in zip(('seconds', 'train_seconds'), pair) if value is not None}}
        for result, pair in zip(results, times)
    ]
    assert how_long(timed) == line
    printed = write_report(tmp_path / 'r', timed, ['base'])
    assert (tmp_path / 'r.md').read_text().endswith(f'\n{line}\n' if line else 'objects.\n') and line in printed


def test_nothing_to_report(tmp_path):
    with pytest.raises(ValueError, match='nothing to report'):
        write_report(tmp_path / 'r', [dict(variant='base', seed=0, metrics={'other': 1.0})], ['base'])
    assert not list(tmp_path.iterdir())


def test_the_false_alarms_on_good_parts_are_columns_and_less_is_better():
    columns = {
        'alarms_per_100_good_at_0.25': 'alarms / 100 good @ 0.25',
        'alarms_per_100_good_at_recall_0.7': 'alarms / 100 good at recall 0.7',
        'alarms_per_100_good_at_recall_0.8': 'alarms / 100 good at recall 0.8',
        'alarms_per_100_good_at_recall_0.9': 'alarms / 100 good at recall 0.9',
        'good_with_alarm_at_recall_0.8': 'good with alarm at recall 0.8',
        'alarms_per_100_good_at_part_recall_0.8': 'alarms / 100 good at part recall 0.8',
    }
    results = _runs(base=(0.3, 0.3, 0.3), other=(0.3, 0.3, 0.3))
    for result in results:
        more = (result['variant'] == 'base') + result['seed'] / 10
        result['metrics'] |= {f'pr/{name}': more + place for place, name in enumerate(columns)}
    rows = compare(results, ['base', 'other'])
    heads, *_ = _cells(markdown(rows))
    assert heads == ['', 'runs', 'mAP', 'mAP50', *columns.values()]
    said = {row['metric']: row['conclusion'] for row in rows if row['variant'] == 'other'}
    assert [said[f'pr/{name}'] for name in columns] == ['helps'] * len(columns)


def test_a_figure_that_only_some_runs_reach_says_how_many():
    alarms, precision = 'pr/alarms_per_100_good_at_recall_0.8', 'pr/precision_at_0.25'
    reached = {('a', 0): 40.0, ('a', 1): math.inf, ('a', 2): 60.0, ('b', 0): 10.0, ('b', 1): 20.0, ('b', 2): math.inf}
    results = [
        dict(variant=variant, seed=seed, metrics={alarms: value, precision: 0.5})
        for (variant, seed), value in reached.items()
    ]
    text = markdown(compare(results, ['a', 'b']))
    assert '50.000 ± 14.142 (2 of 3 runs)' in text and '15.000 ± 7.071 (2 of 3 runs)' in text
    assert '-30.000 (1 of 3 runs)' in text  # the difference of seed 0
    assert text.count(' of 3 runs)') == 3
