"""Everything that reads json, on COCO sets that are mutated: by hypothesis in test_fuzz_json.py, and by coverage, with
atheris installed, as ``python -m tests.helpers.fuzz_json -max_total_time=60``.

Nothing but a ValueError that names the file may come out; what is accepted is read alike by all, label by label."""

import contextlib
import gc
import io
import json
import logging
import math
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.helpers.mutations import BASE, NAMES, SEEDS, mutated

READERS: dict[str, Callable[[Path], None]] = {}
BASES: dict[str, dict] = {}


def reader(function, base=BASE):
    READERS[function.__name__], BASES[function.__name__] = function, base
    return function


@reader
def files(file: Path) -> None:
    from mmyolo_bgpenalty.utils.coco_json import read_coco

    for training in (False, True):
        accepted = read_coco(file, training=training)
        assert accepted['images'] and accepted['categories']
        json.dumps(accepted)


@reader
def split_tool(file: Path) -> None:
    from mmyolo_bgpenalty.cli.data.split import main
    from mmyolo_bgpenalty.cli.run import InputError
    from mmyolo_bgpenalty.utils.coco_json import read_coco

    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(file), '--percent', '40', '--out', folder]
        try:
            # Of utf-8 alone, as a terminal is. The command's guard would let other characters pass.
            with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding='utf-8')), _quiet_errors():
                main.__wrapped__(arguments)
        except InputError as error:
            few = str(error).startswith('Expected `percent` to leave an image in either part')
            raise ValueError(f'{file}: {error}' if few else str(error)) from None
        parts = [read_coco(part) for part in sorted(Path(folder).iterdir())]
    whole = read_coco(file)
    assert len(parts) == 2 and all(part['categories'] == whole['categories'] for part in parts)
    for name in ('images', 'annotations'):
        rows = [[json.dumps(row, sort_keys=True) for row in coco[name]] for coco in (whole, *parts)]
        assert sorted(rows[0]) == sorted(rows[1] + rows[2]), name


@reader
def dataset(file: Path) -> None:
    from mmyolo_bgpenalty import CheckedCocoDataset

    for empty in (False, True):
        common = dict(ann_file=str(file), data_prefix=dict(img='images/'), metainfo=dict(classes=NAMES), pipeline=[])
        _true_labels(CheckedCocoDataset(filter_cfg=dict(filter_empty_gt=empty, min_size=2), **common), file, empty)
    shapes = dict(type='BatchShapePolicy', batch_size=2, img_size=64, size_divisor=32, extra_pad_ratio=0.5)
    _true_labels(CheckedCocoDataset(test_mode=True, batch_shapes_cfg=shapes, **common), file, False)


@reader
def pair(file: Path) -> None:
    """The set as the labeled and as the unlabeled one."""
    from mmyolo.registry import DATASETS

    good = file.with_name('good.json')
    good.write_text(json.dumps(BASE))
    for labeled, unlabeled in ((file, good), (good, file)):
        member = dict(type='YOLOv5CocoDataset', data_prefix=dict(img='images/'), metainfo=dict(classes=NAMES))
        members = [dict(member, ann_file=str(path), pipeline=[]) for path in (labeled, unlabeled)]
        built = DATASETS.build(dict(type='LabeledUnlabeledDataset', labeled=members[0], unlabeled=members[1]))
        for dataset, path in zip(built.datasets, (labeled, unlabeled)):
            _true_labels(dataset, path, False)


@reader
def metric(file: Path) -> None:
    """What the dataset has learnt by is found again, all of it, by the labels that the metric reads."""
    import torch

    from mmyolo_bgpenalty import CheckedCocoDataset, PrecisionRecallMetric
    from mmyolo_bgpenalty.utils.coco_json import read_coco

    metric = PrecisionRecallMetric(ann_file=str(file), coco=True)
    metric.dataset_meta = dict(classes=NAMES)
    coco = read_coco(file, training=True)
    learnt = CheckedCocoDataset(
        ann_file=str(file), data_prefix=dict(img=''), metainfo=dict(classes=NAMES), pipeline=[], test_mode=True
    )
    number = 0
    for place in range(len(learnt)):
        info = learnt.get_data_info(place)
        objects = [instance for instance in info['instances'] if not instance['ignore_flag']]
        number += len(objects)
        found = dict(
            bboxes=torch.tensor([entry['bbox'] for entry in objects], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([entry['bbox_label'] for entry in objects], dtype=torch.long),
            scores=torch.linspace(0.5, 0.9, len(objects)),
        )
        metric.process({}, [dict(img_id=info['img_id'], ori_shape=(9, 9), pred_instances=found)])
    figures = metric.evaluate(len(learnt))
    largest = max((abs(side) for entry in coco['annotations'] for side in entry['bbox']), default=math.inf)
    if number == len(coco['annotations']) and largest < 1e4:
        assert figures['pr/recall'] == figures['pr/precision'] == 1, figures


@reader
def config_check(file: Path) -> None:
    """As labeled, unlabeled and validation set, and as the evaluator's file."""
    from mmyolo_bgpenalty.config_check import evaluation, files
    from mmyolo_bgpenalty.config_check.findings import run_checks
    from mmyolo_bgpenalty.config_check.parts import ConfigParts

    good = file.with_name('good.json')
    good.write_text(json.dumps(BASE))
    faults = []
    for spoilt in ('labeled', 'unlabeled', 'val evaluator', 'evaluator'):
        places = [file if name in spoilt.split() else good for name in ('labeled', 'unlabeled', 'val', 'evaluator')]
        sets = [
            dict(type='CheckedCocoDataset', ann_file=str(path), metainfo=dict(classes=NAMES)) for path in places[:3]
        ]
        cfg = dict(
            train_dataloader=dict(
                dataset=dict(type='LabeledUnlabeledDataset', labeled=sets[0], unlabeled=sets[1]),
                sampler=dict(type='GroupMultiSourceSampler'),
            ),
            val_dataloader=dict(dataset=sets[2]),
            val_evaluator=dict(type='PrecisionRecallMetric', ann_file=str(places[3])),
        )
        for finding in run_checks((*files.CHECKS, evaluation.check_evaluator_files), ConfigParts(cfg)):
            str(finding).encode()
            assert 'this was not checked' not in finding.what, finding
            faults += [finding.what] if finding.level == 'error' and f'{file}: ' in finding.what else []
    if faults:
        raise ValueError(faults[0])


@reader
def solar(file: Path) -> None:
    """The embedded set's own file, spoilt."""
    from mmyolo_bgpenalty.datasets.solar_panels.dataset import SolarPanelDataset

    root = _solar(file)
    target = root / 'annotations/train.json'
    shutil.copy(file, target)
    with _named(file, target):
        SolarPanelDataset(data_root=str(root), ann_file='annotations/train.json', data_prefix=dict(img=''), pipeline=[])


STAMP = dict(seed=0, num_train=600, num_val=150, percent=10, size=[320, 256], generator={})
RESULT = dict(
    config='a.py',
    variant='a',
    seed=0,
    overrides={'lambda_bg': 0.5, 'randomness.seed': 0},
    seconds=3.5,
    metrics={'coco/bbox_mAP': 0.25, 'pr/f1': 0.5, 'pr/fp_per_image_at_0.25': None},
    curve=dict(recall=[0, 0.5, 1], precision=[1, 0.5, 0.25]),
)


@partial(reader, base=STAMP)
def stamp(file: Path) -> None:
    """What says by which parameters the embedded set was made."""
    from mmyolo_bgpenalty.datasets.solar_panels import generate as synthetic

    root = _solar(file)
    shutil.copy(file, root / 'solar.json')
    with _named(file, root):
        synthetic.generate(root)


@partial(reader, base=RESULT)
def result(file: Path) -> None:
    """What a finished run of an ablation has left, and the tables of it."""
    from mmyolo_bgpenalty.cli.ablation.report import compare, markdown
    from mmyolo_bgpenalty.cli.ablation.runs import Run, estimate_seconds

    overrides = {name: value for name, value in RESULT['overrides'].items() if name != 'randomness.seed'}
    run = Run('a.py', 'a', 0, overrides, file.parent)
    shutil.copy(file, run.folder / 'result.json')
    with _named(file, run.folder / 'result.json'):
        found = run.result
    estimate_seconds([run], 1)
    markdown(compare([found, dict(RESULT, seed=1)], ['a']))


def _solar(file: Path) -> Path:
    """A folder that holds what the embedded set has, by name."""
    from mmyolo_bgpenalty.datasets.solar_panels import generate as synthetic

    root = file.parent / 'solar'
    if not root.exists():
        names = [f'images/train_{n:05d}.png' for n in range(600)] + [f'images/val_{n:05d}.png' for n in range(150)]
        names += ['annotations/train.json', 'annotations/val.json', 'semi_anns/train.1@10.json']
        for name in (*names, 'semi_anns/train.1@10-unlabeled.json'):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    good = synthetic.SetParameters(0, 600, 150, 10, (320, 256)).stamp()
    STAMP['generator'].update(good['generator'])
    (root / 'solar.json').write_text(json.dumps(good))
    return root


@contextlib.contextmanager
def _named(file: Path, name: Path):
    """Errors that name another file than the one that is checked."""
    try:
        yield
    except ValueError as error:
        assert type(error) is ValueError and str(name) in str(error), repr(error)
        raise ValueError(f'{file}: {error}') from error


def _quiet_errors():
    return contextlib.redirect_stderr(io.StringIO())


def _true_labels(dataset, file: Path, empty: bool) -> None:
    """Images and boxes of a set are those of its file, with the names it gives them, and can be learnt in fp32."""
    import numpy as np

    from mmyolo_bgpenalty.utils.coco_json import read_coco

    coco = read_coco(file, training=True)
    names = {category['id']: category['name'] for category in coco['categories']}
    expected = {image['id']: Counter() for image in coco['images']}
    sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
    for entry in coco['annotations']:
        (x, y, w, h), (right, bottom) = entry['bbox'], sizes[entry['image_id']]
        inside = min(x + w, right) > max(x, 0) and min(y + h, bottom) > max(y, 0)
        counts = inside and entry['area'] > 0 and min(w, h) >= 1 and not entry.get('ignore')
        if counts and names[entry['category_id']] in NAMES:
            row = (x, y, x + w, y + h, names[entry['category_id']], bool(entry.get('iscrowd')))
            expected[entry['image_id']][row] += 1
    seen = set()
    for place in range(len(dataset)):
        info = dataset.get_data_info(place)
        boxes = [entry['bbox'] for entry in info['instances']]
        assert np.isfinite(np.array(boxes, dtype=np.float32)).all(), boxes
        rows = [
            (*entry['bbox'], dataset.metainfo['classes'][entry['bbox_label']], bool(entry['ignore_flag']))
            for entry in info['instances']
        ]
        assert Counter(rows) == expected[info['img_id']], (rows, expected[info['img_id']])
        assert info['img_id'] not in seen
        seen.add(info['img_id'])
    left_out = [image for image in expected if image not in seen]
    assert empty or all(min(sizes[image]) < 2 for image in left_out)
    assert not any(expected[image] and min(sizes[image]) >= 2 for image in left_out)


def check(name: str, content: bytes, folder: Path) -> bool:
    """Whether a reader accepts the content; anything but that and an error of ours raises AssertionError."""
    from mmyolo_bgpenalty.utils.files import printable

    file = folder / 'set.json'
    file.write_bytes(content)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('error', RuntimeWarning)
            READERS[name](file)
    except ValueError as error:
        if type(error) is ValueError and str(file) in str(error) and printable(error) == str(error):
            return False
        raise AssertionError(f'{name}: {type(error).__name__}: {error}, of {content[:3000]!r}') from error
    except Exception as error:
        raise AssertionError(f'{name}: {type(error).__name__}: {error}, of {content[:3000]!r}') from error
    return True


def set_up() -> None:
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope
    from mmyolo.utils import register_all_modules

    register_all_modules()
    init_default_scope('mmyolo')
    MMLogger.get_current_instance().setLevel(logging.CRITICAL)
    gc.freeze()  # MMEngine collects garbage for every dataset: among all that torch has, it takes most of the time


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=['mmyolo_bgpenalty']):
        set_up()
        import mmyolo_bgpenalty  # noqa: F401
    corpus, folder, names = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp()), list(READERS)
    for place, name in enumerate(names):
        good, rng = json.dumps(BASES[name]).encode(), random.Random(place)
        for number, seed in enumerate((good, *SEEDS, *(mutated(rng.randrange, BASES[name]) for _ in range(5)))):
            (corpus / f'{name}_{number}').write_bytes(bytes([2 * place]) + seed)
            (corpus / f'{name}_{number}_choices').write_bytes(bytes([2 * place + 1]) + rng.randbytes(200))

    def one_input(data: bytes) -> None:
        """The first byte chooses the reader, and whether the others are its file or choices among mutations."""
        place, chosen = divmod(data[0] if data else 0, 2)
        name, content = names[place % len(names)], data[1:]
        if chosen:
            provider = atheris.FuzzedDataProvider(content)
            content = mutated(lambda n: provider.ConsumeIntInRange(0, n - 1), BASES[name])
        check(name, content, folder)

    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[1:]], one_input)
    atheris.Fuzz()


if __name__ == '__main__':
    main()
