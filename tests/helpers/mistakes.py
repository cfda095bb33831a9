"""Random single mistakes in a config, and how the commands end with them.

``python -m tests.helpers.mistakes 200`` tries 200 and prints how each ends.
"""

import contextlib
import copy
import io
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from mmengine.config import Config

from mmyolo_bgpenalty.cli.check import main as check
from mmyolo_bgpenalty.cli.train import main as train
from mmyolo_bgpenalty.config_check.overrides import LIVE_NAMES
from tests.helpers.tiny import load, make_set

KINDS = ('misspelt', 'wrong type', 'out of range', 'contradictory')
CONTRADICTIONS = {
    'model.detector.bbox_head.head_module.num_classes': 7,
    'model.detector.train_cfg.assigner.num_classes': 80,
    'model.detector.neck.widen_factor': 0.5,
    'model.detector.backbone.deepen_factor': 0.67,
    'train_dataloader.batch_sampler.source_ratio': [3, 4],
    'train_dataloader.dataset.labeled.metainfo.classes': ['disc', 'square', 'bar'],
    'train_dataloader.num_workers': -1,
    'val_evaluator.ann_file': 'none.json',
    'default_hooks.checkpoint.save_best': 'coco/nothing',
    'train_cfg.type': 'IterBasedTrainLoop',
}


FREE = ('default_hooks', 'custom_keys')  # their keys are names that a user may choose


class Mistake(NamedTuple):
    kind: str
    where: str
    value: Any

    def __str__(self) -> str:
        return f'{self.kind}: {self.where} = {self.value!r}'


def tiny_config(folder: Path) -> Config:
    """Semi-supervised, for two epochs of the tiny set."""
    lengths = dict(burn_in=1, lambda_bg_warmup=1, train_cfg__max_epochs=2, default_hooks__pictures__interval=-1)
    cfg = load('yolov8_semi_bgpenalty.py', make_set(folder / 'set'), folder / 'work', **lengths)
    cfg.pop('work_dir')
    cfg.visualizer.pop('name')
    return Config({name: cfg[name] for name in cfg if name in LIVE_NAMES})


def mistakes(cfg: Config, number: int, seed: int = 0) -> Iterator[tuple[Mistake, dict]]:
    """Copies of a config with one mistake each. The kinds come in turn."""
    rng, plain = random.Random(seed), cfg.to_dict()
    entries = [entry for name in SECTIONS if name in plain for entry in _entries(plain[name], name)]
    for turn in range(number):
        kind = KINDS[turn % len(KINDS)]
        if kind == 'contradictory':
            path, value = rng.choice(list(CONTRADICTIONS.items()))
            yield Mistake(kind, path, value), changed(plain, path, value)
            continue
        fitting = [(path, value) for path, value in entries if _can(kind, path, value)]
        path, value = rng.choice(fitting)
        if kind != 'misspelt':
            wrong = _wrong(rng, kind, value)
            yield Mistake(kind, path, wrong), changed(plain, path, wrong)
        elif path.endswith('.type') and rng.random() < 0.5:
            wrong = _misspelt(rng, value)
            yield Mistake(kind, path, wrong), changed(plain, path, wrong)
        else:
            parent, _, key = path.rpartition('.')
            where = f'{parent}.{_misspelt(rng, key)}'
            yield Mistake(kind, where, value), changed(changed(plain, path, None, remove=True), where, value)


SECTIONS = ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator', 'train_cfg', 'optim_wrapper')
SECTIONS += ('param_scheduler', 'default_hooks', 'visualizer', 'env_cfg', 'randomness')


def _entries(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        here = f'{path}.{key}'
        yield here, value
        if isinstance(value, (dict, list)):
            yield from _entries(value, here)


def _can(kind: str, path: str, value: Any) -> bool:
    if kind == 'misspelt':
        key = path.rpartition('.')[2]
        return len(key) > 3 and not key.isdigit() and (key != 'type' or (isinstance(value, str) and len(value) > 2))
    if kind == 'out of range':
        return type(value) in (int, float)
    return value is not None


def _misspelt(rng: random.Random, word: str) -> str:
    place = rng.randrange(1, len(word) - 1)
    return word[:place] + word[place + 1 :]


def _wrong(rng: random.Random, kind: str, value: Any) -> Any:
    if kind == 'out of range':
        return rng.choice([-abs(value) - 1, float('-inf'), -0.5])
    if isinstance(value, (bool, int, float)):
        return rng.choice(['abc', [1, 2], dict(a=1)])
    return rng.choice([7, [7.5], dict(a='b')] if isinstance(value, str) else [7, 'abc'])


def changed(cfg: dict, path: str, value: Any, remove: bool = False) -> dict:
    cfg = copy.deepcopy(cfg)
    *parents, last = path.split('.')
    node: Any = cfg
    for key in parents:
        node = node[int(key) if isinstance(node, list) else key]
    key = int(last) if isinstance(node, (list, tuple)) else last
    if remove:
        del node[key]
    else:
        node[key] = value
    return cfg


def ending(cfg: dict, folder: Path) -> tuple[str, str]:
    """How ``check`` and then ``train`` end, and the last lines. 'a line' or 'trains', or a fault of the commands."""
    file = folder / 'mine.py'
    text = ''.join(f'{name} = {value!r}\n' for name, value in cfg.items())
    file.write_text(re.sub(r'(?<=[ \[(])-inf\b', "float('-inf')", text))
    checked, said = _call(check, str(file))
    options = [str(file), '--work-dir', str(folder / 'run'), '--cfg-options', f'visualizer.name={folder}']
    if not isinstance(checked, int):
        return 'check: traceback', said
    if checked:
        return 'a line', said
    trained, log = _call(train, *options)
    if trained == 0:
        return 'trains', log
    return ('train: a line, but no error of check' if trained == 2 else 'train: traceback'), log


def judged(mistake: Mistake, end: str) -> str:
    """``end``, but a training with a misspelt entry is a fault: nothing reads the entry."""
    ignored = mistake.kind == 'misspelt' and mistake.where.split('.')[-2] not in FREE
    return 'trains, and nothing reads the entry' if ignored and end == 'trains' else end


def _call(command, *arguments: str) -> tuple[int | str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: int | str = command(list(arguments))
        except (Exception, SystemExit) as error:
            code = f'{type(error).__name__}: {error}'
    shown = f'{out.getvalue()[-600:]}\n{err.getvalue()[-600:]}'
    return code, shown if isinstance(code, int) else f'{code}\n{shown}'


def main(number: int, seed: int = 0) -> None:
    ends: Counter = Counter()
    with TemporaryDirectory() as place:
        for turn, (mistake, cfg) in enumerate(mistakes(tiny_config(Path(place)), number, seed)):
            folder = Path(place, str(turn))
            folder.mkdir()
            end, said = ending(cfg, folder)
            end = judged(mistake, end)
            ends[end] += 1
            print(f'{turn} {mistake}: {end}', flush=True)
            if end != 'trains':
                print('    ' + said.strip().replace('\n', '\n    '), flush=True)
    print(dict(ends))


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
