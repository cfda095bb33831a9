"""Deterministic infrared-like images of photovoltaic modules, with boxes of their defects, in COCO format.

Each picture depends only on seed, index, size and the constants in ``settings``. The bytes of a set do not depend on
the number of workers.
"""

import contextlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmyolo_bgpenalty.datasets.solar_panels import settings
from mmyolo_bgpenalty.datasets.solar_panels.render import render
from mmyolo_bgpenalty.datasets.solar_panels.settings import CLASSES, MIN_SIDE, VERSION
from mmyolo_bgpenalty.utils.arguments import whole_number
from mmyolo_bgpenalty.utils.coco_split import part, semi_names
from mmyolo_bgpenalty.utils.files import read_json

try:
    import fcntl
except ImportError:  # not on Windows: there the rename alone decides which process was first
    fcntl = None  # type: ignore[assignment]

VAL_OFFSET = 1_000_000  # index of the first validation image: it must not depend on num_train
Boxes = list[tuple[int, ...]]  # (class, x, y, width, height) of each defect in a picture


class SetParameters(NamedTuple):
    """What determines the bytes of a set; see ``generate``."""

    seed: int
    num_train: int
    num_val: int
    percent: float
    size: tuple[int, int]

    def checked(self) -> 'SetParameters':
        seed = whole_number('seed', self.seed, least=0)
        num_train, num_val = whole_number('num_train', self.num_train, 2), whole_number('num_val', self.num_val)
        percent, size = self.percent, self.size
        if num_train > VAL_OFFSET:
            raise ValueError(f'Expected `num_train` to be at most {VAL_OFFSET}, but got {num_train}')
        if isinstance(percent, bool) or not isinstance(percent, (int, float)) or not 0 < percent < 100:
            raise ValueError(f'Expected `percent` to be a number above 0 and below 100, but got {percent!r}')
        percent = int(percent) if percent == int(percent) else float(percent)
        labeled = round(num_train * percent / 100)
        if not 0 < labeled < num_train:
            raise ValueError(
                f'Expected `percent` to label at least 1 and at most {num_train - 1} of num_train={num_train} images, '
                f'but got {percent!r}, which labels {labeled}'
            )
        try:
            width, height = (whole_number('size', side, MIN_SIDE) for side in size)
        except (TypeError, ValueError):
            expected = f'(width, height), two whole numbers >= {MIN_SIDE}'
            raise ValueError(f'Expected `size` to be {expected}, but got {size!r}') from None
        return SetParameters(seed, num_train, num_val, percent, (width, height))

    @property
    def labeled(self) -> int:
        """Number of labeled images."""
        return round(self.num_train * self.percent / 100)

    def stamp(self) -> dict:
        """Content of solar.json: the parameters, and the constants of the generator."""
        constants = {name: value for name, value in vars(settings).items() if name.isupper()}
        return json.loads(json.dumps({**self._asdict(), 'generator': constants}))


def generate(
    root: str | Path,
    *,
    seed: int = 0,
    num_train: int = 600,
    num_val: int = 150,
    percent: float = 10,
    size: tuple[int, int] = (320, 256),
    progress: bool = True,
    workers: int | None = None,
) -> None:
    """Make the set in the folder ``root``, unless it is there already.

    The pictures are root/images/{train,val}_00000.png, ...; the annotations are root/annotations/{train,val}.json.
    With ``percent`` = 10, root/semi_anns/train.1@10.json has round(num_train * percent / 100) images, with at least 3
    boxes of each class if the set allows it. root/semi_anns/train.1@10-unlabeled.json has the other images and their
    boxes. Each file_name is relative to root/images. root/solar.json has the parameters.

    Args:
        root: folder; its parents are made. The complete set appears in it at once.
        seed: whole number >= 0; the same seed gives the same bytes.
        num_train, num_val: numbers of images, >= 2 and >= 1.
        percent: labeled share of the training images, in (0, 100). Both parts must have an image.
        size: width and height in pixels, each >= MIN_SIDE.
        progress: show the progress on stderr.
        workers: threads, >= 1; None takes the number of usable processors, at most 8.

    Raises:
        ValueError: an argument is bad, or ``root`` holds anything but this set (nothing in it is deleted).
    """
    wanted = SetParameters(seed, num_train, num_val, percent, size).checked()
    if workers is None:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        workers = min(usable, 8)
    workers = whole_number('workers', workers)
    root = Path(os.path.realpath(root))
    if _present(root, wanted):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with _locked(root.parent):
        if _present(root, wanted):
            return
        draft = root.parent / f'.{root.name}.{uuid.uuid4().hex[:12]}.tmp'
        try:
            with _progress(wanted.num_train + wanted.num_val, root, progress) as tick:
                _make(draft, wanted, workers, tick)
            try:
                os.rename(draft, root)
            except OSError:
                if not _present(root, wanted):  # if it is, another process was first with the same set
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _present(root: Path, wanted: SetParameters) -> bool:
    """Whether the set is there; a ValueError if ``root`` holds anything else."""
    if not os.path.lexists(root):
        return False
    if not root.is_dir():
        raise ValueError(f'{root} is a file; give the path of a new or empty folder')
    held = sorted(os.listdir(root))
    if not held:
        return False
    stamp = wanted.stamp()
    advice = 'give another folder, or move this one away yourself (nothing in it was touched)'
    try:
        old = read_json(root / 'solar.json')
        flat_old, flat_new = ({**one, **one['generator']} for one in (old, stamp))
    except (ValueError, TypeError, KeyError):
        some = ', '.join(held[:5]) + (f' and {len(held) - 5} more' if len(held) > 5 else '')
        raise ValueError(f'{root} is not a generated set: it holds {some}; {advice}') from None
    differ = [key for key in flat_new if key != 'generator' and flat_old.get(key) != flat_new[key]]
    if differ:
        what = ', '.join(f'{key}={flat_old.get(key)!r} (asked for {flat_new[key]!r})' for key in differ)
        raise ValueError(f'{root} holds a set with {what}; {advice}')
    names = {f'images/train_{n:05d}.png' for n in range(wanted.num_train)}
    names |= {f'images/val_{n:05d}.png' for n in range(wanted.num_val)}
    names |= {'annotations/train.json', 'annotations/val.json'}
    names |= {f'semi_anns/{name}' for name in semi_names('train', 1, wanted.percent)}
    missing = sorted(name for name in names if not (root / name).is_file())
    if missing:
        raise ValueError(f'{root} lacks {len(missing)} of {len(names)} files, e.g. {missing[0]}; {advice}')
    return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for other generators below ``folder``: their set is found then, and not made again."""
    handle = None
    if fcntl:
        with contextlib.suppress(OSError):  # a file system without locks: there the rename decides
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
def _progress(total: int, root: Path, show: bool) -> Iterator[Callable[[], None]]:
    """A function to call after each picture: it moves a bar on a terminal, else lines are printed at start and end."""
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


def _make(draft: Path, wanted: SetParameters, workers: int, tick: Callable[[], None]) -> None:
    """Write all files of a set."""
    for name in ('images', 'annotations', 'semi_anns'):
        (draft / name).mkdir(parents=True)
    jobs = [(f'train_{n:05d}.png', n) for n in range(wanted.num_train)]
    jobs += [(f'val_{n:05d}.png', VAL_OFFSET + n) for n in range(wanted.num_val)]
    boxes = _render_all(draft / 'images', jobs, workers, wanted, tick)
    train = _coco('train', boxes[: wanted.num_train], wanted)
    chosen = _choose(boxes[: wanted.num_train], wanted.labeled, wanted.seed)
    rest = {image['id'] for image in train['images']} - chosen
    few, many = semi_names('train', 1, wanted.percent)
    files = {
        'annotations/train.json': train,
        'annotations/val.json': _coco('val', boxes[wanted.num_train :], wanted),
        f'semi_anns/{few}': part(train, chosen),
        f'semi_anns/{many}': part(train, rest),
        'solar.json': wanted.stamp(),
    }
    for name, content in files.items():
        (draft / name).write_text(json.dumps(content, sort_keys=True) + '\n')


def _render_all(
    folder: Path, jobs: list[tuple[str, int]], workers: int, wanted: SetParameters, tick: Callable[[], None]
) -> list[Boxes]:
    """Write a PNG for each (file name, index); return the boxes of each, in the same order."""

    def one(name: str, index: int) -> Boxes:
        image, boxes = render(index, wanted.seed, wanted.size)
        ok, data = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not ok:
            raise OSError(f'could not encode {name}')
        (folder / name).write_bytes(data.tobytes())
        return boxes

    out = []
    # Threads suffice: NumPy and OpenCV release the lock. A daemonic process may not have child processes.
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, *job) for job in jobs]
        try:
            for future in futures:
                out.append(future.result())
                tick()
        finally:
            for future in futures:
                future.cancel()
    return out


def _coco(split: str, boxes: list[Boxes], wanted: SetParameters) -> dict:
    """COCO dict of one split; ids begin at 1."""
    images: list[dict] = []
    annotations: list[dict] = []
    width, height = wanted.size
    for number, found in enumerate(boxes):
        name = f'{split}_{number:05d}.png'
        images.append({'id': number + 1, 'file_name': name, 'width': width, 'height': height})
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
    description = f'synthetic infrared images of photovoltaic modules, {split}'
    return {
        'info': {'description': description, 'seed': wanted.seed, 'version': VERSION},
        'images': images,
        'annotations': annotations,
        'categories': [{'id': number + 1, 'name': name} for number, name in enumerate(CLASSES)],
    }


def _choose(boxes: list[Boxes], count: int, seed: int) -> set[int]:
    """Ids of the labeled images: the first of 500 draws with 3 boxes of each class, else the best of them."""
    rng = np.random.default_rng([seed, 0, 1])
    tally = np.array([[sum(box[0] == label for box in found) for label in range(len(CLASSES))] for found in boxes])
    best = (-1, np.zeros(0, int))
    for _ in range(500):
        draw = rng.permutation(len(boxes))[:count]
        score = int(np.minimum(tally[draw].sum(0), 3).sum())
        if score > best[0]:
            best = score, draw
        if score == 3 * len(CLASSES):
            break
    return {int(place) + 1 for place in best[1]}
