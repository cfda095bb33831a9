"""YOLOv8's head with the background penalty.

Shapes: B images, N priors, C classes.
"""

from dataclasses import fields
from typing import NamedTuple

import torch
from mmengine.dist import get_world_size
from mmyolo.registry import MODELS
from torch import Tensor

from mmyolo_bgpenalty.models.losses.penalty import BackgroundPenaltyOptions, background_statistics, penalty_sum
from mmyolo_bgpenalty.models.losses.sparse import bce_and_max_logits
from mmyolo_bgpenalty.models.sparse_yolov8_head import (
    LossInputs,
    SparseYOLOv8Head,
    ignored_objects,
)
from mmyolo_bgpenalty.utils.arguments import known_keys, non_negative
from mmyolo_bgpenalty.utils.geometry import picture_frames, priors_inside, priors_on_image


class LatestLoss(NamedTuple):
    """Values of the latest loss for hooks, without gradients."""

    max_logits: Tensor  # (B, N), max_c z
    background: Tensor  # (B, N), bool, True where the prior is background
    bbox_preds: list[Tensor]  # distances of each level, (B, 4, H, W), in strides
    positives: Tensor  # scalar, the sum of the assigned scores per image of the latest batch with objects, at least 1


@MODELS.register_module()
class BgPenaltyYOLOv8Head(SparseYOLOv8Head):
    """YOLOv8Head with one more loss, ``loss_bg``, see ``background_penalty``.

    It is scaled as MMYOLO scales ``loss_cls``: by the ``loss_weight`` of ``loss_cls``, the number of images and the
    number of processes. A prior is background if it has no object and lies neither in padding (see ``picture_frames``)
    nor in an ``ignored_instances`` box. ``region`` may exclude more priors. With λ = 0 the other losses and all
    gradients are those of YOLOv8Head: bit for bit without ``sparse_targets``, up to rounding with it.

    Args:
        bg_penalty: the weight λ, ``lambda_bg`` (>= 0, default 1.0), and the options of ``BackgroundPenaltyOptions``.
        **kwargs: see ``SparseYOLOv8Head``.

    Raises:
        ValueError: ``bg_penalty`` has an unknown key or a value out of range.
    """

    def __init__(self, *args, bg_penalty: dict | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        given = {} if bg_penalty is None else bg_penalty
        known_keys('bg_penalty', given, ['lambda_bg', *(field.name for field in fields(BackgroundPenaltyOptions))])
        self.lambda_bg = given.get('lambda_bg', 1.0)
        options = {name: value for name, value in given.items() if name != 'lambda_bg'}
        self.bg_penalty = BackgroundPenaltyOptions(**options)
        self.latest: LatestLoss | None = None  # None before the first loss

    @property
    def lambda_bg(self) -> float:
        """The weight λ, a Python float >= 0. It is not in the state_dict."""
        return self._lambda_bg

    @lambda_bg.setter
    def lambda_bg(self, value: float) -> None:
        self._lambda_bg = non_negative('lambda_bg', value)

    def loss_by_feat(self, *args, **kwargs) -> dict[str, Tensor]:
        """As in YOLOv8Head, with ``loss_bg``."""
        inputs = LossInputs(*args, **kwargs)
        losses, foreground, score_sum, max_logits, objects = self._compute_losses(inputs)
        images = len(inputs.batch_img_metas)
        background = self._may_be_background(inputs.batch_img_metas, inputs.batch_gt_instances_ignore) & ~foreground
        options = dict(vars(self.bg_penalty))
        if options.pop('region') == 'outside':
            background &= ~priors_inside(self.flatten_priors_train[:, :2], objects[..., 1:])
        positives = (score_sum.detach() / images).clamp(min=1)
        if self.latest is not None:  # without objects the loss of empty images would grow
            positives = torch.where(score_sum.detach() > 0, positives, self.latest.positives)
        bbox_preds = [level.detach() for level in inputs.bbox_preds]
        self.latest = LatestLoss(max_logits.detach(), background, bbox_preds, positives)
        if self.lambda_bg == 0:  # the loss has no graph, so that 0 · NaN reaches no gradient
            return {**losses, 'loss_bg': losses['loss_cls'].new_zeros(())}
        total, number = penalty_sum(max_logits, background, positives=score_sum, **options)
        penalty = self._synced(dict(loss_bg=self.lambda_bg * total / number.clamp(min=1)), number)['loss_bg']
        scale = self.loss_cls.loss_weight * images * get_world_size()
        return {**losses, 'loss_bg': scale * penalty}

    def loss_without_objects(
        self, cls_scores: list[Tensor], metas: list[dict], penalty: BackgroundPenaltyOptions
    ) -> dict[str, Tensor]:
        r"""Losses of B images without objects, ``loss_cls`` and ``loss_bg``, after a labeled batch.

        .. math:: L_{cls} = \frac{w}{n} \sum_{i, c} \mathrm{softplus}(z_{ic})

        This is YOLOv8's classification loss. w is the ``loss_weight`` of ``loss_cls``. n is the sum of the assigned
        scores per image of the latest labeled batch with objects, at least 1. So a prior weighs as much as a background
        prior of a labeled image.

        ``loss_bg`` is λ times the penalty with the options ``penalty``, scaled in the same way. With its ``normalizer``
        'positives' it has the same n. ``cls_scores``: logits of each level, (B, C, H, W).
        """
        self._update_priors(cls_scores)
        none = torch.zeros(0, dtype=torch.int64, device=cls_scores[0].device)
        bce, max_logits = bce_and_max_logits(cls_scores, none, none, none, none.float())
        images, scale = len(metas), self.loss_cls.loss_weight * len(metas) * get_world_size()
        positives = images * (max_logits.new_ones(()) if self.latest is None else self.latest.positives)
        losses = self._synced(dict(loss_cls=scale * bce / positives), positives)
        if self.lambda_bg == 0:
            return {**losses, 'loss_bg': bce.new_zeros(())}
        options = dict(vars(penalty))
        options.pop('region')  # without boxes both regions are the same
        background = self._may_be_background(metas, None)
        total, number = penalty_sum(max_logits, background, positives=positives, **options)
        return losses | self._synced(dict(loss_bg=scale * self.lambda_bg * total / number.clamp(min=1)), number)

    def _may_be_background(self, metas: list[dict], ignored) -> Tensor:
        """(B, N), bool: which priors lie neither in padding nor in an ignored box."""
        points = self.flatten_priors_train[:, :2].float()
        frames = (frame.to(points.device, non_blocking=True) for frame in picture_frames(metas))
        mask = priors_on_image(points, *frames)
        for i, meta in enumerate(metas):
            boxes, _ = ignored_objects(meta, ignored, i, points.device)
            if len(boxes):
                mask[i] &= ~priors_inside(points, boxes)
        return mask

    def get_bg_penalty_stats(self) -> dict[str, float]:
        """``mean``, ``max`` and ``min`` of max_c σ(z) over the ``num`` background priors of the latest loss.

        They are Python numbers, and 0 before the first loss. This call waits for the device.
        """
        if self.latest is None:
            return dict(mean=0.0, max=0.0, min=0.0, num=0)
        mean, highest, lowest, num = background_statistics(self.latest.max_logits, self.latest.background).tolist()
        return dict(mean=mean, max=highest, min=lowest, num=int(num))

    @torch.no_grad()
    def background_predictions(self, image: int, number: int) -> dict[str, Tensor]:
        """The most confident predictions on background in the latest loss, for the ``image`` with this index.

        Returns:
            ``scores``, (K,), max_c σ(z), highest first, and ``bboxes``, (K, 4), xyxy in the pixels of the input. Both
            are in fp32, and K is at most ``number``.
        """
        assert self.latest is not None
        max_logits, background, bbox_preds, _ = self.latest
        scores = max_logits[image].float().sigmoid().masked_fill(~background[image], -1)
        scores, places = scores.topk(min(number, int(background[image].sum())))
        distances = torch.cat([level[image].flatten(1) for level in bbox_preds], dim=1).T[places].float()
        return dict(scores=scores, bboxes=self._decode(places, distances).float())
