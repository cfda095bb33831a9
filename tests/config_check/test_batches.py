import pytest

from mmyolo_bgpenalty.config_check.check import check_config
from tests.helpers.changes import DELETED, MULTI_SOURCE, change

LOADER, PREPROCESSOR = 'train_dataloader', 'model.data_preprocessor'


def test_a_sampler_with_another_batch_size(cfg, only_finding):
    change(cfg, MULTI_SOURCE | {f'{LOADER}.batch_size': 5})
    only_finding(check_config(cfg), 'error', f'{LOADER}.sampler.batch_size', "4, but the loader's batch_size is 5")


def test_without_batch_sampler_the_share_of_labeled_images_is_left_to_chance(cfg, only_finding):
    change(cfg, {f'{LOADER}.batch_sampler': DELETED})
    only_finding(check_config(cfg), 'error', f'{LOADER}.batch_sampler', 'by chance')


@pytest.mark.parametrize(
    'path, kind',
    [(f'{LOADER}.collate_fn.type', 'yolov5_collate'), (f'{PREPROCESSOR}.type', 'YOLOv5DetDataPreprocessor')],
)
def test_batches_that_do_not_state_where_padding_is(supervised, path, kind, only_finding):
    change(supervised, {path: kind})
    only_finding(check_config(supervised), 'warning', f'{LOADER}.collate_fn', 'are penalised')
