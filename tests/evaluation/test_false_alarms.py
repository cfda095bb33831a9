"""False alarms on good parts."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmyolo_bgpenalty.evaluation.false_alarms import (
    OperatingPoint,
    false_alarm_intervals,
    false_alarms,
    operating_points,
    supported,
    where_recall_ends,
)
from mmyolo_bgpenalty.evaluation.matching import match_boxes, match_images
from mmyolo_bgpenalty.evaluation.table import alarm_table, few_good_parts, operating_table, unreached
from tests.helpers.detections import CLASSES, IOU, image, images

RECALLS = (0.3, 0.5, 1)


def naive(drawn, score_thr, recalls, prevalence):
    """Looks at every image for every confidence."""
    rows = []  # scores, true positives and ignored detections of each image, whether it is good, number of objects
    for found, truth in drawn:
        tp, ignored = match_boxes(found, truth, IOU)
        rows.append((found.scores[~ignored], tp[~ignored], not len(truth.boxes), int((~truth.ignored).sum())))
    good = [row for row in rows if row[2]]
    objects, parts = sum(row[3] for row in rows), [row for row in rows if row[3]]

    def at(confidence):
        alarms = [int((row[0] >= confidence).sum()) for row in good]
        hits = [int((row[1] & (row[0] >= confidence)).sum()) for row in rows]
        all_found = sum(int((row[0] >= confidence).sum()) for row in rows)
        found_parts = sum(bool((row[1] & (row[0] >= confidence)).any()) for row in parts)
        share = [sum(alarms) * 100 / len(good), sum(map(bool, alarms)) / len(good)] if good else [math.nan] * 2
        w = prevalence / (1 - prevalence) * (len(rows) - len(good)) / len(good) if good else math.nan
        below = all_found - sum(alarms) + w * sum(alarms)
        return share, sum(hits), found_parts, sum(hits) / below if below else 0.0

    names = ('alarms_per_100_good', 'good_with_alarm')
    expected = {f'{name}_at_{score_thr:g}': value for name, value in zip(names, at(score_thr)[0])}
    scores = sorted({float(score) for row in rows for score in row[0]}, reverse=True)
    for what, place, total in (('', 1, objects), ('part_', 2, len(parts))):
        for recall in recalls:
            reached = next((at(c) for c in scores if total and at(c)[place] / total >= recall - 1e-12), None)
            for i, name in enumerate(names):
                none = math.inf if total and good else math.nan
                expected[f'{name}_at_{what}recall_{recall:g}'] = none if reached is None else reached[0][i]
            if not what:
                none = 0.0 if total and good else math.nan
                name = f'precision_at_recall_{recall:g}_at_prevalence_{prevalence:g}'
                expected[name] = none if reached is None else reached[3]
    return expected


@given(images(), st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5]))
def test_equals_the_naive_figures(drawn, emptied, score_thr):
    drawn = [(found, empty(truth) if i < emptied else truth) for i, (found, truth) in enumerate(drawn)]
    found = false_alarms(match_images(drawn, CLASSES, IOU), score_thr, RECALLS, 0.9)
    assert found == pytest.approx(naive(drawn, score_thr, RECALLS, 0.9), nan_ok=True)
    assert all(type(value) is float for value in found.values())


def empty(truth):
    return type(truth)(truth.boxes[:0], truth.labels[:0], truth.ignored[:0])


PARTS = [
    image([0.9, 0.5], [0, 0]),  # found at 0.9
    image([0.6], [1], objects=[1, 1]),  # one of two objects, at 0.6
    image([0.7, 0.65, 0.3], [0, 1, 0], objects=[]),  # good, with three false alarms
    image([0.2], [2], objects=[]),
    image([], [], objects=[]),
    image([], [], objects=[]),
]


def test_by_hand():
    found = false_alarms(match_images(PARTS, CLASSES), 0.25, (0.3, 0.6, 0.9), 0.5)
    assert found == pytest.approx(
        {
            'alarms_per_100_good_at_0.25': 75.0,
            'good_with_alarm_at_0.25': 0.25,
            'alarms_per_100_good_at_recall_0.3': 0.0,  # at 0.9
            'good_with_alarm_at_recall_0.3': 0.0,
            'precision_at_recall_0.3_at_prevalence_0.5': 1.0,
            'alarms_per_100_good_at_recall_0.6': 50.0,  # at 0.6
            'good_with_alarm_at_recall_0.6': 0.25,
            'precision_at_recall_0.6_at_prevalence_0.5': 2 / (2 + 2 * 2 / 4),  # two other parts, four good ones
            'alarms_per_100_good_at_recall_0.9': math.inf,
            'good_with_alarm_at_recall_0.9': math.inf,
            'precision_at_recall_0.9_at_prevalence_0.5': 0.0,
            'alarms_per_100_good_at_part_recall_0.3': 0.0,
            'good_with_alarm_at_part_recall_0.3': 0.0,
            'alarms_per_100_good_at_part_recall_0.6': 50.0,
            'good_with_alarm_at_part_recall_0.6': 0.25,
            'alarms_per_100_good_at_part_recall_0.9': 50.0,
            'good_with_alarm_at_part_recall_0.9': 0.25,
        }
    )


@given(images(), st.integers(2, 4))
def test_more_of_the_same_good_parts_change_nothing(drawn, times):
    drawn = [(found, empty(truth) if i % 2 else truth) for i, (found, truth) in enumerate(drawn)]
    more = drawn + [pair for pair in drawn if not len(pair[1].boxes)] * (times - 1)
    found, repeated = (false_alarms(match_images(one, CLASSES, IOU), 0.25, RECALLS, 0.9) for one in (drawn, more))
    assert found == pytest.approx(repeated, nan_ok=True)


@given(images())
def test_at_the_own_prevalence_of_the_set_the_precision_is_the_pooled_one(drawn):
    drawn = [(found, empty(truth) if i % 2 else truth) for i, (found, truth) in enumerate(drawn)]
    matches = match_images(drawn, CLASSES, IOU)
    assume(0 < matches.empty_images < matches.images)
    prevalence = matches.empty_images / matches.images
    found = false_alarms(matches, 0.25, (0.5,), prevalence)[f'precision_at_recall_0.5_at_prevalence_{prevalence:g}']
    pooled = [
        matches.tp[matches.scores >= score].mean()
        for score in sorted({*matches.scores}, reverse=True)
        if matches.tp[matches.scores >= score].sum() >= 0.5 * matches.objects.sum() > 0
    ]
    assert found == pytest.approx(pooled[0] if pooled else 0.0 if matches.objects.any() else math.nan, nan_ok=True)


def test_intervals_are_percentiles_over_resampled_images():
    rng = np.random.default_rng(3)
    drawn = [PARTS[i] for i in rng.integers(0, len(PARTS), 20)]
    found = false_alarm_intervals(match_images(drawn, CLASSES), 0.25, (0.3, 0.6), 0.9, resamples=200, seed=1)
    counts = np.random.default_rng(1).multinomial(20, [1 / 20] * 20, 200)
    samples = []
    for count in counts:
        resampled = [pair for pair, times in zip(drawn, count) for _ in range(times)]
        samples.append(false_alarms(match_images(resampled, CLASSES), 0.25, (0.3, 0.6), 0.9))
    for name, interval in found.items():
        values = sorted(sample[name] for sample in samples)
        assert not np.isnan(values).any() and interval == pytest.approx((values[5], values[194]))
    low, high = found['alarms_per_100_good_at_0.25']
    assert low < high


def test_where_the_recall_ends():
    matches = match_images(PARTS, CLASSES)
    together, classes = where_recall_ends(matches)
    assert together == pytest.approx(2 / 3) and classes == pytest.approx([1, 0.5, math.nan], nan_ok=True)
    names = ['hole', 'spur', 'open']
    assert unreached(matches, (0.5, 0.4), names) == unreached(matches, (), names) == ''
    # All classes together reach 0.6, but one class does not.
    assert unreached(matches, (0.6, 0.5), names) == 'Recall 0.6 is not reached by: spur at 0.50'
    expected = 'Recall 0.7 is not reached. All classes together end at 0.67: spur at 0.50'
    assert unreached(matches, (0.6, 0.9, 0.7), names) == expected


def test_a_class_that_is_never_found_is_named():
    """Nine objects of class 0 are found, and one of class 1 is not. A class without objects is not named."""
    matches = match_images([*[image([0.5], [0], objects=[0])] * 9, image([], [], objects=[1])], CLASSES)
    line = unreached(matches, (0.6, 0.7, 0.8, 0.9), ['a', 'b', 'none'])
    assert line == 'Recall 0.9 is not reached by: b at 0.00'


def test_the_table_says_that_a_recall_is_not_reached():
    matches = match_images(PARTS, CLASSES)
    intervals = false_alarm_intervals(matches, 0.25, (0.9,), resamples=20)
    rows = alarm_table(false_alarms(matches, 0.25, (0.9,)), intervals).splitlines()
    row = next(row for row in rows if 'alarms per 100 good at recall 0.9' in row)
    assert row.split('|')[2].strip() == 'not reached'


@pytest.mark.parametrize('drawn', [[], [image([0.5], [0])], [image([0.5], [0], objects=[])]])
def test_without_good_or_defective_parts(drawn):
    matches = match_images(drawn, CLASSES)
    found = false_alarms(matches, 0.25, (0.8,), 0.9)
    assert math.isnan(found['alarms_per_100_good_at_recall_0.8'])
    assert found.keys() == (false_alarm_intervals(matches, 0.25, (0.8,), 0.9, resamples=5) or found).keys()


@given(images(), st.integers(1, 3))
def test_operating_points_equal_the_naive_ones(drawn, emptied):
    drawn = [(found, empty(truth) if i < emptied else truth) for i, (found, truth) in enumerate(drawn)]
    matches = match_images(drawn, CLASSES, IOU)
    limits = (0, 50, 100, 1000)
    for limit, point in zip(limits, operating_points(matches, limits)):
        fits = [c for c in {math.inf, *matches.scores} if alarms_at(matches, c) * 100 / matches.empty_images <= limit]
        assert point.alarms == limit and point.confidence == min(fits)
        hits = matches.tp & (matches.scores >= point.confidence)
        assert point.recall == pytest.approx(
            hits.sum() / matches.num_gt.sum() if matches.num_gt.sum() else math.nan, nan_ok=True
        )
        parts = [np.any(hits & (matches.image == i)) for i in np.flatnonzero(matches.objects)]
        assert point.part_recall == pytest.approx(np.mean(parts) if parts else math.nan, nan_ok=True)


def alarms_at(matches, confidence):
    return int((matches.in_empty & (matches.scores >= confidence)).sum())


def test_operating_points_need_good_parts():
    with pytest.raises(ValueError, match='Expected good parts'):
        operating_points(match_images([image([0.5], [0])], CLASSES, IOU), (1,))


def test_few_good_parts_show_no_small_number_of_false_alarms():
    """The rule of three: without an alarm on n parts, the 95 % bound is about 3 / n."""
    assert [supported((1, 5, 20, 100), good) for good in (2, 3, 15, 60, 299, 300)] == [
        *([], [100], [20, 100], [5, 20, 100], [5, 20, 100], [1, 5, 20, 100]),
    ]
    for good in (3, 60, 1000):
        bound = 1 - 0.05 ** (1 / good)  # no alarm on n parts has a probability of 5 % if this share of parts has one
        assert bound <= 3 / good <= 1.6 * bound
    matches = match_images([image([0.9], [0]), *(image([], [], ()) for _ in range(12))], CLASSES, IOU)
    found = false_alarm_intervals(matches, resamples=20)
    assert found['good_with_alarm_at_0.25'] == (0, 3 / 12) and found['alarms_per_100_good_at_0.25'] == (0, 25)
    assert found['good_with_alarm_at_recall_0.8'] == (0, 3 / 12)


def test_a_precision_at_a_prevalence_has_no_lower_end_without_an_alarm():
    matches = match_images([image([0.9, 0.8], [0, 0]), *(image([], [], ()) for _ in range(12))], CLASSES, IOU)
    found = false_alarm_intervals(matches, prevalence=0.99, resamples=20)['precision_at_recall_0.8_at_prevalence_0.99']
    assert math.isnan(found.low) and found.high == 1


def test_the_table_of_operating_points():
    points = [OperatingPoint(20, 0.5, 0.75, 1.0), OperatingPoint(100, math.inf, 0.0, 0.0)]
    text = operating_table(points, 15)
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.split('\n') if line.startswith('|')]
    assert rows[1:] == [['20', '0.500', '0.750', '1.000'], ['100', 'none', '0.000', '0.000']]
    assert 'by 15 good parts' in text and text.split('\n')[-1] == few_good_parts(15)
    assert few_good_parts(15).startswith('With 15 good parts, fewer than 20 false alarms per 100 cannot be shown.')
    assert operating_table([], 1).strip() == few_good_parts(1)
    assert few_good_parts(1).startswith('With 1 good part, fewer than 100 ')
    assert not few_good_parts(300) and not few_good_parts(0)
    assert 'cannot be shown' not in operating_table(points, 300)
