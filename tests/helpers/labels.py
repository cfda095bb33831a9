"""Small labeled sets of pictures in COCO json, YOLO txt and Pascal VOC."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = (80, 64)  # width and height of a picture
NAMES = ('cell', 'rød plate')


def save_picture(path: Path, size: tuple[int, int] = SIZE, turn: int = 1) -> Path:
    """Write noise with a bright square of 20 x 16 pixels at (10, 20). ``turn`` is the EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
    pixels[20:36, 10:30] = 230
    exif = Image.Exif()
    exif[0x0112] = turn
    kind = {'.png': 'PNG', '.jpg': 'JPEG', '.jpeg': 'JPEG'}[path.suffix.lower()]
    Image.fromarray(pixels).save(path, kind, exif=exif.tobytes() if turn > 1 else b'')
    return path


def bright_box(path) -> list[int]:
    """x, y, width and height of the bright square in a picture, as OpenCV loads it."""
    rows, columns = np.nonzero(cv2.imread(str(path)).min(axis=2) > 150)
    return [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]


def yolo_line(label: int, x: float, y: float, width: float, height: float) -> str:
    across, down = SIZE
    return f'{label} {(x + width / 2) / across} {(y + height / 2) / down} {width / across} {height / down}'


def make_yolo(root: Path, names: dict[str, list[str]], yaml: str = 'train: images/train\nval: images/val\n') -> Path:
    """Write pictures and labels in Ultralytics' layout, and data.yaml. ``names`` maps a part to names of pictures.

    Each picture has a box of class 0, and every third one also a box of class 1.
    """
    for part, pictures in names.items():
        for number, name in enumerate(pictures):
            save_picture(root / 'images' / part / name)
            lines = [yolo_line(0, 10, 20, 20, 16)] + [yolo_line(1, 40, 8, 30, 50)] * (number % 3 == 0)
            label = root / 'labels' / part / Path(name).with_suffix('.txt')
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text('\n'.join(lines) + '\n')
    file = root / 'data.yaml'
    file.write_text(f'names: {list(NAMES)}\n{yaml}', encoding='utf-8')
    return file


def voc_xml(name: str, boxes, size=SIZE, extra: str = '') -> str:
    """``boxes``: (class, xmin, ymin, xmax, ymax)."""
    corners = '<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>'
    objects = [
        f'<object><name>{box[0]}</name>{extra}<bndbox>{corners.format(*box[1:])}</bndbox></object>' for box in boxes
    ]
    size_node = f'<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>'
    return f'<annotation><filename>{name}</filename>{size_node}{"".join(objects)}</annotation>'


def make_voc(root: Path, names: list[str]) -> Path:
    """Write JPEGImages/ and Annotations/. Each picture has a box, of one of the two classes in turn."""
    (root / 'Annotations').mkdir(parents=True)
    for number, name in enumerate(names):
        save_picture(root / 'JPEGImages' / name)
        xml = voc_xml(name, [(NAMES[number % 2], 11, 21, 30, 36)])
        (root / 'Annotations' / Path(name).with_suffix('.xml')).write_text(xml, encoding='utf-8')
    return root


def make_coco(root: Path, names: list[str], file: str = 'labels.json') -> Path:
    """Write images/ and a json. Each picture has a box, of one of the two classes in turn."""
    images, annotations = [], []
    for number, name in enumerate(names):
        save_picture(root / 'images' / name)
        images.append(dict(id=number, file_name=name, width=SIZE[0], height=SIZE[1]))
        box = dict(bbox=[10, 20, 20, 16], area=320, iscrowd=0)
        annotations.append(dict(id=number, image_id=number, category_id=3 + number % 2, **box))
    categories = [dict(id=number, name=name) for number, name in enumerate(('nothing', *NAMES), 2)]
    (root / file).write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return root / file
