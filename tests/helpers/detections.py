"""Random images with detections and objects, and their evaluation by pycocotools."""

import numpy as np
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmyolo_bgpenalty.evaluation.matching import Detections, Truth

CLASSES = 3
IOU = 0.5
SQUARE = np.array([[0, 0, 10, 10]], float)


@st.composite
def images(draw, distinct=False):
    """Images with many overlapping boxes and one frequent class. Scores repeat unless ``distinct``.

    An image is a pair of ``Detections`` and ``Truth``.
    """
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
        pair = Detections(boxes(found), score[:found], labels(found)), Truth(boxes(real), labels(real), crowd)
        drawn.append(pair)
    return drawn


def image(scores, labels, objects=(0,), crowd=()):
    """Detections that all lie on one square, with objects and crowds of the given classes on it."""
    classes = np.array([*objects, *crowd], int)
    found = Detections(np.repeat(SQUARE, len(scores), axis=0), np.array(scores, float), np.array(labels, int))
    return found, Truth(np.repeat(SQUARE, len(classes), axis=0), classes, np.arange(len(classes)) >= len(objects))


def coco_eval(drawn) -> COCOeval:
    """Evaluate the images by pycocotools at one IoU, with all sizes and detections."""
    gt, dt = COCO(), COCO()
    categories = [dict(id=k + 1, name=str(k)) for k in range(CLASSES)]
    for coco in (gt, dt):
        coco.dataset = dict(images=[dict(id=i) for i in range(len(drawn))], categories=categories, annotations=[])
    for i, (found, truth) in enumerate(drawn):
        for b, score, k in zip(*(column.tolist() for column in found)):
            dt.dataset['annotations'].append(dict(image_id=i, category_id=k + 1, bbox=b, area=b[2] * b[3], score=score))
        for b, k, c in zip(*(column.tolist() for column in truth)):
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
