"""Set-up and fixtures for all tests: MMYOLO's modules, fixed seeds and the tiny set."""

import logging
import platform

import hypothesis
import mmengine
import numpy as np
import pytest
import torch
from yapf.yapflib import yapf_api

import mmyolo_bgpenalty  # first: MMYOLO alone refuses the MMCV of the fork

# isort: split
from mmyolo.utils import register_all_modules

from mmyolo_bgpenalty.compat import FORK, REQUIRED, installed
from tests.helpers.tiny import make_set

register_all_modules()
torch.set_num_threads(1)
hypothesis.settings.register_profile('repeatable', deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile('repeatable')


def pytest_terminal_summary(terminalreporter):
    """Print the installed versions. Unlike a header, they also appear with pytest -q and -n."""
    found = {'python': platform.python_version(), 'numpy': np.__version__, 'hypothesis': hypothesis.__version__}
    for module in REQUIRED:
        fork = FORK[module][0] if module in FORK else module
        found.update({name: installed(name) for name in (module, fork) if installed(name)})
    found.update(torch=torch.__version__, mmyolo_bgpenalty=mmyolo_bgpenalty.__version__)
    terminalreporter.write_line('versions: ' + ', '.join(f'{name} {version}' for name, version in found.items()))


@pytest.fixture(scope='session', autouse=True)
def plain_config_text():
    """Skip the formatting of the config's text. MMEngine does it at every checkpoint, and yapf takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for owner in (mmengine.config.config, yapf_api):  # the fork imports FormatCode from yapf at each call
            if hasattr(owner, 'FormatCode'):
                patch.setattr(owner, 'FormatCode', lambda text, **kwargs: (text, False))
        yield


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """The tiny set of ``make_set``. No test may write into it."""
    return make_set(tmp_path_factory.mktemp('set'))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def logged(monkeypatch):
    """The (message, level) pairs that the monitoring hooks print."""
    lines = []
    for name in ('collapse_monitor', 'nonfinite_guard', 'pseudo_labels'):
        monkeypatch.setattr(
            f'mmyolo_bgpenalty.engine.hooks.{name}.print_log',
            lambda message, logger, level=logging.INFO: lines.append((message, level)),
        )
    return lines
