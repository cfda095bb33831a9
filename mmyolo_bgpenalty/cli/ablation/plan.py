"""The plan of an ablation: a run for each variant and seed, with its config and its group."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from pprint import pformat
from statistics import fmean
from types import NoneType

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS

from mmyolo_bgpenalty.cli.ablation.runs import Run
from mmyolo_bgpenalty.cli.run import in_users_code, read_config
from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.config_check.overrides import LIVE_NAMES
from mmyolo_bgpenalty.config_check.parts import ConfigParts
from mmyolo_bgpenalty.engine.schedule import lambda_bg_at
from mmyolo_bgpenalty.engine.settings import SETTINGS

# These overrides change nothing during burn-in, where λ is 0 and no unlabeled image is used.
AFTER_BURN_IN = r'model\.((detector\.)?bbox_head\.bg_penalty|semi_train_cfg)\.(?!sup_|channels_last).+'


def folder_name(variant: str) -> str:
    return re.sub(r'[^a-z0-9.]+', '_', variant.lower().replace('λ', 'lambda')).strip('_')


def read_variants(file: str) -> dict[str, dict]:
    """Variant -> overrides.

    Raises:
        ValueError: the file cannot be read, it has no dict `variants`, or two variants would share a folder.
    """
    variants = read_config(file, {}).get('variants')
    if not isinstance(variants, dict) or not variants or not all(isinstance(v, dict) for v in variants.values()):
        raise ValueError(f'Expected `variants` in {file} to be a dict of dicts of overrides, but got {variants!r}')
    folders = [folder_name(name) for name in variants]
    for name, folder in zip(variants, folders, strict=True):
        if not folder or folders.count(folder) > 1:
            why = f'{name!r} gets {folder!r}, which is empty or also the folder of another variant'
            raise ValueError(f'Expected each variant in {file} to get its own folder name, but {why}')
    return {name: dict(overrides) for name, overrides in variants.items()}


def plan_runs(config: str, variants: Mapping[str, dict], seeds: list[int], work_dir: Path, common: dict) -> list[Run]:
    """All runs, sorted by seed, so that an interrupted ablation has complete seeds.

    Runs that differ only after burn-in are a group. They train the shared part of burn-in once. The result is the same
    as without this. ``common`` are overrides of every run.

    Raises:
        ValueError: the config cannot be read, an override would change nothing, or a value is wrong.
    """
    runs: list[Run] = []
    groups: dict[str, list[Run]] = {}
    for name, overrides in variants.items():
        try:
            cfg = read_config(config, {**common, **overrides})
            burn_in, by_epoch = _burn_in(cfg)
            _check_values(cfg)
            in_burn_in = json.dumps({k: v for k, v in overrides.items() if not _after_burn_in(k)}, default=repr)
            for seed in seeds:
                cfg.merge_from_dict({'randomness.seed': seed})
                folder = work_dir / folder_name(name) / f'seed_{seed}'
                group = groups.setdefault(f'{seed} {in_burn_in if burn_in else name}', [])
                everything = {**common, **overrides, 'randomness.seed': seed}
                group.append(Run(name, seed, everything, folder, config_text(cfg), burn_in, by_epoch, group))
                runs.append(group[-1])
        except ValueError as error:
            if in_users_code(error) or len(variants) == 1:
                raise
            raise ValueError(f'variant {name!r}: {error}') from error
    for run in runs:
        run.check_unchanged()
    return sorted(runs, key=lambda run: seeds.index(run.seed))


def _burn_in(cfg: Config) -> tuple[float, bool]:
    """Length of burn-in, and whether it is in epochs. A length of 0 without a schedule of λ."""
    parts = ConfigParts(cfg)
    if parts.plan is None:
        return 0, True
    lambda_bg_at(0, **parts.plan)  # checks the values
    return parts.plan['burn_in'], parts.hooks_of('LambdaBgSchedulerHook')[0].node.get('by_epoch', True)


def _check_values(cfg: Config) -> None:
    """Raise a ValueError if the check of the config finds an error, or if its model cannot be built."""
    for finding in check_config(cfg, data=False):
        if finding.level == 'error':
            raise ValueError(str(finding))
    if 'model' in cfg:
        init_default_scope(cfg.get('default_scope') or 'mmyolo')
        try:
            MODELS.build(cfg.model)
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
            if in_users_code(error):
                raise
            raise ValueError(f'the model cannot be built: {" ".join(str(error).split())}') from error


def _after_burn_in(override: str) -> bool:
    """Whether a run does not read this override while it is in burn-in. The length of burn-in has its own rule."""
    return override in SETTINGS or re.fullmatch(AFTER_BURN_IN, override) is not None


def config_text(cfg: Config) -> str:
    """A config file without a base. A variable that the Runner does not read may be left out.

    Raises:
        ValueError: a value that the Runner reads cannot be written into a config.
    """
    lines = []
    for name, value in cfg.to_dict().items():
        try:
            lines.append(f'{name} = {pformat(_plain(name, value), width=120, sort_dicts=False)}\n')
        except ValueError:
            if name in LIVE_NAMES:
                raise
    return ''.join(lines)


def _plain(path: str, value):
    if isinstance(value, dict):
        return {key: _plain(f'{path}.{key}', inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        inner = [_plain(f'{path}.{i}', inner) for i, inner in enumerate(value)]
        return inner if isinstance(value, list) else tuple(inner)
    if isinstance(value, PurePath):
        return str(value)
    if type(value) not in (NoneType, bool, int, float, str) or (type(value) is float and not math.isfinite(value)):
        raise ValueError(f'Expected `{path}` to be a finite number, a string, a list or a dict, but got {value!r}')
    return value


def estimate_seconds(runs: list[Run], jobs: int) -> float | None:
    """Seconds for the unfinished runs, if each of ``jobs`` parallel runs is as fast as a single one.

    A run is expected to take the mean time of the finished runs of its kind (whole, or started after burn-in), or of
    all if there are none of its kind. If no run has finished, the result is None.
    """
    taken = [(run.leader is run, run.result['seconds']) for run in runs if run.result]
    if not taken:
        return None
    total = 0.0
    for run in runs:
        if run.result is None:
            alike = [seconds for whole, seconds in taken if whole == (run.leader is run)]
            total += fmean(alike or [seconds for _, seconds in taken])
    return total / jobs
