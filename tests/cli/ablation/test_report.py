"""The ablation's table and picture."""

import csv
import io
import json

import cv2
import numpy as np
import pytest

from mmyolo_bgpenalty.cli.ablation.report import compare, markdown, write_report

VALUES = {'base': {0: 0.5, 1: 0.7}, 'more': {0: 0.6, 1: 0.8}, 'lost': {0: 0.4}, 'never': {}}


def results():
    curve = dict(recall=[0.0, 0.5, 1.0], precision=[1.0, 0.8, 0.2])
    return [
        dict(variant=name, seed=seed, metrics={'coco/bbox_mAP_50': value, 'other': 3.0}, curve=curve)
        for name, seeds in VALUES.items()
        for seed, value in seeds.items()
    ]


def test_the_table_says_what_was_measured():
    rows = {row['variant']: row for row in compare(results(), list(VALUES))}
    assert [row['metric'] for row in rows.values()] == ['coco/bbox_mAP_50'] * 4
    base, more, lost, never = (rows[name] for name in VALUES)
    assert base['mean'] == pytest.approx(0.6) and base['std'] == pytest.approx(0.02**0.5) and base['number'] == 2
    assert base['difference'] is None
    assert more['difference'] == pytest.approx(0.1)
    assert (more['low'], more['high']) == (pytest.approx(0.1), pytest.approx(0.1))
    assert lost['difference'] == pytest.approx(-0.1) and lost['low'] is None and lost['std'] is None
    assert never['mean'] is None and never['number'] == 0
    text = markdown(list(rows.values()))
    assert '| base | 2 | 0.600 ± 0.141 |' in text and '| more | 2 | +0.100 [+0.100, +0.100] |' in text
    assert '| lost | 1 | 0.400 |' in text and '| lost | 1 | -0.100 |' in text and '| never | 0 | – |' in text


def test_four_files(tmp_path):
    write_report(tmp_path / 'report', results(), list(VALUES))
    rows = list(csv.DictReader(io.StringIO((tmp_path / 'report.csv').read_text())))
    assert [row['variant'] for row in rows] == list(VALUES) and float(rows[1]['difference']) == pytest.approx(0.1)
    content = json.loads((tmp_path / 'report.json').read_text())
    assert content['baseline'] == 'base' and len(content['runs']) == 5 and len(content['table']) == 4
    assert (tmp_path / 'report.md').read_text().startswith('Mean ± standard deviation')
    picture = cv2.imread(str(tmp_path / 'report.png'))
    colours = np.unique(picture.reshape(-1, 3), axis=0)
    # matplotlib's first two colours, of the two first variants' lines
    for red, green, blue in ((31, 119, 180), (44, 160, 44)):
        assert (colours == (blue, green, red)).all(1).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'report.{e}' for e in ('csv', 'json', 'md', 'png')]


def test_one_run_without_a_curve_is_still_a_report(tmp_path):
    write_report(tmp_path / 'r', [dict(results()[0], curve=None)], ['base'])
    assert 'Difference' not in (tmp_path / 'r.md').read_text() and (tmp_path / 'r.png').stat().st_size > 1000


def test_a_number_that_was_not_known_is_left_out(tmp_path):
    runs = results()
    runs[0]['metrics']['pr/fp_per_empty_image_at_0.25'] = None
    runs[2]['metrics']['pr/fp_per_empty_image_at_0.25'] = 0.25
    write_report(tmp_path / 'r', runs, list(VALUES))
    assert '| base | 2 | 0.600 ± 0.141 | – |' in (tmp_path / 'r.md').read_text()
    assert '| more | 2 | 0.700 ± 0.141 | 0.250 |' in (tmp_path / 'r.md').read_text()


def test_nothing_to_report(tmp_path):
    with pytest.raises(ValueError, match='nothing to report'):
        write_report(tmp_path / 'r', [dict(variant='base', seed=0, metrics={'other': 1.0})], ['base'])
    assert not list(tmp_path.iterdir())
