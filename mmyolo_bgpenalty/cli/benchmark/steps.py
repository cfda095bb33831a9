"""What tools/benchmark.py times: steps without arguments, ours by the shipped configs and theirs by MMYOLO's config.

Letters in shapes: B images, N priors, C classes, G boxes an image.
"""

import os
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

import mmyolo_bgpenalty  # before MMYOLO, which by itself refuses the fork's MMCV

# isort: split
from mmyolo.registry import HOOKS, MODELS, TASK_UTILS

from mmyolo_bgpenalty.models.losses import background_penalty, bce_and_max_logits

MMYOLO = 'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'
STRIDES = (8, 16, 32)
Step = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """A batch: images, their size in pixels (multiples of 32), classes, and boxes an image."""

    batch: int
    height: int
    width: int
    classes: int
    boxes: int

    def __str__(self):
        size = f'{self.width}' if self.width == self.height else f'{self.width} × {self.height}'
        return f'{self.batch} × {size} px, C = {self.classes}, G = {self.boxes}'


class Scene:
    """Images' boxes, and what a detector that has learnt a part says of them.

    Boxes: sides from ``smallest`` to half the image's, uniform in the logarithm. Class logits are normal, -4 ± 1.5;
    half of the priors within a box predict it about right, and are surer of its class.

    Attributes:
        bboxes: (B, G, 4), xyxy in pixels. labels: (B, G).
        logits: of each level (B, C, H, W). distributions: of each level (B, 64, H, W), the logits of 16 bins a side.
            Both require a gradient.
    """

    def __init__(self, shape: Shape, device: str, smallest: float = 8, seed: int = 0):
        self.shape, self.device = shape, device
        random = torch.Generator().manual_seed(seed)
        size = torch.tensor([shape.width, shape.height], dtype=torch.float32)
        sides = smallest * (size / 2 / smallest) ** torch.rand(shape.batch, shape.boxes, 2, generator=random)
        corner = torch.rand(shape.batch, shape.boxes, 2, generator=random) * (size - sides)
        self.bboxes = torch.cat([corner, corner + sides], dim=-1)
        self.labels = torch.randint(shape.classes, (shape.batch, shape.boxes), generator=random)
        levels = [self._predictions(stride, random) for stride in STRIDES]
        self.logits, self.distributions = ([x.to(device).requires_grad_() for x in level] for level in zip(*levels))
        self.bboxes, self.labels = self.bboxes.to(device), self.labels.to(device)

    def _predictions(self, stride: int, random: torch.Generator) -> Tuple[Tensor, Tensor]:
        rows, columns = self.shape.height // stride, self.shape.width // stride
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing='ij')
        points = torch.stack([x, y], dim=-1).reshape(-1, 2)
        logits = torch.empty(self.shape.batch, self.shape.classes, len(points)).normal_(-4, 1.5, generator=random)
        distributions = torch.empty(self.shape.batch, 4, 16, len(points)).normal_(generator=random)
        bins = torch.arange(16.0)[:, None]
        for image in range(self.shape.batch):
            for box, label in zip(self.bboxes[image] / stride, self.labels[image]):
                sides = torch.cat([points - box[:2], box[2:] - points], dim=-1)
                hit = (sides.min(dim=-1).values > 0) & (torch.rand(len(points), generator=random) < 0.5)
                about = sides[hit].T * (1 + 0.1 * torch.randn(4, int(hit.sum()), generator=random))
                distributions[image][..., hit] -= (bins - about.clamp(0, 15)[:, None]) ** 2 / 2
                logits[image, label, hit] += 3
        shape = (self.shape.batch, -1, rows, columns)
        return logits.reshape(shape), distributions.reshape(shape)

    @property
    def objects(self) -> Tensor:
        """(B · G, 6): image, class, box, as MMYOLO's fast data path has them."""
        image = torch.arange(self.shape.batch, device=self.device).repeat_interleave(self.shape.boxes)
        return torch.cat([image[:, None], self.labels.reshape(-1, 1), self.bboxes.reshape(-1, 4)], dim=1).float()

    @property
    def metas(self) -> List[dict]:
        return [_meta(self.shape) for _ in range(self.shape.batch)]


def _meta(shape: Shape, homography: Optional[np.ndarray] = None) -> dict:
    size = (shape.height, shape.width)
    matrix = np.eye(3, dtype=np.float32) if homography is None else homography
    return dict(
        ori_shape=size, img_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0), homography_matrix=matrix
    )


# Configs


def our_config(shape: Shape, overrides: Optional[dict] = None, name: str = 'yolov8_bgpenalty.py') -> Config:
    """A shipped config for that number of classes, λ at its maximum; ``overrides`` are dotted names in its detector."""
    cfg = Config.fromfile(mmyolo_bgpenalty.config(name))
    detector = cfg.model.get('detector', cfg.model)
    # What LambdaBgSchedulerHook does when the warm-up is over.
    stated = detector.bbox_head.get('bg_penalty', {})
    detector.bbox_head.bg_penalty = dict(stated, lambda_bg=cfg.lambda_bg, focal=cfg.use_focal_bg)
    _adapt(detector, shape, overrides)
    return cfg


def their_detector(shape: Shape, ours: ConfigDict) -> ConfigDict:
    """MMYOLO's YOLOv8-n config at our detector's width and number of classes."""
    detector = get_config(MMYOLO).model
    _adapt(detector, shape, at_width(ours.backbone.widen_factor))
    return detector


def at_width(widen_factor: float) -> dict:
    """Overrides that give a detector that width; YOLOv8-n has 0.25."""
    return {f'{part}.widen_factor': widen_factor for part in ('backbone', 'neck', 'bbox_head.head_module')}


def _adapt(detector: ConfigDict, shape: Shape, overrides: Optional[dict]) -> None:
    merged = Config(dict(detector=detector))
    classes = {'bbox_head.head_module.num_classes': shape.classes, 'train_cfg.assigner.num_classes': shape.classes}
    merged.merge_from_dict({f'detector.{name}': value for name, value in {**classes, **(overrides or {})}.items()})
    detector.clear()
    detector.update(merged.detector)


def build_head(detector: ConfigDict, device: str) -> nn.Module:
    init_default_scope('mmyolo')
    return MODELS.build(dict(detector.bbox_head, train_cfg=detector.train_cfg, test_cfg=detector.test_cfg)).to(device)


# Loss


class LossStep:
    """Forward and backward of a head's ``loss_by_feat``.

    With ``decode`` it begins at what the last convolutions give and ends at their gradients; the head module makes the
    expected distances of the distributions in between. Without, it begins and ends at the head module's predictions.
    """

    def __init__(self, head: nn.Module, scene: Scene, decode: bool = True):
        self.head, self.scene = head, scene
        self.leaves = [*scene.logits, *scene.distributions]
        self.objects, self.metas = scene.objects, scene.metas
        self.predictions = None
        if not decode:
            self.predictions = [[x.detach().requires_grad_() for x in kind] for kind in self.predict()]
            self.leaves = [x for kind in self.predictions for x in kind]

    def predict(self) -> tuple:
        """Class logits, distances and distributions, each a list of levels, by the head module's own formula."""
        module, levels = self.head.head_module, zip(self.scene.logits, self.scene.distributions)
        return tuple(
            zip(*(module.forward_single(logits, nn.Identity(), lambda _, raw=raw: raw) for logits, raw in levels))
        )

    def losses(self) -> Dict[str, Tensor]:
        return self.head.loss_by_feat(*(self.predictions or self.predict()), self.objects, self.metas)

    def __call__(self):
        total = sum(loss for name, loss in self.losses().items() if 'loss' in name)
        # A head may take the boxes' gradient by the distributions alone.
        return torch.autograd.grad(total, self.leaves, allow_unused=True)


class UltralyticsLossStep:
    """v8DetectionLoss from the same convolutions' outputs, with YOLOv8's gains, as :class:`LossStep` with ``decode``.

    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self, scene: Scene):
        os.environ.setdefault('YOLO_AUTOINSTALL', 'false')  # or its import may install packages
        from ultralytics.utils.loss import v8DetectionLoss

        detect = nn.Linear(1, 1, device=scene.device)
        detect.stride = torch.tensor(STRIDES, dtype=torch.float32, device=scene.device)
        detect.nc, detect.reg_max = scene.shape.classes, 16
        model = nn.Module()
        model.args, model.model = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5), nn.ModuleList([detect])
        self.loss, self.scene = v8DetectionLoss(model), scene
        self.leaves = [*scene.logits, *scene.distributions]
        image, label, *xyxy = scene.objects.T
        low, high = torch.stack(xyxy[:2], dim=1), torch.stack(xyxy[2:], dim=1)
        size = torch.tensor([scene.shape.width, scene.shape.height], device=scene.device)
        boxes = torch.cat([(low + high) / 2 / size, (high - low) / size], dim=1)
        self.batch = dict(batch_idx=image, cls=label, bboxes=boxes)

    def losses(self) -> Dict[str, Tensor]:
        logits, distributions = (
            torch.cat([level.flatten(2) for level in kind], dim=2)
            for kind in (self.scene.logits, self.scene.distributions)
        )
        total, _ = self.loss(dict(boxes=distributions, scores=logits, feats=self.scene.logits), self.batch)
        return dict(zip(('loss_bbox', 'loss_cls', 'loss_dfl'), total))

    def __call__(self):
        return torch.autograd.grad(sum(self.losses().values()), self.leaves)


def disagreement(a, b) -> float:
    """Largest relative difference of the three losses that two steps share."""
    with torch.no_grad():
        a, b = a.losses(), b.losses()
    return max(abs(float(a[name] / b[name]) - 1) for name in ('loss_cls', 'loss_bbox', 'loss_dfl'))


def assigner_steps(ours: ConfigDict, theirs: ConfigDict, scene: Scene) -> Tuple[Step, Step]:
    """Our assigner and theirs, on what MMYOLO's head gives to its own.

    Raises:
        ValueError: they assign differently.
    """
    seen: List[tuple] = []
    head = build_head(theirs, scene.device)
    head.assigner.register_forward_pre_hook(lambda module, args: seen.append(args))
    with torch.no_grad():
        LossStep(head, scene).losses()
    assigners = [TASK_UTILS.build(cfg.train_cfg.assigner).to(scene.device) for cfg in (ours, theirs)]
    results = [assigner(*seen[0]) for assigner in assigners]
    for name in ('assigned_bboxes', 'assigned_scores', 'fg_mask_pre_prior'):
        a, b = (result[name].float() for result in results)
        if not torch.allclose(a, b, atol=1e-5):
            raise ValueError(f'{name} differs from MMYOLO by up to {(a - b).abs().max():.3g} at {scene.shape}')
    return tuple(partial(assigner, *seen[0]) for assigner in assigners)


def positives_step(ours: ConfigDict, scene: Scene) -> Step:
    """What our head asks of its assigner in a step: the positives alone, from the predictions as they are."""
    head = build_head(ours, scene.device)
    with torch.no_grad():
        logits, distances, _ = LossStep(head, scene).predict()
        head.loss_by_feat(*LossStep(head, scene).predict(), scene.objects, scene.metas)
    boxes = torch.cat([scene.labels[..., None].float(), scene.bboxes], dim=-1)
    return partial(head._assign, logits, distances, boxes)


def classification_steps(scene: Scene) -> Tuple[Step, Step]:
    """Our classification loss with the penalty, forward and backward, and what it cannot do without: one read of the
    logits and one write of their gradient. A tenth of a percent of the priors is foreground."""
    images, priors = scene.shape.batch, sum(level[0, 0].numel() for level in scene.logits)
    image = torch.arange(images, device=scene.device).repeat_interleave(max(1, priors // 1000))
    prior = torch.arange(len(image), device=scene.device) * 7919 % priors
    label, score = torch.zeros_like(image), torch.full(image.shape, 0.5, device=scene.device)
    background = torch.ones((images, priors), dtype=torch.bool, device=scene.device)
    background[image, prior] = False

    def ours():
        bce, max_logits = bce_and_max_logits(scene.logits, image, prior, label, score)
        return torch.autograd.grad(bce + background_penalty(max_logits[..., None], background), scene.logits)

    @torch.no_grad()
    def floor():
        return [level.sum() for level in scene.logits], [torch.zeros_like(level) for level in scene.logits]

    return ours, floor


# Training


def _pictures(scene: Scene, seed: int) -> Tensor:
    """(B, 3, H, W), uint8: boxes of one grey on noise."""
    random = torch.Generator().manual_seed(seed)
    shape = scene.shape
    pictures = torch.randint(60, (shape.batch, 3, shape.height, shape.width), generator=random, dtype=torch.uint8)
    for picture, boxes in zip(pictures, scene.bboxes.int().tolist()):
        for x1, y1, x2, y2 in boxes:
            picture[:, y1:y2, x1:x2] += int(torch.randint(80, 190, (), generator=random))
    return pictures


def _optimizer(model: nn.Module, cfg: Config):
    # Rate 0: the same arithmetic, and every step sees the same weights, so the same assignments and pseudo-labels.
    wrapper = dict(cfg.optim_wrapper, optimizer=dict(cfg.optim_wrapper.optimizer, lr=0.0))
    return build_optim_wrapper(model, ConfigDict(wrapper))


def _settle(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model.init_weights()
    return model.train()


def supervised_steps(shape: Shape, overrides: Optional[dict], device: str) -> Tuple[Step, Step]:
    """``train_step`` of the supervised config, and of MMYOLO's detector in its place: pre-processing to optimizer."""
    init_default_scope('mmyolo')
    cfg = our_config(shape, overrides)
    ours, theirs = (_settle(MODELS.build(c)).to(device) for c in (cfg.model, their_detector(shape, cfg.model)))
    theirs.load_state_dict(ours.state_dict())
    scene = Scene(shape, 'cpu')
    samples = dict(bboxes_labels=scene.objects, img_metas=[])
    pictures = _pictures(scene, 0)
    regions = [{key: meta[key] for key in ('homography_matrix', 'ori_shape', 'img_shape')} for meta in scene.metas]
    batches = (
        dict(inputs=pictures, data_samples=dict(samples, regions=regions)),
        dict(inputs=pictures, data_samples=samples),
    )
    return tuple(
        partial(model.train_step, batch, _optimizer(model, cfg)) for model, batch in zip((ours, theirs), batches)
    )


def semi_steps(shape: Shape, overrides: Optional[dict], device: str) -> Tuple[Step, Step]:
    """``train_step`` and the teacher's update of the semi config after burn-in, and of the same detector under
    MMDetection's SemiBaseDetector and MeanTeacherHook, with our pseudo-label settings.

    Half of the batch is labeled. Both begin with the same weights: BN has seen the images, and the class biases are
    such that the teacher labels some boxes in every image.
    """
    init_default_scope('mmyolo')
    cfg = our_config(shape, overrides, 'yolov8_semi_bgpenalty_published.py')
    ours = _settle(MODELS.build(cfg.model))
    detector = their_detector(shape, cfg.model.detector)
    detector.update(data_preprocessor=cfg.model.detector.data_preprocessor, test_cfg=ours.pseudo_test_cfg)
    preprocessor = dict(type='mmdet.MultiBranchDataPreprocessor', data_preprocessor=detector.data_preprocessor)
    train_cfg = dict(
        cls_pseudo_thr=ours.pseudo_test_cfg.score_thr,
        **{key: ours.semi_train_cfg[key] for key in ('sup_weight', 'unsup_weight', 'min_pseudo_bbox_wh')},
    )
    plain = dict(type='mmdet.SemiBaseDetector', detector=detector, data_preprocessor=preprocessor)
    theirs = MODELS.build(ConfigDict(plain, semi_train_cfg=train_cfg, semi_test_cfg=dict(predict_on='teacher')))
    half = replace(shape, batch=shape.batch // 2)
    batch = _semi_batch(half)
    _make_teacher(ours, batch)
    theirs.load_state_dict(ours.state_dict())
    hook = cfg.default_hooks.mean_teacher
    hooks = HOOKS.build(hook), HOOKS.build(dict(type='mmdet.MeanTeacherHook', momentum=hook.momentum))
    return tuple(
        SemiStep(model.to(device).train(), _optimizer(model, cfg), hook, batch)
        for model, hook in zip((ours, theirs), hooks)
    )


class SemiStep:
    """A model's ``train_step`` and its teacher's update."""

    def __init__(self, model: nn.Module, wrapper, hook, batch: dict):
        self.model, self.wrapper, self.hook, self.batch = model, wrapper, hook, batch

    def __call__(self):
        losses = self.model.train_step(self.batch, self.wrapper)
        self.hook.momentum_update(self.model, self.hook.momentum)
        return losses

    def pseudo_boxes(self) -> float:
        """Boxes an image that the teacher finds."""
        data = self.model.data_preprocessor(self.batch, True)
        weak = data['inputs']['unsup_teacher'], data['data_samples']['unsup_teacher']
        samples, _ = self.model.get_pseudo_instances(*weak)
        return sum(len(sample.gt_instances) for sample in samples) / len(samples)


def _semi_batch(half: Shape) -> dict:
    """Labeled images, and two views of as many unlabeled ones, as MMDetection's loader hands them over."""
    move = np.array([[0.8, 0, 0.1 * half.width], [0, 0.8, 0.1 * half.height], [0, 0, 1]], dtype=np.float32)
    branches = dict(sup=(0, None), unsup_teacher=(1, None), unsup_student=(1, move))
    absent = [None] * half.batch
    inputs, samples = {}, {}
    for branch, (seed, homography) in branches.items():
        scene = Scene(half, 'cpu', seed=seed)
        views = []
        for boxes, labels in zip(scene.bboxes, scene.labels):
            view = DetDataSample(metainfo=_meta(half, homography))
            view.gt_instances = InstanceData(bboxes=HorizontalBoxes(boxes), labels=labels)
            view.ignored_instances = InstanceData(bboxes=HorizontalBoxes(boxes[:0]), labels=labels[:0])
            views.append(view)
        pictures = list(_pictures(scene, seed))
        place = (lambda items: items + absent) if branch == 'sup' else (lambda items: absent + items)
        inputs[branch], samples[branch] = place(pictures), place(views)
    return dict(inputs=inputs, data_samples=samples)


@torch.no_grad()
def _make_teacher(model: nn.Module, batch: dict, candidates: int = 60) -> None:
    """Let BN see the weak views, and lift every level's class biases until ``candidates`` priors an image (and level)
    pass the threshold of pseudo-labels, before NMS."""
    images = model.data_preprocessor(batch, True)['inputs']['unsup_teacher']
    student, threshold = model.student, model.pseudo_test_cfg.score_thr
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    student.bbox_head(student.extract_feat(images))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    student.eval()
    logits = student.bbox_head(student.extract_feat(images))[0]
    for level, predict in zip(logits, student.bbox_head.head_module.cls_preds):
        best = level.max(dim=1).values.flatten()
        # Half way to the next, so that rounding (memory formats differ) moves none over the threshold.
        passed = best.topk(min(candidates * len(images), len(best) // 4) + 1).values[-2:].mean()
        predict[-1].bias += torch.logit(torch.tensor(threshold)) - passed
    student.train()
    model.teacher.load_state_dict(student.state_dict())
