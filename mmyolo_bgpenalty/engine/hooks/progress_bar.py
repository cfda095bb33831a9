"""A live progress bar for terminals."""

import logging
import math
import sys
import time
import weakref

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mmyolo_bgpenalty.engine.hooks.lambda_bg import LambdaBgSchedulerHook
from mmyolo_bgpenalty.utils.arguments import non_negative
from mmyolo_bgpenalty.utils.distributed import unwrapped


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Shows a live bar below MMEngine's log lines on a terminal, and nothing if the output is piped.

    It shows the epoch (counted from 0, as in the schedule of λ), the mode ('burn-in' or 'semi', 'train' without a
    teacher, 'val'), iterations, their rate and the time left. For the latest batch it shows ``loss``, with a teacher
    also ``loss_sup`` and ``loss_unsup`` (the sums of the ``sup_*`` and ``unsup_*`` losses), ``unsup_weight`` and
    ``lambda_bg``. Only the main process draws. Only a drawing waits for the device, once. If the terminal goes away,
    the bar ends and training continues.

    Args:
        refresh_per_second: largest number of drawings per second, > 0.

    Raises:
        ValueError: ``refresh_per_second`` is not a finite number > 0.
    """

    priority = 'LOW'  # after the hooks that log, so that a line and the bar show the same numbers

    def __init__(self, refresh_per_second: float = 4):
        if not non_negative('refresh_per_second', refresh_per_second):
            raise ValueError('Expected `refresh_per_second` to be > 0, but got 0')
        self.refresh_per_second = refresh_per_second
        self._live: Live | None = None

    def before_train(self, runner: Runner) -> None:
        self._stop()
        console = Console()
        if not (is_main_process() and sys.stdout.isatty() and console.is_interactive):
            return
        self._plan = next((hook for hook in runner.hooks if isinstance(hook, LambdaBgSchedulerHook)), None)
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn('{task.fields[rate]}'),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task('', total=runner.max_iters, completed=runner.iter, rate='')
        self._figures = Text()
        self._epoch = runner.epoch
        self._drawn_at = -math.inf
        # No thread: DataLoader forks, and a lock that a thread holds then stays locked in the worker.
        self._live = Live(
            Group(self._progress, self._figures),
            console=console,
            auto_refresh=False,
            redirect_stderr=sys.stderr.isatty(),
        )
        streams = sys.stdout, sys.stderr
        self._live.start()
        # A killed process cannot show the cursor again.
        console.show_cursor(True)
        # Log handlers hold the old streams, which would write into the bar.
        moved = _move_handlers(runner, dict(zip(streams, (sys.stdout, sys.stderr))))
        # MMEngine calls no hook if training raises. A finalizer also runs at exit.
        self._finalizer = weakref.finalize(runner, _restore, self._live, moved)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        if self._live is None:
            return
        done = runner.iter + 1
        self._progress.update(self._task, completed=done)
        now = time.monotonic()
        if now - self._drawn_at < 1 / self.refresh_per_second and done < runner.max_iters:
            return
        self._drawn_at = now
        # IterBasedTrainLoop stays in epoch 0, and batch_idx goes on.
        self._epoch = runner.epoch + batch_idx // len(runner.train_dataloader)
        self._figures.plain = '  '.join(f'{k} {v:.4g}' for k, v in self._read(runner, outputs or {}).items())
        self._draw(self._live, self._mode(runner, batch_idx))

    def before_val(self, runner: Runner) -> None:
        if self._live is not None:
            self._draw(self._live, 'val')

    def after_train(self, runner: Runner) -> None:
        self._stop()

    def _mode(self, runner: Runner, batch_idx: int) -> str:
        if not hasattr(unwrapped(runner.model), 'teacher'):
            return 'train'
        burn_in = self._plan is not None and self._plan.progress(runner, batch_idx) < self._plan.burn_in
        return 'burn-in' if burn_in else 'semi'

    @staticmethod
    def _read(runner: Runner, outputs: dict) -> dict[str, float]:
        """The numbers of a batch, all read from the device at once."""
        losses = {name: value for name, value in outputs.items() if 'loss' in name}
        figures = {'loss': losses['loss']} if 'loss' in losses else {}
        if any(name.startswith('sup_') for name in losses):
            for branch in ('sup', 'unsup'):
                figures[f'loss_{branch}'] = sum(v for name, v in losses.items() if name.startswith(f'{branch}_'))
        if 'semi/unsup_weight' in outputs:
            figures['unsup_weight'] = outputs['semi/unsup_weight']
        if 'train/semi/lambda_bg' in runner.message_hub.log_scalars:
            figures['lambda_bg'] = runner.message_hub.get_scalar('train/semi/lambda_bg').current()
        tensors = {name: value.detach().float() for name, value in figures.items() if isinstance(value, torch.Tensor)}
        if tensors:
            figures.update(zip(tensors, torch.stack(list(tensors.values())).tolist()))
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


def _move_handlers(runner: Runner, streams: dict) -> list[tuple[logging.StreamHandler, object]]:
    """Exchange the streams of log handlers. Returns the handlers with their old streams."""
    moved = []
    for handler in (*runner.logger.handlers, *logging.getLogger().handlers):
        if isinstance(handler, logging.StreamHandler) and handler.stream in streams:
            moved.append((handler, handler.setStream(streams[handler.stream])))
    return moved


def _restore(live: Live, moved: list) -> None:
    """Leave the bar as it is on the terminal, and restore streams and handlers."""
    try:
        live.stop()
    except (OSError, ValueError):
        pass
    for handler, stream in moved:
        if stream is not None:
            handler.setStream(stream)
