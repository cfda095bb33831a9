"""ForeachEMA against ExpMomentumEMA of MMYOLO."""

import pytest
import torch
from mmyolo.models.layers import ExpMomentumEMA
from torch import nn

from mmyolo_bgpenalty import ForeachEMA


@pytest.mark.parametrize('options', [dict(), dict(interval=2), dict(update_buffers=False), dict(momentum=0.5, gamma=3)])
def test_it_averages_as_mmyolo_does(options):
    """Bit for bit, also after weights were loaded, as a resumed run does."""
    options = dict(momentum=0.002, gamma=20, update_buffers=True) | options
    model = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last)
    )
    averages = ForeachEMA(model, **options), ExpMomentumEMA(model, **options)
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        model(torch.randn(2, 2, 4, 4, generator=generator))  # changes the buffers
        for parameter in model.parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator)
        if step == 3:
            for average in averages:
                average.load_state_dict({key: value + 1 for key, value in average.state_dict().items()})
        for average in averages:
            average.update_parameters(model)
        ours, theirs = (average.state_dict() for average in averages)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    start = model.state_dict()
    assert not torch.equal(ours['module.0.weight'], start['0.weight'])
