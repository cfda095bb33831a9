"""The ablation with a stand-in for training and testing."""

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time

import pytest

from mmyolo_bgpenalty.cli.ablation import processes
from mmyolo_bgpenalty.cli.ablation.ablate import _stopping_at_signals
from mmyolo_bgpenalty.cli.ablation.plan import plan_runs, read_variants
from tests.helpers.ablations import CONFIG, VARIANTS, Stage
from tests.helpers.child_runs import ended, start
from tests.helpers.tiny import CONFIGS, ROOT


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


@pytest.mark.parametrize('jobs, forks', [('1', True), ('3', True), ('3', False)])
def test_every_variant_with_every_seed(stage, monkeypatch, jobs, forks):
    """``forks=False`` is for systems other than Linux."""
    monkeypatch.setattr(processes, 'FORKS', forks and processes.FORKS)
    assert stage('--seeds', '0', '3', '--jobs', jobs) == 0
    assert len(stage.calls()) == 6
    # λ=1.5 differs only after burn-in. It continues from the baseline with the same seed. The others start anew.
    for seed in (0, 3):
        start = stage.work / f'lambda_0/seed_{seed}/epoch_1.pth'
        assert {f'lambda_0 {seed} None', f'long {seed} None', f'lambda_1.5 {seed} {start}'} <= {*stage.calls()}
    result = json.loads((stage.work / 'long/seed_3/result.json').read_text())
    assert result['variant'] == 'long' and result['seed'] == 3 and result['metrics'] == {'coco/bbox_mAP_50': 1.0}
    assert result['overrides'].items() >= {'lambda_bg': 1.0, 'burn_in': 2, 'randomness.seed': 3}.items()
    assert '| λ=1.5 | 2    | +1.500 [+1.500, +1.500] |' in (stage.work / 'ablation.md').read_text()


def test_a_finished_run_is_not_run_again(stage):
    assert stage('--seeds', '0') == 0
    before = len(stage.calls())
    assert stage('--seeds', '0') == 0
    assert len(stage.calls()) == before
    assert stage('--seeds', '0', '1') == 0
    assert len(stage.calls()) == 6 and all(' 1 ' in line for line in stage.calls()[before:])


def test_a_run_that_has_begun_continues_and_its_time_goes_on(stage):
    assert stage('--seeds', '0') == 0
    # The run was stopped 600 s after it began. The log has its last line.
    folder = stage.work / 'lambda_1.5/seed_0'
    (folder / 'result.json').unlink()
    (folder / 'clock.json').write_text('{"spent": 300.0, "since": 1000.0}')
    os.utime(folder / 'log.txt', (1600.0, 1600.0))
    assert stage('--seeds', '0') == 0
    assert stage.calls()[-1] == 'lambda_1.5 0 --cfg-options'
    assert 900 < json.loads((folder / 'result.json').read_text())['seconds'] < 1000


def test_a_failed_run_is_reported_and_the_others_go_on(stage, capsys):
    (stage.folder / 'broken').touch()
    assert stage('--seeds', '0') == 1
    error = capsys.readouterr().err
    assert 'failed: λ=1.5, seed 0: train ended with 3: the disk is full' in error and 'log.txt' in error
    assert '| long  | 1    |' in (stage.work / 'ablation.md').read_text()
    assert not (stage.work / 'lambda_1.5/seed_0/result.json').exists()
    (stage.folder / 'broken').unlink()
    assert stage('--seeds', '0') == 0
    assert len(stage.calls()) == 4


# A training that needs a second to save when it gets SIGTERM.
SAVES = """
import signal, sys, time
from pathlib import Path
work = Path(sys.argv[sys.argv.index('--work-dir') + 1])
def save(*args):
    time.sleep(1)
    (work / 'saved').touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
(work / 'begun').touch()
time.sleep(100)
"""


def stopped_by(number, stage, jobs):
    """Send a signal to an ablation in a process of its own when its trainings have begun. Return its exit code."""
    stage.write('command.py', SAVES)

    def kill():
        while len([*stage.work.glob('*/*/begun')]) < jobs:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    def run():
        if number != signal.SIGKILL:  # the tests may run under nohup, where SIGHUP stays ignored
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        threading.Thread(target=kill, daemon=True).start()
        sys.exit(stage('--seeds', '0', '1', '--jobs', str(jobs)))

    return ended(start(stage.folder, run))


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells a process that its parent was killed')
def test_a_training_saves_if_the_command_is_killed(stage):
    assert stopped_by(signal.SIGKILL, stage, 1) == -signal.SIGKILL
    begun = [*stage.work.glob('*/*/begun')]
    for _ in range(600):
        if [file.parent for file in stage.work.glob('*/*/saved')] == [file.parent for file in begun]:
            return
        time.sleep(0.1)
    pytest.fail('the training goes on')


@pytest.mark.parametrize('number, jobs', [(signal.SIGTERM, 1), (signal.SIGINT, 2), (signal.SIGHUP, 1)])
def test_trainings_save_and_end_before_the_command_ends(stage, number, jobs):
    assert stopped_by(number, stage, jobs) == 128 + number
    assert 'waiting until the running trainings have saved' in (stage.folder / 'output.txt').read_text()
    assert len([*stage.work.glob('*/*/begun')]) == len([*stage.work.glob('*/*/saved')]) == jobs
    assert not any(file.name == 'result.json' for file in stage.work.glob('*/*/*'))


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _stopping_at_signals([]):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_pointer_is_empty_has_begun(stage, capsys):
    folder = stage.work / 'lambda_0/seed_0'
    folder.mkdir(parents=True)
    (folder / 'last_checkpoint').touch()
    assert stage('--seeds', '0', '--dry-run') == 0
    assert 'λ=0, seed 0: to be continued' in capsys.readouterr().out


def test_two_ablations_do_not_share_a_folder(stage, capsys):
    code = 'import sys, files; files.lock_folder(sys.argv[1]); input(print(flush=True))'
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT / 'mmyolo_bgpenalty/utils')
    with subprocess.Popen([sys.executable, '-c', code, str(stage.work)], **pipes) as other:
        other.stdout.readline()
        assert stage('--seeds', '0') == 2
        other.communicate(b'\n')
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and f'{stage.work} is used by process {other.pid}' in error and not stage.calls()


def test_a_dry_run_prints_the_plan_and_trains_nothing(stage, capsys):
    assert stage('--seeds', '0', '1', '--jobs', '2', '--dry-run') == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [f'Runs in {stage.work}:', '    λ=0, seed 0: to do']
    assert '    λ=1.5, seed 1: to do, with the burn-in of λ=0, seed 1' in printed
    estimate = 'estimated time: unknown until the first run has finished'
    assert printed[-2:] == ['6 of 6 runs to do, 2 at a time', estimate]
    assert not stage.calls() and not stage.work.exists()


def test_time_is_estimated_from_finished_runs(stage, capsys):
    """Two runs are expected to take 600 s. The run that starts after burn-in is expected to take 60 s."""
    assert stage('--seeds', '0') == 0
    for name, seconds in (('lambda_0', 600), ('long', 600), ('lambda_1.5', 60)):
        file = stage.work / name / 'seed_0/result.json'
        file.write_text(json.dumps(dict(json.loads(file.read_text()), seconds=seconds)))
    capsys.readouterr()
    assert stage('--seeds', '0', '1', '--dry-run') == 0
    assert 'estimated time: 21 min' in capsys.readouterr().out


@pytest.mark.parametrize(
    'content, part',
    [
        ('variants = {}', 'Expected `variants`'),
        ("variants = {'a b': dict(), 'A_b': dict()}", "'a b' gets 'a_b'"),
        ("variants = {'a': dict(lamda_bg=1.0)}", 'lamda_bg'),
        ("variants = {'a': {}, 'b': dict(lambda_bg='big')}", "variant 'b': Expected `lambda_bg` to be a finite number"),
        ("variants = {'a': {}, 'b': dict(burn_in=-1)}", "variant 'b': Expected `burn_in` to be a finite number >= 0"),
        (
            "variants = {'a': {'randomness.extra': {1, 2}}}",
            'Expected `randomness.extra` to be a finite number, a string',
        ),
        ("variants = {'a': {}, 'b': {'train_cfg.max_epochs': float('nan')}}", '`train_cfg.max_epochs` to be a finite'),
    ],
)
def test_bad_variants(stage, capsys, content, part):
    stage.write('variants.py', content)
    assert stage() == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and part in error and not stage.calls()


def test_values_reach_the_run_as_they_are(stage):
    """As text on a command line, a dict would become a string, and a path would lose its spaces."""
    values = {'env_cfg.a': dict(type='x', list=[0.3, None]), 'env_cfg.b': 'other set/it\'s "λ"', 'env_cfg.c': (1, (2,))}
    path = "{'env_cfg.d': __import__('pathlib').Path('x y')}"
    stage.write('variants.py', f"variants = {{'a b': {values!r} | {path}}}")
    stage.write('config.py', CONFIG + "env_cfg = {}\nload_from = __import__('pathlib').Path('a b.pth')\n")
    assert stage('--seeds', '0') == 0
    cfg = runpy.run_path(str(stage.work / 'a_b/seed_0.py'))
    assert cfg['env_cfg'] == {**{name[-1]: value for name, value in values.items()}, 'd': 'x y'}
    assert cfg['load_from'] == 'a b.pth'
    assert json.loads((stage.work / 'a_b/seed_0/result.json').read_text())['overrides']['env_cfg.d'] == 'x y'


@pytest.mark.parametrize(
    'thresholds, part',
    [
        (dict(_delete_=True, type='Fixed', thresholds=[0.3]), "variant 'b': the model cannot be built"),
        (dict(type='Fixed', thresholds=[0.3]), "variant 'b': "),  # it takes no `window`, which the config has
        (dict(type='Fixd'), "variant 'b': "),
    ],
)
def test_a_model_that_cannot_be_built_is_found_before_anything_trains(stage, capsys, thresholds, part):
    stage.write(
        'variants.py', f"variants = {{'a': {{}}, 'b': {{'model.semi_train_cfg.class_thresholds': {thresholds}}}}}"
    )
    stage.write('config.py', f"_base_ = '{CONFIGS}/yolov8_semi_bgpenalty.py'\n")
    assert stage() == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and part in error and 'class_thresholds' in error and not stage.calls()


def test_bad_arguments(stage, capsys):
    for options, part in ((('--jobs', '0'), '--jobs >= 1'), (('--seeds', '1', '1'), 'only once')):
        assert stage(*options) == 2
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and part in error and not stage.calls()


def test_a_result_belongs_to_its_config_not_to_the_name_of_the_variant(stage, capsys):
    assert stage('--seeds', '0') == 0
    stage.write('variants.py', VARIANTS.replace("'long'", "'Long'"))
    assert stage('--seeds', '0') == 0
    assert len(stage.calls()) == 3 and '| Long  | 1    |' in (stage.work / 'ablation.md').read_text()
    stage.write('variants.py', VARIANTS.replace('lambda_bg=1.5', 'lambda_bg=1.25'))
    assert stage('--seeds', '0') == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and "'lambda_bg = 1.25' was 'lambda_bg = 1.5'" in error and 'remove' in error


def test_a_config_that_was_edited_in_between_is_noticed(stage, capsys):
    assert stage('--seeds', '0') == 0
    stage.write('config.py', CONFIG.replace('max_epochs=3', 'max_epochs=30'))
    assert stage('--seeds', '0') == 2
    assert "'max_epochs': 30" in capsys.readouterr().err and len(stage.calls()) == 3


@pytest.mark.parametrize(
    'config, variants, shared',
    [
        ('yolov8_semi_bgpenalty_published.py', 'bg_penalty.py', 6),
        ('yolov8_semi_bgpenalty_bccd.py', 'unlabeled.py', 15),
        ('yolov8_semi_bgpenalty_bccd.py', 'bg_options.py', 12),
    ],
)
def test_shipped_variants_take_effect(config, variants, shared, tmp_path):
    """All configs are valid and differ. Planning builds their models. ``shared``: how many runs start after burn-in."""
    config, found = str(CONFIGS / config), read_variants(str(CONFIGS / 'ablations' / variants))
    planned = plan_runs(config, found, [0], tmp_path, {})
    assert {run.variant for run in planned} == set(found) and len(found) > 3
    assert sum(run.leader is not run for run in planned) == shared
    assert len({run.config_text for run in planned}) == len(found)
