"""What a person reads when training has ended."""

import os
import time
from datetime import timedelta
from pathlib import Path

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmyolo_bgpenalty.engine.console import evaluated_model
from mmyolo_bgpenalty.evaluation.table import headline

BETTER = 0.02  # in mAP; smaller differences are chance


class RunSummaryHook(Hook):
    """Remembers when training started, and the values of the best validation, for the summary at the end."""

    priority = 'LOWEST'  # after CheckpointHook, which decides what is best

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._best, self._figures = '', ''
        self._found_nothing = False  # by the best model in validation
        self._better_student = False

    def before_train(self, runner: Runner) -> None:
        self._start = time.monotonic()
        self._best = best_checkpoint(runner)  # of an earlier run that is resumed: its figures are unknown

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        best = best_checkpoint(runner)
        if best != self._best:
            self._best, rows = best, headline(metrics or {}, evaluated_model(runner))
            teacher, student = (rows.get(role, {}).get('mAP', 0.0) for role in ('teacher', 'student'))
            self._better_student = student - teacher > BETTER
            # The first row is the teacher of a semi-supervised run.
            for role, values in list(rows.items())[:1]:
                self._found_nothing = values.get('mAP') == 0
                self._figures = f'{role}: {", ".join(f"{name} {value:.3f}" for name, value in values.items())}'

    def finished(self, runner: Runner) -> list[str]:
        """The lines of the summary."""
        took = timedelta(seconds=round(time.monotonic() - self._start))
        lines = [f'Training is finished: {runner.iter:,} iterations, {took} in this run.']
        if self._best:
            lines.append(f'  best checkpoint: {shown(self._best)}')
            if self._figures:
                lines.append(f'    {self._figures}')
            if self._found_nothing:
                lines.append('    no model has found an object in validation: train longer')
            if self._better_student:
                lines.append(
                    '    the student was better than the teacher: train longer, or predict with the student '
                    '(--cfg-options model.semi_test_cfg.predict_on=student)'
                )
        last = runner.message_hub.runtime_info.get('last_ckpt')
        if last:
            lines.append(f'  last checkpoint: {shown(last)}')
        for name, what in (('skipped_iterations', 'skipped iterations'), ('amp_overflows', 'overflows in fp16')):
            history = runner.message_hub.log_scalars.get(f'train/{name}')
            if history is not None:
                lines.append(f'  {what}: {history.current():g}, see the warnings in the log')
        lines.append(f'  log: {shown(runner.logger.log_file)}')
        pictures = Path(runner.log_dir, 'vis_data', 'vis_image')
        if pictures.is_dir():
            lines.append(f'  pictures: {shown(str(pictures))}')
        return lines

    def best_or_last(self, runner: Runner) -> str:
        """The checkpoint to use: the best, else the last, else ''. The last if the best finds no object."""
        return shown(
            ('' if self._found_nothing else self._best) or runner.message_hub.runtime_info.get('last_ckpt') or ''
        )


def best_checkpoint(runner: Runner) -> str:
    """The path of the best checkpoint, of the first metric of ``save_best`` if it has several. '' without one."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            paths = [getattr(hook, 'best_ckpt_path', None), *getattr(hook, 'best_ckpt_path_dict', {}).values()]
            return next((path for path in paths if path), '')
    return ''


def latest_checkpoint(runner: Runner) -> str:
    """The path of the checkpoint from which ``--resume`` continues, '' without one."""
    pointer = Path(runner.work_dir, 'last_checkpoint')
    return pointer.read_text().strip() if pointer.is_file() else ''


def shown(path: str) -> str:
    """A path as a person reads it: relative, if it is below the current folder."""
    relative = os.path.relpath(path) if path and '://' not in path else path
    return path if relative.startswith('..') else relative
