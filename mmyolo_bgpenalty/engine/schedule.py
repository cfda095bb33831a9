"""λ_bg and the weight of the unlabeled images as functions of progress. Pure Python.

Progress is a number of epochs (or iterations) since the start of training, fractions included; burn-in and
ramps are in the same unit. Nothing is remembered, so a resumed run is on schedule by construction.
"""

import math
from typing import Any

from mmyolo_bgpenalty.utils.arguments import non_negative, one_of

# The plan of λ where a config states none; the unit of burn-in and warm-up is epochs.
DEFAULT_PLAN: dict[str, Any] = dict(lambda_bg=1.0, burn_in=5, warmup=5, schedule='linear')
SCHEDULES = ('constant', 'linear', 'step', 'cosine')


def ramp(elapsed: float, length: float, schedule: str) -> float:
    """Share of the maximum reached ``elapsed`` after the ramp began.

    With x = min(1, elapsed / length), 0 before the ramp begins and 1 at once where ``length`` is 0:
    constant 1, linear x, cosine (1 − cos πx) / 2, step the linear value of ⌊elapsed⌋.

    Returns:
        Python float in [0, 1].
    """
    if elapsed < 0:
        return 0.0
    if schedule == 'constant' or length == 0:
        return 1.0
    if schedule == 'step':
        elapsed = math.floor(elapsed)
    share = min(1.0, elapsed / length)
    return (1 - math.cos(math.pi * share)) / 2 if schedule == 'cosine' else float(share)


def ema_momentum(elapsed: float, momentum: float, warmup: float) -> float:
    """The student's share of an update: m + (1 − m)·exp(−elapsed / warmup), from 1 down to m.

    A young average forgets its first, useless states at once. Source: MMEngine's ExpMomentumEMA (its ``gamma``) and
    Ultralytics' ModelEMA (its ``tau``).

    Args:
        elapsed: iterations since the averaging began, >= 0.
        momentum: m, in (0, 1).
        warmup: iterations after which 37 % of the way is left, >= 0; 0: m at once.

    Returns:
        Python float in [momentum, 1].
    """
    return momentum + (1 - momentum) * math.exp(-elapsed / warmup) if warmup else momentum


def lambda_bg_at(progress: float, *, lambda_bg: float, burn_in: float, warmup: float, schedule: str) -> float:
    """λ_bg at ``progress``: 0 while progress < burn_in, then ``lambda_bg`` times ``ramp``.

    Args:
        progress: epochs or iterations since the start of training.
        lambda_bg: maximum, >= 0.
        burn_in: length of burn-in, >= 0, in the unit of ``progress``.
        warmup: length of the ramp after burn-in, >= 0.
        schedule: 'constant', 'linear', 'step' or 'cosine'.

    Returns:
        Python float in [0, lambda_bg].

    Raises:
        ValueError: a number is negative, not finite or no number, or ``schedule`` is unknown.
    """
    progress = non_negative('progress', progress)
    lambda_bg = non_negative('lambda_bg', lambda_bg)
    elapsed = progress - non_negative('burn_in', burn_in)
    warmup = non_negative('warmup', warmup)
    one_of('schedule', schedule, SCHEDULES)
    return lambda_bg * ramp(elapsed, warmup, schedule)
