import numpy as np
import pytest
from hypothesis import given, settings

from mmyolo_bgpenalty.evaluation.matching import (
    MISTAKES,
    Detections,
    Truth,
    kinds_of_mistakes,
    match_boxes,
    match_images,
    xywh,
)
from tests.helpers.detections import CLASSES, IOU, coco_eval, image, images


@settings(max_examples=100)
@given(images())
def test_matching_equals_pycocotools(drawn):
    flags = [match_boxes(*one, IOU) for one in drawn]
    tp, ignored = (np.concatenate(values).tolist() for values in zip(*flags))
    expected = [None] * len(tp)
    for entry in filter(None, coco_eval(drawn).evalImgs):
        for number, match, ignore in zip(entry['dtIds'], entry['dtMatches'][0], entry['dtIgnore'][0]):
            expected[number - 1] = (bool(match and not ignore), bool(ignore))
    assert list(zip(tp, ignored)) == expected


def test_the_last_of_several_objects_with_equal_iou_is_taken():
    """As in pycocotools. The second detection fits only the last object, so it is not matched."""
    objects = np.array([[0, 0, 10, 10], [6, 0, 10, 10]], float)
    boxes = np.array([[3, 0, 10, 10], [8, 0, 10, 10]], float)
    same = np.zeros(2, int)
    drawn = [(Detections(boxes, np.array([0.9, 0.8]), same), Truth(objects, same, np.zeros(2, bool)))]
    assert match_boxes(*drawn[0])[0].tolist() == [True, False]
    assert coco_eval(drawn).evalImgs[0]['dtMatches'][0].tolist() == [2, 0]


@pytest.mark.parametrize('height, iou_thr, expected', [(5, 0.5, True), (4.99, 0.5, False), (10, 1.0, True)])
def test_iou_at_the_threshold_matches(height, iou_thr, expected):
    found, truth = image([0.5], [0])
    found = found._replace(boxes=np.array([[0, 0, 10, height]], float))
    assert match_boxes(found, truth, iou_thr)[0].tolist() == [expected]


def test_xywh_does_not_change_its_argument():
    boxes = np.array([[1, 2, 4, 8]], np.float32)
    assert xywh(boxes).tolist() == [[1, 2, 3, 6]] and boxes[0, 2] == 4
    assert xywh([]).shape == (0, 4)


def overlap(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / (a[2] * a[3] + b[2] * b[3] - inside)


def naive_kinds(found, truth):
    for box, label in zip(found.boxes, found.labels):
        own, other = [0.0], [0.0]
        for gt_box, gt_label, is_crowd in zip(*truth):
            if not is_crowd:
                (own if gt_label == label else other).append(overlap(box, gt_box))
        if max(own) >= IOU:
            yield 'duplicate'
        elif max(other) >= IOU:
            yield 'class'
        elif max(own) >= 0.1:
            yield 'place'
        else:
            yield 'class' if max(other) >= 0.1 else 'background'


@given(images())
def test_kinds_of_mistakes_equal_naive_ones(drawn):
    for one in drawn:
        assert [MISTAKES[kind] for kind in kinds_of_mistakes(*one, IOU)] == list(naive_kinds(*one))


def test_detections_of_all_images_are_sorted_by_score():
    drawn = [image([0.4, 0.9], [0, 1]), image([0.6, 0.5], [0, 2], objects=[2], crowd=[0]), image([0.8], [0], [])]
    matches = match_images(drawn, CLASSES)
    assert matches.scores.tolist() == [0.9, 0.8, 0.5, 0.4] and matches.labels.tolist() == [1, 0, 2, 0]
    assert matches.tp.tolist() == [False, False, True, True]
    assert matches.in_empty.tolist() == [False, True, False, False]
    assert [MISTAKES[kind] for kind in matches.mistakes[:2]] == ['class', 'background']
    assert matches.num_gt.tolist() == [1, 0, 1] and (matches.images, matches.empty_images) == (3, 1)
    assert matches.image.tolist() == [0, 2, 1, 0] and matches.objects.tolist() == [1, 1, 0]
    assert matches.empty.tolist() == [False, False, True]


def test_labels_are_checked():
    with pytest.raises(ValueError, match=r'`labels` to be in \[0, 3\), but got 1 to 3'):
        match_images([image([0.5, 0.5], [1, 3])], CLASSES)
