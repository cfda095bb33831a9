"""The variants of an ablation without --variants. They show whether unlabeled pictures and the penalty help."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mmyolo_bgpenalty.cli.ablation.report import Question
from mmyolo_bgpenalty.config_check.parts import ConfigParts, Dataset
from mmyolo_bgpenalty.config_check.settings.plan import epoch_length
from mmyolo_bgpenalty.datasets.solar_panels.generate import generate
from mmyolo_bgpenalty.utils.arguments import non_negative

LABELS_ONLY, UNLABELED, BOTH = 'labels only', 'unlabeled pictures', 'unlabeled pictures and penalty'
ALL_LABELS, NO_PENALTY, PENALTY = 'all labels', 'without penalty', 'with penalty'
TO_THE_END = 1_000_000_000  # as length of burn-in: longer than any training
NO_TRUTH = 'No variant with all labels: it needs one labeled set and json files with boxes of enough unlabeled pictures'


class Comparison(NamedTuple):
    """What an ablation compares. ``files``: path -> content of the files that the runs read. ``note``: for the user."""

    variants: dict[str, dict]
    questions: list[Question]
    files: dict[Path, str]
    note: str = ''


def does_it_help(cfg: Mapping, work_dir: Path) -> Comparison:
    """Labels only; with unlabeled pictures; the same with the penalty; all labels, if unlabeled pictures have boxes.

    All variants have the same number of iterations. A config without a teacher has two: with and without the penalty.

    Raises:
        ValueError: the config has neither a teacher nor a penalty, or a json file of its training set has a mistake.
    """
    parts = ConfigParts(cfg)
    penalty = parts.penalised and parts.plan is not None and non_negative('lambda_bg', parts.plan['lambda_bg']) > 0
    if not parts.semi and not penalty:
        raise ValueError(
            'Expected a config with unlabeled pictures or with a penalty (lambda_bg > 0), but it has neither: write '
            'variants into a file, and name it by --variants'
        )
    if not parts.semi:
        variants: dict[str, dict] = {NO_PENALTY: {'lambda_bg': 0.0}, PENALTY: {}}
        return Comparison(variants, [Question('The penalty', PENALTY, NO_PENALTY)], {})
    variants = {LABELS_ONLY: {'burn_in': TO_THE_END}, UNLABELED: {'lambda_bg': 0.0} if penalty else {}}
    questions = [Question('Unlabeled pictures', UNLABELED, LABELS_ONLY)]
    if penalty:
        variants[BOTH] = {}
        questions += [Question('The penalty', BOTH, UNLABELED), Question('Both together', BOTH, LABELS_ONLY)]
    file = work_dir / 'all_labels.json'
    coco, overrides = _all_labels(parts, file)
    if coco is None:
        return Comparison(variants, questions, {}, NO_TRUTH)
    variants[ALL_LABELS] = {'burn_in': TO_THE_END, **overrides}
    questions.append(Question('All labels', ALL_LABELS, LABELS_ONLY))
    return Comparison(variants, questions, {file: json.dumps(coco)})


def _all_labels(parts: ConfigParts, file: Path) -> tuple[dict | None, dict]:
    """The content of ``file``, and the overrides by which a run reads it. None without all labels."""
    for dataset in parts.train:
        if 'SolarPanelDataset' in dataset.names:
            generate(dataset.node['data_root'])  # it is made on first use, which is now
    labeled, unlabeled = ([one for one in parts.train if one.role == role] for role in ('labeled', 'unlabeled'))
    sets = [(one, parts.coco_of(one)) for one in (*labeled, *unlabeled)]
    for _, coco in sets:
        if isinstance(coco, ValueError):
            raise coco
    read = [(one, coco) for one, coco in sets if isinstance(coco, dict)]
    known = len(read) == len(sets) and all(coco['annotations'] and 'indices' not in one.node for one, coco in read)
    if not known or len(labeled) != 1 or not unlabeled:
        return None, {}
    node, path = labeled[0].node, labeled[0].path
    coco = merged(read)
    overrides: dict = {f'{path}.ann_file': os.path.relpath(file, node.get('data_root') or '.')}
    sampler = parts.batch_sampler.node
    if parts.by_epoch and sampler.get('epoch_of') == 'labeled':
        # More labeled pictures must not make an epoch longer. So the epoch now counts unlabeled pictures, as many as
        # one epoch had in the other variants. Training does not read them, since burn-in does not end.
        epoch, ratio = epoch_length(parts), sampler.get('source_ratio', (1, 1))
        pictures = epoch and epoch * parts.get('train_dataloader.batch_size') // sum(ratio) * ratio[1]
        if len(unlabeled) != 1 or not pictures or pictures > len(read[1][1]['images']):
            return None, {}
        overrides['train_dataloader.batch_sampler.epoch_of'] = 'unlabeled'
        overrides[f'{unlabeled[0].path}.indices'] = pictures
        overrides['train_dataloader.dataset.known_empty'] = None  # its list may name pictures outside `indices`
    return coco, overrides


def merged(sets: Iterable[tuple[Dataset, dict]]) -> dict:
    """One COCO set with all pictures of ``sets``. Categories are those of the first set. Paths start in its folder."""
    (first, content), *others = sets
    ids = {category['name']: category['id'] for category in content['categories']}
    images: dict[str, dict] = {}
    annotations: list[dict] = []
    for dataset, coco in [(first, content), *others]:
        names = {category['id']: category['name'] for category in coco['categories']}
        new_ids = {}
        for image in coco['images']:
            name = os.path.relpath(os.path.join(dataset.folder, image['file_name']), first.folder or '.')
            if name not in images:
                new_ids[image['id']] = len(images) + 1
                images[name] = {**image, 'id': len(images) + 1, 'file_name': name}
        for box in coco['annotations']:
            image, name = new_ids.get(box['image_id']), names[box['category_id']]
            if image is not None and name in ids:
                own = dict(id=len(annotations) + 1, image_id=image, category_id=ids[name])
                annotations.append({**box, **own})
    return dict(images=list(images.values()), annotations=annotations, categories=content['categories'])
