"""FusedAdamW takes the steps of AdamW, and is AdamW where torch has no fused one."""

import pytest
import torch
from mmengine.config import Config
from mmyolo.registry import OPTIMIZERS
from torch import nn

from mmyolo_bgpenalty import FusedAdamW, config


def steps(optimizer, weights):
    random = torch.Generator().manual_seed(1)
    for _ in range(5):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=random)
        optimizer.step()
    return weights


def weights():
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random).requires_grad_() for shape in ((3,), (4, 5), (2, 3, 3, 3))]


def test_the_steps_are_those_of_adamw():
    ours, theirs = weights(), weights()
    groups = [dict(params=ours[:1], lr=0.1), dict(params=ours[1:], weight_decay=0.3)]
    optimizer = OPTIMIZERS.build(dict(type='FusedAdamW', params=groups, lr=0.01, weight_decay=0.1))
    assert all(group['fused'] for group in optimizer.param_groups)
    groups = [dict(params=theirs[:1], lr=0.1), dict(params=theirs[1:], weight_decay=0.3)]
    plain = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
    torch.testing.assert_close(steps(optimizer, ours), steps(plain, theirs), rtol=1e-5, atol=1e-6)


def test_gradients_have_the_memory_format_of_the_weights():
    """torch's fused kernel walks through the memory of both. It would mix up weights if the formats differed."""
    trained = []
    for kind in ('FusedAdamW', 'AdamW'):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, (3, 1)))
        model.to(memory_format=torch.channels_last)
        optimizer = OPTIMIZERS.build(dict(type=kind, params=model.parameters(), lr=0.01))
        for step in range(3):
            images = torch.randn(2, 3, 9, 9)
            optimizer.zero_grad(set_to_none=step != 1)
            # some gradients come in another format than that of the weights
            (model(images).square().mean() + sum(p.contiguous().square().sum() for p in model.parameters())).backward()
            optimizer.step()
        trained.append([weight.detach() for weight in model.parameters()])
    assert not trained[0][0].is_contiguous()
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('options', [{}, dict(foreach=True), dict(fused=False), dict(differentiable=True)])
def test_without_a_fused_one_it_is_adamw(options, monkeypatch):
    start = torch.optim.AdamW.__init__

    def older(self, params, *args, fused=None, **kwargs):
        if fused:
            raise RuntimeError('`fused=True` requires all the params to be on a GPU')
        start(self, params, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, '__init__', older)
    optimizer = FusedAdamW(iter(weights()), lr=0.02, **options)
    assert not optimizer.param_groups[0]['fused'] and len(optimizer.param_groups[0]['params']) == 3
    assert optimizer.param_groups[0]['lr'] == 0.02


def test_an_argument_out_of_range_is_an_error():
    with pytest.raises(ValueError, match='-1'):
        FusedAdamW(weights(), lr=-1)


def test_another_type_inherits_no_option_of_it():
    """A child config or --cfg-options may set only `type`."""
    cfg = Config.fromfile(config('yolov8_bgpenalty.py')).optim_wrapper.optimizer
    assert cfg.type == 'FusedAdamW'
    for kind in ('SGD', 'Adam', 'AdamW', 'NAdam'):
        OPTIMIZERS.build(dict(cfg, type=kind, params=weights()))
