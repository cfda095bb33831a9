"""Real runs with unusual images and boxes, and in mixed precision, stay finite."""

import cv2
import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmyolo.registry import DATASETS

from tests.helpers import tiny
from tests.helpers.amp import CpuAmpOptimWrapper
from tests.helpers.changes import edit
from tests.helpers.finite_runs import PLAN, SUPERVISED_PLAN, train
from tests.helpers.tiny import SEMI, SUPERVISED, load, make_set

DENSE = 'yolov8_semi_bgpenalty_dense.py'
BOXES = {  # x, y, width, height in an image of 80 x 64 pixels: whether the box is an object
    (10, 10, 0, 0): False,
    (10, 10, 0, 20): False,
    (5, 5, 1e-9, 30): False,
    (500, 500, 10, 10): False,
    (-50, -50, 50, 50): False,
    (-10, -10, 200, 200): True,
    (70, 50, 50, 50): True,
    (-1e30, 1, 2e30, 1): True,
}


def make_odd_set(root):
    """Grey images of 8 and 16 bits. Labeled image 0 has 1000 boxes, image 1 has BOXES, the other four have none."""
    make_set(root)
    for i, file in enumerate(sorted((root / 'images').glob('*.png'))):
        grey = cv2.imread(str(file))[..., 1]
        cv2.imwrite(str(file), grey if i % 2 else grey.astype(np.uint16) * 257)

    def change(coco):
        rng = np.random.default_rng(0)
        many = [[*rng.uniform(0, 50, 2), *rng.uniform(1, 14, 2)] for _ in range(1000)]
        boxes = [(0, box) for box in many] + [(1, box) for box in BOXES]
        coco['annotations'] = [
            dict(id=i, image_id=image, category_id=1 + i % 3, bbox=list(box), area=box[2] * box[3], iscrowd=0)
            for i, (image, box) in enumerate(boxes)
        ]

    edit(root, 'labeled', change)
    return root


def test_odd_pictures_and_boxes_in_batches_of_one(tmp_path):
    """A batch has one labeled image. Most batches have no object, some have hundreds."""
    root = make_odd_set(tmp_path / 'set')
    cfg = load(SEMI, root, tmp_path / 'work', train_dataloader__batch_size=2, **PLAN)
    init_default_scope('mmyolo')
    labeled = DATASETS.build(cfg.train_dataloader.dataset).datasets[0]
    found = labeled.get_data_info(1)['instances']
    assert [item['bbox'] for item in found] == [
        [x, y, x + w, y + h] for (x, y, w, h), is_one in BOXES.items() if is_one
    ]
    for place in range(2):  # one image has 16 bits, the other has 8
        picture = labeled.pipeline.transforms[0](labeled.get_data_info(place))['img']
        grey = cv2.imread(str(root / f'images/labeled_{place:03}.png'), cv2.IMREAD_UNCHANGED)
        assert picture.dtype == np.uint8 and picture.shape == (64, 80, 3)
        assert (picture == (grey if grey.dtype == np.uint8 else grey // 256)[..., None]).all()
    _, watch, _ = train(cfg)
    counts = [number for numbers in watch.objects for number in numbers]
    assert {len(numbers) for numbers in watch.objects} == {1} and 0 in counts and max(counts) > 500


@pytest.mark.parametrize('name', [SEMI, SUPERVISED], ids=['semi', 'supervised'])
@pytest.mark.parametrize('classes', [1, 1000])
def test_number_of_classes(tmp_path, name, classes):
    root = make_set(tmp_path / 'set')
    names = [f'class {i}' for i in range(classes)]

    def change(coco):
        coco['categories'] = [dict(id=i, name=name) for i, name in enumerate(names)]
        for annotation in coco['annotations']:
            annotation['category_id'] = annotation['id'] * 333 % classes

    for part in ('labeled', 'unlabeled'):
        edit(root, part, change)
    cfg = load(name, root, tmp_path / 'work', **(PLAN if name == SEMI else SUPERVISED_PLAN))
    detector, dataset = cfg.model.get('detector', cfg.model), cfg.train_dataloader.dataset
    detector.bbox_head.head_module.num_classes = detector.train_cfg.assigner.num_classes = classes
    for one in (dataset.labeled, dataset.unlabeled) if name == SEMI else (dataset,):
        one.metainfo.classes = names
    runner, watch, _ = train(cfg)
    assert name == SUPERVISED or watch.losses[-1]['unsup_loss_cls'] > 0
    assert any(p.shape[0] == classes for p in runner.model.parameters())


def test_a_supervised_run_in_batches_of_one(tmp_path):
    """The images are mosaics. One source has a thousand boxes, most have none."""
    cfg = load(SUPERVISED, make_odd_set(tmp_path / 'set'), tmp_path / 'work', **SUPERVISED_PLAN)
    cfg.train_dataloader.batch_size = 1
    _, watch, _ = train(cfg)
    assert len(watch.losses) == 12


@pytest.mark.parametrize('name', [SEMI, SUPERVISED], ids=['semi', 'supervised'])
@pytest.mark.parametrize(
    'size, scale', [((40, 32), (32, 32)), ((700, 32), (1024, 32)), ((30, 700), (64, 96))], ids=['32 px', 'wide', 'tall']
)
def test_small_and_long_pictures(tmp_path, monkeypatch, size, scale, name):
    monkeypatch.setattr(tiny, 'SIZE', size)
    monkeypatch.setattr(tiny, 'INPUT', scale)
    root = make_set(tmp_path / 'set')
    _, watch, _ = train(load(name, root, tmp_path / 'work', **(PLAN if name == SEMI else SUPERVISED_PLAN)))
    assert watch.shapes == {scale[::-1]}


class Scales(Hook):
    """Keeps the scale of the losses after every iteration."""

    def __init__(self):
        self.scales = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.scales.append(runner.optim_wrapper.loss_scaler.get_scale())


def check_mixed(tmp_path, name, dtype, iterations, init_scale=2.0**16):
    plan = {**PLAN, 'train_cfg__max_epochs': iterations // 5} if name != SUPERVISED else dict(burn_in=1)
    cfg = load(name, make_set(tmp_path / 'set'), tmp_path / 'work', **plan)
    if name == SUPERVISED:
        cfg.train_dataloader.batch_size = 3
        cfg.train_cfg.max_epochs = iterations // 2
    if dtype:
        cfg.optim_wrapper.update(type=CpuAmpOptimWrapper, dtype=dtype, init_scale=init_scale)
    scales = Scales()
    runner, watch, log = train(cfg, *([scales] if dtype else []))
    assert len(watch.losses) == iterations
    # The scaler halves its scale whenever it skips an update.
    halvings = sum(later < before for before, later in zip([init_scale, *scales.scales], scales.scales))
    (guard,) = (hook for hook in runner.hooks if type(hook).__name__ == 'NonFiniteGuardHook')
    assert guard._overflows == halvings < iterations
    assert f'{halvings} updates whose fp16 gradients overflowed' in log or not halvings
    return halvings


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_mixed_precision(tmp_path, dtype):
    """The first scale is too large for fp16. The first updates are skipped, and counted."""
    halvings = check_mixed(tmp_path, SEMI, dtype, 15, init_scale=2.0**18)
    assert (halvings > 0) == (dtype == 'float16')


@pytest.mark.slow
@pytest.mark.parametrize('name', [SEMI, DENSE, SUPERVISED], ids=['semi', 'dense', 'supervised'])
@pytest.mark.parametrize('dtype', [None, 'bfloat16', 'float16'], ids=['fp32', 'bf16', 'fp16'])
def test_200_iterations_are_finite(tmp_path, name, dtype):
    check_mixed(tmp_path, name, dtype, 200)
