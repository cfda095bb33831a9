"""Write detections as labels for annotation tools: COCO json, YOLO txt and VOC xml. Needs NumPy, PyYAML and globox."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import yaml

from mmyolo_bgpenalty.utils.files import printable


class LabeledPicture(NamedTuple):
    file_name: str  # relative to the folder of the pictures
    width: int
    height: int
    boxes: np.ndarray  # (N, 4): x, y, width, height in pixels
    scores: np.ndarray  # (N,)
    labels: np.ndarray  # (N,), class indices


def coco_labels(pictures: Sequence[LabeledPicture], classes: Sequence[str]) -> dict:
    """A COCO set. All ids start at 1. Coordinates are rounded to 0.01 pixels. Annotations have a ``score``."""
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, picture in enumerate(pictures, 1):
        images.append(dict(id=image_id, file_name=picture.file_name, width=picture.width, height=picture.height))
        for box, score, label in zip(picture.boxes.tolist(), picture.scores.tolist(), picture.labels.tolist()):
            bbox = [round(value, 2) for value in box]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=label + 1,
                    bbox=bbox,
                    area=round(bbox[2] * bbox[3], 2),
                    iscrowd=0,
                    segmentation=[],
                    score=round(score, 5),
                )
            )
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
    return dict(images=images, annotations=annotations, categories=categories)


def yolo_labels(picture: LabeledPicture, with_score: bool = False) -> str:
    """A line ``class x y width height`` for each box: its centre and size as shares of the picture.

    ``with_score`` adds the score as the sixth column, as ``save_conf`` of Ultralytics does.
    """
    lines = []
    for (x, y, width, height), score, label in zip(picture.boxes.tolist(), picture.scores, picture.labels):
        centre = (x + width / 2) / picture.width, (y + height / 2) / picture.height
        size = width / picture.width, height / picture.height
        columns = [f'{value:.6f}' for value in (*centre, *size, *([score] if with_score else []))]
        lines.append(' '.join([str(label), *columns]) + '\n')
    return ''.join(lines)


def voc_labels(picture: LabeledPicture, classes: Sequence[str]) -> str:
    """Pascal VOC xml. Pixels are counted from 1. The format has no place for scores."""
    from globox import Annotation, BoundingBox  # only this format needs it

    boxes = []
    for (x, y, width, height), label in zip(picture.boxes.tolist(), picture.labels):
        left, top = round(x + 1, 2), round(y + 1, 2)
        right, bottom = max(round(x + width, 2), left), max(round(y + height, 2), top)  # these pixels are in the box
        boxes.append(BoundingBox(label=printable(classes[label]), xmin=left, ymin=top, xmax=right, ymax=bottom))
    annotation = Annotation(printable(PurePosixPath(picture.file_name).name), (picture.width, picture.height), boxes)
    return ElementTree.tostring(annotation.to_pascal_voc(), encoding='unicode')


def label_file(file_name: str, suffix: str = '.txt') -> str:
    """The label file of a picture: ``a/b.png`` -> ``a/b.txt``."""
    return str(PurePosixPath(file_name).with_suffix(suffix))


def yolo_data(classes: Sequence[str]) -> str:
    """The content of ``data.yaml``: the names of the classes, and the folder of the pictures, beside ``labels``."""
    content = dict(train='images', val='images', names=dict(enumerate(classes)))
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
