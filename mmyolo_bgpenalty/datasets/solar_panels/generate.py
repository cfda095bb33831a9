"""Generate the solar set: synthetic infrared images of photovoltaic modules, with boxes of defects, in COCO format."""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from mmyolo_bgpenalty.datasets.solar_panels import settings
from mmyolo_bgpenalty.datasets.solar_panels.render import render
from mmyolo_bgpenalty.datasets.solar_panels.settings import CLASSES, MIN_SIDE, VERSION
from mmyolo_bgpenalty.utils.arguments import whole_number
from mmyolo_bgpenalty.utils.coco_split import labeled_count, part, semi_names
from mmyolo_bgpenalty.utils.files import read_json

VAL_OFFSET = 1_000_000  # index of the first validation image. It does not depend on num_train.
Boxes = list[tuple[int, ...]]  # (class, x, y, width, height) of each defect in a picture


def generate(
    root: str | Path,
    *,
    seed: int = 0,
    num_train: int = 600,
    num_val: int = 150,
    percent: float = 10,
    size: tuple[int, int] = (320, 256),
    progress: bool = True,
) -> None:
    """Write the set to the folder ``root``, unless it is already there.

    The pictures are root/images/{train,val}_00000.png, ...; the annotations are root/annotations/{train,val}.json.
    With ``percent`` = 10, ``root/semi_anns/train.1@10.json`` has a tenth of the training images. If one of 500 random
    draws has at least 3 boxes of each class, it is used. ``root/semi_anns/train.1@10-unlabeled.json`` has the other
    images and their boxes. Each file_name is relative to root/images. root/solar.json has the parameters.

    Args:
        root: the folder to create. Its parents are created too. It appears only when the set is complete.
        seed: whole number >= 0. The same seed gives identical files.
        num_train, num_val: numbers of images, >= 2 and >= 1.
        percent: labeled share of the training images, in (0, 100). Each part must have an image.
        size: width and height in pixels, each >= MIN_SIDE.
        progress: show the progress on stderr.

    Raises:
        ValueError: an argument is invalid, or ``root`` has other contents. Nothing in ``root`` changes.
    """
    wanted = _parameters(seed, num_train, num_val, percent, size)
    root = Path(os.path.realpath(root))
    root.parent.mkdir(parents=True, exist_ok=True)
    with _locked(root.parent):
        if _present(root, wanted):
            return
        with tempfile.TemporaryDirectory(prefix=f'.{root.name}.', dir=root.parent) as folder:
            draft = Path(folder, root.name)
            _make(draft, wanted, progress)
            try:
                os.rename(draft, root)
            except OSError:
                if not _present(root, wanted):  # if it is present, another process was faster
                    raise


def _parameters(seed: int, num_train: int, num_val: int, percent: float, size: Sequence[int]) -> dict:
    """Content of solar.json: the checked parameters, and the constants of the generator."""
    num_train = whole_number('num_train', num_train, 2)
    labeled_count(num_train, percent)  # checks the percent
    width, height = size
    constants = {name: value for name, value in vars(settings).items() if name.isupper()}
    return {
        'seed': whole_number('seed', seed, least=0),
        'num_train': num_train,
        'num_val': whole_number('num_val', num_val),
        'percent': int(percent) if percent == int(percent) else float(percent),
        'size': [whole_number('width', width, MIN_SIDE), whole_number('height', height, MIN_SIDE)],
        'generator': json.loads(json.dumps(constants)),  # lists instead of tuples, as in the file
    }


def _present(root: Path, wanted: dict) -> bool:
    """Whether ``root`` holds this set. Raises a ValueError if ``root`` has other contents."""
    if root.is_file():
        raise ValueError(f'{root} is a file; give the path of a new or empty folder')
    if not root.exists() or not os.listdir(root):
        return False
    advice = 'choose another folder, or move this one away (nothing in it was changed)'
    try:
        old = read_json(root / 'solar.json')
        held, asked = ({**one, **one['generator']} for one in (old, wanted))
    except (ValueError, TypeError, KeyError):
        raise ValueError(f'{root} is not empty and is not a generated set; {advice}') from None
    differ = [key for key in asked if key != 'generator' and held.get(key) != asked[key]]
    if differ:
        what = ', '.join(f'{key}={held.get(key)!r} (asked for {asked[key]!r})' for key in differ)
        raise ValueError(f'{root} holds a set with {what}; {advice}')
    return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait while another process makes a set in ``folder``, so that the same set is not made twice."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # if the file system has no locks, the first rename wins
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # also unlocks the folder


def _make(draft: Path, wanted: dict, progress: bool) -> None:
    """Write all files of a set."""
    for name in ('images', 'annotations', 'semi_anns'):
        (draft / name).mkdir(parents=True)
    num_train, num_val, percent = wanted['num_train'], wanted['num_val'], wanted['percent']
    names = [f'train_{n:05d}.png' for n in range(num_train)] + [f'val_{n:05d}.png' for n in range(num_val)]
    indices = [*range(num_train), *range(VAL_OFFSET, VAL_OFFSET + num_val)]

    def draw(name: str, index: int) -> Boxes:
        image, boxes = render(index, wanted['seed'], wanted['size'])
        _, data = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        (draft / 'images' / name).write_bytes(data.tobytes())
        return boxes

    # Threads are enough, because NumPy and OpenCV release the GIL.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        drawn = pool.map(draw, names, indices)
        title, console = f'Rendering {escape(draft.name)}', Console(stderr=True)
        boxes = list(track(drawn, title, total=len(names), console=console, disable=not progress))
    train = _coco('train', boxes[:num_train], wanted)
    labeled = _choose(boxes[:num_train], labeled_count(num_train, percent), wanted['seed'])
    few, many = semi_names('train', 1, percent)
    files = {
        'annotations/train.json': train,
        'annotations/val.json': _coco('val', boxes[num_train:], wanted),
        f'semi_anns/{few}': part(train, labeled),
        f'semi_anns/{many}': part(train, ~labeled),
        'solar.json': wanted,
    }
    for name, content in files.items():
        (draft / name).write_text(json.dumps(content, sort_keys=True) + '\n')


def _coco(split: str, boxes: list[Boxes], wanted: dict) -> dict:
    """The COCO dict of one split. Ids begin at 1."""
    images: list[dict] = []
    annotations: list[dict] = []
    width, height = wanted['size']
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
        'info': {'description': description, 'seed': wanted['seed'], 'version': VERSION},
        'images': images,
        'annotations': annotations,
        'categories': [{'id': number + 1, 'name': name} for number, name in enumerate(CLASSES)],
    }


def _choose(boxes: list[Boxes], count: int, seed: int) -> np.ndarray:
    """A mask of the labeled images. Of 500 draws it takes the first with >= 3 boxes of each class, or else the best."""
    rng = np.random.default_rng([seed, 0, 1])
    tally = np.array([[sum(box[0] == label for box in found) for label in range(len(CLASSES))] for found in boxes])
    best, chosen = -1, np.zeros(0, int)
    for _ in range(500):
        draw = rng.permutation(len(boxes))[:count]
        score = int(np.minimum(tally[draw].sum(0), 3).sum())
        if score > best:
            best, chosen = score, draw
        if score == 3 * len(CLASSES):
            break
    return np.isin(np.arange(len(boxes)), chosen)
