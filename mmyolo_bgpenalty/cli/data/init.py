"""Make a project from labeled pictures: annotations in COCO format, and a config to train with.

    python -m mmyolo_bgpenalty init my_project --labeled pictures/ --unlabeled more_pictures/ --weights yolov8s.pt

Labels are a COCO json, YOLO txt with a data.yaml, or Pascal VOC xml files: give the file, or the folder that has them.
The pictures stay where they are. No file is overwritten.
"""

import argparse
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmyolo_bgpenalty.cli.data.leaf_config import leaf_config, median_side
from mmyolo_bgpenalty.cli.data.plan import BATCH, ITERATIONS, Plan, make_plan
from mmyolo_bgpenalty.cli.data.project_sets import ProjectSets, as_coco, common_folder, read_sets
from mmyolo_bgpenalty.cli.data.training_time import training_time
from mmyolo_bgpenalty.cli.run import InputCheck, command, read_config
from mmyolo_bgpenalty.config_check.settings.length import SHORTEST_RUN
from mmyolo_bgpenalty.config_check.settings.plan import run_plan
from mmyolo_bgpenalty.engine.checkpoints.start_weights import model_size, read_weights
from mmyolo_bgpenalty.utils.arguments import Parser, is_meant, one_of, whole_number
from mmyolo_bgpenalty.utils.files import printable, write_together
from mmyolo_bgpenalty.utils.label_formats.labeled_set import Box, Picture
from mmyolo_bgpenalty.utils.shipped_configs import MODEL_SIZES

NAMED = 3  # files that a line of the output names
CLASSES_IN_TABLE = 20


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument('project', type=Path, help='folder to make; its name is the name of the config, too')
    parser.add_argument('--labeled', type=Path, required=True, metavar='PATH', help='labeled pictures')
    parser.add_argument('--val', type=Path, metavar='PATH', help='labeled pictures to validate on (default: see below)')
    more: dict[str, Any] = dict(type=Path, nargs='+', action='extend', default=[], metavar='PATH')
    parser.add_argument('--unlabeled', help='folders of pictures without labels', **more)
    parser.add_argument('--empty', help='folders of pictures that show no object', **more)
    split = 'keep the labels of this share of the training pictures; the others become unlabeled'
    parser.add_argument('--split', type=float, metavar='PERCENT', help=split)
    parser.add_argument('--model', help='size of YOLOv8: n, s, m, l or x (default: of the weights, or s)')
    size = 'input size: one number, or width and height; multiples of 32 (default 640)'
    parser.add_argument('--size', type=int, nargs='+', default=[640], metavar='PIXELS', help=size)
    parser.add_argument('--weights', type=Path, metavar='FILE', help='weights to start from, such as yolov8s.pt')
    parser.add_argument('--batch', type=int, default=BATCH, help=f'pictures in a batch (default {BATCH})')
    parser.add_argument('--iterations', type=int, help=f'length of training (default {ITERATIONS}; large sets: more)')
    parser.epilog = 'Without --val: the validation part that the labels name, or 20 % of the labeled pictures.'
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with InputCheck():
        scale = _checked(args)
        sets = read_sets(args.labeled, args.val, args.unlabeled, args.empty, args.split)
        half_empty = sets.empty and not sets.unlabeled  # `batch_size` of their config counts labeled pictures only
        batch = args.batch // 2 if half_empty else args.batch
        plan = make_plan(len(sets.train), len(sets.unlabeled), batch, args.iterations)
        show_sets(sets)
        config = write_project(args, sets, plan, scale)
    show_next(args, sets, plan, config)


def _checked(args: argparse.Namespace) -> tuple[int, int]:
    """Check the arguments. Returns width and height of the input."""
    if len(args.size) > 2 or any(side < 32 or side % 32 for side in args.size):
        raise ValueError(f'Expected --size to be one or two multiples of 32, but got {" ".join(map(str, args.size))}')
    whole_number('--batch', args.batch)
    if args.iterations is not None:
        whole_number('--iterations', args.iterations)
    if args.split is not None and args.unlabeled:
        raise ValueError('Expected either --split or --unlabeled, but got both: --split makes unlabeled pictures')
    if (args.unlabeled or args.empty or args.split) and args.batch % 2:
        raise ValueError(f'Expected --batch to be even, because half of a batch is labeled, but got {args.batch}')
    if args.weights and not args.weights.is_file():
        raise ValueError(f'{args.weights}: no such file{is_meant(args.weights)}')
    args.model = _model_of(args.model, args.weights)
    if args.project.exists() and not args.project.is_dir():
        raise ValueError(f'Expected the project to be a folder, but {args.project} is a file')
    if '"' in str(args.project.absolute()) or '{{' in str(args.project.absolute()):
        raise ValueError(f'Expected a path without " and {{{{ of the project, but got {args.project.absolute()}')
    for path in _files_of(args.project):
        if path.exists():
            raise ValueError(f'{path}: exists already, and nothing is overwritten. Choose another folder, or delete it')
    return args.size[0], args.size[-1]


def _model_of(model: str | None, weights: Path | None) -> str:
    """The size of the model: as stated, as the weights have it, or 's'."""
    if model:
        one_of('--model', model, MODEL_SIZES[:5])
    size = model_size(read_weights(str(weights))[1]) if weights else None
    if model and size and model != size:
        raise ValueError(f'Expected --model {size}, because {weights} is of YOLOv8-{size}, but got --model {model}')
    return model or (size if size in MODEL_SIZES[:5] else 's')


def _files_of(project: Path) -> list[Path]:
    """All files that a project can have. The first is its config."""
    names = ('train.json', 'val.json', 'unlabeled.json', 'empty.txt')
    return [project / f'{project.absolute().name}.py', *(project / 'annotations' / name for name in names)]


def write_project(args: argparse.Namespace, sets: ProjectSets, plan: Plan, scale: tuple[int, int]) -> Path:
    """Write all files of a project or none, and return the path of its config."""
    config, train, val, unlabeled, empty = _files_of(args.project)
    folder = common_folder(sets)
    weights = str(args.weights.absolute()) if args.weights else None
    semi, empties, side = bool(sets.unlabeled), bool(sets.empty), median_side(sets.train, scale)
    content: dict[Path, str | bytes] = {
        config: leaf_config(sets.classes, args.model, scale, folder, weights, plan, semi, empties, side)
    }
    for path, boxes in ((train, sets.train), (val, sets.val), (unlabeled, sets.unlabeled)):
        if boxes:
            content[path] = json.dumps(as_coco(boxes, sets.classes, folder))
    if sets.empty:
        names = (os.path.relpath(picture.path, folder) for picture in sets.empty)
        content[empty] = os.fsencode(''.join(f'{name}\n' for name in names))  # a name need not be valid UTF-8
    made = [place for place in (empty.parent, args.project, *args.project.parents) if not place.exists()]
    try:
        write_together(content.items())
    except BaseException:  # also Ctrl-C
        for path, text in content.items():
            written = text if isinstance(text, bytes) else text.encode()
            if path.is_file() and path.read_bytes() == written:  # not the file of another process
                path.unlink()
        for place in made:
            if place.exists() and not any(place.iterdir()):
                place.rmdir()
        raise
    return config


def show_sets(sets: ProjectSets) -> None:
    print(printable(f'Labels: {sets.source}'))
    empty: dict[Picture, list[Box]] = {picture: [] for picture in sets.empty}
    parts = {'train': sets.train, 'val': sets.val, 'unlabeled': sets.unlabeled, 'empty': empty}
    parts = {name: boxes for name, boxes in parts.items() if boxes}
    counts = [Counter(box.name for boxes in part.values() for box in boxes) for part in parts.values()]
    table = Table('', *parts)
    for column in table.columns[1:]:
        column.justify = 'right'
    table.add_row('pictures', *(str(len(part)) for part in parts.values()))
    bare = [sum(not boxes for boxes in part.values()) for part in parts.values()]
    table.add_row('without a box', *(str(number) if count else '' for number, count in zip(bare, counts)))
    table.add_section()
    for name in sets.classes[:CLASSES_IN_TABLE]:
        table.add_row(f'boxes of {printable(name)}', *(str(count[name]) if count else '' for count in counts))
    if len(sets.classes) > CLASSES_IN_TABLE:
        rest = sets.classes[CLASSES_IN_TABLE:]
        sums = [sum(count[name] for name in rest) for count in counts]
        table.add_row(f'boxes of {len(rest)} more classes', *(str(number) if number else '' for number in sums))
    Console(width=None if sys.stdout.isatty() else 10_000, highlight=False, markup=False, emoji=False).print(table)
    for name, what, files in sets.notes:
        listed = ', '.join(list(dict.fromkeys(files))[:NAMED]) + (', …' if len(set(files)) > NAMED else '')
        print(printable(f'{name}: {what}: {len(files)} ({listed})'))
    for remark in sets.remarks:
        print(printable(f'{remark}.'))


def show_next(args: argparse.Namespace, sets: ProjectSets, plan: Plan, config: Path) -> None:
    print(f'\nWrote {config}')
    if not args.weights:
        print(
            'It names no weights to start from, so training will need many more pictures and iterations. Download '
            f'yolov8{args.model}.pt of Ultralytics, or yolov8_{args.model}_….pth from the model zoo of MMYOLO, and '
            'write its path as `load_from` into the config.'
        )
    cfg = read_config(str(config), {})
    time = training_time(cfg, plan, len(sets.val), bool(sets.unlabeled), bool(sets.empty))
    epochs = f'{plan.epochs} epoch{"s" if plan.epochs > 1 else ""}'
    print(f'Plan: {run_plan(cfg)}, in {epochs}; {time}.')
    if plan.iterations < SHORTEST_RUN:
        print(f'{plan.iterations} iterations are enough for a try, but a good detector needs {SHORTEST_RUN:,} or more.')
    name, program = shlex.quote(str(config)), 'python -m mmyolo_bgpenalty'
    print('\nNext:')
    print(f'    {program} check {name} --step')
    print(f'    {program} train {name}')
    print(f'    {program} report {shlex.quote(f"work_dirs/{config.stem}")}')
