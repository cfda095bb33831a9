"""Ids and fields of the json file, and which images are evaluated."""

import copy
import json
import logging

import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from mmengine.evaluator import Evaluator

from mmyolo_bgpenalty import PrecisionRecallMetric
from mmyolo_bgpenalty.utils.coco_json import with_own_ids

CLASSES = ('square', 'disc', 'bar')
LABELS = (2, 0, 1, 0)  # of the boxes of an image


def coco_set(image_ids=(1, 2, 3), category_ids=(1, 2, 3), first=1):
    """Images with four boxes each."""
    images = [dict(id=i, file_name=f'{n}.jpg', width=80, height=64) for n, i in enumerate(image_ids)]
    categories = [dict(id=i, name=name) for i, name in zip(category_ids, CLASSES)]
    annotations = [
        dict(image_id=image, category_id=category_ids[label], bbox=[18 * n, 9 * n, 16, 12], area=192, iscrowd=0)
        for image in image_ids
        for n, label in enumerate(LABELS)
    ]
    for number, annotation in enumerate(annotations, first):
        annotation['id'] = number
    return dict(images=images, categories=categories, annotations=annotations)


def perfect(coco, keep=slice(None)):
    """The predictions of a perfect detector. ``keep``: which images."""
    ids = [category['id'] for category in coco['categories']]
    samples = []
    for image in coco['images'][keep]:
        objects = [a for a in coco['annotations'] if a['image_id'] == image['id']]
        boxes = torch.tensor([a['bbox'] for a in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([ids.index(a['category_id']) for a in objects])
        found = dict(bboxes=boxes, scores=torch.linspace(0.5, 0.9, len(boxes)), labels=labels)
        samples.append(dict(img_id=image['id'], ori_shape=(64, 80), pred_instances=found))
    return samples


def evaluate(tmp_path, coco, samples, **kwargs):
    (tmp_path / 'set.json').write_text(json.dumps(coco))
    options = dict(ann_file=str(tmp_path / 'set.json'), coco=True, classwise=True, **kwargs)
    evaluator = Evaluator([PrecisionRecallMetric(**options)])
    evaluator.dataset_meta = dict(classes=CLASSES)
    evaluator.metrics[0].process({}, samples)
    return evaluator.evaluate(len(samples))


def test_without_json_and_objects():
    """MMDetection then writes a set without the key `annotations`."""
    evaluator = Evaluator([PrecisionRecallMetric(coco=True)])
    evaluator.dataset_meta = dict(classes=CLASSES)
    found = dict(bboxes=torch.tensor([[1.0, 1, 9, 9]]), scores=torch.tensor([0.9]), labels=torch.tensor([0]))
    evaluator.metrics[0].process({}, [dict(img_id=0, ori_shape=(64, 80), pred_instances=found, instances=[])])
    result = evaluator.evaluate(1)
    assert result['coco/bbox_mAP'] == -1 and result['pr/fp_per_image'] == 1


def fields(**values):
    return lambda coco: [annotation.update(values) for annotation in coco['annotations']]


def renumbered(place):
    return lambda coco: [a.update(id=place(number)) for number, a in enumerate(coco['annotations'])]


SETS = {
    'annotations from 0': (coco_set(first=0), None),
    'negative annotations': (coco_set(first=-5), None),
    'huge annotations': (coco_set(first=10**18), None),
    'annotations as text': (coco_set(), renumbered(lambda number: f'box {number}')),
    'annotations with fractions': (coco_set(), renumbered(lambda number: number + 0.5)),
    'images from 0': (coco_set(image_ids=(0, 1, 2)), None),
    'images as text': (coco_set(image_ids=('b', 'a', 'ø c')), None),
    'huge images': (coco_set(image_ids=(2**70, 15 * 10**17, 2**63)), None),
    'negative images': (coco_set(image_ids=(-1, -7, -3)), None),
    'images with fractions': (coco_set(image_ids=(0.5, 0.25, 7.75)), None),
    'huge categories': (coco_set(category_ids=(10**18, 10**18 + 1, 5)), None),
    'categories as text': (coco_set(category_ids=('x', 'b', 'a')), None),
    'categories from 0 down': (coco_set(category_ids=(0, -1, -2)), None),
    'no iscrowd': (coco_set(), lambda coco: [a.pop('iscrowd') for a in coco['annotations']]),
    'iscrowd null': (coco_set(), fields(iscrowd=None)),
    'ignore null': (coco_set(), fields(ignore=None)),
    'iscrowd with a fraction': (coco_set(), fields(iscrowd=0.0)),
}


@pytest.mark.parametrize('name', SETS)
def test_perfect_predictions_are_perfect_with_any_ids_and_fields(name, tmp_path):
    coco, change = copy.deepcopy(SETS[name])
    if change:
        change(coco)
    result = evaluate(tmp_path, coco, perfect(coco))
    ones = ['coco/bbox_mAP', 'coco/bbox_mAP_50', 'pr/precision', 'pr/recall', 'pr/square_ap']
    ones += [f'coco/{name}_precision' for name in CLASSES]
    assert {key: result[key] for key in ones} == dict.fromkeys(ones, 1.0)
    # faster-coco-eval, which the fork of MMDetection can use
    own = with_own_ids(coco, {image['id']: number for number, image in enumerate(coco['images'], 1)})
    truth, columns = COCO(own), ('image_id', 'category_id', 'bbox')
    found = truth.loadRes([dict({key: a[key] for key in columns}, score=0.9) for a in own['annotations']])
    evaluation = COCOeval_faster(truth, found, 'bbox', print_function=lambda *args: None)
    evaluation.run()
    assert evaluation.stats[0] == pytest.approx(1)


def test_values_of_classes_are_theirs_if_the_ids_are_not_sorted(tmp_path):
    """Only discs are found. MMDetection takes the values of the classes in the order of their ids."""
    coco = coco_set(category_ids=(9, 5, 7))
    samples = perfect(coco)
    for sample in samples:
        found = sample['pred_instances']
        kept = found['labels'] == 1
        sample['pred_instances'] = {key: values[kept] for key, values in found.items()}
    result = evaluate(tmp_path, coco, samples)
    assert [result[f'coco/{name}_precision'] for name in CLASSES] == [0, 1, 0]
    assert [result[f'pr/{name}_ap'] for name in CLASSES] == [0, 1, 0]


def test_result_files_have_the_ids_of_the_set(tmp_path):
    coco = coco_set(image_ids=('b', 'a', 'c'), category_ids=(0, 10**18, 5))
    for kwargs in (dict(), dict(format_only=True)):
        evaluate(tmp_path, coco, perfect(coco), outfile_prefix=str(tmp_path / 'found'), **kwargs)
        found = json.loads((tmp_path / 'found.bbox.json').read_text())
        stated = [(a['image_id'], a['category_id'], a['bbox']) for a in coco['annotations']]
        assert [(box['image_id'], box['category_id'], box['bbox']) for box in found] == stated
        (tmp_path / 'found.bbox.json').unlink()


def test_images_that_the_loader_does_not_give_do_not_count(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(
        'mmyolo_bgpenalty.evaluation.metric.print_log', lambda text, **kwargs: lines.append((text, kwargs))
    )
    coco = coco_set()
    result = evaluate(tmp_path, coco, perfect(coco, slice(1, 2)))
    assert result['coco/bbox_mAP'] == result['pr/recall'] == 1 and result['pr/fp_per_image'] == 0
    ((text, options),) = lines
    assert text == f'The metrics are of 1 of the 3 images in {tmp_path}/set.json: the data loader gives no others'
    assert options['level'] == logging.WARNING


def turned(samples):
    samples[1]['ori_shape'] = (80, 64)
    return samples


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda samples: samples + samples[2:], r'one prediction for each image id, but 1 ids are repeated, such as 3'),
        (
            turned,
            r'set.json: the boxes of 1.jpg do not fit, because it is 64 x 80, but its annotation says 80 x 64; its',
        ),
    ],
)
def test_wrong_images_are_refused(change, message, tmp_path):
    coco = coco_set()
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path, coco, change(perfect(coco)))
    coco['annotations'].clear()  # without boxes the size does not matter
    if change is turned:
        evaluate(tmp_path, coco, turned(perfect(coco)))
