"""Pictures of the pseudo-labels, and of the background on which the penalty acts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from mmcv.ops import nms
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import Tensor, nn

from mmyolo_bgpenalty.models.semi_detector import SemiYOLODetector, UnlabeledBatch
from mmyolo_bgpenalty.utils.arguments import non_negative, whole_number
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.files import write_whole
from mmyolo_bgpenalty.utils.geometry import picture_frame, priors_inside, priors_on_image

LABEL, BACKGROUND = '#00e676', '#ff4df8'
PANEL, MARGIN, HEADER, TITLE = 640, 10, 26, 74  # pixels: width of a view, and the space around the views


class View(NamedTuple):
    """A picture (H, W, 3), RGB, uint8, and what to draw on it. Boxes are (N, 4), xyxy in its pixels."""

    image: np.ndarray
    boxes: np.ndarray = np.zeros((0, 4))
    texts: Sequence[str] = ()
    ignored: np.ndarray | None = None  # (H, W), bool
    background: np.ndarray = np.zeros((0, 4))
    background_texts: Sequence[str] = ()


def draw_pseudo_labels(rows: Sequence[dict], title: str) -> np.ndarray:
    """One sheet with a row per image: its weak view on the left, its strong view on the right.

    Args:
        rows: dicts of ``name`` and of the two views ``weak`` and ``strong`` (``View``).
        title: first line of the sheet.

    Returns:
        (H, W, 3), RGB, uint8.
    """
    shapes = [[row[view].image.shape[:2] for view in ('weak', 'strong')] for row in rows]
    heights = [max(round(PANEL * height / width) for height, width in pair) for pair in shapes]
    total = TITLE + sum(heights) + len(rows) * (HEADER + MARGIN)
    width = 2 * PANEL + 3 * MARGIN
    # Not by pyplot: its figures are global, and a training may have some of its own.
    figure = Figure(figsize=(width / 100, total / 100), dpi=100, facecolor='white')
    canvas = FigureCanvasAgg(figure)
    figure.text(MARGIN / width, 1 - 12 / total, title, size=12, weight='bold', va='top')
    line: dict[str, Any] = dict(facecolor='none', linewidth=2)
    background = 'predicted on background, which the penalty lowers: confidence'
    ignored = 'padding or ignored: no penalty'
    figure.legend(
        handles=[
            Patch(edgecolor='#00a050', label='pseudo-label: class, score', **line),
            Patch(edgecolor='#d010c8', label=background, linestyle='--', **line),
            Patch(facecolor='0.3', edgecolor='0.6', label=ignored, hatch='////'),
        ],
        loc='upper left',
        bbox_to_anchor=(0, 1 - 32 / total),
        ncols=3,
        frameon=False,
        fontsize=10,
    )
    top = TITLE
    for row, height in zip(rows, heights):
        for column, (view, role) in enumerate((('weak', 'the teacher labels it'), ('strong', 'the student learns it'))):
            left = MARGIN + column * (PANEL + MARGIN)
            own = round(PANEL * row[view].image.shape[0] / row[view].image.shape[1])
            place = (left / width, 1 - (top + HEADER + own) / total, PANEL / width, own / total)
            axes = figure.add_axes(place, frameon=False)
            axes.set_title(f'{row["name"]}: {view} view, {role}', size=10, loc='left', pad=4, parse_math=False)
            _draw_view(axes, row[view])
        top += height + HEADER + MARGIN
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_view(axes, view: View) -> None:
    height, width = view.image.shape[:2]
    image = view.image
    if view.ignored is not None:
        # Dark stripes.
        stripes = np.add.outer(np.arange(height), np.arange(width)) // max(width // 60, 1) % 2
        image = np.where(view.ignored[..., None], (image * (0.25 + 0.2 * stripes[..., None])).astype(np.uint8), image)
    axes.imshow(image, extent=(0, width, height, 0), interpolation='nearest' if width < PANEL else 'antialiased')
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    for boxes, texts, colour, style, side in (
        (view.background, view.background_texts, BACKGROUND, (0, (4, 2)), 'bottom'),
        (view.boxes, view.texts, LABEL, '-', 'top'),
    ):
        for (x1, y1, x2, y2), text in zip(boxes, texts):
            # A dark line below the coloured one is visible on any picture.
            for line, edge in ((3.2, 'black'), (1.6, colour)):
                axes.add_patch(
                    Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=line, linestyle=style)
                )
            # Labels are above their boxes, confidences below, so that they overlap less. Without room: inside.
            room = 16 * width / PANEL
            above = y1 >= room if side == 'top' else y2 > height - room
            axes.text(
                max(x1, 0) if x1 < 0.8 * width else min(x2, width),
                max(y1, 0) if side == 'top' else min(y2, height),
                text,
                size=8,
                color='black',
                ha='left' if x1 < 0.8 * width else 'right',
                va='bottom' if above else 'top',
                clip_on=True,
                parse_math=False,
                bbox=dict(facecolor=colour, edgecolor='none', alpha=0.75, pad=1),
            )


@HOOKS.register_module()
class PseudoLabelPicturesHook(Hook):
    """Draws every ``interval`` iterations after burn-in what the student was taught from unlabeled images.

    The weak and the strong view are side by side, with the pseudo-labels (class, score). The strong view also shows
    where there is no penalty (padding and ignored boxes, darkened), and the most confident predictions on background.
    Of predictions that overlap (IoU > 0.5) only the best is drawn.

    The sheet goes to ``vis_data/vis_image/pseudo_labels_<iteration>.png`` in the log folder of the run, and to every
    visualizer backend as ``pseudo_labels``. Without a ``SemiYOLODetector`` nothing is drawn. Drawing uses no random
    numbers and does not change the model. If it fails, training continues after a warning.

    Args:
        interval: iterations between sheets, >= 1, or -1 for no sheets.
        max_images: largest number of images on a sheet, the first ones of the batch, >= 1.
        background: largest number of predictions on background per image, >= 0.
        score_thr: lowest confidence of these predictions, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    NAME = 'pseudo_labels'
    priority = 'LOW'

    def __init__(self, interval: int = 500, max_images: int = 4, background: int = 5, score_thr: float = 0.05):
        for name, value, least in (
            ('interval', 1 if interval == -1 else interval, 1),
            ('max_images', max_images, 1),
            ('background', background, 0),
        ):
            whole_number(name, value, least)
        if non_negative('score_thr', score_thr) > 1:
            raise ValueError(f'Expected `score_thr` to be in [0, 1], but got {score_thr!r}')
        self.interval = interval
        self.max_images = max_images
        self.background = background
        self.score_thr = score_thr

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        model = unwrapped(runner.model)
        if isinstance(model, SemiYOLODetector):
            model.keep_latest = self._due(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        model = unwrapped(runner.model)
        if not isinstance(model, SemiYOLODetector) or not self._due(runner):
            return
        model.keep_latest = False
        batch = model.latest
        if batch is None:
            return
        step = runner.iter + 1
        try:
            # IterBasedTrainLoop stays in epoch 0, and batch_idx goes on.
            epoch = runner.epoch + batch_idx // len(runner.train_dataloader)
            classes = runner.train_dataloader.dataset.metainfo.get('classes', ())
            sheet = self._sheet(model, batch, classes, f'Iteration {step}, epoch {epoch}')
            path = Path(runner.log_dir) / 'vis_data' / 'vis_image' / f'{self.NAME}_{step}.png'
            write_whole(path, cv2.imencode('.png', sheet[..., ::-1])[1].tobytes())
            runner.visualizer.add_image(self.NAME, sheet, step)
        except Exception as error:  # a full disk or a lost backend must not end a training
            runner.logger.warning(f'PseudoLabelPicturesHook could not draw: {type(error).__name__}: {error}')
        finally:
            model.latest = None

    def _due(self, runner: Runner) -> bool:
        return is_main_process() and self.every_n_train_iters(runner, self.interval)

    @torch.no_grad()
    def _sheet(self, model: SemiYOLODetector, batch: UnlabeledBatch, classes: Sequence[str], when: str) -> np.ndarray:
        head = model.student.bbox_head
        weak, weak_samples, strong, strong_samples = batch
        rows = []
        for i in range(min(self.max_images, len(strong))):
            row: dict[str, Any] = dict(name=Path(strong_samples[i].metainfo.get('img_path') or f'image {i}').name)
            for name, inputs, sample in (('weak', weak, weak_samples[i]), ('strong', strong, strong_samples[i])):
                instances = sample.gt_instances
                texts = [
                    f'{classes[label] if label < len(classes) else label} {score:.2f}'
                    for label, score in zip(instances.labels.tolist(), instances.scores.tolist())
                ]
                row[name] = View(_pixels(inputs[i], model.data_preprocessor), instances.bboxes.cpu().numpy(), texts)
            row['strong'] = row['strong']._replace(ignored=_ignored(strong[i], strong_samples[i]))
            if self.background and hasattr(head, 'background_predictions'):
                boxes, scores = self._background(head, i)
                row['strong'] = row['strong']._replace(
                    background=boxes.numpy(), background_texts=[f'{score:.2f}' for score in scores.tolist()]
                )
            rows.append(row)
        boxes = sum(len(sample.gt_instances) for sample in strong_samples) / len(strong_samples)
        lambda_bg = f', λ_bg = {head.lambda_bg:.3f}' if hasattr(head, 'lambda_bg') else ''
        return draw_pseudo_labels(rows, f'{when}{lambda_bg}, {boxes:.1f} pseudo-boxes per image')

    def _background(self, head, image: int):
        """Boxes (K, 4) and scores (K,) on the CPU, K <= ``background``."""
        found = head.background_predictions(image, 1000)
        boxes, scores = found['bboxes'].cpu(), found['scores'].cpu()
        boxes, scores = boxes[scores >= self.score_thr], scores[scores >= self.score_thr]
        kept = nms(boxes, scores, iou_threshold=0.5)[1][: self.background]
        return boxes[kept], scores[kept]


def _pixels(view: Tensor, preprocessor: nn.Module) -> np.ndarray:
    """A pre-processed view (C, H, W) as a picture (H, W, 3), RGB, uint8. MMDetection loads pictures as BGR."""
    own: Any = getattr(preprocessor, 'data_preprocessor', preprocessor)
    view = view.detach().float()
    if getattr(own, '_enable_normalize', False):
        view = view * own.std + own.mean
    if view.shape[0] == 3 and not getattr(own, '_channel_conversion', False):
        view = view.flip(0)
    pixels = view.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _ignored(view: Tensor, sample) -> np.ndarray:
    """Where a prior would have no penalty: (H, W), bool, True in padding and in ignored boxes."""
    height, width = view.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing='ij')
    points = torch.stack([x.flatten(), y.flatten()], dim=-1)
    to_image, boxes = picture_frame(sample.metainfo)
    ignored = ~priors_on_image(points, to_image[None], boxes[None])[0]
    if 'ignored_instances' in sample and 'bboxes' in sample.ignored_instances:
        boxes = sample.ignored_instances.bboxes
        ignored |= priors_inside(points, getattr(boxes, 'tensor', boxes).float().cpu())
    return ignored.reshape(height, width).numpy()
