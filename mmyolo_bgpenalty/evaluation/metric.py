"""Precision and recall as a metric of MMEngine's loops.

With ``outfile_prefix='a/b'`` every evaluation writes ``a/b.precision_recall.json``::

    {
      "iou_thr": 0.5, "score_thr": 0.25, "images": 60, "empty_images": 12,
      "metrics": {"best_confidence": 0.31, "precision": 0.8, …},       (as logged, without prefix; null for nan)
      "classes": [{"name": "hot_cell", "objects": 41, "detections": 160, "precision": 0.7, …}, …],
      "curve": {"recall": [0, 0.01, … 1], "precision": [… 101]},
      "confidence_curve": {"confidence": [0, 0.01, … 1], "precision": [… 101], "recall": [… 101], "f1": [… 101]}
    }

``precision_recall`` says what each number is. TeacherStudentValLoop evaluates
the teacher and then the student: the file of the student is the one that stays.
"""

import json
import math
from numbers import Real
from typing import Dict, Optional, Sequence

import numpy as np
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from mmyolo.registry import METRICS
from terminaltables import AsciiTable

from mmyolo_bgpenalty.datasets.data import CheckedCOCO
from mmyolo_bgpenalty.evaluation.coco_backend import compute_metrics as faster_compute_metrics
from mmyolo_bgpenalty.evaluation.coco_backend import obstacle, with_names
from mmyolo_bgpenalty.evaluation.precision_recall import MISTAKES, match_images, precision_recall, xywh
from mmyolo_bgpenalty.utils.arguments import one_of
from mmyolo_bgpenalty.utils.files import write_whole

COCO_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')  # CocoMetric's, where it is not told others


@METRICS.register_module()
class PrecisionRecallMetric(CocoMetric):
    """Precision, recall, F1 and false positives an image, for any detector of MMDetection and MMYOLO.

    Reports what ``precision_recall`` returns as ``pr/precision``, ``pr/f1``,
    ``pr/precision_at_recall_0.6`` … and prints it as a table. ``save_best='pr/f1'`` needs ``rule='greater'``.

    All images of the set count, and all detections: there is no ``maxDets``. Annotations with ``iscrowd`` or
    ``ignore`` are regions to ignore. An image is empty if the set has no annotation of the evaluated classes in it.

    Args:
        ann_file: the set, a COCO file; None takes ``instances`` of the data samples (a meta key to pack).
        iou_thr: in (0, 1].
        score_thr: the fixed confidence, in [0, 1].
        recalls: at which precision and false positives are reported, each in (0, 1].
        coco: also evaluate as CocoMetric does, with its arguments, and report that as ``coco/bbox_mAP`` …, which are
            0 where nothing was detected in the whole set.
        coco_backend: what ``coco`` matches by, 'pycocotools' or, for the same figures sooner, 'faster':
            faster-coco-eval. 'auto' takes the latter for boxes where it is installed and the set's ids are numbers.
        classwise: also report ``pr/{class}_precision``, ``_recall`` and ``_f1``, at the best confidence, and ``_ap``,
            the average precision at ``iou_thr``, of each class with objects, and print every class's row.
        prefix: in place of ``pr``.
        kwargs: further arguments of CocoMetric, as ``outfile_prefix``, ``backend_args``, ``collect_device``.

    Raises:
        ValueError: an argument out of range; an ``ann_file`` that is no COCO set, or lacks a class; 'faster' where
            faster-coco-eval is not installed or cannot do it.
    """

    default_prefix = 'pr'
    prefix: str

    def __init__(
        self,
        ann_file: Optional[str] = None,
        iou_thr: float = 0.5,
        score_thr: float = 0.25,
        recalls: Sequence[float] = (0.6, 0.7, 0.8),
        coco: bool = False,
        coco_backend: str = 'auto',
        prefix: Optional[str] = None,
        **kwargs,
    ):
        self.iou_thr, self.score_thr, self.recalls = iou_thr, score_thr, list(recalls)
        for name, values, valid in (
            ('iou_thr', [iou_thr], '(0, 1]'),
            ('score_thr', [score_thr], '[0, 1]'),
            ('recalls', self.recalls, '(0, 1]'),
        ):
            for value in values:
                if not isinstance(value, Real) or not 0 <= value <= 1 or (value == 0 and valid[0] == '('):
                    raise ValueError(f'Expected `{name}` to be in {valid}, but got {value!r}')
        one_of('coco_backend', coco_backend, ('auto', 'pycocotools', 'faster'))
        # CocoMetric makes wrong figures of mistakes in the file, or breaks.
        with_names(CocoMetric.__init__, COCO=CheckedCOCO)(self, ann_file=ann_file, prefix=prefix, **kwargs)
        self.ann_file = ann_file
        self.coco = coco
        reason = obstacle(self) if coco_backend != 'pycocotools' else None
        if coco and coco_backend == 'faster' and reason:
            raise ValueError(f"Expected `coco_backend` 'faster' to be possible, but {reason}")
        self._faster = coco_backend != 'pycocotools' and reason is None
        if coco:  # Two prefixes: compute_metrics writes them.
            self._own_prefix, self.prefix = self.prefix, ''
        self._objects: Optional[dict] = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        if not self.coco:  # Masks are of no use here, and slow to gather.
            keys = ('bboxes', 'scores', 'labels')
            data_samples = [
                dict(sample, pred_instances={key: sample['pred_instances'][key] for key in keys})
                for sample in data_samples
            ]
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> Dict[str, float]:
        if self.format_only:
            return super().compute_metrics(results)
        # First: without ann_file CocoMetric keeps the set it makes of the data samples.
        numbers = self._precision_recall(results)
        if self.coco:
            faster = self._faster and all(isinstance(prediction['img_id'], Real) for _, prediction in results)
            coco = faster_compute_metrics(self, results) if faster else super().compute_metrics(results)
            if not any(len(prediction['bboxes']) for _, prediction in results):
                # CocoMetric reports nothing then, and CheckpointHook ends the run for want of its `save_best`.
                for metric in {'bbox', 'segm'}.intersection(self.metrics):
                    coco.update({f'{metric}_{item}': 0.0 for item in self.metric_items or COCO_ITEMS})
            numbers = {f'{self._own_prefix}/{key}': value for key, value in numbers.items()}
            numbers = {**{f'{CocoMetric.default_prefix}/{key}': value for key, value in coco.items()}, **numbers}
        return numbers

    def _precision_recall(self, results: list) -> Dict[str, float]:
        names, images = self._images(results)
        report = precision_recall(match_images(images, len(names), self.iou_thr), self.score_thr, self.recalls)
        for entry, name in zip(report['classes'], names):
            entry['name'] = name
        if self.outfile_prefix is not None:
            content = dict(iou_thr=self.iou_thr, score_thr=self.score_thr, **report)
            content['metrics'] = {k: None if math.isnan(v) else v for k, v in report['metrics'].items()}
            write_whole(f'{self.outfile_prefix}.precision_recall.json', json.dumps(content))
        MMLogger.get_current_instance().info(self._table(report))
        numbers = dict(report['metrics'])
        for entry in report['classes'] if self.classwise else ():
            if entry['objects']:
                numbers.update({f'{entry["name"]}_{key}': entry[key] for key in ('precision', 'recall', 'f1', 'ap')})
        return numbers

    def _images(self, results: list):
        """The names of the classes, and for each image of the set what match_images takes."""
        predictions = {prediction['img_id']: prediction for _, prediction in results}
        classes = list(self.dataset_meta['classes'])
        if self._coco_api is None:
            objects = {gt['img_id']: [_object(instance) for instance in gt['anns']] for gt, _ in results}
        else:
            # As CocoMetric and CocoDataset: labels follow the order of the file's categories.
            categories = self._coco_api.loadCats(self._coco_api.get_cat_ids(cat_names=classes))
            missing = set(classes) - {category['name'] for category in categories}
            if missing:
                raise ValueError(f'{self.ann_file}: `categories` has no {", ".join(map(repr, sorted(missing)))}')
            classes = [category['name'] for category in categories]
            labels = {category['id']: label for label, category in enumerate(categories)}
            if self._objects is None:  # Evaluating replaces `ignore` by `iscrowd` in the annotations.
                self._objects = {
                    image: [
                        (a['bbox'], labels[a['category_id']], a.get('iscrowd', 0) or a.get('ignore', 0))
                        for a in self._coco_api.imgToAnns.get(image, ())
                        if a['category_id'] in labels
                    ]
                    for image in self._coco_api.get_img_ids()
                }
            objects = self._objects
            unknown = [image for image in predictions if image not in objects]
            if unknown:
                raise ValueError(
                    f'{self.ann_file}: `images` has no id {unknown[0]!r}, which was predicted; is it the file of the '
                    'dataset that is evaluated?'
                )
        nothing = dict(bboxes=np.zeros((0, 4)), scores=np.zeros(0), labels=np.zeros(0, int))
        return classes, [_arrays(predictions.get(image, nothing), gt) for image, gt in objects.items()]

    def _table(self, report: dict) -> str:
        """The mean over classes, the classes themselves where wanted, and the false positives, for people."""
        metrics, fixed = report['metrics'], f'{self.score_thr:g}'
        columns = {'P': 'precision', 'R': 'recall', 'F1': 'f1'}
        columns.update({f'{title}@{fixed}': f'{key}_at_{fixed}' for title, key in tuple(columns.items())})
        columns.update({f'P at R={recall:g}': f'precision_at_recall_{recall:g}' for recall in self.recalls})
        columns['AP'] = 'ap'
        rows = [(entry['name'], entry) for entry in report['classes']] if self.classwise else []
        mean_ap = float(np.mean(report['curve']['precision']))
        rows.append(('mean', dict(metrics, ap=mean_ap, objects=sum(entry['objects'] for entry in report['classes']))))
        cells = [[name, row['objects'], *(f'{row[key]:.3f}' for key in columns.values())] for name, row in rows]
        table = AsciiTable([['class', 'objects', *columns], *cells]).table
        fp = []
        for suffix, where in (('', f'at {metrics["best_confidence"]:.3f}'), (f'_at_{fixed}', f'at {fixed}')):
            empty = f' ({metrics["fp_per_empty_image" + suffix]:.3f} an empty one)' if report['empty_images'] else ''
            fp.append(f'{metrics["fp_per_image" + suffix]:.3f}{empty} {where}')
        fp += [f'{metrics[f"fp_per_image_at_recall_{r:g}"]:.3f} at R={r:g}' for r in self.recalls]
        kinds = ', '.join(f'{name} {metrics[f"fp_{name}"]:.3f}' for name in MISTAKES)
        return (
            f'\nPrecision and recall at IoU {self.iou_thr:g}, at the best confidence, '
            f'{metrics["best_confidence"]:.3f}, and at {fixed}:\n{table}\nFalse positives an image: {", ".join(fp)}'
            f'\nAt the best confidence they are: {kinds}'
        )


def _object(instance: dict):
    x1, y1, x2, y2 = instance['bbox']
    return (x1, y1, x2 - x1, y2 - y1), instance['bbox_label'], instance.get('ignore_flag', 0)


def _arrays(prediction: dict, objects: list):
    boxes, labels, ignored = zip(*objects) if objects else ((), (), ())
    return (
        xywh(prediction['bboxes']),
        prediction['scores'],
        prediction['labels'],
        np.array(boxes, dtype=float).reshape(-1, 4),
        np.array(labels, dtype=int),
        np.array(ignored, dtype=bool),
    )
