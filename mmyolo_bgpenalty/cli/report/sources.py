"""Read the predictions of a run, and the annotated images they are on."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config

from mmyolo_bgpenalty.cli.test import CONFIG
from mmyolo_bgpenalty.evaluation.matching import Detections, Truth, truth_by_image
from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.files import printable, read_json


class Source(NamedTuple):
    """The annotated images on which runs are compared."""

    file: str
    folder: str  # of the images
    images: list[dict]  # of the COCO json
    classes: list[str]
    truth: list[Truth]  # of each image
    categories: list[Any]  # id of each class
    iou_thr: float
    score_thr: float


class Run(NamedTuple):
    name: str
    source: Source
    found: list[Detections]  # in each image of the source
    checkpoint: str | None
    metrics: dict[str, float | None]  # of metrics.json


def results_in(path: str | Path) -> dict[str, str | Path]:
    """The results of ``test --out`` by name: those of each variant of an ablation (its first seed), or the folder."""
    ablation = Path(path, 'ablation.json')
    if not ablation.is_file():
        return {_name_of(Path(path)): path}
    found: dict[str, str | Path] = {}
    for run in sorted(read_json(ablation)['runs'], key=lambda run: run['seed']):
        found.setdefault(run['variant'], Path(run['config']).with_suffix('') / 'test')
    return found


def read_run(path: str | Path, name: str) -> Run:
    """The run in a folder that ``test --out`` wrote: the config, and the predictions as ``*.bbox.json``.

    Raises:
        ValueError: a file is missing, or does not fit the annotations.
    """
    folder = Path(path)
    predictions, config = sorted(folder.glob('*.bbox.json')), folder / CONFIG
    if len(predictions) != 1 or not config.is_file():
        what = f'{len(predictions)} *.bbox.json' if config.is_file() else f'no {CONFIG}'
        raise ValueError(
            f'{path}: expected a folder that `test CONFIG CHECKPOINT --out {path}` wrote, but it has {what}'
        )
    cfg = Config.fromfile(config, import_custom_modules=False)
    source = _source(cfg)
    metrics = read_json(folder / 'metrics.json') if (folder / 'metrics.json').is_file() else {}
    return Run(name, source, _detections(predictions[0], source), cfg.get('load_from'), metrics)


def _name_of(folder: Path) -> str:
    """The name of the folder, or that of its parent if it only says what it is."""
    folder = folder.resolve()
    return folder.parent.name if folder.name in ('test', 'val', 'out', 'results') else folder.name


def _source(cfg: Config) -> Source:
    dataset = cfg.test_dataloader.dataset
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    metric: Mapping = next((one for one in evaluators if one.get('ann_file')), {})
    file = metric.get('ann_file')
    if file is None:
        raise ValueError(f'{cfg.filename}: expected a metric with `ann_file` in `test_evaluator`, but there is none')
    coco = read_coco(file)
    classes = list((dataset.get('metainfo') or {}).get('classes') or [one['name'] for one in coco['categories']])
    # Labels follow the order of the file's categories, as in CocoMetric.
    known = [one for one in coco['categories'] if one['name'] in classes]
    categories = [one['id'] for one in known]
    return Source(
        file=str(file),
        folder=os.path.join(dataset.get('data_root') or '', (dataset.get('data_prefix') or {}).get('img') or ''),
        images=coco['images'],
        classes=[one['name'] for one in known],
        truth=truth_by_image(coco, categories),
        categories=categories,
        iou_thr=metric.get('iou_thr', 0.5),
        score_thr=metric.get('score_thr', 0.25),
    )


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
