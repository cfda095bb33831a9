"""Read the predictions of a run, and the annotated images they are on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmyolo_bgpenalty.cli.report.trained import STUDENT, is_training, tested_models
from mmyolo_bgpenalty.cli.test import TESTED
from mmyolo_bgpenalty.evaluation.matching import Detections, Truth, truth_by_image
from mmyolo_bgpenalty.utils.arguments import is_meant
from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.files import printable, read_json


class Source(NamedTuple):
    """The annotated images on which runs are compared."""

    file: str
    paths: list[str]  # of the images
    images: list[dict]  # of the COCO json
    classes: list[str]
    truth: list[Truth]  # of each image
    categories: list[Any]  # id of each class
    iou_thr: float
    score_thr: float
    prevalence: float | None  # of the metric, see `false_alarms`


class Run(NamedTuple):
    name: str
    source: Source
    found: list[Detections]  # in each image of the source
    checkpoint: str
    metrics: dict[str, float | None]  # of metrics.json
    student: bool  # of a semi-supervised detector


def results_in(path: str | Path) -> dict[str, Path]:
    """The results of ``test --out`` by name: those of each variant of an ablation (its first seed), or the folder.

    The best checkpoint of a training is tested, see ``tested_models``.

    Raises:
        ValueError: there are no results. Or several, because the test had several metrics.
    """
    folder = Path(path)
    if not folder.exists():
        raise ValueError(f'{folder}: no such folder{is_meant(folder)}')
    if is_training(folder):
        models = tested_models(folder).items()
        return {', '.join(filter(None, (_name_of(folder), model))): _with_results(out) for model, out in models}
    if not (folder / 'ablation.json').is_file():
        return {_name_of(folder): _with_results(folder)}
    found: dict[str, Path] = {}
    for run in sorted(read_json(folder / 'ablation.json')['runs'], key=lambda run: run['seed']):
        if run['variant'] not in found:
            place = Path(run['config']).with_suffix('').parts[-2:]  # variant and seed
            found[run['variant']] = _with_results(folder.joinpath(*place, 'test'))
    return found


def _with_results(folder: Path) -> Path:
    if (folder / TESTED).is_file():
        return folder
    inner = [file.parent for file in sorted(folder.glob(f'*/{TESTED}'))]
    if len(inner) > 1:
        raise ValueError(f'{folder}: has the results of several metrics. Name one: {", ".join(map(str, inner))}')
    if not inner:
        expected = f'expected a folder that `test CONFIG CHECKPOINT --out {folder}` wrote'
        raise ValueError(f'{folder}: {expected} with a PrecisionRecallMetric with `ann_file`, but it has no {TESTED}')
    return inner[0]


def read_run(folder: Path, name: str) -> Run:
    """The run in a folder with ``tested.json`` and the predictions, ``test.bbox.json``.

    Raises:
        ValueError: a file is missing, or does not fit the annotations.
    """
    tested = read_json(folder / TESTED)
    coco = read_coco(tested['ann_file'])
    # Labels follow the order of the file's categories, as in CocoMetric.
    known = [one for one in coco['categories'] if one['name'] in tested['classes']]
    categories = [one['id'] for one in known]
    images, truth = {one['id']: one for one in coco['images']}, truth_by_image(coco, categories)
    boxes = dict(zip(images, truth))
    missing = [image for image, _ in tested['images'] if image not in images]
    if missing:
        raise ValueError(f'{tested["ann_file"]}: expected the tested image {missing[0]!r} of {folder}, but it has none')
    source = Source(
        file=str(tested['ann_file']),
        paths=[path for _, path in tested['images']],
        images=[images[image] for image, _ in tested['images']],
        classes=[one['name'] for one in known],
        truth=[boxes[image] for image, _ in tested['images']],
        categories=categories,
        iou_thr=tested['iou_thr'],
        score_thr=tested['score_thr'],
        prevalence=tested.get('prevalence'),  # earlier versions did not write it
    )
    files = [place / 'metrics.json' for place in (folder, folder.parent) if (place / 'metrics.json').is_file()]
    metrics: Mapping = read_json(files[0]) if files else {}
    found, student = _detections(folder / 'test.bbox.json', source), folder.parts[-2:] == ('report', STUDENT)
    return Run(name, source, found, tested['checkpoint'], dict(metrics), student)


def same_truth(one: Source, other: Source) -> bool:
    """Whether two sources have the same images, classes, boxes and settings of the metric."""
    plain = [[source.classes, source.iou_thr, source.score_thr, _names(source.images)] for source in (one, other)]
    pairs = zip(one.truth, other.truth)
    return plain[0] == plain[1] and all(np.array_equal(*parts) for pair in pairs for parts in zip(*pair))


def _names(images: Sequence[dict]) -> list:
    return [image['file_name'] for image in images]


def _name_of(folder: Path) -> str:
    """The name of the folder, or that of its parent if it only says what it is."""
    folder = folder.resolve()
    return folder.parent.name if folder.name in ('test', 'val', 'out', 'results') else folder.name


def _detections(file: Path, source: Source) -> list[Detections]:
    places = {image['id']: place for place, image in enumerate(source.images)}
    labels = {category: label for label, category in enumerate(source.categories)}
    rows: list[list[tuple]] = [[] for _ in source.images]
    for row in read_json(file):
        try:
            rows[places[row['image_id']]].append((*row['bbox'], row['score'], labels[row['category_id']]))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f'{file}: expected predictions on {source.file}, but {printable(row)} does not fit: {error!r}'
            ) from None
    tables = [np.array(one, dtype=np.float64).reshape(-1, 6) for one in rows]
    return [Detections(table[:, :4], table[:, 4].astype(np.float32), table[:, 5].astype(int)) for table in tables]
