"""Pictures of unlabeled images with their pseudo-labels and with confident predictions on background."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from mmcv.ops import nms
from mmdet.structures import DetDataSample
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import Tensor

from mmyolo_bgpenalty.engine.schedule import iterations_of
from mmyolo_bgpenalty.models.semi_detector import SemiYOLODetector, UnlabeledBatch
from mmyolo_bgpenalty.utils.arguments import whole_number
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.files import write_whole
from mmyolo_bgpenalty.utils.geometry import picture_frame, priors_inside, priors_on_image

LABEL, BACKGROUND = '#00e676', '#ff4df8'
PANEL = 6.5  # width of a view in inches, 100 pixels each
Boxes = Sequence[tuple[Sequence[float], str]]  # x1, y1, x2, y2 in pixels, and the text at the box


class View(NamedTuple):
    image: np.ndarray  # (H, W, 3), RGB, uint8
    labels: Boxes
    background: Boxes = ()
    ignored: np.ndarray = np.zeros((1, 1), bool)  # (H, W), or (1, 1): one value for the whole picture


def draw_pseudo_labels(rows: Sequence[tuple[str, View, View]], title: str) -> Figure:
    """A sheet with a row for each image: its name, its weak and its strong view. All rows have the same sizes."""
    height = max(view.image.shape[0] / view.image.shape[1] for view in rows[0][1:])
    # Without pyplot, because its figures are global.
    figure = Figure(figsize=(2 * PANEL, 0.7 + len(rows) * (0.3 + height * PANEL)), layout='constrained')
    figure.suptitle(title, weight='bold')
    handles = [
        Patch(fill=False, edgecolor='#00a050', label='pseudo-label: class, score'),
        Patch(fill=False, edgecolor='#d010c8', linestyle='--', label='prediction on background: confidence'),
        Patch(facecolor='0.3', edgecolor='0.6', hatch='////', label='padding or ignored: no penalty'),
    ]
    figure.legend(handles=handles, loc='outside lower center', ncols=3, frameon=False)
    for (name, weak, strong), (left, right) in zip(rows, figure.subplots(len(rows), 2, squeeze=False)):
        _draw_view(left, weak, f'{name}: weak view, the teacher labels it')
        _draw_view(right, strong, f'{name}: strong view, the student learns it')
    return figure


def _draw_view(axes: Axes, view: View, title: str) -> None:
    axes.set_title(title, size=10, loc='left', parse_math=False)
    height, width = view.image.shape[:2]
    stripes = np.add.outer(np.arange(height), np.arange(width)) // max(width // 60, 1) % 2
    dark = view.image * (0.25 + 0.2 * stripes[..., None])
    image = np.where(view.ignored[..., None], dark, view.image).astype(np.uint8)
    axes.imshow(image, extent=(0, width, height, 0))
    axes.set_axis_off()
    outline = withStroke(linewidth=3.2, foreground='black')  # visible on any picture
    text_height = 0.025 * width  # in pixels of the view
    for boxes, colour, style in ((view.background, BACKGROUND, '--'), (view.labels, LABEL, '-')):
        line: dict[str, Any] = dict(fill=False, edgecolor=colour, linewidth=1.6, linestyle=style)
        patch = dict(facecolor=colour, edgecolor='none', alpha=0.75, pad=1)
        for (x1, y1, x2, y2), text in boxes:
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, path_effects=[outline], **line))
            # Labels are above their boxes, confidences below, so that they overlap less.
            y, side = (max(y1, text_height), 'bottom') if colour == LABEL else (min(y2, height - text_height), 'top')
            x = min(max(x1, 0), 0.85 * width)
            axes.text(x, y, text, size=8, va=side, clip_on=True, parse_math=False, bbox=patch)


@HOOKS.register_module()
class PseudoLabelPicturesHook(Hook):
    """Draws unlabeled images from the batch of every ``interval``-th iteration, after burn-in.

    The weak and the strong view are side by side, with the pseudo-labels (class, score). In the strong view, padding
    and ignored boxes are dark: there is no penalty. It also shows the most confident predictions on background, up to 5
    with a confidence above 0.05. Predictions that overlap a better one (IoU > 0.5) are left out.

    The sheet is saved as ``vis_data/vis_image/pseudo_labels_<iteration>.png`` in the log folder of the run, and sent to
    every visualizer backend as ``pseudo_labels``. Without a ``SemiYOLODetector`` nothing is drawn. Drawing uses no
    random numbers and does not change the model. If it fails, training continues after a warning.

    Args:
        interval: iterations between sheets, or below 1 their share of the run, see ``iterations_of``. -1: no sheets.
        max_images: largest number of images on a sheet, >= 1.

    Raises:
        ValueError: an argument is out of range.
    """

    priority = 'LOW'

    def __init__(self, interval: float = 500, max_images: int = 4):
        if interval != -1 and not iterations_of('interval', interval, 1):
            raise ValueError(f'Expected `interval` to be > 0, or -1 for no sheets, but got {interval!r}')
        self.interval = interval
        self.max_images = whole_number('max_images', max_images)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        model = unwrapped(runner.model)
        if isinstance(model, SemiYOLODetector):
            every = -1 if self.interval == -1 else iterations_of('interval', self.interval, runner.max_iters)
            model.keep_latest = is_main_process() and self.every_n_train_iters(runner, every)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        model = unwrapped(runner.model)
        if not isinstance(model, SemiYOLODetector) or model.latest is None:
            return
        batch, model.latest = model.latest, None
        step = runner.iter + 1
        try:
            # In IterBasedTrainLoop the epoch stays 0, and batch_idx counts all batches.
            epoch = runner.epoch + batch_idx // len(runner.train_dataloader)
            classes = runner.train_dataloader.dataset.metainfo.get('classes', ())
            sheet = self._sheet(model, batch, classes, f'Iteration {step}, epoch {epoch}')
            path = Path(runner.log_dir) / 'vis_data' / 'vis_image' / f'pseudo_labels_{step}.png'
            write_whole(path, cv2.imencode('.png', sheet[..., ::-1])[1].tobytes())
            runner.visualizer.add_image('pseudo_labels', sheet, step)
        except Exception as error:  # a full disk must not end the training
            runner.logger.warning(f'PseudoLabelPicturesHook could not draw: {type(error).__name__}: {error}')

    @torch.no_grad()
    def _sheet(self, model: SemiYOLODetector, batch: UnlabeledBatch, classes: Sequence[str], when: str) -> np.ndarray:
        """(H, W, 3), RGB, uint8."""
        head: Any = model.student.bbox_head
        names, rows = dict(enumerate(classes)), []
        for i in range(min(self.max_images, len(batch.strong))):
            views: list[View] = []
            for inputs, sample in (batch.weak[i], batch.weak_samples[i]), (batch.strong[i], batch.strong_samples[i]):
                found = sample.gt_instances
                boxes = zip(found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist())
                labels = [(box, f'{names.get(label, label)} {score:.2f}') for box, label, score in boxes]
                views.append(View(_pixels(inputs, model.data_preprocessor.data_preprocessor), labels))
            ignored = _ignored(sample, batch.strong.shape[-2:])
            background = _background(head, i) if hasattr(head, 'background_predictions') else []
            views[1] = views[1]._replace(background=background, ignored=ignored)
            rows.append((Path(sample.metainfo.get('img_path', f'image {i}')).name, views[0], views[1]))
        number = sum(len(sample.gt_instances) for sample in batch.strong_samples) / len(batch.strong_samples)
        lambda_bg = f', λ_bg = {head.lambda_bg:.3f}' if hasattr(head, 'lambda_bg') else ''
        canvas = FigureCanvasAgg(draw_pseudo_labels(rows, f'{when}{lambda_bg}, {number:.1f} pseudo-boxes per image'))
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3]


def _background(head: Any, image: int) -> Boxes:
    found = head.background_predictions(image, 1000)
    rows, _ = nms(found['bboxes'].cpu(), found['scores'].cpu(), 0.5, score_threshold=0.05, max_num=5)
    return [(row[:4], f'{row[4]:.2f}') for row in rows.tolist()]


def _pixels(view: Tensor, preprocessor: Any) -> np.ndarray:
    """Undo the pre-processing: a view (1 or 3, H, W) becomes a picture (H, W, 3), RGB, uint8."""
    view = view.float()
    if preprocessor._enable_normalize:
        view = view * preprocessor.std + preprocessor.mean
    if not preprocessor._channel_conversion:  # MMDetection loads images as BGR
        view = view.flip(0)
    return view.round().clamp(0, 255).byte().expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


def _ignored(sample: DetDataSample, shape: Sequence[int]) -> np.ndarray:
    """Where priors have no penalty, (H, W), bool: in padding and in ignored boxes."""
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in shape), indexing='ij')
    points = torch.stack([x.flatten(), y.flatten()], dim=-1)
    to_image, boxes = picture_frame(sample.metainfo)
    ignored = ~priors_on_image(points, to_image[None], boxes[None])[0]
    boxes = sample.get('ignored_instances', {}).get('bboxes')
    if boxes is not None:
        ignored |= priors_inside(points, boxes.float().cpu())
    return ignored.reshape(*shape).numpy()
