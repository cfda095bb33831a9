"""Whole trainings in their own processes: the pictures, the clock, and the ratios."""

import argparse
import json

import pytest

from mmyolo_bgpenalty.cli.benchmark import benchmark, whole_trainings
from mmyolo_bgpenalty.cli.benchmark.scenes import Shape
from mmyolo_bgpenalty.cli.benchmark.whole_trainings import DISTINCT, Speed, train, write_pictures
from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.image_files import image_names, image_size


def test_both_formats_have_the_same_boxes(tmp_path):
    write_pictures(tmp_path / 'set', DISTINCT + 2, Shape(1, 48, 96, 3, 4))
    coco = read_coco(str(tmp_path / 'set/train.json'), training=True)
    assert image_names(tmp_path / 'set/images') == [image['file_name'] for image in coco['images']]
    for image in coco['images']:
        assert image_size(tmp_path / 'set/images' / image['file_name']) == (96, 48)
        lines = (tmp_path / f'set/labels/{image["id"]:05}.txt').read_text().splitlines()
        boxes = [one for one in coco['annotations'] if one['image_id'] == image['id']]
        assert len(lines) == len(boxes) == 4
        for line, one in zip(lines, boxes):
            label, x, y, width, height = map(float, line.split())
            corner = [(x - width / 2) * 96, (y - height / 2) * 48, width * 96, height * 48]
            assert label == one['category_id'] and corner == pytest.approx(one['bbox'])


@pytest.mark.parametrize('which', ['ours', 'MMYOLO', 'semi'])
def test_a_real_training_is_timed(tmp_path, which):
    shape = Shape(2, 64, 64, 3, 3)
    write_pictures(tmp_path / 'set', 8, Shape(1, 48, 64, 3, 3))
    speed = train(which, tmp_path / 'set', shape, 0, 2)
    assert speed.waiting is not None and 0 < speed.waiting < speed.iteration < 60


def test_a_failed_training_shows_its_output(tmp_path):
    write_pictures(tmp_path / 'set', 2, Shape(1, 48, 64, 3, 3))
    (tmp_path / 'set/train.json').write_text('{}')
    with pytest.raises(RuntimeError, match='ours: no training: .*train.json'):
        train('ours', tmp_path / 'set', Shape(2, 64, 64, 3, 3), 0, 1)


def test_ratios_are_of_the_same_round(monkeypatch):
    calls = []

    def stand_in(which, folder, shape, workers, iterations, device):
        calls.append(which)
        slow = 1 + calls.count(which)  # each round is slower than the one before
        return Speed(slow * dict(ours=1.0, MMYOLO=2.0, Ultralytics=4.0, semi=1.0)[which], 0.25 * slow)

    monkeypatch.setattr(whole_trainings, 'train', stand_in)
    monkeypatch.setattr(whole_trainings, 'find_spec', lambda name: name)
    args = argparse.Namespace(pairs=36, device='cpu', quick=True)
    to_mmyolo, to_ultralytics = benchmark.process_rows('training', args)
    assert (to_mmyolo.ratio.median, to_ultralytics.ratio.median) == (0.5, 0.25) and to_mmyolo.ratio.number == 6
    rounds = [calls[i : i + 3] for i in range(0, 18, 3)]
    assert all(sorted(one) == ['MMYOLO', 'Ultralytics', 'ours'] for one in rounds) and len(set(map(tuple, rounds))) > 1
    assert to_mmyolo.note == '0.44 pictures a second, 0.22 with MMYOLO'  # 2 pictures in the median of 2 to 7 s
    (row,) = benchmark.process_rows('data', args)
    assert row.ratio.median == 0.25 and json.dumps(row)
