"""A skipped iteration changes no state. test_nonfinite_runs.py tests the hook in real runs."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch.utils._python_dispatch import TorchDispatchMode

from mmyolo_bgpenalty import NonFiniteGuardHook
from mmyolo_bgpenalty.engine.hooks import nonfinite_guard
from mmyolo_bgpenalty.utils.distributed import unwrapped
from tests.helpers.amp import CpuAmpOptimWrapper
from tests.helpers.processes import in_two_processes
from tests.helpers.states import same, tensors


class Small(BaseModel):
    """A model with given losses, and a buffer that a forward pass changes."""

    def __init__(self):
        super().__init__()
        self.linear, self.losses = torch.nn.Linear(2, 1), dict(loss_a=1.0)
        self.register_buffer('passes', torch.tensor(0))

    def forward(self):
        self.passes += 1
        value = self.linear(torch.ones(1, 2)).sum()
        return {
            name: value + loss if not isinstance(loss, list) else [value + part for part in loss]
            for name, loss in self.losses.items()
        }


def small_run(work_dir, kind=OptimWrapper, max_skips=10, fused=False, distributed=False, **options):
    """A run with an optimizer that moves weights even if their gradient is 0."""
    torch.manual_seed(0)
    model = MMDistributedDataParallel(Small()) if distributed else Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1, fused=fused)
    runner = SimpleNamespace(
        model=model,
        optim_wrapper=kind(optimizer=optimizer, **options),
        message_hub=MessageHub.get_instance('test_nonfinite_guard'),
        train_dataloader=SimpleNamespace(dataset=[]),
        work_dir=str(work_dir),
        iter=0,
        epoch=1,
    )
    runner.message_hub.log_scalars.clear()
    hook = NonFiniteGuardHook(max_skips)
    hook.before_train(runner)
    return runner, hook


def iterate(runner, hook, loss=1.0, **losses):
    """Run an iteration of a train loop. The model has ``losses``, or only ``loss_a`` = ``loss``."""
    hook.before_train_iter(runner, 0, None)
    unwrapped(runner.model).losses = losses or dict(loss_a=loss)
    outputs = runner.model()
    parts = [part for value in outputs.values() for part in (value if isinstance(value, list) else [value])]
    runner.optim_wrapper.update_params(sum(parts))
    hook.after_train_iter(runner, 0, outputs={})
    runner.iter += 1


def weights(runner):
    return copy.deepcopy([runner.model.state_dict(), runner.optim_wrapper.state_dict()['state']])


def spoil(runner, factor):
    """Multiply the gradient of the bias until the handle is removed."""
    return unwrapped(runner.model).linear.bias.register_hook(lambda gradient: gradient * factor)


@pytest.mark.parametrize(
    'losses, error',
    [
        (dict(loss_a=1.0, loss_b=[1.0, 2.0]), None),
        (dict(loss_a=1.0, loss_b=[1.0, math.inf]), 'loss_b is inf .finite: loss_a'),
        (dict(loss_a=math.inf, loss_b=-math.inf, loss_c=1.0), 'loss_a is inf, loss_b is -inf .finite: loss_c'),
        (dict(loss_a=2e38, loss_b=2e38), 'the sum of the losses is inf'),
    ],
)
@pytest.mark.parametrize('early', [False, True])
def test_the_error_names_the_loss(losses, error, early, tmp_path, logged):
    runner, hook = small_run(tmp_path, max_skips=0, accumulative_counts=2 if early else 1)
    if error is None:
        iterate(runner, hook, **losses)
        assert logged == []
    else:
        with pytest.raises(FloatingPointError, match=error):
            iterate(runner, hook, **losses)
        assert [level for _, level in logged] == [40]
    # Losses are checked only during training. Other outputs are never checked.
    runner.model.eval()
    runner.model()
    runner.model.train()
    runner.model.losses = dict(acc=math.nan)
    runner.model()
    hook.after_train(runner)
    runner.model.losses = dict(loss_a=math.nan)
    runner.model()['loss_a'].backward()
    runner.optim_wrapper.step()


@pytest.mark.parametrize(
    'factor, clip_grad, fault',
    [
        (math.nan, None, '1 of 2 gradients are NaN or infinite, the first is that of linear.bias.'),
        (math.nan, dict(max_norm=1.0), '2 of 2 gradients are NaN or infinite.'),  # clipping divides by a norm of NaN
        (1e30, None, None),  # finite, but the sum of the squares is infinite
    ],
)
def test_gradients_that_are_not_finite_are_skipped(factor, clip_grad, fault, tmp_path, logged):
    runner, hook = small_run(tmp_path, clip_grad=clip_grad)
    iterate(runner, hook)
    before = weights(runner)
    handle = spoil(runner, factor)
    iterate(runner, hook)
    handle.remove()
    assert same(weights(runner), before) == bool(fault)
    assert [f'the losses are finite, but {fault}' in line for line, _ in logged] == ([True] if fault else [])
    before = weights(runner)
    iterate(runner, hook)
    assert not same(weights(runner), before)


def test_a_skipped_step_applies_no_weight_decay(tmp_path, logged):
    runner, hook = small_run(tmp_path, max_skips=2)
    iterate(runner, hook)
    before = weights(runner)
    for _ in range(2):
        iterate(runner, hook, math.nan)
        assert same(weights(runner), before)
    iterate(runner, hook)  # a finite iteration sets the count of skips in a row to 0
    assert not same(weights(runner), before)
    before = weights(runner)
    for _ in range(2):
        iterate(runner, hook, math.inf)
    with pytest.raises(FloatingPointError, match='iteration 7 .*: loss_a is nan .*, after 2 skipped iterations in'):
        iterate(runner, hook, math.nan)
    assert same(weights(runner), before)
    assert [level for _, level in logged] == [30, 30, 30, 30, 40]
    assert 'Skipped iteration 6 (epoch 2), 2 in a row and 4 in all: loss_a is inf' in logged[3][0]


def test_only_finite_gradients_are_accumulated(tmp_path, logged):
    runner, hook = small_run(tmp_path, accumulative_counts=2)
    runner.optim_wrapper.initialize_count_status(runner.model, 0, 100)
    for value in (math.nan, 1.0):
        iterate(runner, hook, value)
    half, _ = small_run(tmp_path)
    half.optim_wrapper.update_params(half.model()['loss_a'] / 2)
    assert same(weights(runner), weights(half))
    before = weights(runner)
    for value in (math.nan, math.nan):
        iterate(runner, hook, value)
    assert same(weights(runner), before)
    for value in (1.0, math.nan):
        iterate(runner, hook, value)
    assert not same(weights(runner), before)


class HostReads(TorchDispatchMode):
    """Counts how often the value of a tensor is read. On a GPU, each read waits for the device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(
    'options', [dict(clip_grad=dict(max_norm=1.0)), dict(kind=CpuAmpOptimWrapper, fused=True, dtype='float16')]
)
def test_the_hook_adds_one_wait_for_the_device_to_an_iteration(tmp_path, options):
    counts = []
    for guarded in (False, True):
        runner, hook = small_run(tmp_path, **options)
        if not guarded:
            hook.after_train(runner)
            hook = Hook()
        with HostReads() as reads:
            iterate(runner, hook)
        counts.append(reads.count)
    assert counts[1] - counts[0] == 1


def test_weights_of_a_broken_checkpoint_are_named(tmp_path, logged):
    runner, hook = small_run(tmp_path, max_skips=0)
    torch.nn.init.constant_(runner.model.linear.bias, math.nan)
    with pytest.raises(
        FloatingPointError, match='1 weights were already NaN or infinite, the first is linear.bias: check `load_'
    ):
        iterate(runner, hook)


def test_a_resumed_run_goes_on_with_the_counts():
    counts = dict(skipped=3, in_a_row=1, overflows=4)
    for resume in (True, False):
        hook, saved = NonFiniteGuardHook(), {}
        hook.after_load_checkpoint(SimpleNamespace(_resume=resume), dict(nonfinite_guard=counts))
        hook.before_save_checkpoint(None, saved)
        assert (saved['nonfinite_guard'] == counts) is resume


@pytest.mark.parametrize('fused', [False, True])
def test_overflows_that_grad_scaler_skips_are_counted(tmp_path, fused, logged):
    """The scaler halves its scale and skips the step. The hook does not count this as a skipped iteration."""
    runner, hook = small_run(tmp_path, CpuAmpOptimWrapper, fused=fused, dtype='float16')
    scaler, before = runner.optim_wrapper.loss_scaler, weights(runner)
    scale = scaler.get_scale()
    for factor in (math.inf, 1.0, math.inf, math.inf):
        handle = spoil(runner, factor)
        iterate(runner, hook)
        handle.remove()
        unchanged = torch.equal(runner.model.linear.bias, before[0]['linear.bias'])
        assert unchanged == (runner.iter == 1)
    assert scaler.get_scale() == scale / 8 and hook._skipped == 0
    runner.iter = nonfinite_guard.READ_INTERVAL - 1
    iterate(runner, hook)
    assert runner.message_hub.get_scalar('train/amp_overflows').current() == 3
    before = weights(runner)
    iterate(runner, hook, math.nan)
    assert scaler.get_scale() == scale / 8 and hook._skipped == 1 and same(weights(runner)[0], before[0])
    hook.after_train(runner)
    assert logged[-1][0] == (
        'Training has skipped 1 iterations whose losses or gradients were not finite; '
        '3 updates whose fp16 gradients overflowed'
    )


@pytest.mark.parametrize('fused, stop', [(False, 'iteration 37 .*4.77e-07'), (True, 'iteration 40 .*5.96e-08')])
def test_endless_overflows_stop_the_run(tmp_path, fused, stop, logged):
    """With a fused optimizer the count is read only every 20 iterations."""
    runner, hook = small_run(tmp_path, CpuAmpOptimWrapper, fused=fused, dtype='float16')
    before = copy.deepcopy([*runner.model.parameters()])
    spoil(runner, math.inf)
    message = stop.replace('.*', '.*gradients overflow in fp16 at any scale.*')
    with pytest.raises(FloatingPointError, match=message):
        for _ in range(100):
            iterate(runner, hook)
    assert same([*runner.model.parameters()], before)


def test_a_custom_scaler_still_skips_overflows(tmp_path):
    runner, _ = small_run(tmp_path, fused=True)
    before = copy.deepcopy([*runner.model.parameters()])
    scaler = torch.amp.GradScaler('cpu')
    scaler.scale(runner.model()['loss_a']).backward()
    runner.model.linear.bias.grad.fill_(math.inf)
    scaler.step(runner.optim_wrapper.optimizer)
    assert same([*runner.model.parameters()], before)


def rank_with_a_broken_batch(rank):
    """Run one of two processes. In some iterations only one of them has a loss that is NaN or infinite."""
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nonfinite_guard, 'print_log', lambda text, **kwargs: lines.append(text))
        runner, hook = small_run('.', max_skips=1, distributed=True)
        iterate(runner, hook)
        states = [weights(runner)]
        for value in (math.nan if rank else 2.0, 3.0):
            iterate(runner, hook, value)
            states.append(weights(runner))
        iterate(runner, hook, math.inf if not rank else 1.0)
        with pytest.raises(FloatingPointError, match='loss_a is inf'):
            iterate(runner, hook, math.inf if rank else 1.0)
    kept = [same(states[0], states[1]), same(states[1], states[2])]
    return kept, lines[0], [value.tolist() for _, value in tensors(weights(runner))]


def test_both_processes_skip_a_batch_that_is_broken_in_one(tmp_path):
    """Otherwise only one process would update its weights."""
    one, other = in_two_processes(rank_with_a_broken_batch, tmp_path)
    assert one == other
    kept, line, _ = one
    assert kept == [True, False]
    assert line.startswith('Skipped iteration 2 (epoch 2), 1 in a row and 1 in all: loss_a is nan (finite: none)')


def test_max_skips_out_of_range():
    with pytest.raises(ValueError, match='`max_skips` to be a whole number >= 0'):
        NonFiniteGuardHook(max_skips=-1)
