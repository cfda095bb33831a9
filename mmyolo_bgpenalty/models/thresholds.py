"""From which score on a teacher's box is a pseudo-label, class by class. Imports torch alone.

Shapes: M boxes, C classes, N images, K boxes an image at most. Scores are in [0, 1]. Each function returns (C,), fp64,
cut to [``floor``, ``ceiling``].
"""

import math
from inspect import signature
from typing import Callable, Dict, Optional, Sequence, Tuple, Type, Union

import torch
from torch import Tensor, nn

from mmyolo_bgpenalty.utils.arguments import non_negative, one_of, whole_number

NO_BOX, NO_IMAGE = -1.0, -2.0
Found = Optional[Tuple[Tensor, Tensor]]
BINS, EM_STEPS, LEAST_STD = 200, 50, 0.01


def class_frequency_thresholds(scores: Tensor, labels: Tensor, wanted: Tensor, floor: float, ceiling: float) -> Tensor:
    r"""The score of the class's k-th surest box, k = ⌊wanted + 1/2⌋: from it on there are as many as wanted.

    Where there are fewer it is ``floor``, where none is wanted ``ceiling``. Source: LabelMatch
    (https://arxiv.org/abs/2206.06608), with as many boxes an image wanted as labeled images have.

    Args:
        scores: (M,).
        labels: (M,), whole numbers in [0, C).
        wanted: (C,), number of boxes, >= 0.
    """
    order = scores.argsort(descending=True)
    order = order[labels[order].argsort(stable=True)]
    counts = torch.bincount(labels, minlength=len(wanted))
    k = (wanted.double() + 0.5).floor().long()
    # With `floor` behind the last, for a class that has too few.
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
    r"""Two Gaussians fitted to a class's scores, the lower the mistakes and the upper the objects.

    The threshold is where they cross between their means (from there on the upper has more than half of
    :math:`\pi_1 N_1 + \pi_2 N_2`), or the upper's mean, as ``at`` says; it is ``fallback`` of a class with fewer than
    ``min_scores`` scores, or whose scores one Gaussian describes as well, by the Bayesian information criterion.
    Source: ConsistentTeacher (https://arxiv.org/abs/2209.01589), which is nearest to ``at='mean'``.

    Scores are counted in 200 bins, and 50 steps of EM start from the halves below and above the middle of their range:
    the same result on every run and device to rounding, for all classes at once. No deviation is less than 0.01.

    Args:
        scores: (M,).
        labels: (M,), whole numbers in [0, C).
        fallback: in [floor, ceiling].
        at: 'crossing' or 'mean'.
    """
    bins = (scores * BINS).long().clamp(0, BINS - 1)
    counts = torch.bincount(labels * BINS + bins, minlength=num_classes * BINS).view(num_classes, 1, BINS).double()
    x = (torch.arange(BINS, device=scores.device).double() + 0.5) / BINS
    number = counts.sum(dim=2)
    low = torch.where(counts > 0, x, 1).amin(dim=2, keepdim=True)
    high = torch.where(counts > 0, x, 0).amax(dim=2, keepdim=True)
    upper = x > (low + high) / 2
    share = torch.cat([~upper, upper], dim=1).double()  # of each bin, (C, 2, BINS)
    for _ in range(EM_STEPS):
        fit = _gaussians(counts * share, x)
        share = fit.softmax(dim=1)
    likelihood = (fit.logsumexp(dim=1) * counts[:, 0]).sum(dim=1)
    of_one = (_gaussians(counts, x) * counts).sum(dim=(1, 2))
    size = number[:, 0]
    # Three parameters more: a mean, a variance and a share.
    two = 2 * (likelihood - of_one) > 3 * size.clamp(min=1).log()
    means = (counts * share * x).sum(dim=2) / (counts * share).sum(dim=2).clamp(min=1e-12)
    (lower, upper), order = means.sort(dim=1)[0].unbind(dim=1), means.argsort(dim=1)
    threshold = upper
    if at == 'crossing':
        belongs = share.gather(1, order[:, 1:, None].expand(-1, -1, BINS))[:, 0]
        below = (x > lower[:, None]) & (x < upper[:, None]) & (belongs < 0.5)
        threshold = torch.where(below, x + 0.5 / BINS, lower[:, None]).amax(dim=1)
    return torch.where(two & (size >= min_scores), threshold, fallback).clamp(floor, ceiling)


def _gaussians(weights: Tensor, x: Tensor) -> Tensor:
    """Logarithm of each component's share times its density at ``x``, fitted to ``weights`` (C, components, BINS)."""
    size = weights.sum(dim=2, keepdim=True).clamp(min=1e-12)
    mean = (weights * x).sum(dim=2, keepdim=True) / size
    variance = ((weights * (x - mean) ** 2).sum(dim=2, keepdim=True) / size).clamp(min=LEAST_STD**2)
    share = size / size.sum(dim=1, keepdim=True)
    return share.log() - ((x - mean) ** 2 / variance + (2 * math.pi * variance).log()) / 2


class FixedThresholds(nn.Module):
    """One stated threshold a class.

    Args:
        num_classes, per_image, score_thr: as ``build_thresholds`` gives them; not used but for checks.
        thresholds: of each class, in [floor, 1].
        floor: least threshold, in [0, 1].
    """

    def __init__(
        self, num_classes: int, per_image: int, score_thr: float, thresholds: Sequence[float] = (), floor: float = 0.1
    ):
        super().__init__()
        self.current: Tensor
        self.floor = _share('floor', floor)
        if not isinstance(thresholds, (list, tuple)) or len(thresholds) != num_classes:
            raise ValueError(f'Expected `thresholds` to be {num_classes} numbers, one a class, but got {thresholds!r}')
        for number in thresholds:
            if _share('thresholds', number) < floor:
                raise ValueError(f'Expected `thresholds` to be at least `floor` {floor}, but got {thresholds!r}')
        self.ceiling = max(thresholds)
        self.register_buffer('current', torch.tensor(list(thresholds), dtype=torch.float64), persistent=False)

    def forward(self, found: Sequence[Found], gather: Callable = lambda rows: [rows]) -> Tensor:
        """The thresholds, (C,)."""
        return self.current


class AdaptiveThresholds(nn.Module):
    """Thresholds that follow from what the teacher found in the latest images.

    These are the module's state and part of a checkpoint, 8 bytes a box: a resumed run goes on with the same
    thresholds. Where ``window`` or ``per_image`` was changed, or without them in the checkpoint, it begins anew.

    Args:
        num_classes: C.
        per_image: K, boxes that are kept of an image.
        score_thr: threshold until enough was seen, in [floor, ceiling].
        floor: least threshold, and least score of a box that counts, in [0, 1].
        ceiling: highest threshold, in [floor, 1].
        window: number of images, of all processes.

    Attributes:
        current: latest thresholds, (C,); None before the first.
    """

    def __init__(
        self,
        num_classes: int,
        per_image: int,
        score_thr: float,
        floor: float = 0.1,
        ceiling: float = 0.9,
        window: int = 500,
    ):
        super().__init__()
        self.window: Tensor
        self.num_classes = num_classes
        self.floor, self.ceiling = _share('floor', floor), _share('ceiling', ceiling)
        if not floor <= _share('score_thr', score_thr) <= ceiling:
            raise ValueError(
                f'Expected floor <= score_thr <= ceiling, but got `floor` {floor!r}, `score_thr` {score_thr!r} and '
                f'`ceiling` {ceiling!r}'
            )
        self.score_thr = score_thr
        # Score and label of each box; newest last. One tensor, so that processes exchange it at once.
        self.register_buffer('window', torch.full((whole_number('window', window), per_image, 2), NO_IMAGE))
        self.current: Optional[Tensor] = None

    @torch.no_grad()
    def forward(self, found: Sequence[Found], gather: Callable = lambda rows: [rows]) -> Tensor:
        """Take in a batch and return the thresholds, (C,).

        Args:
            found: scores and labels of each image's boxes, surest first; those below ``floor`` are left out. None for
                an image that does not count.
            gather: given a tensor, returns the list of all processes' tensors, which have as many images each.
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
    """``class_frequency_thresholds``, with ``share`` of the labeled images' boxes an image wanted.

    Args:
        share: of the labeled images' boxes, > 0; below 1 those that the teacher is surest of.
        min_images: the threshold is ``score_thr`` until the window has as many.

    Attributes:
        objects_per_image: (C,), of the labeled images; to be set before the window has ``min_images``.
    """

    def __init__(self, *args, share: float = 0.6, min_images: int = 32, **kwargs):
        super().__init__(*args, **kwargs)
        self.share = non_negative('share', share)
        if not share:
            raise ValueError('Expected `share` to be > 0, but got 0')
        self.min_images = whole_number('min_images', min_images)
        if min_images > len(self.window):
            raise ValueError(f'Expected `min_images` to be at most `window` {len(self.window)}, but got {min_images}')
        self.objects_per_image: Optional[Tensor] = None

    def thresholds(self, scores: Tensor, labels: Tensor) -> Tensor:
        images = self.images
        if images < self.min_images:
            return torch.full((self.num_classes,), self.score_thr, dtype=torch.float64, device=scores.device)
        if self.objects_per_image is None:
            raise ValueError(
                "type='ClassFrequency' expects `objects_per_image`, which ClassThresholdsHook counts, but it was not "
                "set: add dict(type='ClassThresholdsHook') to the hooks"
            )
        wanted = self.objects_per_image.to(scores.device) * (images * self.share)
        return class_frequency_thresholds(scores, labels, wanted, self.floor, self.ceiling)


class MixtureThresholds(AdaptiveThresholds):
    """``mixture_thresholds``, with ``score_thr`` for its ``fallback``.

    Args:
        min_scores: least number of a class's scores.
        at: 'crossing' or 'mean'.
    """

    def __init__(self, *args, min_scores: int = 32, at: str = 'crossing', **kwargs):
        super().__init__(*args, **kwargs)
        self.min_scores = whole_number('min_scores', min_scores)
        self.at = one_of('at', at, ('crossing', 'mean'))

    def thresholds(self, scores: Tensor, labels: Tensor) -> Tensor:
        return mixture_thresholds(
            scores, labels, self.num_classes, self.floor, self.ceiling, self.score_thr, self.min_scores, self.at
        )


Thresholds = Union[FixedThresholds, AdaptiveThresholds]
TYPES: Dict[str, Type[Thresholds]] = dict(
    Fixed=FixedThresholds, ClassFrequency=ClassFrequencyThresholds, Mixture=MixtureThresholds
)


def build_thresholds(cfg: dict, num_classes: int, per_image: int, score_thr: float) -> Thresholds:
    """The module that ``semi_train_cfg.class_thresholds`` describes.

    Raises:
        ValueError: ``type`` is unknown, an argument is not one of that type, or out of range.
    """
    if not isinstance(cfg, dict) or cfg.get('type') not in TYPES:
        raise ValueError(f'Expected dict(type=…) with one of {", ".join(TYPES)}, but got {cfg!r}')
    given = {key: value for key, value in cfg.items() if key != 'type'}
    kind = TYPES[cfg['type']]
    known = {name for one in kind.__mro__[:2] for name in signature(one).parameters}
    known -= {'self', 'args', 'kwargs', 'num_classes', 'per_image', 'score_thr'}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f'Expected the arguments of {cfg["type"]} among {", ".join(sorted(known))}, but got {unknown}')
    return kind(num_classes, per_image, score_thr, **given)


def _share(name: str, value) -> float:
    if non_negative(name, value) > 1:
        raise ValueError(f'Expected `{name}` to be in [0, 1], but got {value!r}')
    return float(value)
