"""The figures on README are those of the runs that it names."""

import re
import statistics

import pytest

from tests.docs.test_tables import tables  # it finds docs/results/data
from tests.helpers.tiny import ROOT

RUNS = tables.read_runs(ROOT / 'docs/results/data/good_parts.csv')
VARIANTS = {
    'labels only': ('labels only, bf16', '1170'),
    'and 360 unlabeled boards': ('360 unlabeled boards, bf16', '1170'),
    'and 400 good boards': ('400 good boards, misfires first, bf16', '1170'),
    'all 400 labels, without good boards': ('all labels, bf16', '1200'),
}
METRICS = {'mAP': 3, 'precision_at_recall_0.8': 3, 'alarms_at_recall_0.8': 0}
ROWS = dict(re.findall(r'^\| ([^|]+) \| (.+) \|$', (ROOT / 'README.md').read_text(encoding='utf-8'), re.M))


@pytest.mark.parametrize('name', VARIANTS)
def test_a_row_is_the_mean_of_its_runs(name):
    variant, iterations = VARIANTS[name]
    wanted = dict(set='DeepPCB', variant=variant, iterations=iterations, images='test')
    runs = [run for run in RUNS if all(run[key] == value for key, value in wanted.items())]
    assert len({run['seed'] for run in runs}) == len(runs) > 0
    for text, (metric, digits) in zip(ROWS[name].split(' | '), METRICS.items(), strict=True):
        assert text == f'{statistics.mean(float(run[metric]) for run in runs):.{digits}f}', metric
