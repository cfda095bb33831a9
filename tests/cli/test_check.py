"""The command ``check``: what it prints, and its exit codes."""

import logging
import os
import subprocess
import sys

import pytest
import torch

from mmyolo_bgpenalty.cli import check, train
from tests.helpers.tiny import ROOT, SEMI, load, make_set

ASSIGNER = 'model.detector.train_cfg.assigner.num_classes'


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('check')
    changes = dict(lambda_bg=2.0, burn_in=100, train_cfg__max_epochs=400)
    cfg = load(SEMI, make_set(folder / 'set'), folder / 'none', **changes)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.dump(folder / 'mine.py')
    return folder / 'mine.py'


def call(*arguments):
    return check.main(list(map(str, arguments)))


def test_a_finding_says_what_where_and_what_to_write(config, capsys):
    assert call(config) == 0
    assert capsys.readouterr().out.endswith('errors: 0, warnings: 0\n')
    assert call(config, '--cfg-options', f'{ASSIGNER}=80', 'burn_in=400') == 1
    shown = capsys.readouterr().out
    assert f'error: {ASSIGNER}\n    80, but the head has 3 classes\n    -> write 3\n' in shown
    assert shown.index('error: ') < shown.index('warning: burn_in') and 'errors: 1, warnings: 1' in shown
    assert call(config, '--cfg-options', 'burn_in=400') == 0


def test_a_bad_override_gives_an_error_of_one_line(config, capsys):
    assert call(config, '--cfg-options', 'lamda_bg=2') == 2
    shown = capsys.readouterr()
    assert shown.out == '' and shown.err.count('\n') == 1 and '`lambda_bg`' in shown.err


def test_the_step_is_shown_and_leaves_nothing(config, tmp_path):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'TMPDIR': str(tmp_path)}
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools/check_config.py'), str(config), '--step']
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = ('2 sup, 2 unsup_teacher, 2 unsup_student', 'unsup_loss_bg ', 'BG penalty at λ_bg=2: mean=', 'burn-in')
    shown += ('Pseudo-boxes: 0 (from initial weights', 'Gradient norm: backbone ', 'errors: 0, warnings: 0')
    assert all(part in done.stdout for part in shown), done.stdout
    assert 'index created' not in done.stdout
    # torch may make its cache here
    assert [path.name for path in tmp_path.iterdir() if 'torchinductor' not in path.name] == []
    assert not config.with_name('none').exists()


@pytest.mark.parametrize(
    'option, parts',
    [
        ('model.detector.bbox_head.loss_bbox.loss_weight=1e39', ['sup_loss_bbox is not finite']),
        ('model.detector.backbone.arch=P9', ['error: model.detector.backbone.arch', "got 'P9', exp", 'errors: 1,']),
    ],
)
def test_a_step_that_goes_wrong_is_an_error(config, capsys, monkeypatch, option, parts):
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # loggers of earlier tests have closed streams
    assert call(config, '--step', '--cfg-options', option) == 1
    shown = capsys.readouterr()
    assert all(part in shown.out for part in parts) and 'Traceback' not in shown.err


@pytest.mark.parametrize(
    'option, where',
    [
        # Only building the parts shows these mistakes.
        ('visualizer.type=Nix', 'visualizer.type'),
        ('train_dataloader.num_workers=-1', 'train_dataloader.num_workers'),
        ('param_scheduler.0.type=NixLR', 'param_scheduler.0.type'),
        ('val_evaluator.metric=nix', 'val_evaluator.metric'),
        ('load_from=FOREIGN', 'the start of training'),
    ],
)
def test_what_stops_training_at_its_start_is_an_error(config, tmp_path, capfd, monkeypatch, option, where):
    monkeypatch.setattr(logging, 'raiseExceptions', False)
    torch.save(dict(state_dict={'backbone.stem.conv.weight': torch.zeros(2, 3, 9, 9)}), tmp_path / 'foreign.pth')
    option = option.replace('FOREIGN', str(tmp_path / 'foreign.pth'))
    assert call(config, '--cfg-options', option) == 1
    shown = capfd.readouterr().out
    assert f'error: {where}\n' in shown and 'errors: 1,' in shown
    finding = shown.partition(f'error: {where}\n')[2].splitlines()[0].strip()
    assert train.main([str(config), '--work-dir', str(tmp_path), '--cfg-options', option]) == 2
    assert capfd.readouterr().err.splitlines()[-1].endswith(f': {finding}' if ' ' in where else f': {where}: {finding}')


def test_a_value_that_a_hook_refuses_is_an_error(config, capsys):
    assert call(config, '--cfg-options', 'lambda_bg=abc') == 1
    assert "`lambda_bg` to be a finite number >= 0, but got 'abc'" in capsys.readouterr().out


def test_a_mistake_in_the_users_own_code_shows_its_traceback(config, capsys, monkeypatch):
    monkeypatch.setattr(check, 'dry_run', lambda cfg: [int(text) for text in sorted('x')])
    assert call(config, '--step') == 1
    shown = capsys.readouterr()
    assert 'ValueError: invalid literal' in shown.out and f'File "{__file__}"' in shown.err


def test_no_step_is_taken_from_a_config_with_errors(config, monkeypatch, capsys):
    monkeypatch.setattr(check, 'dry_run', lambda cfg: pytest.fail('a step was taken'))
    assert call(config, '--step', '--cfg-options', f'{ASSIGNER}=80') == 1
    assert 'must be corrected before --step' in capsys.readouterr().out
