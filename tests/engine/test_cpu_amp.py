"""bf16 on a CPU: the wrapper in real runs, and ``--amp`` of tools/train.py."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper

from mmyolo_bgpenalty.cli import train
from mmyolo_bgpenalty.engine.cpu_amp import CpuBf16OptimWrapper, computes_in_bf16
from tests.helpers import tiny
from tests.helpers.states import tensors
from tests.helpers.tiny import SEMI, load

WRAPPER = 'CpuBf16OptimWrapper'


class Watch(Hook):
    """Keeps the losses, and the dtypes of the output of a convolution in training and in validation."""

    def __init__(self):
        self.losses, self.seen = [], {True: set(), False: set()}

    def before_run(self, runner):
        for model in (runner.model.student, runner.model.teacher):
            conv = model.backbone.stem.conv
            conv.register_forward_hook(lambda module, args, out: self.seen[runner.model.training].add(out.dtype))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())
        kept = dict(tensors([runner.model.state_dict(), runner.optim_wrapper.state_dict()]))
        assert {value.dtype for value in kept.values() if value.is_floating_point()} == {torch.float32}


def trained(data, work_dir, **options):
    cfg = load(SEMI, data, work_dir, burn_in=1, train_cfg__max_epochs=2, train_cfg__val_interval=2, **options)
    watch = Watch()
    tiny.train(cfg, watch)
    return watch


def test_student_and_teacher_compute_in_bf16_and_keep_fp32(data, tmp_path):
    plain = trained(data, tmp_path / 'plain')
    bf16 = trained(data, tmp_path / 'bf16', optim_wrapper__type=WRAPPER)
    assert plain.seen == {True: {torch.float32}, False: {torch.float32}}
    assert bf16.seen == {True: {torch.bfloat16}, False: {torch.float32}}
    # In the first iteration weights and images are equal. The losses differ by rounding errors.
    assert bf16.losses[0] == pytest.approx(plain.losses[0], rel=0.1)
    assert bf16.losses != plain.losses and len(bf16.losses) == len(plain.losses)
    assert all(torch.isfinite(torch.tensor(bf16.losses)))


@pytest.mark.parametrize(
    'device, given, expected',
    [
        ('cpu', {}, dict(type=WRAPPER)),
        ('cpu', dict(dtype='bfloat16', loss_scale='dynamic'), dict(type=WRAPPER)),
        ('cuda', dict(dtype='bfloat16'), dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='bfloat16')),
    ],
)
def test_amp_is_bf16_on_a_cpu_and_unchanged_on_a_gpu(device, given, expected, monkeypatch):
    monkeypatch.setattr(train, 'get_device', lambda: device)
    wrapper = ConfigDict(type='OptimWrapper', clip_grad=dict(max_norm=10), **given)
    train.use_amp(wrapper)
    assert wrapper == dict(expected, clip_grad=dict(max_norm=10))


def test_fp16_on_a_cpu_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(train, 'get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match=r"optim_wrapper\.dtype='bfloat16' for --amp on a CPU, but got 'float16'"):
        train.use_amp(ConfigDict(dtype='float16'))


@pytest.mark.parametrize('flags, known', [('fpu avx512_bf16 sse', True), ('amx_bf16', True), ('avx512f', False)])
def test_a_processor_that_computes_in_bf16_is_known_by_its_flags(tmp_path, flags, known):
    (tmp_path / 'cpuinfo').write_text(f'processor : 0\nflags\t\t: {flags}\n')
    assert computes_in_bf16(tmp_path / 'cpuinfo') is known
    assert not computes_in_bf16(tmp_path / 'missing')


def test_a_training_in_fp32_on_such_a_processor_offers_amp(monkeypatch):
    monkeypatch.setattr(train, 'get_device', lambda: 'cpu')
    for known in (True, False):
        monkeypatch.setattr(train, 'computes_in_bf16', lambda known=known: known)
        for wrapper in (OptimWrapper, CpuBf16OptimWrapper):
            runner = SimpleNamespace(optim_wrapper=wrapper(torch.optim.SGD([torch.zeros(1)], lr=1.0)))
            assert ('--amp' in train._faster(runner)) is (known and wrapper is OptimWrapper)
