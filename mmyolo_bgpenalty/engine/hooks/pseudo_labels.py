"""Hooks for pseudo-labels: one measures their quality, the other supports thresholds for each class."""

from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import MessageHub, print_log
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import nn

from mmyolo_bgpenalty.evaluation.matching import Detections, Truth, match_boxes, true_boxes, truth_of, xywh
from mmyolo_bgpenalty.evaluation.names import metric_names
from mmyolo_bgpenalty.utils.arguments import non_negative, whole_number
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.geometry import project_boxes

MAX_CLASSES_IN_LOG = 20


def labeled_and_unlabeled(dataset) -> list:
    """The two parts of a training set. A part is None if it does not give its annotations."""
    members = list(getattr(dataset, 'datasets', ()))
    named = dict(zip(getattr(dataset, 'sources', ('labeled', 'unlabeled')), members))
    parts = [named.get(name) for name in ('labeled', 'unlabeled')]
    return [part if hasattr(part, 'get_data_info') else None for part in parts]


def instances_of(dataset) -> Iterator[list[dict]]:
    """The annotated boxes of each image before any transform, as MMDetection's ``instances``."""
    return (dataset.get_data_info(i).get('instances') or [] for i in range(len(dataset)))


def class_names(dataset) -> list[str]:
    return list(dataset.metainfo.get('classes', ()))


def why_no_truth(dataset) -> str:
    """Why nothing is known about the true boxes of the unlabeled images of a training set, or ''."""
    labeled, unlabeled = labeled_and_unlabeled(dataset)
    if labeled is None or unlabeled is None:
        return 'the training set does not give its annotations'
    if not any(instances_of(unlabeled)):
        return 'the unlabeled set has no boxes'
    if class_names(unlabeled) != class_names(labeled):
        return f'the unlabeled set has other classes than the labeled set: {class_names(unlabeled)}'
    return ''


def truth_in_view(rows: np.ndarray, sample) -> Truth:
    """The boxes of ``true_boxes`` in the pixels of a view, cut at its edge. Both sides of a box are >= 1 pixel."""
    homography = torch.as_tensor(sample.homography_matrix)
    boxes = project_boxes(torch.from_numpy(rows[:, :4]), homography, sample.img_shape[:2]).numpy()
    visible = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
    return truth_of(np.concatenate([boxes, rows[:, 4:]], axis=1)[visible])


@HOOKS.register_module()
class PseudoLabelQualityHook(Hook):
    """Logs precision and recall of the pseudo-labels if the unlabeled set has boxes. Training ignores these boxes.

    Every ``interval`` iterations it logs ``semi/pseudo_precision`` and ``semi/pseudo_recall`` of the iterations since
    the last report, over all processes. If there are at most 20 classes, a line has both for each class. Without
    pseudo-boxes there is no precision. Without true boxes there is no recall.

    Boxes are compared in the weak view by ``match_boxes``. True boxes are cut at the edge of the view, and count if
    both sides are >= 1 pixel. Mosaics, mixed images and crops (``mosaic_tiles`` in the meta) are left out, because
    their visible boxes are not known. If no unlabeled image has boxes, the log says so once and nothing is measured.

    Args:
        interval: iterations between reports.
        iou_thr: lowest IoU of a correct pseudo-box, in (0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, interval: int = 50, iou_thr: float = 0.5):
        self.interval = whole_number('interval', interval)
        if not 0 < non_negative('iou_thr', iou_thr) <= 1:
            raise ValueError(f'Expected `iou_thr` to be in (0, 1], but got {iou_thr!r}')
        self.iou_thr = iou_thr
        self._resumed: list = []
        # Path of an image -> (M, 6): x1, y1, x2, y2, class, ignored. None before the first pseudo-labels.
        self._truth: dict[str, np.ndarray] | None = None
        self._samples: list = []  # not counted yet

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        # The main process saves its own counts.
        if runner._resume and is_main_process():
            self._resumed = checkpoint.get('pseudo_label_counts', [])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._truth:
            self._count()
            checkpoint['pseudo_label_counts'] = self._counts.tolist()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        samples = getattr(unwrapped(runner.model), 'pseudo_labels', None) or []
        if samples and self._truth is None:
            self._truth = self._read_truth(runner)
        if self._truth:
            self._samples += [s for s in samples if s.img_path in self._truth and not hasattr(s, 'mosaic_tiles')]
            if self.every_n_train_iters(runner, self.interval):
                self._count()
                self._report(runner)

    def _read_truth(self, runner: Runner) -> dict[str, np.ndarray]:
        """The true boxes of the unlabeled images. Empty if there is nothing to measure."""
        if reason := why_no_truth(runner.train_dataloader.dataset):
            print_log(f'The quality of the pseudo-labels is not measured: {reason}', logger='current')
            return {}
        _, dataset = labeled_and_unlabeled(runner.train_dataloader.dataset)
        self._names = class_names(dataset)
        # Rows: correct boxes, pseudo-boxes, true boxes. Columns: classes.
        self._counts = np.zeros((3, unwrapped(runner.model).student.bbox_head.num_classes))
        if np.shape(self._resumed) == self._counts.shape:
            self._counts += self._resumed
        infos = map(dataset.get_data_info, range(len(dataset)))
        return {info['img_path']: true_boxes(info.get('instances') or []) for info in infos}

    def _count(self) -> None:
        """Compare the samples of the last iterations with the true boxes."""
        samples, self._samples = self._samples, []
        if not samples:
            return
        pseudo = [sample.gt_instances for sample in samples]
        # One transfer from the device for all images.
        rows = torch.cat([torch.cat([p.bboxes, p.scores[:, None], p.labels[:, None]], dim=1) for p in pseudo])
        for sample, found in zip(samples, rows.float().cpu().split([len(p) for p in pseudo])):
            assert self._truth  # otherwise there are no samples
            truth = truth_in_view(self._truth[sample.img_path], sample)
            labels = found[:, 5].long().numpy()
            detections = Detections(xywh(found[:, :4]), found[:, 4].numpy(), labels)
            right, left_out = match_boxes(detections, truth, self.iou_thr)
            for row, counted in enumerate((labels[right], labels[~left_out], truth.labels[~truth.ignored])):
                self._counts[row] += np.bincount(counted, minlength=self._counts.shape[1])

    def _report(self, runner: Runner) -> None:
        all_reduce(torch.from_numpy(self._counts))
        right, pseudo, true = self._counts.tolist()
        for name, numbers in (('precision', pseudo), ('recall', true)):
            ratio = sum(right) / sum(numbers) if sum(numbers) else None
            _set_scalar(runner.message_hub, f'train/semi/pseudo_{name}', ratio)
        if len(self._names) <= MAX_CLASSES_IN_LOG:
            rows = zip(self._names, right, pseudo, true)
            text = ', '.join(f'{name} {_ratio(tp, n)} / {_ratio(tp, m)}' for name, tp, n, m in rows)
            print_log(f'Pseudo-labels, precision / recall: {text}', logger='current')
        self._counts = np.zeros_like(self._counts)


def _ratio(part: float, total: float) -> str:
    return f'{part / total:.3f}' if total else '-'


def _set_scalar(hub: MessageHub, key: str, value: float | None) -> None:
    """Replace a scalar. None removes it, because the log would repeat the old value."""
    hub.log_scalars.pop(key, None)
    if value is not None:
        hub.update_scalar(key, value)


@HOOKS.register_module()
class ClassThresholdsHook(Hook):
    """Counts the labeled boxes of each class for ``class_thresholds`` of SemiYOLODetector, and logs the thresholds.

    The boxes are counted before training, without crowds. If K of N unlabeled images are known to be empty, each of the
    others is expected to have N / (N - K) times the mean number of boxes in a labeled image, but at most the mean in a
    labeled image with boxes. Whenever LoggerHook prints, this hook logs ``semi/threshold_<class>``, see
    ``metric_names``. For more than 20 classes it logs ``semi/threshold_min``, ``_mean`` and ``_max``. Without
    ``class_thresholds`` it does nothing.

    Raises:
        ValueError: before training, if type='ClassFrequency' has no labeled boxes to count.
    """

    def before_train(self, runner: Runner) -> None:
        model, dataset = unwrapped(runner.model), runner.train_dataloader.dataset
        self.count(model, dataset)
        labeled, _ = labeled_and_unlabeled(dataset)
        self._names = [] if labeled is None else metric_names(class_names(labeled))

    def count(self, model: nn.Module, dataset) -> None:
        """Set ``objects_per_image`` of the thresholds from the labeled part of ``dataset``, if they need it."""
        thresholds = getattr(model, 'class_thresholds', None)
        if thresholds is None or not hasattr(thresholds, 'objects_per_image'):
            return
        labeled, unlabeled = labeled_and_unlabeled(dataset)
        instances = [] if labeled is None else [*instances_of(labeled)]
        images = [[item['bbox_label'] for item in boxes if not item.get('ignore_flag', 0)] for boxes in instances]
        labels = [label for image in images for label in image]
        if not labels:
            got = 'a set that does not give its annotations' if labeled is None else f'{len(images)} images without any'
            raise ValueError(f"`class_thresholds`: 'ClassFrequency' needs labeled images with boxes, but got {got}")
        counts = torch.bincount(torch.tensor(labels), minlength=thresholds.num_classes)
        most = len(images) / sum(map(bool, images))
        empty = getattr(getattr(unlabeled, 'first_readable', None), 'known_empty', None)
        others = 1.0 if empty is None else 1 - float(empty.double().mean())
        thresholds.objects_per_image = counts / len(images) * (min(1 / others, most) if others else most)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        current = getattr(getattr(unwrapped(runner.model), 'class_thresholds', None), 'current', None)
        if current is None:
            return
        interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 10)
        if self.every_n_inner_iters(batch_idx, interval) or self.end_of_epoch(runner.train_dataloader, batch_idx):
            values = dict(zip(self._names, current.tolist()))
            if not 0 < len(values) <= MAX_CLASSES_IN_LOG:
                values = dict(min=current.min().item(), mean=current.mean().item(), max=current.max().item())
            for name, value in values.items():
                _set_scalar(runner.message_hub, f'train/semi/threshold_{name}', value)
