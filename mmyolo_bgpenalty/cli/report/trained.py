"""The results of a training: `report` tests its best checkpoint, if this has not been done."""

import os
from pathlib import Path

from mmengine.config import Config

from mmyolo_bgpenalty.cli import test
from mmyolo_bgpenalty.cli.run import InputError
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import latest_checkpoint, read_checkpoint
from mmyolo_bgpenalty.utils.files import read_json, write_whole

PREDICT_ON = 'model.semi_test_cfg.predict_on'
TEACHER = 'teacher'
STUDENT = 'student'


def is_training(folder: Path) -> bool:
    """Whether a folder is the work dir of a training that has saved a checkpoint."""
    return bool(latest_checkpoint(folder))


def tested_models(folder: Path) -> dict[str, Path]:
    """The results of the best checkpoint of a work dir, or of the last one if none is the best.

    They are in its folders `report/best` and, for the student of a semi-supervised detector, `report/student`. They are
    made anew if the checkpoint is another one, or if it or the annotations are newer.

    Returns:
        Folders by model: '', or ``TEACHER`` and ``STUDENT`` of a semi-supervised detector.

    Raises:
        InputError: a test fails. It has printed why.
        CheckpointError, OSError: the checkpoint cannot be read, or has no config.
    """
    best = sorted(folder.glob('best_*.pth'), key=_time)
    latest = Path(latest_checkpoint(folder))
    moved = folder / latest.name  # the file `last_checkpoint` has the path at the time of the training
    checkpoint = best[-1] if best else moved if moved.is_file() else latest
    out = folder / 'report'
    best_out, student = out / 'best', out / STUDENT
    if not checkpoint.is_file() and (best_out / test.TESTED).is_file():  # removed to save space
        return {TEACHER: best_out, STUDENT: student} if (student / test.TESTED).is_file() else {'': best_out}
    # A later `test` writes another config to the work dir.
    text = (read_checkpoint(str(checkpoint)).get('meta') or {}).get('cfg')
    if not isinstance(text, str):
        raise InputError(f'{checkpoint}: expected the config of the training in its `meta`, but there is none')
    semi = 'semi_test_cfg' in Config.fromstring(text, '.py').model
    results = {TEACHER: best_out, STUDENT: student} if semi else {'': best_out}
    for name, place in results.items():
        if _is_current(place / test.TESTED, checkpoint):
            continue
        config = place / f'{folder.resolve().name}.py'
        write_whole(config, text)
        # MMEngine shares visualizers of equal names, and this process may have trained with one.
        options = [f'visualizer.name={place}', *([f'{PREDICT_ON}={name}'] if semi else [])]
        paths = [str(config), str(checkpoint), '--work-dir', str(place), '--out', str(place)]
        if test.main([*paths, '--cfg-options', *options]):
            raise InputError(f'{folder}: expected a training that can be tested, but `test` failed')
    return results


def _is_current(file: Path, checkpoint: Path) -> bool:
    if not file.is_file():
        return False
    tested = read_json(file)
    sources = [checkpoint, Path(tested['ann_file'])]
    newer = any(one.is_file() and _time(one) > _time(file) for one in sources)
    return tested['checkpoint'] == os.path.abspath(checkpoint) and not newer


def _time(file: Path) -> float:
    return file.stat().st_mtime
