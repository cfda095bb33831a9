"""Whole trainings of YOLOv8-n, each in its own process, loader included: ours, MMYOLO's and Ultralytics'.

The supervised trainings read the same JPEGs. They use mosaics, a random affine transform, colours, flips, AdamW and an
EMA, and no MixUp. Each runs as its user would start it.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mmyolo_bgpenalty.cli.benchmark.detectors import MMYOLO
from mmyolo_bgpenalty.cli.benchmark.scenes import Scene, Shape
from mmyolo_bgpenalty.utils.threads import THREADS, WAITING, number_of_cores

WARM_UP = 5  # iterations that do not count, because processes and caches start
DISTINCT = 24  # pictures; the others are links to them

CLOCK = """
default_scope = 'mmyolo'
custom_imports = dict(imports={imports})
custom_hooks = [
    *_base_.custom_hooks, dict(type='ClockHook', file='{work}/clock.json', iterations={iterations})
]
train_dataloader = dict(batch_size={batch}, num_workers={workers}, persistent_workers={workers} > 0)
"""
SETTINGS = """
model_size='n', img_scale=({size}, {size}), max_epochs={epochs}, burn_in=0, data_root='{root}/', classes={classes},
    image_folder='images/', labeled_ann_file='train.json', val_ann_file='train.json'"""
OURS = f"""
_base_ = __import__('mmyolo_bgpenalty').config('yolov8_bgpenalty_own.py', {SETTINGS})
{CLOCK}
pipeline = [*_base_.load, _base_.canvas, _base_.colour, _base_.flip, _base_.pack]
train_dataloader.update(dataset=dict(pipeline=pipeline))
"""
SEMI = f"""
_base_ = __import__('mmyolo_bgpenalty').config(
    'yolov8_semi_bgpenalty_own.py', unlabeled_ann_file='train.json', {SETTINGS})
{CLOCK}
"""
REDUCED = SEMI.replace('unlabeled_ann_file', 'reduce_jpegs=True, unlabeled_ann_file')
SHORT = f"""
_base_ = __import__('mmyolo_bgpenalty').config('yolov8_bgpenalty_own.py', {SETTINGS})
train_dataloader = dict(batch_size={{batch}})
"""
THEIRS = f"""
_base_ = '{{mmyolo}}/configs/{MMYOLO.removeprefix('mmyolo::')}'
{CLOCK}
number = len({{classes}})
model = dict(bbox_head=dict(head_module=dict(num_classes=number)), train_cfg=dict(assigner=dict(num_classes=number)))
files = dict(
    data_root='{{root}}/', ann_file='train.json', data_prefix=dict(img='images/'), metainfo=dict(classes={{classes}})
)
# Albu needs one more package, and the other two have no such transform.
pipeline = [one for one in _base_.train_pipeline if one['type'] != 'mmdet.Albu']
train_dataloader.update(dataset=dict(pipeline=pipeline, **files))
val_dataloader = test_dataloader = dict(dataset=files)
val_evaluator = test_evaluator = dict(ann_file='{{root}}/train.json')
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, batch_size_per_gpu={{batch}}))
"""
ULTRALYTICS = """
import json, time
from pathlib import Path
from ultralytics import YOLO

ends = []

def end_of_batch(trainer):
    ends.append(time.perf_counter())
    if len(ends) == {iterations}:
        Path('{work}/clock.json').write_text(json.dumps(dict(ends=ends, waits=None)))
        raise SystemExit

model = YOLO('yolov8n.yaml')
model.add_callback('on_train_batch_end', end_of_batch)
model.train(
    data='{root}/data.yaml', imgsz={size}, batch={batch}, nbs={batch}, workers={workers}, epochs=9, device='{device}',
    amp=False, optimizer='AdamW', lr0=1e-3, val=False, plots=False, save=False, close_mosaic=0, project='{work}',
)
"""
SCRIPTS = {'ours': OURS, 'MMYOLO': THEIRS, 'Ultralytics': ULTRALYTICS, 'semi': SEMI, 'reduced': REDUCED}


class Speed(NamedTuple):
    """Seconds of an iteration, and how much of it is waiting for the batch. None: not known."""

    iteration: float
    waiting: float | None


class Compared(NamedTuple):
    """Seconds of ours and of theirs in each round."""

    what: str
    shape: str
    seconds: list[tuple[float, float]]
    note: str = ''


def write_pictures(folder: Path, number: int, shape: Shape) -> None:
    """Write JPEGs of the size of ``shape`` (its batch is 1), and their boxes as COCO json and for Ultralytics.

    They are smooth with a little noise, as photographs are, and so take the usual time to decode.
    """
    for sub in ('images', 'labels'):
        (folder / sub).mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for i in range(number):
        scene = Scene(shape, 'cpu', smallest=16, seed=i % DISTINCT)
        lines = []
        for box, label in zip(scene.bboxes[0].int().tolist(), scene.labels[0].tolist(), strict=True):
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            one = dict(id=len(annotations), image_id=i, category_id=label, iscrowd=0)
            annotations.append(dict(one, bbox=[x, y, width, height], area=width * height))
            centre = (x + width / 2) / shape.width, (y + height / 2) / shape.height
            lines.append(' '.join(map(str, (label, *centre, width / shape.width, height / shape.height))))
        images.append(dict(id=i, file_name=f'{i:05}.jpg', width=shape.width, height=shape.height))
        (folder / f'labels/{i:05}.txt').write_text('\n'.join(lines))
        if i < DISTINCT:
            cv2.imwrite(str(folder / f'images/{i:05}.jpg'), _photograph(scene))
        else:
            os.link(folder / f'images/{i % DISTINCT:05}.jpg', folder / f'images/{i:05}.jpg')
    names = classes_of(shape)
    categories = [dict(id=i, name=name) for i, name in enumerate(names)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'train.json').write_text(json.dumps(content))
    lines = [f'  {i}: {name}' for i, name in enumerate(names)]
    (folder / 'data.yaml').write_text('\n'.join([f'path: {folder}', 'train: images', 'val: images', 'names:', *lines]))


def _photograph(scene: Scene) -> np.ndarray:
    shape, random = scene.shape, np.random.default_rng(0)
    coarse = random.integers(40, 160, (shape.height // 16 + 1, shape.width // 16 + 1, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (shape.width, shape.height), interpolation=cv2.INTER_CUBIC)
    for (x1, y1, x2, y2), label in zip(scene.bboxes[0].int().tolist(), scene.labels[0].tolist(), strict=True):
        picture[y1:y2, x1:x2] = 40 + 60 * (label % 3)
    return picture + random.integers(0, 8, picture.shape, dtype=np.uint8)  # at most 160 + 8


def classes_of(shape: Shape) -> tuple[str, ...]:
    return tuple(f'class{i}' for i in range(shape.classes))


def train(
    which: str,
    folder: Path,
    shape: Shape,
    workers: int,
    iterations: int,
    device: str = 'cpu',
    variables: Mapping[str, str] | None = None,
) -> Speed:
    """Train on the pictures of ``folder``. ``which``: a key of ``SCRIPTS``. ``shape``: of a batch.

    ``variables`` are for the environment of the training.

    Raises:
        RuntimeError: the training fails. The message has the end of its output.
    """
    with tempfile.TemporaryDirectory() as work:
        imports = ['mmyolo_bgpenalty'] * (which != 'MMYOLO') + ['mmyolo_bgpenalty.cli.benchmark.clock']
        values = dict(root=folder, work=work, size=shape.width, batch=shape.batch, classes=classes_of(shape))
        values.update(workers=workers, iterations=iterations + WARM_UP, epochs=9, imports=imports, mmyolo=mmyolo())
        values.update(device=device)
        script = Path(work, 'script.py')
        script.write_text(SCRIPTS[which].format(**values))
        program = ['-m', 'mmyolo_bgpenalty', 'train', str(script), '--work-dir', work]
        if which == 'MMYOLO':
            program = [f'{mmyolo()}/tools/train.py', *program[3:]]
        elif which == 'Ultralytics':
            program = [str(script)]
        environment = dict(_environment(device), YOLO_AUTOINSTALL='false', **(variables or {}))
        done = subprocess.run([sys.executable, *program], env=environment, capture_output=True, text=True, cwd=work)
        try:
            clock = json.loads(Path(work, 'clock.json').read_text())
        except FileNotFoundError:
            raise RuntimeError(f'{which}: no training: {(done.stdout + done.stderr)[-3000:]}') from None
    seconds = (clock['ends'][-1] - clock['ends'][WARM_UP - 1]) / iterations
    return Speed(seconds, clock['waits'] and sum(clock['waits'][WARM_UP:]) / iterations)


def _environment(device: str) -> dict[str, str]:
    """That of a user without settings of threads. This command has set how its own threads wait."""
    found = {name: value for name, value in os.environ.items() if name not in (*THREADS, *WAITING)}
    return dict(found, CUDA_VISIBLE_DEVICES='') if device == 'cpu' else found


def mmyolo() -> Path:
    """The folder with MMYOLO's configs and tools."""
    spec = find_spec('mmyolo')
    return Path(str(spec and spec.origin)).parent / '.mim'


def interleaved(tasks: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each task in each round. The order within a round is random."""
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name in order.sample([*tasks], len(tasks)):
            seconds[name].append(tasks[name]())
    return seconds


def against_others(device: str, quick: bool, rounds: int) -> Iterator[Compared]:
    """Our supervised training, compared with MMYOLO's and Ultralytics'."""
    shape, iterations = (Shape(2, 64, 64, 3, 3), 2) if quick else (Shape(8, 640, 640, 3, 8), 20)
    names = ['ours', 'MMYOLO'] + ['Ultralytics'] * (find_spec('ultralytics') is not None)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder, 'set')
        write_pictures(pictures, shape.batch * (iterations + WARM_UP), Shape(1, 480, 640, 3, 8))
        tasks = {name: _iteration(name, pictures, shape, 2, iterations, device) for name in names}
        seconds = interleaved(tasks, rounds)
    ours = seconds.pop('ours')
    for name, theirs in seconds.items():
        own, other = (shape.batch / float(np.median(side)) for side in (ours, theirs))
        note = f'{own:.2f} pictures a second, {other:.2f} with {name}'
        yield Compared(f'to {name}', f'{shape}, 2 workers', [*zip(ours, theirs, strict=True)], note)


def _iteration(*arguments) -> Callable[[], float]:
    return lambda: train(*arguments).iteration


def beside_others(device: str, quick: bool, rounds: int) -> Iterator[Compared]:
    """A training that chooses its threads itself, compared with settings of the user, alone and on a busy machine."""
    shape, iterations = (Shape(2, 64, 64, 3, 3), 2) if quick else (Shape(8, 320, 320, 3, 3), 20)
    each = str(number_of_cores())
    settings = {
        'ours': {},
        'one thread': dict(OMP_NUM_THREADS='1'),
        'a thread for each core': dict(OMP_NUM_THREADS=each),
        'the settings of torch': dict(OMP_NUM_THREADS=each, GOMP_SPINCOUNT='300000'),
    }
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder, 'set')
        write_pictures(pictures, shape.batch * (iterations + WARM_UP), Shape(1, 320, 320, 3, 3))
        fixed = 'ours', pictures, shape, 0, iterations, device
        tasks = {name: _iteration(*fixed, variables) for name, variables in settings.items()}
        for number, where in ((0, 'alone'), (3, 'beside 3 programs')):
            with other_programs(number):
                seconds = interleaved(tasks, rounds)
            ours = seconds.pop('ours')
            for name, theirs in seconds.items():
                yield Compared(f'{where}, to {name}', str(shape), [*zip(ours, theirs, strict=True)])


@contextmanager
def other_programs(number: int) -> Iterator[None]:
    """As many processes that compute all the time."""
    code = f'import os\nwhile os.getppid() == {os.getpid()}: pass'  # it also ends if this process is killed
    programs = [subprocess.Popen([sys.executable, '-c', code]) for _ in range(number)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def waiting_for_data(device: str, quick: bool, rounds: int) -> Iterator[Compared]:
    """How long an iteration of the shipped recipe waits for its batch, and how long it takes in all."""
    shape, iterations = (Shape(2, 64, 64, 3, 3), 2) if quick else (Shape(8, 640, 640, 3, 8), 12)
    for height, width in ((48, 64),) if quick else ((1224, 1632), (3000, 4000)):
        with tempfile.TemporaryDirectory() as folder:
            number = shape.batch * (iterations + WARM_UP)
            write_pictures(Path(folder, 'set'), number, Shape(1, height, width, 3, 8))
            for which, workers in product(('semi', 'reduced'), (0,) if quick else (0, 1, 2, 4)):
                runs = [train(which, Path(folder, 'set'), shape, workers, iterations, device) for _ in range(rounds)]
                seconds = [(run.waiting or 0.0, run.iteration) for run in runs]
                what = f'{workers} workers, JPEGs of {height * width / 1e6:.0f} megapixels'
                what += ', reduce_jpegs=True' * (which == 'reduced')
                yield Compared(f'wait, to the iteration: {what}', str(shape), seconds)


def short_runs(device: str, quick: bool, rounds: int) -> Iterator[Compared]:
    """`ablate` with two runs of one epoch, compared with `train` and `test` in a shell for each run."""
    shape, iterations = (Shape(2, 64, 64, 3, 3), 2) if quick else (Shape(8, 320, 320, 3, 3), 32)
    with tempfile.TemporaryDirectory() as folder:
        pictures, script, variants = (Path(folder, name) for name in ('set', 'script.py', 'variants.py'))
        write_pictures(pictures, shape.batch * iterations, Shape(1, 320, 320, 3, 3))
        values = dict(root=pictures, size=shape.width, batch=shape.batch, classes=classes_of(shape), epochs=1)
        script.write_text(SHORT.format(**values))
        variants.write_text('variants = {"one": {}, "other": {"lambda_bg": 0.0}}\n')

        def ablate(work: str) -> None:
            _call(['ablate', str(script), '--variants', str(variants), '--seeds', '0', '--work-dir', work], device)

        def shell(work: str) -> None:
            for _ in range(2):
                _call(['train', str(script), '--work-dir', work], device)
                _call(['test', str(script), f'{work}/epoch_1.pth', '--work-dir', work], device)

        seconds = interleaved(dict(ablate=_seconds_of(ablate), shell=_seconds_of(shell)), rounds)
    yield Compared('two runs, to `train` and `test`', str(shape), [*zip(seconds['ablate'], seconds['shell'])])


def _seconds_of(task: Callable[[str], None]) -> Callable[[], float]:
    def timed() -> float:
        with tempfile.TemporaryDirectory() as work:
            start = time.perf_counter()
            task(work)
            return time.perf_counter() - start

    return timed


def _call(arguments: Sequence[str], device: str, program: Sequence[str] = ('-m', 'mmyolo_bgpenalty')) -> None:
    command = [sys.executable, *program, *arguments]
    done = subprocess.run(command, env=_environment(device), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'{arguments[0]}: {(done.stdout + done.stderr)[-3000:]}')


def starting(device: str, quick: bool, rounds: int) -> Iterator[Compared]:
    """The start of Python with this package, compared with all modules of MMYOLO, which any training needs."""
    codes = dict(ours='import mmyolo_bgpenalty', theirs='import mmyolo.utils as u; u.register_all_modules()')

    def start(code: str) -> Callable[[], float]:
        return _seconds_of(lambda _: _call([code], device, ['-W', 'ignore', '-c']))

    seconds = interleaved({side: start(code) for side, code in codes.items()}, rounds)
    yield Compared('to the modules of MMYOLO', 'one process', [*zip(seconds['ours'], seconds['theirs'])])
