"""The plan of a run, computed from a config, equals what the Runner would do."""

import json
import shutil

import pytest
from mmengine.runner import Runner

from mmyolo_bgpenalty.config_check.settings.plan import RunPlan, run_plan
from tests.helpers.changes import DELETED, ITERATIONS, change

LOADER = 'train_dataloader'


@pytest.fixture
def epoch_length():
    """The real one."""


def test_the_plan_in_one_line():
    assert str(RunPlan(135, 1080, 2700)) == 'an epoch = 135 iterations; burn-in 1,080; total 2,700'
    assert str(RunPlan(None, 1000, 180000)) == 'burn-in 1,000; total 180,000'


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {f'{LOADER}.batch_sampler.epoch_of': 'labeled'},
        {f'{LOADER}.batch_size': 6, f'{LOADER}.batch_sampler.source_ratio': [1, 2]},
    ],
)
def test_labeled_and_unlabeled_images(cfg, changes):
    """6 labeled and 10 unlabeled images, 20 epochs, 8 of them burn-in."""
    change(cfg, changes)
    epoch = len(Runner.build_dataloader(cfg.train_dataloader, seed=0))
    assert run_plan(cfg) == (epoch, 8 * epoch, 20 * epoch)


@pytest.fixture
def with_empty_images(data, supervised, tmp_path):
    """6 images. One is small, and two have no box of the classes."""
    root = shutil.copytree(data, tmp_path / 'set')
    coco = json.loads((root / 'labeled.json').read_text())
    coco['annotations'] = [one for one in coco['annotations'] if one['image_id'] != 2]
    coco['categories'].append(dict(id=9, name='other'))
    for one in coco['annotations']:
        one['category_id'] = 9 if one['image_id'] == 3 else one['category_id']
    coco['images'][0]['height'] = 20
    (root / 'labeled.json').write_text(json.dumps(coco))
    change(supervised, {f'{LOADER}.dataset.data_root': f'{root}/', f'{LOADER}.batch_size': 1})
    return supervised


@pytest.mark.parametrize('filters, kept', [({}, 6), (dict(filter_empty_gt=True), 4), (dict(min_size=32), 5), (None, 6)])
def test_filtered_images(with_empty_images, filters, kept):
    change(with_empty_images, {f'{LOADER}.dataset.filter_cfg': filters})
    assert len(Runner.build_dataloader(with_empty_images.train_dataloader, seed=0)) == kept
    assert run_plan(with_empty_images).epoch == kept


@pytest.mark.parametrize('drop_last', [True, False])
def test_the_last_batch(supervised, drop_last):
    change(supervised, {f'{LOADER}.drop_last': drop_last, f'{LOADER}.batch_sampler': DELETED})
    expected = len(Runner.build_dataloader(supervised.train_dataloader, seed=0))
    assert run_plan(supervised).epoch == expected == (1 if drop_last else 2)


def test_a_folder_and_several_sets(cfg, supervised, data):
    folder = dict(type='ImageFolderDataset', data_prefix=dict(img=f'{data}/images'), pipeline=[])
    change(cfg, {f'{LOADER}.dataset.unlabeled': folder})
    assert run_plan(cfg).epoch == 10  # the folder has all 20 images
    one = supervised.train_dataloader.dataset
    change(supervised, {f'{LOADER}.dataset': dict(type='ConcatDataset', datasets=[one, one])})
    assert run_plan(supervised).epoch == len(Runner.build_dataloader(supervised.train_dataloader, seed=0)) == 3


def test_a_run_of_iterations(cfg):
    change(cfg, ITERATIONS)
    assert run_plan(cfg) == (5, 4000, 12000)
    change(cfg, {f'{LOADER}.dataset.unlabeled.ann_file': 'none.json'})
    assert run_plan(cfg) == (None, 4000, 12000)
    change(cfg, {'default_hooks.lambda_bg': dict(type='LambdaBgSchedulerHook')})  # counts epochs
    assert run_plan(cfg) is None


@pytest.mark.parametrize(
    'changes',
    [
        {f'{LOADER}.dataset.unlabeled.ann_file': 'none.json'},
        {f'{LOADER}.dataset.unlabeled.indices': 5},
        {f'{LOADER}.batch_size': 'two'},
        {f'{LOADER}.batch_size': 0},
        {'burn_in': 'four'},
        {'train_cfg': dict(max_epochs=3)},
        {f'{LOADER}.dataset': dict(type='RepeatDataset', times=2, dataset=dict(type='CocoDataset'))},
        {'train_cfg': None},
    ],
)
def test_an_unknown_plan(cfg, changes):
    change(cfg, changes)
    assert run_plan(cfg) is None
