"""Classification losses with sparse targets and with the targets of a teacher. Pure torch.

Shapes: B images, N priors, C classes, P positives.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Entries = tuple[Tensor, Tensor, Tensor]  # image, prior and label of single logits, (U,) each
Parts = list[tuple[Tensor, Tensor]]  # see split_by_level


def bce_and_max_logits(
    levels: list[Tensor],
    image: Tensor,
    prior: Tensor,
    label: Tensor,
    score: Tensor,
    left_out: Entries | None = None,
    parts: Parts | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Sum of the binary cross-entropies against targets that are 0 except for P entries, and the largest logits.

    .. math:: \sum_{bnc} \mathrm{BCE}(z_{bnc}, t_{bnc}) = \sum_{bnc} \mathrm{softplus}(z_{bnc}) - \sum_p t_p z_p

    Args:
        levels: logits of each level, (B, C, H, W). Priors are numbered row by row, level by level.
        image, prior, label: (P,), int64, the entries with a target. No triple may occur twice.
        score: (P,), the targets, in [0, 1]. They get no gradient.
        left_out: logits that do not count in the sum. No triple may occur twice, and none may have a target.
        parts: ``split_by_level`` of ``prior``, if it is known.

    Returns:
        The sum, a scalar, and max_c z, (B, N), in fp32 at least. Classes that have the same largest logit share the
        gradient.
    """
    return _BceAndMax.apply(image, prior, label, score, left_out, parts, *levels)


def dense_distillation(
    logits: Tensor, scores: Tensor, share: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Classification loss against the scores of a teacher at the same priors.

    .. math:: \frac{1}{\max(1, \sum_{i \in L} S_i)} \sum_{i, c} |t_{ic} - \sigma(z_{ic})|^\gamma \,
        \mathrm{BCE}(z_{ic}, t_{ic}), \qquad S_i = \max_c s_{ic}

    L contains, for each image, the ``share`` of its priors with the largest S. The target is :math:`t = s` in L, and
    0 at all other priors. Source: Dense Teacher (https://arxiv.org/abs/2207.02541).

    Args:
        logits: (B, N, C), of the student.
        scores: (B, N, C), of the teacher, in [0, 1].
        share: in (0, 1]. L has at least one prior per image.
        gamma: exponent, >= 0.

    Returns:
        The loss, a scalar in fp32 at least; image and prior of L, (P,) each; and S in L, (P,).
    """
    confidence = scores.amax(dim=2)
    number = max(1, round(share * scores.shape[1]))
    prior = confidence.topk(number, dim=1).indices
    image = torch.arange(len(scores), device=scores.device)[:, None].expand_as(prior)
    targets = torch.zeros_like(scores)
    targets[image, prior] = scores[image, prior]
    logits, targets = widened(logits), widened(targets)
    terms = F.binary_cross_entropy_with_logits(logits, targets, reduction='none')
    if gamma:
        terms = (logits.sigmoid() - targets).abs().pow(gamma) * terms
    weight = widened(confidence[image, prior])
    return terms.sum() / weight.sum().clamp(min=1), image.flatten(), prior.flatten(), weight.flatten()


def split_by_level(prior: Tensor, sizes: Sequence[int]) -> Parts:
    """For each level, which of the P priors lie in it, and their indices within the level.

    ``prior``, (P,), are indices among all N priors. ``sizes`` are the numbers of priors in the levels.
    """
    parts = []
    for start, end in pairwise([0, *accumulate(sizes)]):
        chosen = ((prior >= start) & (prior < end)).nonzero()[:, 0]
        parts.append((chosen, prior[chosen] - start))
    return parts


class _BceAndMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, prior, label, score, left_out, parts, *levels):
        sizes = [level[0, 0].numel() for level in levels]
        # For each level: where the entries are in the logits, (B, C, HW).
        parts = split_by_level(prior, sizes) if parts is None else parts
        ctx.positives = [((image[chosen], label[chosen], place), score[chosen]) for chosen, place in parts]
        ctx.left_out = [None] * len(levels)
        if left_out is not None:
            image, prior, label = left_out
            ctx.left_out = [(image[chosen], label[chosen], place) for chosen, place in split_by_level(prior, sizes)]
        total: int | Tensor = 0
        largest = []
        for level, (at, target), out in zip(levels, ctx.positives, ctx.left_out):
            logits, tops = level.flatten(2), []
            for block in logits.split(_images_at_once(logits)):
                total = total + F.softplus(widened(block)).sum()
                tops.append(widened(block.amax(dim=1)))
            largest.append(torch.cat(tops))
            total = total - (target * widened(logits[at])).sum()
            if out is not None:
                total = total - F.softplus(widened(logits[out])).sum()
        max_logits = torch.cat(largest, dim=1)
        ctx.save_for_backward(max_logits, *levels)
        return total, max_logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_sum, by_max):
        max_logits, *levels = ctx.saved_tensors
        sizes = [level[0, 0].numel() for level in levels]
        maxima = zip(max_logits[:, None].split(sizes, dim=2), by_max[:, None].split(sizes, dim=2))
        gradients = []
        for level, of_max, (at, target), out in zip(levels, maxima, ctx.positives, ctx.left_out):
            logits = level.flatten(2)
            gradient, images = torch.empty_like(logits), _images_at_once(logits)
            blocks = zip(*(x.split(images) for x in (logits, *of_max, gradient)))
            shares = [_write_gradient(by_sum, *block) for block in blocks]
            if out is not None:
                place = out[0], 0, out[2]
                gradient[out] = (torch.cat(shares)[place] * (logits[out] == of_max[0][place])).to(gradient.dtype)
            gradient[at] -= (by_sum * target).to(gradient.dtype)
            gradients.append(gradient.view_as(level))
        return (*[None] * 6, *gradients)


def _write_gradient(by_sum: Tensor, z: Tensor, largest: Tensor, by_max: Tensor, gradient: Tensor) -> Tensor:
    """Write the gradient of softplus and maximum into ``gradient``. Returns the part of each largest logit."""
    torch.sigmoid(z, out=gradient).mul_(by_sum)
    hit = torch.eq(z, largest, out=torch.empty_like(z, dtype=largest.dtype))  # as numbers: bools take longer
    share = by_max / hit.sum(dim=1, keepdim=True).clamp_(min=1)
    gradient.addcmul_(hit, share)
    return share


def widened(tensor: Tensor) -> Tensor:
    """The tensor in fp32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _images_at_once(logits: Tensor) -> int:
    """How many images of (B, ...) to compute at once: on a CPU as many as its caches hold, on a GPU a quarter."""
    return -(-len(logits) // 4) if logits.is_cuda else max(1, 2**18 // max(1, logits[0].numel()))
