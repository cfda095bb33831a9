"""COCO json files, with their pictures beside them or in a folder near them."""

import os
from collections.abc import Iterator
from pathlib import Path

from mmyolo_bgpenalty.utils.coco_json import is_crowd, read_coco
from mmyolo_bgpenalty.utils.label_formats.labeled_set import Box, LabeledSet, Picture

KIND = 'COCO json'
OF_JSON = ('annotations', 'labels', 'semi_anns')  # a folder of json files, beside the folders of the pictures
LOOKED_FOR = 50  # number of pictures whose folder is looked for


def read_coco_set(file: Path) -> LabeledSet:
    """Read a COCO json and find the folder of its pictures. Boxes with ``iscrowd`` or ``ignore`` become ignored boxes.

    Raises:
        ValueError: ``read_coco`` refuses the file, two categories with boxes have the same name, or none of the first
            ``LOOKED_FOR`` pictures is found.
    """
    coco = read_coco(file, same_names=True)
    names = {category['id']: category['name'] for category in coco['categories']}
    found = LabeledSet(KIND, str(file), list(dict.fromkeys(names.values())))
    _note_same_names(found, names, {annotation['category_id'] for annotation in coco['annotations']})
    folder = _picture_folder(file, [_local(image['file_name']) for image in coco['images'][:LOOKED_FOR]])
    pictures: dict = {}
    for image in coco['images']:
        size = image.get('width'), image.get('height')
        stated = size if all(size) else None  # some tools write no size, or 0
        pictures[image['id']] = found.add_picture(str(folder / _local(image['file_name'])), stated), stated
    for annotation in coco['annotations']:
        picture, stated = pictures[annotation['image_id']]
        if isinstance(picture, Picture):
            ignored = is_crowd(annotation)
            x, y, width, height = annotation['bbox']
            box = Box(names[annotation['category_id']], x, y, width, height, ignored)
            found.add_box(picture, box, os.path.basename(picture.path), stated)
    return found


def _note_same_names(found: LabeledSet, names: dict, used: set) -> None:
    """Roboflow writes a category for the group of all classes, too. It may have the name of a class, but no boxes."""
    for name in found.classes:
        same = [number for number in names if names[number] == name]
        with_boxes = [number for number in same if number in used]
        if len(with_boxes) > 1:
            ids = ' and '.join(map(str, with_boxes))
            raise ValueError(
                f'{found.source}: Expected each class once, but the categories {ids} have boxes and the same name '
                f'{name!r}. Rename one of them, or give all their boxes the same id'
            )
        if len(same) > 1:
            found.note('categories without boxes that have the name of another one: left out', name)


def _local(name: str) -> str:
    return name.replace('\\', '/')


def _picture_folder(file: Path, names: list[str]) -> Path:
    """The folder that has most of the pictures."""
    folders = list(dict.fromkeys(_folders(file)))
    hits = [sum((folder / name).is_file() for name in names) for folder in folders]
    if not max(hits):
        raise ValueError(
            f'{file}: Expected its pictures in {folders[-1]} or in a folder there, but found none of the first '
            f'{len(names)}, such as {names[0]}'
        )
    return folders[hits.index(max(hits))]


def _folders(file: Path) -> Iterator[Path]:
    """The folder of the file, the folder of the set, and the folders in them."""
    home = file.absolute().parent
    for root in (home, home.parent) if home.name.lower() in OF_JSON else (home,):
        yield from sorted(
            path for pattern in ('*', 'images/*', '*/images') for path in root.glob(pattern) if path.is_dir()
        )
        yield root
