"""Batches that were learnt are skipped in a run that continues within an epoch."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler

from mmyolo_bgpenalty import ResumableTrainLoop, SeededBatchSampler


@pytest.mark.parametrize('sampler', [None, SeededBatchSampler])
def test_batches_that_were_learnt_are_skipped(sampler):
    """Unread, where the batch sampler can."""
    read = []

    class Numbers(torch.utils.data.Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            read.append(int(index))
            return int(index)

    order = DefaultSampler(Numbers(), seed=3)
    kind = dict(sampler=order, batch_size=3) if sampler is None else dict(batch_sampler=sampler(order, 3))
    loader = torch.utils.data.DataLoader(Numbers(), collate_fn=list, **kind)
    whole = list(loader)
    assert len(loader) == 4 and [index for batch in whole for index in batch] == list(order)
    loop = ResumableTrainLoop(SimpleNamespace(visualizer=SimpleNamespace()), loader, max_epochs=2)
    del read[:]
    assert list(loop._batches(2)) == whole[2:]
    assert read == list(order)[0 if sampler is None else 6 :]
    assert list(loop._batches(0)) == whole
    assert list(loop._batches(4)) == []
