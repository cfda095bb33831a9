"""Argument checks shared by the pure modules. Pure Python."""

import math
from numbers import Real


def non_negative(name: str, value) -> float:
    """``value`` as a Python float, or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < math.inf:
        raise ValueError(f'Expected `{name}` to be a finite number >= 0, but got {value!r}')
    return float(value)


def one_of(name: str, value, choices) -> str:
    """``value`` if it is among ``choices``, or a ValueError that names the argument."""
    if value not in choices:
        raise ValueError(f'Expected `{name}` to be one of {", ".join(choices)}, but got {value!r}')
    return value
