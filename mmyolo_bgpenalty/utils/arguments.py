"""Argument checks shared by the pure modules. Pure Python."""

import math
from numbers import Real
from typing import Any, Collection, Mapping, Sequence


def non_negative(name: str, value: Any) -> float:
    """``value`` as a Python float, or a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, Real) or value < 0 or not value < math.inf:
        raise ValueError(f'Expected `{name}` to be a finite number >= 0, but got {value!r}')
    return float(value)


def fraction(name: str, value: Any) -> float:
    """``value`` as a Python float in [0, 1], or a ValueError that names the argument."""
    if non_negative(name, value) > 1:
        raise ValueError(f'Expected `{name}` to be in [0, 1], but got {value!r}')
    return float(value)


def flag(name: str, value: Any) -> bool:
    """``value`` if it is True or False, or a ValueError that names the argument."""
    if not isinstance(value, bool):
        raise ValueError(f'Expected `{name}` to be True or False, but got {value!r}')
    return value


def known_keys(name: str, value: Any, known: Collection[str]) -> None:
    """Raise a ValueError unless ``value`` is a dict that has no other keys than ``known``."""
    if not isinstance(value, Mapping):
        raise ValueError(f'Expected `{name}` to be a dict, but got {value!r}')
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise ValueError(f'Expected the keys of `{name}` among {", ".join(known)}, but got {unknown}')


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
