"""Hooks that watch training: how good the pseudo-labels are, from which score on, and whether it collapses."""

import logging
import os
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmdet.engine.hooks import MeanTeacherHook
from mmengine.dist import all_gather_object, all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import nn

from mmyolo_bgpenalty.datasets.known_empty import is_known_empty
from mmyolo_bgpenalty.evaluation.matching import match_boxes, xywh
from mmyolo_bgpenalty.models.thresholds import FixedThresholds
from mmyolo_bgpenalty.utils.arguments import non_negative, whole
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.geometry import project_boxes

MAX_CLASSES_IN_LOG = 20
MAX_PATHS_IN_ERROR = 16
LEAST_SCALE = 2.0**-20  # GradScaler begins with 2**16


def _members(dataset) -> list:
    """The labeled and the unlabeled set; None for one that does not say what it holds."""
    members = (*getattr(dataset, 'datasets', ()), None, None)[:2]
    return [dataset if hasattr(dataset, 'get_data_info') else None for dataset in members]


def _classes(dataset) -> List[str]:
    return [str(name) for name in dataset.metainfo.get('classes', ())]


def _instances(dataset) -> Iterator[List[dict]]:
    """Each image's boxes, as the annotation file has them."""
    return (dataset.get_data_info(i).get('instances') or [] for i in range(len(dataset)))


@HOOKS.register_module()
class PseudoLabelQualityHook(Hook):
    """Precision and recall of the pseudo-labels, where the unlabeled set has boxes that training does not read.

    Every ``interval`` iterations ``semi/pseudo_precision`` and ``semi/pseudo_recall`` of the iterations since the
    last report, over all processes, go to the message hub, and so to the log and every visualizer backend; a line of
    the log has them by class (up to 20). Boxes match as ``match_boxes`` says,
    in the weak view, where true boxes are cut at its edge and those with less than a pixel left are not counted.
    Mosaics, mixed images and what a crop has cut (``mosaic_tiles`` in the meta) are left out.
    Without pseudo-boxes there is no precision, without true boxes no recall. That the unlabeled set has no boxes is
    said once in the log, and nothing is measured; in a set with boxes an image without any is one without objects.

    Args:
        interval: iterations between reports.
        iou_thr: IoU from which on a pseudo-box is right, in (0, 1].

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, interval: int = 50, iou_thr: float = 0.5):
        self.interval = whole('interval', interval)
        if not 0 < non_negative('iou_thr', iou_thr) <= 1:
            raise ValueError(f'Expected `iou_thr` to be in (0, 1], but got {iou_thr!r}')
        self.iou_thr = iou_thr
        self._resumed: Optional[list] = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        # The main process saves its own.
        if runner._resume and is_main_process():
            self._resumed = checkpoint.get('pseudo_label_counts')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        counts = self._counts.tolist() if self._truth else self._resumed
        if counts is not None:
            checkpoint['pseudo_label_counts'] = counts

    def before_train(self, runner: Runner) -> None:
        # By path, (M, 6): x1, y1, x2, y2, class, ignored. None until there are pseudo-labels; {}: nothing to measure.
        self._truth: Optional[Dict[str, np.ndarray]] = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        samples = getattr(unwrapped(runner.model), 'pseudo_labels', None)
        if samples:
            if self._truth is None:
                self._truth = self._read_truth(runner)
            if self._truth:
                self._count(samples)
        if self._truth and self.every_n_train_iters(runner, self.interval):
            self._report(runner)

    def _read_truth(self, runner: Runner) -> Dict[str, np.ndarray]:
        labeled, dataset = _members(runner.train_dataloader.dataset)
        reason = None
        if labeled is None or dataset is None:
            reason = 'the training set does not say'
        elif not any(_instances(dataset)):
            reason = 'it has none'
        elif _classes(dataset) != _classes(labeled):
            reason = f'its classes {_classes(dataset)} are not those of the labeled set'
        if reason:
            print_log(f'No true boxes of the unlabeled set to measure pseudo-labels by: {reason}', logger='current')
            return {}
        self._classes = _classes(dataset)
        # Rows: right, pseudo-boxes, true boxes; columns: classes.
        classes = max(unwrapped(runner.model).student.bbox_head.num_classes, len(self._classes))
        self._counts = np.zeros((3, classes))
        if self._resumed is not None and np.shape(self._resumed) == self._counts.shape:
            self._counts += self._resumed
        self._resumed = None
        truth = {}
        for i, instances in enumerate(_instances(dataset)):
            rows = [(*item['bbox'], item['bbox_label'], item.get('ignore_flag', 0)) for item in instances]
            truth[dataset.get_data_info(i)['img_path']] = np.array(rows, dtype=np.float32).reshape(-1, 6)
        return truth

    def _count(self, samples: list) -> None:
        truth = self._truth or {}
        # Of a mosaic or mixed image only one image's boxes would be known.
        known = [s for s in samples if s.img_path in truth and not hasattr(s, 'mosaic_tiles')]
        if not known:
            return
        pseudo = [sample.gt_instances for sample in known]
        # One transfer from the device for all images.
        rows = torch.cat([torch.cat([p.bboxes, p.scores[:, None], p.labels[:, None]], dim=1) for p in pseudo])
        splits = np.cumsum([len(p) for p in pseudo])[:-1]
        for sample, found in zip(known, np.split(rows.detach().float().cpu().numpy(), splits)):
            true = truth[sample.img_path]
            if len(true):
                homography = torch.as_tensor(sample.homography_matrix)
                boxes = project_boxes(torch.from_numpy(true[:, :4]), homography, sample.img_shape[:2]).numpy()
                seen = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
                true = np.concatenate([boxes, true[:, 4:]], axis=1)[seen]
            labels, true_labels, ignored = found[:, 5].astype(int), true[:, 4].astype(int), true[:, 5] > 0
            right, neither = match_boxes(
                xywh(found[:, :4]), found[:, 4], labels, xywh(true[:, :4]), true_labels, ignored, self.iou_thr
            )
            for row, counted in enumerate((labels[right], labels[~neither], true_labels[~ignored])):
                self._counts[row] += np.bincount(counted, minlength=self._counts.shape[1])

    def _report(self, runner: Runner) -> None:
        counts = torch.from_numpy(self._counts)
        all_reduce(counts)
        right, pseudo, true = counts.tolist()
        hub = runner.message_hub
        for name, of in (('precision', pseudo), ('recall', true)):
            key = f'train/semi/pseudo_{name}'
            # Without this an old figure would be printed on.
            hub.log_scalars.pop(key, None)
            if sum(of):
                hub.update_scalar(key, sum(right) / sum(of))
        if len(self._classes) <= MAX_CLASSES_IN_LOG:
            text = ', '.join(
                f'{name} {_share(tp, n)} / {_share(tp, m)}'
                for name, tp, n, m in zip(self._classes, right, pseudo, true)
            )
            print_log(f'Pseudo-labels, precision / recall: {text}', logger='current')
        self._counts = np.zeros_like(self._counts)


def _share(part: float, whole: float) -> str:
    return f'{part / whole:.3f}' if whole else '-'


@HOOKS.register_module()
class ClassThresholdsHook(Hook):
    """Tells ``class_thresholds`` of SemiYOLODetector the labeled boxes an image, class by class, and logs it.

    The boxes are counted before training, crowds left out. Of N unlabeled images of which K are known to be empty the
    others have more of them: N / (N - K) times as many, but not more than labeled images with boxes. In every
    iteration ``semi/threshold_<class>`` (of more than 20 classes ``semi/threshold_min``, ``_mean`` and ``_max``) goes
    to the message hub, and so to the log and every visualizer backend. Without the option nothing is done.

    Raises:
        ValueError: before training, type='ClassFrequency' and no labeled boxes to count.
    """

    def before_train(self, runner: Runner) -> None:
        model, dataset = unwrapped(runner.model), runner.train_dataloader.dataset
        self.count(model, dataset)
        labeled, _ = _members(dataset)
        self._names = [] if labeled is None else _classes(labeled)

    def count(self, model: nn.Module, dataset) -> None:
        """Set ``objects_per_image`` by the labeled part of ``dataset``, where the model asks for it."""
        thresholds = getattr(model, 'class_thresholds', None)
        if thresholds is None or not hasattr(thresholds, 'objects_per_image'):
            return
        labeled, unlabeled = _members(dataset)
        instances = [] if labeled is None else _instances(labeled)
        images = [[item['bbox_label'] for item in boxes if not item.get('ignore_flag', 0)] for boxes in instances]
        labels = [label for image in images for label in image]
        if not labels:
            raise ValueError(
                "type='ClassFrequency' of `semi_train_cfg.class_thresholds` expects labeled images with boxes, but got "
                + ('a training set that does not say' if labeled is None else f'{len(images)} without any')
            )
        counts = torch.bincount(torch.tensor(labels), minlength=thresholds.num_classes)
        most = len(images) / sum(map(bool, images))
        empty = getattr(getattr(unlabeled, 'first_readable', None), 'known_empty', None)
        others = 1.0 if empty is None else 1 - float(empty.double().mean())
        thresholds.objects_per_image = counts / len(images) * (min(1 / others, most) if others else most)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        current = getattr(getattr(unwrapped(runner.model), 'class_thresholds', None), 'current', None)
        if current is None:
            return
        values = dict(zip(self._names, current.tolist()))
        if not 0 < len(values) <= MAX_CLASSES_IN_LOG:
            values = dict(min=current.min().item(), mean=current.mean().item(), max=current.max().item())
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/semi/threshold_{name}', value)


@HOOKS.register_module()
class CollapseMonitorHook(Hook):
    """Warns, once for each cause, and skips iterations whose losses or gradients are not finite.

    - Pseudo-boxes: their mean per image over ``window`` iterations (after the unlabeled images' share has risen to 1)
      leaves ``band`` times the labeled set's objects per image. Images known to be empty are left out.
    - Teacher: the student is ahead by more than ``margin`` in ``validations`` validations in a row, in
      ``teacher/<metric>`` and ``student/<metric>`` (higher is better); silent where there are no such metrics.
    - Losses: checked in every iteration between forward and backward pass, in all processes, and the gradients before
      the optimizer's step. An iteration that is not finite in any process is skipped in all of them: parameters, BN
      statistics and optimizer are left as they were, with a warning that names the entries and the images. After
      ``max_skips`` of them in a row the run stops, and no checkpoint of it is written.
    - fp16: updates that GradScaler skips, since gradients overflowed, are counted; where they go on doing so at any
      scale, the run stops.

    ``skipped_iterations`` and ``amp_overflows`` go to the log as soon as there are any. When training ends, a line has
    their totals and the images that could not be read. A resumed run goes on with the counts (of several processes,
    with those of the first).

    Args:
        band: lowest and highest number of pseudo-boxes, in objects per labeled image.
        window: iterations over which pseudo-boxes are averaged.
        metric: the metric's name without ``teacher/``.
        validations: number of validations in a row.
        margin: difference of the metric that counts, >= 0.
        max_skips: iterations in a row that are skipped, >= 0; with 0, and before torch 2.0, the first stops the run.

    Raises:
        ValueError: an argument out of range.
        FloatingPointError: in training, more losses or gradients in a row that are not finite.
    """

    def __init__(
        self,
        band: Sequence[float] = (0.2, 3.0),
        window: int = 100,
        metric: str = 'coco/bbox_mAP_50',
        validations: int = 3,
        margin: float = 0.02,
        max_skips: int = 10,
    ):
        if len(band) != 2 or not non_negative('band[0]', band[0]) < non_negative('band[1]', band[1]):
            raise ValueError(f'Expected `band` to be two numbers, low < high, but got {band!r}')
        self.band = tuple(band)
        self.window = whole('window', window)
        self.metric = metric
        self.validations = whole('validations', validations)
        self.margin = non_negative('margin', margin)
        self.max_skips = whole('max_skips', max_skips, least=0)
        self._warned: set = set()
        self._boxes: List[Tuple[float, int]] = []  # pseudo-boxes and images of each iteration
        self._objects: Optional[float] = None  # an image of the labeled set
        self._behind = 0
        self._skipped = self._in_a_row = 0
        self._overflows = 0  # a tensor where the optimizer is fused

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['collapse_monitor'] = dict(
            warned=sorted(self._warned),
            pseudo_boxes=self._boxes,
            behind=self._behind,
            skipped=self._skipped,
            in_a_row=self._in_a_row,
            overflows=int(self._overflows),
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = checkpoint.get('collapse_monitor')
        if runner._resume and state:
            self._warned, self._behind = set(state['warned']), state['behind']
            self._boxes = state.get('pseudo_boxes', [])
            self._skipped, self._in_a_row = state['skipped'], state['in_a_row']
            self._overflows = state['overflows']

    def before_train(self, runner: Runner) -> None:
        self._runner = runner
        model = unwrapped(runner.model)
        # BN's statistics change in the forward pass already. The teacher's do not.
        self._buffers = list(getattr(model, 'student', model).buffers())
        self._handles = [model.register_forward_hook(self._check_losses)]
        self._learnt = False  # whether a finite loss has been passed back since the last step
        self._stepped = self._to_forget = False
        wrapper = runner.optim_wrapper
        self._wrappers = [*wrapper.values()] if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        for one in self._wrappers:
            if hasattr(one.optimizer, 'register_step_pre_hook'):
                self._handles.append(one.optimizer.register_step_pre_hook(self._check_gradients))
            else:  # before torch 2.0 nothing can be done between backward pass and step
                self.max_skips = 0

    def after_train(self, runner: Runner) -> None:
        for handle in self._handles:
            handle.remove()
        dataset = runner.train_dataloader.dataset
        readable = [getattr(one, 'first_readable', None) for one in getattr(dataset, 'datasets', [dataset])]
        parts = [
            self._skipped and f'{self._skipped} iterations whose losses or gradients were not finite',
            int(self._overflows) and f'{int(self._overflows)} updates whose fp16 gradients overflowed',
            *(one.summary() for one in readable if one is not None),
        ]
        if any(parts):
            text = '; '.join(part for part in parts if part)
            print_log(f'Training has skipped {text}', logger='current', level=logging.WARNING)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._batch = data_batch
        self._stepped = self._to_forget = False
        self._before = [buffer.clone() for buffer in self._buffers]

    def _check_losses(self, model: nn.Module, args, outputs) -> Optional[dict]:
        if not (model.training and isinstance(outputs, dict)):
            return None
        # What MMEngine adds up.
        losses = {
            name: sum(part.detach().float().mean() for part in (value if isinstance(value, (list, tuple)) else [value]))
            for name, value in outputs.items()
            if 'loss' in name
        }
        # A sum is finite only if its terms are: one transfer from the device.
        finite = torch.isfinite(torch.as_tensor(sum(losses.values()))).float()
        all_reduce(finite, 'min')  # or a process would step, and others not
        if finite:
            self._learnt = True
            return None
        values = {name: float(value) for name, value in losses.items()}
        bad = [f'{name} is {value}' for name, value in values.items() if not np.isfinite(value)]
        fine = [f'{name} {value:.4g}' for name, value in values.items() if np.isfinite(value)]
        if not bad and not torch.isfinite(torch.as_tensor(sum(losses.values()))):
            bad = ['the sum of the losses is inf']
        own = f'{", ".join(bad)} (finite: {", ".join(fine) or "none"})' if bad else ''
        reports = all_gather_object((own, _image_paths(self._batch)))
        reports = [report for report in reports if report[0]]
        self._skip('; '.join(what for what, _ in reports), [path for _, paths in reports for path in paths])
        return _without_gradient(outputs, model)

    def _check_gradients(self, optimizer, args, kwargs) -> None:
        self._stepped = True
        if not self._learnt:
            _leave_out_step(optimizer)
            return
        found_inf = getattr(optimizer, 'found_inf', None)
        if found_inf is not None:  # GradScaler hands these to a fused optimizer, which then skips the step itself
            self._overflows = self._overflows + found_inf
            self._in_a_row = 0
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        if not gradients or torch.stack([g.sum(dtype=torch.float32) for g in gradients]).sum().isfinite():
            self._in_a_row = 0
            return
        named = {id(p.grad): name for name, p in unwrapped(self._runner.model).named_parameters()}
        bad = [named.get(id(g), '?') for g in gradients if not torch.isfinite(g).all()]
        # Clipping divides all by the norm, which one of them made nan.
        which = f', the first of {bad[0]}' if 0 < len(bad) < len(gradients) else ''
        self._skip(
            f'the losses are finite, but {len(bad) or "the sum"} of {len(gradients)} gradients is nan or inf{which}',
            _image_paths(self._batch),
        )
        _leave_out_step(optimizer)

    def _skip(self, what: str, paths: List[str]) -> None:
        """Undo the iteration and warn, or end the run."""
        runner = self._runner
        for buffer, before in zip(self._buffers, self._before):
            buffer.copy_(before)
        if self._in_a_row == self.max_skips:
            self._stop(what, paths)
        self._skipped += 1
        self._in_a_row += 1
        print_log(
            f'Skipped iteration {runner.iter} (epoch {runner.epoch}), {self._in_a_row} in a row and {self._skipped} in '
            f'all: {what}.{_the_batch(paths)}',
            logger='current',
            level=logging.WARNING,
        )
        self._to_forget = True

    def _stop(self, what: str, paths: List[str]) -> None:
        runner = self._runner
        after = f', after {self._in_a_row} iterations in a row that were skipped for the like' if self._in_a_row else ''
        lines = [
            f'Stopped in iteration {runner.iter} (epoch {runner.epoch}) before the optimizer changed a weight: '
            f'{what}{after}.{_the_batch(paths)}'
        ]
        weights = [name for name, p in unwrapped(runner.model).named_parameters() if not torch.isfinite(p).all()]
        if weights:
            lines.append(f'{len(weights)} weights were not finite before, the first {weights[0]}: see `load_from`.')
        penalty = runner.message_hub.log_scalars.get('train/semi/lambda_bg')
        if penalty is not None:
            lines.append(f'λ_bg was {penalty.current():.4g}.')
        lines.append(
            'Try a lower `optim_wrapper.optimizer.lr`, `optim_wrapper.clip_grad=dict(max_norm=10)`, with --amp '
            '`optim_wrapper.dtype=bfloat16`; if it is an `unsup_` or `bg` entry, a smaller '
            '`model.semi_train_cfg.unsup_weight` or `lambda_bg`; and look at these images and their boxes.'
        )
        latest = os.path.join(runner.work_dir, 'last_checkpoint')
        if os.path.isfile(latest):
            with open(latest) as file:
                lines.append(f'The latest checkpoint is good: {file.read().strip()}')
        message = ' '.join(lines)
        print_log(message, logger='current', level=logging.ERROR)
        raise FloatingPointError(message)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._count_overflows(runner)
        self._learnt = self._learnt and not self._stepped
        if self._to_forget:
            # One of them would make nan of the mean of many iterations: these means begin anew.
            scalars = runner.message_hub.log_scalars
            for name in [name for name, history in scalars.items() if not np.isfinite(history.current())]:
                del scalars[name]
            runner.message_hub.update_scalar('train/skipped_iterations', self._skipped)
        model = unwrapped(runner.model)
        samples = getattr(model, 'pseudo_labels', None)
        if not samples or model.unsup_ramp < 1 or 'boxes' in self._warned:
            return
        images = sum(not is_known_empty(sample) for sample in samples)
        self._boxes.append((float(outputs['semi/pseudo_boxes']) * images, images))
        if len(self._boxes) >= self.window:
            total = torch.tensor(self._boxes, dtype=torch.float64).sum(dim=0)
            all_reduce(total)
            self._boxes = []
            boxes, number = total.tolist()
            if number:
                self._compare_boxes(runner, boxes / number)

    def _count_overflows(self, runner: Runner) -> None:
        now = self.every_n_train_iters(runner, self.window)
        for wrapper in self._wrappers:
            scaler = getattr(wrapper, 'loss_scaler', None)
            if scaler is None:
                continue
            if wrapper.should_update() and not self._stepped:
                self._overflows += 1
            if now and scaler.get_scale() < LEAST_SCALE:
                self._stop(f'gradients overflow in fp16 at any scale of the losses, now {scaler.get_scale():.3g}', [])
        # Of a fused optimizer they are on the device, and fetched only now and then.
        if (now or not isinstance(self._overflows, torch.Tensor)) and int(self._overflows):
            runner.message_hub.update_scalar('train/amp_overflows', int(self._overflows))

    def _compare_boxes(self, runner: Runner, boxes: float) -> None:
        if self._objects is None:
            labeled, _ = _members(runner.train_dataloader.dataset)
            images = [] if labeled is None else [*_instances(labeled)]
            objects = sum(not item.get('ignore_flag', 0) for instances in images for item in instances)
            self._objects = objects / max(len(images), 1)
        low, high = (bound * self._objects for bound in self.band)
        if not self._objects or low <= boxes <= high:
            return
        model = unwrapped(runner.model)
        threshold = f'`model.semi_train_cfg.pseudo_test_cfg.score_thr` (now {model.pseudo_test_cfg.score_thr})'
        if getattr(model, 'class_thresholds', None) is not None:
            which = 'thresholds' if isinstance(model.class_thresholds, FixedThresholds) else 'floor'
            threshold = f'`{which}` in `model.semi_train_cfg.class_thresholds`'
            if which == 'floor':
                threshold += f' (now {model.class_thresholds.floor})'
        if boxes < low:
            which, change = 'few', f'a lower {threshold} or a longer `burn_in`'
        else:
            which, change = 'many', f'a higher {threshold}, a longer `burn_in` or a larger `lambda_bg`'
        self._warn(
            'boxes',
            f'Too {which} pseudo-boxes: {boxes:.3g} an image over {self.window} iterations up to {runner.iter}, where '
            f'a labeled image has {self._objects:.3g} objects (expected {low:.3g} to {high:.3g}). Try {change}.',
        )

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        teacher, student = ((metrics or {}).get(f'{name}/{self.metric}') for name in ('teacher', 'student'))
        if teacher is None or student is None:
            return
        self._behind = self._behind + 1 if student - teacher > self.margin else 0
        if self._behind >= self.validations:
            momentum = next((hook.momentum for hook in runner.hooks if isinstance(hook, MeanTeacherHook)), None)
            self._warn(
                'teacher',
                f'The teacher stays behind the student: {self.metric} {teacher:.4g} to {student:.4g}, in '
                f'{self._behind} validations in a row by more than {self.margin}. Try a larger '
                f'`default_hooks.mean_teacher.momentum` (now {momentum}), so that the teacher follows sooner; with '
                '`pseudo_boxes` near 0 see `score_thr` first.',
            )

    def _warn(self, cause: str, message: str) -> None:
        if cause not in self._warned:
            self._warned.add(cause)
            print_log(message, logger='current', level=logging.WARNING)


def _the_batch(paths: Sequence[str]) -> str:
    more = ', …' if len(paths) > MAX_PATHS_IN_ERROR else ''
    return f' The batch: {", ".join(paths[:MAX_PATHS_IN_ERROR])}{more}.' if paths else ''


def _without_gradient(outputs: dict, model: nn.Module) -> dict:
    """The same losses with a gradient of 0 to every parameter, for which DistributedDataParallel waits."""
    zero = sum((p * 0).sum() for p in model.parameters() if p.requires_grad)
    outputs = dict(outputs)
    for name in [name for name in outputs if 'loss' in name]:
        value = outputs[name]
        values = [one.detach() + zero for one in (value if isinstance(value, (list, tuple)) else [value])]
        outputs[name] = values if isinstance(value, (list, tuple)) else values[0]
    return outputs


def _leave_out_step(optimizer: torch.optim.Optimizer) -> None:
    """Have the step that follows do nothing: an optimizer passes over parameters without a gradient."""
    for group in optimizer.param_groups:
        for p in group['params']:
            p.grad = None


def _image_paths(batch) -> List[str]:
    """Paths of a batch's images, each once, in order; of MMYOLO's own fast collate, which keeps none, []."""
    if isinstance(batch, dict):
        if isinstance(batch.get('img_path'), str):
            return [batch['img_path']]
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return list(dict.fromkeys(path for item in batch for path in _image_paths(item)))
    path = getattr(batch, 'img_path', None)
    return [path] if path else []
