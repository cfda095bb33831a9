"""ClassThresholdsHook: what it counts and logs, and real runs with thresholds per class."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner

from mmyolo_bgpenalty import ClassThresholdsHook
from mmyolo_bgpenalty.models.pseudo_boxes.thresholds import build_thresholds
from tests.helpers.monitored import Listed
from tests.helpers.thresholds import frequency
from tests.helpers.tiny import CLASSES, SEMI, load, make_images, make_set

BATCHES = 5  # in an epoch: 10 unlabeled images, 2 in each batch


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = make_set(tmp_path_factory.mktemp('set'))
    make_images(root, 'crowd', 12, seed=5, crowd=True)
    return root


@pytest.fixture(scope='module')
def cfg(data, tmp_path_factory):
    cfg = load(
        SEMI,
        data,
        tmp_path_factory.mktemp('work'),
        burn_in=1,
        lambda_bg_warmup=0,
        train_cfg__max_epochs=4,
        train_dataloader__dataset__labeled__ann_file='crowd.json',
        default_hooks__checkpoint__interval=1,
        default_hooks__checkpoint__save_best=None,
        default_hooks__checkpoint__max_keep_ckpts=-1,
        default_hooks__mean_teacher__momentum=0.25,
        # An early teacher has low scores. With these thresholds its boxes count.
        model__semi_train_cfg__pseudo_test_cfg=dict(score_thr=0.005, max_per_img=5),
        model__semi_train_cfg__unsure_thr=0.004,
    )
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    del cfg.default_hooks.pictures
    return cfg


class Recorder(Hook):
    def __init__(self):
        self.thresholds, self.losses, self.unsure = {}, {}, 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = float(outputs['loss'])
        if runner.model.pseudo_labels:
            self.thresholds[runner.iter] = runner.model.class_thresholds.current.tolist()
            self.unsure += sum(len(sample.ignored_instances) for sample in runner.model.pseudo_labels)


def train(cfg, work_dir, class_thresholds, **changes):
    cfg = copy.deepcopy(cfg)
    cfg.visualizer.name = cfg.work_dir = str(work_dir)
    cfg.model.semi_train_cfg.class_thresholds = class_thresholds
    cfg.merge_from_dict({name.replace('__', '.'): value for name, value in changes.items()})
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder


@pytest.mark.parametrize(
    'thresholds',
    [
        dict(type='ClassFrequency', floor=0.004, window=12, min_images=4),
        dict(type='Mixture', floor=0.004, window=12, min_scores=4),
    ],
    ids=['ClassFrequency', 'Mixture'],
)
def test_thresholds_of_a_run_are_logged_and_equal_those_of_a_resumed_run(cfg, data, tmp_path, thresholds):
    runner, recorder = train(cfg, tmp_path / 'a', thresholds)
    values = recorder.thresholds
    assert sorted(values) == list(range(BATCHES + 1, 4 * BATCHES))
    assert recorder.unsure > 0
    if thresholds['type'] == 'ClassFrequency':
        assert len({value for row in values.values() for value in row}) > BATCHES
        content = json.loads((data / 'crowd.json').read_text())
        labels = [item['category_id'] - 1 for item in content['annotations'] if not item['iscrowd']]
        assert len(labels) < len(content['annotations'])
        expected = np.bincount(labels, minlength=3) / len(content['images'])
        assert runner.model.class_thresholds.objects_per_image.tolist() == pytest.approx(list(expected))
    rows = [json.loads(row) for row in (Path(runner.log_dir) / 'vis_data/scalars.json').read_text().splitlines()]
    rows = [row for row in rows if 'semi/threshold_bar' in row]
    logged = {row['step'] - 1: [row[f'semi/threshold_{name}'] for name in CLASSES] for row in rows}
    assert logged == {iteration: pytest.approx(row) for iteration, row in values.items()}

    checkpoint = str(tmp_path / 'a/epoch_2.pth')
    assert 'class_thresholds.window' in torch.load(checkpoint, weights_only=True)['state_dict']
    resumed, after = train(cfg, tmp_path / 'b', thresholds, load_from=checkpoint, resume=True)
    assert after.thresholds == {i: row for i, row in values.items() if i >= 2 * BATCHES}
    assert after.losses == {i: loss for i, loss in recorder.losses.items() if i >= 2 * BATCHES}
    state = resumed.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in runner.model.state_dict().items())


def test_the_window_starts_empty_if_its_size_changed_or_the_checkpoint_has_none(cfg, tmp_path):
    thresholds = dict(type='ClassFrequency', floor=0.004, window=12, min_images=4)
    quick = dict(train_cfg__max_epochs=2)
    train(cfg, tmp_path / 'a', thresholds, **quick)
    train(cfg, tmp_path / 'b', dict(type='Fixed', thresholds=[0.005] * 3, floor=0.004), **quick)
    for source, window in (('a', 20), ('b', 12)):
        changed = dict(thresholds, window=window)
        options = dict(load_from=str(tmp_path / source / 'epoch_2.pth'), resume=True, train_cfg__max_epochs=3)
        runner, recorder = train(cfg, tmp_path / f'{source}2', changed, **options)
        # A batch has two images, so the second batch reaches ``min_images``.
        assert recorder.thresholds[2 * BATCHES] == [0.005] * 3 != recorder.thresholds[2 * BATCHES + 1]
        assert int(runner.model.class_thresholds.images) == 2 * BATCHES


def started(dataset, thresholds):
    scalars = {}
    hub = SimpleNamespace(log_scalars=scalars, update_scalar=scalars.__setitem__)
    model = torch.nn.Module()
    model.class_thresholds = thresholds
    loader = SimpleNamespace(dataset=dataset)
    hooks = [LoggerHook(interval=1)]
    runner = SimpleNamespace(model=model, train_dataloader=loader, message_hub=hub, hooks=hooks)
    hook = ClassThresholdsHook()
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    return scalars


@pytest.mark.parametrize(
    'dataset, message',
    [
        (SimpleNamespace(), 'got a set that does not give its annotations'),
        (SimpleNamespace(datasets=[Listed([[], [(0, 0, 1, 1, 0, 1)]]), Listed([])]), 'got 2 images without any'),
    ],
)
def test_a_labeled_set_without_known_boxes_is_an_error(dataset, message):
    with pytest.raises(
        ValueError, match=f"`class_thresholds`: 'ClassFrequency' needs labeled images with boxes, but {message}"
    ):
        started(dataset, frequency())
    # Other thresholds do not need the number of boxes.
    assert started(dataset, build_thresholds(dict(type='Mixture'), 3, 5, 0.4)) == started(dataset, None) == {}


@pytest.mark.parametrize('number', [20, 21])
def test_a_summary_is_logged_for_many_classes(number):
    values = torch.linspace(0.2, 0.6, number).tolist()
    names = [f'loss {i}' for i in range(number)]
    dataset = SimpleNamespace(datasets=[Listed([], names), Listed([])])
    logged = started(dataset, build_thresholds(dict(type='Fixed', thresholds=values), number, 5, 0.4))
    if number == 21:
        expected = dict(min=0.2, mean=0.4, max=0.6)
    else:
        expected = dict(zip(names, values))
    assert logged == pytest.approx({f'train/semi/threshold_{name}': value for name, value in expected.items()})
