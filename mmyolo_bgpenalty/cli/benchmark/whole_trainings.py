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
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mmyolo_bgpenalty.cli.benchmark.detectors import MMYOLO
from mmyolo_bgpenalty.cli.benchmark.scenes import Scene, Shape

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
model_size='n', img_scale=({size}, {size}), max_epochs=9, burn_in=0, data_root='{root}/', classes={classes},
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
SCRIPTS = {'ours': OURS, 'MMYOLO': THEIRS, 'Ultralytics': ULTRALYTICS, 'semi': SEMI}


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


def train(which: str, folder: Path, shape: Shape, workers: int, iterations: int, device: str = 'cpu') -> Speed:
    """Train on the pictures of ``folder``. ``which``: a key of ``SCRIPTS``. ``shape``: of a batch.

    Raises:
        RuntimeError: the training fails. The message has the end of its output.
    """
    with tempfile.TemporaryDirectory() as work:
        imports = ['mmyolo_bgpenalty'] * (which != 'MMYOLO') + ['mmyolo_bgpenalty.cli.benchmark.clock']
        values = dict(root=folder, work=work, size=shape.width, batch=shape.batch, classes=classes_of(shape))
        values.update(workers=workers, iterations=iterations + WARM_UP, imports=imports, mmyolo=mmyolo(), device=device)
        script = Path(work, 'script.py')
        script.write_text(SCRIPTS[which].format(**values))
        program = ['-m', 'mmyolo_bgpenalty', 'train', str(script), '--work-dir', work]
        if which == 'MMYOLO':
            program = [f'{mmyolo()}/tools/train.py', *program[3:]]
        elif which == 'Ultralytics':
            program = [str(script)]
        environment = {**os.environ, 'YOLO_AUTOINSTALL': 'false'}
        if device == 'cpu':
            environment['CUDA_VISIBLE_DEVICES'] = ''
        done = subprocess.run([sys.executable, *program], env=environment, capture_output=True, text=True, cwd=work)
        try:
            clock = json.loads(Path(work, 'clock.json').read_text())
        except FileNotFoundError:
            raise RuntimeError(f'{which}: no training: {(done.stdout + done.stderr)[-3000:]}') from None
    seconds = (clock['ends'][-1] - clock['ends'][WARM_UP - 1]) / iterations
    return Speed(seconds, clock['waits'] and sum(clock['waits'][WARM_UP:]) / iterations)


def mmyolo() -> Path:
    """The folder with MMYOLO's configs and tools."""
    spec = find_spec('mmyolo')
    return Path(str(spec and spec.origin)).parent / '.mim'


def against_others(device: str, quick: bool, rounds: int) -> Iterator[Compared]:
    """Our supervised training, compared with MMYOLO's and Ultralytics'. The order within a round is random."""
    shape, iterations = (Shape(2, 64, 64, 3, 3), 2) if quick else (Shape(8, 640, 640, 3, 8), 20)
    names = ['ours', 'MMYOLO'] + ['Ultralytics'] * (find_spec('ultralytics') is not None)
    order = random.Random(0)
    speeds: dict[str, list[Speed]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder, 'set'), shape.batch * (iterations + WARM_UP), Shape(1, 480, 640, 3, 8))
        for _ in range(rounds):
            for name in order.sample(names, len(names)):
                speeds[name].append(train(name, Path(folder, 'set'), shape, 2, iterations, device))
    ours = [speed.iteration for speed in speeds.pop('ours')]
    for name, theirs in speeds.items():
        seconds = [(own, speed.iteration) for own, speed in zip(ours, theirs, strict=True)]
        own, other = (shape.batch / float(np.median(side)) for side in zip(*seconds, strict=True))
        note = f'{own:.2f} pictures a second, {other:.2f} with {name}'
        yield Compared(f'to {name}', f'{shape}, 2 workers', seconds, note)


def waiting_for_data(device: str, quick: bool, rounds: int) -> Iterator[Compared]:
    """How long an iteration of the shipped recipe waits for its batch, and how long it takes in all."""
    shape, iterations = (Shape(2, 64, 64, 3, 3), 2) if quick else (Shape(8, 640, 640, 3, 8), 12)
    for height, width in ((48, 64),) if quick else ((1224, 1632), (3000, 4000)):
        with tempfile.TemporaryDirectory() as folder:
            number = shape.batch * (iterations + WARM_UP)
            write_pictures(Path(folder, 'set'), number, Shape(1, height, width, 3, 8))
            for workers in (0,) if quick else (0, 1, 2, 4):
                runs = [train('semi', Path(folder, 'set'), shape, workers, iterations, device) for _ in range(rounds)]
                seconds = [(run.waiting or 0.0, run.iteration) for run in runs]
                pictures = f'JPEGs of {height * width / 1e6:.0f} megapixels'
                yield Compared(f'{workers} workers, {pictures}', str(shape), seconds)


def starting(device: str, quick: bool, rounds: int) -> Iterator[Compared]:
    """The start of Python with this package, compared with all modules of MMYOLO, which any training needs."""
    seconds = []
    for _ in range(rounds):
        sides = []
        for code in ('import mmyolo_bgpenalty', 'import mmyolo.utils as u; u.register_all_modules()'):
            start = time.perf_counter()
            subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)
            sides.append(time.perf_counter() - start)
        seconds.append((sides[0], sides[1]))
    yield Compared('to the modules of MMYOLO', 'one process', seconds)
