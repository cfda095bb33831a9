"""Train named variants of a config over several seeds, and compare them with the first.

    python tools/ablation.py configs/yolov8_semi_bgpenalty.py --seeds 0 1 2 [--jobs 2] [--dry-run]

Each run has a folder, <work dir>/<variant>/seed_<n>, with its log, its checkpoints and, once it is finished,
result.json. Started again, the tool skips finished runs, continues begun ones and tries failed ones anew.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Dict, Iterable, List, Optional, Tuple

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_bgpenalty.cli.report import write_report
from mmyolo_bgpenalty.cli.run import read_config, run
from mmyolo_bgpenalty.config_check.overrides import SETTINGS
from mmyolo_bgpenalty.config_check.parts import ConfigParts
from mmyolo_bgpenalty.utils.files import read_json, write_whole

TOOLS = Path(__file__).resolve().parent
VARIANTS = TOOLS.parent / 'configs/ablations/bg_penalty.py'
# What changes nothing before burn-in ends, since λ is 0 there and no unlabeled image is seen.
AFTER_BURN_IN = set(SETTINGS) - {'burn_in'}
AFTER_BURN_IN_PARTS = (
    r'model\.detector\.bbox_head\.bg_penalty\..+',
    r'model\.semi_train_cfg\.(?!sup_|channels_last).+',
)


def _is_result(content: dict) -> bool:
    """Whether the report can be made of it."""
    metrics = content.get('metrics')
    if not isinstance(metrics, dict) or not {'variant', 'seed', 'seconds', 'curve'} <= set(content):
        return False
    numbers, curve = [content['seconds'], *metrics.values()], content['curve']
    lists = [] if curve is None else _lists(curve)
    return (
        _are_numbers(value for value in numbers if value is not None)
        and all(isinstance(one, list) and _are_numbers(one) for one in lists)
        and len({len(one) for one in lists}) <= 1
    )


def _lists(curve) -> list:
    return [curve.get(name) if isinstance(curve, dict) else None for name in ('recall', 'precision')]


def _are_numbers(values: Iterable) -> bool:
    return all(type(value) in (int, float) and abs(value) < 1e100 for value in values)


@dataclass
class Run:
    """One variant with one seed."""

    config: str
    variant: str
    seed: int
    overrides: dict
    folder: Path
    start_from: Optional[Path] = None  # a checkpoint at the end of burn-in that would be this run's own
    started_from: bool = False  # others start from a checkpoint of this run
    failure: Optional[str] = None
    baseline: Optional['Run'] = None
    ended: Event = field(default_factory=Event)

    @property
    def result(self) -> Optional[dict]:
        """What result.json holds, or None where the run is not finished.

        Raises:
            ValueError: it is the result of something else.
        """
        file = self.folder / 'result.json'
        if not file.exists():
            return None
        result = read_json(file)
        stated = result.get('overrides') if isinstance(result, dict) else result
        if stated != self._stated():
            raise ValueError(
                f'{file} is of other overrides: {stated!r} there, {self._stated()} now; remove the '
                'folder or choose another --work-dir'
            )
        if not _is_result(result) or (result['variant'], result['seed']) != (self.variant, self.seed):
            raise ValueError(f'{file}: is no result as this tool writes it; remove the folder to run it again')
        return result

    def _stated(self) -> dict:
        return json.loads(json.dumps({**self.overrides, 'randomness.seed': self.seed}))

    def execute(self, threads: Optional[int]) -> None:
        """Train and evaluate, in processes of their own; what goes wrong is kept in ``failure``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        start, at_once = time.time(), not (self.folder / 'last_checkpoint').exists()
        options = [f'{name}={_text(value)}' for name, value in self._stated().items()]
        train = ['train.py', self.config, '--work-dir', str(self.folder)]
        if (self.folder / 'last_checkpoint').exists():
            train += ['--resume']
        elif self.start_from is not None and self.start_from.exists():
            train += ['--resume', str(self.start_from)]
        # The best checkpoint is the one that chance favoured on these very images: the last one is compared.
        train += ['--cfg-options', 'default_hooks.checkpoint.save_best=None']
        if self.started_from:
            train += ['default_hooks.checkpoint.max_keep_ckpts=-1']
        if not self._call([*train, *options], threads):
            return
        checkpoint = Path((self.folder / 'last_checkpoint').read_text().strip())
        out = self.folder / 'test'
        test = ['test.py', self.config, str(checkpoint), '--work-dir', str(self.folder), '--out', str(out)]
        if not self._call([*test, '--cfg-options', *options], threads):
            return
        curves = out / 'test.precision_recall.json'
        result = dict(
            config=self.config,
            variant=self.variant,
            seed=self.seed,
            overrides=self._stated(),
            seconds=time.time() - start if at_once else None,
            metrics=read_json(out / 'metrics.json'),
            curve=read_json(curves)['curve'] if curves.exists() else None,
        )
        write_whole(self.folder / 'result.json', json.dumps(result, indent=1, ensure_ascii=False) + '\n')

    def _call(self, arguments: List[str], threads: Optional[int]) -> bool:
        environment = {**os.environ, 'PYTHONIOENCODING': 'utf-8'}
        if threads:
            environment.setdefault('OMP_NUM_THREADS', str(threads))
        log = self.folder / 'log.txt'
        with log.open('a', encoding='utf-8') as output:
            command = [sys.executable, str(TOOLS / arguments[0]), *arguments[1:]]
            code = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
        if code:
            lines = log.read_text(encoding='utf-8', errors='replace').strip().splitlines()
            self.failure = f'{arguments[0]} ended with {code}: {lines[-1] if lines else "no output"} (see {log})'
        return code == 0


def _text(value) -> str:
    """A value as --cfg-options reads it back."""
    if isinstance(value, (list, tuple)):
        return '[' + ','.join(map(_text, value)) + ']'
    return str(value)


def slug(name: str) -> str:
    """A folder's name for a variant's."""
    return re.sub(r'[^a-z0-9.]+', '_', name.lower().replace('λ', 'lambda')).strip('_')


def read_variants(file) -> Dict[str, dict]:
    """Variant -> overrides.

    Raises:
        ValueError: the file does not state them so, or two of them would share a folder.
        FileNotFoundError: no such file.
    """
    variants = Config.fromfile(file).get('variants')
    if not isinstance(variants, dict) or not variants or not all(isinstance(v, dict) for v in variants.values()):
        raise ValueError(f'{file}: expected `variants`, a dict of names to dicts of overrides, but got {variants!r}')
    variants = {name: dict(overrides) for name, overrides in variants.items()}
    slugs = [slug(name) for name in variants]
    for name, own in zip(variants, slugs):
        if not own or slugs.count(own) > 1:
            raise ValueError(f'{file}: the variant {name!r} has no folder of its own; name it in letters and digits')
    return variants


def plan(config: str, variants: Dict[str, dict], seeds: List[int], work_dir: Path, common: dict) -> List[Run]:
    """All runs, the baseline's first.

    A variant that differs from the baseline only after burn-in is the baseline until then: it continues
    from the baseline's checkpoint of that epoch, where there is one, and comes out as if trained whole.

    Raises:
        ValueError: an override that would change nothing.
        FileNotFoundError: no such config.
    """
    configs = {name: read_config(config, {**common, **overrides}) for name, overrides in variants.items()}
    runs: List[Run] = []
    baseline = next(iter(variants))
    shared = _end_of_burn_in(configs[baseline])
    for name in variants:
        for seed in seeds:
            folder = work_dir / slug(name) / f'seed_{seed}'
            one = Run(config, name, seed, {**common, **variants[name]}, folder)
            if name != baseline and shared and all(map(_after_burn_in, {*variants[name], *variants[baseline]})):
                one.baseline = next(r for r in runs if r.variant == baseline and r.seed == seed)
                one.baseline.started_from = True
                one.start_from = one.baseline.folder / shared
            runs.append(one)
    # By seed after the baselines: an interrupted ablation has whole seeds.
    return sorted(runs, key=lambda r: (r.variant != baseline, r.seed if r.variant != baseline else 0))


def _after_burn_in(override: str) -> bool:
    return override in AFTER_BURN_IN or any(re.fullmatch(part, override) for part in AFTER_BURN_IN_PARTS)


def _end_of_burn_in(cfg) -> Optional[str]:
    """Name of the checkpoint at the end of burn-in, if the config writes one."""
    hooks, burn_in = cfg.get('default_hooks', {}), cfg.get('burn_in')
    interval = hooks.get('checkpoint', {}).get('interval', 0)
    in_epochs = hooks.get('lambda_bg', {}).get('by_epoch', True) and ConfigParts(cfg).by_epoch
    if not in_epochs or not isinstance(burn_in, int) or burn_in < 1 or interval < 1 or burn_in % interval:
        return None
    return f'epoch_{burn_in}.pth'


def estimate(runs: List[Run], jobs: int) -> float:
    """Seconds that the unfinished runs will take, were ``jobs`` runs at a time as fast as one alone.

    From the finished runs that were trained in one go; where there are none, from a dozen iterations.
    """
    todo = [r for r in runs if r.result is None]
    taken: Dict[bool, List[float]] = {True: [], False: []}
    for r in runs:
        if r.result and r.result['seconds']:
            taken[r.start_from is not None].append(r.result['seconds'])
    if todo and not any(taken.values()):
        taken = dict(zip((False, True), ([seconds] for seconds in probe(todo[0]))))
    mean = {kind: sum(seconds) / len(seconds) for kind, seconds in taken.items() if seconds}
    return sum(mean.get(r.start_from is not None, max(mean.values())) for r in todo) / jobs


def probe(first: Run) -> Tuple[float, float]:
    """Seconds of training of this kind, whole and after burn-in alone, from a dozen iterations of each phase."""
    cfg = read_config(first.config, first.overrides)
    burn_in = cfg.get('burn_in', 0)
    cfg.log_level = 'ERROR'
    cfg.default_hooks.checkpoint = cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    loop, cfg.train_cfg = cfg.train_cfg, dict(type='IterBasedTrainLoop', max_iters=12, val_interval=10**9)
    seconds = {}
    for phase, length in (('burn_in', 10**9), ('after', 0)):
        cfg.burn_in = length
        with tempfile.TemporaryDirectory() as cfg.work_dir:
            cfg.visualizer.name = cfg.work_dir  # or MMEngine takes the one of the run before
            runner = Runner.from_cfg(cfg)
            timer = _Timer()
            runner.register_hook(timer)
            runner.train()
        # The first iterations start workers and fill caches.
        seconds[phase] = float(np.median(np.diff(timer.times[3:])))
    iterations = len(runner.train_dataloader)
    if loop.get('max_iters'):
        burn_in, epochs = burn_in / iterations, loop.max_iters / iterations
    else:
        epochs = loop.max_epochs
    after = max(epochs - burn_in, 0) * iterations * seconds['after']
    return min(burn_in, epochs) * iterations * seconds['burn_in'] + after, after


class _Timer(Hook):
    def __init__(self):
        self.times = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.times.append(time.perf_counter())


def _run(one: Run, threads: Optional[int]) -> None:
    try:
        if one.baseline is not None:
            one.baseline.ended.wait()
        print(f'{one.variant}, seed {one.seed}: begun', flush=True)
        one.execute(threads)
        print(f'{one.variant}, seed {one.seed}: {"FAILED" if one.failure else "finished"}', flush=True)
    except (OSError, ValueError) as error:
        one.failure = str(error)
    finally:
        one.ended.set()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file of all runs')
    parser.add_argument('--variants', default=VARIANTS, help='file with `variants`; the first is the baseline')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time; each takes its share of the cores')
    parser.add_argument('--work-dir', type=Path, help='where runs and report go (work_dirs/ablation/<config>)')
    parser.add_argument('--dry-run', action='store_true', help='print the plan and the estimated time')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='overrides of every run')
    args = parser.parse_args()
    if args.jobs < 1 or min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        raise ValueError('Expected --jobs >= 1 and --seeds >= 0, each once')
    work_dir = args.work_dir or Path('work_dirs/ablation', Path(args.config).stem)
    variants = read_variants(args.variants)
    runs = plan(args.config, variants, args.seeds, work_dir, args.cfg_options)

    todo = [r for r in runs if r.result is None]
    for r in runs:
        state = 'finished' if r not in todo else 'to be continued' if (r.folder / 'last_checkpoint').exists() else ''
        if not state and r.start_from:
            state = f'from {r.start_from}'
        print(f'{r.variant}, seed {r.seed}: {r.folder} {state}')
    print(f'{len(todo)} of {len(runs)} runs to do, {args.jobs} at a time')
    if args.dry_run:
        print(f'estimated time: {estimate(runs, args.jobs) / 60:.0f} min, if runs side by side do not slow each other')
        return 0

    for r in runs:
        if r not in todo:
            r.ended.set()
    threads = max(1, (os.cpu_count() or 1) // args.jobs) if args.jobs > 1 else None
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda r: _run(r, threads), todo))
    results = [r.result for r in runs if r.result]
    if results:
        write_report(work_dir / 'ablation', results, list(variants))
        print((work_dir / 'ablation.md').read_text(encoding='utf-8'))
    failed = [r for r in runs if r.failure]
    for r in failed:
        print(f'failed: {r.variant}, seed {r.seed}: {r.failure}', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(run(main))
