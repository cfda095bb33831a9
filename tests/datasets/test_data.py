import json
import pickle
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.registry import FUNCTIONS, init_default_scope
from mmengine.runner import Runner

from mmyolo_bgpenalty import LabeledUnlabeledBatchSampler, RecordedLetterResize
from mmyolo_bgpenalty.datasets.samplers import SeededIndex
from tests.helpers.tiny import CONFIGS, SEMI, SUPERVISED, load, make_images, make_set


def batches(labeled, unlabeled, *, epoch=0, rank=0, world_size=1, shuffle=True, seed=3, **kwargs):
    dataset = SimpleNamespace(datasets=[range(labeled), range(unlabeled)])
    sampler = SimpleNamespace(
        dataset=dataset, seed=seed, epoch=epoch, rank=rank, world_size=world_size, shuffle=shuffle
    )
    return LabeledUnlabeledBatchSampler(sampler, **{'batch_size': 4, **kwargs})


@given(
    labeled=st.integers(1, 9),
    unlabeled=st.integers(1, 30),
    world_size=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_an_epoch_is_one_pass_over_the_unlabeled_set(labeled, unlabeled, world_size, epoch):
    ranks = [
        list(batches(labeled, unlabeled, epoch=epoch, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    per_global_batch = 2 * world_size
    assert {len(rank) for rank in ranks} == {-(-unlabeled // per_global_batch)}
    for rank in ranks:
        for batch in rank:
            assert [index < labeled for index in batch] == [True, True, False, False]
    seen = [index - labeled for rank in ranks for batch in rank for index in batch[2:]]
    assert set(seen) == set(range(unlabeled))
    # Only what rounding up to whole batches needs is seen again.
    assert len(seen) - unlabeled < per_global_batch


@given(world_size=st.integers(1, 4))
def test_the_global_batch_does_not_depend_on_the_number_of_processes(world_size):
    def in_order(number, batch_size):
        per_rank = [list(batches(50, 96, rank=r, world_size=number, batch_size=batch_size)) for r in range(number)]
        half = batch_size // 2
        order = []
        for step in zip(*per_rank):
            for part in (slice(0, half), slice(half, None)):
                # Ranks take turns.
                order += [i for group in zip(*[batch[part] for batch in step]) for i in group]
        return [(int(i), i.seed) for i in order]

    assert in_order(world_size, 24 // world_size // 2 * 2) == in_order(1, 24 // world_size // 2 * 2 * world_size)


def test_epoch_of_the_labeled_set():
    sampler = batches(10, 100, epoch_of='labeled')
    assert len(sampler) == 5
    assert {index for batch in sampler for index in batch[:2]} == set(range(10))


def test_epochs_differ_and_a_resumed_epoch_is_the_same():
    first, again, second = (list(batches(7, 20, epoch=epoch)) for epoch in (0, 0, 1))
    assert first == again and first != second
    assert [[i.seed for i in b] for b in first] == [[i.seed for i in b] for b in again]
    seeds = [i.seed for b in first + second for i in b]
    assert len(set(seeds)) == len(seeds)


def test_burn_in_leaves_out_the_unlabeled_part_and_keeps_the_order():
    plain, burn_in = batches(6, 20, epoch=1), batches(6, 20, epoch=1)
    burn_in.labeled_only = len(plain) + 3
    for number, (whole, batch) in enumerate(zip(plain, burn_in)):
        assert batch == (whole[:2] if number < 3 else whole)


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(batch_size=5), '`batch_size` to be a multiple of 2.*got 5'),
        (dict(source_ratio=[1]), '`source_ratio`.*got'),
        (dict(source_ratio=[1, 0]), '`source_ratio`.*got'),
        (dict(epoch_of='all'), "`epoch_of`.*got 'all'"),
    ],
)
def test_bad_batches_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        batches(4, 8, **bad)


@pytest.mark.parametrize(
    'sampler, message',
    [
        (InfiniteSampler(range(4)), 'DefaultSampler, but got InfiniteSampler'),
        (DefaultSampler(range(4)), 'LabeledUnlabeledDataset, but got a range'),
    ],
)
def test_batches_of_what_is_no_pair_of_sets_are_refused(sampler, message):
    with pytest.raises(ValueError, match=message):
        LabeledUnlabeledBatchSampler(sampler, 4)


def test_seeded_index_survives_the_way_to_a_worker():
    index = pickle.loads(pickle.dumps(SeededIndex(7, 123)))
    assert index == 7 and index.seed == 123


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp('set'))


@pytest.fixture
def cfg(data, tmp_path):
    init_default_scope('mmyolo')
    return load(SEMI, data, tmp_path)


def test_a_sample_depends_on_its_seed_alone(cfg):
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    np.random.seed(0)
    first = [dataset[SeededIndex(i, 11)]['inputs'] for i in (0, 8)]
    dataset[3]
    again = [dataset[SeededIndex(i, 11)]['inputs'] for i in (0, 8)]
    other = dataset[SeededIndex(0, 12)]['inputs']
    assert torch.equal(first[0]['sup'], again[0]['sup'])
    assert torch.equal(first[1]['unsup_student'], again[1]['unsup_student'])
    assert not torch.equal(first[0]['sup'], other['sup'])


def test_training_does_not_read_the_boxes_of_unlabeled_images(cfg):
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.datasets[1].get_data_info(0)['instances']
    samples = dataset[len(dataset.datasets[0])]['data_samples']
    assert samples['sup'] is None
    for branch in ('unsup_teacher', 'unsup_student'):
        assert len(samples[branch].gt_instances) == 0


@pytest.mark.parametrize('name', ['labeled', 'unlabeled'])
def test_an_empty_set_is_named(cfg, tmp_path, name):
    make_images(tmp_path, 'nothing', 0, 0)
    cfg.merge_from_dict(
        {
            f'train_dataloader.dataset.{name}.data_root': '',
            f'train_dataloader.dataset.{name}.ann_file': f'{tmp_path}/nothing.json',
        }
    )
    with pytest.raises(ValueError, match=f'`{name}` set.*nothing.json'):
        DATASETS.build(cfg.train_dataloader.dataset)


def test_the_unlabeled_json_needs_no_boxes(cfg, data, tmp_path):
    """As the README says."""
    content = json.loads((data / 'unlabeled.json').read_text())
    del content['annotations']
    (tmp_path / 'bare.json').write_text(json.dumps(content))
    cfg.train_dataloader.dataset.unlabeled.ann_file = str(tmp_path / 'bare.json')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset.datasets[1]) == 10
    assert dataset[6]['inputs']['unsup_student'].shape == (3, 64, 96)


def test_the_solar_set_does_not_take_a_folder_of_somebody_else(cfg):
    for name in ('labeled', 'unlabeled'):
        cfg.train_dataloader.dataset[name].type = 'SolarPanelDataset'
    with pytest.raises(ValueError, match="not a generated set.*A set of your own takes `type='CheckedCocoDataset'`"):
        DATASETS.build(cfg.train_dataloader.dataset)


def test_labels_of_other_classes_are_named(cfg):
    for name in ('labeled', 'unlabeled'):
        cfg.train_dataloader.dataset[name].metainfo.classes = ('cat', 'dog', 'cow')
    with pytest.raises(ValueError, match="'cat'.*labeled.json.*'square', 'disc', 'bar'"):
        DATASETS.build(cfg.train_dataloader.dataset)


def test_trap_17_mmdetections_pipeline_switch_reaches_the_labeled_images(cfg):
    """PipelineSwitchHook sets `pipeline` on the loader's dataset."""
    from mmcv.transforms import Compose

    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    unlabeled = dataset.datasets[1].pipeline
    switched = Compose([lambda results: 'switched'])
    dataset.pipeline = switched
    assert dataset.pipeline is switched and dataset[0] == 'switched'
    assert dataset.datasets[1].pipeline is unlabeled


@pytest.mark.parametrize('name', [SEMI, SUPERVISED])
def test_batch_augments_are_refused(name):
    init_default_scope('mmyolo')
    preprocessor = Config.fromfile(CONFIGS / name).model.data_preprocessor
    preprocessor.get('data_preprocessor', preprocessor).batch_augments = [
        dict(type='mmdet.BatchSyncRandomResize', random_size_range=(64, 128))
    ]
    with pytest.raises(ValueError, match='no `batch_augments`'):
        MODELS.build(preprocessor)


def test_both_views_come_from_one_decoded_image(cfg, monkeypatch):
    calls = []
    for owner, name in ((mmcv, 'imfrombytes'), (RecordedLetterResize, 'transform')):
        original = getattr(owner, name)

        def counted(*args, _name=name, _original=original, **kwargs):
            calls.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for index, branches in ((0, {'sup'}), (6, {'unsup_teacher', 'unsup_student'})):
        calls.clear()
        inputs = dataset[index]['inputs']
        assert {branch for branch, image in inputs.items() if image is not None} == branches
        assert calls == ['imfrombytes', 'transform']


def boxes_of(sample):
    boxes = sample.gt_instances.bboxes  # of the labeled images HorizontalBoxes
    return getattr(boxes, 'tensor', boxes)


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_the_same_from_workers_in_one_piece_and_in_many(cfg, workers):
    def loaded(**changes):
        loader = Runner.build_dataloader(dict(cfg.train_dataloader, **changes), seed=4)
        return list(loader)

    batches = loaded(num_workers=workers)
    expected = loaded(collate_fn=dict(type='pseudo_collate'))
    assert len(batches) == len(expected) == 5
    for batch, one in zip(batches, expected):
        for branch, images in one['inputs'].items():
            for image, other in zip(images, batch['inputs'][branch]):
                assert (image is None) == (other is None) and (image is None or torch.equal(image, other))
            for sample, other in zip(one['data_samples'][branch], batch['data_samples'][branch]):
                assert (sample is None) == (other is None)
                if sample is not None:
                    assert sample.img_path == other.img_path
                    assert np.array_equal(sample.homography_matrix, other.homography_matrix)
                    assert torch.equal(boxes_of(sample), boxes_of(other))
                    assert torch.equal(sample.gt_instances.labels, other.gt_instances.labels)


def test_trap_12_branches_reach_the_model_whole(cfg):
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


def test_ignored_objects_may_have_no_labels(tmp_path):
    init_default_scope('mmyolo')
    make_images(tmp_path, 'labeled', 2, seed=5, crowd=True)
    loader = load(SUPERVISED, tmp_path, tmp_path).train_dataloader
    items = [DATASETS.build(loader.dataset)[i] for i in range(2)]
    for item in items:
        del item['data_samples'].ignored_instances.labels
    regions = FUNCTIONS.get(loader.collate_fn.type)(items)['data_samples']['regions']
    assert all('ignored_bboxes' in meta and 'ignored_labels' not in meta for meta in regions)


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
def test_stacked_images_are_the_padded_ones_bit_for_bit(shape, dtype, arguments):
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
    # Pictures are drawn of what the loader gave.
    assert all(torch.equal(image, old) for image, old in zip(images, before))


def test_images_of_unlike_shapes_are_padded_as_ever():
    images = [torch.full((3, 64, width), 9, dtype=torch.uint8) for width in (64, 96)]
    batch = MODELS.build(dict(type='StackingDetDataPreprocessor', pad_size_divisor=32))(dict(inputs=images))['inputs']
    assert batch.shape == (2, 3, 64, 96) and (batch[0, :, :, 64:] == 0).all() and (batch[1] == 9).all()
