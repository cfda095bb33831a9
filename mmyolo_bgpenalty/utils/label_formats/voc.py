"""Pascal VOC xml files, beside the pictures or in Annotations/. globox parses the objects."""

import os
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from xml.etree import ElementTree

from mmyolo_bgpenalty.utils.files import reason
from mmyolo_bgpenalty.utils.image_files import EXTENSIONS
from mmyolo_bgpenalty.utils.label_formats.labeled_set import Box, LabeledSet, check_names
from mmyolo_bgpenalty.utils.label_formats.yolo import globox_boxes

KIND = 'Pascal VOC'


def read_voc(files: dict[str, list[Path]], source: str) -> dict[str, LabeledSet]:
    """Read the xml files of each part. The classes are the names in all of them, in alphabetical order.

    Pixels are counted from 1, as in VOC, unless a coordinate of a set is below 1. A 'difficult' object is ignored.
    """
    trees = {role: list(_trees(paths)) for role, paths in files.items()}
    texts = {node.text.strip() for tree in _roots(trees) for node in tree.iterfind('object/name') if node.text}
    classes = check_names(source, sorted(texts)) if texts else []
    lowest = (_number(node.text) for tree in _roots(trees) for tag in ('xmin', 'ymin') for node in tree.iter(tag))
    first = 0 if any(value < 1 for value in lowest) else 1
    sets = {}
    for role, entries in trees.items():
        found = sets[role] = LabeledSet(KIND, source, classes)
        folders: dict[Path, dict[str, str]] = {}
        named: set[str] = set()
        for path, tree, fault in entries:
            if tree is None:
                found.note('label files that cannot be read', f'{path.name}: {fault}')
                continue
            picture = _picture_of(path, tree, folders)
            if picture is None:
                found.note('label files without a picture', path.name)
            elif picture in named:
                found.note('label files left out, because their picture has another label file', path.name)
            else:
                named.add(picture)
                _read_objects(found, path, tree, picture, first)
        if role == 'train':
            _note_pictures_without_xml(found, files[role][0], named)
    return sets


def _note_pictures_without_xml(found: LabeledSet, xml: Path, named: set[str]) -> None:
    # The xml file of a picture may be of another part.
    stems = {file.stem for file in _home(xml).rglob('*') if file.suffix.lower() == '.xml'}
    for folder in sorted({os.path.dirname(picture) for picture in named}):
        for picture in sorted({*_pictures_in(Path(folder)).values()} - named):
            if Path(picture).stem not in stems:
                found.note('pictures without an xml file: left out', os.path.basename(picture))


def _trees(paths: list[Path]) -> Iterator[tuple[Path, ElementTree.Element | None, str]]:
    for path in paths:
        try:
            yield path, ElementTree.parse(path).getroot(), ''
        except OSError as error:
            yield path, None, reason(error)
        except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: an unknown encoding
            yield path, None, str(error)


def _roots(trees: dict[str, list]) -> Iterator[ElementTree.Element]:
    return (tree for entries in trees.values() for _, tree, _ in entries if tree is not None)


def _number(text: str | None) -> float:
    """The finite number in a text. 1 if there is none: globox will refuse it."""
    try:
        number = float(text or '')
    except ValueError:
        return 1.0
    return number if isfinite(number) else 1.0


def _picture_of(path: Path, tree: ElementTree.Element, folders: dict[Path, dict[str, str]]) -> str | None:
    """The picture with the name of the xml file, or with the name that the file states."""
    stated = (tree.findtext('filename') or '').strip().replace('\\', '/').rpartition('/')[2]
    for name in (path.stem, stated, os.path.splitext(stated)[0]):
        for folder in picture_folders(path):
            if folder not in folders:
                folders[folder] = _pictures_in(folder)
            if name and name in folders[folder]:
                return folders[folder][name]
    return None


def picture_folders(xml: Path) -> list[Path]:
    """The pictures of Annotations/a/b.xml may be in JPEGImages/a or in JPEGImages, for example."""
    folders, home = [xml.parent], _home(xml)
    for root, inner in ((xml.parent.parent, Path()), (home.parent, xml.parent.relative_to(home))):
        places = [root / name for name in ('JPEGImages', 'images', 'Images', 'imgs')]
        folders += [*(place / inner for place in places), *places, root / inner, root]
    return list(dict.fromkeys(folders))


def _home(xml: Path) -> Path:
    """The folder of all xml files."""
    return next((folder for folder in xml.parents if folder.name.lower() == 'annotations'), xml.parent)


def _pictures_in(folder: Path) -> dict[str, str]:
    """The pictures in a folder, by their names with and without the extension."""
    found: dict[str, str] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        if name.lower().endswith(EXTENSIONS) and not name.startswith('.'):
            found.setdefault(os.path.splitext(name)[0], str(folder / name))
            found[name] = str(folder / name)
    return found


def _read_objects(found: LabeledSet, path: Path, tree: ElementTree.Element, image: str, first: int) -> None:
    sizes = [int(_number(tree.findtext(f'size/{side}'))) for side in ('width', 'height')]
    stated = (sizes[0], sizes[1]) if min(sizes) > 1 else None  # some tools write no size, or 0
    picture = found.add_picture(image, stated)
    if picture is None:
        return
    bounding_box = globox_boxes()
    for node in tree.iterfind('object'):
        try:
            box = bounding_box.from_xml(node)
        except Exception:  # globox raises errors of many kinds, also by `assert`
            found.note('objects without a proper box or name: left out', path.name)
            continue
        left, top, right, bottom = box.ltrb
        if not all(map(isfinite, box.ltrb)) or not box.label.strip():
            found.note('objects without a proper box or name: left out', path.name)
            continue
        left, top = left - first, top - first
        difficult = (node.findtext('difficult') or '').strip() == '1'
        if difficult:
            found.note('objects marked as difficult: neither object nor background', path.name)
        read = Box(box.label.strip(), left, top, right - left, bottom - top, difficult)
        found.add_box(picture, read, path.name, stated)
