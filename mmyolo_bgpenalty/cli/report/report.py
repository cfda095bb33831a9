"""Show the false alarms and the misses of one or more detectors in a browser.

    python -m mmyolo_bgpenalty report work_dirs/a [work_dirs/b …] --out report.html

Each RUN is one of these folders:
- the work dir of a training: its best checkpoint is tested first; of a semi-supervised one, teacher and student;
- what `test CONFIG CHECKPOINT --out RUN` wrote;
- the work dir of an ablation: the first seed of each variant is shown.

All runs must be on the same images. The report is one file that needs no network. It has the figures at any
confidence, and the mistakes sorted by kind. With two or more runs it shows which mistakes of the first run are gone and
which are new.

--suggestions writes likely missing labels as a COCO json for an annotation tool: boxes on background that all runs find
with --suggest-score. The annotations are not changed.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmyolo_bgpenalty.cli.report.content import content_of
from mmyolo_bgpenalty.cli.report.page import page_of
from mmyolo_bgpenalty.cli.report.plots import (
    COLOURS,
    confusion_svg,
    history_svg,
    precision_recall_svg,
    shown_panels,
    training_history,
)
from mmyolo_bgpenalty.cli.report.sources import Run, read_run, results_in, same_truth
from mmyolo_bgpenalty.cli.report.suggestions import suggestions
from mmyolo_bgpenalty.cli.run import InputCheck, InputError, command
from mmyolo_bgpenalty.evaluation.confusion import confusion_matrix
from mmyolo_bgpenalty.utils.arguments import Parser, fraction, whole_number
from mmyolo_bgpenalty.utils.files import write_together, write_whole

RESAMPLES = 1000  # of the images, for intervals
MOST = 1000  # false positives, and misses, of all runs together, so that the page stays below 10 MB


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """The runs in these folders, which must have the same images and classes."""
    folders = [(name, folder) for path in paths for name, folder in results_in(path).items()]
    runs = [read_run(folder, name) for name, folder in folders]
    first = runs[0].source
    for run, (_, folder) in zip(runs[1:], folders[1:]):
        if not same_truth(first, run.source):
            what = 'the images, classes, boxes, `iou_thr` and `score_thr`'
            raise InputError(f'{folder}: expected {what} of {folders[0][1]}, but got others: {run.source.file}')
    return runs


def page(runs: Sequence[Run], most: int | None = None) -> str:
    """The HTML of the report. ``most``: false positives, and misses, of each run."""
    content = content_of(runs, most or max(1, MOST // len(runs)), RESAMPLES)
    curve, content['axes'] = precision_recall_svg([run.pop('curve') for run in content['runs']])
    histories = [training_history(run.checkpoint, run.student) for run in runs]
    plots = dict(
        curve=curve,
        history=history_svg(histories),
        panels=shown_panels(histories),
        legend=[(run.name, COLOURS[place % len(COLOURS)]) for place, run in enumerate(runs)],
        confusions=[(run.name, _confusion(run)) for run in runs],
        confidence=runs[0].source.score_thr,
        iou=runs[0].source.iou_thr,
    )
    return page_of(content, plots)


def _confusion(run: Run) -> str:
    source = run.source
    pairs = zip(run.found, source.truth)
    return confusion_svg(confusion_matrix(pairs, len(source.classes), source.score_thr, source.iou_thr), source.classes)


def write_report(path: str | Path, results: Sequence[str | Path]) -> None:
    """Write the report of these folders. Raises ValueError or InputError as the command does."""
    write_whole(path, page(read_runs(results)))


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser: argparse.ArgumentParser = Parser(__doc__)
    parser.add_argument(
        'runs', nargs='+', metavar='RUN', help='a work dir of `train` or `ablate`, or a folder of `test --out`'
    )
    parser.add_argument('--out', default='report.html', help='the file to write (default report.html)')
    most = f'most false positives and most misses of each run that are shown (default: {MOST}, divided by the runs)'
    parser.add_argument('--most', type=int, help=most)
    suggested = 'a json file to write likely missing labels to: boxes on background that all runs find'
    parser.add_argument('--suggestions', metavar='FILE', help=suggested)
    parser.add_argument('--suggest-score', type=float, default=0.5, help='their lowest score in each run (default 0.5)')
    args = parser.parse_args(argv)
    with InputCheck():
        if args.most is not None:
            whole_number('--most', args.most)
        fraction('--suggest-score', args.suggest_score)
        found = read_runs(args.runs)
        written = {args.out: page(found, args.most)}
        if args.suggestions:
            labels = suggestions(found, args.suggest_score)
            written[args.suggestions] = json.dumps(labels)
        write_together(written.items(), overwrite=True)
    if args.suggestions:
        number, images = len(labels['annotations']), len(labels['images'])
        print(f'{args.suggestions}: {number} likely missing labels in {images} images. Look at each before you use it')
    print(f'{args.out}: {Path(args.out).stat().st_size / 1e6:.1f} MB. Open it in a browser')
