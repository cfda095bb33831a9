"""Split a COCO set into labeled and unlabeled parts, in folds.

    python -m mmyolo_bgpenalty split data/x/annotations/train.json --percent 1 5 10 --folds 5

writes data/x/semi_anns/train.1@1.json, train.1@1-unlabeled.json and so on: fold 1 at 1 %. Each fold is drawn anew,
stratified by class, and has exactly round(percent / 100 * images) labeled images. The unlabeled parts keep their boxes,
so that pseudo-labels can be scored. Training does not read these boxes. One seed gives the same bytes on every machine.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mmyolo_bgpenalty.cli.run import InputCheck, command
from mmyolo_bgpenalty.utils.arguments import Parser, whole_number
from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.coco_split import (
    class_counts,
    draw,
    labeled_count,
    objects,
    part,
    semi_names,
)
from mmyolo_bgpenalty.utils.files import printable, write_together


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument('annotations', type=Path, help='COCO json of all images')
    parser.add_argument('--percent', type=float, nargs='+', default=[10], help='labeled percentages (default 10)')
    parser.add_argument('--folds', type=int, default=1, help='draws per percentage (default 1)')
    parser.add_argument('--seed', type=int, default=0, help='whole number >= 0 (default 0)')
    parser.add_argument('--out', type=Path, help='folder of the parts (default: semi_anns in the root of the set)')
    parser.add_argument('--force', action='store_true', help='overwrite existing files that have other contents')
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    stem, beside = args.annotations.stem, args.annotations.absolute().parent
    # In the root of the set, as in MMDetection's configs.
    folder = args.out or (beside.parent if beside.name == 'annotations' else beside) / 'semi_anns'
    percents = list(dict.fromkeys(args.percent))
    with InputCheck():
        folds = range(1, whole_number('--folds', args.folds) + 1)
        coco = read_coco(args.annotations)
        number, drawn = len(coco['images']), objects(coco)
        masks = {
            (percent, fold): draw(*drawn, number, labeled_count(number, percent), args.seed, fold)
            for percent in percents
            for fold in folds
        }
        files = (
            (folder / name, json.dumps(part(coco, mask)))
            for (percent, fold), labeled in masks.items()
            for name, mask in zip(semi_names(stem, fold, percent), (labeled, ~labeled), strict=True)
        )
        write_together(files, overwrite=args.force)
    names = [category['name'] for category in coco['categories']]
    console = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False, markup=False, emoji=False)
    for percent in percents:
        labeled = {semi_names(stem, fold, percent)[0]: masks[percent, fold] for fold in folds}
        show(console, names, *drawn, labeled)
    print(f'wrote {2 * len(masks)} files to {folder}')


def show(
    console: Console, names: list[str], image_of: np.ndarray, class_of: np.ndarray, labeled: dict[str, np.ndarray]
) -> None:
    """Print how many images and objects of each class are labeled. Warn of classes without a labeled object.

    ``objects`` returns ``image_of`` and ``class_of``. ``labeled`` maps a file name to the mask of its labeled images.
    """
    number = len(next(iter(labeled.values())))
    every = class_counts(image_of, class_of, np.ones(number, dtype=bool), len(names))
    counts = [class_counts(image_of, class_of, mask, len(names)) for mask in labeled.values()]
    table = Table('class', 'images', 'objects', *(printable(name.removesuffix('.json')) for name in labeled))
    for row, name in enumerate(names):
        table.add_row(printable(name), *map(str, every[row]), *('{} ({})'.format(*count[row]) for count in counts))
    table.add_section()
    totals = [(mask.sum(), count[:, 1].sum()) for mask, count in zip(labeled.values(), counts, strict=True)]
    table.add_row('all', str(number), str(len(image_of)), *('{} ({})'.format(*total) for total in totals))
    console.print(table)
    for (name, mask), count in zip(labeled.items(), counts, strict=True):
        lost = [names[row] for row in np.flatnonzero((every[:, 0] > 0) & (count[:, 0] == 0))]
        if lost:
            print(
                printable(f'warning: {name} has no object of {", ".join(lost)}')
                + f': {mask.sum()} images are too few for all {np.count_nonzero(every[:, 0])} classes',
                file=sys.stderr,
            )
