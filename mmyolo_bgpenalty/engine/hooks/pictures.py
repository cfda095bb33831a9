"""Pictures of unlabeled images with their pseudo-labels, the truth and confident predictions on background."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.ops import nms
from mmdet.structures import DetDataSample
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import MLflowVisBackend
from mmyolo.registry import HOOKS
from torch import Tensor

from mmyolo_bgpenalty.datasets.known_empty import is_known_empty
from mmyolo_bgpenalty.engine.hooks.pseudo_labels import (
    class_names,
    labeled_and_unlabeled,
    truth_in_view,
    why_no_truth,
)
from mmyolo_bgpenalty.engine.pseudo_label_sheet import Box, View, draw_sheet, pixels_of
from mmyolo_bgpenalty.engine.schedule import iterations_of
from mmyolo_bgpenalty.evaluation.matching import Detections, Truth, match_boxes, true_boxes, xywh
from mmyolo_bgpenalty.models.dense_detector import DenseSemiYOLODetector
from mmyolo_bgpenalty.models.semi_detector import SemiYOLODetector, UnlabeledBatch
from mmyolo_bgpenalty.utils.arguments import whole_number
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.files import printable, write_whole
from mmyolo_bgpenalty.utils.geometry import picture_frames, priors_on_image

MAX_BACKGROUND, MAX_UNSURE = 5, 20  # boxes of an image
MAX_BATCHES = 20  # that a sheet may take its images from
PENALTY = 'the penalty lowers it'


@HOOKS.register_module()
class PseudoLabelPicturesHook(Hook):
    """Draws unlabeled images every ``interval`` iterations, after burn-in.

    At most about a quarter of the images on a sheet are known to be empty, unless 20 batches have too few others.

    The weak and the strong view are side by side, with the pseudo-labels (class, score). If the unlabeled set has
    boxes, the true boxes are shown, and pseudo-labels that fit no true box (IoU >= 0.5, same class) look different.
    Training does not see the true boxes. The strong view also shows

    - unsure boxes, the 20 with the highest scores;
    - the most confident predictions on background, up to 5 with a confidence above 0.05. Predictions that overlap a
      better one (IoU > 0.5) are left out;
    - padding, which is dark and striped.

    The legend says what the model does with them.

    The sheet is saved as ``vis_data/vis_image/pseudo_labels_<iteration>.png`` in the log folder of the run, and sent to
    every visualizer backend as ``pseudo_labels``, with MLflow as ``pseudo_labels_<iteration>.png``. Without a
    ``SemiYOLODetector`` nothing is drawn. Drawing uses no random numbers and does not change the model. If it fails,
    training continues after a warning.

    Args:
        interval: iterations between sheets, or below 1 their share of the run, see ``iterations_of``. -1: no sheets.
        max_images: largest number of images on a sheet, >= 1.

    Raises:
        ValueError: an argument is out of range.
    """

    priority = 'LOW'

    def __init__(self, interval: float = 0.2, max_images: int = 4):
        if interval != -1 and not iterations_of('interval', interval, 1):
            raise ValueError(f'Expected `interval` to be > 0, or -1 for no sheets, but got {interval!r}')
        self.interval = interval
        self.max_images = whole_number('max_images', max_images)
        self._rows: list[tuple[tuple[View, View], bool]] = []  # of the next sheet, and whether the image is empty
        self._batches = 0  # that the rows are from
        self._places: dict[str, int] | None = None  # image path -> index in the unlabeled set. None: not read yet

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        model = unwrapped(runner.model)
        if isinstance(model, SemiYOLODetector):
            every = -1 if self.interval == -1 else iterations_of('interval', self.interval, runner.max_iters)
            model.keep_latest = is_main_process() and (self.every_n_train_iters(runner, every) or self._batches > 0)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        model = unwrapped(runner.model)
        if not isinstance(model, SemiYOLODetector) or model.latest is None:
            return
        batch, model.latest = model.latest, None
        step = runner.iter + 1
        try:
            complete = self._add_rows(model, batch, runner.train_dataloader.dataset)
            if not complete and step < runner.max_iters:
                return
            names = dict(enumerate(map(printable, class_names(runner.train_dataloader.dataset))))
            title = _when(runner, batch_idx), _state(model, batch, names)
            rows, self._rows, self._batches = [row for row, _ in self._rows], [], 0
            sheet = pixels_of(draw_sheet(rows, title, legend_of(model)))
            path = Path(runner.log_dir) / 'vis_data' / 'vis_image' / f'pseudo_labels_{step}.png'
            write_whole(path, cv2.imencode('.png', sheet[..., ::-1])[1].tobytes())
            # MLflow makes a file of this name, so the name needs an extension.
            files = any(isinstance(one, MLflowVisBackend) for one in runner.visualizer._vis_backends.values())
            runner.visualizer.add_image(path.name if files else 'pseudo_labels', sheet, step)
        except Exception as error:  # a full disk must not end the training
            self._rows, self._batches = [], 0
            runner.logger.warning(f'PseudoLabelPicturesHook could not draw: {type(error).__name__}: {error}')

    def _add_rows(self, model: SemiYOLODetector, batch: UnlabeledBatch, dataset) -> bool:
        """Add a batch. Returns whether enough images are not known to be empty, or ``MAX_BATCHES`` batches are in."""
        self._batches += 1
        found = [*self._rows, *self._new_rows(model, batch, dataset)]
        number = min(self.max_images, len(batch.strong))
        others, empty = ([row for row in found if row[1] is known] for known in (False, True))
        least = number - min(len(empty), (number + 1) // 4)
        self._rows = [*others[:least], *empty, *others[least:]][:number]
        return len(others) >= least or self._batches >= MAX_BATCHES

    @torch.no_grad()
    def _new_rows(self, model: SemiYOLODetector, batch: UnlabeledBatch, dataset) -> list:
        head: Any = model.student.bbox_head
        preprocessor = model.data_preprocessor.data_preprocessor
        names, rows = dict(enumerate(map(printable, class_names(dataset)))), []
        known = [is_known_empty(sample) for sample in batch.strong_samples]
        for i in sorted(range(len(known)), key=known.__getitem__)[: self.max_images]:
            weak, strong = batch.weak_samples[i], batch.strong_samples[i]
            truth = self._truth(weak, dataset)
            empty, name = known[i], _short(Path(weak.metainfo.get('img_path', f'image {i}')).name, 32)
            left = f'{name}: {"known to show no object" if empty else "weak view, the teacher labels it"}'
            right = f'Strong view: {"everything is background" if empty else "the student learns it"}'
            boxes = _labels(strong, names, truth)
            boxes['unsure'] = _unsure(strong)
            if (more := len(boxes['unsure']) - MAX_UNSURE) > 0:
                boxes['unsure'] = boxes['unsure'][:MAX_UNSURE]
                right += f', + {more} more unsure boxes'
            if hasattr(head, 'background_predictions'):
                boxes['background'] = _background(head, i)
            padding = _padding(strong, batch.strong.shape[-2:])
            views = (
                View(left, _pixels(batch.weak[i], preprocessor), _labels(weak, names, truth)),
                View(right, _pixels(batch.strong[i], preprocessor), boxes, padding),
            )
            rows.append((views, empty))
        return rows

    def _truth(self, sample: DetDataSample, dataset) -> np.ndarray | None:
        """(M, 6), see ``true_boxes``. None: the truth is not known."""
        _, unlabeled = labeled_and_unlabeled(dataset)
        if self._places is None:
            known = not why_no_truth(dataset)
            self._places = {unlabeled.get_data_info(i)['img_path']: i for i in range(len(unlabeled))} if known else {}
        place = self._places.get(sample.metainfo.get('img_path', ''))
        # The visible boxes of a mosaic are not known.
        if place is None or 'mosaic_tiles' in sample.metainfo:
            return None
        return true_boxes(unlabeled.get_data_info(place).get('instances') or [])


def legend_of(model: SemiYOLODetector) -> dict[str, str]:
    """What the model does with the unlabeled images, for each kind of box on a sheet and for padding."""
    options, head = model.semi_train_cfg, model.student.bbox_head
    label, dense = 'pseudo-label', isinstance(model, DenseSemiYOLODetector)
    if dense:
        label = 'pseudo-box, only shown: every prior learns the score of the teacher'
    if dense or not options.unsup_weight * options.unsup_loss_weights.get('loss_bg', 1.0):
        penalty = 'no penalty on unlabeled images'
    else:
        penalty = PENALTY if lambda_of(model) else 'no penalty while λ_bg is 0'
    if options.soft_unsure:
        unsure = "the student learns the teacher's score, not the place"
    else:
        unsure = 'ignored' if getattr(head, 'ignored_in_cls', False) else 'learned as background, without penalty'
    return dict(
        label=label,
        wrong='✗ pseudo-label that fits no true box of its class',
        truth='true box, which training does not see',
        unsure=f'unsure: {unsure}',
        background=f'prediction on background ({penalty})',
        padding='padding: no penalty' if penalty == PENALTY else 'padding',
    )


def lambda_of(model: SemiYOLODetector) -> float | None:
    """λ of the head or of its loss, or None without a penalty."""
    return next((part.lambda_bg for part in model.student.bbox_head.modules() if hasattr(part, 'lambda_bg')), None)


def _when(runner: Runner, batch_idx: int) -> str:
    batches = len(runner.train_dataloader)
    # In IterBasedTrainLoop the epoch stays 0, and batch_idx counts all batches.
    epoch, last = runner.epoch + batch_idx // batches + 1, -(-runner.max_iters // batches)
    return f'Iteration {runner.iter + 1:,} of {runner.max_iters:,}, epoch {epoch} of {last} (semi)'


def _state(model: SemiYOLODetector, batch: UnlabeledBatch, names: dict[int, str]) -> str:
    """Pseudo-boxes, thresholds and λ."""
    counts = [len(sample.gt_instances) for sample in batch.strong_samples if not is_known_empty(sample)]
    parts = [f'{sum(counts) / max(len(counts), 1):.1f} pseudo-boxes an image']
    # The losses are multiplied by min(1, boxes / images), over all processes.
    dense = isinstance(model, DenseSemiYOLODetector)
    if not dense and len(counts) == len(batch.strong) and not any(counts) and get_world_size() == 1:
        parts[0] = 'no pseudo-box in this batch, so its unlabeled images have no loss'
    thresholds = getattr(model.class_thresholds, 'current', None)
    if thresholds is None:
        parts.append(f'threshold {model.semi_train_cfg.pseudo_test_cfg.score_thr:.2f}')
    else:
        values = thresholds.tolist()
        each = ', '.join(f'{name} {value:.2f}' for name, value in zip(names.values(), values))
        spread = f'{min(values):.2f} to {max(values):.2f}'
        parts.append(f'thresholds: {each if len(each) <= 80 else spread}')
    if (lambda_bg := lambda_of(model)) is not None:
        parts.append(f'λ_bg {lambda_bg:.3f}')
    return ', '.join(parts)


def _labels(sample: DetDataSample, names: dict[int, str], true: np.ndarray | None) -> dict[str, list[Box]]:
    """The pseudo-labels of a view, right and wrong ones, and the true boxes. Only missed true boxes have a text."""
    found = sample.gt_instances
    boxes, scores, labels = (part.cpu().numpy() for part in (found.bboxes.float(), found.scores.float(), found.labels))
    wrong, drawn = np.zeros(len(boxes), bool), {}

    def name_of(label: int) -> str:
        return _short(str(names.get(label, label)))

    if true is not None:
        truth, detections = truth_in_view(true, sample), Detections(xywh(boxes), scores, labels)
        right, ignored = match_boxes(detections, truth)
        wrong = ~right & ~ignored
        objects = Detections(truth.boxes, np.ones(len(truth.boxes)), truth.labels)
        hit, _ = match_boxes(objects, Truth(detections.boxes, labels, wrong & False))
        drawn['truth'] = [
            Box([x, y, x + w, y + h], [] if seen else [name_of(label)])
            for (x, y, w, h), label, crowd, seen in zip(truth.boxes, truth.labels, truth.ignored, hit)
            if not crowd
        ]
    for kind, chosen, mark in (('label', ~wrong, ''), ('wrong', wrong, '✗ ')):
        drawn[kind] = [
            Box(box, [f'{mark}{name_of(label)} {score:.2f}', f'{mark}{score:.2f}'])
            for box, label, score in zip(boxes[chosen], labels[chosen], scores[chosen])
        ]
    return drawn


def _unsure(sample: DetDataSample) -> list[Box]:
    """The unsure boxes of the strong view with sides of at least a pixel, the highest scores first."""
    found = sample.get('ignored_instances')
    if found is None or 'scores' not in found:
        return []
    boxes, scores = found.bboxes.float().cpu(), found.scores.float().cpu()
    rows = [
        (score, Box(box, [f'{score:.2f}']))
        for box, score in zip(boxes.tolist(), scores.tolist())
        if min(box[2] - box[0], box[3] - box[1]) >= 1
    ]
    return [box for _, box in sorted(rows, key=lambda row: -row[0])]


def _background(head: Any, image: int) -> list[Box]:
    found = head.background_predictions(image, 1000)
    rows, _ = nms(found['bboxes'].cpu(), found['scores'].cpu(), 0.5, score_threshold=0.05, max_num=MAX_BACKGROUND)
    return [Box(row[:4], [f'{row[4]:.2f}']) for row in rows.tolist()]


def _pixels(view: Tensor, preprocessor: Any) -> np.ndarray:
    """Undo the pre-processing: a view (1 or 3, H, W) becomes a picture (H, W, 3), RGB, uint8."""
    view = view.float()
    if preprocessor._enable_normalize:
        view = view * preprocessor.std + preprocessor.mean
    if not preprocessor._channel_conversion:  # MMDetection loads images as BGR
        view = view.flip(0)
    return view.round().clamp(0, 255).byte().expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


def _padding(sample: DetDataSample, shape: Sequence[int]) -> np.ndarray:
    """Where a view shows no picture, (H, W), bool."""
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in shape), indexing='ij')
    points = torch.stack([x.flatten(), y.flatten()], dim=-1)
    return ~priors_on_image(points, *picture_frames([sample.metainfo]))[0].reshape(*shape).numpy()


def _short(name: str, length: int = 22) -> str:
    """The end of a long name says more than its middle: file names end with a number."""
    name = printable(name)
    return name if len(name) <= length else f'{name[: length // 2 - 1]}…{name[-length // 2 :]}'
