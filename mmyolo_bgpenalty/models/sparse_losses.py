"""Losses of sparse targets, which need neither the targets nor a copy of the logits in full. Pure torch.

Shapes: B images, N priors, C classes, P positives, U entries that are left out.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Entries = tuple[Tensor, Tensor, Tensor]  # image, prior and label of single logits


def bce_and_max_logits(
    levels: list[Tensor], image: Tensor, prior: Tensor, label: Tensor, score: Tensor, left_out: Entries | None = None
) -> tuple[Tensor, Tensor]:
    r"""Sum of binary cross-entropies against targets that are 0 except for P entries, and the largest logits.

    .. math:: \sum_{bnc} \mathrm{BCE}(z_{bnc}, t_{bnc}) = \sum_{bnc} \mathrm{softplus}(z_{bnc}) - \sum_p t_p z_p

    Args:
        levels: logits of each level, (B, C, H, W). Priors are numbered row by row, level by level.
        image, prior, label: (P,), int64, the entries with a target. No triple may occur twice.
        score: (P,), the targets, in [0, 1], without gradient.
        left_out: image, prior and label, (U,) each, of logits that do not count in the sum. No triple may occur
            twice, and none may have a target.

    Returns:
        The sum, a scalar, and max_c z, (B, N). Both are in fp32 at least and have gradients. If several classes have
        the largest logit, one of them gets the gradient.
    """
    return _BceAndMax.apply(image, prior, label, score, left_out, *levels)


def dense_distillation(
    logits: Tensor, scores: Tensor, share: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Classification loss against the scores of a teacher at the same priors.

    .. math:: \frac{1}{\max(1, \sum_{i \in L} S_i)} \sum_{i, c} |t_{ic} - \sigma(z_{ic})|^\gamma \,
        \mathrm{BCE}(z_{ic}, t_{ic}), \qquad S_i = \max_c s_{ic}

    L is the ``share`` of the priors of each image with the largest S. The target is :math:`t = s` in L, and 0 at all
    other priors. Source: Dense Teacher (https://arxiv.org/abs/2207.05775).

    Args:
        logits: (B, N, C), of the student.
        scores: (B, N, C), of the teacher, in [0, 1].
        share: in (0, 1]. L has at least one prior.
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


def split_by_level(prior: Tensor, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """For each level: which of the P priors lie in it, and their indices within the level.

    ``prior``, (P,), are indices among all N priors. ``sizes`` are the numbers of priors in the levels.
    """
    ends = torch.tensor(sizes).cumsum(0)
    level = torch.bucketize(prior, ends.to(prior.device), right=True)
    starts = (ends - torch.tensor(sizes)).tolist()
    chosen = [(level == i).nonzero()[:, 0] for i in range(len(sizes))]
    return [(places, prior[places] - start) for places, start in zip(chosen, starts)]


class _BceAndMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, prior, label, score, left_out, *levels):
        total: int | Tensor = 0
        largest, winners = [], []
        sizes = [level[0, 0].numel() for level in levels]
        parts_left_out: list = [None] * len(sizes)
        if left_out is not None:
            parts = split_by_level(left_out[1], sizes)
            parts_left_out = [(left_out[0][chosen], left_out[2][chosen], place) for chosen, place in parts]
        for level, (chosen, place), out in zip(levels, split_by_level(prior, sizes), parts_left_out):
            flat = level.flatten(2)
            for logits in _by_image(flat):
                total = total + F.softplus(widened(logits)).sum()
            values, winner = flat.max(dim=1)
            largest.append(widened(values))
            winners.append(winner)
            positive = flat[image[chosen], label[chosen], place]
            total = total - (score[chosen] * widened(positive)).sum()
            if out is not None:
                total = total - F.softplus(widened(flat[out])).sum()
        ctx.set_materialize_grads(False)
        ctx.left_out = parts_left_out
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


def widened(tensor: Tensor) -> Tensor:
    """The tensor in fp32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _by_image(tensor: Tensor) -> Iterable[Tensor]:
    """Single images on a CPU, as one image stays in its caches. A GPU is faster with all images at once."""
    return tensor if tensor.device.type == 'cpu' else [tensor]
