"""Batches of labeled and unlabeled images."""

import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import ConcatDataset

from mmyolo_bgpenalty import LabeledUnlabeledBatchSampler, SeededBatchSampler
from mmyolo_bgpenalty.datasets.samplers import SeededIndex, seeded_by


def batches(labeled, unlabeled, *, epoch=0, rank=0, world_size=1, shuffle=True, seed=3, **kwargs):
    sampler = DefaultSampler(ConcatDataset([range(labeled), range(unlabeled)]), shuffle, seed)
    sampler.epoch, sampler.rank, sampler.world_size = epoch, rank, world_size
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
    # Images repeat only to fill the last batch.
    assert len(seen) - unlabeled < per_global_batch


@given(world_size=st.integers(1, 4))
def test_the_global_batch_does_not_depend_on_the_number_of_processes(world_size):
    def in_order(number, batch_size):
        per_rank = [list(batches(50, 96, rank=r, world_size=number, batch_size=batch_size)) for r in range(number)]
        half = batch_size // 2
        order = []
        for step in zip(*per_rank):
            for part in (slice(0, half), slice(half, None)):
                # Rank 0 has the first image, rank 1 the second, and so on.
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


def with_empty(labeled, unlabeled, empty, **kwargs):
    """Batches of a set with empty images. ``unlabeled`` may be None."""
    sizes = dict(labeled=labeled, unlabeled=unlabeled, empty=empty)
    dataset = ConcatDataset([range(size) for size in sizes.values() if size is not None])
    dataset.sources = [name for name, size in sizes.items() if size is not None]
    return LabeledUnlabeledBatchSampler(DefaultSampler(dataset, True, 3), **{'batch_size': 4, **kwargs})


@given(empty=st.integers(1, 30), size=st.integers(1, 5))
def test_empty_images_are_added_to_each_batch(empty, size):
    """The other images and their augmentations stay as they are without them."""
    plain, more = batches(6, 20), with_empty(6, 20, empty, empty_size=size)
    plain.labeled_only = more.labeled_only = 3
    assert len(plain) == len(more)
    seen = []
    for batch, expected in zip(more, plain):
        assert [(index, index.seed) for index in batch[:-size]] == [(index, index.seed) for index in expected]
        seen += [index - 26 for index in batch[-size:]]
    assert {*seen} <= {*range(empty)} and len({*seen[:empty]}) == min(empty, len(seen))


def test_labeled_and_empty_images_alone():
    found = list(with_empty(6, None, 9, epoch_of='labeled'))
    assert [[index < 6 for index in batch] for batch in found] == [[True] * 4 + [False] * 4] * 2
    assert {index for batch in found for index in batch[:4]} == {*range(6)}
    with pytest.raises(ValueError, match="`epoch_of` to be a set of the dataset, .* but got 'unlabeled'"):
        with_empty(6, None, 9)


def test_a_resumed_epoch_has_the_same_empty_images():
    whole, resumed = with_empty(6, 20, 9), with_empty(6, 20, 9)
    resumed.first_batch = 4
    assert list(resumed) == list(whole)[4:]


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(batch_size=5), '`batch_size` to be a multiple of 2.*got 5'),
        (dict(source_ratio=[1]), '`source_ratio`.*got'),
        (dict(source_ratio=[1, 0]), '`source_ratio`.*got'),
        (dict(epoch_of='all'), "`epoch_of`.*got 'all'"),
        (dict(empty_size=0), '`empty_size` to be a whole number >= 1, but got 0'),
    ],
)
def test_bad_batches_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        batches(4, 8, **bad)


@pytest.mark.parametrize(
    'sampler, message',
    [
        (InfiniteSampler(range(4)), 'DefaultSampler, but got InfiniteSampler'),
        (DefaultSampler(range(4)), 'must be a LabeledUnlabeledDataset, but is a range'),
    ],
)
def test_other_samplers_and_datasets_are_refused(sampler, message):
    with pytest.raises(ValueError, match=message):
        LabeledUnlabeledBatchSampler(sampler, 4)


def test_a_seeded_index_can_be_pickled():
    index = pickle.loads(pickle.dumps(SeededIndex(7, 123)))
    assert index == 7 and index.seed == 123


def test_seeds_do_not_depend_on_the_number_of_processes():
    def seeds(rank, world_size):
        sampler = DefaultSampler(range(10), shuffle=True, seed=3)
        sampler.rank, sampler.world_size, sampler.num_samples = rank, world_size, 10 // world_size
        return [(int(index), index.seed) for batch in SeededBatchSampler(sampler, 2) for index in batch]

    assert [seed for pair in zip(seeds(0, 2), seeds(1, 2)) for seed in pair] == seeds(0, 1)


def test_seeded_by_seeds_all_generators_and_restores_the_one_of_torch():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    torch.manual_seed(1)
    with seeded_by(SeededIndex(0, 5)):
        first = draw()
    after = draw()
    torch.manual_seed(1)
    assert after[2] == torch.rand(()).item()
    with seeded_by(SeededIndex(0, 5)):
        assert draw() == first
