"""Checks of single arguments, and suggestions for mistyped ones. Standard library only.

Each check raises a ValueError that names the argument.
"""

import argparse
import math
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn


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


def similar(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name that is most similar to ``name``, or None if no name is similar."""
    return next(iter(get_close_matches(name, names, n=1, cutoff=cutoff)), None)


def similar_file(name: str, names: Collection[str]) -> str | None:
    """The file name that is most similar to ``name``. The extension may be missing or wrong."""
    stem, extension = os.path.splitext(name)
    stems = {os.path.splitext(other)[0]: other for other in names if other.endswith(extension)}
    meant = similar(stem, stems, 0.75)
    return stems[meant] if meant else similar(name, names, 0.75)


def is_meant(path) -> str:
    """'; is <an existing path> meant?' for a path that does not exist, or '' if no existing path is similar."""
    if os.path.lexists(path):  # a link to a missing file, for example
        return ''
    found = Path(Path(path).anchor)
    for part in Path(path).relative_to(found).parts:
        if not (found / part).exists():
            meant = similar_file(part, [file.name for file in found.glob('*')])
            if not meant:
                return ''
            part = meant
        found /= part
    return f'; is {found} meant?'


class Parser(argparse.ArgumentParser):
    """The parser of a command. It keeps the lines of the description, and suggests the name of a mistyped option."""

    _given: Sequence[str] = ()

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        options = list(self._option_string_actions)
        for name in (text.partition('=')[0] for text in self._given):
            # argparse accepts the beginning of an option, and negative numbers.
            is_option = name.startswith('-') and name.lstrip('-')[:1].isalpha()
            if is_option and not any(option.startswith(name) for option in options):
                meant = similar(name, options)
                hint = f'; is {meant} meant?' if meant else '. --help lists the options'
                self.exit(2, f'{self.prog}: there is no option {name}{hint}\n')
        super().error(message)
