"""Labels for annotation tools: what is written can be read again."""

import json

import numpy as np
import pytest
import yaml

from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.label_export import LabeledPicture, coco_labels, label_file, yolo_data, yolo_labels

CLASSES = ['cell', 'crack: "new"', 'no']


@pytest.fixture(scope='module')
def pictures():
    rng = np.random.default_rng(0)
    made = []
    for number in range(4):
        boxes = np.concatenate([rng.uniform(0, 300, (number, 2)), rng.uniform(1, 100, (number, 2))], axis=1)
        name = f'folder/päth {number}.png'
        made.append(LabeledPicture(name, 640, 413, boxes, rng.random(number), rng.integers(0, 3, number)))
    return made


def test_a_coco_set_is_read_without_complaint(pictures, tmp_path):
    (tmp_path / 'set.json').write_text(json.dumps(coco_labels(pictures, CLASSES)))
    coco = read_coco(tmp_path / 'set.json', training=True)
    assert [category['name'] for category in coco['categories']] == CLASSES
    for name in ('images', 'annotations', 'categories'):
        assert [entry['id'] for entry in coco[name]] == list(range(1, len(coco[name]) + 1))
    assert [(i['file_name'], i['width'], i['height']) for i in coco['images']] == [p[:3] for p in pictures]
    for image, picture in zip(coco['images'], pictures):
        rows = [a for a in coco['annotations'] if a['image_id'] == image['id']]
        np.testing.assert_allclose(np.reshape([a['bbox'] for a in rows], (-1, 4)), picture.boxes, atol=0.005)
        np.testing.assert_allclose([a['score'] for a in rows], picture.scores, atol=1e-5)
        assert [a['category_id'] - 1 for a in rows] == picture.labels.tolist()
        assert all(a['area'] == pytest.approx(a['bbox'][2] * a['bbox'][3], abs=0.01) for a in rows)
        assert {a['iscrowd'] for a in rows} <= {0}


@pytest.mark.parametrize('with_score', [False, True])
def test_yolo_lines_are_the_boxes_within_rounding(with_score, pictures):
    assert yolo_labels(pictures[0]) == ''
    for picture in pictures:
        rows = np.array([line.split() for line in yolo_labels(picture, with_score).splitlines()], float)
        rows = rows.reshape(-1, 6 if with_score else 5)
        centre, size = rows[:, 1:3] * (640, 413), rows[:, 3:5] * (640, 413)
        np.testing.assert_allclose(np.concatenate([centre - size / 2, size], axis=1), picture.boxes, atol=1e-3)
        assert rows[:, 0].tolist() == picture.labels.tolist()
        if with_score:
            np.testing.assert_allclose(rows[:, 5], picture.scores, atol=1e-6)


def test_label_files_and_names():
    assert label_file('a.b/c.d.png') == 'a.b/c.d.txt'
    assert yaml.safe_load(yolo_data(CLASSES)) == dict(train='images', val='images', names=dict(enumerate(CLASSES)))
