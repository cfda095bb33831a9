"""The runs of an ablation: planning, executing, results."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mmengine.config import Config

from mmyolo_bgpenalty.cli.run import read_config
from mmyolo_bgpenalty.config_check.parts import ConfigParts
from mmyolo_bgpenalty.engine.settings import SETTINGS
from mmyolo_bgpenalty.utils.files import read_json, write_whole

COMMAND = (sys.executable, '-m', 'mmyolo_bgpenalty')
# These overrides change nothing during burn-in, where λ is 0 and no unlabeled image is used.
AFTER_BURN_IN = r'model\.(detector\.bbox_head\.bg_penalty|semi_train_cfg)\.(?!sup_|channels_last).+'


@dataclass(eq=False)
class Run:
    """One variant with one seed. ``overrides`` have the types of json, and include the seed."""

    config: str
    variant: str
    seed: int
    overrides: dict
    folder: Path
    baseline: 'Run | None' = None
    start_from: Path | None = None  # checkpoint of `baseline` at the end of burn-in
    keeps_all: bool = False  # other runs start from a checkpoint of this run

    def __str__(self) -> str:
        return f'{self.variant}, seed {self.seed}'

    @property
    def begun(self) -> bool:
        return (self.folder / 'last_checkpoint').exists()

    @property
    def state(self) -> str:
        if self.result:
            return 'finished'
        return 'to be continued' if self.begun else f'from {self.start_from}' if self.start_from else ''

    @property
    def result(self) -> dict | None:
        """The content of result.json, or None if the run is not finished.

        Raises:
            ValueError: the file is no json, or the result of a run with other overrides.
        """
        file = self.folder / 'result.json'
        if not file.exists():
            return None
        result = read_json(file)
        if result['overrides'] != self.overrides:
            raise ValueError(
                f'Expected the overrides {self.overrides} in {file}, but got {result["overrides"]}: remove its folder '
                'or choose another --work-dir'
            )
        return {**result, 'variant': self.variant}  # the variant may have a new name since then

    def execute(self, threads: int | None) -> None:
        """Train and evaluate, each in its own process.

        Raises:
            RuntimeError: a process fails.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        start, at_once = time.time(), not self.begun
        options = [f'{name}={value}' for name, value in self.overrides.items()]
        train = ['train', self.config, '--work-dir', str(self.folder)]
        if self.begun:
            train += ['--resume']
        elif self.start_from is not None and self.start_from.exists():
            train += ['--resume', str(self.start_from)]
        # The best checkpoint would be chosen on the images of the comparison. So the last checkpoint is compared.
        train += ['--cfg-options', 'default_hooks.checkpoint.save_best=None']
        if self.keeps_all:
            train += ['default_hooks.checkpoint.max_keep_ckpts=-1']
        self._call([*train, *options], threads)
        checkpoint = (self.folder / 'last_checkpoint').read_text().strip()
        out = self.folder / 'test'
        test = ['test', self.config, checkpoint, '--work-dir', str(self.folder), '--out', str(out)]
        self._call([*test, '--cfg-options', *options], threads)
        curves = out / 'test.precision_recall.json'
        result = dict(
            config=self.config,
            variant=self.variant,
            seed=self.seed,
            overrides=self.overrides,
            seconds=time.time() - start if at_once else None,
            metrics=read_json(out / 'metrics.json'),
            curve=read_json(curves)['curve'] if curves.exists() else None,
        )
        write_whole(self.folder / 'result.json', json.dumps(result, indent=1, ensure_ascii=False) + '\n')

    def _call(self, arguments: list[str], threads: int | None) -> None:
        environment = {**os.environ, 'PYTHONIOENCODING': 'utf-8'}
        if threads:
            environment.setdefault('OMP_NUM_THREADS', str(threads))
        log = self.folder / 'log.txt'
        with log.open('a', encoding='utf-8') as output:
            done = subprocess.run([*COMMAND, *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            lines = log.read_text(encoding='utf-8', errors='replace').split('\n')
            last = next((line for line in reversed(lines) if line.strip()), 'no output')
            raise RuntimeError(f'{arguments[0]} ended with {done.returncode}: {last} (see {log})')


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


def plan_runs(config: str, variants: dict[str, dict], seeds: list[int], work_dir: Path, common: dict) -> list[Run]:
    """All runs. The first variant is the baseline. Its runs come first.

    If a variant differs from the baseline only after burn-in, its run starts from the baseline's checkpoint at the end
    of burn-in. The result is the same as without this start. ``common`` are overrides of every run.

    Raises:
        ValueError: the config cannot be read, or an override would change nothing.
    """
    configs = {name: read_config(config, {**common, **overrides}) for name, overrides in variants.items()}
    runs: list[Run] = []
    baseline = next(iter(variants))
    shared = _end_of_burn_in(configs[baseline])
    for name in variants:
        for seed in seeds:
            folder = work_dir / folder_name(name) / f'seed_{seed}'
            overrides = json.loads(json.dumps({**common, **variants[name], 'randomness.seed': seed}))
            run = Run(config, name, seed, overrides, folder)
            if name != baseline and shared and all(map(_after_burn_in, {*variants[name], *variants[baseline]})):
                run.baseline = next(other for other in runs if other.variant == baseline and other.seed == seed)
                run.baseline.keeps_all = True
                run.start_from = run.baseline.folder / shared
            runs.append(run)
    # The other runs are sorted by seed, so that an interrupted ablation has complete seeds.
    return sorted(runs, key=lambda run: (run.variant != baseline, run.seed if run.variant != baseline else 0))


def _after_burn_in(override: str) -> bool:
    return override in set(SETTINGS) - {'burn_in'} or re.fullmatch(AFTER_BURN_IN, override) is not None


def _end_of_burn_in(cfg: Config) -> str | None:
    """Name of the checkpoint at the end of burn-in. None if there is none, or if lengths are in iterations."""
    hooks, burn_in = cfg.get('default_hooks', {}), cfg.get('burn_in')
    interval = hooks.get('checkpoint', {}).get('interval', 0)
    in_epochs = hooks.get('lambda_bg', {}).get('by_epoch', True) and ConfigParts(cfg).by_epoch
    if not in_epochs or not isinstance(burn_in, int) or burn_in < 1 or interval < 1 or burn_in % interval:
        return None
    return f'epoch_{burn_in}.pth'


def estimate_seconds(runs: list[Run], jobs: int) -> float | None:
    """Seconds for the unfinished runs, if each of ``jobs`` parallel runs is as fast as a single one.

    Only finished runs that were never interrupted count. A run is expected to take the mean time of those of its kind
    (whole, or started after burn-in), or of all if there are none of its kind. If no run counts, the result is None.
    """
    taken = [(run.start_from is None, run.result['seconds']) for run in runs if run.result and run.result['seconds']]
    if not taken:
        return None
    total = 0.0
    for run in runs:
        if run.result is None:
            alike = [seconds for whole, seconds in taken if whole == (run.start_from is None)]
            total += fmean(alike or [seconds for _, seconds in taken])
    return total / jobs
