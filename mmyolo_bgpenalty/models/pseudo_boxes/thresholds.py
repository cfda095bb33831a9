"""Thresholds per class: a box of the teacher is a pseudo-box if its score reaches the threshold of its class.

Shapes: M boxes, C classes, at most K boxes per image. Scores are in [0, 1]. Thresholds are (C,), fp64, in [``floor``,
``ceiling``]. Pure torch.
"""

import math
from collections.abc import Callable, Sequence
from inspect import signature

import torch
from torch import Tensor, nn

from mmyolo_bgpenalty.utils.arguments import fraction, known_keys, non_negative, one_of, whole_number

NO_BOX, NO_IMAGE = -1.0, -2.0  # labels in the window where there is no box
BINS, EM_STEPS, LEAST_STD = 200, 50, 0.01
Found = tuple[Tensor, Tensor] | None


def class_frequency_thresholds(scores: Tensor, labels: Tensor, wanted: Tensor, floor: float, ceiling: float) -> Tensor:
    """The thresholds that keep ``wanted`` boxes of each class.

    The threshold is the k-th highest score of the class, k = ⌊wanted + 1/2⌋. It is ``floor`` if the class has fewer
    boxes, and ``ceiling`` if k = 0. Source: LabelMatch (https://arxiv.org/abs/2206.06608).

    Args:
        scores: (M,).
        labels: (M,), int64 in [0, C).
        wanted: (C,), number of boxes, >= 0.
    """
    order = scores.argsort(descending=True)
    order = order[labels[order].argsort(stable=True)]
    counts = torch.bincount(labels, minlength=len(wanted))
    k = (wanted.double() + 0.5).floor().long()
    # The last entry is for classes with too few boxes.
    ranked = torch.cat([scores[order].double(), scores.new_full((1,), floor, dtype=torch.float64)])
    place = torch.where(k <= counts, counts.cumsum(0) - counts + k - 1, counts.sum())
    return torch.where(k > 0, ranked[place.clamp(min=0)], ceiling).clamp(floor, ceiling)


def mixture_thresholds(
    scores: Tensor,
    labels: Tensor,
    num_classes: int,
    floor: float,
    ceiling: float,
    fallback: float,
    min_scores: int = 32,
    at: str = 'crossing',
) -> Tensor:
    r"""Thresholds from two Gaussians that are fitted to the scores of a class. The lower one models mistakes.

    With ``at='crossing'`` the threshold lies between the means. From there to the upper mean, the upper Gaussian has
    at least half of :math:`\pi_1 N_1 + \pi_2 N_2`. With ``at='mean'`` it is the mean of the upper Gaussian, similar to
    ConsistentTeacher (https://arxiv.org/abs/2209.01589). The threshold is ``fallback`` if the class has fewer than
    ``min_scores`` scores, or if one Gaussian is as good as two by the Bayesian information criterion.

    Scores are counted in 200 bins. EM takes 50 steps. It starts from the lower and the upper half of the range of the
    scores. Standard deviations are at least 0.01. Nothing is random.

    Args:
        scores: (M,).
        labels: (M,), int64 in [0, C).
        fallback: in [floor, ceiling].
    """
    bins = (scores * BINS).long().clamp(0, BINS - 1)
    counts = torch.bincount(labels * BINS + bins, minlength=num_classes * BINS).view(num_classes, 1, BINS).double()
    x = (torch.arange(BINS, device=scores.device).double() + 0.5) / BINS
    low = torch.where(counts > 0, x, 1).amin(dim=2, keepdim=True)
    high = torch.where(counts > 0, x, 0).amax(dim=2, keepdim=True)
    upper = x > (low + high) / 2
    share = torch.cat([~upper, upper], dim=1).double()  # of each Gaussian in each bin, (C, 2, BINS)
    for _ in range(EM_STEPS):
        fit = _gaussians(counts * share, x)
        share = fit.softmax(dim=1)
    likelihood_two = (fit.logsumexp(dim=1) * counts[:, 0]).sum(dim=1)
    likelihood_one = (_gaussians(counts, x) * counts).sum(dim=(1, 2))
    size = counts.sum(dim=(1, 2))
    # Two Gaussians have three more parameters: a mean, a variance and a share.
    two = 2 * (likelihood_two - likelihood_one) > 3 * size.clamp(min=1).log()
    means = (counts * share * x).sum(dim=2) / (counts * share).sum(dim=2).clamp(min=1e-12)
    (lower_mean, upper_mean), order = means.sort(dim=1)[0].unbind(dim=1), means.argsort(dim=1)
    threshold = upper_mean
    if at == 'crossing':
        upper_share = share.gather(1, order[:, 1:, None].expand(-1, -1, BINS))[:, 0]
        below = (x > lower_mean[:, None]) & (x < upper_mean[:, None]) & (upper_share < 0.5)
        threshold = torch.where(below, x + 0.5 / BINS, lower_mean[:, None]).amax(dim=1)
    return torch.where(two & (size >= min_scores), threshold, fallback).clamp(floor, ceiling)


def _gaussians(weights: Tensor, x: Tensor) -> Tensor:
    """log(share · density) at ``x`` for the Gaussians that fit ``weights``, (C, components, BINS)."""
    size = weights.sum(dim=2, keepdim=True).clamp(min=1e-12)
    mean = (weights * x).sum(dim=2, keepdim=True) / size
    variance = ((weights * (x - mean) ** 2).sum(dim=2, keepdim=True) / size).clamp(min=LEAST_STD**2)
    share = size / size.sum(dim=1, keepdim=True)
    return share.log() - ((x - mean) ** 2 / variance + (2 * math.pi * variance).log()) / 2


class FixedThresholds(nn.Module):
    """Constant ``thresholds``, one per class, in [floor, 1]. ``per_image`` and ``score_thr`` have no effect."""

    current: Tensor

    def __init__(self, num_classes: int, per_image: int, score_thr: float, thresholds: Sequence[float] = (), floor=0.1):
        super().__init__()
        self.floor = fraction('floor', floor)
        if not isinstance(thresholds, (list, tuple)) or len(thresholds) != num_classes:
            raise ValueError(
                f'Expected `thresholds` to be {num_classes} numbers, one per class, but got {thresholds!r}'
            )
        for threshold in thresholds:
            if fraction('thresholds', threshold) < floor:
                raise ValueError(f'Expected `thresholds` to be at least `floor` {floor}, but got {thresholds!r}')
        self.ceiling = max(thresholds)
        self.register_buffer('current', torch.tensor(list(thresholds), dtype=torch.float64), persistent=False)

    def forward(self, found: Sequence[Found], gather: Callable = lambda rows: [rows]) -> Tensor:
        return self.current


class AdaptiveThresholds(nn.Module):
    """Thresholds that follow the teacher's boxes in the latest images.

    Checkpoints contain these boxes, so that a resumed run has the same thresholds. They take 8 · window · K bytes. The
    window starts empty if the checkpoint has no window, or one of another shape.

    Args:
        num_classes: C.
        per_image: K, number of boxes of an image that are kept.
        score_thr: threshold until there are enough boxes or images, in [floor, ceiling].
        floor: lowest threshold, in [0, 1]. Boxes with lower scores do not count.
        ceiling: highest threshold, in [floor, 1].
        window: number of images, counted over all processes.

    Attributes:
        current: latest thresholds, (C,), or None before the first.
    """

    window: Tensor

    def __init__(self, num_classes: int, per_image: int, score_thr: float, floor=0.1, ceiling=0.9, window=500):
        super().__init__()
        self.num_classes = num_classes
        self.floor, self.ceiling = fraction('floor', floor), fraction('ceiling', ceiling)
        if not floor <= fraction('score_thr', score_thr) <= ceiling:
            raise ValueError(
                f'Expected floor <= pseudo_test_cfg.score_thr <= ceiling, but got `floor` {floor!r}, `score_thr` '
                f'{score_thr!r} and `ceiling` {ceiling!r}'
            )
        self.score_thr = score_thr
        # Score and label of each box, the latest image last.
        self.register_buffer('window', torch.full((whole_number('window', window), per_image, 2), NO_IMAGE))
        self.current: Tensor | None = None

    @torch.no_grad()
    def forward(self, found: Sequence[Found], gather: Callable = lambda rows: [rows]) -> Tensor:
        """Add a batch to the window and return the thresholds, (C,).

        Args:
            found: scores and labels of the boxes of each image, highest score first. None: the image does not count.
            gather: makes a list of the tensors of all processes from the tensor of this process. All processes must
                have the same number of images.
        """
        rows = self.window.new_full((len(found), *self.window.shape[1:]), NO_BOX)
        for row, image in zip(rows, found):
            if image is None:
                row.fill_(NO_IMAGE)
                continue
            scores, labels = image
            kept = torch.stack([scores, labels.to(scores)], dim=1)[scores >= self.floor][: len(row)]
            row[: len(kept)] = kept
        rows = torch.cat(gather(rows))
        seen = torch.cat([self.window, rows[rows[:, 0, 1] != NO_IMAGE]])
        self.window.copy_(seen[-len(self.window) :])
        scores, labels = self.window[self.window[..., 1] >= 0].unbind(dim=1)
        self.current = self.thresholds(scores, labels.long())
        return self.current

    @property
    def images(self) -> Tensor:
        """Number of images in the window."""
        return (self.window[:, 0, 1] != NO_IMAGE).sum()

    def thresholds(self, scores: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError


class ClassFrequencyThresholds(AdaptiveThresholds):
    """``class_frequency_thresholds`` that keep ``share`` times ``objects_per_image`` boxes per image.

    Args:
        share: > 0.
        min_images: the threshold is ``score_thr`` until the window has this many images.

    Attributes:
        objects_per_image: (C,), boxes expected in an image that is not known to be empty. ClassThresholdsHook sets it.
    """

    def __init__(self, *args, share: float = 0.6, min_images: int = 32, **kwargs):
        super().__init__(*args, **kwargs)
        self.share = non_negative('share', share)
        if not share:
            raise ValueError('Expected `share` to be > 0, but got 0')
        self.min_images = whole_number('min_images', min_images)
        if min_images > len(self.window):
            raise ValueError(f'Expected `min_images` to be at most `window` {len(self.window)}, but got {min_images}')
        self.objects_per_image: Tensor | None = None

    def thresholds(self, scores: Tensor, labels: Tensor) -> Tensor:
        images = self.images
        if images < self.min_images:
            return torch.full((self.num_classes,), self.score_thr, dtype=torch.float64, device=scores.device)
        if self.objects_per_image is None:
            raise ValueError(
                "Expected `objects_per_image` to be set for type='ClassFrequency', but got None: "
                "add dict(type='ClassThresholdsHook') to the hooks"
            )
        wanted = self.objects_per_image.to(scores.device) * (images * self.share)
        return class_frequency_thresholds(scores, labels, wanted, self.floor, self.ceiling)


class MixtureThresholds(AdaptiveThresholds):
    """``mixture_thresholds`` with ``score_thr`` as ``fallback``; ``min_scores`` and ``at`` are its arguments."""

    def __init__(self, *args, min_scores: int = 32, at: str = 'crossing', **kwargs):
        super().__init__(*args, **kwargs)
        self.min_scores = whole_number('min_scores', min_scores)
        self.at = one_of('at', at, ('crossing', 'mean'))

    def thresholds(self, scores: Tensor, labels: Tensor) -> Tensor:
        return mixture_thresholds(
            scores, labels, self.num_classes, self.floor, self.ceiling, self.score_thr, self.min_scores, self.at
        )


Thresholds = FixedThresholds | AdaptiveThresholds
TYPES: dict[str, type[Thresholds]] = dict(
    Fixed=FixedThresholds, ClassFrequency=ClassFrequencyThresholds, Mixture=MixtureThresholds
)


def build_thresholds(cfg: dict, num_classes: int, per_image: int, score_thr: float) -> Thresholds:
    """The module that ``semi_train_cfg.class_thresholds`` describes.

    Raises:
        ValueError: ``type`` or an argument is unknown, or an argument is out of range.
    """
    if not isinstance(cfg, dict) or cfg.get('type') not in TYPES:
        raise ValueError(f'Expected dict(type=…) with one of {", ".join(TYPES)}, but got {cfg!r}')
    given = dict(cfg)
    kind = TYPES[given.pop('type')]
    known = {name for one in kind.__mro__[:2] for name in signature(one).parameters}
    known -= {'self', 'args', 'kwargs', 'num_classes', 'per_image', 'score_thr'}
    known_keys(cfg['type'], given, sorted(known))
    return kind(num_classes, per_image, score_thr, **given)
