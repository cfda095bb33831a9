"""WarmupLR: the warm-up of the learning rate as a share of the run."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import LinearLR
from mmyolo.registry import PARAM_SCHEDULERS

from mmyolo_bgpenalty import WarmupLR
from mmyolo_bgpenalty.engine.schedule import iterations_of
from tests.helpers.tiny import CONFIGS, load, train


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def rates(scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]['lr'])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize('length', [50, 1 / 54])
def test_the_rates_equal_those_of_linear_lr(length):
    """The Runner passes the iterations of the run as ``end`` and the length of an epoch."""
    cfg = dict(type='WarmupLR', length=length, start_factor=0.01, by_epoch=False, end=2700)
    warmup = PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optimizer(), epoch_length=135))
    linear = LinearLR(optimizer(), start_factor=0.01, by_epoch=False, begin=0, end=50)
    assert rates(warmup, 100) == rates(linear, 100)


@pytest.mark.parametrize('end', [1, 2, 5, 100])
def test_the_shortest_run_reaches_the_full_rate(end):
    """MMEngine's LinearLR over one iteration would stay at ``start_factor`` to the end."""
    warmup = WarmupLR(optimizer(), length=1 / 54, start_factor=0.01, by_epoch=False, end=end)
    assert rates(warmup, 3) == pytest.approx([0.01, 1, 1])


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(length=1.5, by_epoch=False), '`length` to be a whole number of iterations or, below 1, a share'),
        (dict(length=0.1), '`by_epoch` of WarmupLR to be False, but got True'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupLR(optimizer(), end=100, **arguments)


def test_a_run_of_another_length_scales_and_a_resumed_run_continues(data, tmp_path):
    name, options = 'yolov8_bgpenalty.py', dict(param_scheduler=[], train_cfg__val_interval=9, burn_in=1)
    warmup = dict(type='WarmupLR', length=0.5, start_factor=0.5, by_epoch=False)
    ends = {}
    for epochs in (2, 4):
        cfg = load(name, data, tmp_path / str(epochs), train_cfg__max_epochs=epochs, **options)
        cfg.param_scheduler = [warmup]
        cfg.merge_from_dict({'default_hooks.checkpoint.interval': 1, 'default_hooks.checkpoint.max_keep_ckpts': 9})
        runner = train(cfg)
        ends[epochs] = runner.param_schedulers[0].end
        assert runner.max_iters == 2 * ends[epochs]
    assert ends[4] == 2 * ends[2]
    whole = runner.param_schedulers[0].state_dict()
    cfg = cfg.copy()
    cfg.update(work_dir=str(tmp_path / 'resumed'), load_from=str(tmp_path / '4/epoch_1.pth'), resume=True)
    cfg.visualizer.name = 'resumed'
    resumed = train(cfg).param_schedulers[0]
    assert resumed.state_dict() == whole


@pytest.mark.parametrize(
    'name, total, warmup, momentum_warmup',
    [
        ('yolov8_bgpenalty.py', 300 * 8, 50, None),
        ('yolov8_semi_bgpenalty.py', 20 * 135, 50, 300),
        ('yolov8_semi_bgpenalty_bccd.py', 18 * 66, 50, 100),
    ],
)
def test_the_shipped_runs_have_the_lengths_that_were_measured(name, total, warmup, momentum_warmup):
    """The figures in docs/lab_notes were measured with these numbers of iterations."""
    cfg = Config.fromfile(CONFIGS / name)
    assert cfg.param_scheduler[0].type == 'WarmupLR'
    assert iterations_of('length', cfg.param_scheduler[0].length, total) == warmup
    if momentum_warmup:
        found = cfg.default_hooks.mean_teacher.momentum_warmup
        assert found < 1 and iterations_of('momentum_warmup', found, total) == momentum_warmup
