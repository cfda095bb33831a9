"""Real ablations of the tiny set: trainings and tests in children of the worker."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmyolo_bgpenalty.cli.ablation import processes
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import read_checkpoint
from tests.helpers.tiny import ROOT, SEMI, load

# Two threads: they would hang in a child if the worker had used its own.
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '2', 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': 'ignore'}
VARIANTS = "variants = {'focal': dict(use_focal_bg=True), 'labels only': dict(burn_in=1000)}"


def ablation(folder, *options):
    """Start a real ablation of the tiny config in a folder."""
    command = [sys.executable, str(ROOT / 'tools/ablation.py'), str(folder / 'tiny.py'), *options]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen([*command, '--work-dir', str(folder / 'work')], env=ENVIRONMENT, cwd=folder, **pipes)


def make_config(data, folder):
    cfg = load(SEMI, data, folder / 'unused', burn_in=1, train_cfg__max_epochs=2, train_cfg__val_interval=2)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.visualizer.name = 'visualizer'
    cfg.dump(folder / 'tiny.py')


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    """The folder and the output of an ablation with two variants and two seeds, two runs at a time."""
    folder = tmp_path_factory.mktemp('ablation')
    make_config(data, folder)
    (folder / 'variants.py').write_text(VARIANTS)
    process = ablation(folder, '--variants', str(folder / 'variants.py'), '--seeds', '0', '1', '--jobs', '2')
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return folder, output


def last_checkpoint(work_dir):
    return read_checkpoint(Path(work_dir, 'last_checkpoint').read_text())


def test_two_variants_are_trained_evaluated_and_compared(finished):
    folder, output = finished
    content = json.loads((folder / 'work/ablation.json').read_text())
    runs = [(r['variant'], r['seed']) for r in content['runs']]
    assert runs == [('focal', 0), ('labels only', 0), ('focal', 1), ('labels only', 1)]
    for result in content['runs']:
        assert 'coco/bbox_mAP_50' in result['metrics'] and 0 <= result['metrics']['pr/f1'] <= 1
        assert len(result['curve']['recall']) == len(result['curve']['precision']) == 101
    log = (folder / 'work/focal/seed_0/log.txt').read_text()
    assert 'resumed epoch: 1, iter: 5' in log
    assert (folder / 'work/ablation.png').read_bytes()[:4] == b'\x89PNG'
    assert f'in a browser: {folder}/work/report.html' in output
    page = (folder / 'work/report.html').read_text(encoding='utf-8')
    names = [run['name'] for run in json.loads(re.search(r'json">(.*?)</script>', page, re.S).group(1))['runs']]
    assert names == ['focal', 'labels only']


def test_the_time_of_training_is_that_of_the_iterations(finished):
    """The focal run starts from the other run, after 5 of 10 iterations."""
    folder, output = finished
    for name, first in (('focal', 5), ('labels_only', 0)):
        result = json.loads((folder / f'work/{name}/seed_0/result.json').read_text())
        times = last_checkpoint(folder / f'work/{name}/seed_0')['message_hub']['log_scalars']['train/time'].data[0]
        assert len(times) == 10 and 0 < result['train_seconds'] < result['seconds']
        assert result['train_seconds'] == pytest.approx(sum(times[first:]))
    line = re.search('4 runs took .* to start, validate and test\\.', output)[0]
    assert line in (folder / 'work/ablation.md').read_text()


def test_a_run_equals_one_in_new_processes(finished, tmp_path):
    """To the bit: weights, teacher, optimizer, random states and metrics."""
    folder, _ = finished
    config, run = folder / 'work/labels_only/seed_1.py', folder / 'work/labels_only/seed_1'

    def command(*arguments):
        arguments = [sys.executable, '-m', 'mmyolo_bgpenalty', *map(str, arguments)]
        done = subprocess.run(arguments, env=ENVIRONMENT, cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr

    options = ('default_hooks.checkpoint.save_best=None', 'default_hooks.checkpoint.max_keep_ckpts=-1')
    command('train', config, '--work-dir', tmp_path, '--cfg-options', *options)
    command('test', config, tmp_path / 'epoch_2.pth', '--work-dir', tmp_path, '--out', tmp_path / 'test')
    found, expected = last_checkpoint(run), last_checkpoint(tmp_path)
    assert found.keys() == expected.keys()
    for name in ('state_dict', 'optimizer', 'param_schedulers', 'resume'):
        assert_same(found[name], expected[name], name)
    metrics = [json.loads((place / 'test/metrics.json').read_text()) for place in (run, tmp_path)]
    assert metrics[0] == metrics[1] and len(metrics[0]) > 20
    for name in ('test.bbox.json', 'test.precision_recall.json', 'precision_recall.png'):
        assert (run / 'test' / name).read_bytes() == (tmp_path / 'test' / name).read_bytes()


def assert_same(found, expected, where):
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f'{where}.{key}')
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for index, (one, other) in enumerate(zip(found, expected)):
            assert_same(one, other, f'{where}.{index}')
    else:
        assert found == expected, where


def test_mistakes_are_reported_as_by_a_new_process(tmp_path, monkeypatch):
    """An unknown command, an unknown argument and a missing file: exit code and output."""
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('PYTHONWARNINGS', 'ignore')
    reports = []
    for forks in (True, False):
        monkeypatch.setattr(processes, 'FORKS', forks)
        log = tmp_path / f'{forks}.txt'
        with processes.Processes(1) as started, log.open('w') as output:
            calls = ['tset'], ['train', 'none.py', '--sede', '1'], ['test', 'none.py', 'none.pth']
            codes = [started.start(arguments, output).wait() for arguments in calls]
        reports.append((codes, log.read_text()))
    assert reports[0] == reports[1] and reports[0][0] == [2, 2, 2]
    assert 'python -m mmyolo_bgpenalty train: ' in reports[0][1] and 'none.py: no such file' in reports[0][1]


def test_a_stopped_ablation_saves_and_continues(data, tmp_path):
    make_config(data, tmp_path)
    (tmp_path / 'variants.py').write_text("variants = {'one': {}}")
    options = ['--variants', str(tmp_path / 'variants.py'), '--seeds', '0', '--cfg-options']
    options += ['train_cfg.max_epochs=8', 'train_cfg.val_interval=8', 'default_hooks.checkpoint.interval=8']
    run, process = tmp_path / 'work/one/seed_0', ablation(tmp_path, *options)
    for _ in range(1200):
        if (run / 'log.txt').exists() and '[2][5/5]' in (run / 'log.txt').read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGTERM and 'waiting until the running trainings have saved' in output
    log = (run / 'log.txt').read_text()
    done = int(re.search(r'Stopped after iteration (\d+) of 40', log)[1])
    assert 10 <= done < 40 and last_checkpoint(run)['meta']['iter'] == done and not (run / 'result.json').exists()
    process = ablation(tmp_path, *options)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert f'continues after iteration {done}' in (run / 'log.txt').read_text()
    result, times = json.loads((run / 'result.json').read_text()), last_checkpoint(run)['message_hub']
    assert len(times['log_scalars']['train/time'].data[0]) == 40 and 0 < result['train_seconds'] < result['seconds']
