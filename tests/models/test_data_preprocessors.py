"""From collated samples to the batch of a model."""

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS, init_default_scope

from tests.helpers.tiny import CONFIGS, SEMI, SUPERVISED, load, make_images


@pytest.fixture
def cfg(data, tmp_path):
    init_default_scope('mmyolo')
    return load(SEMI, data, tmp_path)


@pytest.mark.parametrize('name', [SEMI, SUPERVISED])
def test_batch_augments_are_refused(name):
    init_default_scope('mmyolo')
    preprocessor = Config.fromfile(CONFIGS / name).model.data_preprocessor
    preprocessor.get('data_preprocessor', preprocessor).batch_augments = [
        dict(type='mmdet.BatchSyncRandomResize', random_size_range=(64, 128))
    ]
    with pytest.raises(ValueError, match='no `batch_augments`'):
        MODELS.build(preprocessor)


def test_all_images_of_a_branch_reach_the_model(cfg):
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    mixed = preprocessor(pseudo_collate([dataset[i] for i in (0, 1, 6, 7)]), training=True)
    assert {branch: tuple(x.shape) for branch, x in mixed['inputs'].items()} == dict.fromkeys(
        ('sup', 'unsup_teacher', 'unsup_student'), (2, 3, 64, 96)
    )
    assert all(len(samples) == 2 for samples in mixed['data_samples'].values())
    burn_in = preprocessor(pseudo_collate([dataset[i] for i in (0, 1)]), training=True)
    assert list(burn_in['inputs']) == ['sup']


def test_fast_path_hands_ignored_objects_and_padding_to_the_head(tmp_path):
    init_default_scope('mmyolo')
    make_images(tmp_path, 'labeled', 6, seed=5, crowd=True)
    cfg = load(SUPERVISED, tmp_path, tmp_path)
    loader = cfg.train_dataloader
    dataset = DATASETS.build(loader.dataset)
    batch = FUNCTIONS.get(loader.collate_fn.type)([dataset[i] for i in range(6)])
    out = MODELS.build(cfg.model.data_preprocessor)(batch, training=True)
    metas = out['data_samples']['img_metas']
    assert out['inputs'].shape[0] == len(metas) == 6
    assert sum(len(meta['ignored_bboxes']) for meta in metas) > 0
    assert [len(meta['ignored_labels']) for meta in metas] == [len(meta['ignored_bboxes']) for meta in metas]
    assert all(meta['homography_matrix'].shape == (3, 3) for meta in metas)
    assert set(metas[0]) >= {'batch_input_shape', 'ori_shape'}


@pytest.mark.parametrize('shape', [(64, 96), (60, 96), (64, 95)])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    'arguments',
    [
        dict(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=True),
        dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395]),
        dict(mean=[127.5], std=[3.7], rgb_to_bgr=True),
        dict(bgr_to_rgb=True),
        dict(),
    ],
)
def test_the_batch_is_that_of_mmdetection_bit_for_bit(shape, dtype, arguments):
    torch.manual_seed(0)
    images = [torch.randint(0, 256, (3, *shape)).to(dtype) for _ in range(3)]
    before = [image.clone() for image in images]
    made = []
    for name in ('mmdet.DetDataPreprocessor', 'StackingDetDataPreprocessor'):
        preprocessor = MODELS.build(dict(type=name, pad_size_divisor=32, pad_value=7, **arguments))
        samples = [DetDataSample() for _ in images]
        data = preprocessor(dict(inputs=list(images), data_samples=samples), True)
        made.append((data['inputs'], [sample.metainfo for sample in data['data_samples']]))
    assert torch.equal(made[0][0], made[1][0]) and made[0][0].dtype == made[1][0].dtype == torch.float32
    assert made[0][1] == made[1][1] and made[0][1][0]['batch_input_shape'] == (64, 96)
    # MMEngine's NaiveVisualizationHook draws the original images, so these must not change.
    assert all(torch.equal(image, old) for image, old in zip(images, before))


def test_images_of_different_shapes_are_padded():
    images = [torch.full((3, 64, width), 9, dtype=torch.uint8) for width in (64, 96)]
    batch = MODELS.build(dict(type='StackingDetDataPreprocessor', pad_size_divisor=32))(dict(inputs=images))['inputs']
    assert batch.shape == (2, 3, 64, 96) and (batch[0, :, :, 64:] == 0).all() and (batch[1] == 9).all()
