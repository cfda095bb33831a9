"""Checks of single arguments. Each raises a ValueError that names the argument. Pure Python."""

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any


def non_negative(name: str, value: Any) -> float:
    """Return ``value`` as a Python float if it is a finite number >= 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or value < 0 or not value < math.inf:
        raise ValueError(f'Expected `{name}` to be a finite number >= 0, but got {value!r}')
    return float(value)


def fraction(name: str, value: Any) -> float:
    """Return ``value`` as a Python float if it is in [0, 1]."""
    if non_negative(name, value) > 1:
        raise ValueError(f'Expected `{name}` to be in [0, 1], but got {value!r}')
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f'Expected `{name}` to be True or False, but got {value!r}')
    return value


def known_keys(name: str, value: Any, known: Collection[str]) -> None:
    """Check that ``value`` is a dict and that all its keys are in ``known``."""
    if not isinstance(value, Mapping):
        raise ValueError(f'Expected `{name}` to be a dict, but got {value!r}')
    if unknown := sorted(set(value) - set(known)):
        raise ValueError(f'Expected the keys of `{name}` to be among {", ".join(known)}, but got {unknown}')


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return ``value`` if it is in ``choices``."""
    if value not in choices:
        raise ValueError(f'Expected `{name}` to be one of {", ".join(choices)}, but got {value!r}')
    return value


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Return ``value`` as a Python int if it is a whole number >= ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f'Expected `{name}` to be a whole number >= {least}, but got {value!r}')
    return int(value)
