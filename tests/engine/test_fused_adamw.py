"""FusedAdamW takes the steps of AdamW, and is AdamW where torch has no fused one."""

import pytest
import torch
from mmengine.config import Config
from mmyolo.registry import OPTIMIZERS
from torch import nn

from mmyolo_bgpenalty import FusedAdamW, config
from mmyolo_bgpenalty.engine.fused_adamw import has_fused_adamw


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


@pytest.mark.parametrize('late', [False, True])
@pytest.mark.parametrize('options', [{}, dict(foreach=True), dict(fused=False), dict(differentiable=True)])
def test_without_a_fused_one_it_is_adamw(options, late, monkeypatch):
    """Versions of torch raise the error at the end of ``__init__`` or in ``step``."""
    start, step = torch.optim.AdamW.__init__, torch.optim.AdamW.step

    def older_start(self, *args, **kwargs):
        start(self, *args, **kwargs)
        if kwargs.get('fused') and not late:
            raise RuntimeError('`fused=True` requires all the params to be on a GPU')

    def older_step(self, *args, **kwargs):
        if any(group['fused'] for group in self.param_groups):
            raise RuntimeError('`fused=True` requires all the params to be on a GPU')
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, '__init__', older_start)
    for kind in (torch.optim.AdamW, FusedAdamW):  # torch wraps `step` in each class
        monkeypatch.setattr(kind, 'step', older_step)
    has_fused_adamw.cache_clear()
    try:
        ours = weights()
        groups = [dict(params=ours[:1], lr=0.1), dict(params=ours[1:])]
        optimizer = FusedAdamW(groups, lr=0.02, **options)
        assert not any(group['fused'] for group in optimizer.param_groups)
        assert [group['lr'] for group in optimizer.param_groups] == [0.1, 0.02]
        before = ours[0].detach().clone()
        if 'differentiable' not in options:
            steps(optimizer, ours)
            assert not torch.equal(before, ours[0])
    finally:
        monkeypatch.undo()
        has_fused_adamw.cache_clear()


@pytest.mark.parametrize('first', ['AdamW', 'FusedAdamW'])
@pytest.mark.parametrize('scaled', [False, True])
def test_it_continues_from_a_state(first, scaled):
    """Also with another memory format of the weights, and with a GradScaler, which skips a step with an overflow."""
    trained = []
    for kind in ('FusedAdamW', 'AdamW'):
        start = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
        old = start.clone().requires_grad_()
        optimizer = OPTIMIZERS.build(dict(type=first, params=[old], lr=0.01))
        steps(optimizer, [old])
        new = old.detach().clone().contiguous(memory_format=torch.channels_last).requires_grad_()
        state = optimizer.state_dict()
        optimizer = OPTIMIZERS.build(dict(type=kind, params=[new], lr=0.01))
        optimizer.load_state_dict(state)
        if kind == 'AdamW':  # it would take `fused` from the state, and mix up the elements of weights and moments
            optimizer.param_groups[0]['fused'] = None
        assert bool(optimizer.param_groups[0]['fused']) is (kind == 'FusedAdamW')
        scaler = torch.amp.GradScaler('cpu', init_scale=4.0, enabled=scaled)
        for i in range(3):
            loss = (new * torch.linspace(-1, 1, 216).view(6, 4, 3, 3)).sum()
            optimizer.zero_grad()
            scaler.scale(loss * (float('inf') if scaled and i == 1 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
        trained.append(new.detach())
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-6)


def test_an_argument_out_of_range_is_an_error():
    with pytest.raises(ValueError, match='-1'):
        FusedAdamW(weights(), lr=-1)


def test_another_type_inherits_no_option_of_it():
    """A child config or --cfg-options may set only `type`."""
    cfg = Config.fromfile(config('yolov8_bgpenalty.py')).optim_wrapper.optimizer
    assert cfg.type == 'FusedAdamW'
    for kind in ('SGD', 'Adam', 'AdamW', 'NAdam'):
        OPTIMIZERS.build(dict(cfg, type=kind, params=weights()))
