"""Argument checks shared by the pure modules. Pure Python."""

import math
from numbers import Real
from typing import Any, Sequence


def non_negative(name: str, value: Any) -> float:
    """``value`` as a Python float, or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, Real) or value < 0 or not value < math.inf:
        raise ValueError(f'Expected `{name}` to be a finite number >= 0, but got {value!r}')
    return float(value)


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """``value`` if it is among ``choices``, or a ValueError that names the argument."""
    if value not in choices:
        raise ValueError(f'Expected `{name}` to be one of {", ".join(choices)}, but got {value!r}')
    return value


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """``value`` if it is a whole number >= ``least``, or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'Expected `{name}` to be a whole number >= {least}, but got {value!r}')
    return value


whole = whole_number  # until its callers have the new name
