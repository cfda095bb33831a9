import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmyolo_bgpenalty.evaluation.bootstrap import interval_of, resampled_images
from mmyolo_bgpenalty.evaluation.matching import MISTAKES, match_images
from mmyolo_bgpenalty.evaluation.precision_recall import false_positive_samples, precision_recall, ratio_samples
from tests.helpers.detections import CLASSES, IOU, coco_eval, image, images


@given(images(distinct=True))
def test_the_curve_equals_that_of_pycocotools(drawn):
    """Scores are distinct, because COCO counts detections with the same score one after the other."""
    precision = coco_eval(drawn).eval['precision'][0, :, :, 0, 0]  # (101, K); -1 for classes without objects
    expected = precision[:, precision[0] >= 0]
    report = precision_recall(match_images(drawn, CLASSES, IOU), recalls=(0.3, 0.5, 1))
    assert len(report['curve']['recall']) == 101
    curve = report['curve']['precision']
    of_classes = [entry['ap'] for entry in report['classes'] if entry['objects']]
    assert of_classes == pytest.approx(expected.mean(axis=0).tolist(), abs=1e-9)
    if expected.size:
        assert curve == pytest.approx(expected.mean(axis=1).tolist(), abs=1e-9)
        for recall, place in ((0.3, 30), (0.5, 50), (1, 100)):
            assert report['metrics'][f'precision_at_recall_{recall:g}'] == pytest.approx(curve[place])
    else:
        assert curve == [0] * 101


class Naive:
    """Looks at every detection for every confidence."""

    def __init__(self, matches):
        columns = (matches.scores, matches.labels, matches.tp, matches.in_empty, matches.mistakes)
        self.rows = list(zip(*(values.tolist() for values in columns)))
        self.objects, self.images, self.empty = matches.num_gt.tolist(), matches.images, matches.empty_images
        self.scores = sorted({score for score, *_ in self.rows}, reverse=True)

    def ratios(self, confidence):
        """precision, recall and f1 of each class that has objects."""
        for k in range(CLASSES):
            if self.objects[k]:
                rows = [row for row in self.rows if row[1] == k and row[0] >= confidence]
                tp = sum(row[2] for row in rows)
                recall, precision = tp / self.objects[k], tp / len(rows) if rows else 0
                yield precision, recall, 2 * precision * recall / (precision + recall) if tp else 0

    def mean(self, confidence):
        ratios = list(self.ratios(confidence))
        return [sum(values) / len(ratios) for values in zip(*ratios)] if ratios else [0, 0, 0]

    def fp(self, confidence, empty=False):
        rows = [row for row in self.rows if row[0] >= confidence and not row[2] and (row[3] or not empty)]
        images = self.empty if empty else self.images
        return len(rows) / images if images else float('nan')

    def precision_at_recall(self, wanted):
        ratios = [list(self.ratios(score)) for score in self.scores]
        classes = [[p for p, r, _ in rows if r >= wanted] for rows in zip(*ratios)]
        present = sum(map(bool, self.objects))
        return sum(max(values, default=0) for values in classes) / present if present else 0

    def fp_at_recall(self, wanted):
        for score in self.scores:
            found = sum(tp for s, _, tp, *_ in self.rows if s >= score)
            if sum(self.objects) and found / sum(self.objects) >= wanted:
                return self.fp(score)
        return float('inf' if sum(self.objects) else 'nan')


@given(images(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_numbers_equal_naive_ones(drawn, score_thr):
    matches = match_images(drawn, CLASSES, IOU)
    naive = Naive(matches)
    recalls = (0.1, 0.5, 0.6, 1)
    report = precision_recall(matches, score_thr, recalls)
    metrics = report['metrics']
    f1 = [naive.mean(score)[2] for score in naive.scores]
    best = naive.scores[next(i for i, value in enumerate(f1) if value > max(f1) - 1e-9)] if f1 else 1.0
    expected = dict(best_confidence=best)
    for confidence, suffix in ((best, ''), (score_thr, f'_at_{score_thr:g}')):
        names = (name + suffix for name in ('precision', 'recall', 'f1'))
        expected.update(zip(names, naive.mean(confidence)))
        expected['fp_per_image' + suffix] = naive.fp(confidence)
        expected['fp_per_empty_image' + suffix] = naive.fp(confidence, empty=True)
    for place, kind in enumerate(MISTAKES):
        mistakes = [row for row in naive.rows if row[0] >= best and not row[2] and row[4] == place]
        expected[f'fp_{kind}'] = len(mistakes) / naive.images
    for recall in recalls:
        expected[f'precision_at_recall_{recall:g}'] = naive.precision_at_recall(recall)
        expected[f'fp_per_image_at_recall_{recall:g}'] = naive.fp_at_recall(recall)
    assert metrics == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert all(type(value) is float for value in metrics.values())

    assert (report['images'], report['empty_images']) == (naive.images, naive.empty)
    assert [entry['objects'] for entry in report['classes']] == naive.objects
    present = [entry for entry in report['classes'] if entry['objects']]
    for entry, ratios in zip(present, naive.ratios(best)):
        assert [entry['precision'], entry['recall'], entry['f1']] == pytest.approx(list(ratios))


def test_values_by_hand():
    drawn = [
        image([0.9, 0.8], [0, 0]),  # a true and a false positive: there is one object
        image([0.4], [1], objects=[1, 0]),  # a true positive of class 1; class 0 is missed
        image([0.2, 0.7], [0, 2], objects=[]),  # an empty image with two false positives
        image([0.6], [0], objects=[], crowd=[0]),  # an ignored detection; the image is not empty
    ]
    # At 0.4, class 0 has one true and one false positive and two objects. Class 1 is perfect. The same holds at 0.25.
    ratios = dict(precision=0.75, recall=0.75, f1=0.75, fp_per_image=2 / 4, fp_per_empty_image=1.0)
    expected = ratios | {f'{name}_at_0.25': value for name, value in ratios.items()}
    expected |= dict(best_confidence=0.4, fp_background=1 / 4, fp_place=0, fp_class=0, fp_duplicate=1 / 4)
    expected |= {'precision_at_recall_0.5': 1.0, 'fp_per_image_at_recall_0.5': 2 / 4}
    expected |= {'precision_at_recall_0.9': 0.5, 'fp_per_image_at_recall_0.9': float('inf')}
    metrics = precision_recall(match_images(drawn, CLASSES), recalls=(0.5, 0.9))['metrics']
    assert metrics == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    'drawn, expected',
    [
        ([], dict(best_confidence=1, f1=0, precision=0, recall=0, fp_per_image=float('nan'))),
        ([image([], [], objects=[])], dict(best_confidence=1, f1=0, fp_per_image=0, fp_per_empty_image=0)),
        ([image([], [])], dict(best_confidence=1, f1=0, fp_per_image=0, fp_per_empty_image=float('nan'))),
        ([image([0.3], [0], objects=[])], dict(f1=0, fp_per_image=1, fp_per_empty_image=1)),
        ([image([0.3], [0], objects=[], crowd=[0])], dict(f1=0, fp_per_image=0, fp_per_empty_image=float('nan'))),
        ([image([np.nan, np.inf, 0.5], [0, 0, 1])], dict(f1=0, fp_per_image=1, best_confidence=0.5)),
    ],
)
def test_numbers_are_defined_where_there_is_nothing_to_count(drawn, expected):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        report = precision_recall(match_images(drawn, CLASSES))
    metrics = report['metrics']
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, nan_ok=True)
    assert metrics['precision_at_recall_0.6'] == 0 and not np.isfinite(metrics['fp_per_image_at_recall_0.6'])
    assert len(report['curve']['precision']) == 101


@given(images(), st.floats(0, 1))
def test_samples_are_sets_of_repeated_images(drawn, confidence):
    """Each sample is evaluated as a set of its own. A sample without objects has no value."""
    drawn = list(drawn)
    found = ratio_samples(match_images(drawn, CLASSES, IOU), confidence, resamples=20)
    if not drawn:
        assert found == {}
        return
    samples = [
        [one for one, count in zip(drawn, row) for _ in range(count)] for row in resampled_images(len(drawn), 20)
    ]
    matches = [match_images(sample, CLASSES, IOU) for sample in samples]
    for name in (f'{what}_at_{confidence:g}' for what in ('precision', 'recall', 'f1')):
        expected = [
            precision_recall(one, confidence)['metrics'][name] if one.num_gt.sum() else np.nan for one in matches
        ]
        assert found[name].tolist() == pytest.approx(expected, nan_ok=True)


@given(images(), st.sampled_from([0.3, 0.5, 1]))
def test_samples_of_false_positives_are_sets_of_repeated_images(drawn, recall):
    drawn = list(drawn)
    found = false_positive_samples(match_images(drawn, CLASSES, IOU), [recall], resamples=20)
    name = f'fp_per_image_at_recall_{recall:g}'
    rows = resampled_images(len(drawn), 20) if drawn else ()
    samples = [[one for one, count in zip(drawn, row) for _ in range(count)] for row in rows]
    reports = [precision_recall(match_images(sample, CLASSES, IOU), recalls=[recall]) for sample in samples]
    assert found[name].tolist() == pytest.approx([one['metrics'][name] for one in reports], nan_ok=True)


def test_the_interval_has_95_percent_of_the_values():
    values = np.append(np.random.default_rng(0).permutation(np.arange(1000.0)), np.nan)
    assert interval_of(values) == (25, 974)
    assert interval_of(np.array([1.0, np.inf])) == (1, np.inf) and all(map(np.isnan, interval_of(np.array([np.nan]))))
