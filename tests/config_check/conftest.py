"""The tiny set, and the shipped configs on it."""

import copy

import pytest

from mmyolo_bgpenalty.config_check.settings import plan
from tests.helpers.tiny import SEMI, SUPERVISED, load


@pytest.fixture(scope='session')
def tiny():
    """A function that loads a shipped config. ``root`` is the tiny set or a copy of it."""

    def load_tiny(name, root, work_dir):
        cfg = load(name, root, work_dir)
        cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
        return cfg

    return load_tiny


@pytest.fixture(scope='session')
def configs(data, tiny, tmp_path_factory):
    return {name: tiny(name, data, tmp_path_factory.mktemp('work')) for name in (SEMI, SUPERVISED)}


@pytest.fixture
def cfg(configs):
    return copy.deepcopy(configs[SEMI])


@pytest.fixture
def supervised(configs):
    return copy.deepcopy(configs[SUPERVISED])


@pytest.fixture(autouse=True)
def epoch_length(monkeypatch):
    """An epoch has 600 iterations. The epochs of the tiny set have 5, which is too few for a good run."""
    monkeypatch.setattr(plan, 'epoch_length', lambda parts: 600)


@pytest.fixture
def only_finding():
    """Assert that there is one finding, with this level, this place and this part of the message."""

    def check(findings, level, where, what):
        assert [(finding.level, finding.where) for finding in findings] == [(level, where)], findings
        assert what in findings[0].what
        assert findings[0].instead and str(findings[0]).encode()

    return check
