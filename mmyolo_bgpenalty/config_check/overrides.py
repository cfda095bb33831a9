"""Overrides and variables that nothing reads.

MMEngine merges ``--cfg-options`` after the config has used its variables. So ``--cfg-options max_epochs=3`` changes a
variable that nothing reads afterwards. The names in ``SETTINGS`` have an effect: the hooks read them when training
starts.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

from mmengine.runner import Runner

from mmyolo_bgpenalty.engine.settings import SETTINGS, lambda_hooks
from mmyolo_bgpenalty.utils.arguments import similar
from mmyolo_bgpenalty.utils.shipped_configs import variables_of_configs

# The top-level names that something reads.
LIVE_NAMES = {*signature(Runner.__init__).parameters, 'custom_imports', 'env_cfg', 'runner_type'} - {'self', 'cfg'}
LIVE_NAMES |= {'sync_bn', 'model_wrapper_cfg', 'find_unused_parameters', *SETTINGS}
LIVE_NAMES |= {'activation_checkpointing', 'efficient_conv_bn_eval', 'compile', 'report'}


def check_overrides(cfg: Mapping, options: Iterable[str]) -> None:
    """Refuse ``--cfg-options`` that would change nothing. ``cfg`` is the config without them.

    Raises:
        ValueError: an override changes nothing. The message names it and suggests another.
    """
    for option in options:
        top, _, rest = option.partition('.')
        if top not in LIVE_NAMES - {'launcher'}:
            why = '`train` sets it by its option --launcher' if top == 'launcher' else why_dead(cfg, top)
            raise ValueError(f'--cfg-options {option}: {why}')
        if top in SETTINGS and not any(lambda_hooks(cfg)):
            raise ValueError(f'--cfg-options {option} would change nothing: no LambdaBgSchedulerHook in the config')
        meant = _similar_path(cfg, option.split('.')) if rest else None
        if meant:
            raise ValueError(f'--cfg-options {option}: no such entry in the config; is `{meant}` meant?')


def why_dead(cfg: Mapping, name: str) -> str:
    """The reason why a top-level name changes nothing, with suggestions for the right name."""
    paths = [path for path, _ in _entries(cfg, name)][:3]
    if name in cfg:
        hint = f'; override {" or ".join(paths)}' if paths else ''
        if len(paths) != 1 and _is_ours(cfg, name):
            hint = f'; in the config, write {_by_config(name)}'
        return f'the config has already used its variable `{name}`, so a new value would change nothing{hint}'
    meant = [f'`{found}`' for found in [similar(name, SETTINGS) or similar(name, LIVE_NAMES - {name})] if found]
    hint = f'; is {" or ".join(paths or meant)} meant?' if paths or meant else ''
    return f'nothing reads `{name}`, so this would change nothing{hint}'


def dead_names(text: str, with_bases: str, cfg: Mapping) -> Iterator[tuple[str, str]]:
    """Variables of a config file that nothing reads, and their corrections.

    Either the file repeats a variable of a base, which has already used its own value, or it misspells a setting. A
    variable is fine if an entry has the same name and value. ``with_bases`` is the text of the file and its bases.
    """
    tree = ast.parse(text)
    targets = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    stated = {target.id for target in targets if isinstance(target, ast.Name)}
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for name in sorted(stated - read - LIVE_NAMES - {'_base_'}):
        entries, meant = dict(_entries(cfg, name)), similar(name, SETTINGS, 0.8)
        restated = '_base_' in stated and len(re.findall(rf'^{name}\s*=', with_bases, re.M)) > 1
        if cfg.get(name) in entries.values():
            continue
        if restated and len(entries) != 1 and _is_ours(cfg, name):
            yield name, f'write {_by_config(name)}'
        elif restated and entries:
            yield name, f'write it where it is read: {", ".join([*entries][:3])}'
        elif meant and not restated:
            yield name, f'write {meant}'


def _is_ours(cfg: Mapping, name: str) -> bool:
    """Whether the config imports this package, as the shipped configs do, and one of these assigns the variable."""
    return 'mmyolo_bgpenalty' in str(cfg.get('custom_imports')) and name in variables_of_configs()


def _by_config(name: str) -> str:
    return f"_base_ = __import__('mmyolo_bgpenalty').config('<the base>', {name}=…): it reaches every place"


def _entries(node: Any, name: str, path: str = '') -> Iterator[tuple[str, Any]]:
    """The entries called ``name`` below the top level: their dotted names and values."""
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
        here = f'{path}.{key}' if path else str(key)
        if isinstance(value, (Mapping, list, tuple)):
            yield from _entries(value, name, here)
        if path and key == name and not isinstance(value, Mapping):
            yield here, value


def _similar_path(cfg: Mapping, keys: Sequence[str]) -> str | None:
    """The dotted name that may be meant: a dict of the config lacks a key, but has a similar one."""
    node: Any = cfg
    for depth, key in enumerate(keys):
        if isinstance(node, Mapping) and key not in node:
            # `sup_weight` is no misspelt `unsup_weight`.
            others = [name for name in map(str, node) if not name.endswith(key) and not key.endswith(name)]
            meant = similar(key, others, 0.8)
            return '.'.join([*keys[:depth], meant, *keys[depth + 1 :]]) if meant else None
        if isinstance(node, (list, tuple)):
            node = node[int(key)] if key.isdigit() and int(key) < len(node) else None
        else:
            node = node[key] if isinstance(node, Mapping) else None
    return None
