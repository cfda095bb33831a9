"""The background penalty as a function of tensors.

Shapes: B images, N priors, C classes.
"""

from dataclasses import dataclass
from typing import Iterable, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from mmyolo_bgpenalty.utils.arguments import non_negative, one_of, whole_number

NORMALIZERS = ('background', 'positives', 'hard')
REGIONS = ('all', 'outside')


@dataclass
class BackgroundPenaltyOptions:
    """The background penalty as it stands in a config: the arguments of ``background_penalty``, and

    - ``region``: which priors without an object are background: 'all', or those 'outside' of every box, so that a
      near miss of an object is not punished;
    - ``rank``: ``ranking_penalty`` of the ``hard_score``/``hard_top`` background takes the penalty's place.

    Raises:
        ValueError: an option is out of range, or one that takes another's place is given beside it.
    """

    lambda_bg: float = 1.0
    focal: bool = False
    gamma: float = 2.0
    normalizer: str = 'background'
    hard_score: float = 0.1
    hard_top: Optional[int] = None
    region: str = 'all'
    rank: bool = False

    def __setattr__(self, name, value):
        if name in ('focal', 'rank'):
            if not isinstance(value, bool):
                raise ValueError(f'Expected `{name}` to be True or False, but got {value!r}')
        elif name == 'normalizer':
            one_of(name, value, NORMALIZERS)
        elif name == 'region':
            one_of(name, value, REGIONS)
        elif name == 'hard_top':
            value = None if value is None else whole_number(name, value)
        else:
            value = non_negative(name, value)
            if name == 'hard_score' and value >= 1:
                raise ValueError(f'Expected `hard_score` to be in [0, 1), but got {value!r}')
        super().__setattr__(name, value)

    def check(self) -> None:
        """Refuse options that would change nothing."""
        if self.rank and self.focal:
            raise ValueError('Expected `focal` or `rank`, but got both')
        if self.rank and self.normalizer != 'hard':
            raise ValueError(f"Expected normalizer='hard' for `rank`, but got {self.normalizer!r}")
        fields = self.__dataclass_fields__
        given = [name for name in ('hard_score', 'hard_top') if getattr(self, name) != fields[name].default]
        if given and self.normalizer != 'hard':
            raise ValueError(f"Expected normalizer='hard' for `{given[0]}`, but got {self.normalizer!r}")


def background_penalty(
    cls_logits: Tensor,
    background_mask: Tensor,
    *,
    lambda_bg: float = 1.0,
    focal: bool = False,
    gamma: float = 2.0,
    normalizer: str = 'background',
    positives: Optional[Tensor] = None,
    hard_score: float = 0.1,
    hard_top: Optional[int] = None,
    weight: Optional[Tensor] = None,
) -> Tensor:
    r"""Price of being confident on background.

    .. math::
        L_{bg} = \frac{\lambda_{bg}}{N} \sum_{i \in background} w_i f(\max_c z_{ic})

    with :math:`f(z) = \sigma(z)`, or, if ``focal``, :math:`f(z) = p^\gamma \cdot (-\log(1 - p))` with
    :math:`p = \sigma(z)`. As σ is monotonic, :math:`\max_c \sigma(z_{ic}) = \sigma(\max_c z_{ic})`: only the
    largest logit of a prior is read again. The gradient of σ vanishes on the most confident false
    positives (3.4e-4 at z = 8); that of the focal form tends to 1.

    N is, by ``normalizer``, 'background': the number of background priors, :math:`N_{bg}`, nearly all of which are near
    0, so that the penalty is a small one; 'positives': ``positives``, what YOLOv8's classification loss is divided by;
    'hard': the number of priors of ``hard_background``, which alone are summed.

    Args:
        cls_logits: (..., N, C), any floating dtype; the arithmetic is done in fp32 at least.
        background_mask: (..., N), bool, True where the prior is background.
        lambda_bg: weight, >= 0.
        focal: take the focal form.
        gamma: exponent of the focal form, >= 0; 0 is binary cross-entropy against background.
        normalizer: 'background', 'positives' or 'hard'.
        positives: scalar, the sum of the positives' assigned scores; taken as 1 at least.
        hard_score, hard_top: see ``hard_background``.
        weight: (..., N), w, in [0, 1]; None: 1.

    Returns:
        Scalar in fp32 (fp64 for fp64 logits), in [0, lambda_bg] unless ``focal`` or normalised by ``positives``; 0 with
        a graph where there is no background.

    Raises:
        ValueError: ``normalizer`` is unknown, or 'positives' without ``positives``.
    """
    one_of('normalizer', normalizer, NORMALIZERS)
    if normalizer == 'positives' and positives is None:
        raise ValueError("Expected `positives`, the sum of the assigned scores, for normalizer='positives'")
    max_logits = _wide(cls_logits.max(dim=-1).values)
    if normalizer == 'hard':
        background_mask = hard_background(max_logits, background_mask, hard_score, hard_top)
    # Before f, so that no infinity there comes back as 0 · inf in the gradient.
    max_logits = max_logits.masked_fill(~background_mask, 0)
    if focal:
        # In logits, -log(1 - p) = softplus(z) and p^gamma = exp(gamma * logsigmoid(z)): finite for all z.
        terms = torch.exp(gamma * F.logsigmoid(max_logits)) * F.softplus(max_logits)
    else:
        terms = max_logits.sigmoid()
    terms = terms.masked_fill(~background_mask, 0)
    if weight is not None:
        terms = terms * weight
    number = background_mask.sum() if positives is None or normalizer != 'positives' else positives
    return lambda_bg * terms.sum() / number.clamp(min=1)


@torch.no_grad()
def hard_background(
    max_logits: Tensor, background_mask: Tensor, hard_score: float = 0.1, hard_top: Optional[int] = None
) -> Tensor:
    """Background priors whose score σ(z) is above ``hard_score``; with ``hard_top`` as many of each image at most, the
    most confident ones.

    Args:
        max_logits: (..., N), largest logit of each prior. background_mask: (..., N), bool.
        hard_score: in [0, 1). hard_top: >= 1, or None.

    Returns:
        (..., N), bool.
    """
    scores = max_logits.sigmoid().masked_fill(~background_mask, -1)
    hard = scores > hard_score
    if hard_top is not None and hard_top < scores.shape[-1]:
        top = torch.zeros_like(hard).scatter_(-1, scores.topk(hard_top, dim=-1).indices, True)
        hard &= top
    return hard


def ranking_penalty(
    background: Tensor, background_label: Tensor, objects: Tensor, label: Tensor, weight: Tensor, lambda_bg: float = 1.0
) -> Tensor:
    r"""Price of background that ranks above objects of the same class.

    .. math::
        L_{rank} = \frac{\lambda_{bg}}{N} \sum_i \frac{\sum_{p: c_p = c_i} w_p \, \mathrm{softplus}(z_i - z_p)}
        {\sum_{p: c_p = c_i} w_p}

    over the background i whose class has objects p, N in number. Moving all logits of a class alike changes nothing, so
    that a threshold could not do the same; what counts is which is higher, as in average precision. The gradient does
    not vanish on the most confident mistakes. Source: the pairwise logistic loss of RankNet (Burges et al., 2005).

    Args:
        background, background_label: (H,), logits and their classes.
        objects, label, weight: (P,), logits of the positives at their classes, the classes, and weights >= 0.

    Returns:
        Scalar in fp32 at least; 0 with a graph where there is no pair.
    """
    background, objects = _wide(background), _wide(objects)
    pairs = weight * (background_label[:, None] == label)
    total = pairs.sum(dim=1)
    terms = (pairs * F.softplus(background[:, None] - objects)).sum(dim=1) / total.clamp(min=1e-6)
    return lambda_bg * terms.masked_fill(total == 0, 0).sum() / (total > 0).sum().clamp(min=1)


@torch.no_grad()
def background_statistics(cls_logits: Tensor, background_mask: Tensor) -> Tensor:
    """Mean, max and min of max_c σ(z_ic) over background, and the number of background priors.

    Args:
        cls_logits: (..., C).
        background_mask: (...), bool.

    Returns:
        Shape (4,), fp32, on the device of the logits; zeros where there is no background.
    """
    confidence = cls_logits.max(dim=-1).values.float().sigmoid()
    number = background_mask.sum()
    some = (number > 0).float()
    mean = confidence.masked_fill(~background_mask, 0).sum() / number.clamp(min=1)
    highest = confidence.masked_fill(~background_mask, 0).max() if confidence.numel() else mean
    lowest = confidence.masked_fill(~background_mask, 1).min() if confidence.numel() else mean
    return torch.stack([mean, highest, lowest * some, number.float()])


def bce_and_max_logits(
    levels: Sequence[Tensor],
    image: Tensor,
    prior: Tensor,
    label: Tensor,
    score: Tensor,
    unsure: Optional[Tuple[Tensor, Tensor, Tensor]] = None,
) -> Tuple[Tensor, Tensor]:
    r"""Sum of binary cross-entropies against targets that are 0 but for P entries, and the largest logits.

    .. math:: \sum_{bnc} \mathrm{BCE}(z_{bnc}, t_{bnc}) = \sum_{bnc} \mathrm{softplus}(z_{bnc}) - \sum_p t_p z_p

    so that neither targets nor a copy of the logits of shape (B, N, C) are needed. In both directions the logits are
    read image by image, once from memory; the gradient is written once.

    Args:
        levels: logits as a head gives them, (B, C, H, W) each; N = ΣHW, row by row, level by level.
        image, prior, label: (P,), int64, where the target is ``score``; each triple once.
        score: (P,), targets in [0, 1], without gradient.
        unsure: image, prior and label, (U,) each, of logits that are left out of the sum; each triple once, and none
            that has a target.

    Returns:
        The sum, a scalar, and max_c z, (B, N); both in fp32 at least, with gradients. Of equal logits one has the
        gradient of the maximum.
    """
    return _BceAndMax.apply(image, prior, label, score, unsure, *levels)


def dense_distillation(
    logits: Tensor, scores: Tensor, share: float, gamma: float
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Classification loss against a teacher's scores at the same priors, without boxes in between.

    .. math:: \frac{1}{\max(1, \sum_{i \in L} S_i)} \sum_{i, c} |t_{ic} - \sigma(z_{ic})|^\gamma \,
        \mathrm{BCE}(z_{ic}, t_{ic}), \qquad S_i = \max_c s_{ic}

    with :math:`t = s` at the priors L, in each image the ``share`` of them where the teacher is surest, and 0 at all
    others. A class that the teacher is not sure of is learnt as far as it is sure, where a threshold would call it
    background. Source: Dense Teacher (https://arxiv.org/abs/2207.05775).

    Args:
        logits: (B, N, C), the student's. scores: (B, N, C), the teacher's, in [0, 1].
        share: of the priors, in (0, 1]; one prior at least.
        gamma: exponent, >= 0.

    Returns:
        The loss, a scalar in fp32 at least; image and prior of L, (P,) each; and S there, (P,).
    """
    confidence = scores.amax(dim=2)
    number = max(1, round(share * scores.shape[1]))
    prior = confidence.topk(number, dim=1).indices
    image = torch.arange(len(scores), device=scores.device)[:, None].expand_as(prior)
    targets = torch.zeros_like(scores)
    targets[image, prior] = scores[image, prior]
    logits, targets = _wide(logits), _wide(targets)
    terms = F.binary_cross_entropy_with_logits(logits, targets, reduction='none')
    if gamma:
        terms = (logits.sigmoid() - targets).abs().pow(gamma) * terms
    weight = _wide(confidence[image, prior])
    return terms.sum() / weight.sum().clamp(min=1), image.flatten(), prior.flatten(), weight.flatten()


def split_by_level(prior: Tensor, sizes: Sequence[int]) -> List[Tuple[Tensor, Tensor]]:
    """Of each level which of the priors, (P,), are in it, and their places there.

    Args:
        prior: indices among all N.
        sizes: priors of each level, their sum N.
    """
    ends = torch.tensor(sizes).cumsum(0)
    level = torch.bucketize(prior, ends.to(prior.device), right=True)
    starts = (ends - torch.tensor(sizes)).tolist()
    chosen = [(level == i).nonzero()[:, 0] for i in range(len(sizes))]
    return [(places, prior[places] - start) for places, start in zip(chosen, starts)]


class _BceAndMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, prior, label, score, unsure, *levels):
        total: Union[int, Tensor] = 0
        largest, winners = [], []
        sizes = [level[0, 0].numel() for level in levels]
        left_out = _left_out(unsure, sizes)
        for level, (chosen, place), out in zip(levels, split_by_level(prior, sizes), left_out):
            flat = level.flatten(2)
            for logits in _by_image(flat):
                total = total + F.softplus(_wide(logits)).sum()
            values, winner = flat.max(dim=1)
            largest.append(_wide(values))
            winners.append(winner)
            positive = flat[image[chosen], label[chosen], place]
            total = total - (score[chosen] * _wide(positive)).sum()
            if out is not None:
                total = total - F.softplus(_wide(flat[out])).sum()
        ctx.set_materialize_grads(False)
        ctx.left_out = left_out
        ctx.save_for_backward(image, prior, label, score, *winners, *levels)
        return total, torch.cat(largest, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_sum, by_max):
        image, prior, label, score, *rest = ctx.saved_tensors
        winners, levels = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        sizes = [winner.shape[1] for winner in winners]
        by_maxes = [None] * len(levels) if by_max is None else by_max.split(sizes, dim=1)
        gradients = []
        parts = split_by_level(prior, sizes)
        for level, winner, own, (chosen, place), out in zip(levels, winners, by_maxes, parts, ctx.left_out):
            if by_sum is None:
                gradient = torch.zeros_like(level, memory_format=torch.contiguous_format).flatten(2)
            else:
                logits = level.flatten(2)
                gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
                for source, target in zip(_by_image(logits), _by_image(gradient)):
                    torch.sigmoid(source, out=target).mul_(by_sum)
                if out is not None:
                    gradient[out] = 0
                at = (image[chosen], label[chosen], place)
                gradient[at] -= (by_sum * score[chosen]).to(gradient.dtype)
            if own is not None:
                gradient.scatter_add_(1, winner[:, None], own[:, None].to(gradient.dtype))
            gradients.append(gradient.view_as(level))
        return (*[None] * 5, *gradients)


def _left_out(unsure: Optional[Tuple[Tensor, Tensor, Tensor]], sizes: Sequence[int]) -> list:
    """Of each level the (image, label, place) to leave out, or None."""
    if unsure is None:
        return [None] * len(sizes)
    image, prior, label = unsure
    return [(image[chosen], label[chosen], place) for chosen, place in split_by_level(prior, sizes)]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _by_image(tensor: Tensor) -> Iterable[Tensor]:
    """On the CPU image by image, which stays in its caches; a GPU is faster with all at once."""
    return tensor if tensor.device.type == 'cpu' else [tensor]
