"""The faults that .ci/smoke.py finds. CI runs this script for a real training."""

import copy
import math
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from mmyolo_bgpenalty import lambda_bg_at
from tests.helpers.tiny import ROOT


@pytest.fixture(scope='module')
def smoke():
    spec = spec_from_file_location('smoke', ROOT / '.ci/smoke.py')
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = ['20260101_000000', 'last_checkpoint', 'epoch_3.pth', 'epoch_4.pth']


@pytest.fixture
def runs(smoke):
    """The logs of two good runs, each with a validation: three epochs (the first is burn-in), then one more epoch."""
    rows = []
    for i in range(smoke.EPOCHS * smoke.BATCHES):
        progress = i / smoke.BATCHES
        row = dict(step=i + 1, loss=5.0)
        row['semi/lambda_bg'] = lambda_bg_at(progress, lambda_bg=1.0, burn_in=1, warmup=2, schedule='linear')
        for branch in ('sup', 'unsup') if progress > 1 else ('sup',):
            row.update({f'{branch}_loss_{name}': 1.0 for name in ('cls', 'bbox', 'dfl', 'bg')})
        rows.append(row)
    validation = {f'{model}/{name}': 0.1 for model in ('teacher', 'student') for name in ('coco/bbox_mAP_50', 'pr/f1')}
    first = (smoke.EPOCHS - 1) * smoke.BATCHES
    return [[*rows[:first], dict(validation, step=2)], [*rows[first:], dict(validation, step=4)]]


def test_good_runs_have_no_fault(smoke, runs):
    assert smoke.faults(runs, NAMES) == []


@pytest.mark.parametrize('name', NAMES[1:])
def test_a_checkpoint_is_missing(smoke, runs, name):
    assert smoke.faults(runs, [one for one in NAMES if one != name]) == [f'no {name}']


MISTAKES = {
    'loss is not finite': (lambda runs: runs[0][4].update(sup_loss_cls=math.nan), 'sup_loss_cls is nan in iteration 5'),
    'loss is missing': (lambda runs: runs[1][0].pop('unsup_loss_bg'), 'no unsup_loss_bg in iteration 25'),
    'λ stays 0': (lambda runs: runs[0][15].update({'semi/lambda_bg': 0.0}), 'λ is 0.0 in iteration 16, not 0.4375'),
    'an iteration is missing': (lambda runs: runs[0].pop(0), 'expected iterations 1 to 24, then 25 to 32, but got [[2'),
    'one run': (lambda runs: runs.pop(), 'found the logs of 1 runs, but expected 2'),
    'no metric': (lambda runs: [rows[-1].pop('teacher/pr/f1') for rows in runs], 'teacher/pr/f1 is None'),
    'metric is not finite': (lambda runs: runs[1][-1].update({'teacher/pr/f1': math.nan}), 'teacher/pr/f1 is nan'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_fault_is_named(smoke, runs, mistake):
    change, expected = MISTAKES[mistake]
    runs = copy.deepcopy(runs)
    change(runs)
    assert any(fault.startswith(expected) for fault in smoke.faults(runs, NAMES))


def test_a_training_that_fails_ends_the_script(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(smoke, 'OPTIONS', {'lamda_bg': 1.0})
    with pytest.raises(SystemExit, match=r'(?s)`lambda_bg`.*smoke: train.py ended with 2'):
        smoke.train(tmp_path, 1)
