"""The ablation's table and picture."""

import csv
import json

import cv2
import pytest

from mmyolo_bgpenalty.cli.ablation.report import compare, markdown, write_report

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
    mean, difference = markdown(rows).split('Difference to base')
    for line in ('base | 2 | 0.600 ± 0.141 | –', 'more | 2 | 0.700 ± 0.141 | 0.250', 'lost | 1 | 0.400 | –'):
        assert f'\n| {line} |\n' in mean
    for line in ('more | 2 | +0.100 [+0.100, +0.100] | –', 'lost | 1 | -0.100 | –', 'never | 0 | – | –'):
        assert f'\n| {line} |\n' in difference


def test_the_report_is_written_as_csv_json_markdown_and_png(tmp_path, results):
    write_report(tmp_path / 'report', results, list(VALUES))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'report.{e}' for e in ('csv', 'json', 'md', 'png')]
    rows = list(csv.DictReader((tmp_path / 'report.csv').read_text().splitlines()))
    assert [row['variant'] for row in rows] == list(VALUES) and float(rows[1]['difference']) == pytest.approx(0.1)
    content = json.loads((tmp_path / 'report.json').read_text())
    assert content['baseline'] == 'base' and content['runs'] == results and len(content['table']) == 4
    assert (tmp_path / 'report.md').read_text() == markdown(content['table'])
    picture = cv2.imread(str(tmp_path / 'report.png'))
    # the colours of the variants 'base' and 'lost' (C0 and C2 of matplotlib)
    for red, green, blue in ((31, 119, 180), (44, 160, 44)):
        assert (picture == (blue, green, red)).all(2).any()


def test_one_run_without_a_curve_is_still_a_report(tmp_path, results):
    write_report(tmp_path / 'r', [dict(results[0], curve=None)], ['base'])
    assert 'Difference' not in (tmp_path / 'r.md').read_text() and (tmp_path / 'r.png').stat().st_size > 1000


def test_nothing_to_report(tmp_path):
    with pytest.raises(ValueError, match='nothing to report'):
        write_report(tmp_path / 'r', [dict(variant='base', seed=0, metrics={'other': 1.0})], ['base'])
    assert not list(tmp_path.iterdir())
