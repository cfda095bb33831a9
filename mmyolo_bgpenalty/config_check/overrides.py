"""Overrides that would change nothing.

MMEngine merges ``--cfg-options`` after a config's variables have been used, so ``max_epochs=3`` there changes
a variable that nobody reads any more. The names in ``SETTINGS`` are read when training starts instead.
"""

import ast
import re
from difflib import get_close_matches
from inspect import signature
from typing import Iterable, Iterator, Mapping, Optional, Tuple

from mmengine.runner import Runner

from mmyolo_bgpenalty.engine.settings import SETTINGS, lambda_hooks

# What MMEngine reads of a config's top level.
LIVE_NAMES = {*signature(Runner.__init__).parameters, 'custom_imports', 'env_cfg', 'runner_type'} - {'self', 'cfg'}
LIVE_NAMES |= {'sync_bn', 'model_wrapper_cfg', 'find_unused_parameters'}
LIVE_NAMES |= {'activation_checkpointing', 'efficient_conv_bn_eval', 'compile'}


def misspelt_setting(name: str) -> Optional[str]:
    """The setting that ``name`` looks like, or None."""
    return next(iter(get_close_matches(name, SETTINGS, n=1, cutoff=0.6)), None)


def check_overrides(cfg: Mapping, options: Iterable[str], runner_arguments: Iterable[str]) -> None:
    """Refuse ``--cfg-options`` that would change nothing.

    Args:
        cfg: the config before the overrides are merged.
        options: the dotted names overridden, such as ``train_cfg.max_epochs``.
        runner_arguments: the top-level names that MMEngine's Runner reads.

    Raises:
        ValueError: names the override and what may be meant.
    """
    live = {*runner_arguments, *SETTINGS}
    for option in options:
        top, _, rest = option.partition('.')
        if top not in live:
            raise ValueError(f'--cfg-options {option}: {_why_dead(cfg, top, live)}')
        if top in SETTINGS and not any(lambda_hooks(cfg)):
            raise ValueError(f'--cfg-options {option} would change nothing: no LambdaBgSchedulerHook in the config')
        meant = _misspelt(cfg, option.split('.')) if rest else None
        if meant:
            raise ValueError(f'--cfg-options {option}: no such entry in the config; is `{meant}` meant?')


def dead_names(text: str, with_bases: str, cfg: Mapping, runner_arguments: Iterable[str]) -> Iterator[Tuple[str, str]]:
    """Variables that a child config states and nobody reads, with what may be meant.

    Its bases' variables have been used by then, so that restating one changes nothing. Named are those that have the
    name of an entry of the config, all of other values, and those of its own that look like a setting.

    Args:
        text: the file's, in MMEngine's syntax with ``_base_``; of other texts nothing is said.
        with_bases: that of its bases and its own, as mmengine's ``Config.text``.
        cfg: what it makes with its bases.
        runner_arguments: the top-level names that MMEngine's Runner reads.
    """
    tree = ast.parse(text)
    stated = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in _names(node.targets)}
    read = {name.id for name in _names(ast.walk(tree)) if isinstance(name.ctx, ast.Load)}
    if '_base_' not in stated:
        return
    for name in sorted(stated - read - {*runner_arguments, *SETTINGS, '_base_'}):
        entries = [(path, value) for path, value in _leaves(cfg) if path.rpartition('.')[2] == name and path != name]
        if any(value == cfg.get(name) for _, value in entries):
            continue
        meant = next(iter(get_close_matches(name, SETTINGS, n=1, cutoff=0.8)), None)
        restated = len(re.findall(rf'^{name}\s*=', with_bases, re.M)) > 1
        if entries and restated:
            yield name, f'write it where it is read: {", ".join(path for path, _ in entries[:3])}'
        elif meant and not restated:
            yield name, f'write {meant}'


def _names(nodes: Iterable[ast.AST]) -> Iterator[ast.Name]:
    return (node for node in nodes if isinstance(node, ast.Name))


def _why_dead(cfg: Mapping, name: str, live: Iterable[str]) -> str:
    paths = [path for path, _ in _leaves(cfg) if path.rpartition('.')[2] == name and path != name]
    if name in cfg:
        hint = f'; override {" or ".join(paths[:3])}' if paths else ''
        return f'`{name}` is a variable of the config whose value is in use already, so this would change nothing{hint}'
    meant = misspelt_setting(name) or next(iter(get_close_matches(name, live, n=1, cutoff=0.6)), None)
    hint = f'; is {" or ".join(paths[:3])} meant?' if paths else f'; is `{meant}` meant?' if meant else ''
    return f'nothing reads `{name}`, so this would change nothing{hint}'


def _misspelt(cfg, keys) -> Optional[str]:
    """The dotted name meant, where a key is new to its dict but much like one that is there."""
    node = cfg
    for depth, key in enumerate(keys):
        if isinstance(node, (list, tuple)):
            node = node[int(key)] if key.isdigit() and int(key) < len(node) else None
        elif isinstance(node, Mapping) and key not in node:
            # sup_weight is no misspelt unsup_weight.
            others = [name for name in map(str, node) if not name.endswith(key) and not key.endswith(name)]
            meant = get_close_matches(key, others, n=1, cutoff=0.8)
            return '.'.join([*keys[:depth], meant[0], *keys[depth + 1 :]]) if meant else None
        else:
            node = node[key] if isinstance(node, Mapping) else None
        if node is None:
            return None
    return None


def _leaves(node, path: str = '') -> Iterator[Tuple[str, object]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f'{path}.{key}' if path else str(key))
        return
    yield path, node
    for place, value in enumerate(node) if isinstance(node, (list, tuple)) else ():
        if isinstance(value, (Mapping, list, tuple)):
            yield from _leaves(value, f'{path}.{place}')
