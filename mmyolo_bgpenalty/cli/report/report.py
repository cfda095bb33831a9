"""Show the false alarms and the misses of one or more detectors in a browser.

    python -m mmyolo_bgpenalty test CONFIG CHECKPOINT --out results/a
    python -m mmyolo_bgpenalty report results/a [results/b …] --out report.html

Each RUN is a folder that `test --out` wrote. All runs must be on the same images. The report is one file that needs no
network: figures at any confidence, and the mistakes sorted by kind. With two or more runs it shows which mistakes of
the first run are gone and which are new.

--suggestions writes likely missing labels as a COCO json for an annotation tool: boxes on background that all runs find
with --suggest-score. The annotations are not changed.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmyolo_bgpenalty.cli.report.content import content_of
from mmyolo_bgpenalty.cli.report.page import page_of
from mmyolo_bgpenalty.cli.report.sources import read_run
from mmyolo_bgpenalty.cli.report.suggestions import suggestions
from mmyolo_bgpenalty.cli.run import InputCheck, InputError, command
from mmyolo_bgpenalty.utils.arguments import Parser, fraction, whole_number
from mmyolo_bgpenalty.utils.files import write_together

RESAMPLES = 1000  # of the images, for intervals


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser: argparse.ArgumentParser = Parser(__doc__)
    parser.add_argument('runs', nargs='+', metavar='RUN', help='a folder that `test --out` wrote')
    parser.add_argument('--out', default='report.html', help='the file to write (default report.html)')
    most = 'most false positives and most misses of each run that are shown (default 300)'
    parser.add_argument('--most', type=int, default=300, help=most)
    suggested = 'a json file to write likely missing labels to: boxes on background that all runs find'
    parser.add_argument('--suggestions', metavar='FILE', help=suggested)
    parser.add_argument('--suggest-score', type=float, default=0.5, help='their lowest score in each run (default 0.5)')
    args = parser.parse_args(argv)
    with InputCheck():
        whole_number('--most', args.most)
        fraction('--suggest-score', args.suggest_score)
        runs = [read_run(path) for path in args.runs]
        for run, path in zip(runs[1:], args.runs[1:]):
            first, other = runs[0].source, run.source
            if [one['file_name'] for one in first.images] != [one['file_name'] for one in other.images]:
                raise InputError(f'{path}: expected predictions on {first.file}, but got some on {other.file}')
            if first.classes != other.classes:
                raise InputError(f'{path}: expected the classes {first.classes}, but got {other.classes}')
        written = {args.out: page_of(content_of(runs, args.most, RESAMPLES))}
        if args.suggestions:
            labels = suggestions(runs, args.suggest_score)
            written[args.suggestions] = json.dumps(labels)
        write_together(written.items(), overwrite=True)
    if args.suggestions:
        number, images = len(labels['annotations']), len(labels['images'])
        print(f'{args.suggestions}: {number} likely missing labels in {images} images. Look at each before you use it')
    print(f'{args.out}: {Path(args.out).stat().st_size / 1e6:.1f} MB. Open it in a browser')
