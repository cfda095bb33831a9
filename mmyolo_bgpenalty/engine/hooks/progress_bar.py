"""A live progress bar for terminals."""

import logging
import math
import sys
import time
import weakref
from contextlib import suppress

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mmyolo_bgpenalty.engine.console import evaluated_model
from mmyolo_bgpenalty.engine.hooks.lambda_bg import LambdaBgSchedulerHook
from mmyolo_bgpenalty.evaluation.table import headline
from mmyolo_bgpenalty.utils.arguments import non_negative
from mmyolo_bgpenalty.utils.distributed import unwrapped


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Shows a live bar below MMEngine's log lines on a terminal, and nothing if the output is piped.

    It shows the epoch (from 1), the mode, iterations, their rate and the time left. The mode is 'burn-in 3/8' in the
    third of eight epochs of burn-in, then 'semi', and 'train' without a teacher. For the latest batch the bar shows
    ``loss`` and λ. With a teacher it also shows the sums of the ``sup_*``, ``unsup_*`` and ``bg_*`` losses, and
    ``unsup_weight``.
    Validation has a second bar. After it, the first bar shows the latest mAP, with a teacher the teacher's.

    Only the main process draws, and waits for the device only then. If the terminal closes, the bar ends and training
    continues.

    Args:
        refresh_per_second: largest number of drawings per second, > 0.

    Raises:
        ValueError: ``refresh_per_second`` is not a finite number > 0.
    """

    priority = 'LOW'  # after the hooks that log: the log and the bar show the same numbers

    def __init__(self, refresh_per_second: float = 4):
        if not non_negative('refresh_per_second', refresh_per_second):
            raise ValueError('Expected `refresh_per_second` to be > 0, but got 0')
        self.refresh_per_second = refresh_per_second
        self._live: Live | None = None

    def before_train(self, runner: Runner) -> None:
        console = Console()
        if not (is_main_process() and sys.stdout.isatty() and console.is_interactive):
            return
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn('{task.fields[rate]}'),
            TimeRemainingColumn(),
            expand=True,
        )
        self._task = self._progress.add_task('start', total=runner.max_iters, completed=runner.iter, rate='')
        self._figures, self._losses, self._latest = Text(), '', ''
        self._epoch = runner.epoch
        self._epochs = math.ceil(runner.max_iters / len(runner.train_dataloader))
        self._plan = next((hook for hook in runner.hooks if isinstance(hook, LambdaBgSchedulerHook)), None)
        self._drawn_at = float('-inf')
        # No refresh thread: if it holds a lock when DataLoader forks, the lock stays locked in the worker.
        rows = Group(self._progress, self._figures)
        self._live = Live(rows, console=console, auto_refresh=False, redirect_stderr=sys.stderr.isatty())
        old = sys.stdout, sys.stderr
        self._live.start()
        # Live hides the cursor. A killed process could not show it again.
        console.show_cursor(True)
        # Log handlers still have the old streams, and would write into the bar.
        new = dict(zip(old, (sys.stdout, sys.stderr)))
        handlers = {}
        for handler in (*runner.logger.handlers, *logging.getLogger().handlers):
            if isinstance(handler, logging.StreamHandler) and handler.stream in new:
                handlers[handler] = handler.stream
                handler.setStream(new[handler.stream])
        # If training raises an error, MMEngine calls no hook. A finalizer runs then, and at exit.
        self._finalizer = weakref.finalize(runner, _restore, self._live, handlers)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        if self._live is None or outputs is None:
            return
        done = runner.iter + 1
        self._progress.update(self._task, completed=done)
        if not self._is_due() and done < runner.max_iters:
            return
        # In IterBasedTrainLoop the epoch stays 0, and batch_idx counts all batches.
        self._epoch = runner.epoch + batch_idx // len(runner.train_dataloader)
        self._losses = '  '.join(f'{k} {v:.4g}' for k, v in self._read(runner, outputs).items())
        self._draw(self._live, self._mode(runner, batch_idx))

    def before_val(self, runner: Runner) -> None:
        if self._live is not None:
            self._epoch = runner.epoch - 1 if runner.epoch else self._epoch
            self._validation = self._progress.add_task('validation', total=len(runner.val_dataloader), rate='')
            self._draw(self._live, 'validation')

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # TeacherStudentValLoop counts the batches twice, for the teacher and for the student.
        if self._live is not None and (self._is_due() or batch_idx + 1 == len(runner.val_dataloader)):
            of = f'validation of the {evaluated_model(runner)}'
            self._progress.update(self._validation, description=of, completed=batch_idx + 1)
            self._draw(self._live, 'validation')

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if self._live is not None:
            for role, values in headline(metrics or {}, evaluated_model(runner)).items():
                if 'mAP' in values:
                    self._latest = f'mAP {values["mAP"]:.3f} ({role}, epoch {self._epoch + 1})'
                    break
            self._progress.remove_task(self._validation)
            self._draw(self._live, 'validation')

    def after_train(self, runner: Runner) -> None:
        self._stop()

    @torch.no_grad()
    def _read(self, runner: Runner, outputs: dict) -> dict[str, float]:
        figures = dict(loss=outputs['loss'].item())
        if 'semi/unsup_weight' in outputs:
            for branch in ('sup', 'unsup', *(('bg',) if 'bg_loss_cls' in outputs else ())):
                figures[f'loss_{branch}'] = float(sum(outputs[k] for k in outputs if k.startswith(f'{branch}_loss')))
            figures['unsup_weight'] = outputs['semi/unsup_weight'].item()
        if 'train/semi/lambda_bg' in runner.message_hub.log_scalars:
            figures['lambda_bg'] = runner.message_hub.get_scalar('train/semi/lambda_bg').current()
        return figures

    def _mode(self, runner: Runner, batch_idx: int) -> str:
        if not hasattr(unwrapped(runner.model), 'unsup_ramp'):
            return 'train'
        if self._plan is None or (done := self._plan.progress(runner, batch_idx)) >= self._plan.burn_in:
            return 'semi'
        return f'burn-in {math.floor(done) + 1}/{math.ceil(self._plan.burn_in)}'

    def _is_due(self) -> bool:
        """Whether it is time to draw again."""
        return time.monotonic() - self._drawn_at >= 1 / self.refresh_per_second

    def _draw(self, live: Live, mode: str) -> None:
        self._drawn_at = time.monotonic()
        speed = self._progress.tasks[0].speed
        rate = '' if speed is None else f'{speed:5.1f} it/s' if speed >= 1 else f'{1 / speed:5.1f} s/it'
        self._progress.update(self._task, description=f'epoch {self._epoch + 1}/{self._epochs}  {mode}', rate=rate)
        self._figures.plain = '  '.join(part for part in (self._losses, self._latest) if part)
        try:
            live.refresh()
        except OSError:  # the terminal is gone
            self._stop()

    def _stop(self) -> None:
        if self._live is not None:
            self._live = None
            self._finalizer()


def _restore(live: Live, handlers: dict) -> None:
    """End the bar, which stays visible, and restore the streams."""
    with suppress(OSError, ValueError):
        live.stop()
    for handler, stream in handlers.items():
        handler.setStream(stream)
