"""The command report on the work dir of a training."""

import os
from pathlib import Path

import pytest

from mmyolo_bgpenalty.cli.report import trained
from mmyolo_bgpenalty.cli.report.sources import results_in
from mmyolo_bgpenalty.cli.run import InputError

STUDENT = ['--cfg-options', 'model.semi_test_cfg.predict_on=student']


def write(file, text='', time=1000):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (time, time))
    return file


@pytest.fixture
def work_dir(tmp_path):
    """A work dir with two configs, two best checkpoints and a last one."""
    folder = tmp_path / 'mine'
    write(folder / 'old.py', 'model = dict()', 900)
    write(folder / 'new.py', "model = dict(semi_test_cfg=dict(predict_on='teacher'))", 1000)
    for name, time in (('best_map_epoch_9.pth', 1000), ('best_map_epoch_10.pth', 1100), ('epoch_12.pth', 1200)):
        write(folder / name, '', time)
    write(folder / 'last_checkpoint', str(folder / 'epoch_12.pth'))
    return folder


@pytest.fixture
def tests(monkeypatch):
    """The arguments of each call of the command test, which only writes tested.json here."""
    calls = []

    def main(arguments):
        calls.append(arguments)
        write(Path(arguments[arguments.index('--out') + 1], 'tested.json'), '{}', 1300)

    monkeypatch.setattr(trained.test, 'main', main)
    return calls


def test_teacher_and_student_are_tested_once(work_dir, tests):
    expected = {'mine': work_dir / 'test', 'mine, student': work_dir / 'test_student'}
    assert results_in(work_dir) == expected == results_in(work_dir)
    best = str(work_dir / 'best_map_epoch_10.pth')
    for call, out, options in zip(tests, expected.values(), ([], STUDENT), strict=True):
        assert call == [str(work_dir / 'new.py'), best, '--work-dir', str(work_dir), '--out', str(out), *options]


def test_a_newer_checkpoint_is_tested(work_dir, tests):
    results_in(work_dir)
    newer = write(work_dir / 'best_map_epoch_14.pth', '', 1400)
    results_in(work_dir)
    assert [call[1] for call in tests[2:]] == [str(newer)] * 2


def test_without_a_best_checkpoint_the_last_one_is_tested(work_dir, tests):
    for file in work_dir.glob('best_*'):
        file.unlink()
    (work_dir / 'new.py').unlink()  # the other config has no student
    assert results_in(work_dir) == {'mine': work_dir / 'test'}
    assert [call[1] for call in tests] == [str(work_dir / 'epoch_12.pth')]


def test_results_are_read_without_their_checkpoint(work_dir, tests):
    results_in(work_dir)
    for file in work_dir.glob('*.pth'):
        file.unlink()
    results_in(work_dir)
    assert len(tests) == 2


def test_a_failed_test_is_reported(work_dir, monkeypatch):
    monkeypatch.setattr(trained.test, 'main', lambda arguments: 2)
    with pytest.raises(InputError, match=f'{work_dir}: .*`test` failed'):
        results_in(work_dir)


def test_a_test_that_leaves_no_predictions(work_dir, monkeypatch):
    monkeypatch.setattr(trained.test, 'main', lambda arguments: 0)
    with pytest.raises(ValueError, match='PrecisionRecallMetric'):
        results_in(work_dir)
