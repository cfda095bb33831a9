"""Time and memory of this package beside MMYOLO's, MMDetection's and Ultralytics', in pairs within one process.

    python tools/benchmark.py [--cases loss traffic step memory growth assigner] [--device cuda] [--out docs/benchmark]

Ratios are ours / theirs. With --out it writes <out>.md, <out>.json and, with the case growth, <out>.png.
"""

import argparse
import datetime
import io
import json
import os
import platform
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import torch
from mmengine.logging import MMLogger
from mmyolo.utils import register_all_modules
from torch.profiler import ProfilerActivity, profile

from mmyolo_bgpenalty.cli.benchmark.steps import (
    LossStep,
    Scene,
    Shape,
    Step,
    UltralyticsLossStep,
    assigner_steps,
    at_width,
    build_head,
    classification_steps,
    disagreement,
    our_config,
    positives_step,
    semi_steps,
    supervised_steps,
    their_detector,
)
from mmyolo_bgpenalty.cli.benchmark.timing import Summary, growth_exponent, paired_times, ratios, summarise, verdict
from mmyolo_bgpenalty.cli.run import InputCheck, InputError, command
from mmyolo_bgpenalty.utils.arguments import whole
from mmyolo_bgpenalty.utils.files import write_whole

SMALL, LARGE, LARGER = Shape(8, 320, 320, 3, 15), Shape(8, 640, 640, 80, 8), Shape(16, 640, 640, 80, 20)
SHIPPED, NANO = Shape(8, 256, 320, 3, 3), Shape(4, 640, 640, 80, 8)
TINY = Shape(2, 64, 64, 3, 3)
GROWTH_BASE = Shape(2, 640, 640, 80, 20)
GROWTH = dict(
    boxes=(1, 3, 10, 30, 100, 300), classes=(1, 3, 20, 80, 365), batch=(1, 2, 4, 8, 16), pixels=(160, 320, 640, 1280)
)
# Overrides of our detector. λ at its maximum and the rest as the configs state it.
PENALTIES = {'penalty': {}, 'focal penalty': {'bbox_head.bg_penalty.focal': True}}
# Ratios to reach: device, case and shape.
TARGETS = {
    **{('cpu', 'loss', shape): ratio for shape, ratio in ((SMALL, 0.6), (LARGE, 0.4), (LARGER, 0.4))},
    **{('cuda', 'loss', shape): 0.6 for shape in (SMALL, LARGE, LARGER)},
    **{('cpu', 'loss, Ultralytics', shape): 0.9 for shape in (LARGE, LARGER)},
    **{('cpu', 'assigner', shape): 1 / times for shape, times in ((SMALL, 5), (LARGE, 16), (LARGER, 12))},
    **{('cpu', 'memory of the loss', shape): 0.6 for shape in (SMALL, LARGE, LARGER)},
    **{('cpu', 'semi step', shape): 0.75 for shape in (SHIPPED, NANO)},
    **{('cpu', 'share', shape): 0.01 for shape in (SHIPPED, NANO)},
}


@dataclass
class Row:
    """``ours`` and ``theirs``: medians, ms or MiB. ``ratio`` of one measurement (memory) has no spread."""

    case: str
    what: str
    shape: str
    ours: float
    theirs: float
    ratio: Summary
    unit: str
    target: Optional[float]
    reached: Optional[str]


@dataclass
class Growth:
    """Medians in ms over the values of one axis."""

    case: str
    axis: str
    values: List[int]
    ours: List[float] = field(default_factory=list)
    theirs: List[float] = field(default_factory=list)

    def exponents(self, times: List[float]) -> List[float]:
        """Over all values, and over the last two."""
        return [growth_exponent(self.values, times), growth_exponent(self.values[-2:], times[-2:])]


class Bench:
    def __init__(self, device: str, pairs: int, quick: bool):
        self.device, self.pairs, self.quick = device, pairs, quick
        self.rows: List[Row] = []
        self.growth: List[Growth] = []
        self.notes: List[str] = []
        self.shapes = (TINY,) if quick else (SMALL, LARGE, LARGER)
        self.scales = ((TINY, {}),) if quick else ((SHIPPED, {}), (NANO, at_width(0.25)))

    def clock(self) -> float:
        if self.device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter()

    def times(self, ours: Step, theirs: Step, pairs: Optional[int] = None):
        return paired_times(ours, theirs, pairs or self.pairs, clock=self.clock)

    def compare(self, case: str, what: str, shape: Shape, ours: Step, theirs: Step, pairs: Optional[int] = None) -> Row:
        times = self.times(ours, theirs, pairs)
        medians = [1e3 * summarise(side).median for side in zip(*times)]
        return self.add(case, what, shape, *medians, summarise(ratios(times)), 'ms')

    def add(self, case: str, what: str, shape: Shape, ours: float, theirs: float, ratio: Summary, unit: str) -> Row:
        target = TARGETS.get((self.device, case, shape))
        reached = None if target is None else verdict(ratio, target)
        self.rows.append(Row(case, what, str(shape), ours, theirs, ratio, unit, target, reached))
        print(_line(self.rows[-1]), flush=True)
        return self.rows[-1]

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(text, flush=True)

    def losses(self, shape: Shape, smallest: float = 8, decode: bool = True) -> Dict[str, LossStep]:
        """Loss steps by name: ours, of each penalty, and ``theirs``."""
        scene = Scene(shape, self.device, smallest)
        ours = {name: our_config(shape, overrides).model for name, overrides in PENALTIES.items()}
        detectors = {**ours, 'theirs': their_detector(shape, ours['penalty'])}
        return {name: LossStep(build_head(cfg, self.device), scene, decode) for name, cfg in detectors.items()}


# Cases


def loss(bench: Bench) -> None:
    for shape in bench.shapes:
        steps = bench.losses(shape)
        theirs = steps.pop('theirs')
        difference = max(disagreement(step, theirs) for step in steps.values())
        bench.note(f'{shape}: our losses, less the penalty, and MMYOLO differ by {difference:.1g} (relative)')
        for name, step in steps.items():
            bench.compare('loss', f'{name}, to MMYOLO', shape, step, theirs)
        if bench.device == 'cuda':
            counts = [synchronisations(step) for step in (steps['penalty'], theirs)]
            bench.note('{}: {} host synchronisations in our loss step, {} in MMYOLO'.format(shape, *counts))
        steps = bench.losses(shape, decode=False)
        what = 'penalty, to MMYOLO, from the predictions on'
        bench.compare('loss from predictions', what, shape, steps['penalty'], steps['theirs'])
        # Ultralytics enlarges boxes below 16 px before it assigns them, which is another loss.
        steps = bench.losses(shape, smallest=16)
        try:
            theirs = UltralyticsLossStep(steps['penalty'].scene)
        except ImportError as error:
            bench.note(f'Ultralytics: not installed ({error})')
            continue
        for name in ('penalty', 'theirs'):
            which = name.replace('theirs', 'MMYOLO')
            difference = disagreement(steps[name], theirs)
            bench.note(f'{shape}: losses of {which} and Ultralytics differ by {difference:.1g} (relative)')
            case = 'loss, Ultralytics' if name == 'penalty' else 'MMYOLO, Ultralytics'
            bench.compare(case, f'{which}, to Ultralytics', shape, steps[name], theirs)


def traffic(bench: Bench) -> None:
    what = 'classification loss and penalty, to a read and a write'
    for shape in bench.shapes:
        bench.compare('traffic', what, shape, *classification_steps(Scene(shape, bench.device)))


def synchronisations(step: Step) -> int:
    """How often the host waits for the GPU."""
    step()
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            step()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return sum('synchroniz' in str(warning.message) for warning in caught)


def assigner(bench: Bench) -> None:
    for shape in bench.shapes:
        ours, theirs = _assigners(bench, shape)
        bench.compare('assigner', 'to MMYOLO', shape, ours, theirs)
        positives = positives_step(our_config(shape).model, Scene(shape, bench.device))
        bench.compare('assigner in our head', 'the positives alone, to MMYOLO', shape, positives, theirs)


def _assigners(bench: Bench, shape: Shape):
    ours = our_config(shape).model
    return assigner_steps(ours, their_detector(shape, ours), Scene(shape, bench.device))


def step(bench: Bench) -> None:
    # A step takes a hundred times as long as a small loss.
    pairs = max(2, bench.pairs // 2)
    for shape, overrides in bench.scales:
        ours, theirs = supervised_steps(shape, overrides, bench.device)
        whole_step = bench.compare('supervised step', 'to MMYOLO', shape, ours, theirs, pairs)
        _share(bench, shape, whole_step.ours)
        ours, theirs = semi_steps(shape, overrides, bench.device)
        boxes = ours.pseudo_boxes(), theirs.pseudo_boxes()
        bench.note('{}: {:.1f} pseudo-boxes an image, {:.1f} with SemiBaseDetector'.format(shape, *boxes))
        bench.compare('semi step', 'to SemiBaseDetector', shape, ours, theirs, pairs)


def _share(bench: Bench, shape: Shape, milliseconds: float) -> None:
    """What the penalty adds to our own loss step, over the supervised step. With λ = 0 the statistics are left."""
    scene = Scene(shape, bench.device)
    cfgs = (our_config(shape, overrides).model for overrides in ({}, {'bbox_head.bg_penalty.lambda_bg': 0.0}))
    steps = (LossStep(build_head(cfg, bench.device), scene) for cfg in cfgs)
    added = [1e3 * (with_penalty - without) for with_penalty, without in bench.times(*steps)]
    share = summarise([more / milliseconds for more in added])
    what = 'what λ > 0 adds, to the supervised step'
    bench.add('share', what, shape, summarise(added).median, milliseconds, share, 'ms')


def memory(bench: Bench) -> None:
    for shape in bench.shapes:
        steps = bench.losses(shape)
        for name in PENALTIES:
            _memory(bench, 'memory of the loss', f'{name}, to MMYOLO', shape, steps[name], steps['theirs'])
    for shape, overrides in bench.scales:
        for name, pair in (('supervised', supervised_steps), ('semi', semi_steps)):
            _memory(bench, f'memory of the {name} step', name, shape, *pair(shape, overrides, bench.device))


def _memory(bench: Bench, case: str, what: str, shape: Shape, ours: Step, theirs: Step) -> None:
    peaks = [peak_bytes(step, bench.device) / 2**20 for step in (ours, theirs)]
    ratio = peaks[0] / peaks[1]
    bench.add(case, what, shape, *peaks, Summary(ratio, ratio, ratio, None, 1), 'MiB')


def peak_bytes(step: Step, device: str) -> int:
    """Most bytes of tensors that are alive at once in a step, above those that were there before.

    On a CPU from the allocations that torch's profiler records: the same number in every run, where the resident set
    depends on what the C library gives back and when.
    """
    step()  # caches, and the optimizer's state
    if device == 'cuda':
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    with tempfile.TemporaryDirectory() as folder:
        recorded.export_chrome_trace(f'{folder}/trace.json')
        events = json.loads(Path(folder, 'trace.json').read_text(encoding='utf-8'))['traceEvents']
    live = peak = 0
    for event in sorted((event for event in events if event['name'] == '[memory]'), key=lambda event: event['ts']):
        live += event['args']['Bytes']
        peak = max(peak, live)
    return peak


def growth(bench: Bench) -> None:
    base = TINY if bench.quick else GROWTH_BASE
    for axis, values in dict(boxes=(1, 4), pixels=(64, 96)).items() if bench.quick else GROWTH.items():
        rows = [Growth(case, axis, list(values)) for case in ('assigner', 'loss')]
        for value in values:
            sides = ('height', 'width') if axis == 'pixels' else (axis,)
            shape = replace(base, **{side: value for side in sides})
            steps = bench.losses(shape)
            for row, pair in zip(rows, (_assigners(bench, shape), (steps['penalty'], steps['theirs']))):
                times = bench.times(*pair, pairs=max(2, bench.pairs // 3))
                row.ours.append(1e3 * summarise([ours for ours, _ in times]).median)
                row.theirs.append(1e3 * summarise([theirs for _, theirs in times]).median)
                print(f'{row.case}, {axis} {value}: {row.ours[-1]:.3g} and {row.theirs[-1]:.3g} ms', flush=True)
        bench.growth += rows


CASES: Dict[str, Callable[[Bench], None]] = dict(
    loss=loss, traffic=traffic, assigner=assigner, step=step, memory=memory, growth=growth
)


# Report


def _line(row: Row) -> str:
    digits = 2 if row.ratio.median >= 0.1 else 3
    ratio, spread = f'**{row.ratio.median:.{digits}f}**', ''
    if row.ratio.interval is not None:
        ratio += ' [{:.{d}f}, {:.{d}f}]'.format(*row.ratio.interval, d=digits)
    if row.ratio.number > 1:
        spread = f'{row.ratio.low:.{digits}f} – {row.ratio.high:.{digits}f}, {row.ratio.number}'
    target = '' if row.target is None else f'≤ {row.target:.3g}: {row.reached}'
    cells = row.case, row.what, row.shape, f'{row.ours:.3g}', f'{row.theirs:.3g} {row.unit}', ratio, spread, target
    return f'| {" | ".join(cells)} |'


INTRODUCTION = """\
# Benchmark

{device}, {cores} cores, {threads} threads, load {load:.1f} at the start; torch {torch}, Python {python}; {date}.

```sh
{command}
```

Ratios are ours / theirs: below 1 ours is the faster or the smaller. The two of a pair run one right after the other in
random order; a ratio is the median of the pairs' ratios, with the 95 % interval of that median (order statistics) in
brackets, then the pairs' 10 % and 90 % quantiles and their number. A target is met or not met where the whole interval
lies on that side of it (by the ratio itself where there is no interval). Milliseconds are medians, and this machine's
alone. B × pixels, C classes, G boxes an image.

- **Ours** is what the shipped configs state, λ at its maximum. **Theirs** is MMYOLO's YOLOv8 config with its own head
  and assigner, at the same width and number of classes, without any penalty.
- **loss**: forward and backward of `loss_by_feat`, from the last convolutions' outputs to their gradients. What the
  head module makes of the distributions (the expected distances, and their gradient) is in it on both sides, as
  Ultralytics' loss makes them itself. **loss from predictions** leaves it out: it begins and ends at the head module's
  outputs. The boxes are 8 px to half the image; beside Ultralytics 16 px at least, as it assigns smaller ones by
  another rule. The losses agree as far as is said below.
- **traffic**: our classification loss and the penalty, forward and backward, over `sum` and `zeros_like` of the logits.
  With B images, N priors and C classes in fp32 these move 4·B·N·C bytes each way, and no implementation less. Ours
  makes one tensor of that size, the gradient. The penalty is one kernel more a level in each direction: `max`, which
  writes 12·B·N bytes (the largest logit and its class), and `scatter_add_`, which adds B·N values to the gradient;
  between them are eight kernels on (B, N).
- **assigner**: on what MMYOLO's head gives to its own; equal results are checked before it is timed. **In our head** it
  is asked for the positives alone, and reads the predictions where they are; theirs is given them permuted and
  concatenated.
- **supervised step**, **semi step**: pre-processing, forward, backward, optimizer and, semi, the teacher's update; no
  loader. The learning rate is 0, so that every step sees the same assignments and pseudo-labels. Semi is after burn-in,
  half of the batch labeled, to MMDetection's SemiBaseDetector with the same pseudo-label settings and MeanTeacherHook.
- **share**: what λ > 0 adds to our loss step, over our supervised step; with λ = 0 the statistics are still taken.
- **memory**: most bytes of tensors alive at once in a step, above those from before it; counted from the allocations
  (torch's profiler, on a GPU its allocator), so it has no spread.
"""


def markdown(bench: Bench, machine: dict) -> str:
    lines = [INTRODUCTION.format(**machine)]
    if bench.rows:
        lines += ['| case | what | shape | ours | theirs | ratio | 10 – 90 %, pairs | target |', '|---' * 8 + '|']
        lines += [*map(_line, bench.rows), '']
    if bench.growth:
        base = TINY if bench.quick else GROWTH_BASE
        lines += [
            '## Growth',
            '',
            f'Milliseconds, ours / theirs, from {base}; p of time ∝ size^p over all sizes, and over the last two.',
            '',
        ]
    for row in bench.growth:
        values = [f'{ours:.3g} / {theirs:.3g}' for ours, theirs in zip(row.ours, row.theirs)]
        powers = zip(row.exponents(row.ours), row.exponents(row.theirs))
        cells = [row.case, *values, *(f'{ours:.2f} / {theirs:.2f}' for ours, theirs in powers)]
        lines += [
            f'| {" | ".join([row.axis, *map(str, row.values), "p", "p at the end"])} |',
            '|---' * len(cells) + '|',
            f'| {" | ".join(cells)} |',
            '',
        ]
    if bench.notes:
        lines += ['## Checked', '', *(f'- {note}' for note in bench.notes), '']
    return '\n'.join(lines)


def picture(rows: List[Growth]) -> bytes:
    """PNG: time over size, a panel a case and axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cases, axes = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ('case', 'axis'))
    figure = Figure(figsize=(3.2 * len(axes), 2.8 * len(cases)), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(cases), len(axes), squeeze=False)
    for row in rows:
        panel = panels[cases.index(row.case)][axes.index(row.axis)]
        for name, times in (('ours', row.ours), ('MMYOLO', row.theirs)):
            panel.loglog(row.values, times, 'o-', label=name)
        panel.set(title=row.case, xlabel=row.axis, ylabel='ms')
        panel.set_xticks(row.values, [str(value) for value in row.values])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0][0].legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90, metadata={'Software': None})
    return buffer.getvalue()


def describe(args: argparse.Namespace) -> dict:
    """The machine and the run, without names of hosts or files."""
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


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES), help='what to measure (all)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument(
        '--pairs', type=int, default=30, help='pairs of a loss; of steps a half, of growth a third (30)'
    )
    parser.add_argument('--threads', type=int, help="torch's threads on a CPU (as torch chooses)")
    parser.add_argument('--out', help='path, without suffix, of the report (none is written)')
    parser.add_argument('--quick', action='store_true', help='tiny shapes and two pairs: whether it runs')
    args = parser.parse_args(argv)
    with InputCheck():
        whole('--pairs', args.pairs)
        if args.threads is not None:
            torch.set_num_threads(whole('--threads', args.threads))
    if args.quick:
        args.pairs = 2
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise InputError('Expected a GPU for --device cuda, but torch finds none')
    register_all_modules()
    MMLogger.get_instance('benchmark', log_level='WARNING')
    bench, machine = Bench(args.device, args.pairs, args.quick), describe(args)
    for case in CASES:
        if case in args.cases:
            CASES[case](bench)
    if args.out:
        rows = [dict(asdict(row), ratio=row.ratio._asdict()) for row in bench.rows]
        lines = [
            dict(asdict(row), p_ours=row.exponents(row.ours), p_theirs=row.exponents(row.theirs))
            for row in bench.growth
        ]
        content = dict(machine, rows=rows, growth=lines, notes=bench.notes)
        write_whole(f'{args.out}.md', markdown(bench, machine))
        write_whole(f'{args.out}.json', json.dumps(content, indent=1, ensure_ascii=False) + '\n')
        if bench.growth:
            write_whole(f'{args.out}.png', picture(bench.growth))
