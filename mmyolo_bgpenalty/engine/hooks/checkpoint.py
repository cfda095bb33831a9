"""ResumableCheckpointHook: a stopped run goes on as if nothing had stopped it."""

import os
import random
import re
import signal
import threading
from collections.abc import Callable
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

from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError, check_resumable, latest_checkpoint
from mmyolo_bgpenalty.engine.checkpoints.start_weights import check_start
from mmyolo_bgpenalty.engine.train_loop import ResumableTrainLoop
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.files import write_whole


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """A CheckpointHook that loses no finished checkpoint, saves on SIGTERM, and makes resuming exact.

    - A checkpoint is written under a temporary name. When it is complete it is renamed, and checkpoints beyond
      ``max_keep_ckpts`` are removed.
    - It stores the place within the epoch, whether a validation is due, and the random states of every process.
      ``ResumableTrainLoop`` continues there.
    - On SIGTERM to any process, the run finishes the iteration, and accumulated gradients get their update. In
      validation a run with one process finishes the batch, and a run with several finishes the validation. Then the run
      writes a checkpoint, and every process ends with exit code 143. With ``by_epoch`` the file within an epoch is
      ``epoch_<epochs done>_iter_<iterations>.pth``. A second SIGTERM ends the process at once.
    - ``check_start`` checks ``load_from``. ``resume=True`` without ``load_from`` takes the latest checkpoint. If no run
      can be resumed from it, the one before is taken, with a warning.

    Args:
        *args, **kwargs: as for CheckpointHook. In a local ``out_dir`` the default is
            ``backend_args=dict(backend='whole_files')``.

    Raises:
        CheckpointError: ``check_start`` raises it, or no run can be resumed from any of the checkpoints.
    """

    backend_args: dict | None
    file_backend: Any

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.file_client_args is None and self.backend_args is None and '://' not in str(self.out_dir or ''):
            self.backend_args = dict(backend='whole_files')
        self._batch, self._validated = 0, True
        self._resumed: dict | None = None  # `resume` of the checkpoint that the run continues from
        self._position: dict | None = None  # `resume` of the checkpoint that is being written
        self._terminated = False

    def before_run(self, runner: Runner) -> None:
        check_start(runner, self.save_optimizer)
        if runner._resume and runner._load_from is None and '://' not in str(self.out_dir or ''):
            if is_main_process():
                self._choose_latest(runner)
            barrier()

    def _choose_latest(self, runner: Runner) -> None:
        """Write the path of the latest good checkpoint into ``last_checkpoint``, from which MMEngine resumes."""
        pointer = Path(runner.work_dir, 'last_checkpoint')
        folder = Path(self.out_dir, Path(runner.work_dir).name) if self.out_dir else pointer.parent
        files = sorted(folder.glob(self.filename_tmpl.format('*')), key=_numbers, reverse=True)
        named = Path(latest_checkpoint(runner.work_dir))
        if named.name:
            # Files with higher numbers may belong to an earlier run in the same folder.
            latest = named if named.is_file() else folder / named.name
            files = [latest, *(file for file in files if _numbers(file) < _numbers(latest))]
        faults = []
        for file in files:
            try:
                check_resumable(str(file), unwrapped(runner.model), self.save_optimizer)
            except (CheckpointError, OSError) as error:
                faults.append(str(error))
                continue
            if faults:
                runner.logger.warning(f'Resuming from {file}, because of: {"; ".join(faults)}')
            if str(file) != str(named):
                write_whole(pointer, str(file))
            return
        if faults:
            raise CheckpointError(f'Expected a checkpoint in {folder} to resume from, but got: {"; ".join(faults)}')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._resumed = checkpoint.get('resume') if runner._resume else None

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.file_backend = _RemovesLater(self.file_backend)
        if is_main_process():
            # A killed process may have left unfinished files.
            for draft in Path(self.out_dir).glob(f'.*{Path(self.filename_tmpl).suffix}.tmp'):
                draft.unlink()
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                loader = loop.dataloader
                # A loader draws a seed when its workers start. A resumed run starts them once more, so the seed must
                # not come from torch's global generator.
                loader.generator = torch.Generator().manual_seed(runner.seed)
                loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)
        if self._resumed is not None:
            self._restore(runner, **self._resumed)
        self._terminated = False
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _restore(self, runner: Runner, batch: int, batches: int, validated: bool, random_states: list[dict]) -> None:
        loop = runner.train_loop
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')
        if len(random_states) == get_world_size():
            _set_random_state(random_states[get_rank()])
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
        # CheckpointHook overwrites `last_checkpoint` in place. A full disk would leave an empty file.
        outdated = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(self.keep_ckpt_ids[0]))
            self.keep_ckpt_ids.append(step)  # which drops the first
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._position = dict(
            batch=self._batch,
            batches=len(runner.train_dataloader),
            validated=self._validated,
            random_states=all_gather_object(_random_state()),
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
        if is_main_process():
            write_whole(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt)
            if outdated and self.file_backend.isfile(outdated):
                self.file_backend.remove(outdated)
            self.file_backend.remove_now()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        if self.save_best:
            self.file_backend.remove_now()

    def _on_sigterm(self, number, frame) -> None:
        self._terminated = True
        signal.signal(signal.SIGTERM, self._previous)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._batch, self._validated = batch_idx + 1, True
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self._any_terminated() and runner.optim_wrapper.should_update():
            self._stop(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        self._batch, self._validated = 0, False
        super().after_train_epoch(runner)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # Several processes may have different numbers of batches. They stop after validation.
        if self._terminated and get_world_size() == 1:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # it validates with averaged weights; put the trained ones back
                    hook.after_val_epoch(runner)
            self._stop(runner, runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        self._validated = True
        super().after_val_epoch(runner, metrics)
        if self._any_terminated():
            self._stop(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        self._terminated = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._previous)
        super().after_train(runner)

    def _any_terminated(self) -> bool:
        """Whether any process got SIGTERM. All processes must call this the same number of times."""
        terminated = torch.tensor(float(self._terminated))
        all_reduce(terminated, 'max')
        return bool(terminated)

    def _stop(self, runner: Runner, iteration: int) -> None:
        step: int | str = runner.epoch if self.by_epoch else iteration
        if self.by_epoch and self._batch:
            step = f'{runner.epoch}_iter_{iteration}'
        self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=iteration))
        runner.logger.warning(f'Stopped by SIGTERM. Saved {self.last_ckpt}; --resume continues from it')
        barrier()  # otherwise a launcher may end a process that is still saving
        self.published_keys = None  # only a finished run publishes its checkpoint
        runner.call_hook('after_train')
        runner.call_hook('after_run')
        raise SystemExit(128 + signal.SIGTERM)


class _RemovesLater:
    """A file backend whose ``remove`` waits for ``remove_now``. CheckpointHook removes files before it writes."""

    def __init__(self, backend):
        self._backend, self._outdated = backend, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._outdated.append(path)

    def remove_now(self) -> None:
        while self._outdated:
            self._backend.remove(self._outdated.pop())


def _numbers(path: Path) -> tuple[int, ...]:
    """The numbers in a file name, to sort by: epoch_2.pth, epoch_2_iter_17.pth, epoch_10.pth."""
    return tuple(map(int, re.findall(r'\d+', path.stem)))


def _random_state() -> dict:
    """The random states of this process, in types that safe loading accepts."""
    name, keys, *rest = np.random.get_state()
    numpy = (name, np.asarray(keys).tolist(), *rest)
    state: dict[str, Any] = dict(python=random.getstate(), numpy=numpy, torch=torch.get_rng_state())
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict) -> None:
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def _init_worker(inner: Callable[[int], None] | None, worker: int) -> None:
    """Let SIGTERM end a worker only if its parent sends it. Schedulers send SIGTERM to all processes."""
    if inner is not None:
        inner(worker)
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
