"""Likely missing labels: places where every run finds an object that nobody has marked."""

from collections.abc import Sequence

import numpy as np

from mmyolo_bgpenalty.cli.report.sources import Run
from mmyolo_bgpenalty.evaluation.judged import judged, partner_scores
from mmyolo_bgpenalty.evaluation.matching import MISTAKES
from mmyolo_bgpenalty.utils.label_export import LabeledPicture, coco_labels


def suggestions(runs: Sequence[Run], score_thr: float) -> dict:
    """A COCO set of the false positives on background that all runs have with a score of at least ``score_thr``.

    The boxes are those of the first run, and their scores are means over the runs. It has only images with a box.
    """
    source = runs[0].source
    first, *others = (judged(run.found, source.truth, source.iou_thr) for run in runs)
    scores = np.stack([first.scores, *(partner_scores(first, other) for other in others)])
    chosen = (first.kinds == MISTAKES.index('background')) & (scores.min(axis=0) >= score_thr)
    pictures = []
    for place in np.unique(first.image[chosen]).astype(int):
        here, image = chosen & (first.image == place), source.images[place]
        found = first.boxes[here], scores.mean(axis=0)[here], first.labels[here]
        pictures.append(LabeledPicture(image['file_name'], image.get('width', 0), image.get('height', 0), *found))
    return coco_labels(pictures, source.classes)
