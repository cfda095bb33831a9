"""The results of a training: `report` tests its best checkpoint, if this has not been done."""

from pathlib import Path

from mmyolo_bgpenalty.cli import test
from mmyolo_bgpenalty.cli.run import InputError, read_config
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import latest_checkpoint


def is_training(folder: Path) -> bool:
    """Whether a folder is the work dir of a training that has saved a checkpoint."""
    return bool(latest_checkpoint(folder)) and any(folder.glob('*.py'))


def tested_models(folder: Path) -> dict[str, Path]:
    """The results of the best checkpoint of a work dir, or of the last one if none is the best.

    They are in its folders `test` and, for the student of a semi-supervised detector, `test_student`. Results that are
    older than the checkpoint are made anew.

    Returns:
        Folders by what is added to the name of the run: '' and, for a student, ', student'.

    Raises:
        InputError: a test fails. It has printed why.
    """
    config = max(folder.glob('*.py'), key=_time)  # MMEngine writes it when a training starts
    best = sorted(folder.glob('best_*.pth'), key=_time)
    checkpoint = best[-1] if best else Path(latest_checkpoint(folder))
    results: dict[str, tuple[Path, list[str]]] = {'': (folder / 'test', [])}
    if 'semi_test_cfg' in read_config(str(config), {}).model:
        student = ['--cfg-options', 'model.semi_test_cfg.predict_on=student']
        results[', student'] = (folder / 'test_student', student)
    for out, options in results.values():
        file = out / test.TESTED
        if not file.is_file() or (checkpoint.is_file() and _time(file) < _time(checkpoint)):
            paths = [str(config), str(checkpoint), '--work-dir', str(folder), '--out', str(out)]
            if test.main([*paths, *options]):
                raise InputError(f'{folder}: expected a training that can be tested, but `test` failed')
    return {name: out for name, (out, _) in results.items()}


def _time(file: Path) -> float:
    return file.stat().st_mtime
