"""Batch samplers whose samples carry a seed of their own."""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmyolo.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from mmyolo_bgpenalty.utils.arguments import one_of


class SeededIndex(int):
    """An index into a dataset that carries the seed of its sample's augmentation."""

    seed: int

    def __new__(cls, index: int, seed: int):
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __getnewargs__(self):
        return int(self), self.seed


def _seed_of(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


@contextmanager
def seeded_by(idx: int):
    """Within it, the generators of Python, NumPy and, on the CPU, torch start from the seed of a ``SeededIndex``.

    So a sample depends neither on the worker that loads it nor on what was loaded before: a resumed run sees the same.
    The generators are left as they were, whatever the number of workers.
    """
    if not isinstance(idx, SeededIndex):
        yield
        return
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(idx.seed)
    np.random.seed(idx.seed)
    torch.default_generator.manual_seed(idx.seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@DATA_SAMPLERS.register_module()
class SeededBatchSampler(Sampler):
    """torch's BatchSampler, which keeps the last batch, with a seed for each sample's augmentation.

    Epoch and seed alone determine it, whatever the number of processes; see ``seeded_by``.

    Args:
        sampler: mmengine's DefaultSampler.
        batch_size: images in a batch of one process.

    Attributes:
        first_batch: where the next pass begins; the one after it begins at 0.

    Raises:
        ValueError: another sampler.
    """

    def __init__(self, sampler, batch_size: int):
        if not isinstance(sampler, DefaultSampler):
            raise ValueError(f'Expected `sampler` to be a DefaultSampler, but got {type(sampler).__name__}')
        self.sampler = sampler
        self.batch_size = batch_size
        self.first_batch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        first, self.first_batch = self.first_batch, 0
        sampler, size = self.sampler, self.batch_size
        indices = list(sampler)
        for start in range(first * size, len(indices), size):
            places = range(start, min(start + size, len(indices)))
            yield [SeededIndex(indices[i], self._seed(i * sampler.world_size + sampler.rank)) for i in places]

    def _seed(self, place: int) -> int:
        return _seed_of(self.sampler.seed, self.sampler.epoch, place)


@DATA_SAMPLERS.register_module()
class LabeledUnlabeledBatchSampler(Sampler):
    """Batches of labeled images followed by unlabeled ones; an epoch is one pass over one of the sets.

    Epoch and seed alone determine the order, which is the same whatever the number of processes: each takes
    its share of every global batch. The set that ends first within an epoch is shuffled and begun again. As
    a batch sampler it is given the loader's own ``batch_size``.

    Args:
        sampler: mmengine's DefaultSampler over a LabeledUnlabeledDataset; its seed, epoch, ``shuffle``,
            rank and world size are used.
        batch_size: images in a batch of one process, labeled and unlabeled.
        source_ratio: labeled : unlabeled, two whole numbers > 0 whose sum divides ``batch_size``.
        epoch_of: 'unlabeled' or 'labeled', the set of which an epoch is one pass (rounded up to whole batches).

    Attributes:
        labeled_only: number of batches from the start of training without their unlabeled part (burn-in).
        first_batch: where the next pass begins; the one after it begins at 0.

    Raises:
        ValueError: an argument as described above is not met.
    """

    def __init__(self, sampler, batch_size: int, source_ratio: Sequence[int] = (1, 1), epoch_of: str = 'unlabeled'):
        ratio = list(source_ratio)
        if len(ratio) != 2 or not all(isinstance(n, int) and n > 0 for n in ratio):
            raise ValueError(f'Expected `source_ratio` to be two whole numbers > 0, but got {source_ratio!r}')
        if batch_size % sum(ratio):
            raise ValueError(
                f'Expected `batch_size` to be a multiple of {sum(ratio)}, the sum of `source_ratio` {ratio}, '
                f'but got {batch_size}'
            )
        one_of('epoch_of', epoch_of, ('labeled', 'unlabeled'))
        if not hasattr(sampler, 'epoch'):
            raise ValueError(f'Expected `sampler` to be a DefaultSampler, but got {type(sampler).__name__}')
        if len(getattr(sampler.dataset, 'datasets', ())) != 2:
            raise ValueError(f'Expected a LabeledUnlabeledDataset, but got a {type(sampler.dataset).__name__}')
        self.sampler = sampler
        self.batch_size = batch_size
        self.shares = [batch_size // sum(ratio) * n for n in ratio]
        self.sizes = [len(dataset) for dataset in sampler.dataset.datasets]
        source = ('labeled', 'unlabeled').index(epoch_of)
        self._length = math.ceil(self.sizes[source] / (self.shares[source] * sampler.world_size))
        self.labeled_only = 0
        self.first_batch = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        skipped, self.first_batch = self.first_batch, 0
        labeled, unlabeled = (self._indices(source, skipped * self.shares[source]) for source in (0, 1))
        first = self.sampler.epoch * self._length
        for batch in range(first + skipped, first + self._length):
            # Both streams advance in burn-in too: the order does not depend on its length.
            indices, rest = list(islice(labeled, self.shares[0])), list(islice(unlabeled, self.shares[1]))
            yield indices if batch < self.labeled_only else indices + rest

    def _indices(self, source: int, skipped: int) -> Iterator[int]:
        """This process's share of the epoch's endless, reshuffled passes over one of the sets, less its first."""
        sampler, size, offset = self.sampler, self.sizes[source], sum(self.sizes[:source])
        rng = np.random.default_rng([sampler.seed, sampler.epoch, source])

        def endless():
            for _ in count():
                yield from rng.permutation(size) if sampler.shuffle else range(size)

        first = skipped * sampler.world_size + sampler.rank
        for place, index in islice(enumerate(endless()), first, None, sampler.world_size):
            yield SeededIndex(offset + int(index), _seed_of(sampler.seed, sampler.epoch, source, place))
