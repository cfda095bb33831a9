"""The background penalty as a function of tensors.

Shapes: B images, N priors, C classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import non_negative


@dataclass
class BackgroundPenaltyOptions:
    """Checked arguments of :func:`background_penalty`, as they stand in a config.

    Raises:
        ValueError: ``lambda_bg`` or ``gamma`` is not a finite number >= 0, or ``focal`` is no bool.
    """

    lambda_bg: float = 1.0
    focal: bool = False
    gamma: float = 2.0

    def __setattr__(self, name, value):
        if name == 'focal':
            if not isinstance(value, bool):
                raise ValueError(f'Expected `focal` to be True or False, but got {value!r}')
        else:
            value = non_negative(name, value)
        super().__setattr__(name, value)


def background_penalty(
    cls_logits: Tensor,
    background_mask: Tensor,
    *,
    lambda_bg: float = 1.0,
    focal: bool = False,
    gamma: float = 2.0,
) -> Tensor:
    r"""Price of being confident on background.

    .. math::
        L_{bg} = \frac{\lambda_{bg}}{N_{bg}} \sum_{i \in background} f(\max_c z_{ic})

    with :math:`f(z) = \sigma(z)`, or, if ``focal``, :math:`f(z) = p^\gamma \cdot (-\log(1 - p))` with
    :math:`p = \sigma(z)`. As σ is monotonic, :math:`\max_c \sigma(z_{ic}) = \sigma(\max_c z_{ic})`: only the
    largest logit of a prior is read again. The gradient of σ vanishes on the most confident false
    positives (3.4e-4 at z = 8); that of the focal form tends to 1.

    Args:
        cls_logits: (..., C), any floating dtype; the arithmetic is done in fp32 at least.
        background_mask: (...), bool, True where the prior is background.
        lambda_bg: weight, >= 0.
        focal: take the focal form.
        gamma: exponent of the focal form, >= 0; 0 is binary cross-entropy against background.

    Returns:
        Scalar in fp32 (fp64 for fp64 logits), in [0, lambda_bg] unless ``focal``; 0 with a graph where
        there is no background.
    """
    max_logits = cls_logits.max(dim=-1).values
    max_logits = max_logits.to(torch.promote_types(max_logits.dtype, torch.float32))
    # Before f, so that no infinity there comes back as 0 · inf in the gradient.
    max_logits = max_logits.masked_fill(~background_mask, 0)
    if focal:
        # In logits, -log(1 - p) = softplus(z) and p^gamma = exp(gamma * logsigmoid(z)): finite for all z.
        terms = torch.exp(gamma * F.logsigmoid(max_logits)) * F.softplus(max_logits)
    else:
        terms = max_logits.sigmoid()
    terms = terms.masked_fill(~background_mask, 0)
    return lambda_bg * terms.sum() / background_mask.sum().clamp(min=1)


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
