"""The ablation with a stand-in for training and testing, and one real run."""

import json
import os
import subprocess
import sys

import pytest
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS

from mmyolo_bgpenalty.cli.ablation import ablate, runs
from mmyolo_bgpenalty.cli.run import read_config
from tests.helpers.tiny import CONFIGS, ROOT, SEMI, load

COMMAND = """
import json, sys
from pathlib import Path
argv = sys.argv
work = Path(argv[argv.index('--work-dir') + 1])
if argv[1] == 'test':
    (work / 'test').mkdir(exist_ok=True)
    (work / 'test/metrics.json').write_text(json.dumps({'coco/bbox_mAP_50': float(Path(argv[3]).read_text())}))
    sys.exit()
options = dict(o.split('=', 1) for o in argv[argv.index('--cfg-options') + 1:])
resume = argv[argv.index('--resume') + 1] if '--resume' in argv else None
with Path(__file__).with_name('calls.txt').open('a') as calls:
    print(work.parent.name, options['randomness.seed'], resume, file=calls)
if options.get('lambda_bg') == '1.5' and Path(__file__).with_name('broken').exists():
    print('the disk is full')
    sys.exit(3)
for epoch in (1, 2):
    (work / f'epoch_{epoch}.pth').write_text(options.get('lambda_bg', 'none'))
if options.get('default_hooks.checkpoint.max_keep_ckpts') != '-1':
    (work / 'epoch_1.pth').unlink()
(work / 'last_checkpoint').write_text(str(work / 'epoch_2.pth'))
"""
VARIANTS = (
    "variants = {'λ=0': dict(lambda_bg=0.0), 'λ=1.5': dict(lambda_bg=1.5), 'long': dict(lambda_bg=1.0, burn_in=2)}"
)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run the ablation with a config, variants and the stand-in, all in one folder; return its exit code."""
    monkeypatch.setattr(runs, 'COMMAND', (sys.executable, str(tmp_path / 'command.py')))
    (tmp_path / 'command.py').write_text(COMMAND)
    (tmp_path / 'variants.py').write_text(VARIANTS)
    (tmp_path / 'config.py').write_text(
        "burn_in = 1\nrandomness = dict(seed=0)\ntrain_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)\n"
        "default_hooks = dict(checkpoint=dict(interval=1), lambda_bg=dict(type='LambdaBgSchedulerHook'))\n"
    )
    work = tmp_path / 'work'

    def start(*options):
        argv = [str(tmp_path / 'config.py'), '--variants', str(tmp_path / 'variants.py'), '--work-dir', str(work)]
        return ablate.main([*argv, *options])

    start.folder, start.work = tmp_path, work
    (tmp_path / 'calls.txt').touch()
    start.calls = lambda: (tmp_path / 'calls.txt').read_text().splitlines()
    return start


@pytest.mark.parametrize('jobs', ['1', '3'])
def test_every_variant_with_every_seed(stage, jobs):
    assert stage('--seeds', '0', '3', '--jobs', jobs) == 0
    assert len(stage.calls()) == 6
    # λ=1.5 differs only after burn-in. It continues from the baseline with the same seed. The others start anew.
    for seed in (0, 3):
        start = stage.work / f'lambda_0/seed_{seed}/epoch_1.pth'
        assert {f'lambda_0 {seed} None', f'long {seed} None', f'lambda_1.5 {seed} {start}'} <= {*stage.calls()}
    result = json.loads((stage.work / 'long/seed_3/result.json').read_text())
    assert result['variant'] == 'long' and result['seed'] == 3 and result['metrics'] == {'coco/bbox_mAP_50': 1.0}
    assert result['overrides'] == {'lambda_bg': 1.0, 'burn_in': 2, 'randomness.seed': 3}
    assert '| λ=1.5 | 2    | +1.500 [+1.500, +1.500] |' in (stage.work / 'ablation.md').read_text()


def test_a_finished_run_is_not_run_again(stage):
    assert stage('--seeds', '0') == 0
    before = len(stage.calls())
    assert stage('--seeds', '0') == 0
    assert len(stage.calls()) == before
    assert stage('--seeds', '0', '1') == 0
    assert len(stage.calls()) == 6 and all(' 1 ' in line for line in stage.calls()[before:])
    # A run that has begun continues from its own checkpoint.
    (stage.work / 'lambda_1.5/seed_1/result.json').unlink()
    assert stage('--seeds', '0', '1') == 0
    assert stage.calls()[-1] == 'lambda_1.5 1 --cfg-options'
    assert json.loads((stage.work / 'lambda_1.5/seed_1/result.json').read_text())['seconds'] is None


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


def test_a_dry_run_prints_the_plan_and_trains_nothing(stage, capsys):
    assert stage('--seeds', '0', '1', '--jobs', '2', '--dry-run') == 0
    printed = capsys.readouterr().out.splitlines()
    shared = stage.work / 'lambda_0/seed_1/epoch_1.pth'
    assert printed[1].rstrip() == f'λ=0, seed 1: {stage.work}/lambda_0/seed_1'
    assert f'λ=1.5, seed 1: {stage.work}/lambda_1.5/seed_1 from {shared}' in printed
    estimate = 'estimated time: unknown until a run has finished without interruption'
    assert printed[-2:] == ['6 of 6 runs to do, 2 at a time', estimate]
    assert not stage.calls() and not stage.work.exists()


def test_time_is_estimated_from_uninterrupted_runs(stage, capsys):
    """Two runs are expected to take 600 s. The run that starts after burn-in is expected to take 60 s."""
    assert stage('--seeds', '0') == 0
    for name, seconds in (('lambda_0', 600), ('long', None), ('lambda_1.5', 60)):
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
    ],
)
def test_bad_variants(stage, capsys, content, part):
    (stage.folder / 'variants.py').write_text(content)
    assert stage() == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and part in error and not stage.calls()


def test_bad_arguments(stage, capsys):
    for options, part in ((('--jobs', '0'), '--jobs >= 1'), (('--seeds', '1', '1'), 'only once')):
        assert stage(*options) == 2
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and part in error and not stage.calls()


def test_a_result_belongs_to_its_overrides_not_to_the_name_of_the_variant(stage, capsys):
    assert stage('--seeds', '0') == 0
    (stage.folder / 'variants.py').write_text(VARIANTS.replace("'long'", "'Long'"))
    assert stage('--seeds', '0') == 0
    assert len(stage.calls()) == 3 and '| Long  | 1    |' in (stage.work / 'ablation.md').read_text()
    (stage.folder / 'variants.py').write_text(VARIANTS.replace('lambda_bg=1.5', 'lambda_bg=1.25'))
    assert stage('--seeds', '0') == 2
    assert 'Expected the overrides {' in capsys.readouterr().err


def test_a_real_run(data, tmp_path):
    """Two variants are trained on the tiny set, evaluated and compared."""
    cfg = load(SEMI, data, tmp_path / 'unused', burn_in=1, train_cfg__max_epochs=2, train_cfg__val_interval=2)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.visualizer.name = 'visualizer'
    cfg.dump(tmp_path / 'tiny.py')
    (tmp_path / 'variants.py').write_text("variants = {'none': dict(lambda_bg=0.0), 'focal': dict(use_focal_bg=True)}")
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools/ablation.py'), str(tmp_path / 'tiny.py')]
    command += ['--variants', str(tmp_path / 'variants.py'), '--seeds', '0', '--work-dir', str(tmp_path / 'work')]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout
    content = json.loads((tmp_path / 'work/ablation.json').read_text())
    assert [r['variant'] for r in content['runs']] == ['none', 'focal']
    for result in content['runs']:
        assert 'coco/bbox_mAP_50' in result['metrics'] and 0 <= result['metrics']['pr/f1'] <= 1
        assert len(result['curve']['recall']) == len(result['curve']['precision']) == 101
    log = (tmp_path / 'work/focal/seed_0/log.txt').read_text()
    assert 'resumed epoch: 1, iter: 5' in log
    assert (tmp_path / 'work/ablation.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.parametrize(
    'config, variants, shared',
    [
        ('yolov8_semi_bgpenalty_published.py', 'bg_penalty.py', 6),
        ('yolov8_semi_bgpenalty_bccd.py', 'unlabeled.py', 0),
        ('yolov8_semi_bgpenalty_bccd.py', 'bg_options.py', 12),
        ('yolov8_semi_bgpenalty.py', 'contributions.py', 0),
    ],
)
def test_shipped_variants_take_effect(config, variants, shared, tmp_path):
    """All configs are valid and differ. Their models can be built. ``shared``: how many runs start after burn-in."""
    config, found = str(CONFIGS / config), runs.read_variants(str(CONFIGS / 'ablations' / variants))
    planned = runs.plan_runs(config, found, [0], tmp_path, {})
    assert {run.variant for run in planned} == set(found) and len(found) > 3
    assert sum(run.start_from is not None for run in planned) == shared
    init_default_scope('mmyolo')
    texts = []
    for overrides in found.values():
        cfg = read_config(config, overrides)
        texts.append(str(cfg.to_dict()))
        MODELS.build(cfg.model)
    assert len(set(texts)) == len(texts)
