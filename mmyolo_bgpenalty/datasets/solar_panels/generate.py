"""Deterministic infrared-like images of photovoltaic modules, with boxes of their defects, in COCO format.

Every picture is a function of seed, index, size and the constants of ``render``, so a set
is the same bytes for any number of workers.
"""

import contextlib
import json
import os
import shutil
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmyolo_bgpenalty.datasets.solar_panels import render as infrared
from mmyolo_bgpenalty.datasets.solar_panels.render import CLASSES, MIN_SIDE, VERSION, render
from mmyolo_bgpenalty.utils.coco_split import part, semi_names
from mmyolo_bgpenalty.utils.files import read_json

try:
    import fcntl
except ImportError:  # not on Windows; the rename alone then decides who was first
    fcntl = None  # type: ignore[assignment]  # looked at before it is used

VAL_OFFSET = 1_000_000  # index of the first validation image: it must not move with num_train


def _coco(split, boxes, size, seed):
    """COCO dict of the pictures of one split, ids from 1; `boxes` is the list render gave for each."""
    images: List[dict] = []
    annotations: List[dict] = []
    for number, found in enumerate(boxes):
        name = f'{split}_{number:05d}.png'
        images.append({'id': number + 1, 'file_name': name, 'width': size[0], 'height': size[1]})
        for label, *box in found:
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': number + 1,
                    'category_id': label + 1,
                    'bbox': box,
                    'area': box[2] * box[3],
                    'iscrowd': 0,
                    'segmentation': [],
                }
            )
    return {
        'info': {
            'description': f'synthetic infrared images of photovoltaic modules, {split}',
            'seed': seed,
            'version': VERSION,
        },
        'images': images,
        'annotations': annotations,
        'categories': [{'id': n + 1, 'name': name} for n, name in enumerate(CLASSES)],
    }


def _choose(boxes, count, seed):
    """Image ids of the labeled part: the first of 500 draws with 3 boxes of each class, else the best."""
    rng = np.random.default_rng([seed, 0, 1])
    tally = np.array([[sum(b[0] == c for b in found) for c in range(len(CLASSES))] for found in boxes])
    best = (-1, np.zeros(0, int))
    for _ in range(500):
        draw = rng.permutation(len(boxes))[:count]
        score = int(np.minimum(tally[draw].sum(0), 3).sum())
        if score > best[0]:
            best = score, draw
        if score == 3 * len(CLASSES):
            break
    return {int(i) + 1 for i in best[1]}


def _stamp(seed, num_train, num_val, percent, size):
    knobs = {k: v for k, v in vars(infrared).items() if k.isupper()}
    stamp = {
        'seed': seed,
        'num_train': num_train,
        'num_val': num_val,
        'percent': percent,
        'size': size,
        'generator': knobs,
    }
    return json.loads(json.dumps(stamp))


def _present(root, stamp):
    """True: the set is there. False: nothing is. ValueError: something else is."""
    if not os.path.lexists(root):
        return False
    if not root.is_dir():
        raise ValueError(f'{root} is a file; give the path of a new or empty folder')
    held = sorted(os.listdir(root))
    if not held:
        return False
    advice = 'give another folder, or move this one away yourself (nothing in it was touched)'
    try:
        old = read_json(root / 'solar.json')
        flat_old, flat_new = ({**s, **s['generator']} for s in (old, stamp))
    except (ValueError, TypeError, KeyError):
        some = ', '.join(held[:5]) + (f' and {len(held) - 5} more' if len(held) > 5 else '')
        raise ValueError(f'{root} is not a generated set: it holds {some}; {advice}') from None
    differ = [k for k in flat_new if k != 'generator' and flat_old.get(k) != flat_new[k]]
    if differ:
        what = ', '.join(f'{k}={flat_old.get(k)!r} (asked for {flat_new[k]!r})' for k in differ)
        raise ValueError(f'{root} holds a set with {what}; {advice}')
    names = {f'images/train_{n:05d}.png' for n in range(stamp['num_train'])}
    names |= {f'images/val_{n:05d}.png' for n in range(stamp['num_val'])}
    names |= {'annotations/train.json', 'annotations/val.json'}
    names |= {f'semi_anns/{n}' for n in semi_names('train', 1, stamp['percent'])}
    missing = sorted(n for n in names if not (root / n).is_file())
    if missing:
        raise ValueError(f'{root} lacks {len(missing)} of {len(names)} files, e.g. {missing[0]}; {advice}')
    return True


def _whole(name, value, low):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f'{name} is {value!r}; expected a whole number >= {low}')
    return int(value)


@contextlib.contextmanager
def _alone(folder):
    """Waits for other generators below `folder`: their set is then found instead of made again."""
    handle = None
    if fcntl:
        with contextlib.suppress(OSError):  # a file system without locks: the rename still decides
            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


@contextlib.contextmanager
def _progress(total, root, show):
    """Yields a function to call after each picture: a bar on a terminal, else a line before and after."""
    console = Console(stderr=True)
    if show and console.is_terminal:
        columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(f'Rendering {root.name}', total=total)
            yield lambda: bar.advance(task)
        return
    if show:
        print(f'Rendering {total} images for {root}', file=sys.stderr, flush=True)
    yield lambda: None
    if show:
        print(f'Rendered {total} images', file=sys.stderr, flush=True)


def _write(folder, jobs, workers, seed, size, tick):
    """Renders (file name, index) jobs to PNG; the boxes of each, in the order of the jobs."""

    def one(job):
        image, boxes = render(job[1], seed, size)
        ok, data = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not ok:
            raise OSError(f'could not encode {job[0]}')
        (folder / job[0]).write_bytes(data.tobytes())
        return boxes

    out = []
    # threads: numpy and cv2 release the lock, and a daemonic process may not have children
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, job) for job in jobs]
        try:
            for future in futures:
                out.append(future.result())
                tick()
        finally:
            for future in futures:
                future.cancel()
    return out


def generate(
    root,
    *,
    seed=0,
    num_train=600,
    num_val=150,
    percent=10,
    size=(320, 256),
    progress=True,
    workers=None,
):
    """Makes the set in folder `root` unless it is already there.

    root/images/{train,val}_00000.png ..., root/annotations/{train,val}.json, and for `percent` = 10
    root/semi_anns/train.1@10.json (round(num_train * percent / 100) images, at least 3 boxes of every class
    where the set allows) and train.1@10-unlabeled.json (the others, with their boxes). file_name is relative
    to root/images. root/solar.json records the parameters.

    Args:
        root: folder; its parents are made. The set appears in it at once, when finished.
        seed: whole number >= 0; the same seed gives the same bytes.
        num_train, num_val: numbers of images, >= 2 and >= 1.
        percent: labeled share of train, in (0, 100), such that both parts have an image.
        size: (width, height) in pixels, each >= MIN_SIDE.
        progress: show progress on stderr.
        workers: threads, >= 1; None takes the number of usable processors, at most 8.

    Raises:
        ValueError: a bad argument, or `root` holds anything but this very set (nothing is deleted there).
    """
    seed = _whole('seed', seed, 0)
    num_train, num_val = _whole('num_train', num_train, 2), _whole('num_val', num_val, 1)
    if num_train > VAL_OFFSET:
        raise ValueError(f'num_train is {num_train}; expected at most {VAL_OFFSET}')
    if isinstance(percent, bool) or not isinstance(percent, (int, float)) or not 0 < percent < 100:
        raise ValueError(f'percent is {percent!r}; expected a number above 0 and below 100')
    percent = int(percent) if percent == int(percent) else float(percent)
    labeled = round(num_train * percent / 100)
    if not 0 < labeled < num_train:
        raise ValueError(
            f'percent is {percent!r}, which labels {labeled} of num_train={num_train} images; '
            f'expected a share that labels at least 1 and at most {num_train - 1}'
        )
    try:
        width, height = (_whole('size', side, MIN_SIDE) for side in size)
    except (TypeError, ValueError):
        raise ValueError(f'size is {size!r}; expected (width, height), two whole numbers >= {MIN_SIDE}') from None
    size = width, height
    if workers is None:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        workers = min(usable, 8)
    workers = _whole('workers', workers, 1)

    root = Path(os.path.realpath(root))
    stamp = _stamp(seed, num_train, num_val, percent, size)
    if _present(root, stamp):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with _alone(root.parent):
        if _present(root, stamp):
            return
        draft = root.parent / f'.{root.name}.{uuid.uuid4().hex[:12]}.tmp'
        try:
            for name in ('images', 'annotations', 'semi_anns'):
                (draft / name).mkdir(parents=True)
            jobs = [(f'train_{n:05d}.png', n) for n in range(num_train)]
            jobs += [(f'val_{n:05d}.png', VAL_OFFSET + n) for n in range(num_val)]
            with _progress(len(jobs), root, progress) as tick:
                boxes = _write(draft / 'images', jobs, workers, seed, size, tick)
            train = _coco('train', boxes[:num_train], size, seed)
            chosen = _choose(boxes[:num_train], labeled, seed)
            rest = {i['id'] for i in train['images']} - chosen
            few, many = semi_names('train', 1, percent)
            files = {
                'annotations/train.json': train,
                'annotations/val.json': _coco('val', boxes[num_train:], size, seed),
                f'semi_anns/{few}': part(train, chosen),
                f'semi_anns/{many}': part(train, rest),
                'solar.json': stamp,
            }
            for name, content in files.items():
                (draft / name).write_text(json.dumps(content, sort_keys=True) + '\n')
            try:
                os.rename(draft, root)
            except OSError:
                if not _present(root, stamp):  # else another process was first with the same set
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
