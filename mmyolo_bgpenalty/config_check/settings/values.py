"""Values of a wrong kind or out of range.

A class states in the annotations of its arguments what it expects, or by the kinds of their defaults. Nothing else
stops a text in place of a switch: 'False' counts as true. An argument that a class of this package declares must have a
value of the stated kind. Annotations of other packages are less exact. There these are mistakes:

- a text in place of a number or a switch. If there is only a default, the text must spell one, as '3' or 'off';
- a text or a dict in place of a list of numbers;
- outside of models, a list or a dict in place of a number or a switch.
"""

import collections.abc
import functools
import inspect
import math
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, NamedTuple

from mmyolo_bgpenalty.config_check.findings import Findings, error
from mmyolo_bgpenalty.config_check.parts import ConfigParts, class_of
from mmyolo_bgpenalty.config_check.settings.arguments import typed_parts
from mmyolo_bgpenalty.engine.settings import SETTINGS

NUMBERS = {bool: 'True or False', int: 'a whole number', float: 'a number'}
SIMPLE = {**NUMBERS, str: 'a text', NoneType: 'None'}
LISTS = (collections.abc.Sequence, collections.abc.Iterable, list, tuple)
SPELLED = re.compile(r'true|false|yes|no|on|off|none|[-+]?[\d.]+(e[-+]?\d+)?', re.IGNORECASE)


class Stated(NamedTuple):
    """What an argument expects.

    ``optional``: the default is None, so None is right. ``ours``: this package states it. ``annotated``: not only by a
    default.
    """

    kind: Any
    optional: bool
    ours: bool
    annotated: bool


def check_values(parts: ConfigParts) -> Findings:
    """Values that do not fit the annotations of their arguments."""
    for path, node, registry in typed_parts(parts):
        kind = class_of(node, registry, parts.scope)
        if kind is None:
            continue
        expected = annotations_of(kind)
        for name, value in node.items():
            stated = expected.get(name)
            if stated is None or (value is None and stated.optional) or fits(value, stated.kind):
                continue
            texts = [*_texts(stated.kind)]
            # Models are tried before the training, and may state a number for what may be a list: YOLOv6's necks.
            judged = str if registry == 'MODELS' else (str, list, dict)
            others = {*texts} - {*NUMBERS.values(), 'None'}
            for_number = isinstance(value, judged) and not others
            for_list = isinstance(value, (str, dict)) and others <= {'a list of numbers', 'a list of whole numbers'}
            spelled = isinstance(value, str) and SPELLED.fullmatch(value.strip())
            if stated.ours or ((for_number or for_list) and (stated.annotated or spelled)):
                what = f'{value!r}, but {kind.__name__} expects {" or ".join(texts)}'
                yield error(f'{path}.{name}', what, f'write {" or ".join(texts)}')


@functools.cache
def annotations_of(kind: type) -> dict[str, Stated]:
    """The kinds of the arguments of a class and of the base classes that get its further arguments."""
    found: dict[str, Stated] = {}
    for base in kind.__mro__:
        init = vars(base).get('__init__')
        if not inspect.isfunction(init):
            continue
        try:
            hints = typing.get_type_hints(init)
        except (NameError, TypeError, AttributeError, SyntaxError):  # only a type checker or a person can read it
            hints = {}
        ours = base.__module__.startswith('mmyolo_bgpenalty')
        parameters = inspect.signature(init).parameters.values()
        for one in parameters:
            default = type(one.default) if type(one.default) in (bool, str) else float
            known = hints.get(one.name, default if type(one.default) in SIMPLE.keys() - {NoneType} else None)
            if known is not None and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                found.setdefault(one.name, Stated(known, one.default is None, ours, one.name in hints))
        if not any(one.kind == one.VAR_KEYWORD for one in parameters):
            break
    return found


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated kind. True if the annotation cannot be judged."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (typing.Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is bool or origin is NoneType:
        return isinstance(value, origin)
    if origin in (int, float):
        number = Integral if origin is int else Real
        return isinstance(value, number) and not isinstance(value, bool) and value == value
    if origin is str:
        return isinstance(value, (str, os.PathLike))
    if origin in LISTS:
        is_list = isinstance(value, (list, tuple))
        return is_list and all(fits(entry, inner[0]) for entry in value if inner and len({*inner} - {...}) == 1)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _texts(kind: Any) -> Iterator[str]:
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (typing.Union, UnionType):
        for one in inner:
            yield from _texts(one)
    elif origin in LISTS:
        entries = f' of {SIMPLE[inner[0]].removeprefix("a ")}s' if inner and inner[0] in (int, float, str) else ''
        yield f'a list{entries}'
    else:
        yield SIMPLE.get(origin, 'a dict' if origin in (dict, Mapping) else str(kind))


class Range(NamedTuple):
    """The values of an entry: a text, and a function that says whether a number is one of them.

    ``optional``: None is right, too. ``listed``: lists of such numbers are, too.
    """

    text: str
    holds: Callable[[Any], bool]
    optional: bool = False
    listed: bool = False


SHARE = Range('a number in [0, 1]', lambda value: 0 <= value <= 1)
ABOVE_0 = Range('a number above 0', lambda value: value > 0)
COUNT = Range('a whole number >= 1', lambda value: value >= 1 and value % 1 == 0)
NUMBER = Range('a finite number', math.isfinite)
NOT_NEGATIVE = Range('a finite number >= 0', lambda value: 0 <= value < math.inf)
# Entries that other packages read without a check, wherever they are.
RANGES = dict(
    score_thr=SHARE,
    iou_threshold=SHARE,
    max_norm=ABOVE_0._replace(optional=True),  # torch refuses None in clip_grad, nn.Embedding takes it
    clip_value=ABOVE_0,
    batch_size=COUNT,
    accumulative_counts=COUNT,
    nms_pre=COUNT,
    max_per_img=COUNT,
    topk=COUNT._replace(listed=True),
    pad_size_divisor=COUNT,
    pad_val=NUMBER._replace(optional=True, listed=True),  # also its entries `img` and `seg`
    prob=SHARE._replace(optional=True, listed=True),
    momentum=SHARE._replace(optional=True),
    weight_decay=NOT_NEGATIVE._replace(optional=True),
    lr=NOT_NEGATIVE._replace(optional=True),
    eta_min=NOT_NEGATIVE._replace(optional=True),
    loss_weight=NOT_NEGATIVE,
    std=NOT_NEGATIVE._replace(optional=True, listed=True),
    eps=NOT_NEGATIVE,
    max_aspect_ratio=ABOVE_0,
    strides=ABOVE_0._replace(listed=True),
    deepen_factor=ABOVE_0,
    widen_factor=ABOVE_0,
    featmap_strides=ABOVE_0._replace(listed=True),
)
SWITCHES = ('persistent_workers', 'pin_memory', 'drop_last', 'filter_empty_gt', 'inplace')  # 'False' counts as true
READ = (
    *('model', 'optim_wrapper', 'param_scheduler', 'default_hooks', 'custom_hooks'),
    *('train_dataloader', 'val_dataloader', 'test_dataloader'),
)


def check_ranges(parts: ConfigParts) -> Findings:
    for name in READ:
        yield from _out_of_range(parts.get(name), name)
        if name.endswith('_dataloader'):
            for key in ('sampler', 'batch_sampler'):  # torch fails at other values when it loads the first batch
                value = parts.get(f'{name}.{key}')
                if value is not None and not isinstance(value, collections.abc.Iterable):
                    yield error(f'{name}.{key}', f'{value!r}; expected a dict', 'write a dict with a `type`')
    for name in SETTINGS:
        if name in parts.cfg and parts.cfg[name] is None:
            yield error(name, 'None is no value of this setting', 'write a value, or remove the line')


def _out_of_range(node: Any, path: str, inherited: Range | None = None) -> Findings:
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node or ()):
        allowed = RANGES.get(str(key), inherited)
        if isinstance(value, (Mapping, list, tuple)):
            inner = allowed if key == 'pad_val' and isinstance(value, Mapping) else None
            yield from _out_of_range(value, f'{path}.{key}', inner)
        if key in SWITCHES and not isinstance(value, bool):
            yield error(f'{path}.{key}', f'{value!r}; expected True or False', 'write True or False')
        if not allowed and isinstance(value, float) and not value > -math.inf:
            yield error(f'{path}.{key}', f'{value!r}; expected {NUMBER.text}', f'write {NUMBER.text}')
        # Elsewhere a dict may have such a name: `paramwise_cfg.custom_keys` holds names of modules.
        if allowed and not isinstance(value, Mapping) and not _is_in(value, allowed):
            yield error(f'{path}.{key}', f'{value!r}; expected {allowed.text}', f'write {allowed.text}')


def _is_in(value: Any, allowed: Range) -> bool:
    if isinstance(value, (list, tuple)):
        return allowed.listed and all(_is_in(one, allowed) for one in value)
    if value is None or not isinstance(value, Real) or isinstance(value, bool):
        return value is None and allowed.optional
    return allowed.holds(value)


CHECKS = (check_values, check_ranges)
