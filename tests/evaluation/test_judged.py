"""What became of each detection and object."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmyolo_bgpenalty.evaluation.judged import HIT, judged, partner_scores
from mmyolo_bgpenalty.evaluation.matching import MISTAKES, Detections, Truth, match_images


def found(*rows):
    """Detections from rows of x, y, side, score and label."""
    table = np.array(rows, dtype=float).reshape(-1, 5)
    return Detections(table[:, [0, 1, 2, 2]], table[:, 3].astype(np.float32), table[:, 4].astype(int))


def truth(*rows):
    """Objects from rows of x, y, side, label and ignored."""
    table = np.array(rows, dtype=float).reshape(-1, 5)
    return Truth(table[:, [0, 1, 2, 2]], table[:, 3].astype(int), table[:, 4] > 0)


def test_each_detection_has_its_kind_and_each_object_its_score():
    images = [
        found((0, 0, 10, 0.9, 0), (50, 50, 10, 0.8, 1), (1, 0, 10, 0.3, 0), (20, 20, 10, 0.7, 0)),
        found((30, 30, 10, 0.6, 1)),
    ]
    objects = [truth((0, 0, 10, 0, 0), (20, 20, 10, 1, 0), (80, 80, 10, 1, 0), (50, 50, 10, 1, 1)), truth()]
    one = judged(images, objects)
    kinds = [*MISTAKES, 'hit']
    # The detection in the ignored box is left out.
    assert [kinds[kind] for kind in one.kinds] == ['hit', 'class', 'background', 'duplicate']
    assert one.image.tolist() == [0, 0, 1, 0]
    assert one.object_scores.tolist() == [np.float32(0.9), 0, 0] and one.object_labels.tolist() == [0, 1, 1]


def test_partners_are_false_positives_of_the_same_class_at_the_same_place():
    objects = [truth((70, 70, 10, 0, 0)), truth()]
    first = found((0, 0, 10, 0.9, 0), (20, 20, 10, 0.8, 0), (70, 70, 10, 0.7, 0)), found((0, 0, 10, 0.6, 0))
    second = found((1, 0, 10, 0.5, 0), (1, 1, 10, 0.4, 0), (20, 20, 10, 0.3, 1), (70, 70, 10, 0.9, 0)), found()
    one, other = judged(first, objects), judged(second, objects)
    # The other run has a second box at the first place, another class at the second, and a hit at the third.
    assert partner_scores(one, other).tolist() == [np.float32(0.5), 0, 0, 0]


row = st.tuples(*(st.integers(0, 4),) * 2, st.integers(2, 4), st.integers(1, 99), st.integers(0, 1))
images = st.lists(st.tuples(st.lists(row, max_size=6), st.lists(row, max_size=4)), max_size=3)


@settings(deadline=None)
@given(images, st.integers(1, 99))
def test_the_counts_at_a_confidence_are_those_of_a_new_matching(drawn, percent):
    """The page matches once. PrecisionRecallMetric counts the same at each confidence."""
    pairs = [
        (found(*((x, y, side, score / 100, k) for x, y, side, score, k in detections)),
         truth(*((x, y, side, k, score > 80) for x, y, side, score, k in objects)))
        for detections, objects in drawn
    ]  # fmt: skip
    one = judged(*(zip(*pairs) if pairs else ((), ())))
    confidence = np.float32(percent / 100)
    kept = [(Detections(*(column[d.scores >= confidence] for column in d)), t) for d, t in pairs]
    matches = match_images(kept, 2)
    counted = one.scores >= confidence
    assert counted.sum() == len(matches.scores) and (one.kinds[counted] == HIT).sum() == matches.tp.sum()
    assert (one.object_scores >= confidence).sum() == matches.tp.sum()
    assert np.array_equal(np.bincount(one.object_labels.astype(int), minlength=2), matches.num_gt)
