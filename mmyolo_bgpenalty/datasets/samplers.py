"""Batch samplers that give each sample its own seed."""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmyolo.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from mmyolo_bgpenalty.utils.arguments import one_of, whole_number

SOURCES = ('labeled', 'unlabeled', 'empty')  # in the order of a batch


class SeededIndex(int):
    """An index into a dataset, with the seed of its sample's augmentation."""

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
    """Seed the random generators of Python, NumPy and torch (on the CPU) with the seed of a ``SeededIndex``.

    So a sample does not depend on its worker process or on earlier samples, and a resumed run loads the same samples.
    At the end the generators get their old states back.
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
    """torch's BatchSampler with a seed for each sample. See ``seeded_by``. The last batch may be smaller.

    Samples and seeds depend on seed and epoch of ``sampler``. More processes only add the repeats of ``round_up``.

    Args:
        sampler: a DefaultSampler of MMEngine. Others raise a ValueError.
        batch_size: number of images in a batch of one process.

    Attributes:
        first_batch: index of the batch with which the next epoch begins. Later epochs begin with batch 0.
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
            batch: list[int] = []
            for place, index in enumerate(indices[start : start + size], start):
                seed = _seed_of(sampler.seed, sampler.epoch, place * sampler.world_size + sampler.rank)
                batch.append(SeededIndex(index, seed))
            yield batch


@DATA_SAMPLERS.register_module()
class LabeledUnlabeledBatchSampler(SeededBatchSampler):
    """Batches of labeled images, then unlabeled images, then empty images. An epoch is one pass over a set.

    If a set is used up within an epoch, it is used again, in a new order if ``sampler`` shuffles. The order depends
    only on seed and epoch: each process takes its share of every global batch.

    Args:
        sampler: a DefaultSampler over a LabeledUnlabeledDataset.
        batch_size: number of labeled plus unlabeled images in a batch of one process.
        source_ratio: labeled : unlabeled, two whole numbers > 0. ``batch_size`` must be a multiple of their sum. It
            has no effect without unlabeled images.
        epoch_of: 'unlabeled' or 'labeled'. An epoch passes once over this set, rounded up to whole batches.
        empty_size: number of empty images that are added to a batch of one process. None (default): as many as labeled
            images. Without empty images it has no effect.

    Attributes:
        labeled_only: number of batches at the start of training that have no unlabeled images (burn-in).
        empty_shares: (empty images,): the probability of each in a draw with replacement. The same in all processes.
            None: all empty images are drawn equally often, as those of the other sets.
    """

    def __init__(
        self,
        sampler,
        batch_size: int,
        source_ratio: Sequence[int] = (1, 1),
        epoch_of: str = 'unlabeled',
        empty_size: int | None = None,
    ):
        super().__init__(sampler, batch_size)
        ratio = list(source_ratio)
        if len(ratio) != 2 or not all(isinstance(n, int) and n > 0 for n in ratio):
            raise ValueError(f'Expected `source_ratio` to be two whole numbers > 0, but got {source_ratio!r}')
        one_of('epoch_of', epoch_of, ('labeled', 'unlabeled'))
        members = getattr(sampler.dataset, 'datasets', ())
        sources = list(getattr(sampler.dataset, 'sources', SOURCES[:2]))
        if len(members) != len(sources):
            raise ValueError(f'`dataset` must be a LabeledUnlabeledDataset, but is a {type(sampler.dataset).__name__}')
        if epoch_of not in sources:
            raise ValueError(f'Expected `epoch_of` to be a set of the dataset, one of {sources}, but got {epoch_of!r}')
        if 'unlabeled' not in sources:
            ratio = [1, 0]
        if batch_size % sum(ratio):
            raise ValueError(
                f'Expected `batch_size` to be a multiple of {sum(ratio)}, the sum of `source_ratio` {ratio}, '
                f'but got {batch_size}'
            )
        shares = dict(zip(SOURCES, (batch_size // sum(ratio) * n for n in ratio)))
        shares['empty'] = shares['labeled'] if empty_size is None else whole_number('empty_size', empty_size)
        self.shares = [shares[source] for source in sources]
        self.sizes = [len(dataset) for dataset in members]
        place = sources.index(epoch_of)
        self._length = math.ceil(self.sizes[place] / (self.shares[place] * sampler.world_size))
        self.sources = sources
        self.labeled_only = 0
        self.empty_shares: np.ndarray | None = None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        skipped, self.first_batch = self.first_batch, 0
        streams = [self._indices(place, skipped * share) for place, share in enumerate(self.shares)]
        first = self.sampler.epoch * self._length
        for batch in range(first + skipped, first + self._length):
            # Unlabeled images are drawn in burn-in too. So their order does not depend on the length of burn-in.
            parts = [list(islice(stream, share)) for stream, share in zip(streams, self.shares)]
            kept = (
                part for name, part in zip(self.sources, parts) if name != 'unlabeled' or batch >= self.labeled_only
            )
            yield [index for part in kept for index in part]

    def _indices(self, place: int, skipped: int) -> Iterator[int]:
        """The indices of one set for this process, without end. The first ``skipped`` are left out."""
        sampler, size, offset = self.sampler, self.sizes[place], sum(self.sizes[:place])
        source = SOURCES.index(self.sources[place])
        rng = np.random.default_rng([sampler.seed, sampler.epoch, source])
        chances = self.empty_shares if self.sources[place] == 'empty' else None

        def endless():
            while True:
                if chances is not None:
                    yield from rng.choice(size, size, p=chances)
                else:
                    yield from rng.permutation(size) if sampler.shuffle else range(size)

        first = skipped * sampler.world_size + sampler.rank
        for position, index in islice(enumerate(endless()), first, None, sampler.world_size):
            yield SeededIndex(offset + int(index), _seed_of(sampler.seed, sampler.epoch, source, position))
