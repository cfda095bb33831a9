"""Split a COCO set into labeled and unlabeled parts, in folds.

    python tools/split_dataset.py data/x/annotations/train.json --percent 1 5 10 --folds 5

writes data/x/semi_anns/train.1@1.json, train.1@1-unlabeled.json and so on: for every fold another draw, stratified by
class, with exactly round(percent / 100 * images) labeled images. The unlabeled parts keep their boxes, which training
does not read, so that pseudo-labels can be scored. One seed gives the same bytes everywhere.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mmyolo_bgpenalty.cli.run import run
from mmyolo_bgpenalty.utils.coco_split import (
    class_counts,
    draw,
    labeled_count,
    lost_classes,
    objects,
    part_writer,
    percent_name,
    semi_names,
)
from mmyolo_bgpenalty.utils.files import read_coco, write_together


def main() -> int:
    parser = argparse.ArgumentParser(description='Split a COCO set into labeled and unlabeled parts')
    parser.add_argument('annotations', type=Path, help='COCO json of all images')
    parser.add_argument('--percent', type=float, nargs='+', default=[10], help='labeled shares, in (0, 100) (10)')
    parser.add_argument('--folds', type=int, default=1, help='number of draws of each share (1)')
    parser.add_argument('--seed', type=int, default=0, help='whole number >= 0 (0)')
    parser.add_argument('--out', type=Path, help='folder of the parts (semi_anns beside the folder `annotations`)')
    parser.add_argument('--force', action='store_true', help='replace files that are there with other contents')
    args = parser.parse_args()
    if args.folds < 1:
        raise ValueError(f'Expected `--folds` to be a whole number >= 1, but got {args.folds}')
    percents = list({percent_name(percent): percent for percent in args.percent}.values())

    coco = read_coco(args.annotations)
    number = len(coco['images'])
    folds = range(1, args.folds + 1)
    image_of, class_of = objects(coco)
    masks = {
        (percent, fold): draw(image_of, class_of, number, labeled_count(number, percent), args.seed, fold)
        for percent in percents
        for fold in folds
    }

    folder = args.out or _semi_folder(args.annotations)
    write = part_writer(coco)
    write_together(
        (
            (folder / name, write(mask))
            for (percent, fold), labeled in masks.items()
            for name, mask in zip(semi_names(args.annotations.stem, fold, percent), (labeled, ~labeled))
        ),
        overwrite=args.force,
    )

    names = [category['name'] for category in coco['categories']]
    every = class_counts(image_of, class_of, np.ones(number, dtype=bool), len(names))
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    for percent in percents:
        table = Table('class', *('images', 'objects'), *(f'labeled.{fold}@{percent_name(percent)}' for fold in folds))
        counts = [class_counts(image_of, class_of, masks[percent, fold], len(names)) for fold in folds]
        for row, name in enumerate(names):
            table.add_row(name, *map(str, every[row]), *('{} ({})'.format(*count[row]) for count in counts))
        table.add_section()
        totals = [(masks[percent, fold].sum(), count[:, 1].sum()) for fold, count in zip(folds, counts)]
        table.add_row('all', str(number), str(len(image_of)), *('{} ({})'.format(*total) for total in totals))
        console.print(table)
        for fold, count in zip(folds, counts):
            lost = lost_classes(names, every, count)
            if lost:
                name, _ = semi_names(args.annotations.stem, fold, percent)
                print(
                    f'warning: {name} has no object of {", ".join(lost)}: its {masks[percent, fold].sum()} images '
                    f'have no room for all {np.count_nonzero(every[:, 0])} classes',
                    file=sys.stderr,
                )
    print(f'wrote {2 * len(masks)} files to {folder}')
    return 0


def _semi_folder(annotations: Path) -> Path:
    """semi_anns in the set's root, as MMDetection's configs have it."""
    folder = annotations.absolute().parent
    return (folder.parent if folder.name == 'annotations' else folder) / 'semi_anns'


if __name__ == '__main__':
    sys.exit(run(main))
