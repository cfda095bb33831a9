import copy

import pytest
import torch
from mmengine.hooks import EMAHook
from torch import nn

from mmyolo_bgpenalty import ChannelsLastHook
from tests.helpers import tiny
from tests.helpers.stand_ins import runner
from tests.helpers.tiny import SUPERVISED, load


def is_channels_last(model):
    # The two formats of a 1 × 1 convolution cannot be told apart.
    weights = [part.weight for part in model.modules() if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1)]
    found = {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}
    assert len(found) == 1
    return found.pop()


def test_a_training_differs_by_rounding_only(data, tmp_path):
    """The model and its average are in channels_last from the first iteration on."""
    weights = []
    for name in ('first', 'last'):
        plan = dict(train_cfg__max_epochs=1, train_cfg__val_interval=2, optim_wrapper__optimizer__lr=1e-4)
        cfg = load(SUPERVISED, data, tmp_path / name, **plan, train_dataloader__batch_size=3)
        if name == 'first':
            del cfg.default_hooks['channels_last']
        trained = tiny.train(cfg)
        (average,) = (hook.ema_model for hook in trained.hooks if isinstance(hook, EMAHook))
        assert is_channels_last(trained.model) == is_channels_last(average) == (name == 'last')
        weights.append(copy.deepcopy(trained.model.state_dict()))
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key].contiguous(), value, rtol=1e-3, atol=1e-3, msg=key)


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_wrapped_model_keeps_its_format(wrapped):
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    ChannelsLastHook().before_run(runner(nn.DataParallel(model) if wrapped else model))
    assert is_channels_last(model) is not wrapped
