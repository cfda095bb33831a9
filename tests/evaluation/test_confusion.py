"""The confusion matrix, against a slow reference."""

from itertools import product

import numpy as np
from hypothesis import given

from mmyolo_bgpenalty.evaluation.confusion import confusion_matrix
from mmyolo_bgpenalty.evaluation.matching import Detections, Truth, match_images
from mmyolo_bgpenalty.evaluation.precision_recall import precision_recall
from tests.helpers.detections import CLASSES, IOU, image, images


def overlap(first, second, of_first=False):
    sides = [max(0, min(first[i] + first[i + 2], second[i] + second[i + 2]) - max(first[i], second[i])) for i in (0, 1)]
    shared = sides[0] * sides[1]
    return shared / (first[2] * first[3] if of_first else first[2] * first[3] + second[2] * second[3] - shared)


def reference(drawn, score_thr):
    """Pairs are taken one by one: first by score and inside a class, then by IoU between classes."""
    counts = np.zeros((CLASSES + 1, CLASSES + 1), int)
    for found, truth in drawn:
        detections = [i for i in np.argsort(-found.scores, kind='stable') if found.scores[i] >= score_thr]
        objects = [g for g in range(len(truth.boxes)) if not truth.ignored[g]]
        pairs, free = {}, set(objects)
        iou = {(i, g): overlap(found.boxes[i], truth.boxes[g]) for i, g in product(detections, objects)}
        for i in detections:
            same = [g for g in sorted(free) if truth.labels[g] == found.labels[i] and iou[i, g] >= IOU]
            if same:
                pairs[i] = max(same, key=lambda g: (iou[i, g], g))
                free.remove(pairs[i])
        regions = [g for g in range(len(truth.boxes)) if truth.ignored[g]]
        left = [
            i
            for i in sorted(set(detections) - set(pairs))
            if not any(
                truth.labels[g] == found.labels[i] and overlap(found.boxes[i], truth.boxes[g], True) >= IOU
                for g in regions
            )
        ]
        background = set(left)
        while near := [(i, g) for i in sorted(background) for g in sorted(free) if iou[i, g] >= IOU]:
            i, g = max(near, key=lambda pair: iou[pair])
            pairs[i] = g
            background.remove(i)
            free.remove(g)
        for i, g in pairs.items():
            counts[found.labels[i], truth.labels[g]] += 1
        for i in background:
            counts[found.labels[i], CLASSES] += 1
        for g in free:
            counts[CLASSES, truth.labels[g]] += 1
    return counts


@given(images(distinct=True))
def test_it_equals_the_reference(drawn):
    assert (confusion_matrix(drawn, CLASSES, 0.4, IOU) == reference(drawn, 0.4)).all()


@given(images())
def test_its_diagonal_and_sums_are_those_of_the_report(drawn):
    counts = confusion_matrix(drawn, CLASSES, 0.25, IOU)
    report = precision_recall(match_images(drawn, CLASSES, IOU), 0.25)
    objects = [entry['objects'] for entry in report['classes']]
    assert counts[:, :-1].sum(axis=0).tolist() == objects
    for k, entry in enumerate(report['classes']):
        assert np.isclose(counts[k, k], entry['recall_at_0.25'] * objects[k])
        assert np.isclose(counts[k, k], entry['precision_at_0.25'] * counts[k].sum())


def test_by_hand():
    """One square has three classes. The best of two equal boxes is a hit, the other one is on background."""
    hit = image([0.9, 0.8, 0.1], [0, 0, 1])
    wrong = image([0.9], [2])
    missed = image([0.1], [0])
    crowd = image([0.9, 0.9], [0, 1], objects=(), crowd=(0,))  # the crowd has the class 0
    counts = confusion_matrix([hit, wrong, missed, crowd], CLASSES)
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[0, 3] = expected[2, 0] = expected[3, 0] = expected[1, 3] = 1
    assert (counts == expected).all()


def test_the_pair_with_the_highest_iou_comes_first():
    """The first detection overlaps both objects. The second one overlaps only the first object, and exactly."""
    found = Detections(np.array([[0, 0, 10, 10], [0, 3, 10, 10]], float), np.array([0.9, 0.8]), np.array([0, 1]))
    truth = Truth(np.array([[0, 3, 10, 10], [0, -3, 10, 10]], float), np.array([2, 2]), np.zeros(2, bool))
    counts = confusion_matrix([(found, truth)], CLASSES)
    assert counts[0, 2] == counts[1, 2] == 1 and counts.sum() == 2


def test_without_boxes_it_is_0():
    nothing = (
        Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)),
        Truth(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool)),
    )
    assert not confusion_matrix([nothing], CLASSES).any() and not confusion_matrix([], CLASSES).any()
