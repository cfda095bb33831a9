"""faster-coco-eval gives what pycocotools gives, through CocoMetric."""

import copy
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.evaluation import CocoMetric

from mmyolo_bgpenalty import PrecisionRecallMetric
from mmyolo_bgpenalty.evaluation.coco_backend import FasterCOCOeval

CLASSES = ('a', 'b', 'c')
ITEMS = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@100', 'AR@300', 'AR@1000']
ITEMS += ['AR_s@1000', 'AR_m@1000', 'AR_l@1000']
pytest.importorskip('faster_coco_eval')


@st.composite
def sets(draw):
    """A COCO set with crowd and ignored boxes, images and classes without any, and detections with ties."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    most, grid = draw(st.sampled_from([3, 120])), draw(st.sampled_from([1, 40]))
    first_id, images = draw(st.integers(0, 1)), draw(st.integers(1, 4))
    annotations, results = [], []
    for image in range(images):
        corners = np.round(rng.uniform(0, 200, (rng.integers(0, 5), 2)) / grid) * grid
        sides = np.round(rng.uniform(8, 150, corners.shape) / grid).clip(1) * grid
        labels = rng.integers(0, draw(st.integers(1, 3)), len(corners))
        for corner, side, label in zip(corners, sides, labels):
            annotation = dict(id=len(annotations) + first_id, image_id=image, category_id=int(label) * 2 + 1)
            annotation.update(bbox=[*corner.tolist(), *side.tolist()], area=float(side.prod()))
            annotation.update(iscrowd=int(rng.random() < 0.2), ignore=int(rng.random() < 0.2))
            annotations.append(annotation)
        number = rng.integers(0, most + 1)
        of = rng.integers(0, max(len(corners), 1), number)
        boxes = (
            np.concatenate([corners, corners + sides], 1)[of]
            if len(corners)
            else np.tile([0.0, 0, 50, 50], (number, 1))
        )
        boxes = boxes + rng.normal(0, draw(st.sampled_from([0, 8])), boxes.shape) * [1, 1, 0, 0]
        found = np.where(rng.random(number) < 0.8, labels[of] if len(corners) else 0, rng.integers(0, 3, number))
        scores = np.round(rng.random(number), draw(st.sampled_from([1, 6])))
        result = dict(bboxes=boxes.astype(np.float32), scores=scores.astype(np.float32), labels=found.astype(int))
        results.append((dict(img_id=image, width=400, height=400), dict(img_id=image, **result)))
    categories = [dict(id=2 * i + 1, name=name) for i, name in enumerate(CLASSES)]
    entries = [dict(id=image, width=400, height=400, file_name=f'{image}.png') for image in range(images)]
    return dict(images=entries, annotations=annotations, categories=categories), results


def metric(file, coco, **kwargs):
    file.write_text(json.dumps(coco))
    built = PrecisionRecallMetric(ann_file=str(file), coco=True, **kwargs)
    built.dataset_meta = dict(classes=CLASSES)
    return built


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    return tmp_path_factory.mktemp('set') / 'coco.json'


def recorded(monkeypatch, owner):
    """The evaluators that ``owner``, a class, has summarized: their figures are not rounded."""
    made, summarize = [], owner.summarize
    monkeypatch.setattr(owner, 'summarize', lambda self: (made.append(self), summarize(self)))
    return made


@settings(max_examples=40)
@given(content=sets(), kind=st.sampled_from(['bbox', 'proposal', ['bbox', 'proposal']]), many=st.booleans())
def test_every_figure_is_the_same(file, content, kind, many):
    coco, results = content
    kwargs = dict(metric=kind, classwise=True, proposal_nums=(100, 300, 1000) if many else (100, 1, 10))
    if kind == 'bbox':
        kwargs['metric_items'] = ITEMS
    figures, exact = [], []
    for backend in ('pycocotools', 'faster'):
        with pytest.MonkeyPatch.context() as patch:
            evaluators = recorded(patch, FasterCOCOeval.__base__)
            figures.append(metric(file, coco, coco_backend=backend, **kwargs).compute_metrics(copy.deepcopy(results)))
        assert {type(e) for e in evaluators} <= {FasterCOCOeval if backend == 'faster' else FasterCOCOeval.__base__}
        exact.append([(e.stats, e.eval['precision'], e.eval['recall'], e.eval['scores']) for e in evaluators])
    assert figures[0].keys() == figures[1].keys()
    np.testing.assert_allclose([*figures[1].values()], [*figures[0].values()], rtol=0, atol=1e-6)
    assert len(exact[0]) == len(exact[1])
    for expected, found in zip(*exact):
        for one, other in zip(expected, found):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)


@pytest.fixture
def few(file):
    coco = dict(
        images=[dict(id=1, width=100, height=100, file_name='1.png')],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
        annotations=[
            dict(id=i, image_id=1, category_id=1, bbox=[20 * i, 5, 10, 10], area=100, iscrowd=0, ignore=int(i == 2))
            for i in (1, 2, 3)
        ],
    )
    boxes = np.array([[20, 5, 30, 15], [40, 5, 50, 15]], np.float32)
    result = dict(img_id=1, bboxes=boxes, scores=np.array([0.5, 0.9], np.float32), labels=np.zeros(2, int))
    return coco, [(dict(img_id=1, width=100, height=100), result)]


@pytest.mark.parametrize('backend', ['pycocotools', 'faster'])
def test_a_second_evaluation_says_the_same(file, few, backend):
    """Evaluators write into the annotations."""
    coco, results = few
    built = metric(file, coco, coco_backend=backend)
    first = built.compute_metrics(results)
    np.testing.assert_equal(built.compute_metrics(results), first)
    assert first['pr/precision_at_0.25'] == 1 and first['pr/recall_at_0.25'] == 0.5


def test_detections_are_written_where_they_are_wanted(file, few, tmp_path, monkeypatch):
    coco, results = few
    dumped = []
    import mmdet.evaluation.metrics.coco_metric as module

    dump = module.dump
    monkeypatch.setattr(module, 'dump', lambda content, path: (dumped.append(path), dump(content, path)))
    metric(file, coco).compute_metrics(results)
    assert dumped == []
    prefix = str(tmp_path / 'out')
    metric(file, coco, outfile_prefix=prefix).compute_metrics(results)
    assert dumped == [f'{prefix}.bbox.json'] and len(json.loads((tmp_path / 'out.bbox.json').read_text())) == 2


def test_mmdetections_own_method_is_left_alone(file, few):
    coco, results = few
    before = dict(CocoMetric.compute_metrics.__globals__)
    metric(file, coco).compute_metrics(results)
    assert {**CocoMetric.compute_metrics.__globals__} == before


def test_auto_takes_it_where_it_can(file, few, monkeypatch):
    coco, _ = few
    assert metric(file, coco)._faster
    assert not metric(file, coco, coco_backend='pycocotools')._faster
    assert not metric(file, coco, use_mp_eval=True)._faster
    with pytest.raises(ValueError, match='use_mp_eval'):
        metric(file, coco, use_mp_eval=True, coco_backend='faster')
    assert not metric(file, coco, metric=['bbox', 'segm'])._faster
    with pytest.raises(ValueError, match="`coco_backend` to be.*'fast'"):
        metric(file, coco, coco_backend='fast')
    monkeypatch.setitem(sys.modules, 'faster_coco_eval', None)
    assert not metric(file, coco)._faster
    with pytest.raises(ValueError, match='`coco_backend`.*pip install faster-coco-eval'):
        metric(file, coco, coco_backend='faster')


def test_ids_that_are_no_numbers_stay_with_pycocotools(file, few):
    coco, results = few
    for entry in coco['annotations']:
        entry['image_id'] = 'one'
    coco['images'][0]['id'] = 'one'
    for entry in results[0]:
        entry['img_id'] = 'one'
    built = metric(file, coco)
    assert not built._faster and built.compute_metrics(results)['coco/bbox_mAP_50'] > 0
    with pytest.raises(ValueError, match="`image_id` of an annotation is 'one'"):
        metric(file, coco, coco_backend='faster')
    samples = PrecisionRecallMetric(coco=True)  # without a file the ids are the data samples'
    samples.dataset_meta = dict(classes=CLASSES)
    truth = dict(results[0][0], anns=[dict(bbox=[20, 5, 30, 15], bbox_label=0, ignore_flag=0)])
    assert samples.compute_metrics([(truth, results[0][1])])['coco/bbox_mAP_50'] > 0
