"""The scripts in docs/results/data: tables, a figure, and intervals over the images."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmyolo_bgpenalty.evaluation.matching import Detections, Truth, match_images
from tests.helpers.detections import CLASSES, IOU, images
from tests.helpers.tiny import ROOT

sys.path.insert(0, str(ROOT / 'docs/results/data'))
import figure
import image_intervals
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
        shown = [run for run in runs if (run['set'], run['images']) == (name, 'test') and run['variant'] in variants]
        assert len(panel.lines) == len(shown) > 0
        names = {text.get_text() for text in panel.get_legend().get_texts()}
        assert names == {variant.partition(',')[0] for variant in variants} and len(names) == len(variants)


def test_seed_lines_join_the_values_of_one_seed_and_fold():
    a, b, c = {('1', '0'): 0.5, ('2', '0'): 0.6}, {('2', '0'): 0.7}, {('1', '0'): 0.8, ('1', '1'): 0.9}
    assert figure.seed_lines([a, b, c]) == [[(0, 0.5), (2, 0.8)], [(2, 0.9)], [(0, 0.6), (1, 0.7)]]


def test_the_figure_finds_its_runs():
    assert figure.picture(tables.read_runs()).startswith(b'\x89PNG')
    fewer = [run for run in tables.read_runs() if run['set'] == 'solar']
    with pytest.raises(ValueError, match='Expected a run with mAP'):
        figure.picture(fewer)


@given(images(), st.data())
def test_a_sample_of_the_images_equals_matching_them_again(drawn, data):
    number = len(drawn)
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=number, max_size=number)))
    again = [pair for pair, times in zip(drawn, counts) for _ in range(times)]
    sample = image_intervals.resampled(match_images(drawn, CLASSES, IOU), counts)
    expected = match_images(again, CLASSES, IOU)
    assert (sample.empty_images, len(sample.objects)) == (expected.empty_images, len(again))
    np.testing.assert_array_equal(image_intervals.figures(sample), image_intervals.figures(expected))


def test_differences_are_of_the_same_images():
    """Each run has an alarm on one of two good parts, the other run on the other one."""
    object_ = Truth(np.array([[0.0, 0, 10, 10]]), np.array([0]), np.array([False]))
    none = Truth(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool))
    hit = Detections(object_.boxes, np.array([0.5]), np.array([0]))
    alarm, quiet = hit._replace(scores=np.array([0.9])), Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    runs = [
        match_images([(hit, object_), (first, none), (second, none)], 1, IOU)
        for first, second in ((alarm, quiet), (quiet, alarm), (quiet, quiet))
    ]
    place = image_intervals.FIGURES.index('alarms_per_100_good_at_0.25')
    mean, samples = image_intervals.differences(runs[:1], runs[1:2], 200)
    values = set(samples[:, place][~np.isnan(samples[:, place])].round(6))
    assert mean[place] == 0 and {-100, 100} < values
    mean, samples = image_intervals.differences(runs[:2], [runs[2]] * 2, 200)
    assert mean[place] == -50 and set(samples[:, place][~np.isnan(samples[:, place])]) == {-50}
