import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmyolo_bgpenalty.evaluation.precision_recall import (
    MISTAKES,
    kinds_of_mistakes,
    match_boxes,
    match_images,
    precision_recall,
)

CLASSES = 3
IOU = 0.5


@st.composite
def images(draw, distinct=False):
    """Images whose boxes compete: few places, few scores unless ``distinct``, one class more often than others."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    number, detections, objects = draw(st.integers(1, 5)), draw(st.integers(0, 16)), draw(st.integers(0, 9))
    scores = rng.permutation(number * detections) + 1 if distinct else rng.integers(0, 7, number * detections)
    scores = (scores / (number * detections + 1 if distinct else 6)).reshape(number, detections)

    def boxes(n):
        return np.concatenate([rng.integers(0, 4, (n, 2)), rng.integers(5, 8, (n, 2))], axis=1).astype(float)

    def labels(n):
        return rng.choice(CLASSES, n, p=[0.8, 0.15, 0.05])

    drawn = []
    for score in scores:
        found, real = rng.integers(0, detections + 1), rng.integers(0, objects + 1)
        crowd = rng.random(real) < 0.15
        drawn.append((boxes(found), score[:found], labels(found), boxes(real), labels(real), crowd))
    return drawn


def xyxy(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def matched(image):
    boxes, scores, labels, gt_boxes, *gts = image
    return match_boxes(xyxy(boxes), scores, labels, xyxy(gt_boxes), *gts, iou_thr=IOU)


def overlap(a, b, region):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / (a[2] * a[3] if region else a[2] * a[3] + b[2] * b[3] - inside)


def naive_match(boxes, scores, labels, gt_boxes, gt_labels, crowd):
    """COCO's rule, word by word."""
    state, taken = ['fp'] * len(boxes), set()
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        best = None
        for g in range(len(gt_boxes)):
            if gt_labels[g] == labels[i] and not crowd[g] and g not in taken:
                iou = overlap(boxes[i], gt_boxes[g], False)
                if iou >= IOU and (best is None or iou >= best[0]):
                    best = iou, g
        if best:
            state[i] = 'tp'
            taken.add(best[1])
        elif any(
            crowd[g] and gt_labels[g] == labels[i] and overlap(boxes[i], gt_boxes[g], True) >= IOU
            for g in range(len(gt_boxes))
        ):
            state[i] = 'ignored'
    return state


def naive_kinds(boxes, scores, labels, gt_boxes, gt_labels, crowd):
    for box, label in zip(boxes, labels):
        own, other = [0.0], [0.0]
        for gt_box, gt_label, is_crowd in zip(gt_boxes, gt_labels, crowd):
            if not is_crowd:
                (own if gt_label == label else other).append(overlap(box, gt_box, False))
        if max(own) >= IOU:
            yield 'duplicate'
        elif max(other) >= IOU:
            yield 'class'
        elif max(own) >= 0.1:
            yield 'place'
        else:
            yield 'class' if max(other) >= 0.1 else 'background'


@settings(max_examples=100)
@given(images())
def test_matching_equals_a_naive_one(drawn):
    for image in drawn:
        tp, ignored = matched(image)
        state = naive_match(*image)
        assert tp.tolist() == [s == 'tp' for s in state] and ignored.tolist() == [s == 'ignored' for s in state]


def coco_eval(drawn) -> COCOeval:
    """pycocotools' evaluation of the images at one IoU, over all sizes and detections."""
    gt, dt = COCO(), COCO()
    categories = [dict(id=k + 1, name=str(k)) for k in range(CLASSES)]
    for coco in (gt, dt):
        coco.dataset = dict(images=[dict(id=i) for i in range(len(drawn))], categories=categories, annotations=[])
    for i, (boxes, scores, labels, gt_boxes, gt_labels, crowd) in enumerate(drawn):
        for b, k, score in zip(boxes.tolist(), labels.tolist(), scores.tolist()):
            dt.dataset['annotations'].append(dict(image_id=i, category_id=k + 1, bbox=b, area=b[2] * b[3], score=score))
        for b, k, c in zip(gt_boxes.tolist(), gt_labels.tolist(), crowd.tolist()):
            row = dict(image_id=i, category_id=k + 1, bbox=b, area=b[2] * b[3], iscrowd=int(c))
            gt.dataset['annotations'].append(row)
    for coco in (gt, dt):
        for number, annotation in enumerate(coco.dataset['annotations'], 1):
            annotation['id'] = number
        coco.createIndex()
    evaluation = COCOeval(gt, dt, 'bbox')
    evaluation.params.iouThrs = np.array([IOU])
    evaluation.params.maxDets = [1000]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@settings(max_examples=100)
@given(images())
def test_matching_equals_pycocotools(drawn):
    flags = [matched(image) for image in drawn]
    tp, ignored = (np.concatenate(values).tolist() for values in zip(*flags))
    expected = [None] * len(tp)
    for entry in filter(None, coco_eval(drawn).evalImgs):
        for number, match, ignore in zip(entry['dtIds'], entry['dtMatches'][0], entry['dtIgnore'][0]):
            expected[number - 1] = (bool(match and not ignore), bool(ignore))
    assert list(zip(tp, ignored)) == expected


def test_of_objects_with_equal_iou_the_last_is_taken():
    """As pycocotools does. Here it leaves nothing for the second detection, which only the last object fits."""
    objects = np.array([[0, 0, 10, 10], [6, 0, 10, 10]], float)
    boxes = np.array([[3, 0, 10, 10], [8, 0, 10, 10]], float)
    drawn = [(boxes, np.array([0.9, 0.8]), np.zeros(2, int), objects, np.zeros(2, int), np.zeros(2, bool))]
    assert matched(drawn[0])[0].tolist() == [True, False]
    assert coco_eval(drawn).evalImgs[0]['dtMatches'][0].tolist() == [2, 0]


@given(images(distinct=True))
def test_the_curve_is_pycocotools_and_its_mean_the_ap(drawn):
    """Of detections with the same score COCO counts one after the other: distinct scores here."""
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
    """Counts by looking at every detection for every confidence."""

    def __init__(self, drawn):
        self.images, self.rows, self.objects = len(drawn), [], [0] * CLASSES
        self.empty = sum(not len(gt_boxes) for _, _, _, gt_boxes, _, _ in drawn)
        for image in drawn:
            found = zip(image[1].tolist(), image[2].tolist(), naive_match(*image), naive_kinds(*image))
            for score, k, state, kind in found:
                if state != 'ignored':
                    self.rows.append((score, k, state == 'tp', not len(image[3]), kind))
            for k, crowd in zip(image[4].tolist(), image[5].tolist()):
                self.objects[k] += not crowd
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
        return float('nan')


@given(images(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_numbers_equal_naive_ones(drawn, score_thr):
    naive = Naive(drawn)
    recalls = (0.1, 0.5, 0.6, 1)
    report = precision_recall(match_images(drawn, CLASSES, IOU), score_thr, recalls)
    metrics = report['metrics']
    f1 = [naive.mean(score)[2] for score in naive.scores]
    best = naive.scores[next(i for i, value in enumerate(f1) if value > max(f1) - 1e-9)] if f1 else 1.0
    expected = dict(best_confidence=best)
    for confidence, suffix in ((best, ''), (score_thr, f'_at_{score_thr:g}')):
        names = (name + suffix for name in ('precision', 'recall', 'f1'))
        expected.update(zip(names, naive.mean(confidence)))
        expected['fp_per_image' + suffix] = naive.fp(confidence)
        expected['fp_per_empty_image' + suffix] = naive.fp(confidence, empty=True)
    for kind in MISTAKES:
        mistakes = [row for row in naive.rows if row[0] >= best and not row[2] and row[4] == kind]
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
    curve = report['confidence_curve']
    for place in (0, 17, 25, 50, 100):
        values = [curve[name][place] for name in ('precision', 'recall', 'f1')]
        assert values == pytest.approx(naive.mean(curve['confidence'][place]), abs=1e-12)


@given(images(), st.sampled_from([0.1, 0.5, 3.0]))
def test_scores_that_are_only_lowered_change_nothing_at_equal_recall(drawn, power):
    """What a fixed confidence cannot tell from a change for the better."""
    lowered = [(boxes, scores**power / 2, *rest) for boxes, scores, *rest in drawn]
    before, after = (precision_recall(match_images(version, CLASSES, IOU)) for version in (drawn, lowered))
    assert before['curve'] == after['curve']
    for key, value in before['metrics'].items():
        if '_at_0.25' not in key and key != 'best_confidence':
            assert after['metrics'][key] == pytest.approx(value, abs=1e-12, nan_ok=True), key


@given(images(), st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(drawn, random):
    """As processes gather them in another order."""
    shuffled = random.sample(drawn, len(drawn))
    one, other = (precision_recall(match_images(version, CLASSES, IOU)) for version in (drawn, shuffled))
    assert one['metrics'] == pytest.approx(other['metrics'], nan_ok=True, abs=1e-12) and one['curve'] == other['curve']


SQUARE = np.array([[0, 0, 10, 10]], float)


def image(scores, labels, objects=(0,), crowd=()):
    """Detections on one square, whose objects and crowds are of the given classes."""
    return (
        np.repeat(SQUARE, len(scores), axis=0),
        np.array(scores, float),
        np.array(labels, int),
        np.repeat(SQUARE, len(objects) + len(crowd), axis=0),
        np.array([*objects, *crowd], int),
        np.array([False] * len(objects) + [True] * len(crowd), bool),
    )


def test_values_by_hand():
    drawn = [
        image([0.9, 0.8], [0, 0]),  # tp, fp: the object is taken
        image([0.4], [1], objects=[1, 0]),  # tp of class 1; class 0 missed
        image([0.2, 0.7], [0, 2], objects=[]),  # an empty image, two fp, one of a class without objects
        image([0.6], [0], objects=[], crowd=[0]),  # ignored; not empty
    ]
    metrics = precision_recall(match_images(drawn, CLASSES), recalls=(0.5, 0.9))['metrics']
    assert metrics == pytest.approx(
        {
            # 0.4: class 0 has tp 1, fp 1 of 2 objects; class 1 tp 1 of 1
            'best_confidence': 0.4,
            'precision': 0.75,
            'recall': 0.75,
            'f1': 0.75,
            'fp_per_image': 2 / 4,
            'fp_per_empty_image': 1.0,
            'fp_background': 1 / 4,
            'fp_place': 0,
            'fp_class': 0,
            'fp_duplicate': 1 / 4,
            'precision_at_0.25': 0.75,
            'recall_at_0.25': 0.75,
            'f1_at_0.25': 0.75,
            'fp_per_image_at_0.25': 2 / 4,
            'fp_per_empty_image_at_0.25': 1.0,
            'precision_at_recall_0.5': 1.0,
            'fp_per_image_at_recall_0.5': 2 / 4,
            'precision_at_recall_0.9': 0.5,
            'fp_per_image_at_recall_0.9': float('nan'),
        },
        nan_ok=True,
    )


@pytest.mark.parametrize(
    'x, label, expected',
    [
        (0, 0, 'duplicate'),  # IoU 1
        (5, 0, 'place'),  # 1/3
        (9, 0, 'background'),  # 1/19
        (0, 1, 'class'),
        (5, 1, 'class'),
        (9, 1, 'background'),
        (30, 0, 'background'),  # on a crowd
    ],
)
def test_kinds_of_mistakes_by_hand(x, label, expected):
    objects = np.array([[0, 0, 10, 10], [30, 0, 10, 10]], float)
    (kind,) = kinds_of_mistakes([[x, 0, 10, 10]], [label], objects, [0, 0], [False, True])
    assert MISTAKES[kind] == expected


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
    assert metrics['precision_at_recall_0.6'] == 0 and np.isnan(metrics['fp_per_image_at_recall_0.6'])
    assert len(report['curve']['precision']) == len(report['confidence_curve']['f1']) == 101


def test_iou_at_the_threshold_matches():
    boxes = np.array([[0, 0, 10, 5], [0, 0, 10, 4.99]])
    for box, expected in zip(boxes, (True, False)):
        tp, _ = match_boxes(box[None], [0.5], [0], SQUARE, [0])
        assert tp.tolist() == [expected]
    assert match_boxes(SQUARE, [0.5], [0], SQUARE, [0], iou_thr=1.0)[0].tolist() == [True]


def test_lengths_and_labels_are_checked():
    with pytest.raises(ValueError, match=r'as long as each other, but got 1, 2, 1 and 1, 1, 1'):
        match_boxes(SQUARE, [0.5, 0.4], [0], SQUARE, [0])
    with pytest.raises(ValueError, match=r'`labels` to be in \[0, 3\), the classes of the set, but got 1 to 3'):
        match_images([image([0.5, 0.5], [1, 3])], CLASSES)
    with pytest.raises(ValueError, match=r'`gt_labels` to be in \[0, 3\)'):
        match_images([image([], [], objects=[-1])], CLASSES)
