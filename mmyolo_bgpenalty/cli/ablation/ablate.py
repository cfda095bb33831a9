"""Train named variants of a config with several seeds, and compare them with the first variant.

    python -m mmyolo_bgpenalty ablate yolov8_semi_bgpenalty.py --seeds 0 1 2 [--jobs 2] [--dry-run]

Each run has a folder, <work dir>/<variant>/seed_<n>, with its log and its checkpoints. A finished run also has
result.json. When the command is called again, it skips finished runs and continues the others.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from mmyolo_bgpenalty.cli.ablation.plan import estimate_seconds, plan_runs, read_variants
from mmyolo_bgpenalty.cli.ablation.report import Question, write_report
from mmyolo_bgpenalty.cli.ablation.runs import Run
from mmyolo_bgpenalty.cli.run import CONFIG_HELP, InputCheck, InputError, command, config_parser
from mmyolo_bgpenalty.utils.shipped_configs import config


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser(__doc__, f'{CONFIG_HELP}; --cfg-options are for every run')
    variants = 'file with `variants`; the first is the baseline (default: ablations/bg_penalty.py)'
    parser.add_argument('--variants', help=variants)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds of each variant (default 0 1 2)')
    parser.add_argument('--jobs', type=int, default=1, help='number of parallel runs (default 1)')
    parser.add_argument('--work-dir', type=Path, help='folder of runs and report (default: in work_dirs/ablation)')
    parser.add_argument('--dry-run', action='store_true', help='print what would run, and train nothing')
    args = parser.parse_args(argv)
    if args.jobs < 1 or min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        got = f'--jobs {args.jobs} --seeds {" ".join(map(str, args.seeds))}'
        raise InputError(f'Expected --jobs >= 1, and each of --seeds >= 0 and only once, but got {got}')
    return args


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    work_dir = args.work_dir or Path('work_dirs/ablation', Path(args.config).stem)
    with InputCheck():
        variants = read_variants(args.variants or config('ablations/bg_penalty.py'))
        runs = plan_runs(args.config, variants, args.seeds, work_dir, args.cfg_options)
        todo = [run for run in runs if run.result is None]
        for run in runs:
            print(f'{run}: {run.folder}, {run.state}')
    print(f'{len(todo)} of {len(runs)} runs to do, {args.jobs} at a time')
    if args.dry_run:
        seconds = estimate_seconds(runs, args.jobs)
        minutes = None if seconds is None else f'{seconds / 60:.0f} min, if parallel runs do not slow each other'
        print(f'estimated time: {minutes or "unknown until the first run has finished"}')
        return 0
    failures = execute(todo, args.jobs)
    with InputCheck():
        results = [run.result for run in runs if run.result]
        if results:
            baseline, *others = variants
            questions = [Question(name, name, baseline) for name in others]
            print('', write_report(work_dir / 'ablation', results, [baseline, *others], questions), '', sep='\n')
            print(f'All figures: {work_dir}/ablation.md, .csv and .json. The picture: {work_dir}/ablation.png')
    for failed, why in failures.items():
        print(f'failed: {failed}: {why}', file=sys.stderr)
    return 1 if failures else 0


def execute(todo: Sequence[Run], jobs: int) -> dict[Run, str]:
    """Execute the runs, ``jobs`` at a time. A run waits for the leader of its group. Returns why runs failed."""
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    waiting, failures = list(todo), {}
    running: dict[Future, Run] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            unfinished = {*waiting, *running.values()}
            ready = [run for run in waiting if run.leader is run or run.leader not in unfinished]
            for run in ready[: jobs - len(running)]:
                print(f'{run}: begun', flush=True)
                waiting.remove(run)
                running[pool.submit(run.execute, threads)] = run
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                try:
                    future.result()
                except (RuntimeError, OSError, ValueError) as error:
                    failures[run] = str(error)
                done = len(todo) - len(waiting) - len(running)
                print(f'{run}: {"FAILED" if run in failures else "finished"} ({done} of {len(todo)})', flush=True)
    return failures
