"""Time and memory of this package beside MMYOLO, MMDetection and Ultralytics, in pairs within one process.

    python tools/benchmark.py [--cases loss traffic assigner step memory] [--device cuda] [--out docs/benchmark]

Ratios are ours / theirs. --out writes <out>.md and <out>.json. docs/benchmark_notes.md explains the cases.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.logging import MMLogger
from mmyolo.utils import register_all_modules

from mmyolo_bgpenalty.cli.benchmark.cases import Pair, assigner_pairs, loss_pairs, step_pairs, traffic_pairs
from mmyolo_bgpenalty.cli.benchmark.memory import peak_bytes
from mmyolo_bgpenalty.cli.benchmark.timing import Spread, paired_times, spread
from mmyolo_bgpenalty.cli.run import InputCheck, InputError, command
from mmyolo_bgpenalty.utils.arguments import whole_number
from mmyolo_bgpenalty.utils.files import write_whole

TIMED = dict(loss=loss_pairs, traffic=traffic_pairs, assigner=assigner_pairs, step=step_pairs)


class Row(NamedTuple):
    """Medians of ``ours`` and ``theirs``, in ms or MiB. ``ratio`` is ours / theirs."""

    case: str
    what: str
    shape: str
    ours: float
    theirs: float
    unit: str
    ratio: Spread
    notes: tuple[str, ...]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = [*TIMED, 'memory']
    parser.add_argument('--cases', nargs='+', choices=cases, default=cases, help='what to measure (all)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--pairs', type=int, default=30, help='pairs of a loss; of whole steps a half (30)')
    parser.add_argument('--threads', type=int, help="torch's threads on a CPU (as torch chooses)")
    parser.add_argument('--out', help='path, without suffix, of the report (none is written)')
    parser.add_argument('--quick', action='store_true', help='tiny shapes and two pairs, to see whether it runs')
    args = parser.parse_args(argv)
    with InputCheck():
        whole_number('--pairs', args.pairs)
        if args.threads is not None:
            whole_number('--threads', args.threads)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise InputError('Expected a GPU for --device cuda, but torch finds none')
    args.pairs = 2 if args.quick else args.pairs
    return args


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    register_all_modules()
    MMLogger.get_instance('benchmark', log_level='WARNING')
    machine, rows = describe(args), []
    for case in args.cases:
        names = ('loss', 'step') if case == 'memory' else (case,)
        for pair in chain.from_iterable(TIMED[name](args.device, args.quick) for name in names):
            measure = memory_row if case == 'memory' else time_row
            rows.append(measure(pair, args.device, args.pairs))
            print(line(rows[-1]), flush=True)
    if args.out:
        content = dict(machine, rows=[dict(row._asdict(), ratio=row.ratio._asdict()) for row in rows])
        with InputCheck():
            write_whole(f'{args.out}.md', markdown(rows, machine))
            write_whole(f'{args.out}.json', json.dumps(content, indent=1, ensure_ascii=False) + '\n')


def time_row(pair: Pair, device: str, pairs: int) -> Row:
    """Whole steps take a hundred times as long as a small loss, and are timed half as often."""

    def clock() -> float:
        if device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter()

    number = max(2, pairs // 2) if pair.case.endswith('step') else pairs
    times = paired_times(pair.ours, pair.theirs, number, clock=clock)
    ours, theirs = (1e3 * spread(side).median for side in zip(*times, strict=True))
    ratio = spread([a / b for a, b in times])
    return Row(pair.case, pair.what, str(pair.shape), ours, theirs, 'ms', ratio, pair.notes)


def memory_row(pair: Pair, device: str, pairs: int) -> Row:
    """Memory is measured once, since it is the same in every run."""
    ours, theirs = (peak_bytes(task, device) / 2**20 for task in (pair.ours, pair.theirs))
    case, ratio = f'memory of the {pair.case}', spread([ours / theirs])
    return Row(case, pair.what, str(pair.shape), ours, theirs, 'MiB', ratio, ())


def describe(args: argparse.Namespace) -> dict:
    """The machine and the command, without names of hosts or files."""
    command = ['python tools/benchmark.py', '--cases', *args.cases, '--device', args.device, f'--pairs {args.pairs}']
    command += [f'--threads {args.threads}'] if args.threads else []
    return dict(
        device=torch.cuda.get_device_name() if args.device == 'cuda' else _processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        torch=torch.__version__,
        python=platform.python_version(),
        date=datetime.date.today().isoformat(),
        command=' '.join([*command, *(['--quick'] if args.quick else [])]),
    )


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    names = (line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    return next(names, '') or platform.processor() or platform.machine()


HEADER = """\
# Benchmark

{device}, {cores} cores, {threads} threads, load {load:.1f} at the start; torch {torch}, Python {python}; {date}.

```sh
{command}
```

Ratios are ours / theirs, with the 95 % interval of their median in brackets. Below 1 ours is faster or smaller.
[The notes](benchmark_notes.md) explain the cases.

| case | what | shape | ours | theirs | ratio | 10 – 90 %, pairs | checked |
|---|---|---|---|---|---|---|---|
"""


def markdown(rows: Sequence[Row], machine: dict) -> str:
    return HEADER.format(**machine) + ''.join(f'{line(row)}\n' for row in rows)


def line(row: Row) -> str:
    digits = 2 if row.ratio.median >= 0.1 else 3
    ratio, quantiles = f'**{row.ratio.median:.{digits}f}**', ''
    if row.ratio.interval is not None:
        ratio += ' [{:.{d}f}, {:.{d}f}]'.format(*row.ratio.interval, d=digits)
    if row.ratio.number > 1:
        quantiles = f'{row.ratio.low:.{digits}f} – {row.ratio.high:.{digits}f}, {row.ratio.number}'
    times = f'{row.ours:.3g}', f'{row.theirs:.3g} {row.unit}'
    return f'| {" | ".join([row.case, row.what, row.shape, *times, ratio, quantiles, "; ".join(row.notes)])} |'
