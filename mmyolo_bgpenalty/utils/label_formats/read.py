"""Find out the format of labeled pictures, and read them."""

from collections.abc import Iterator
from pathlib import Path

from mmyolo_bgpenalty.utils.arguments import is_meant
from mmyolo_bgpenalty.utils.files import read_json
from mmyolo_bgpenalty.utils.image_files import EXTENSIONS, image_paths
from mmyolo_bgpenalty.utils.label_formats.coco import read_coco_set
from mmyolo_bgpenalty.utils.label_formats.labeled_set import LabeledSet
from mmyolo_bgpenalty.utils.label_formats.voc import read_voc
from mmyolo_bgpenalty.utils.label_formats.yolo import read_classes_txt, read_txt_folder, read_yolo

FORMATS = 'a COCO json, YOLO txt with a data.yaml, or Pascal VOC xml files'
SIGNS = ('data.yaml', 'annotations', 'Annotations', '_annotations.coco.json')  # of a folder with labels
NAMES = ('classes.txt', 'labels/classes.txt', 'obj.names')  # labelImg, Label Studio and CVAT write them
# Names of the folders and files of a part.
PARTS = {'train': ('train', 'training', 'trainval'), 'val': ('val', 'valid', 'validation')}


class NoLabels(ValueError):
    """A folder without labels."""


def read_labeled(path: Path, names: list[str] | None = None) -> dict[str, LabeledSet]:
    """Read labeled pictures in any of the ``FORMATS``: the part 'train', and 'val' if the folder or file names one.

    Args:
        path: a COCO json, a data.yaml, or a folder that has one of them or xml files.
        names: names of the classes for a folder of YOLO txt files that has no data.yaml.

    Raises:
        NoLabels: the folder has no labels.
        ValueError: there is no such path, its labels cannot be read, or it is not clear which to read.
    """
    if path.is_file():
        if path.suffix.lower() == '.json':
            return {'train': read_coco_set(path)}
        if path.suffix.lower() in ('.yaml', '.yml'):
            return read_yolo(path)
        raise ValueError(f'{path}: Expected {FORMATS}, or a folder that has them')
    if not path.is_dir():
        raise ValueError(f'{path}: no such file or folder{is_meant(path)}')
    return _read_folder(path, names)


def _read_folder(folder: Path, names: list[str] | None) -> dict[str, LabeledSet]:
    named = _coco_files(folder)
    if named:
        return {role: read_coco_set(file) for role, file in named.items()}
    for name in ('data.yaml', 'data.yml', 'dataset.yaml', 'dataset.yml'):
        if (folder / name).is_file():
            return read_yolo(folder / name)
    xml = _xml_files(folder)
    if xml:
        return read_voc(xml, str(folder))
    others = sorted(path for path in folder.iterdir() if path.suffix.lower() in ('.yaml', '.yml'))
    if len(others) == 1:
        return read_yolo(others[0])
    inner = [path.name for path in sorted(folder.iterdir()) if any((path / name).exists() for name in SIGNS)]
    if inner:
        raise NoLabels(f'{folder}: has no labels itself. Name one of its folders with labels: {", ".join(inner)}')
    if not any(folder.rglob('*.txt')):
        raise NoLabels(f'{folder}: has no labels. Expected {FORMATS}')
    classes = next(filter(Path.is_file, (folder / name for name in NAMES)), None)
    if classes:
        names = read_classes_txt(classes)
    if not names:
        raise NoLabels(
            f'{folder}: has txt files, but no data.yaml with the names of the classes. Write one with the lines '
            "`names: ['…', '…']` and `train: <folder of the pictures>`"
        )
    return {'train': read_txt_folder(folder, names)}


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith('.'))


def _part_folders(folder: Path) -> dict[str, Path]:
    """The sub-folders with the names of parts."""
    found = {}
    for role, names in PARTS.items():
        inner = [folder / name for name in names if (folder / name).is_dir()]
        if inner:
            found[role] = inner[0]
    return found


def _coco_files(folder: Path) -> dict[str, Path]:
    """The COCO json files of the parts. Json files without `images` (labels of labelme, say) do not count."""
    for place in (folder, folder / 'annotations'):
        files = [path for path in _files(place) if path.suffix.lower() == '.json' and _is_coco(path)]
        if len(files) == 1:
            return {'train': files[0]}
        if files:
            return _by_part(folder, files)
    parts = {role: place / '_annotations.coco.json' for role, place in _part_folders(folder).items()}
    found = {role: file for role, file in parts.items() if file.is_file()}
    return found if 'train' in found else {}


def _is_coco(file: Path) -> bool:
    content = read_json(file)
    return isinstance(content, dict) and 'images' in content and 'categories' in content


def _by_part(folder: Path, files: list[Path]) -> dict[str, Path]:
    """Files named like a part: instances_train2017.json, val.json."""
    found = {}
    for role, names in PARTS.items():
        fitting = [file for file in files if any(name in file.stem.lower() for name in names)]
        if len(fitting) == 1:
            found[role] = fitting[0]
    if 'train' not in found:
        listed = ', '.join(file.name for file in files)
        raise ValueError(f'{folder}: has several json files. Name one of them: {listed}')
    return found


def _xml_files(folder: Path) -> dict[str, list[Path]]:
    """The xml files of the parts: by ImageSets/Main, or in folders named like the parts, or in one folder.

    Annotations/ may have sub-folders.
    """
    for place in (folder / 'Annotations', folder / 'annotations', folder):
        files = [path for path in _files(place) if path.suffix.lower() == '.xml']
        if place.name.lower() == 'annotations':
            parts = {role: _xml_below(inner) for role, inner in _part_folders(place).items()}
            if parts.get('train') and not files:
                return {role: inner for role, inner in parts.items() if inner}
            files = _xml_below(place)
        if files:
            return _by_image_sets(folder / 'ImageSets/Main', place, files)
    parts = {}
    for role, inner in _part_folders(folder).items():
        found = _xml_files(inner)
        if found:
            parts[role] = found['train']
    return parts if 'train' in parts else {}


def _xml_below(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob('*') if path.suffix.lower() == '.xml')
    # Hidden files and folders, such as .ipynb_checkpoints, do not count.
    return sorted(path for path in files if not any(part[0] == '.' for part in path.relative_to(folder).parts))


def _by_image_sets(folder: Path, place: Path, files: list[Path]) -> dict[str, list[Path]]:
    lists = {role: [folder / f'{name}.txt' for name in names] for role, names in PARTS.items()}
    parts = {}
    for role, texts in lists.items():
        text = next(filter(Path.is_file, texts), None)
        if text:
            lines = filter(None, map(str.strip, text.read_text(encoding='utf-8-sig').splitlines()))
            # A name may have spaces or a folder. A list of one class has a number after each name.
            stems = {name for line in lines for name in (line, line.split()[0])}
            names = ((file, file.relative_to(place).with_suffix('').as_posix()) for file in files)
            parts[role] = [file for file, name in names if file.stem in stems or name in stems]
    return parts if parts.get('train') else {'train': files}


def read_pictures(path: Path) -> LabeledSet:
    """Read pictures for training without labels: a folder of pictures, or labeled pictures with their boxes.

    YOLO txt files are read only if a data.yaml or one of ``NAMES`` names the classes.

    Raises:
        ValueError: there is no such path, the folder has no picture, or its labels cannot be read.
    """
    try:
        return read_labeled(path)['train']
    except NoLabels:
        pass
    found = LabeledSet('pictures', str(path), [])
    for image in image_paths(path):
        found.add_picture(image)
    if not found.boxes:
        broken = sum(map(len, found.notes.values()))
        text = f'; {broken} cannot be read, such as {next(iter(found.notes.values()))[0]}' if broken else ''
        raise ValueError(f'{path}: Expected pictures ({", ".join(EXTENSIONS)}), but found none{text}')
    return found
