"""ResumableCheckpointHook: a stopped run goes on as if nothing had stopped it."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, barrier, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.utils import apply_to
from mmyolo.registry import HOOKS

from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import (
    CheckpointError,
    check_resumable,
    latest_checkpoint,
    not_finite,
)
from mmyolo_bgpenalty.engine.checkpoints.resume_fields import random_state, set_random_state
from mmyolo_bgpenalty.engine.checkpoints.run_folder import RunFolder
from mmyolo_bgpenalty.engine.checkpoints.start_weights import check_start
from mmyolo_bgpenalty.engine.hooks.nonfinite_guard import NonFiniteGuardHook
from mmyolo_bgpenalty.engine.train_loop import ResumableTrainLoop
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.files import write_whole

REPEATED = 5  # seconds. A scheduler and the parent process may both send SIGTERM for one stop
SIGNALS: dict[int, str] = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM'}
POSITION = ('batch', 'batches', 'validated', 'random_states')  # what `resume` of a checkpoint holds


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """A CheckpointHook that loses no finished checkpoint, saves on Ctrl-C and SIGTERM, and makes resuming exact.

    - A checkpoint is written under a temporary name. When it is complete it is renamed, and checkpoints beyond
      ``max_keep_ckpts`` are removed.
    - Weights that are NaN or infinite are not saved. A checkpoint is known to be good when the next iteration has
      finite losses and gradients (with NonFiniteGuardHook), or when training ends. The last good one is kept in
      addition to ``max_keep_ckpts``.
    - ``RunFolder`` locks the folder. No file of another run is replaced or removed.
    - It stores the place within the epoch, whether a validation is due, and the random states of every process.
      ``ResumableTrainLoop`` continues there.
    - On Ctrl-C (SIGINT) or SIGTERM to any process, the run finishes the iteration, and accumulated gradients get their
      update. In validation a run with one process finishes the batch, and a run with several finishes the validation.
      Then the run writes a checkpoint. With ``by_epoch`` the file within an epoch is
      ``epoch_<epochs done>_iter_<iterations>.pth``. After SIGTERM every process ends with exit code 143, after Ctrl-C
      with KeyboardInterrupt. A second Ctrl-C, or SIGTERM again after 5 seconds, ends the process at once.
    - ``check_start`` checks ``load_from``. ``resume=True`` without ``load_from`` takes the latest checkpoint. If no run
      can be resumed from it, the one before is taken, with a warning.

    Args:
        args, kwargs: as for CheckpointHook. In a local ``out_dir`` the default is
            ``backend_args=dict(backend='whole_files')``.

    Raises:
        CheckpointError: ``check_start`` raises it, or no run can be resumed from any of the checkpoints.
    """

    backend_args: dict | None
    file_backend: Any
    keep_ckpt_ids: Any

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.file_client_args is None and self.backend_args is None and '://' not in str(self.out_dir or ''):
            self.backend_args = dict(backend='whole_files')
        self._batch, self._validated = 0, True
        self._resumed: dict | None = None  # `resume` of the checkpoint that the run continues from
        self._position: dict | None = None  # `resume` of the checkpoint that is being written
        self._signal, self._since, self._stopping = 0, 0.0, False  # number and time of the first signal
        self._run_folder = RunFolder(self)
        self._untried: str | None = None  # the latest checkpoint, until an iteration shows that it is good
        self._good: str | None = None  # the latest checkpoint that is known to be good

    def before_run(self, runner: Runner) -> None:
        check_start(runner, self.save_optimizer)
        if runner._resume and runner._load_from is None and '://' not in str(self.out_dir or ''):
            if is_main_process():
                self._choose_latest(runner)
            barrier()

    def _choose_latest(self, runner: Runner) -> None:
        """Write the path of the latest good checkpoint into ``last_checkpoint``, from which MMEngine resumes."""
        pointer, folder = Path(runner.work_dir, 'last_checkpoint'), Path(self._run_folder.path(runner))
        files = [file for file in folder.glob('*') if self._run_folder.is_step(file.name)]
        files.sort(key=_numbers, reverse=True)
        named = latest_checkpoint(runner.work_dir)
        # The folder may have been copied or moved, so the file in this folder goes first.
        latest = next((Path(f) for f in (str(folder / os.path.basename(named)), named) if os.path.isfile(f)), None)
        if latest:
            # Files with higher numbers may belong to an earlier run in the same folder.
            files = [latest, *(file for file in files if _numbers(file) < _numbers(latest))]
        elif files and (named or pointer.is_dir()):
            runner.logger.warning(f'Expected {pointer} to name a checkpoint, but got {named[:80]!r}: taking the newest')
            if pointer.is_dir():
                pointer.rmdir()
        faults = []
        for file in files:
            try:
                check_resumable(str(file), unwrapped(runner.model), self.save_optimizer)
            except (CheckpointError, OSError) as error:
                faults.append(str(error))
                continue
            if faults:
                runner.logger.warning(f'Resuming from {file}, because of: {"; ".join(faults)}')
            if str(file) != named:
                write_whole(pointer, str(file))
            return
        if faults:
            raise CheckpointError(f'Expected a checkpoint in {folder} to resume from, but got: {"; ".join(faults)}')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._run_folder.after_load_checkpoint(runner, checkpoint)
        self._resumed = checkpoint.get('resume') if runner._resume else None

    def before_train(self, runner: Runner) -> None:
        self._run_folder.before_train(runner)
        info = runner.message_hub.runtime_info
        kept = list(info.pop('keep_ckpt_ids', []))  # CheckpointHook would remove those beyond `max_keep_ckpts` now
        super().before_train(runner)
        self.keep_ckpt_ids = kept
        self.last_ckpt = self._untried = info.get('last_ckpt')
        self._good = info.get('good_ckpt')
        self.file_backend = _RemovesLater(self.file_backend, self._run_folder)
        if is_main_process():
            # A killed process may have left unfinished files. `write_whole` names them.
            for draft in Path(self.out_dir).glob(f'.{"[0-9a-f]" * 32}{Path(self.filename_tmpl).suffix}.tmp'):
                draft.unlink()
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                loader = loop.dataloader
                # A loader draws a seed when its workers start. A resumed run starts them once more, so the seed must
                # not come from torch's global generator.
                loader.generator = torch.Generator().manual_seed(runner.seed)
                loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)
        if self._resumed is not None:
            self._restore(runner, **{name: self._resumed[name] for name in POSITION})
        self._signal = 0
        if threading.current_thread() is threading.main_thread():
            # Shells let a job in the background ignore Ctrl-C.
            previous = {number: signal.getsignal(number) for number in SIGNALS}
            self._previous: dict[int, Any] = {
                number: handler for number, handler in previous.items() if handler != signal.SIG_IGN
            }
            for number in self._previous:
                signal.signal(number, self._on_signal)

    def _restore(self, runner: Runner, batch: int, batches: int, validated: bool, random_states: list[dict]) -> None:
        loop = runner.train_loop
        if len(random_states) == get_world_size():
            set_random_state(random_states[get_rank()])
        resumable = isinstance(loop, ResumableTrainLoop)
        if resumable:
            loop.validated = validated
        if isinstance(loop, IterBasedTrainLoop) or not batch:
            return
        if resumable and batches == len(loop.dataloader):
            loop.first_batch = batch
            runner.logger.info(f'Continuing after {batch} of {batches} batches of epoch {loop.epoch + 1}')
            return
        now = f'it has {len(loop.dataloader)} batches now'
        why = now if resumable else "`train_cfg.type='ResumableTrainLoop'` would continue within it"
        runner.logger.warning(
            f'Epoch {loop.epoch + 1} is repeated, though {batch} of {batches} batches were done: {why}'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._position is not None:
            checkpoint['resume'] = self._position
        # Safe loading may refuse a metric that is a NumPy scalar.
        hub = checkpoint['message_hub']
        hub['runtime_info'] = apply_to(hub['runtime_info'], lambda x: isinstance(x, np.generic), lambda x: x.item())

    def _save_checkpoint_with_step(self, runner: Runner, step, meta: dict) -> None:
        fault = self._fault(runner)
        name = self._run_folder.name(step)
        if fault:
            runner.logger.error(f'{name} is not saved: {fault}. {self._good_checkpoint()}')
            return
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._position = dict(
            batch=self._batch,
            batches=len(runner.train_dataloader),
            validated=self._validated,
            random_states=all_gather_object(random_state()),
        )
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._position = None
        self._untried = self.last_ckpt
        if is_main_process():
            # CheckpointHook overwrites this file in place. A full disk would leave an empty one.
            write_whole(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt)
        self._remove_outdated(runner)

    def _remove_outdated(self, runner: Runner) -> None:
        """Remove the checkpoints beyond ``max_keep_ckpts``, but not the last good one."""
        if self.max_keep_ckpts > 0:
            for step in self.keep_ckpt_ids[: -self.max_keep_ckpts]:
                path = self.file_backend.join_path(self.out_dir, self._run_folder.name(step))
                if path != self._good:
                    self.keep_ckpt_ids.remove(step)
                    if is_main_process() and self.file_backend.isfile(path):
                        self.file_backend.remove(path)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._remove_now()

    def _remove_now(self) -> None:
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        # A `filename_tmpl` without a number gives all checkpoints one name.
        self.file_backend.remove_now({self.last_ckpt, *best})

    def _fault(self, runner: Runner) -> str:
        """How many weights are NaN or infinite, in any process. '' if all are finite."""
        models = [unwrapped(runner.model), *(hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))]
        bad = [name for model in models for name in not_finite(model.state_dict())]
        text = f'{len(bad)} of its tensors are NaN or infinite, the first is {bad[0]}' if bad else ''
        return next(filter(None, all_gather_object(text)), '')

    def _good_checkpoint(self) -> str:
        """A sentence that names the last checkpoint that is known to be good."""
        return f'The last good checkpoint is {self._good}' if self._good else 'No checkpoint is known to be good'

    def _try(self, runner: Runner) -> None:
        """Call the latest checkpoint good, unless the guard has skipped the latest iteration."""
        guards = [hook for hook in runner.hooks if isinstance(hook, NonFiniteGuardHook)]
        if self._untried and not any(guard.skipping for guard in guards):
            self._good, self._untried = self._untried, None
            runner.message_hub.update_info('good_ckpt', self._good)
            self._remove_outdated(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        fault = self._fault(runner)
        if fault:
            runner.logger.error(f'This model cannot be the best one: {fault}')
            return
        super()._save_best_checkpoint(runner, metrics)
        self._remove_now()

    def _on_signal(self, number: int, frame) -> None:
        if not self._signal:
            self._signal, self._since = number, time.monotonic()
        if number == signal.SIGINT:
            self._put_back(number)
            if is_main_process():
                # os.write and not print, because the signal may have interrupted a print.
                text = b'\nCtrl-C: the run saves a checkpoint after this iteration. Press again to stop at once.\n'
                os.write(2, text)
        elif time.monotonic() - self._since > REPEATED:
            self._put_back(number)
            signal.raise_signal(number)

    def _put_back(self, number: int) -> None:
        signal.signal(number, self._previous[number] or signal.SIG_DFL)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._try(runner)  # before the weights of this iteration are saved
        self._batch, self._validated = batch_idx + 1, True
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        number = self._any_signal()
        if number and runner.optim_wrapper.should_update():
            self._stop(runner, runner.iter + 1, number)

    def after_train_epoch(self, runner: Runner) -> None:
        self._batch, self._validated = 0, False
        super().after_train_epoch(runner)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        if batch_idx:
            return
        bad = not_finite(unwrapped(runner.model).state_dict())  # with the averages of an EMAHook
        if bad:
            runner.logger.warning(
                f'The metrics of this validation mean nothing: {len(bad)} tensors of the model are NaN or infinite, '
                f'the first is {bad[0]}'
            )

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # Several processes may have different numbers of batches. They stop after validation.
        if self._signal and get_world_size() == 1:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # it validates with averaged weights; put the trained ones back
                    hook.after_val_epoch(runner)
            self._stop(runner, runner.iter, self._signal)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        self._validated = True
        super().after_val_epoch(runner, metrics)
        number = self._any_signal()
        if number:
            self._stop(runner, runner.iter, number)

    def after_train(self, runner: Runner) -> None:
        self._signal = 0
        if threading.current_thread() is threading.main_thread():
            for number in self._previous:
                self._put_back(number)
        if not self._stopping:
            self._try(runner)
        super().after_train(runner)

    def after_run(self, runner: Runner) -> None:
        self._run_folder.after_run(runner)

    def _any_signal(self) -> int:
        """The number of a signal that any process got, or 0. All processes must call this the same number of times."""
        number = torch.tensor(float(self._signal))
        all_reduce(number, 'max')
        return int(number)

    def _stop(self, runner: Runner, iteration: int, number: int) -> None:
        step: int | str = runner.epoch if self.by_epoch else iteration
        if self.by_epoch and self._batch:
            step = f'{runner.epoch}_iter_{iteration}'
        self._stopping, self._untried = True, None
        self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=iteration))
        saved = f'Saved {self._untried}; --resume continues from it' if self._untried else self._good_checkpoint()
        runner.logger.warning(f'Stopped by {SIGNALS[number]}. {saved}')
        barrier()  # otherwise a launcher may end a process that is still saving
        self.published_keys = None  # only a finished run publishes its checkpoint
        runner.call_hook('after_train')
        runner.call_hook('after_run')
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


class _RemovesLater:
    """A file backend that removes only files that belong to the run, and only when ``remove_now`` is called.

    CheckpointHook removes files before it writes, and may remove folders.
    """

    def __init__(self, backend, folder: RunFolder):
        self._backend, self._folder = backend, folder
        self._outdated: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        if self._folder.owns(os.path.basename(path)):
            self._outdated.append(path)

    def isdir(self, path: str) -> bool:
        return False

    def remove_now(self, kept: Collection[str | None]) -> None:
        while self._outdated:
            path = self._outdated.pop()
            if path not in kept:
                self._backend.remove(path)


def _numbers(path: Path) -> tuple[int, ...]:
    """The numbers in a file name, to sort by: epoch_2.pth, epoch_2_iter_17.pth, epoch_10.pth."""
    return tuple(map(int, re.findall(r'\d+', path.stem)))


def _init_worker(inner: Callable[[int], None] | None, worker: int) -> None:
    """Let a worker ignore Ctrl-C, and a SIGTERM that is not from its parent. Both may go to all processes."""
    if inner is not None:
        inner(worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
