"""The sets of a project: pictures to train on with and without labels, and pictures to validate on."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmyolo_bgpenalty.utils.coco_split import draw, labeled_count, objects
from mmyolo_bgpenalty.utils.files import NAMED
from mmyolo_bgpenalty.utils.label_formats.labeled_set import Box, LabeledSet, Picture
from mmyolo_bgpenalty.utils.label_formats.read import read_labeled, read_pictures
from mmyolo_bgpenalty.utils.label_formats.yolo import NO_LABEL_FOLDERS, NO_TXT

VAL_SHARE = 0.2  # of the labeled and of the empty pictures, if no validation set is given
MOST_EMPTY = 300  # empty pictures to validate on
FEW = 30  # validation pictures
OFFERED = (10, 25, 50)  # percentages of --split
LABELED = 10  # labeled pictures that an offered split must leave
Boxes = dict[Picture, list[Box]]


@dataclass
class ProjectSets:
    """The sets of a project.

    Attributes:
        source: format and place of the labels.
        classes: the classes that have a box in the labeled pictures, before some of these go to ``val``.
        train, val, unlabeled: pictures and their boxes. Training does not read the boxes of ``unlabeled``.
        empty: pictures that are known to show no object.
        notes: what was left out or changed: (set, what happened, names of files or classes).
        remarks: sentences for the user.
    """

    source: str
    classes: list[str]
    train: Boxes
    val: Boxes
    unlabeled: Boxes = field(default_factory=dict)
    empty: list[Picture] = field(default_factory=list)
    notes: list[tuple[str, str, list[str]]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read_sets(
    labeled: Path, val: Path | None, unlabeled: Sequence[Path], empty: Sequence[Path], percent: float | None
) -> ProjectSets:
    """Read all pictures and labels, and make the sets of a project.

    Args:
        labeled, val, unlabeled, empty: what the options of the command name.
        percent: share of the labeled pictures that keep their labels. The others become unlabeled.

    Raises:
        ValueError: a path cannot be read, or a set has no picture or no box.
        ImportError: the labels need globox, which is not installed.
    """
    parts = read_labeled(labeled)
    train, known = parts['train'], parts.get('val')
    same = known is not None and known.boxes.keys() >= train.boxes.keys()
    if known is not None and same:
        known.boxes = {picture: boxes for picture, boxes in known.boxes.items() if picture not in train.boxes}
        known = known if known.boxes else None
    if val:
        given = read_labeled(val, train.classes)
        known = given.get('val', given['train'])
    empties = [read_pictures(path) for path in empty]
    others = [read_pictures(path) for path in unlabeled]
    _refuse_boxes(empties)
    named = [('val', known)] if known else []
    named += [('train', train), *(('empty', one) for one in empties), *(('unlabeled', one) for one in others)]
    _remove_doubles(named)
    classes = _classes(train, labeled)
    if known is not None:
        for name in sorted({box.name for boxes in known.boxes.values() for box in boxes} - set(classes)):
            known.note('classes that training does not have: their boxes are left out', name)
    sets = ProjectSets(f'{train.kind}, {train.source}', classes, train.boxes, known.boxes if known else {})
    sets.notes = [(name, what, files) for name, one in named for what, files in one.notes.items()]
    if same and not val:
        sets.remarks.append(f'{train.source} names the pictures of `train` for validation, too, which is of no use')
    if NO_TXT in train.notes:
        sets.remarks.append('If pictures without a label file do show objects, move them to a folder of --unlabeled')
    if val and not sets.val:
        raise ValueError(f'{val}: Expected labeled pictures to validate on, but none can be read')
    own_val = not sets.val
    if own_val:
        _split_off_val(sets, labeled)
    _check_val(sets, val or labeled, _looked_in(known) if known else '')
    _set_unlabeled(sets, empties, others)
    _validate_on_empty(sets, own_val)
    if percent is not None:
        _split_off_unlabeled(sets, percent)
    elif not sets.unlabeled:
        _offer_split(sets)
    return sets


def _check_val(sets: ProjectSets, path: Path, looked_in: str) -> None:
    if len(sets.val) < FEW:
        sets.remarks.append(
            f'{len(sets.val)} pictures to validate on are few: small differences between metrics mean nothing'
        )
    validated = {box.name for boxes in sets.val.values() for box in boxes} & set(sets.classes)
    if not validated:
        raise ValueError(f'{path}: Expected validation pictures with a box of a trained class, but got none{looked_in}')
    lacking = [name for name in sets.classes if name not in validated]
    if lacking:
        sets.remarks.append(f'No validation picture has a box of {", ".join(lacking)}: the metrics leave this out')


def _looked_in(one: LabeledSet) -> str:
    folders = one.notes.get(NO_LABEL_FOLDERS)
    return f'. Looked for their label files in {", ".join(folders[:NAMED])}' if folders else ''


def _refuse_boxes(empties: Iterable[LabeledSet]) -> None:
    for one in empties:
        boxed = [picture.path for picture, boxes in one.boxes.items() if boxes]
        if boxed:
            raise ValueError(
                f'{one.source}: Expected pictures without objects, because of --empty, but {len(boxed)} have boxes, '
                f'such as {boxed[0]}'
            )


def _remove_doubles(named: Iterable[tuple[str, LabeledSet]]) -> None:
    """Remove pictures that are in an earlier set, too."""
    owner: dict[str, str] = {}
    for name, one in named:
        number = len(one.boxes)
        for picture in list(one.boxes):
            before = owner.setdefault(os.path.realpath(picture.path), name)
            if before != name:
                del one.boxes[picture]
                one.note(f'pictures that are also in {before}: left out', os.path.basename(picture.path))
        if number and not one.boxes:
            raise ValueError(f'{one.source}: Expected other pictures for {name}, but other sets have all {number}')


def _classes(train: LabeledSet, labeled: Path) -> list[str]:
    counts = Counter(box.name for boxes in train.boxes.values() for box in boxes if not box.ignored)
    classes = [name for name in train.classes if counts[name]]
    if not classes:
        raise ValueError(
            f'{labeled}: Expected boxes to train on, but its {len(train.boxes)} pictures have none{_looked_in(train)}'
        )
    for name in train.classes:
        if not counts[name]:
            train.note('classes without a box: left out', name)
    return classes


def _split_off_val(sets: ProjectSets, labeled: Path) -> None:
    number = len(sets.train)
    if number < 2:
        raise ValueError(f'{labeled}: Expected at least 2 labeled pictures, to train and to validate, but got {number}')
    kept = number - max(1, round(VAL_SHARE * number))
    sets.train, sets.val = _divided(sets.train, sets.classes, kept, fold=0)
    sets.remarks.append(
        f'{len(sets.val)} of the {number} labeled pictures are set aside to validate on. --val PATH names others'
    )


def _offer_split(sets: ProjectSets) -> None:
    least = max(LABELED, len(sets.classes))
    percent = next((share for share in OFFERED if len(sets.train) * share >= 100 * least), None)
    if percent:
        sets.remarks.append(
            f'All pictures have labels. To see what unlabeled pictures are worth, add --split {percent}: then only '
            f'{percent} % of the training pictures keep their labels'
        )


def _validate_on_empty(sets: ProjectSets, own_val: bool) -> None:
    """False alarms on good parts are counted only if some validation pictures show no object."""
    if not sets.empty or not all(sets.val.values()):
        return
    number = min(round(VAL_SHARE * len(sets.empty)), MOST_EMPTY)
    if not own_val or not number:
        sets.remarks.append('No validation picture is empty, so false alarms on empty pictures are not counted')
        return
    chosen = {sets.empty[i] for i in np.random.default_rng(0).permutation(len(sets.empty))[:number]}
    sets.val |= {picture: [] for picture in sets.empty if picture in chosen}
    sets.remarks.append(f'{number} of the {len(sets.empty)} empty pictures are set aside to validate on')
    sets.empty = [picture for picture in sets.empty if picture not in chosen]


def _split_off_unlabeled(sets: ProjectSets, percent: float) -> None:
    number = len(sets.train)
    sets.train, rest = _divided(sets.train, sets.classes, labeled_count(number, percent), fold=1)
    sets.unlabeled = {**rest, **sets.unlabeled}
    sets.remarks.append(f'{len(sets.train)} of {number} training pictures keep their labels, because of --split')


def _divided(boxes: Boxes, classes: list[str], number: int, fold: int) -> tuple[Boxes, Boxes]:
    """``number`` pictures, stratified by class, and the others."""
    chosen = draw(*objects(as_coco(boxes, classes, '/')), len(boxes), number, fold=fold)
    halves = []
    for mask in (chosen, ~chosen):
        halves.append({picture: boxes[picture] for picture, inside in zip(boxes, mask) if inside})
    return halves[0], halves[1]


def _set_unlabeled(sets: ProjectSets, empties: Sequence[LabeledSet], others: Sequence[LabeledSet]) -> None:
    has_labels = [any(one.boxes.values()) for one in others]
    if any(has_labels) and not all(has_labels):
        sets.remarks.append('The boxes of unlabeled pictures are not kept: one path of --unlabeled has no boxes')
        for one in others:
            one.boxes = {picture: [] for picture in one.boxes}
    elif any(has_labels):
        sets.remarks.append('The boxes of the unlabeled pictures are not learned. They measure the pseudo-labels')
    for one in others:
        sets.unlabeled.update(one.boxes)
    sets.empty = [picture for one in empties for picture in one.boxes]


def common_folder(sets: ProjectSets) -> str:
    """The folder of all pictures, with '/' at its end."""
    pictures = (picture for part in (sets.train, sets.val, sets.unlabeled, sets.empty) for picture in part)
    folders = {os.path.dirname(picture.path) for picture in pictures}
    return os.path.join(os.path.commonpath(folders), '')


def as_coco(boxes: Boxes, classes: Sequence[str], folder: str) -> dict:
    """A COCO dict. File names are relative to ``folder``. Boxes of other classes are left out."""
    images: list[dict] = []
    annotations: list[dict] = []
    for picture, of_picture in boxes.items():
        name = os.path.relpath(picture.path, folder)
        images.append(dict(id=len(images) + 1, file_name=name, width=picture.width, height=picture.height))
        for box in of_picture:
            if box.name in classes:
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=len(images),
                        category_id=classes.index(box.name) + 1,
                        bbox=[round(value, 3) for value in (box.x, box.y, box.width, box.height)],
                        area=round(box.width * box.height, 3),
                        iscrowd=int(box.ignored),
                    )
                )
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
    return dict(images=images, annotations=annotations, categories=categories)
