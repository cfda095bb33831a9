import copy
import json
import math

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS as MMDET_METRICS
from mmdet.structures import DetDataSample
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import METRICS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from mmyolo_bgpenalty import PrecisionRecallMetric
from mmyolo_bgpenalty.evaluation.false_alarms import false_alarms
from mmyolo_bgpenalty.evaluation.matching import Detections, Truth, match_images, xywh
from mmyolo_bgpenalty.evaluation.precision_recall import RECALLS_SHOWN, precision_recall
from tests.helpers.processes import in_two_processes
from tests.helpers.tiny import CLASSES, SEMI, load, make_images, make_set


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The tiny set, and 9 images: one of them is empty, and one has only crowd boxes."""
    root = make_set(tmp_path_factory.mktemp('set'))
    make_images(root, 'crowd', 9, seed=7)
    coco = json.loads((root / 'crowd.json').read_text())
    coco['annotations'] = [a for a in coco['annotations'] if a['image_id'] != 3]
    for annotation in coco['annotations']:
        annotation['iscrowd'] = int(annotation['image_id'] == 4 or annotation['id'] % 5 == 0)
    (root / 'crowd.json').write_text(json.dumps(coco))
    return root


@pytest.fixture(scope='module')
def crowd(data):
    return str(data / 'crowd.json')


@pytest.fixture(scope='module')
def coco(data):
    return json.loads((data / 'crowd.json').read_text())


def xyxy(box):
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


@pytest.fixture(scope='module')
def samples(coco):
    """Results of a detector: it misses some objects, finds others twice, and finds boxes without objects."""
    rng = np.random.default_rng(1)
    found = []
    for entry in coco['images']:
        objects = [a for a in coco['annotations'] if a['image_id'] == entry['id']]
        seen = [a for a in objects if a is not objects[0] or entry['id']]
        rows = [(xyxy(a['bbox']), a['category_id'] - 1) for a in seen for _ in range(rng.integers(0, 3))]
        rows = [(np.array(box) + rng.normal(0, 2, 4), label) for box, label in rows]
        rows += [(np.array(xyxy(rng.integers(5, 30, 4))), rng.integers(3)) for _ in range(rng.integers(1, 3))]
        instances = [
            dict(bbox=xyxy(a['bbox']), bbox_label=a['category_id'] - 1, ignore_flag=a['iscrowd']) for a in objects
        ]
        sample = DetDataSample(metainfo=dict(img_id=entry['id'], ori_shape=(64, 80), instances=instances))
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor(np.array([box for box, _ in rows]), dtype=torch.float32),
            scores=torch.tensor(rng.random(len(rows)), dtype=torch.float32),
            labels=torch.tensor([int(label) for _, label in rows]),
        )
        found.append(sample)
    return found


def evaluate(samples, classes=CLASSES, type='PrecisionRecallMetric', size=None, **kwargs):
    """Evaluate as a loop does. The metric is built by its registered name."""
    with DefaultScope.overwrite_default_scope('mmyolo'):
        evaluator = Evaluator([dict(type=type, **kwargs)])
    evaluator.dataset_meta = dict(classes=classes)
    for sample in samples:
        evaluator.process([sample])
    return evaluator.evaluate(size or len(samples))


@pytest.fixture(scope='module')
def numbers(crowd, samples):
    return evaluate(samples, ann_file=crowd)


def expected_report(coco, samples, iou_thr=0.5, **kwargs):
    images = []
    for sample in samples:
        objects = [a for a in coco['annotations'] if a['image_id'] == sample.img_id]
        pred = sample.pred_instances.numpy()
        truth = Truth(
            np.array([a['bbox'] for a in objects], float).reshape(-1, 4),
            np.array([a['category_id'] - 1 for a in objects], int),
            np.array([a['iscrowd'] for a in objects], bool),
        )
        images.append((Detections(xywh(pred.bboxes), pred.scores, pred.labels), truth))
    matches = match_images(images, 3, iou_thr)
    report = precision_recall(matches, **kwargs)
    alarms = false_alarms(matches, **{'recalls': RECALLS_SHOWN, **kwargs})
    return {**report, 'metrics': {**report['metrics'], **alarms}}


def same(numbers, expected):
    assert numbers == pytest.approx(expected, nan_ok=True, abs=1e-12)
    return True


@pytest.mark.parametrize('iou_thr', [0.5, 0.9])
def test_numbers_are_those_of_the_pure_functions(numbers, crowd, coco, samples, iou_thr):
    expected = expected_report(coco, samples, iou_thr)
    assert expected['empty_images'] == 1 and any(a['iscrowd'] for a in coco['annotations'])
    found = evaluate(samples, ann_file=crowd, iou_thr=iou_thr)
    assert same(found, {f'pr/{key}': value for key, value in expected['metrics'].items()})
    assert 0 < numbers['pr/f1'] < 1 and found['pr/fp_per_empty_image_at_0.25'] > 0
    assert (found['pr/f1'] < numbers['pr/f1']) == (iou_thr > 0.5)


@pytest.mark.parametrize('with_coco', [False, True])
def test_annotations_may_come_with_the_samples(numbers, samples, with_coco):
    metric = PrecisionRecallMetric(coco=with_coco, prefix='own')
    metric.dataset_meta = dict(classes=CLASSES)
    for _ in range(2):  # the second validation uses what the first one has stored
        metric.process({}, [sample.to_dict() for sample in samples])
        result = metric.evaluate(9)
        own = {key.replace('own/', 'pr/'): value for key, value in result.items() if key.startswith('own/')}
        assert same(own, numbers) and ('coco/bbox_mAP' in result) == with_coco


def test_the_metric_is_found_from_both_scopes():
    for registry, scope, name in (
        (METRICS, 'mmyolo', 'PrecisionRecallMetric'),
        (METRICS, 'mmdet', 'mmyolo.PrecisionRecallMetric'),
        (MMDET_METRICS, 'mmdet', 'mmyolo.PrecisionRecallMetric'),
    ):
        with DefaultScope.overwrite_default_scope(scope):
            assert type(registry.build(dict(type=name))) is PrecisionRecallMetric


def test_with_coco_the_metric_reports_cocometrics_numbers_and_its_own(numbers, crowd, samples):
    own = dict(ann_file=crowd, proposal_nums=(100, 1, 10), metric='bbox')
    expected = evaluate(samples, type='mmdet.CocoMetric', **own)
    assert expected['coco/bbox_mAP_50'] > 0
    both = evaluate(samples, coco=True, **own)
    assert same(both, {**expected, **numbers})
    assert next(iter(both)) == 'coco/bbox_mAP'  # save_best='auto' takes the first key


def test_numbers_are_0_without_detections(crowd, samples):
    """The report has all keys. Without the key of `save_best` a run would end."""
    empty = [copy.deepcopy(sample) for sample in samples]
    for sample in empty:
        sample.pred_instances = sample.pred_instances[:0]
    options = dict(coco=True, ann_file=crowd)
    found, expected = evaluate(empty, **options), evaluate(samples, **options)
    assert found.keys() == expected.keys() and len([name for name in found if 'coco/' in name]) == 6
    assert {found[name] for name in found if 'coco/' in name} == {0.0} and found['pr/f1'] == 0
    few = evaluate(empty, **options, metric_items=['mAP_50'])
    assert [name for name in few if 'coco/' in name] == ['coco/bbox_mAP_50']


def test_the_json_file_the_keys_per_class_and_the_table_are_right(crowd, coco, samples, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'info', lambda text, extra: lines.append(text))
    prefix = str(tmp_path / 'new' / 'val')
    options = dict(score_thr=0.5, recalls=[0.3, 1.0])
    result = evaluate(samples, ann_file=crowd, classwise=True, outfile_prefix=prefix, **options)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.*'))
    assert files == ['new/val.bbox.json', 'new/val.precision_recall.json']

    with open(f'{prefix}.precision_recall.json') as file:
        content = json.load(file, parse_constant=pytest.fail)
    expected = expected_report(coco, samples, **options)
    assert expected['metrics']['fp_per_image_at_recall_1'] == math.inf
    expected['metrics'] = {k: None if v == math.inf else v for k, v in expected['metrics'].items()}
    for entry, name in zip(expected['classes'], CLASSES):
        entry['name'] = name
        for key in ('precision', 'recall', 'f1', 'ap', 'recall_at_0.5'):
            assert result[f'pr/{name}_{key}'] == entry[key]
        assert result[f'pr/{name}_ap_50'] == entry['ap']
    assert content == dict(iou_thr=0.5, score_thr=0.5, **expected)
    metrics, table = content['metrics'], lines[-1]
    for shown in (*CLASSES, 'F1@0.5', 'P at R=0.3', f'{metrics["f1_at_0.5"]:.3f}', 'fp_per_image_at_recall_1 inf'):
        assert shown in table
    mean_ap = np.mean([entry['ap'] for entry in expected['classes']])
    assert f' {mean_ap:.3f} |' in next(line for line in table.splitlines() if line.startswith('| mean'))


def test_classes_without_objects_have_no_keys(crowd, coco, samples, tmp_path):
    """First, only the third class is left: COCO's id 3 is label 0 of the detector. Then the file has no annotations."""
    kept = [copy.deepcopy(sample) for sample in samples]
    for sample in kept:
        sample.pred_instances.labels.zero_()
    result = evaluate(kept, classes=('bar',), ann_file=crowd, classwise=True)
    assert {'pr/bar_f1'} == {key for key in result if key.endswith('_f1')}
    objects = [a for a in coco['annotations'] if a['category_id'] == 3]
    empty = 9 - len({a['image_id'] for a in objects})
    fp = sum(len(s.pred_instances) for s in kept if s.img_id not in {a['image_id'] for a in objects})
    at_zero = evaluate(kept, classes=('bar',), ann_file=crowd, score_thr=0)
    assert at_zero['pr/fp_per_empty_image_at_0'] == pytest.approx(fp / empty)

    (tmp_path / 'none.json').write_text(json.dumps(dict(coco, annotations=[])))
    result = evaluate(samples, ann_file=str(tmp_path / 'none.json'), classwise=True)
    assert result['pr/f1'] == 0 and not [key for key in result if key.endswith('_f1')]


def test_ignored_annotations(crowd, coco, samples, tmp_path):
    """`ignore` has the effect of `iscrowd`, also on the values of CocoMetric."""
    expected = evaluate(samples, ann_file=crowd, coco=True)
    other = copy.deepcopy(coco)
    for annotation in other['annotations']:
        annotation['ignore'] = annotation.pop('iscrowd')
    (tmp_path / 'ignore.json').write_text(json.dumps(other))
    metric = PrecisionRecallMetric(ann_file=str(tmp_path / 'ignore.json'), coco=True)
    metric.dataset_meta = dict(classes=CLASSES)
    for _ in range(2):  # pycocotools overwrites `ignore` of the annotations
        metric.process({}, [sample.to_dict() for sample in samples])
        assert same(metric.evaluate(9), expected)


def test_categories_can_be_sorted(crowd, coco, samples, tmp_path):
    """As in CocoMetric for Objects365: labels then follow the ids, and not the order in the file."""
    (tmp_path / 'other.json').write_text(json.dumps(dict(coco, categories=coco['categories'][::-1])))
    ordered = evaluate(samples, ann_file=crowd, coco=True)
    other = dict(ann_file=str(tmp_path / 'other.json'), coco=True)
    assert same(evaluate(samples, sort_categories=True, **other), ordered)
    assert evaluate(samples, **other)['pr/f1'] != ordered['pr/f1']


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(iou_thr=0), r'`iou_thr` and `recalls` to be in \(0, 1\], but got 0 and'),
        (dict(score_thr=1.5), r'`score_thr` to be in \[0, 1\], but got 1.5'),
        (dict(recalls=(0.5, 0)), r'`iou_thr` and `recalls` to be in \(0, 1\], but got 0.5 and \(0.5, 0\)'),
        (dict(recalls=('0.5',)), "`recalls` to be a finite number >= 0, but got '0.5'"),
    ],
)
def test_arguments_are_checked(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PrecisionRecallMetric(**kwargs)


def test_files_are_checked(crowd, coco, samples, tmp_path):
    path = tmp_path / 'set.json'
    path.write_text(json.dumps(dict(coco, annotations=[dict(image_id=0, category_id=1, bbox=[0] * 4, area=0)])))
    with pytest.raises(ValueError, match='set.json: .* has no `id`'):
        PrecisionRecallMetric(ann_file=str(path))
    with pytest.raises(ValueError, match="crowd.json: `categories` has no 'cell'"):
        evaluate(samples, classes=('square', 'cell'), ann_file=crowd)
    path.write_text(json.dumps(dict(coco, images=coco['images'][1:], annotations=[])))
    with pytest.raises(ValueError, match='set.json: expected `images` to have the id 0'):
        evaluate(samples, ann_file=str(path))
    with pytest.raises(ValueError, match=r'`labels` to be in \[0, 1\)'):
        evaluate(samples, classes=('square',), ann_file=crowd)


@pytest.mark.parametrize('with_file', [True, False])
def test_two_processes_find_the_same(with_file, crowd, samples, tmp_path, monkeypatch):
    kwargs = dict(ann_file=crowd, coco=True) if with_file else {}
    expected = evaluate(samples, **kwargs)
    assert expected['coco/bbox_mAP_50' if with_file else 'pr/f1'] > 0.05

    def worker(rank):
        """Evaluate a part of the nine images. The sampler gives the first image twice."""
        shown = list(DefaultSampler(samples, shuffle=False))
        return shown, evaluate([samples[i] for i in shown], size=len(samples), **kwargs)

    monkeypatch.chdir(tmp_path)  # MMEngine gathers results through a folder in the working directory
    (shown, first), (other, second) = in_two_processes(worker, tmp_path)
    assert (shown, other) == ([0, 2, 4, 6, 8], [1, 3, 5, 7, 0])
    assert same(first, expected) and same(second, expected)


class Recorder(Hook):
    def after_val_epoch(self, runner, metrics=None):
        self.metrics = metrics


@pytest.mark.parametrize('as_list', [True, False])
def test_in_a_real_run_teacher_and_student_are_reported(as_list, data, tmp_path):
    """Our metric is beside a CocoMetric, or has `coco=True`. The run continues if the metric of save_best is nan."""
    options = dict(burn_in=1, train_cfg__max_epochs=1, train_cfg__val_interval=1)
    cfg = load(SEMI, data, tmp_path, **options)
    cfg.default_hooks.checkpoint.update(
        save_best=['teacher/coco/bbox_mAP_50', 'teacher/pr/fp_per_image_at_recall_1'], rule=['greater', 'less']
    )
    own = dict(type='PrecisionRecallMetric', ann_file=f'{data}/val.json', recalls=[0.6, 1])
    if as_list:
        cfg.val_evaluator = [dict(type='mmdet.CocoMetric', ann_file=f'{data}/val.json', metric='bbox'), own]
    else:
        cfg.merge_from_dict(dict(val_evaluator=dict(own, coco=True)))
    runner = Runner.from_cfg(cfg)
    recorder = Recorder()
    runner.register_hook(recorder)
    runner.train()
    for model in ('teacher', 'student'):
        for key in ('coco/bbox_mAP_50', 'pr/f1', 'pr/best_confidence', 'pr/fp_per_image_at_recall_0.6'):
            assert isinstance(recorder.metrics[f'{model}/{key}'], float)
    assert recorder.metrics['teacher/pr/fp_per_image_at_recall_1'] == math.inf  # the teacher is hardly trained
    logged = [json.loads(line) for line in next(tmp_path.rglob('scalars.json')).read_text().splitlines()]
    assert logged[-1]['teacher/pr/f1'] == recorder.metrics['teacher/pr/f1']


def test_intervals_are_written_to_the_report(crowd, samples, tmp_path):
    evaluate(samples, ann_file=crowd, bootstrap=50, outfile_prefix=str(tmp_path / 'found'))
    report = json.loads((tmp_path / 'found.precision_recall.json').read_text())
    good = [name for name in report['metrics'] if 'good' in name]
    assert list(report['intervals']) == good and len(good) == 2 + 4 * len(RECALLS_SHOWN)
    low, high = report['intervals']['alarms_per_100_good_at_0.25']
    assert low <= report['metrics']['alarms_per_100_good_at_0.25'] <= high


def test_prevalence_without_a_good_image_is_said(crowd, coco, samples, monkeypatch):
    lines = []
    monkeypatch.setattr('mmyolo_bgpenalty.evaluation.metric.print_log', lambda text, **kwargs: lines.append(text))
    evaluate(samples, ann_file=crowd, prevalence=0.9)
    assert not lines
    boxed = {a['image_id'] for a in coco['annotations']}
    evaluate([sample for sample in samples if sample.img_id in boxed], ann_file=crowd, prevalence=0.9)
    assert '`prevalence` has no effect: no image of the set is without boxes' in lines
