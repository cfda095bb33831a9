"""The commands: ``python -m mmyolo_bgpenalty COMMAND``."""

import sys
from importlib import import_module

from mmyolo_bgpenalty.utils.arguments import similar

# Command -> its module in mmyolo_bgpenalty.cli, and what it does.
COMMANDS = {
    'init': ('data.init', 'make a project: a config and annotations from labeled pictures in any common format'),
    'check': ('check', 'look for mistakes in a config and its files; --step: also in its first batch'),
    'browse': ('browse', 'draw the first training batches, as the network gets them'),
    'split': ('data.split', 'split a COCO set into labeled and unlabeled parts'),
    'make-solar': ('data.make_solar', 'make the solar set with any size and seed'),
    'train': ('train', 'train a detector'),
    'test': ('test', 'evaluate a checkpoint'),
    'predict': ('predict', 'draw and label the pictures of a folder, or a video'),
    'report': ('report.report', 'show false alarms and misses of one or more trainings in a browser'),
    'ablate': ('ablation.ablate', 'train with and without good parts, unlabeled pictures and the penalty, and compare'),
    'export': ('export', 'export the teacher of a checkpoint as a plain detector, also as ONNX'),
    'benchmark': ('benchmark.benchmark', 'compare time and memory with MMYOLO, MMDetection and Ultralytics'),
}
PROGRAM = 'python -m mmyolo_bgpenalty'


def usage() -> str:
    lines = [f'  {name:<12}{what}' for name, (_, what) in COMMANDS.items()]
    return '\n'.join(
        [f'usage: {PROGRAM} COMMAND [arguments]', '', *lines, '', f'{PROGRAM} COMMAND --help: its arguments']
    )


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ('-h', '--help'):
        print(usage())
        return 0 if argv else 2
    name, *arguments = argv
    if name not in COMMANDS:
        meant = similar(name, COMMANDS) or ', '.join(COMMANDS)
        print(f'{PROGRAM}: there is no command {name!r}; did you mean {meant}?', file=sys.stderr)
        return 2
    sys.argv[0] = f'{PROGRAM} {name}'  # the usage and the errors of the command show it
    return import_module(f'mmyolo_bgpenalty.cli.{COMMANDS[name][0]}').main(arguments)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
