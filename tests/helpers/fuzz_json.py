"""Everything that reads json, on COCO sets that are mutated: by hypothesis in test_fuzz_json.py, and by coverage, with
atheris installed, as ``python -m tests.helpers.fuzz_json -max_total_time=60``.

Nothing but a ValueError that names the file may come out; what is accepted is read alike by all, label by label.
"""

import contextlib
import copy
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
from functools import partial
from pathlib import Path
from typing import Callable, Dict

NAMES = ('square', 'disc', 'bar')
SEEDS = [
    b'{"images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3}], "categories": [{"id": 1, "name": "a"}], '
    b'"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1.5], "area": 1.5, "iscrowd": 0}]}',
    b'{"images": [], "categories": [], "annotations": null}',
    '{"images": [{"id": "ä"}]}'.encode('utf-16'),
]
BASE = dict(
    info=dict(year=2024, license=None),
    images=[dict(id=i, file_name=f'{i}.png', width=80, height=64) for i in range(5)],
    categories=[dict(id=i + 1, name=name, supercategory='') for i, name in enumerate(NAMES)],
    annotations=[
        dict(
            id=i,
            image_id=i % 4,
            category_id=1 + i % 3,
            bbox=[4 * i, 3, 20, 10 + i],
            area=20 * (10 + i),
            iscrowd=int(i == 5),
            segmentation=[[0, 0, 9, 0, 9, 9]],
        )
        for i in range(7)
    ],
)
ODD = (
    *(None, True, False, 0, 1, 2, -1, -0.0, 0.5, 1.0, 79, 1e-320, 1e-9, 1e30, 1e39, 1e308, -1e308, 2**31, 2**63, 2**64),
    *(10**308, 10**400, -(10**400), math.nan, math.inf, -math.inf),
    *('', '0', '1', 'square', 'nan', 'a\0b', '\ud800', '\udcff', '../../x', '/', '.', 'ä\u202e\U0001f600', 'x' * 300),
    *([], [0], [1, 2, 3], [0, 0, 9, 9], [1e308] * 4, [math.nan] * 4, [-1e308, 0, 1e308, 9], [0, 0, 10**308, 10**308]),
    *({}, {'id': 1}, {'counts': 'x', 'size': [1, 1]}),
)
KEYS = ('id', 'bbox', 'ignore', 'iscrowd', 'segmentation', 'img_id', 'instances', '', 'ä', '\ud800', '__class__')
TEXTS = (b'1e999', b'-', b'NaN', b'-Infinity', b'9' * 5000, b'"\\ud800"', b'\\', b'\0', b'[' * 2000, b'{"id":' * 99)


def mutated(pick: Callable[[int], int], base=BASE) -> bytes:
    """The json of ``base`` with mistakes; ``pick(n)`` chooses from 0 to n - 1."""
    root = dict(set=copy.deepcopy(base))
    for _ in range(pick(4)):
        _change(root, pick)
    try:
        text = json.dumps(root['set'], ensure_ascii=pick(2) == 0)
    except RecursionError:
        text = '[' * 50_000
    encoding = ('utf-8', 'utf-8', 'utf-8', 'utf-8-sig', 'utf-16', 'latin-1')[pick(6)]
    content = text.encode(encoding, 'surrogatepass' if encoding.startswith('utf') else 'replace')
    if pick(8) == 0:
        place, odd = pick(len(content) + 1), TEXTS[pick(len(TEXTS))]
        content = (
            content[:place],
            content[:place] + content[place + 1 :],
            content[:place] + odd + content[place:],
            content[:place] + odd + content[place + len(odd) :],
            content[:place] + bytes([pick(256)]) + content[place + 1 :],
        )[pick(5)]
    return content


def _change(root: dict, pick: Callable[[int], int]) -> None:
    node, key = root, 'set'
    for _ in range(pick(5)):
        inner = node[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        places = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        node, key = inner, places[pick(len(places))]
    kind = pick(9)
    if kind <= 2:
        node[key] = copy.deepcopy(ODD[pick(len(ODD))])
    elif kind == 3 and node is not root:
        del node[key]
    elif kind == 4 and isinstance(node, list):
        node.insert(pick(len(node) + 1), node[key])
    elif kind == 5 and isinstance(node, list):
        other = pick(len(node))
        node[key], node[other] = node[other], node[key]
    elif kind == 6 and isinstance(node, dict):
        node[KEYS[pick(len(KEYS))]] = copy.deepcopy(ODD[pick(len(ODD))])
    elif kind == 7:
        for _ in range((1, 50, 300, 700, 950)[pick(5)]):
            node[key] = [node[key]]
    elif isinstance(node, list):
        node[key] = node[pick(len(node))]


# Readers of a file, with what it holds when it is good. What they call is imported late: atheris looks into it then.

READERS: Dict[str, Callable[[Path], None]] = {}
BASES: Dict[str, dict] = {}


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
