import pytest

from mmyolo_bgpenalty.config_check.check import check_config
from tests.helpers.changes import DELETED, MULTI_SOURCE, change

LOADER, PREPROCESSOR = 'train_dataloader', 'model.data_preprocessor'
INNER = f'{PREPROCESSOR}.data_preprocessor'
E, W = 'error', 'warning'
SEMI_MISTAKES = {
    'sampler and loader differ': (
        MULTI_SOURCE | {f'{LOADER}.batch_size': 5},
        *(E, f'{LOADER}.sampler.batch_size', "4, but the loader's batch_size is 5"),
    ),
    'batches by chance': ({f'{LOADER}.batch_sampler': DELETED}, E, f'{LOADER}.batch_sampler', 'by chance'),
    'collate without branches': (
        {f'{LOADER}.collate_fn': dict(type='yolov5_collate')},
        *(E, f'{LOADER}.collate_fn', 'mixes the branches'),
    ),
    'inner preprocessor without branches': (
        {f'{INNER}.type': 'YOLOv5DetDataPreprocessor'},
        *(E, f'{INNER}.type', 'have no branches'),
    ),
    'single preprocessor': (
        {PREPROCESSOR: dict(type='mmdet.DetDataPreprocessor')},
        *(E, PREPROCESSOR, 'DetDataPreprocessor fails on batches with branches'),
    ),
    'preprocessor that cannot burn in': (
        {f'{PREPROCESSOR}.type': 'mmdet.MultiBranchDataPreprocessor'},
        *(E, PREPROCESSOR, 'MultiBranchDataPreprocessor fails on batches with branches, or on those of burn-in'),
    ),
    'batch augments': (
        {f'{INNER}.batch_augments': [dict(type='mmdet.BatchSyncRandomResize')]},
        *(E, f'{INNER}.batch_augments', 'after the geometry was recorded'),
    ),
}


@pytest.mark.parametrize('mistake', SEMI_MISTAKES)
def test_a_mistake_in_the_semi_config(cfg, mistake, only_finding):
    changes, *expected = SEMI_MISTAKES[mistake]
    change(cfg, changes)
    only_finding(check_config(cfg), *expected)


@pytest.mark.parametrize(
    'path, kind, level, what',
    [
        (f'{LOADER}.collate_fn.type', 'yolov5_collate', W, 'are penalised'),
        (f'{PREPROCESSOR}.type', 'YOLOv5DetDataPreprocessor', W, 'are penalised'),
        (f'{PREPROCESSOR}.type', 'mmdet.DetDataPreprocessor', E, 'do not belong together'),
    ],
)
def test_collate_and_preprocessor_of_the_supervised_config(supervised, path, kind, level, what, only_finding):
    change(supervised, {path: kind})
    only_finding(check_config(supervised), level, f'{LOADER}.collate_fn', what)


def test_a_preprocessor_of_branches_is_enough_without_burn_in(cfg):
    change(cfg, {'burn_in': 0, f'{PREPROCESSOR}.type': 'mmdet.MultiBranchDataPreprocessor'})
    assert check_config(cfg) == []
