"""YOLO txt with data.yaml, in the layouts of Ultralytics and Roboflow. globox parses the lines."""

import os
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from mmyolo_bgpenalty.utils.arguments import is_meant
from mmyolo_bgpenalty.utils.files import reason
from mmyolo_bgpenalty.utils.image_files import image_paths
from mmyolo_bgpenalty.utils.label_formats.labeled_set import Box, LabeledSet, Picture, check_names

KIND = 'YOLO txt'
NO_LABEL_FOLDERS = 'label folders without a file for any picture'
NO_TXT = 'pictures without a label file, taken as pictures without objects'
NO_LABELS = ('classes.txt', 'notes.txt')  # files of annotation tools beside the labels


def read_yolo(file: Path) -> dict[str, LabeledSet]:
    """Read the parts 'train' and 'val' that a data.yaml names. A missing txt file means: no object.

    Paths in the file are relative to its ``path``. A ``path`` that does not exist is not used: it may be from another
    machine. Roboflow writes '../train/images' and means 'train/images', so both are tried.

    Raises:
        ValueError: the file cannot be read, has no valid ``names``, or no path of ``train`` or of ``val`` exists.
    """
    try:
        data = yaml.load(file.read_bytes(), Loader=yaml.BaseLoader)  # all values are text: a class may be called `no`
    except OSError as error:
        raise ValueError(f'{file}: {reason(error)}') from None
    except yaml.YAMLError as error:
        raise ValueError(f'{file}: is not valid YAML: {" ".join(str(error).split())}') from None
    if not isinstance(data, dict) or not isinstance(data.get('names'), (list, dict)):
        raise ValueError(f'{file}: Expected `names` with the names of the classes, but found none')
    names = _names(file, data['names'])
    sets = {}
    for role, keys in (('train', ('train',)), ('val', ('val', 'valid', 'validation'))):
        path = data.get('path')
        entries: Any = next((data[key] for key in keys if data.get(key)), [])
        found = LabeledSet(KIND, str(file), names)
        folders = []
        for entry in entries if isinstance(entries, list) else [entries]:
            place = _existing(_bases(file, path), str(entry))
            if place is None:
                found.note(f'paths of `{role}` that do not exist', str(entry))
            else:
                folders.append(place)
                if path and not _existing(_bases(file, path)[:-1], str(entry)):
                    found.note(f'wrong `path`, not used: `{role}` is in {file.parent}', str(path))
        if not folders and (entries or role == 'train'):
            hint = '. If you remove `val`, some training pictures are set aside' if role == 'val' else ''
            bases = [base for base in dict.fromkeys(map(os.path.abspath, _bases(file, path))) if os.path.isdir(base)]
            first = entries[0] if isinstance(entries, list) and entries else entries
            meant = next(filter(None, (is_meant(os.path.join(base, str(first))) for base in bases if first)), '')
            where = f'an existing folder of pictures in {" or ".join(bases)}'
            raise ValueError(f'{file}: Expected `{role}` to be {where}, but got {entries}{meant or hint}')
        _read_pictures(found, folders, keypoints='kpt_shape' in data)
        if found.boxes or found.notes:
            sets[role] = found
    return sets


def read_classes_txt(file: Path) -> list[str]:
    """The names in a classes.txt, one on each line."""
    names = [line.strip() for line in file.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    return check_names(str(file), names)


def read_txt_folder(folder: Path, names: list[str]) -> LabeledSet:
    """Read all pictures in a folder, with their txt files."""
    found = LabeledSet(KIND, str(folder), names)
    _read_pictures(found, [Path(os.path.abspath(folder))])
    return found


def _names(file: Path, names: Any) -> list[str]:
    if isinstance(names, dict):
        keys = sorted(names, key=lambda key: int(key) if str(key).isdigit() else -1)
        if [str(key) for key in keys] != [str(place) for place in range(len(names))]:
            got = ', '.join(map(str, keys))
            raise ValueError(f'{file}: Expected `names` to have the numbers 0 to {len(names) - 1}, but got {got}')
        names = [names[key] for key in keys]
    return check_names(str(file), [str(name) for name in names])


def _bases(file: Path, path: Any) -> list[Path]:
    """The folders in which the paths of a data.yaml may begin."""
    return [*([file.parent / str(path), Path(str(path))] if path else []), file.parent]


def _existing(bases: list[Path], entry: str) -> Path | None:
    entry = entry.replace('\\', '/')
    for base in bases:
        for name in (entry, entry.removeprefix('../')):
            place = os.path.abspath(base / name)  # label_file looks for '/images/' in it
            if os.path.exists(place):
                return Path(place)
    return None


def _read_pictures(found: LabeledSet, places: list[Path], keypoints: bool = False) -> None:
    used: set[str] = set()
    label_folders: set[str] = set()
    labeled: dict[str, int] = {}  # folder of label files -> number of pictures that have one
    for place in places:
        for path in image_paths(place) if place.is_dir() else _listed(place):
            label = label_file(path)
            if label in used:  # by another path of the part
                continue
            used.add(label)
            if place.is_dir():
                label_folders.add(os.path.dirname(label))
            picture = found.add_picture(path)
            if picture is None:
                continue
            labeled[os.path.dirname(label)] = labeled.get(os.path.dirname(label), 0) + os.path.isfile(label)
            if os.path.isfile(label):
                _read_boxes(found, picture, label, keypoints)
            else:
                found.note(NO_TXT, os.path.basename(path))
    for folder in sorted(folder for folder, number in labeled.items() if not number):
        found.note(NO_LABEL_FOLDERS, folder + is_meant(folder) * (not os.path.isdir(folder)))
    for folder in sorted(filter(os.path.isdir, label_folders)):
        for name in sorted(os.listdir(folder)):
            label = os.path.join(folder, name)
            if name.endswith('.txt') and name not in NO_LABELS and label not in used:
                found.note('label files without a picture', name)


def _listed(file: Path) -> Iterator[str]:
    """The pictures that a txt file lists. Its paths are relative to its folder."""
    for line in file.read_text(encoding='utf-8-sig').splitlines():
        name = line.strip().replace('\\', '/')
        if name:
            yield os.path.normpath(file.parent / name)


def label_file(path: str) -> str:
    """a/images/b/c.jpg -> a/labels/b/c.txt, or a/images/b/c.txt if only that exists. Source: Ultralytics."""
    beside = os.path.splitext(path)[0] + '.txt'
    before, images, after = beside.rpartition(f'{os.sep}images{os.sep}')
    label = f'{before}{os.sep}labels{os.sep}{after}' if images else beside
    return beside if not os.path.exists(label) and os.path.exists(beside) else label


def _read_boxes(found: LabeledSet, picture: Picture, label: str, keypoints: bool) -> None:
    name = os.path.basename(label)
    try:
        lines = Path(label).read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return found.note('label files that cannot be read', f'{name}: {reason(error)}')
    if not any(map(str.strip, lines)):
        return None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        box = _parse(line, (picture.width, picture.height), keypoints)
        if box is None:
            found.note('lines that are no labels', f'{name}, line {number}')
        elif not 0 <= box[0] < len(found.classes):
            found.note('boxes of classes that `names` lacks: left out', f'{name}, class {box[0]}')
        else:
            found.add_box(picture, Box(found.classes[box[0]], *box[1:]), name)
    if not found.boxes[picture]:
        # Its objects would be learned as background.
        del found.boxes[picture]
        found.note('pictures without a usable label among their labels: left out', os.path.basename(picture.path))
    return None


def _parse(line: str, size: tuple[int, int], keypoints: bool) -> tuple[int, float, float, float, float] | None:
    """Class, left, top, width and height of a line with a box or a polygon. None if it has neither.

    With ``keypoints`` the values after the box are not read.
    """
    values = line.split()
    # Five values are a box, six a box with a score, seven and more a polygon.
    parse = globox_boxes().from_yolo_seg
    if len(values) < 7 or keypoints:
        values, parse = values[:5], globox_boxes().from_yolo_darknet
    try:
        box = parse(' '.join(values), image_size=size)
        label = float(box.label)
    except Exception:  # globox raises errors of many kinds, also by `assert`
        return None
    return (int(label), *box.ltwh) if all(map(isfinite, box.ltwh)) and label.is_integer() else None


def globox_boxes() -> Any:
    """The class ``BoundingBox`` of globox. It is imported here, because only this format and VOC need the package.

    Raises:
        ImportError: globox is not installed.
    """
    try:
        from globox import BoundingBox
    except ImportError:
        raise ImportError('YOLO txt and Pascal VOC labels are read by globox: pip install globox') from None
    return BoundingBox
