"""Do good parts, unlabeled pictures and the penalty help on your pictures? Train with and without them, and compare.

    python -m mmyolo_bgpenalty ablate my_project/my_project.py [--seeds 0 1 2] [--jobs 2] [--dry-run]

Without --variants there are up to five. Labels only; with good parts (`empty`); with unlabeled pictures; with the
penalty: each adds to the one before. And all labels, if the file of the unlabeled pictures has their boxes. All train
for the same number of iterations. The answers need three seeds.

Each run has a folder, <work dir>/<variant>/seed_<n>, with its log and its checkpoints, and beside it the config. A
finished run also has result.json. When the command is called again, it skips finished runs and continues the others.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

from mmyolo_bgpenalty.cli.ablation.does_it_help import Comparison, does_it_help
from mmyolo_bgpenalty.cli.ablation.plan import estimate_seconds, plan_runs, read_variants
from mmyolo_bgpenalty.cli.ablation.processes import Processes
from mmyolo_bgpenalty.cli.ablation.report import Question, write_report
from mmyolo_bgpenalty.cli.ablation.runs import Run
from mmyolo_bgpenalty.cli.report.report import write_report as write_mistakes
from mmyolo_bgpenalty.cli.run import CONFIG_HELP, InputCheck, InputError, command, config_parser, read_config
from mmyolo_bgpenalty.config_check.settings.plan import run_plan
from mmyolo_bgpenalty.utils.files import lock_folder, write_whole


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser(__doc__, f'{CONFIG_HELP}; --cfg-options are for every run')
    parser.add_argument('--variants', help='file with other `variants`; the first is the baseline')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds of each variant (default 0 1 2)')
    parser.add_argument('--jobs', type=int, default=1, help='number of parallel runs (default 1)')
    parser.add_argument('--work-dir', type=Path, help='folder of runs and report (default: in work_dirs/ablation)')
    parser.add_argument('--dry-run', action='store_true', help='print what would run, and train nothing')
    args = parser.parse_args(argv)
    if args.jobs < 1 or min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        got = f'--jobs {args.jobs} --seeds {" ".join(map(str, args.seeds))}'
        raise InputError(f'Expected --jobs >= 1, and each of --seeds >= 0 and only once, but got {got}')
    return args


def _from_file(file: str) -> Comparison:
    variants = read_variants(file)
    baseline, *others = variants
    return Comparison(variants, [Question(name, name, baseline) for name in others], {})


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    work_dir = args.work_dir or Path('work_dirs/ablation', Path(args.config).stem)
    with InputCheck():
        cfg = read_config(args.config, args.cfg_options)
        compared = _from_file(args.variants) if args.variants else does_it_help(cfg, work_dir)
        runs = plan_runs(args.config, compared.variants, args.seeds, work_dir, args.cfg_options)
        todo = [run for run in runs if run.result is None]
    print(f'Runs in {work_dir}:')
    for run in runs:
        print(f'    {run}: {run.state}')
    if compared.note:
        print(compared.note)
    print(f'Each run: {run_plan(cfg) or "its length is not known yet"}')
    print(f'{len(todo)} of {len(runs)} runs to do, {args.jobs} at a time')
    if args.dry_run:
        seconds = estimate_seconds(runs, args.jobs)
        minutes = None if seconds is None else f'{seconds / 60:.0f} min, if parallel runs do not slow each other'
        print(f'estimated time: {minutes or "unknown until the first run has finished"}')
        return 0
    with InputCheck():
        lock_folder(work_dir)
    for path, content in compared.files.items():
        write_whole(path, content)
    failures = execute(todo, args.jobs)
    with InputCheck():
        results = [run.result for run in runs if run.result]
        if results:
            print(
                '',
                write_report(work_dir / 'ablation', results, list(compared.variants), compared.questions),
                '',
                sep='\n',
            )
            print(f'All numbers: {work_dir}/ablation.md, .csv and .json. The plot: {work_dir}/ablation.png')
            _write_page(work_dir)
    for failed, why in failures.items():
        print(f'failed: {failed}: {why}', file=sys.stderr)
    return 1 if failures else 0


def _write_page(work_dir: Path) -> None:
    """The false alarms and misses of the first seed. It needs the predictions of PrecisionRecallMetric."""
    page = work_dir / 'report.html'
    try:
        write_mistakes(page, [work_dir])
    except (OSError, ValueError) as error:  # the numbers are complete without it
        print(f'No page of the mistakes: {error}')
    else:
        print(f'The mistakes of each variant, in a browser: {page}')


@contextmanager
def _stopping_at_signals(runs: Sequence[Run]) -> Iterator[None]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a SystemExit, after the runs were told to stop."""
    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, 'SIGHUP', signal.SIGTERM)}

    def stop(number: int, frame) -> None:
        for one, handler in before.items():
            signal.signal(one, handler)  # a second signal ends this process at once
        for run in runs:
            run.stop()
        text = b'Stopped: waiting until the running trainings have saved. The same command continues them\n'
        with suppress(OSError):  # the terminal may be closed. os.write, as the signal may have interrupted a print
            os.write(1, text)
        raise SystemExit(128 + number)

    # nohup ignores SIGHUP, and shells let a job in the background ignore Ctrl-C.
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def execute(todo: Sequence[Run], jobs: int) -> dict[Run, str]:
    """Execute the runs, ``jobs`` at a time. A run waits for the leader of its group. Returns why runs failed.

    Ctrl-C, SIGTERM and SIGHUP stop the runs. They save, and this function waits for them.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    waiting, failures = list(todo), {}
    running: dict[Future, Run] = {}
    with Processes(threads) as processes, ThreadPoolExecutor(jobs) as pool, _stopping_at_signals(todo):
        while waiting or running:
            unfinished = {*waiting, *running.values()}
            ready = [run for run in waiting if run.leader is run or run.leader not in unfinished]
            for run in ready[: jobs - len(running)]:
                print(f'{run}: begun', flush=True)
                waiting.remove(run)
                running[pool.submit(run.execute, processes)] = run
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                try:
                    future.result()
                except (RuntimeError, OSError, ValueError) as error:
                    failures[run] = str(error)
                done = len(todo) - len(waiting) - len(running)
                print(f'{run}: {"FAILED" if run in failures else "finished"} ({done} of {len(todo)})', flush=True)
    return failures
