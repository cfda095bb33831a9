"""Classification losses with sparse targets and with the targets of a teacher. Pure torch.

Shapes: B images, N priors, C classes, P positives.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Entries = tuple[Tensor, Tensor, Tensor]  # image, prior and label of single logits, (U,) each


def bce_and_max_logits(
    levels: list[Tensor], image: Tensor, prior: Tensor, label: Tensor, score: Tensor, left_out: Entries | None = None
) -> tuple[Tensor, Tensor]:
    r"""Sum of the binary cross-entropies against targets that are 0 except for P entries, and the largest logits.

    .. math:: \sum_{bnc} \mathrm{BCE}(z_{bnc}, t_{bnc}) = \sum_{bnc} \mathrm{softplus}(z_{bnc}) - \sum_p t_p z_p

    Args:
        levels: logits of each level, (B, C, H, W). Priors are numbered row by row, level by level.
        image, prior, label: (P,), int64, the entries with a target. No triple may occur twice.
        score: (P,), the targets, in [0, 1]. They get no gradient.
        left_out: logits that do not count in the sum. No triple may occur twice, and none may have a target.

    Returns:
        The sum, a scalar, and max_c z, (B, N), in fp32 at least. If several classes have the largest logit, one of them
        gets the gradient.
    """
    return _BceAndMax.apply(image, prior, label, score, left_out, *levels)


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


def split_by_level(prior: Tensor, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """For each level, which of the P priors lie in it, and their indices within the level.

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
        sizes = [level[0, 0].numel() for level in levels]
        # For each level: where the entries are in the logits, (B, C, HW).
        parts = split_by_level(prior, sizes)
        ctx.positives = [((image[chosen], label[chosen], place), score[chosen]) for chosen, place in parts]
        ctx.left_out = [None] * len(levels)
        if left_out is not None:
            image, prior, label = left_out
            ctx.left_out = [(image[chosen], label[chosen], place) for chosen, place in split_by_level(prior, sizes)]
        total: int | Tensor = 0
        largest, winners = [], []
        for level, (at, target), out in zip(levels, ctx.positives, ctx.left_out):
            flat = level.flatten(2)
            for logits in _by_image(flat):
                total = total + F.softplus(widened(logits)).sum()
            values, winner = flat.max(dim=1)
            largest.append(widened(values))
            winners.append(winner)
            total = total - (target * widened(flat[at])).sum()
            if out is not None:
                total = total - F.softplus(widened(flat[out])).sum()
        ctx.save_for_backward(*winners, *levels)
        return total, torch.cat(largest, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_sum, by_max):
        winners, levels = ctx.saved_tensors[: len(ctx.positives)], ctx.saved_tensors[len(ctx.positives) :]
        by_maxes = by_max.split([winner.shape[1] for winner in winners], dim=1)
        gradients = []
        for level, winner, own, (at, target), out in zip(levels, winners, by_maxes, ctx.positives, ctx.left_out):
            logits = level.flatten(2)
            gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
            for source, destination in zip(_by_image(logits), _by_image(gradient)):
                torch.sigmoid(source, out=destination).mul_(by_sum)
            if out is not None:
                gradient[out] = 0
            gradient[at] -= (by_sum * target).to(gradient.dtype)
            gradient.scatter_add_(1, winner[:, None], own[:, None].to(gradient.dtype))
            gradients.append(gradient.view_as(level))
        return (*[None] * 5, *gradients)


def widened(tensor: Tensor) -> Tensor:
    """The tensor in fp32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _by_image(tensor: Tensor) -> Iterable[Tensor]:
    """The images one by one on a CPU, since one image fits into its caches. All at once on a GPU."""
    return tensor if tensor.device.type == 'cpu' else [tensor]
