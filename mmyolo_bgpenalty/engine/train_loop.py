"""Stopping and going on: a train loop and a checkpoint hook for runs that come out as if nothing had stopped them."""

import os
import random
import re
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Callable, Iterable, List, Optional, Tuple, Union, cast

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, barrier, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.utils import apply_to
from mmyolo.registry import HOOKS, LOOPS

from mmyolo_bgpenalty.engine.checkpoint_files import CheckpointError, check_loadable, check_resumable
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.files import write_whole


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """EpochBasedTrainLoop that goes on where ``ResumableCheckpointHook`` stopped.

    MMEngine's begins an interrupted epoch anew, and leaves out a validation that would have followed the checkpoint.
    Here the batches that were learnt are skipped, unread if the batch sampler has ``first_batch``, and the validation
    is made up for.

    Attributes:
        first_batch: of the next epoch; the ones after it begin at 0.
        validated: no validation of the latest epoch is due any more.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.first_batch = 0
        self.validated = True

    def run(self) -> torch.nn.Module:
        self.runner.call_hook('before_train')
        if not self.validated:
            self._validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        first, self.first_batch = self.first_batch, 0
        for batch_idx, data_batch in enumerate(self._batches(first), first):
            self.run_iter(batch_idx, data_batch)
        self.validated = False
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches(self, first: int) -> Iterable:
        sampler = self.dataloader.batch_sampler
        if hasattr(sampler, 'first_batch'):
            sampler.first_batch = first
            return self.dataloader
        batches = iter(self.dataloader)
        for _ in range(first):
            next(batches)
        return batches

    def _validate(self) -> None:
        self._decide_current_val_interval()
        last = self._epoch == self._max_epochs
        if (
            self.runner.val_loop is not None
            and self._epoch >= self.val_begin
            and (last or self._epoch % self.val_interval == 0)
        ):
            self.runner.val_loop.run()
        self.validated = True


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """CheckpointHook that loses no finished checkpoint, saves on SIGTERM, and has a run resumed exactly.

    - A checkpoint is written under a temporary name and renamed when it is whole; ``last_checkpoint`` likewise. What it
      replaces (``max_keep_ckpts``, the best one) is removed only then.
    - It holds the place within the epoch, whether a validation is due, and the states of the random generators, of each
      process. ``ResumableTrainLoop`` goes on from there; MMEngine's EpochBasedTrainLoop begins the epoch anew.
    - On SIGTERM the iteration (with accumulated gradients, their last; of several processes all of them) or validation
      batch is finished, ``epoch_<epochs done>_iter_<iterations>.pth`` is written, and the process ends with code 143. A
      second SIGTERM ends it at once. The loader's workers outlive a SIGTERM that is sent to all processes.
    - Before a run is resumed its checkpoint is read. Without a path (``resume=True``, ``load_from=None``) the one
      before is taken where the latest cannot be, with a warning, and ``last_checkpoint`` is set to it.

    Args:
        as CheckpointHook; files in a local ``out_dir`` are written by ``backend_args=dict(backend='whole_files')``.

    Raises:
        CheckpointError: a run is to be resumed and there are checkpoints, but none that it can go on from; or what
            ``load_from`` names cannot be read safely, or is of another model.
    """

    backend_args: Optional[dict]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.file_client_args is None and self.backend_args is None and '://' not in str(self.out_dir or ''):
            self.backend_args = dict(backend='whole_files')
        self._batch, self._validated = 0, True
        self._resumed: Optional[dict] = None
        self._saved: Optional[dict] = None
        self._training = self._terminated = self._stopped = False

    # Going on

    def before_run(self, runner: Runner) -> None:
        path = runner._load_from
        if not runner._resume:
            if path is not None:
                check_loadable(path, unwrapped(runner.model))
        elif path is not None:
            check_resumable(path, unwrapped(runner.model), self.save_optimizer)
        elif '://' not in str(self.out_dir or ''):
            if is_main_process():
                self._leave_latest_resumable(runner)
            barrier()

    def _leave_latest_resumable(self, runner: Runner) -> None:
        """Have ``last_checkpoint``, which MMEngine resumes from, name the latest checkpoint that will do."""
        pointer = Path(runner.work_dir, 'last_checkpoint')
        folder = Path(runner.work_dir if self.out_dir is None else Path(self.out_dir, Path(runner.work_dir).name))
        files = sorted(folder.glob(self.filename_tmpl.format('*')), key=_numbers, reverse=True)
        named = Path(pointer.read_text().strip()) if pointer.is_file() else Path()
        if named.name:
            # Not the later ones, which an earlier run in the same folder may have left.
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
                runner.logger.warning(f'Going on from {file}, since {"; ".join(faults)}')
            if str(file) != str(named):
                write_whole(pointer, str(file))
            return
        if faults:
            raise CheckpointError(f'Expected a checkpoint in {folder} to go on from, but {"; ".join(faults)}')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._resumed = checkpoint.get('resume') if runner._resume else None

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if is_main_process():
            # Drafts of a process that was killed.
            for draft in Path(self.out_dir).glob(f'.*{Path(self.filename_tmpl).suffix}.tmp'):
                draft.unlink()
        self._prepare_loaders(runner)
        if self._resumed is not None:
            self._go_on(runner, **self._resumed)
        self._training, self._terminated, self._stopped = True, False, False
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _prepare_loaders(self, runner: Runner) -> None:
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                loader = loop.dataloader
                # A loader draws its workers' seed whenever they are started, which a resumed run does once more.
                loader.generator = torch.Generator().manual_seed(runner.seed)
                loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)

    def _go_on(self, runner: Runner, batch: int, batches: int, validated: bool, random_states: List[dict]) -> None:
        loop = runner.train_loop
        if 'last_ckpt' in runner.message_hub.runtime_info:
            self.last_ckpt = runner.message_hub.get_info('last_ckpt')
        if len(random_states) == get_world_size():
            _set_random_state(random_states[get_rank()])
        if isinstance(loop, ResumableTrainLoop):
            loop.validated = validated
        if isinstance(loop, IterBasedTrainLoop) or not batch:
            return
        if isinstance(loop, ResumableTrainLoop) and batches == len(loop.dataloader):
            loop.first_batch = batch
            runner.logger.info(f'Going on after {batch} of {batches} batches of epoch {loop.epoch}')
            return
        why = "train_cfg=dict(type='ResumableTrainLoop') would go on within it"
        if isinstance(loop, ResumableTrainLoop):
            why = f'it has {len(loop.dataloader)} batches now'
        runner.logger.warning(
            f'Epoch {loop.epoch}, of which {batch} of {batches} batches were learnt, begins anew: {why}'
        )

    # Saving

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._saved is not None:
            checkpoint['resume'] = self._saved
        # A metric that is a scalar of NumPy's may be of a type that safe loading refuses.
        hub = checkpoint['message_hub']
        hub['runtime_info'] = apply_to(hub['runtime_info'], lambda x: isinstance(x, np.generic), lambda x: x.item())

    def _save_checkpoint_with_step(self, runner: Runner, step, meta: dict) -> None:
        outdated = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.filename_tmpl.format(self.keep_ckpt_ids[0])
            self.keep_ckpt_ids.append(step)  # which drops the first
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._saved = dict(
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
        self._saved = None
        if is_main_process():
            write_whole(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt)
            if outdated:
                self._remove(self.file_backend.join_path(self.out_dir, outdated))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        before = self._best()
        # CheckpointHook removes those it knows before it writes the new ones.
        self._set_best(dict.fromkeys(before))
        super()._save_best_checkpoint(runner, metrics)
        after = self._best()
        self._set_best({key: after[key] or old for key, old in before.items()})
        if is_main_process():
            for key, old in before.items():
                if old and after[key] not in (None, old):
                    self._remove(old)

    def _best(self) -> dict:
        """Metric -> path of its best checkpoint; CheckpointHook keeps a single one by itself."""
        return {'': self.best_ckpt_path} if len(self.key_indicators) == 1 else dict(self.best_ckpt_path_dict)

    def _set_best(self, paths: dict) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = paths

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)

    # Stopping

    def _on_sigterm(self, number, frame) -> None:
        self._terminated = True
        signal.signal(signal.SIGTERM, self._previous)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._batch, self._validated = batch_idx + 1, True
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self._all_agree():
            wrapper = runner.optim_wrapper
            wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
            if all(one.should_update() for one in wrappers):
                self._stop(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        self._batch, self._validated = 0, False
        super().after_train_epoch(runner)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # Processes may have unlike numbers of these: several stop when all are done.
        if self._training and self._terminated and get_world_size() == 1:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # it has put the average in the place of the weights
                    hook.after_val_epoch(runner)
            self._stop(runner, runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        if self._training:
            self._validated = True
        super().after_val_epoch(runner, metrics)
        if self._training and self._all_agree():
            self._stop(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        self._training = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._previous)
        if not self._stopped:
            super().after_train(runner)  # which publishes

    def _all_agree(self) -> bool:
        """Whether any process was sent SIGTERM: a collective call of all of them."""
        if get_world_size() == 1:
            return self._terminated
        flag = torch.tensor(float(self._terminated))
        all_reduce(flag, 'max')
        self._terminated = bool(flag)
        return self._terminated

    def _stop(self, runner: Runner, iteration: int) -> None:
        step: Union[int, str] = runner.epoch if self.by_epoch else iteration
        if self.by_epoch and self._batch:
            step = f'{runner.epoch}_iter_{iteration}'
        self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=iteration))
        runner.logger.warning(f'Stopped by SIGTERM; saved {self.last_ckpt}, from which --resume goes on')
        barrier()  # or a launcher would end the one that is still saving
        self._stopped = True
        runner.call_hook('after_train')
        runner.call_hook('after_run')
        raise SystemExit(128 + signal.SIGTERM)


def _numbers(path: Path) -> Tuple[int, ...]:
    """Those in a file's name: epoch_2.pth comes before epoch_2_iter_17.pth, and that before epoch_10.pth."""
    return tuple(map(int, re.findall(r'\d+', path.stem)))


def _random_state() -> dict:
    """Of this process, in types that safe loading knows."""
    name, keys, *rest = cast(tuple, np.random.get_state())
    state = dict(python=random.getstate(), numpy=(name, keys.tolist(), *rest), torch=torch.get_rng_state())
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict) -> None:
    random.setstate(state['python'])
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def _init_worker(inner: Optional[Callable[[int], None]], worker: int) -> None:
    """Have SIGTERM end a loader's worker only when its parent sends it.

    Schedulers send it to all processes, and torch stops a training whose worker dies.
    """
    if inner is not None:
        inner(worker)
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
