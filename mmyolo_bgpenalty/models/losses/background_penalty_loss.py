"""BackgroundPenaltyLoss: the background penalty for any dense head.

Shapes: N priors, C classes.
"""

from typing import Any

import torch
from mmyolo.registry import MODELS
from torch import Tensor, nn

from mmyolo_bgpenalty.models.losses.penalty import BackgroundPenaltyOptions, background_statistics, penalty_sum
from mmyolo_bgpenalty.utils.arguments import known_keys, non_negative

Target = Tensor | tuple[Tensor, Tensor]
OPTIONS = ('focal', 'gamma', 'normalizer', 'hard_score')


@MODELS.register_module()
class BackgroundPenaltyLoss(nn.Module):
    r"""A classification or objectness loss of a dense head, plus the background penalty.

    .. math:: L = L_{loss} + w \cdot D \cdot \lambda_{bg} \cdot penalty

    penalty is ``background_penalty`` with λ = 1, and w is the ``loss_weight`` of ``loss``. D is the number by which the
    head divides the result: 1 if ``loss`` gives a mean, and otherwise the sum of the targets, at least 1 (YOLOv6,
    YOLOv8, PP-YOLOE: the assigned scores; YOLOX: the number of positives). With λ = 0 the result is that of ``loss``,
    bit for bit in value and gradient.

    The targets say what is background:

    - labels, (N,): those that equal C (RetinaNet, FCOS, ATSS);
    - a pair of labels and scores (GFL, RTMDet): the same;
    - scores, (…, N, C): a prior whose scores are all 0 (YOLOv6, YOLOv8, PP-YOLOE; YOLOX's objectness has C = 1);
    - scores, (B, A, H, W): each score of 0 is a prior (the objectness of YOLOv5 and YOLOv7).

    A prior with the weight 0 is no background. Each process counts its own background and, in D, its own targets. The
    targets do not say where boxes, padding and ignored objects are. Only BgPenaltyYOLOv8Head knows these places.

    Args:
        loss: config of the loss. It needs logits and must be a sigmoid loss.
        lambda_bg: λ, >= 0.
        bg_penalty: options of ``BackgroundPenaltyOptions`` without ``region``. ``normalizer='positives'`` divides by
            ``avg_factor`` or, without it, by the sum of the targets.
        **inherited: keys of ``loss``, with equal values. A child config inherits them, and AnchorHead reads
            ``use_sigmoid`` here.

    Attributes:
        factor: a further weight of the penalty, >= 0. SemiYOLODetector sets it to the weight of ``loss_bg``. With 0 a
            call does not count for the statistics.
        latest_penalty: the sum of the penalties since ``lambda_bg`` was set, a tensor without gradient.

    Raises:
        ValueError: an option is unknown or out of range, ``loss`` is no sigmoid loss, or ``inherited`` differs from it.
    """

    def __init__(self, loss: dict, lambda_bg: float = 1.0, bg_penalty: dict | None = None, **inherited):
        super().__init__()
        known_keys('bg_penalty', bg_penalty or {}, OPTIONS)
        for name, value in inherited.items():
            if name not in loss or loss[name] != value:
                raise ValueError(
                    f'Expected `{name}` of BackgroundPenaltyLoss to be that of `loss`, {loss.get(name)!r}, but got '
                    f'{value!r}: options of the penalty go to `bg_penalty`'
                )
        if loss.get('use_sigmoid') is True and 'use_sigmoid' not in inherited:
            raise ValueError('Expected `use_sigmoid=True` also beside `loss`, because heads read it there')
        self.loss = MODELS.build(loss)
        if getattr(self.loss, 'use_sigmoid', True) is not True:
            raise ValueError(f'Expected a loss with `use_sigmoid=True` to penalise, but got {loss.get("type")}')
        self.bg_penalty = BackgroundPenaltyOptions(**(bg_penalty or {}))
        self.lambda_bg = lambda_bg
        self.factor = 1.0

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'loss':
                raise
            return getattr(super().__getattr__('loss'), name)  # such as `loss_weight`

    @property
    def lambda_bg(self) -> float:
        """The weight λ, a Python float >= 0. It is not in the state_dict. To set it begins new statistics."""
        return self._lambda_bg

    @lambda_bg.setter
    def lambda_bg(self, value: float) -> None:
        self._lambda_bg = non_negative('lambda_bg', value)
        self.latest_penalty: Tensor | None = None
        self._statistics: Tensor | None = None  # (4,): sum, maximum, minimum and number of the background scores

    def forward(
        self,
        pred: Tensor,
        target: Target,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        **kwargs,
    ) -> Tensor:
        """As ``loss``, with the penalty. If ``loss`` gives no reduction, each element gets an equal part of it."""
        value = self.loss(pred, target, weight, avg_factor=avg_factor, reduction_override=reduction_override, **kwargs)
        if self.factor == 0:
            return value
        max_logits, background = logits_and_background(pred, target, weight)
        self._add_statistics(background_statistics(max_logits, background))
        if self.lambda_bg == 0:  # no graph, so that 0 · NaN reaches no gradient
            return value
        positives = _positives(target, pred.shape[-1])
        options = self.bg_penalty
        divisor = positives if avg_factor is None else torch.as_tensor(avg_factor, device=pred.device)
        total, number = penalty_sum(
            max_logits, background, options.focal, options.gamma, options.normalizer, divisor, options.hard_score
        )
        factor = getattr(self.loss, 'loss_weight', 1.0) * self.lambda_bg * self.factor
        penalty = factor * total / number.clamp(min=1)
        if (reduction_override or getattr(self.loss, 'reduction', 'mean')) != 'mean':
            penalty = penalty * positives.clamp(min=1)
        seen = penalty.detach()
        self.latest_penalty = seen if self.latest_penalty is None else self.latest_penalty + seen
        return value + penalty / value.numel()

    def get_bg_penalty_stats(self) -> dict[str, float]:
        """As ``BgPenaltyYOLOv8Head.get_bg_penalty_stats``, over all calls since ``lambda_bg`` was set."""
        total, high, low, number = (0.0, 0.0, 0.0, 0) if self._statistics is None else self._statistics.tolist()
        if not number:
            return dict(mean=0.0, max=0.0, min=0.0, num=0)
        return dict(mean=total / number, max=high, min=low, num=int(number))

    def _add_statistics(self, new: Tensor) -> None:
        mean, high, low, number = new
        low = torch.where(number > 0, low, 1.0)  # without background it is 0
        new = torch.stack([mean * number, high, low, number])
        if self._statistics is not None:  # one tensor, since a run without the hook never begins new statistics
            old = self._statistics
            new = torch.stack([old[0] + new[0], old[1].maximum(high), old[2].minimum(low), old[3] + number])
        self._statistics = new


def logits_and_background(pred: Tensor, target: Target, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest logit of each prior, and whether the prior is background, both with the shape of the priors.

    Raises:
        ValueError: the shapes of ``pred`` and ``target`` do not fit.
    """
    labels = target[0] if isinstance(target, (tuple, list)) else target
    objectness = pred.dim() == 4
    if labels.shape == pred.shape:
        background = labels == 0 if objectness else (labels == 0).all(-1)
    elif not labels.is_floating_point() and labels.shape == pred.shape[:-1]:
        background = labels == pred.shape[-1]
    else:
        raise ValueError(
            'Expected labels, or scores with the shape of the predictions, but got a target of shape '
            f'{tuple(labels.shape)} and {labels.dtype} for predictions of shape {tuple(pred.shape)}'
        )
    if weight is not None:
        weighed = weight != 0
        background &= weighed if weighed.shape == background.shape else weighed.any(-1)
    return pred if objectness else pred.amax(-1), background


def _positives(target: Target, classes: int) -> Tensor:
    """The sum of the targets: of the scores or, without scores, the number of labels that are no background."""
    if isinstance(target, (tuple, list)):
        labels, scores = target
        return (scores * (labels != classes)).sum()
    return target.sum() if target.is_floating_point() else (target != classes).sum()
