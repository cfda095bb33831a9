"""Compare time and memory of this package with MMYOLO, MMDetection and Ultralytics, in pairs.

    python -m mmyolo_bgpenalty benchmark [--cases loss step …] [--device cuda] [--out FILE]

Ratios are ours / theirs. --out writes <out>.md and <out>.json. docs/results/benchmark_notes.md explains the cases.
"""

import argparse
import datetime
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from mmcv.ops import nms
from mmengine.logging import MMLogger
from mmyolo.utils import register_all_modules

from mmyolo_bgpenalty.cli.benchmark.cases import Pair, assigner_pairs, loss_pairs, step_pairs, traffic_pairs
from mmyolo_bgpenalty.cli.benchmark.measures import Spread, host_waits, paired_times, peak_bytes, spread
from mmyolo_bgpenalty.cli.benchmark.whole_trainings import (
    against_others,
    beside_others,
    short_runs,
    starting,
    waiting_for_data,
)
from mmyolo_bgpenalty.cli.run import InputCheck, InputError, command
from mmyolo_bgpenalty.utils.arguments import Parser, whole_number
from mmyolo_bgpenalty.utils.files import write_whole

TIMED = dict(loss=loss_pairs, traffic=traffic_pairs, assigner=assigner_pairs, step=step_pairs)
PROCESSES = dict(
    training=against_others, data=waiting_for_data, start=starting, busy=beside_others, ablation=short_runs
)
# How many `--pairs` make a round of these cases. A round takes minutes.
ROUNDS = dict(training=5, data=15, start=5, busy=5, ablation=5)


class Row(NamedTuple):
    """Median times of ``ours`` and ``theirs`` in ms, their memory in MiB, or numbers. ``ratio`` is ours / theirs."""

    case: str
    what: str
    shape: str
    ours: float
    theirs: float
    unit: str
    ratio: Spread
    note: str


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    on_gpu = [*TIMED, 'memory', 'waits']
    cases = [*on_gpu, *PROCESSES]
    default = 'what to measure (default: all but `waits`; on a GPU all but the cases of whole processes)'
    parser.add_argument('--cases', nargs='+', choices=cases, help=default)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument(
        '--pairs',
        type=int,
        default=30,
        help='number of pairs (default 30). Whole steps have half, and whole processes a fifth or fewer',
    )
    threads = torch.get_num_threads()
    parser.add_argument('--threads', type=int, default=threads, help=f'CPU threads of torch (default {threads})')
    parser.add_argument('--out', help='path of the report, without suffix (default: no report)')
    parser.add_argument('--quick', action='store_true', help='tiny shapes and two pairs, to see whether it works')
    args = parser.parse_args(argv)
    with InputCheck():
        whole_number('--pairs', args.pairs)
        whole_number('--threads', args.threads)
    if args.device == 'cuda':
        check_gpu()
    if args.device == 'cpu' and 'waits' in (args.cases or ()):
        raise InputError('Expected --device cuda for --cases waits, because only a GPU is waited for')
    args.cases = args.cases or (on_gpu if args.device == 'cuda' else [case for case in cases if case != 'waits'])
    args.pairs = 2 if args.quick else args.pairs
    return args


def check_gpu() -> None:
    if not torch.cuda.is_available():
        raise InputError('Expected a GPU for --device cuda, but torch finds no GPU')
    try:
        nms(torch.tensor([[0.0, 0, 1, 1]], device='cuda'), torch.ones(1, device='cuda'), 0.5)
    except (RuntimeError, NotImplementedError) as problem:
        text = str(problem).partition('\n')[0]
        raise InputError(f'Expected an MMCV with operators for the GPU for --device cuda, but got: {text}') from None


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    register_all_modules()
    MMLogger.get_instance('benchmark', log_level='WARNING')
    if find_spec('ultralytics') is None:
        print('Without Ultralytics: it is not installed')
    machine, rows = describe(args), []
    for case in args.cases:
        for row in process_rows(case, args) if case in PROCESSES else task_rows(case, args):
            rows.append(row)
            print(line(row), flush=True)
            if args.out:  # after each row, because a later case may fail
                write_report(args.out, machine, rows)


def write_report(out: str, machine: dict, rows: Sequence[Row]) -> None:
    content = dict(machine, rows=[dict(row._asdict(), ratio=row.ratio._asdict()) for row in rows])
    with InputCheck():
        write_whole(f'{out}.md', '\n'.join([HEADER.format(**machine), *map(line, rows), '']))
        write_whole(f'{out}.json', json.dumps(content, indent=1, ensure_ascii=False) + '\n')


def task_rows(case: str, args: argparse.Namespace) -> Iterator[Row]:
    for name in dict(memory=('loss', 'step'), waits=('loss', 'step')).get(case, (case,)):
        for pair in TIMED[name](args.device, args.quick):
            if case == 'memory':
                yield memory_row(pair, args.device)
            elif case == 'waits':
                yield waits_row(pair)
            else:
                yield time_row(pair, args.pairs)


def process_rows(case: str, args: argparse.Namespace) -> Iterator[Row]:
    rounds = max(1, args.pairs // ROUNDS[case])
    for one in PROCESSES[case](args.device, args.quick, rounds):
        ours, theirs = (1e3 * spread(side).median for side in zip(*one.seconds, strict=True))
        yield Row(case, one.what, one.shape, ours, theirs, 'ms', spread([a / b for a, b in one.seconds]), one.note)


def time_row(pair: Pair, pairs: int) -> Row:
    """Whole steps are timed half as often, because they take up to a hundred times as long as a loss."""
    times = paired_times(pair.ours, pair.theirs, max(2, pairs // 2) if pair.case.endswith('step') else pairs)
    ours, theirs = (1e3 * spread(side).median for side in zip(*times, strict=True))
    return Row(pair.case, pair.what, str(pair.shape), ours, theirs, 'ms', spread([a / b for a, b in times]), pair.note)


def memory_row(pair: Pair, device: str) -> Row:
    """Memory is measured once, because it is the same in every run."""
    ours, theirs = (peak_bytes(task, device) / 2**20 for task in (pair.ours, pair.theirs))
    case = f'memory of the {pair.case}'
    return Row(case, pair.what, str(pair.shape), ours, theirs, 'MiB', spread([ours / theirs]), '')


def waits_row(pair: Pair) -> Row:
    """The waits are counted once, because they are the same in every run."""
    ours, theirs = host_waits(pair.ours), host_waits(pair.theirs)
    return Row(
        f'waits of the {pair.case}', pair.what, str(pair.shape), ours, theirs, '', spread([ours / max(1, theirs)]), ''
    )


def describe(args: argparse.Namespace) -> dict:
    """The machine and the command, without host names and paths."""
    words = ['python -m mmyolo_bgpenalty benchmark --cases', *args.cases]
    words += [f'--device {args.device} --pairs {args.pairs} --threads {args.threads}']
    cpu = Path('/proc/cpuinfo')
    model = re.search(r'model name\s*: (.+)', cpu.read_text(encoding='utf-8') if cpu.exists() else '')
    return dict(
        device=torch.cuda.get_device_name() if args.device == 'cuda' else model[1] if model else platform.machine(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        torch=torch.__version__,
        python=platform.python_version(),
        date=datetime.date.today().isoformat(),
        command=' '.join(words + ['--quick'] * args.quick),
    )


HEADER = """\
# Benchmark

{device}, {cores} cores, {threads} threads, load {load:.1f} at the start; torch {torch}, Python {python}; {date}.

```sh
{command}
```

Ratios are ours / theirs, with the 95 % interval of their median in brackets. Below 1 ours is faster or smaller.
[The notes](benchmark_notes.md) explain the cases.

| case | what | shape | ours | theirs | ratio | 10 – 90 %, pairs | checked |
|---|---|---|---|---|---|---|---|"""


def line(row: Row) -> str:
    digits = 2 if row.ratio.median >= 0.1 else 3
    ratio, quantiles = f'**{row.ratio.median:.{digits}f}**', ''
    if row.ratio.interval is not None:
        ratio += ' [{:.{d}f}, {:.{d}f}]'.format(*row.ratio.interval, d=digits)
    if row.ratio.number > 1:
        quantiles = f'{row.ratio.low:.{digits}f} – {row.ratio.high:.{digits}f}, {row.ratio.number}'
    times = f'{row.ours:.3g}', f'{row.theirs:.3g} {row.unit}'.rstrip()
    return f'| {" | ".join([row.case, row.what, row.shape, *times, ratio, quantiles, row.note])} |'
