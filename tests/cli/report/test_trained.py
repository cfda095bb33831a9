"""The command report on the work dir of a training."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from mmyolo_bgpenalty.cli.report import trained
from mmyolo_bgpenalty.cli.report.sources import results_in
from mmyolo_bgpenalty.cli.run import InputError

SEMI = "model = dict(semi_test_cfg=dict(predict_on='student'))\n"


def checkpoint(file, text=SEMI, time=1000):
    torch.save(dict(meta=dict(cfg=text), state_dict={}), file)
    os.utime(file, (time, time))
    return file


@pytest.fixture
def work_dir(tmp_path):
    """A work dir with two best checkpoints and a last one, and the config of a later `test`."""
    folder = tmp_path / 'mine'
    folder.mkdir()
    (folder / 'mine.py').write_text('model = dict(other=True)')
    for name, time in (('best_map_epoch_9.pth', 1000), ('best_map_epoch_10.pth', 1100), ('epoch_12.pth', 1200)):
        checkpoint(folder / name, time=time)
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_12.pth'))
    return folder


@pytest.fixture
def tests(monkeypatch, tmp_path):
    """Config, checkpoint, output folder and predicting model of each call of the command test, which only writes
    tested.json here."""
    calls = []
    (tmp_path / 'test.json').write_text('{}')
    os.utime(tmp_path / 'test.json', (900, 900))

    def main(arguments):
        config, file, _, work_dir, _, out, _, *options = arguments
        assert work_dir == out  # nothing of the training is overwritten
        calls.append((Path(config).read_text(), file, out, options[1].partition('=')[2] if options[1:] else None))
        tested = dict(checkpoint=os.path.abspath(file), ann_file=str(tmp_path / 'test.json'))
        Path(out, 'tested.json').write_text(json.dumps(tested))

    monkeypatch.setattr(trained.test, 'main', main)
    return calls


def test_teacher_and_student_are_tested_once_with_the_config_of_the_training(work_dir, tests):
    expected = {'mine, teacher': work_dir / 'report/best', 'mine, student': work_dir / 'report/student'}
    assert results_in(work_dir) == expected == results_in(work_dir)
    best = str(work_dir / 'best_map_epoch_10.pth')
    outs = map(str, expected.values())
    assert tests == [(SEMI, best, out, model) for out, model in zip(outs, ('teacher', 'student'))]


def test_a_better_checkpoint_is_tested(work_dir, tests):
    results_in(work_dir)
    later = checkpoint(work_dir / 'best_map_epoch_14.pth', time=1150)  # although the results are newer
    results_in(work_dir)
    assert [call[1] for call in tests[2:]] == [str(later)] * 2


def test_corrected_labels_are_tested(work_dir, tests, tmp_path):
    results_in(work_dir)
    newer = (work_dir / 'report/best/tested.json').stat().st_mtime + 5
    os.utime(tmp_path / 'test.json', (newer, newer))
    results_in(work_dir)
    assert len(tests) == 4


def test_without_a_best_checkpoint_the_last_one_is_tested_also_in_a_moved_folder(work_dir, tests, tmp_path):
    for file in work_dir.glob('best_*'):
        file.unlink()
    checkpoint(work_dir / 'epoch_12.pth', 'model = dict()\n')
    shutil.move(work_dir, tmp_path / 'moved')
    assert results_in(tmp_path / 'moved') == {'moved': tmp_path / 'moved/report/best'}
    assert tests == [
        ('model = dict()\n', str(tmp_path / 'moved/epoch_12.pth'), str(tmp_path / 'moved/report/best'), None)
    ]


def test_results_are_read_without_their_checkpoint(work_dir, tests):
    expected = results_in(work_dir)
    for file in work_dir.glob('*.pth'):
        file.unlink()
    assert results_in(work_dir) == expected and len(tests) == 2


def test_a_failed_test_is_reported(work_dir, monkeypatch):
    monkeypatch.setattr(trained.test, 'main', lambda arguments: 2)
    with pytest.raises(InputError, match=f'{work_dir}: .*`test` failed'):
        results_in(work_dir)


def test_a_test_that_leaves_no_predictions(work_dir, monkeypatch):
    monkeypatch.setattr(trained.test, 'main', lambda arguments: 0)
    with pytest.raises(ValueError, match='PrecisionRecallMetric'):
        results_in(work_dir)


def test_a_checkpoint_without_a_config(work_dir, tests):
    torch.save(dict(state_dict={}), work_dir / 'best_map_epoch_10.pth')
    with pytest.raises(InputError, match='best_map_epoch_10.pth: expected the config'):
        results_in(work_dir)
