"""The background penalty. Pure torch.

Shapes: N priors, C classes, and any batch dimensions ``...`` before them. ``cls_logits`` are (..., N, C).
``max_logits``, (..., N), are the largest logit z of each prior. ``background_mask``, (..., N), bool, is True where the
prior is background.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmyolo_bgpenalty.models.losses.sparse import widened
from mmyolo_bgpenalty.utils.arguments import flag, non_negative, one_of

NORMALIZERS = ('background', 'positives', 'hard')
REGIONS = ('all', 'outside')


@dataclass(frozen=True)
class BackgroundPenaltyOptions:
    """Options of the penalty, without its weight λ.

    Args:
        focal, gamma, normalizer, hard_score: see ``background_penalty``.
        region: 'all': every prior without an object may be background. 'outside': only if it is outside of all boxes.

    Raises:
        ValueError: an option is out of range, or ``hard_score`` has no effect.
    """

    focal: bool = False
    gamma: float = 2.0
    normalizer: str = 'background'
    hard_score: float = 0.1
    region: str = 'all'

    def __post_init__(self):
        flag('focal', self.focal)
        one_of('normalizer', self.normalizer, NORMALIZERS)
        one_of('region', self.region, REGIONS)
        for name in ('gamma', 'hard_score'):
            object.__setattr__(self, name, non_negative(name, getattr(self, name)))
        if self.hard_score >= 1:
            raise ValueError(f'Expected `hard_score` to be in [0, 1), but got {self.hard_score!r}')
        if self.hard_score != type(self).hard_score and self.normalizer != 'hard':
            raise ValueError(f"Expected normalizer='hard' for `hard_score`, but got {self.normalizer!r}")


def background_penalty(
    cls_logits: Tensor,
    background_mask: Tensor,
    *,
    lambda_bg: float = 1.0,
    focal: bool = False,
    gamma: float = 2.0,
    normalizer: str = 'background',
    positives: Tensor | None = None,
    hard_score: float = 0.1,
) -> Tensor:
    r"""Penalty on confident predictions on background.

    .. math::
        L_{bg} = \frac{\lambda_{bg}}{N_{bg}} \sum_{i \in background} f(\max_c z_{ic})

    with :math:`f(z) = \sigma(z)`. In the focal form, :math:`f(z) = -p^\gamma \log(1 - p)` with :math:`p = \sigma(z)`.
    For confident false positives the gradient of σ vanishes (3.4e-4 at z = 8). That of the focal form tends to 1.

    Args:
        cls_logits: any floating dtype. The arithmetic is done in fp32 at least.
        lambda_bg: weight, >= 0.
        focal: use the focal form.
        gamma: exponent of the focal form, >= 0. With 0 it is binary cross-entropy against background.
        normalizer: what N_bg is. 'background': the number of background priors. 'positives': ``positives``. 'hard': the
            number of background priors with σ(z) above ``hard_score``. Only these count in the sum. N_bg is >= 1.
        positives: scalar, the sum of the assigned scores, by which YOLOv8 divides its classification loss.
        hard_score: in [0, 1).

    Returns:
        Scalar in fp32 (fp64 for fp64 logits). Without background it is 0, with a graph. It is at most ``lambda_bg``,
        except with ``focal`` or 'positives', which have no upper bound.

    Raises:
        ValueError: ``normalizer`` is unknown, or is 'positives' without ``positives``.
    """
    total, number = penalty_sum(
        cls_logits.max(dim=-1).values, background_mask, focal, gamma, normalizer, positives, hard_score
    )
    return lambda_bg * total / number.clamp(min=1)


def penalty_sum(
    max_logits: Tensor,
    background_mask: Tensor,
    focal: bool,
    gamma: float,
    normalizer: str,
    positives: Tensor | None,
    hard_score: float,
) -> tuple[Tensor, Tensor]:
    """The sum and N_bg of ``background_penalty``, two scalars. N_bg may be below 1."""
    one_of('normalizer', normalizer, NORMALIZERS)
    if normalizer == 'positives' and positives is None:
        raise ValueError("Expected `positives`, the sum of the assigned scores, for normalizer='positives'")
    max_logits = widened(max_logits)
    if normalizer == 'hard':
        background_mask = background_mask & (max_logits.sigmoid() > hard_score)
    # Mask before f. Otherwise an infinite logit of a prior that is not background becomes 0 · inf in the gradient.
    max_logits = max_logits.masked_fill(~background_mask, 0)
    if focal:
        # In logits: -log(1 - p) = softplus(z) and p^gamma = exp(gamma * logsigmoid(z)). Both are finite for all z.
        terms = torch.exp(gamma * F.logsigmoid(max_logits)) * F.softplus(max_logits)
    else:
        terms = max_logits.sigmoid()
    number = background_mask.sum() if positives is None or normalizer != 'positives' else positives
    return terms.masked_fill(~background_mask, 0).sum(), number


@torch.no_grad()
def background_statistics(max_logits: Tensor, background_mask: Tensor) -> Tensor:
    """(4,), fp32: mean, maximum, minimum and number of the scores σ(z) of background priors. Without any, all are 0."""
    scores = max_logits.float().sigmoid()
    background = scores.masked_fill(~background_mask, 0)
    number = background_mask.sum()
    lowest = scores.masked_fill(~background_mask, 1).min() * (number > 0)
    return torch.stack([background.sum() / number.clamp(min=1), background.max(), lowest, number.float()])
