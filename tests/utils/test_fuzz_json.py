"""COCO sets with random mistakes, for everything that reads them.

A reader either raises a ValueError that names the file, or reads the labels that the file has.
"""

import contextlib
import copy
import io
import json
import logging
import math
import shutil
import warnings
from collections import Counter
from gc import freeze, unfreeze

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmyolo_bgpenalty import CheckedCocoDataset, PrecisionRecallMetric
from mmyolo_bgpenalty.cli.data.split import main as split_dataset
from mmyolo_bgpenalty.config_check import check, evaluation
from mmyolo_bgpenalty.config_check.findings import run_checks
from mmyolo_bgpenalty.config_check.parts import ConfigParts
from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.files import printable

CLASSES = ('square', 'disc', 'bar')
GOOD = dict(
    info=dict(year=2024, license=None),
    images=[dict(id=i, file_name=f'{i}.png', width=80, height=64) for i in range(5)],
    categories=[dict(id=i + 1, name=name, supercategory='') for i, name in enumerate(CLASSES)],
    annotations=[
        dict(
            id=i,
            image_id=i % 4,
            category_id=1 + i % 3,
            bbox=[4 * i, 3, 20, 10 + i],
            area=20 * (10 + i),
            iscrowd=int(i == 5),
            segmentation=[[0, 0, 9, 0, 9, 9]],
        )
        for i in range(7)
    ],
)
ODD = (
    *(None, True, False, 0, 1, 2, -1, -0.0, 0.5, 79, 1e-320, 1e-9, 1e30, 1e39, 1e308, -1e308, 2**31, 2**64, 10**400),
    *(math.nan, math.inf, -math.inf, '', '0', 'square', 'nan', 'a\0b', '\ud800', '\udcff', '../../x', '.', 'x' * 300),
    *([], [0], [1, 2, 3], [0, 0, 9, 9], [1e308] * 4, [math.nan] * 4, [-1e308, 0, 1e308, 9], [0, 0, 10**308, 10**308]),
    *({}, {'id': 1}, {'counts': 'x', 'size': [1, 1]}),
)
KEYS = ('id', 'bbox', 'ignore', 'iscrowd', 'segmentation', 'img_id', 'instances', '', 'ä', '\ud800')
ENCODINGS = ('utf-8', 'utf-8', 'utf-8', 'utf-8-sig', 'utf-16')


@st.composite
def spoilt(draw):
    """The bytes of GOOD with up to three mistakes. Some examples also lack one byte."""
    root = dict(set=copy.deepcopy(GOOD))
    for _ in range(draw(st.integers(0, 3))):
        node, key = root, 'set'
        for _ in range(draw(st.sampled_from((0, 1, 2, 3, 3, 4, 4)))):
            inner = node[key]
            if not isinstance(inner, (dict, list)) or not inner:
                break
            node, key = inner, draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(len(inner))))
        odd = copy.deepcopy(draw(st.sampled_from(ODD)))
        kind = draw(st.sampled_from(('replace', 'replace', 'delete', 'change')))
        if kind == 'replace':
            node[key] = odd
        elif kind == 'delete' and node is not root:
            del node[key]
        elif isinstance(node, list):
            other = draw(st.integers(0, len(node) - 1))
            node[key], node[other] = node[other], node[draw(st.sampled_from((key, other)))]
        elif node is not root:
            node[draw(st.sampled_from(KEYS))] = odd
    text = json.dumps(root['set'], ensure_ascii=draw(st.booleans()))
    content = text.encode(draw(st.sampled_from(ENCODINGS)), 'surrogatepass')
    cut = draw(st.integers(0, 8 * len(content)))
    return content[:cut] + content[cut + 1 :]  # `cut` is mostly beyond the end


def read(file):
    for training in (False, True):
        accepted = read_coco(file, training=training)
        assert accepted['images'] and accepted['categories']


def split(file):
    folder = file.with_name('parts')
    shutil.rmtree(folder, ignore_errors=True)
    # stdout takes only valid UTF-8, as a terminal does
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding='utf-8')):
        try:
            split_dataset.__wrapped__([str(file), '--percent', '40', '--out', str(folder)])
        except ValueError as error:
            few = 'leave an image in each part' in str(error)
            raise ValueError(f'{file}: {error}' if few else str(error)) from None
    parts = [read_coco(part) for part in folder.iterdir()]
    whole = read_coco(file)
    for name in ('images', 'annotations'):
        rows = [sorted(json.dumps(row, sort_keys=True) for row in coco[name]) for coco in (whole, *parts)]
        assert rows[0] == sorted(rows[1] + rows[2]), name


def dataset(file):
    common = dict(ann_file=str(file), data_prefix=dict(img='images/'), metainfo=dict(classes=CLASSES), pipeline=[])
    shapes = dict(type='BatchShapePolicy', batch_size=2, img_size=64, size_divisor=32, extra_pad_ratio=0.5)
    labels_are_those_of_the_file(CheckedCocoDataset(test_mode=True, batch_shapes_cfg=shapes, **common), file)
    trained = CheckedCocoDataset(filter_cfg=dict(filter_empty_gt=True, min_size=2), **common)
    labels_are_those_of_the_file(trained, file, filtered=True)


def labels_are_those_of_the_file(dataset, file, filtered=False):
    coco = read_coco(file, training=True)
    names = {category['id']: category['name'] for category in coco['categories']}
    sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
    expected = {image['id']: Counter() for image in coco['images']}
    for entry in coco['annotations']:
        (x, y, w, h), (right, bottom) = entry['bbox'], sizes[entry['image_id']]
        inside = min(x + w, right) > max(x, 0) and min(y + h, bottom) > max(y, 0)
        counts = inside and entry['area'] > 0 and min(w, h) >= 1 and not entry.get('ignore')
        if counts and names[entry['category_id']] in CLASSES:
            row = (x, y, x + w, y + h, names[entry['category_id']], bool(entry.get('iscrowd')))
            expected[entry['image_id']][row] += 1
    seen = set()
    for place in range(len(dataset)):
        info = dataset.get_data_info(place)
        assert np.isfinite(np.array([entry['bbox'] for entry in info['instances']], dtype=np.float32)).all()
        rows = Counter(
            (*entry['bbox'], dataset.metainfo['classes'][entry['bbox_label']], bool(entry['ignore_flag']))
            for entry in info['instances']
        )
        assert rows == expected[info['img_id']]
        seen.add(info['img_id'])
    assert len(seen) == len(dataset)
    for image in expected.keys() - seen:
        assert filtered and (not expected[image] or min(sizes[image]) < 2)


def metric(file):
    """If the predictions are all boxes of the file, recall and precision are 1."""
    metric = PrecisionRecallMetric(ann_file=str(file), coco=True)
    metric.dataset_meta = dict(classes=CLASSES)
    dataset = CheckedCocoDataset(
        ann_file=str(file), data_prefix=dict(img=''), metainfo=dict(classes=CLASSES), pipeline=[], test_mode=True
    )
    number = 0
    for place in range(len(dataset)):
        info = dataset.get_data_info(place)
        objects = [instance for instance in info['instances'] if not instance['ignore_flag']]
        number += len(objects)
        found = dict(
            bboxes=torch.tensor([entry['bbox'] for entry in objects], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([entry['bbox_label'] for entry in objects], dtype=torch.long),
            scores=torch.linspace(0.5, 0.9, len(objects)),
        )
        shape = info['height'], info['width']
        metric.process({}, [dict(img_id=info['img_id'], ori_shape=shape, pred_instances=found)])
    figures = metric.evaluate(len(dataset))
    annotations = read_coco(file)['annotations']
    largest = max((abs(side) for entry in annotations for side in entry['bbox']), default=math.inf)
    if number == len(annotations) and largest < 1e4:
        assert figures['pr/recall'] == figures['pr/precision'] == 1, figures


def config_check(file):
    """The file is the labeled set, then the unlabeled set, then validation set and evaluator, then evaluator only."""
    good = file.with_name('good.json')
    good.write_text(json.dumps(GOOD))
    faults = []
    for spoilt in ('labeled', 'unlabeled', 'val evaluator', 'evaluator'):
        places = [file if name in spoilt.split() else good for name in ('labeled', 'unlabeled', 'val', 'evaluator')]
        sets = [
            dict(type='CheckedCocoDataset', ann_file=str(path), metainfo=dict(classes=CLASSES)) for path in places[:3]
        ]
        cfg = dict(
            train_dataloader=dict(
                dataset=dict(type='LabeledUnlabeledDataset', labeled=sets[0], unlabeled=sets[1]),
                sampler=dict(type='GroupMultiSourceSampler'),
            ),
            val_dataloader=dict(dataset=sets[2]),
            val_evaluator=dict(type='PrecisionRecallMetric', ann_file=str(places[3])),
        )
        for finding in run_checks((*check.FILES, evaluation.check_evaluator_files), ConfigParts(cfg)):
            assert 'not checked, because' not in finding.what and printable(finding) == str(finding)
            faults += [finding.what] if finding.level == 'error' and f'{file}: ' in finding.what else []
    if faults:
        raise ValueError(faults[0])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    init_default_scope('mmyolo')
    freeze()  # saves time: MMEngine collects garbage for each dataset, and torch has many objects
    yield tmp_path_factory.mktemp('json')
    unfreeze()
    logger.setLevel(level)


@pytest.mark.parametrize('reader', [read, split, dataset, metric, config_check])
def test_mistakes_in_json_are_errors_that_name_the_file(folder, reader):
    file = folder / 'set.json'
    outcomes = set()

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(spoilt())
    def one(content):
        file.write_bytes(content)
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter('error', RuntimeWarning)
                reader(file)
            outcomes.add('accepted')
        except ValueError as error:
            assert str(file) in str(error) and printable(error) == str(error)
            outcomes.add('refused')

    one()
    assert outcomes == {'accepted', 'refused'}
