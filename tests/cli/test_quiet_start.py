"""What a newcomer sees of a training: a process of its own, whose output is piped."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS

from tests.helpers.tiny import ROOT, SEMI, load

NOISE = ('pkg_resources', 'registry', 'FileClient', 'HardDiskBackend', 'meshgrid', 'pin_memory', 'index')
DUMPS = ('System environment:', 'Config:\n', 'Hooks will be executed', 'Distributed training is not used', 'Exp name')


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """One epoch of a semi-supervised training with a module of the user that warns."""
    folder = tmp_path_factory.mktemp('quiet')
    cfg = load(SEMI, data, folder / 'work', train_cfg__max_epochs=1, train_dataloader__pin_memory=True)
    for dataset in (*cfg.train_dataloader.dataset.values(), cfg.val_dataloader.dataset):
        if isinstance(dataset, dict):
            dataset.type = 'CheckedCocoDataset'
    cfg.default_hooks.checkpoint.interval = 1
    cfg.custom_imports.imports += ['mine_of_test_quiet']
    init_default_scope('mmyolo')
    torch.save(MODELS.build(cfg.model).state_dict(), folder / 'weights.pth')
    cfg.load_from = str(folder / 'weights.pth')
    cfg.dump(folder / 'tiny.py')
    (folder / 'mine_of_test_quiet.py').write_text("import warnings\nwarnings.warn('mine')\n")
    command = [sys.executable, '-m', 'mmyolo_bgpenalty', 'train', str(folder / 'tiny.py')]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join((str(ROOT), str(folder)))}
    env.pop('PYTHONWARNINGS', None)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    [log] = folder.glob('work/*/*.log')
    return SimpleNamespace(out=done.stdout, err=done.stderr, log=log.read_text(), folder=folder)


def test_only_the_users_own_warning_is_on_stderr(trained):
    first, *rest = trained.err.splitlines()
    assert first.endswith('mine_of_test_quiet.py:2: UserWarning: mine') and rest == ["  warnings.warn('mine')"]


def test_what_comes_before_the_first_iteration_fits_on_a_screen(trained):
    start = trained.out.partition('Epoch(train)')[0]
    assert len(start.splitlines()) < 15
    assert not [word for word in (*NOISE, *DUMPS, 'fitted') if word in start]
    assert start.count('weights.pth') == 1 and 'all 297 tensors taken' in start


def test_the_long_records_are_in_the_log_file(trained):
    assert all(part in trained.log for part in DUMPS) and not any(part in trained.out for part in DUMPS)
    assert re.search(r'WARNING - "FileClient" will be deprecated', trained.log)
