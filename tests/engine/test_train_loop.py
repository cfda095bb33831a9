"""A run that continues within an epoch skips the finished batches."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler

from mmyolo_bgpenalty import ResumableTrainLoop, SeededBatchSampler


@pytest.mark.parametrize('sampler', [None, SeededBatchSampler])
def test_finished_batches_are_skipped(sampler):
    """With ``first_batch`` in the batch sampler, the skipped batches are not read."""
    read = []

    class Numbers(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    numbers = Numbers(range(10))
    order = DefaultSampler(numbers, seed=3)
    kind = dict(sampler=order, batch_size=3) if sampler is None else dict(batch_sampler=sampler(order, 3))
    loader = torch.utils.data.DataLoader(numbers, collate_fn=list, **kind)
    whole = list(loader)
    assert len(loader) == 4 and [index for batch in whole for index in batch] == list(order)
    loop = ResumableTrainLoop(SimpleNamespace(visualizer=SimpleNamespace()), loader, max_epochs=2)
    del read[:]
    assert list(loop._batches(2)) == whole[2:]
    assert read == list(order)[0 if sampler is None else 6 :]
    assert list(loop._batches(0)) == whole
    assert list(loop._batches(4)) == []
