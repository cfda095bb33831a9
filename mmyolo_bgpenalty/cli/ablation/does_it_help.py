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

LABELS_ONLY, GOOD, UNLABELED, PENALTY, ALL_LABELS = (
    'labels only',
    'good parts',
    'unlabeled pictures',
    'penalty',
    'all labels',
)
EMPTY = 'train_dataloader.dataset.empty'
TO_THE_END = 1_000_000_000  # as length of burn-in: longer than any training
NO_TRUTH = 'No variant with all labels: it needs one labeled set and json files with boxes of enough unlabeled pictures'


class Comparison(NamedTuple):
    """What an ablation compares. ``files``: path -> content of the files that the runs read. ``note``: for the user."""

    variants: dict[str, dict]
    questions: list[Question]
    files: dict[Path, str]
    note: str = ''


def does_it_help(cfg: Mapping, work_dir: Path) -> Comparison:
    """Labels only; with good parts; with unlabeled pictures; with the penalty; all labels.

    Each of the first four adds something to the one before. What the config lacks is left out: good parts (``empty``),
    unlabeled pictures, and the penalty. All labels need boxes of the unlabeled pictures. All variants have the same
    number of iterations. A config that adds only the penalty compares training with and without it.

    Raises:
        ValueError: the config adds nothing to the labels, or a json file of its training set has a mistake.
    """
    parts = ConfigParts(cfg)
    good = any(one.role == 'empty' for one in parts.train)
    penalty = parts.has_penalty and parts.plan is not None and non_negative('lambda_bg', parts.plan['lambda_bg']) > 0
    no_penalty = {'lambda_bg': 0.0} if penalty else {}
    labels_only = {'burn_in': TO_THE_END} if parts.semi else no_penalty
    variants: dict[str, dict] = {LABELS_ONLY: labels_only | ({EMPTY: None} if good else {})}
    questions: list[Question] = []

    def add(what: str, name: str, overrides: dict) -> None:
        questions.append(Question(what, name, list(variants)[-1]))
        variants[name] = overrides

    if good:
        add('Good parts', GOOD, labels_only)
    if parts.semi:
        add('Unlabeled pictures', f'{UNLABELED} and {GOOD}' if good else UNLABELED, no_penalty)
    if penalty:
        add('The penalty', f'{list(variants)[-1]} and penalty' if len(variants) > 1 else PENALTY, {})
    if len(variants) > 2:
        questions.append(Question('All together', list(variants)[-1], LABELS_ONLY))
    if not questions:
        raise ValueError(
            'Expected a config with unlabeled pictures, with good parts (`empty`) or with a penalty (lambda_bg > 0), '
            'but it has none of these: write variants into a file, and name it by --variants'
        )
    if not parts.semi:
        return Comparison(variants, questions, {})
    file = work_dir / 'all_labels.json'
    coco, overrides = _all_labels(parts, file)
    if coco is None:
        return Comparison(variants, questions, {}, NO_TRUTH)
    variants[ALL_LABELS] = {**variants[LABELS_ONLY], **overrides}
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
