"""PrecisionRecallMetric: precision and recall as a metric for the loops of MMEngine."""

import copy
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger, print_log
from mmyolo.registry import METRICS

from mmyolo_bgpenalty.datasets.coco import CheckedCOCO
from mmyolo_bgpenalty.evaluation.bootstrap import Interval
from mmyolo_bgpenalty.evaluation.confusion import confusion_matrix
from mmyolo_bgpenalty.evaluation.false_alarms import false_alarm_intervals, false_alarms, operating_points, supported
from mmyolo_bgpenalty.evaluation.matching import Detections, Matches, Truth, match_images, truth_by_image, xywh
from mmyolo_bgpenalty.evaluation.names import metric_names
from mmyolo_bgpenalty.evaluation.plots import write_plots
from mmyolo_bgpenalty.evaluation.precision_recall import RECALLS_SHOWN, precision_recall
from mmyolo_bgpenalty.evaluation.table import FILE_ONLY, alarm_table, operating_table, report_table, unreached
from mmyolo_bgpenalty.utils.arguments import flag, fraction, whole_number
from mmyolo_bgpenalty.utils.coco_json import with_own_ids
from mmyolo_bgpenalty.utils.files import printable, write_whole
from mmyolo_bgpenalty.utils.image_files import size_fault

ALARMS = (1, 5, 20, 100)  # per 100 good parts, in the table of operating points


@METRICS.register_module()
class PrecisionRecallMetric(CocoMetric):
    """Precision, recall, F1 and false positives per image, for any detector of MMDetection and MMYOLO.

    Reports the ``metrics`` of ``precision_recall`` as ``pr/precision``, ``pr/f1``, ``pr/precision_at_recall_0.6`` …,
    and logs them as a table. If the set has empty images, which are good parts, it also reports ``false_alarms``:
    ``pr/alarms_per_100_good_at_recall_0.8`` …. ``save_best='pr/f1'`` needs ``rule='greater'``. All images that the data
    loader gives and all detections count: there is no ``maxDets``. If ``ann_file`` has more images, the log has a
    warning. Annotations with ``iscrowd`` or ``ignore`` are ignored regions. An image is empty if it has no annotation
    of the evaluated classes.

    Args:
        ann_file: COCO file of the set. If None, the objects come from ``instances`` of the data samples.
            ``meta_keys`` of PackDetInputs must then include 'instances'.
        iou_thr: in (0, 1].
        score_thr: a fixed confidence to report, in [0, 1].
        recalls: recalls at which precision and false positives are reported, each in (0, 1].
        prevalence: share of good parts on the production line, in (0, 1), see ``false_alarms``. None: no such figure.
        bootstrap: number of resamples of the images for the intervals of ``false_alarms``. They are logged as a table,
            with ``operating_points``. 0 (default): no intervals and no table.
        coco: also report the values of CocoMetric, ``coco/bbox_mAP`` …. They are 0 without any detection. They are
            computed with ids of ``with_own_ids``, so the ids in ``ann_file`` may have any values.
        prefix: replaces ``pr``.
        plot_dir: a folder. Every evaluation writes ``precision_recall.png``, ``confidence.png`` and
            ``confusion_matrix.png`` to it, and replaces the files of the evaluation before. After
            TeacherStudentValLoop they show the student.
        kwargs: further arguments of CocoMetric. ``classwise`` logs each class, and reports ``pr/{class}_precision``,
            ``_recall``, ``_f1``, ``_ap`` (at IoU 0.5 also as ``_ap_50``) and ``_recall_at_0.25`` for each class with
            objects, see ``metric_names``. ``outfile_prefix='a/b'`` writes the predictions at every evaluation to
            ``a/b.bbox.json``. The report goes to ``a/b.precision_recall.json``, with null for nan and inf, and with the
            ``intervals`` of ``bootstrap``.
            TeacherStudentValLoop evaluates the student last, so the file has the figures of the student.

    Raises:
        ValueError: an argument is out of range, or ``ann_file`` is no COCO set or lacks a class; in the evaluation,
            two images have the same id, or an image with boxes has another size than ``ann_file`` says.
    """

    default_prefix = 'pr'
    prefix: str

    def __init__(
        self,
        ann_file: str | None = None,
        iou_thr: float = 0.5,
        score_thr: float = 0.25,
        recalls: Sequence[float] = RECALLS_SHOWN,
        coco: bool = False,
        prefix: str | None = None,
        plot_dir: str | None = None,
        prevalence: float | None = None,
        bootstrap: int = 0,
        **kwargs,
    ):
        if not fraction('iou_thr', iou_thr) or not all(fraction('recalls', recall) for recall in recalls):
            raise ValueError(f'Expected `iou_thr` and `recalls` to be in (0, 1], but got {iou_thr} and {recalls}')
        if prevalence is not None and not 0 < fraction('prevalence', prevalence) < 1:
            raise ValueError(f'Expected `prevalence` to be in (0, 1), but got {prevalence}')
        super().__init__(prefix=prefix, **kwargs)
        self.prevalence, self.bootstrap = prevalence, whole_number('bootstrap', bootstrap, least=0)
        self.ann_file, self.iou_thr, self.recalls = ann_file, iou_thr, list(recalls)
        self.plot_dir = plot_dir
        self.score_thr = fraction('score_thr', score_thr)
        if ann_file is not None:
            with get_local_path(ann_file, backend_args=self.backend_args) as path:
                self._coco_api = CheckedCOCO(path)
            if kwargs.get('sort_categories'):
                self._coco_api.dataset['categories'].sort(key=lambda category: category['id'])
        flag('classwise', self.classwise)
        self.coco = flag('coco', coco)
        if coco:  # compute_metrics writes both prefixes
            self._own_prefix, self.prefix = self.prefix, ''
        self._truth: dict[Any, Truth] = {}
        self._warned = False

    def compute_metrics(self, results: list) -> dict[str, float]:
        if self.format_only:
            return super().compute_metrics(results)
        if self._coco_api is None:  # no `ann_file`
            with TemporaryDirectory() as folder:
                self._coco_api = COCO(self.gt_to_coco_json([gt for gt, _ in results], f'{folder}/set'))
            self._coco_api.dataset.setdefault('annotations', [])  # MMDetection writes none without objects
        self._check_images([gt for gt, _ in results])
        numbers = self._precision_recall(results)
        if self.outfile_prefix is not None:  # these files have the ids of the set
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
            self.results2json([prediction for _, prediction in results], self.outfile_prefix)
        if not self.coco:
            return numbers
        names = self._read_classes_and_truth()
        plain = {f'{name}_precision': f'{one}_precision' for name, one in zip(names, metric_names(names))}
        figures = {plain.get(key, key): value for key, value in self._coco_figures(results).items()}
        coco = {f'{CocoMetric.default_prefix}/{key}': value for key, value in figures.items()}
        return coco | {f'{self._own_prefix}/{key}': value for key, value in numbers.items()}

    def _check_images(self, loaded: list[dict]) -> None:
        """Check that the loaded images are those of the json file, and that each was loaded once."""
        stated, file = self._coco_api.imgs, self.ann_file
        repeated = [image for image, times in Counter(gt['img_id'] for gt in loaded).items() if times > 1]
        if repeated:
            raise ValueError(
                f'Expected one prediction for each image id, but {len(repeated)} ids are repeated, such as '
                f'{repeated[0]!r}: if the data loader joins two sets, their images need different ids'
            )
        unknown = [gt['img_id'] for gt in loaded if gt['img_id'] not in stated]
        if unknown:
            raise ValueError(f'{file}: expected `images` to have the id {unknown[0]!r} of a prediction')
        for image, gt in ((stated[gt['img_id']], gt) for gt in loaded if self._coco_api.imgToAnns.get(gt['img_id'])):
            fault = size_fault((gt['height'], gt['width']), (image['height'], image['width']))
            if fault:
                raise ValueError(f'{file}: the boxes of {printable(image["file_name"])} do not fit, because {fault}')
        if len(loaded) < len(stated) and not self._warned:
            self._warned = True
            what = f'The metrics are of {len(loaded)} of the {len(stated)} images in {file}'
            print_log(f'{what}: the data loader gives no others', logger='current', level=logging.WARNING)

    def _coco_figures(self, results: list) -> dict[str, float]:
        """The figures of CocoMetric."""
        # The order of the images decides between equal scores. So it stays as it is.
        ids = sorted((gt['img_id'] for gt, _ in results), key=lambda image: (isinstance(image, str), image))
        numbers = {image: number for number, image in enumerate(ids, 1)}
        metric = copy.copy(self)
        metric.outfile_prefix = metric.cat_ids = metric.img_ids = None
        metric._coco_api = COCO()
        metric._coco_api.dataset = with_own_ids(self._coco_api.dataset, numbers)
        numbered = [tuple(dict(part, img_id=numbers[part['img_id']]) for part in pair) for pair in results]
        printed = StringIO()
        with redirect_stdout(printed):  # pycocotools prints
            metric._coco_api.createIndex()
            figures = super(PrecisionRecallMetric, metric).compute_metrics(numbered)
        MMLogger.get_current_instance().info(printed.getvalue(), extra=FILE_ONLY)
        if not any(len(prediction['bboxes']) for _, prediction in results):
            # CocoMetric reports nothing in this case, and then `save_best` of CheckpointHook ends the run.
            items = self.metric_items or ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
            for kind in {'bbox', 'segm'}.intersection(self.metrics):
                figures |= {f'{kind}_{item}': 0.0 for item in items}
        return figures

    def _precision_recall(self, results: list) -> dict[str, float]:
        names = self._read_classes_and_truth()
        matches = match_images(self._pairs(results), len(names), self.iou_thr)
        report = precision_recall(matches, self.score_thr, self.recalls)
        alarms, intervals = self._false_alarms(matches) if matches.empty_images else ({}, {})
        for entry, name in zip(report['classes'], names):
            entry['name'] = name
        if self.outfile_prefix is not None:
            content = dict(iou_thr=self.iou_thr, score_thr=self.score_thr, **report)
            content['metrics'] = {k: _finite(v) for k, v in {**report['metrics'], **alarms}.items()}
            if intervals:
                content['intervals'] = {k: [*map(_finite, interval)] for k, interval in intervals.items()}
            write_whole(f'{self.outfile_prefix}.precision_recall.json', json.dumps(content))
        if self.plot_dir is not None:
            confusion = confusion_matrix(self._pairs(results), len(names), self.score_thr, self.iou_thr)
            write_plots(self.plot_dir, matches, report, confusion, self.iou_thr, self.score_thr)
        if self.prevalence is not None and not matches.empty_images:
            reason = 'no image of the set is without boxes'
            print_log(f'`prevalence` has no effect: {reason}', logger='current', level=logging.WARNING)
        if reason := unreached(matches, self.recalls, names):
            MMLogger.get_current_instance().info(reason, extra={} if self.bootstrap else FILE_ONLY)
        table = report_table(report, self.iou_thr, self.score_thr, self.recalls, self.classwise)
        MMLogger.get_current_instance().info(table, extra=FILE_ONLY)
        numbers = {**report['metrics'], **alarms}
        for entry, plain in zip(report['classes'], metric_names(names)) if self.classwise else ():
            if entry['objects']:
                keys = {key: key for key in ('precision', 'recall', 'f1', 'ap', f'recall_at_{self.score_thr:g}')}
                keys[f'ap_{100 * self.iou_thr:g}'] = 'ap'  # for `class_table`
                numbers |= {f'{plain}_{key}': entry[source] for key, source in keys.items()}
        return numbers

    def _false_alarms(self, matches: Matches) -> tuple[dict[str, float], dict[str, Interval]]:
        options = self.score_thr, self.recalls, self.prevalence
        figures, intervals = false_alarms(matches, *options), {}
        if self.bootstrap:
            intervals = false_alarm_intervals(matches, *options, resamples=self.bootstrap)
            points = operating_points(matches, supported(ALARMS, matches.empty_images))
            choice = operating_table(points, matches.empty_images)
            MMLogger.get_current_instance().info(f'{alarm_table(figures, intervals)}{choice}')
        return figures, intervals

    def _read_classes_and_truth(self) -> list[str]:
        """Returns the names of the classes."""
        coco, wanted = self._coco_api, list(self.dataset_meta['classes'])
        # Labels follow the order of the file's categories, as in CocoMetric and CocoDataset.
        ids = coco.get_cat_ids(cat_names=wanted)
        names = [coco.cats[i]['name'] for i in ids]
        missing = sorted(set(wanted) - set(names))
        if missing:
            raise ValueError(f'{self.ann_file}: `categories` has no {", ".join(map(repr, missing))}')
        if not self._truth:
            self._truth = dict(zip(coco.imgs, truth_by_image(coco.dataset, ids)))
        return names

    def _pairs(self, results: list) -> Iterator[tuple[Detections, Truth]]:
        for _, found in results:
            boxes = xywh(found['bboxes'])
            yield Detections(boxes, found['scores'], found['labels']), self._truth[found['img_id']]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
