"""Lengths of a run; λ_bg, the weight of unlabeled images and the EMA momentum as functions of progress. Pure Python.

Progress is the number of epochs (or iterations) since the start of training, fractions included. Lengths have the same
unit. The functions have no state, so a resumed run is on schedule.
"""

import math
from typing import Any

from mmyolo_bgpenalty.utils.arguments import non_negative, one_of

# The schedule of λ if a config does not set one. Lengths are in epochs.
DEFAULT_PLAN: dict[str, Any] = dict(lambda_bg=1.0, burn_in=5, warmup=5, schedule='linear')
SCHEDULES = ('constant', 'linear', 'step', 'cosine')


def iterations_of(name: str, length: Any, total: int) -> int:
    """The number of iterations that a setting states, as iterations or as a share of the run.

    Args:
        name: the setting, for the error.
        length: a whole number is iterations. A number below 1 is a share of ``total``, rounded; the result is >= 1,
            or 0 for 0.
        total: iterations of the run.

    Raises:
        ValueError: ``length`` is something else.
    """
    number = isinstance(length, (int, float)) and not isinstance(length, bool) and 0 <= length < math.inf
    if not number or (length >= 1 and length != int(length)):
        expected = 'a whole number of iterations or, below 1, a share of the run'
        raise ValueError(f'Expected `{name}` to be {expected}, but got {length!r}')
    return int(length) if length == 0 or length >= 1 else max(1, round(length * total))


def ramp(elapsed: float, length: float, schedule: str) -> float:
    """A rise from 0 to 1.

    With x = min(1, elapsed / length) it is x ('linear'), (1 − cos πx) / 2 ('cosine'), the linear value at ⌊elapsed⌋
    ('step') or 1 ('constant'). It is 0 for elapsed < 0. For length 0 it is 1 from elapsed = 0 on.
    """
    if elapsed < 0:
        return 0.0
    if schedule == 'constant' or length == 0:
        return 1.0
    if schedule == 'step':
        elapsed = math.floor(elapsed)
    x = min(1.0, elapsed / length)
    return (1 - math.cos(math.pi * x)) / 2 if schedule == 'cosine' else float(x)


def ema_momentum(elapsed: float, momentum: float, warmup: float) -> float:
    """The weight of the student in an update of the average: m + (1 − m) · exp(−elapsed / warmup).

    It falls from 1 to m. So the average soon forgets the first states of the student. Source: MMEngine's
    ExpMomentumEMA (``gamma``) and Ultralytics' ModelEMA (``tau``).

    Args:
        elapsed: number of iterations since the first average, >= 0.
        momentum: m, in (0, 1).
        warmup: time constant in iterations, >= 0. 0: the result is m.
    """
    return momentum + (1 - momentum) * math.exp(-elapsed / warmup) if warmup else momentum


def lambda_bg_at(progress: float, *, lambda_bg: float, burn_in: float, warmup: float, schedule: str) -> float:
    """λ_bg at ``progress``: 0 in burn-in, then ``lambda_bg`` times ``ramp`` of length ``warmup``.

    Raises:
        ValueError: a number is negative or not finite, or ``schedule`` is unknown.
    """
    progress = non_negative('progress', progress)
    lambda_bg = non_negative('lambda_bg', lambda_bg)
    elapsed = progress - non_negative('burn_in', burn_in)
    warmup = non_negative('warmup', warmup)
    one_of('schedule', schedule, SCHEDULES)
    return lambda_bg * ramp(elapsed, warmup, schedule)
