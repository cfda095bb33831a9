"""The plan of a training, and the time that it will take."""

import pytest
import torch

from mmyolo_bgpenalty.cli.data import training_time
from mmyolo_bgpenalty.cli.data.plan import Plan, make_plan
from mmyolo_bgpenalty.cli.run import read_config
from mmyolo_bgpenalty.utils.shipped_configs import config


@pytest.mark.parametrize(
    'arguments, plan',
    [
        ((234, 0), Plan(90, 36, 18, 30, 8, 'labeled')),
        ((29, 263), Plan(41, 16, 8, 66, 8, 'unlabeled')),
        ((100, 100_000), Plan(108, 43, 22, 25, 8, 'labeled')),  # one pass over the unlabeled pictures is too long
        ((300, 2), Plan(36, 14, 7, 75, 8, 'labeled')),  # and here too short
        ((20_000, 100_000), Plan(10, 4, 2, 5000, 8, 'labeled')),  # large sets need more iterations
        ((2, 50), Plan(108, 43, 22, 25, 4, 'unlabeled')),  # no picture is twice in a batch
        ((1, 0), Plan(2700, 1080, 540, 1, 1, 'labeled')),
        ((234, 0, 16, 100), Plan(7, 3, 2, 15, 16, 'labeled')),
        ((234, 0, 8, 10), Plan(1, 0, 1, 30, 8, 'labeled')),
    ],
)
def test_plans(arguments, plan):
    assert make_plan(*arguments) == plan


def test_iterations_of_a_plan():
    assert make_plan(29, 263).iterations == 41 * 66


@pytest.mark.parametrize(
    'unlabeled, empty, text',
    [
        # 300 iterations of 8 pictures at 2 s, and 10 validations with 20 pictures at 0.5 s
        (False, False, 'about 82 min on this CPU'),
        # 300 of 4 labeled pictures, then 200 of 4 unlabeled ones, at which the teacher looks twice. It is validated too
        (True, False, 'about 83 min on this CPU'),
        # the same, and 300 of 4 empty pictures
        (True, True, 'about 2.1 h on this CPU'),
    ],
)
def test_time_of_a_plan(monkeypatch, unlabeled, empty, text):
    monkeypatch.setattr(training_time, '_seconds_a_picture', lambda *_: (2.0, 0.5))
    plan = Plan(epochs=30, burn_in=10, warmup=2, epoch=10, batch=8, epoch_of='labeled')
    monkeypatch.setattr(training_time, 'get_device', lambda: 'cpu')
    assert training_time.training_time(None, plan, 20, unlabeled, empty) == text


def test_time_of_a_real_network(monkeypatch):
    monkeypatch.setattr(training_time, 'LONGEST', 1e-9)
    for name in ('yolov8_semi_bgpenalty_own.py', 'yolov8_bgpenalty_own.py'):
        cfg = read_config(config(name, model_size='n', img_scale=(96, 64)), {})
        learn, look = training_time._seconds_a_picture(cfg, 8)
        assert learn > 0 and look > 0


def test_a_network_that_is_too_large(monkeypatch):
    def fails(*_):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(training_time, '_seconds_a_picture', fails)
    text = training_time.training_time(None, make_plan(234, 0), 20, False, False)
    assert text.startswith('but a batch of 8 is too large for') and 'lower batch_size' in text


@pytest.mark.parametrize(
    'seconds, text', [(0.2, '1 s'), (89, '89 s'), (100, '2 min'), (5390, '90 min'), (9000, '2.5 h')]
)
def test_durations(seconds, text):
    assert training_time.duration(seconds) == text
