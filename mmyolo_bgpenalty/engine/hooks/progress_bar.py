"""A live progress bar for terminals."""

import logging
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

from mmyolo_bgpenalty.utils.arguments import non_negative
from mmyolo_bgpenalty.utils.distributed import unwrapped


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Shows a live bar below MMEngine's log lines on a terminal, and nothing if the output is piped.

    It shows the epoch (counted from 0, as in the schedule of λ), the mode ('burn-in' or 'semi', 'train' without a
    teacher, 'val'), iterations, their rate and the time left. For the latest batch it shows ``loss`` and λ. With a
    teacher it also shows the sums of the ``sup_*`` and ``unsup_*`` losses, and ``unsup_weight``. Only the main process
    draws, and waits for the device only then. If the terminal closes, the bar ends and training continues.

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
        self._task = self._progress.add_task('', total=runner.max_iters, completed=runner.iter, rate='')
        self._figures = Text()
        self._epoch = runner.epoch
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
        now = time.monotonic()
        if now - self._drawn_at < 1 / self.refresh_per_second and done < runner.max_iters:
            return
        self._drawn_at = now
        # In IterBasedTrainLoop the epoch stays 0, and batch_idx counts all batches.
        self._epoch = runner.epoch + batch_idx // len(runner.train_dataloader)
        self._figures.plain = '  '.join(f'{k} {v:.4g}' for k, v in self._read(runner, outputs).items())
        ramp = getattr(unwrapped(runner.model), 'unsup_ramp', None)
        self._draw(self._live, 'train' if ramp is None else 'semi' if ramp else 'burn-in')

    def before_val(self, runner: Runner) -> None:
        if self._live is not None:
            self._draw(self._live, 'val')

    def after_train(self, runner: Runner) -> None:
        self._stop()

    @torch.no_grad()
    def _read(self, runner: Runner, outputs: dict) -> dict[str, float]:
        figures = dict(loss=outputs['loss'].item())
        if 'semi/unsup_weight' in outputs:
            for branch in ('sup', 'unsup'):
                figures[f'loss_{branch}'] = float(sum(outputs[k] for k in outputs if k.startswith(f'{branch}_loss')))
            figures['unsup_weight'] = outputs['semi/unsup_weight'].item()
        if 'train/semi/lambda_bg' in runner.message_hub.log_scalars:
            figures['lambda_bg'] = runner.message_hub.get_scalar('train/semi/lambda_bg').current()
        return figures

    def _draw(self, live: Live, mode: str) -> None:
        speed = self._progress.tasks[0].speed
        rate = '' if speed is None else f'{speed:5.1f} it/s' if speed >= 1 else f'{1 / speed:5.1f} s/it'
        self._progress.update(self._task, description=f'epoch {self._epoch}  {mode}', rate=rate)
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
