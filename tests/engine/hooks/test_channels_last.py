import copy

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper
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


class Gradients(Hook):
    """Keeps the gradients of the first iteration."""

    def before_train(self, runner):
        self.found = {}
        for name, parameter in runner.model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient, name=name: self._keep(name, gradient))

    def _keep(self, name, gradient):
        self.found.setdefault(name, gradient.clone())


def test_gradients_differ_by_rounding_only(data, tmp_path):
    """The model and its average are in channels_last from the first iteration on."""
    found = []
    for name in ('first', 'last'):
        plan = dict(train_cfg__max_epochs=1, train_cfg__val_interval=9, train_dataloader__batch_size=3)
        cfg, hook = load(SUPERVISED, data, tmp_path / name, **plan), Gradients()
        if name == 'first':
            del cfg.default_hooks['channels_last']
        trained = tiny.train(cfg, hook)
        (average,) = (hook.ema_model for hook in trained.hooks if isinstance(hook, EMAHook))
        assert is_channels_last(trained.model) == is_channels_last(average) == (name == 'last')
        found.append(hook.found)
    assert len(found[0]) > 100 and found[0].keys() == found[1].keys()
    for name, first in found[0].items():
        last = found[1][name]
        scale = first.abs().max()
        assert scale > 0 and (first - last).abs().max() <= 1e-3 * scale


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('before', ['contiguous', 'channels_last'])
def test_the_moments_of_a_checkpoint_get_the_format_of_the_weights(fused, before):
    """A fused optimizer would update each weight with the moment of another."""
    formats = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
    generator, results = torch.Generator().manual_seed(0), []
    inputs = torch.randn(2, 3, 8, 8, generator=generator)

    def step(model, optimizer):
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    torch.manual_seed(0)
    start = nn.Conv2d(3, 4, 3).to(memory_format=formats[before])
    optimizer = torch.optim.AdamW(start.parameters(), lr=1e-2, fused=fused)
    for _ in range(3):
        step(start, optimizer)
    for hook in (None, ChannelsLastHook()):
        model = copy.deepcopy(start)
        new = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        resumed = runner(model)
        resumed.optim_wrapper = OptimWrapper(new)
        if hook:
            hook.before_run(resumed)
        new.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if hook:
            hook.before_train(resumed)
        step(model, new)
        results.append(model.weight.detach().clone())
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_wrapped_model_keeps_its_format(wrapped):
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    ChannelsLastHook().before_run(runner(nn.DataParallel(model) if wrapped else model))
    assert is_channels_last(model) is not wrapped
