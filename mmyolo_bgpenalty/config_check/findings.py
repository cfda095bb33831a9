"""Findings: mistakes in a config, and their corrections."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from mmyolo_bgpenalty.utils.files import printable


class Finding(NamedTuple):
    """A mistake in a config.

    ``level`` is 'error' or 'warning'. An error stops training or makes a setting useless. A warning may be intended.
    ``where`` is the dotted name of the setting, ``what`` the mistake, and ``instead`` the correction.
    """

    level: str
    where: str
    what: str
    instead: str

    def __str__(self) -> str:
        return f'{self.where}: {self.what}. {self.instead[:1].upper()}{self.instead[1:]}.'


Findings = Iterator[Finding]


def error(where: str, what: str, instead: str) -> Finding:
    return Finding('error', where, printable(what), printable(instead))


def warning(where: str, what: str, instead: str) -> Finding:
    return Finding('warning', where, printable(what), printable(instead))


def run_checks(checks: Iterable[Callable[[Any], Iterable[Finding]]], subject: Any) -> list[Finding]:
    """The findings of all checks, without repetitions, errors first."""
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check(subject)
        except (ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError) as problem:
            # A config may hold any value. An unexpected value must not stop the other checks or the training.
            what = f'not checked, because a setting has an unexpected value: {type(problem).__name__}: {problem}'
            findings.append(warning(check.__name__.replace('_', ' '), what, 'correct a setting that this check reads'))
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.level)


def first_of(names: Iterable, most: int = 5) -> str:
    """The first ``most`` names, separated by commas. An ellipsis stands for the rest."""
    names = list(map(str, names))
    return ', '.join(names[:most]) + (', …' if len(names) > most else '')
