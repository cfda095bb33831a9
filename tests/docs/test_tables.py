"""tables.py and figure.py in docs/results/data, which make tables and a figure from experiments_runs.csv."""

import sys

import numpy as np
import pytest
from scipy import stats

from tests.helpers.tiny import ROOT

sys.path.insert(0, str(ROOT / 'docs/results/data'))
import figure
import tables


def run_of(variant, seed, value, session='3', fold='', **others):
    return dict(session=session, variant=variant, fold=fold, seed=str(seed), mAP=f'{value}', **others)


def test_a_table_against_scipy():
    """The seeds may come in any order. The difference leaves out a run that only one variant has."""
    a, b = [0.5, 0.61, 0.53, 0.58], [0.55, 0.6, 0.571]
    runs = [run_of('a', seed, value) for seed, value in enumerate(a)]
    runs += [run_of('b', seed, value) for seed, value in reversed(list(enumerate(b)))]
    lines = tables.table(runs, ['a', 'b'], ['mAP'])
    assert lines[2] == f'| a | 4 | {np.mean(a):.3f} ± {np.std(a, ddof=1):.3f} |'
    difference = np.subtract(b, a[:3])
    low, high = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert lines[3] == f'| b | 3 | {difference.mean():+.3f} [{low:+.3f}, {high:+.3f}] |'.replace('-', '−')


def test_a_pair_has_one_fold_and_seed_and_the_latest_session_counts():
    runs = [run_of('a', 0, 0.5, fold='1'), run_of('a', 0, 0.6, fold='2'), run_of('b', 0, 0.7, fold='2')]
    runs += [run_of('b', 0, 0.8, '4', fold='2'), run_of('b', 0, 0.9, '2', fold='2')]
    assert tables.table(runs, ['a', 'b'], ['mAP'])[3] == '| b | 1 | +0.200 |'
    assert tables.table(runs, ['a', 'b'], ['mAP'], session=['3'])[3] == '| b | 1 | +0.100 |'


def test_missing_runs_and_columns_are_named():
    runs = [run_of('a', 0, 0.5), run_of('b', 1, 0.6)]
    with pytest.raises(ValueError, match='a fold and seed that both'):
        tables.table(runs, ['a', 'b'], ['mAP'])
    with pytest.raises(ValueError, match=r"Expected a run with mAP and .*'c'"):
        tables.table(runs, ['a', 'c'], ['mAP'])
    with pytest.raises(ValueError, match=r"Expected columns among .*got \['mAP_5', 'sets'\]"):
        tables.table(runs, ['a'], ['mAP_5'], sets=['solar'])


@pytest.mark.parametrize('file', [tables.RUNS, figure.GOOD_PARTS], ids=['experiments', 'good parts'])
def test_every_run_has_a_line_of_its_own(file):
    """Of two lines for one run only the later would count, and nobody would notice."""
    columns = ('session', 'set', 'iterations', 'variant', 'fold', 'seed', 'nms', 'images')
    runs = [tuple(run[column] for column in columns) for run in tables.read_runs(file)]
    assert len(runs) > 20 and len(set(runs)) == len(runs)


def test_the_figures_of_good_parts_show_every_seed(monkeypatch):
    """A variant that is renamed in the file would leave a panel empty."""
    runs, figures = tables.read_runs(figure.GOOD_PARTS), []
    monkeypatch.setattr(figure, '_png', figures.append)
    figure.picture_of_alarms(runs)
    for panel, (name, *variants) in zip(figures[0].axes, figure.GOOD_PANELS, strict=True):
        seeds = [run['seed'] for run in runs if run['set'] == name and run['variant'] in variants]
        assert len(panel.lines) == len(seeds) / 2 > 0  # each has a line for `choose` and one for `test`
        assert {variant.removesuffix(', bf16') for variant in variants} == {
            text.get_text() for text in panel.get_legend().get_texts()
        }


def test_seed_lines_join_the_values_of_one_seed_and_fold():
    a, b, c = {('1', '0'): 0.5, ('2', '0'): 0.6}, {('2', '0'): 0.7}, {('1', '0'): 0.8, ('1', '1'): 0.9}
    assert figure.seed_lines([a, b, c]) == [[(0, 0.5), (2, 0.8)], [(2, 0.9)], [(0, 0.6), (1, 0.7)]]


def test_the_figure_finds_its_runs():
    assert figure.picture(tables.read_runs()).startswith(b'\x89PNG')
    fewer = [run for run in tables.read_runs() if run['set'] == 'solar']
    with pytest.raises(ValueError, match='Expected a run with mAP'):
        figure.picture(fewer)
