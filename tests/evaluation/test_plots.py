"""The plots of an evaluation."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mmyolo_bgpenalty.evaluation.confusion import confusion_matrix
from mmyolo_bgpenalty.evaluation.matching import match_images
from mmyolo_bgpenalty.evaluation.plots import (
    CONFIDENCES,
    confidence_plot,
    confusion_plot,
    precision_recall_plot,
    write_plots,
)
from mmyolo_bgpenalty.evaluation.precision_recall import confidence_curves, precision_recall
from tests.helpers.detections import image

NAMES = ('cell', 'a class with a long $name$ that ends in one', 'a class with a long $name$ that ends in two')
IMAGES = [image([0.9, 0.6, 0.3], [0, 0, 1], objects=(0, 0, 1)), image([0.5, 0.2], [1, 0], objects=(0,))]


def evaluated(drawn=IMAGES, names=NAMES):
    matches = match_images(drawn, len(names))
    report = precision_recall(matches)
    for entry, name in zip(report['classes'], names):
        entry['name'] = name
    return matches, report, confusion_matrix(drawn, len(names))


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_the_curves_are_the_ratios_of_the_report_at_each_confidence():
    matches, *_ = evaluated()
    curves = confidence_curves(matches, [0.25, 0.55, 0.95])
    for column, confidence in enumerate((0.25, 0.55)):
        report = precision_recall(matches, confidence)
        for row, name in enumerate(('precision', 'recall', 'f1')):
            for k, entry in enumerate(report['classes'][:1]):
                assert curves[row, k, column] == entry[f'{name}_at_{confidence}']
    assert np.isnan(curves[:, :, 2]).all() and np.isnan(curves[:, 2]).all()  # nothing is found
    assert np.isnan(curves[:, 1, 1]).all()  # the best detection of the second class has the score 0.5


def test_precision_over_recall():
    matches, report, _ = evaluated()
    (axes,) = precision_recall_plot(matches, report, 0.25).axes
    drawn = lines(axes)
    assert len(drawn) == 3  # the third class has no objects
    mean = next(line for label, line in drawn.items() if label.startswith('mean'))
    assert np.mean(mean.get_ydata()) == pytest.approx(np.mean([c['ap'] for c in report['classes'][:2]]))
    assert mean.get_linewidth() > 2 * drawn[f'cell, AP {report["classes"][0]["ap"]:.3f}'].get_linewidth()
    for line, entry in zip(axes.lines[:2], report['classes']):
        assert np.mean(line.get_ydata()) == pytest.approx(entry['ap'])
    assert report['classes'][0]['ap'] != report['classes'][1]['ap']
    points = [tuple(points.get_offsets()[0]) for points in axes.collections if len(points.get_offsets())]
    for suffix in ('_at_0.25', ''):
        for entry in report['classes'][:2]:
            assert (entry[f'recall{suffix}'], entry[f'precision{suffix}']) in points


def test_precision_recall_and_f1_over_confidence():
    matches, report, _ = evaluated()
    panels = confidence_plot(matches, report, 0.25).axes
    assert [axes.get_ylabel() for axes in panels] == ['precision', 'recall', 'F1']
    for axes, name in zip(panels, ('precision', 'recall', 'f1')):
        mean = lines(axes)['mean; 0 for a class whose line has ended'].get_ydata()
        assert mean[CONFIDENCES.tolist().index(0.25)] == pytest.approx(report['metrics'][f'{name}_at_0.25'])
        assert np.isnan(mean[CONFIDENCES > 0.9]).all() and not np.isnan(mean[CONFIDENCES <= 0.9]).any()
        confidences = [line.get_xdata()[0] for label, line in lines(axes).items() if 'confidence' in label]
        assert confidences == [0.25, report['metrics']['best_confidence']]


def test_without_a_hit_there_is_no_best_f1(tmp_path):
    missed = [(found._replace(boxes=found.boxes + 500), truth) for found, truth in IMAGES]
    matches, report, confusion = evaluated(missed)
    for plot in (precision_recall_plot, confidence_plot):
        figure = plot(matches, report, 0.25)
        assert not any('best F1' in text.get_text() for text in figure.legends[0].get_texts())
    write_plots(tmp_path, matches, report, confusion, 0.5, 0.25)


@pytest.mark.parametrize('boxes, heading', [(0, 'IoU 0.5'), (500, 'IoU 0.5, no detection hits an object')])
def test_the_heading_is_in_the_middle(boxes, heading, monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, *_, **__: figures.append(figure))
    drawn = [(found._replace(boxes=found.boxes + boxes), truth) for found, truth in IMAGES]
    write_plots(tmp_path, *evaluated(drawn), 0.5, 0.25)
    for figure, end in zip(figures, ('', '', ', confidence 0.25')):
        assert figure.get_suptitle() == f'2 images, 4 objects, {heading}{end}'
        assert figure._suptitle.get_position()[0] == 0.5


def test_the_confusion_matrix_has_numbers_and_shares():
    *_, counts = evaluated()
    left, right = confusion_plot(counts, NAMES).axes
    found = {tuple(map(int, text.get_position())): text.get_text() for text in left.texts}
    assert found == {(column, row): str(counts[row, column]) for row, column in np.argwhere(counts)}
    shares = {tuple(map(int, text.get_position())): float(text.get_text()) for text in right.texts}
    for (column, row), share in shares.items():
        assert share == pytest.approx(counts[row, column] / counts[:, column].sum(), abs=0.005)
    labels = [label.get_text() for label in left.get_xticklabels()]
    assert labels[0] == 'cell' and labels[-1] == 'background' and len(set(labels)) == 4  # shortened, but different


MANY = [f'class {k}' for k in range(30)]


@pytest.mark.parametrize(
    'drawn, names',
    [
        (IMAGES, NAMES),
        ([image([0.5], [29], objects=(3, 29))], MANY),
        ([image([0.5], [0])], ['one']),
        ([image([], [])], ['nothing is found']),
        ([image([0.5], [0], objects=())], ['no object']),
        ([], ['no image']),
    ],
    ids=['three classes', 'many classes', 'one class', 'no detection', 'no object', 'no image'],
)
def test_three_files_are_written(drawn, names, tmp_path):
    for _ in range(2):  # the second time replaces the files
        write_plots(tmp_path / 'new', *evaluated(drawn, names), 0.5, 0.25)
    sizes = {path.name: Image.open(path).size for path in (tmp_path / 'new').iterdir()}
    assert sorted(sizes) == ['confidence.png', 'confusion_matrix.png', 'precision_recall.png']
    assert all(300 < min(size) and max(size) < 4000 for size in sizes.values())


def test_many_classes_are_grey_and_have_no_names():
    matches, report, _ = evaluated([image([0.5], [29], objects=(3, 29))], MANY)
    (axes,) = precision_recall_plot(matches, report, 0.25).axes
    labels = [line.get_label() for line in axes.lines]
    assert len(labels) == 3 and sum(label.startswith('_') for label in labels) == 2  # the legend leaves out `_…`


def test_a_confusion_matrix_of_many_classes_has_a_fixed_size():
    figure = confusion_plot(np.eye(400, dtype=int), [f'class {number}' for number in range(399)])
    assert max(figure.get_size_inches()) <= 45 and not figure.axes[0].texts
