"""Hooks that read progress, set λ_bg or the teacher's share, and log; and one that compiles."""

import logging
import math
from typing import Any, Dict, List, Optional

import torch
from mmdet.engine.hooks import MeanTeacherHook, PipelineSwitchHook
from mmdet.models import SemiBaseDetector
from mmengine.dist import all_reduce_params
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from mmyolo.registry import HOOKS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmyolo_bgpenalty.datasets.data import LabeledUnlabeledBatchSampler
from mmyolo_bgpenalty.datasets.transforms import single_images
from mmyolo_bgpenalty.engine.schedule import DEFAULT_PLAN, SCHEDULES, ema_momentum, lambda_bg_at, ramp
from mmyolo_bgpenalty.engine.settings import HOOK_SETTINGS, hook_arguments, settings_in
from mmyolo_bgpenalty.models.bg_penalty_head import BgPenaltyYOLOv8Head
from mmyolo_bgpenalty.utils.arguments import non_negative, one_of, whole


def unwrapped(model: nn.Module) -> Any:
    """The model itself, of whatever type its config names."""
    return model.module if is_model_wrapper(model) else model


@HOOKS.register_module()
class LambdaBgSchedulerHook(Hook):
    """Steers λ_bg of every head that the optimizer trains by ``lambda_bg_at``.

    Settings at the top level of the config (``lambda_bg``, ``lambda_bg_warmup``, ``lambda_bg_schedule``,
    ``burn_in``, ``use_focal_bg``; see ``overrides``) take the place of the arguments, so
    ``--cfg-options lambda_bg=1.5`` works with any ``tools/train.py``. Burn-in is stated here alone:
    ``BurnInMeanTeacherHook`` follows it.

    Logs ``semi/lambda_bg`` at every iteration and, when LoggerHook prints, ``loss/bg_penalty_mean`` and
    ``loss/bg_penalty_max`` (the head's statistics), to the message hub and so to every visualizer backend.
    After each pass over the train loader, in either train loop, it logs λ where the epoch (from 0) ends and the
    statistics of its last loss: ``Epoch 5: λ_bg=0.200`` and ``BG Penalty Stats: mean=… max=… min=…``.

    Args:
        lambda_bg: maximum of λ, >= 0.
        burn_in: epochs (iterations) with λ = 0.
        warmup: epochs (iterations) from there to the maximum.
        schedule: 'constant', 'linear', 'step' or 'cosine'.
        by_epoch: count progress in epochs (of the train loader, in either train loop), not in iterations.

    Raises:
        ValueError: an argument out of range; a setting stated twice; no head to steer.
    """

    def __init__(
        self,
        lambda_bg: float = DEFAULT_PLAN['lambda_bg'],
        burn_in: float = DEFAULT_PLAN['burn_in'],
        warmup: float = DEFAULT_PLAN['warmup'],
        schedule: str = DEFAULT_PLAN['schedule'],
        by_epoch: bool = True,
    ):
        self.plan: Dict[str, Any] = dict(lambda_bg=lambda_bg, burn_in=burn_in, warmup=warmup, schedule=schedule)
        self.by_epoch = by_epoch
        lambda_bg_at(0, **self.plan)
        self._heads: List[BgPenaltyYOLOv8Head] = []

    @property
    def burn_in(self) -> float:
        """Length of burn-in, in epochs or iterations as ``by_epoch`` says."""
        return self.plan['burn_in']

    def progress(self, runner: Runner, batch_idx: int) -> float:
        """Epochs or iterations done before this batch. IterBasedTrainLoop stays in epoch 0 and counts on."""
        return runner.epoch + batch_idx / len(runner.train_dataloader) if self.by_epoch else runner.iter

    def burn_in_batches(self, runner: Runner) -> int:
        """Number of batches with progress < burn_in; a rounding error adds none."""
        batches = self.burn_in * len(runner.train_dataloader) if self.by_epoch else self.burn_in
        return math.floor(batches - 1e-6) + 1 if batches else 0

    def before_run(self, runner: Runner) -> None:
        settings = settings_in(runner.cfg)
        given = hook_arguments(runner.cfg)
        for name, argument in HOOK_SETTINGS.items():
            if name in settings:
                if argument in given and given[argument] != settings[name]:
                    raise ValueError(
                        f'`{name}` is stated twice: {settings[name]!r} at the top level of the config and '
                        f'{given[argument]!r} as `{argument}` of LambdaBgSchedulerHook; remove one'
                    )
                self.plan[argument] = settings[name]
        lambda_bg_at(0, **self.plan)
        self._heads = self._find_heads(runner.model)
        if 'use_focal_bg' in settings:
            for head in self._heads:
                if head.bg_penalty.focal and settings['use_focal_bg'] is False:
                    raise ValueError(
                        '`use_focal_bg` is stated twice: False at the top level of the config and True as `focal` of '
                        "the head's `bg_penalty`; remove one"
                    )
                head.bg_penalty.focal = settings['use_focal_bg']
                head.bg_penalty.check()

    def before_train(self, runner: Runner) -> None:
        if not self._heads:
            raise ValueError(
                'LambdaBgSchedulerHook found no BgPenaltyYOLOv8Head to steer in the model: '
                "set `type='BgPenaltyYOLOv8Head'` in its `bbox_head`, or remove the hook"
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        value = lambda_bg_at(self.progress(runner, batch_idx), **self.plan)
        for head in self._heads:
            head.lambda_bg = value
        runner.message_hub.update_scalar('train/semi/lambda_bg', value)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._log_statistics(runner, batch_idx)
        done = runner.iter + 1
        epoch, rest = divmod(done, len(runner.train_dataloader))
        if not rest:
            value = lambda_bg_at(epoch if self.by_epoch else done, **self.plan)
            stats = self._heads[0].get_bg_penalty_stats()
            runner.logger.info(f'Epoch {epoch - 1}: λ_bg={value:.3f}')
            runner.logger.info('BG Penalty Stats: mean={mean:.4f} max={max:.4f} min={min:.4f}'.format(**stats))

    def _log_statistics(self, runner: Runner, batch_idx: int) -> None:
        interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 10)
        if not (self.every_n_inner_iters(batch_idx, interval) or self.end_of_epoch(runner.train_dataloader, batch_idx)):
            return
        stats = self._heads[0].get_bg_penalty_stats()
        for name in ('mean', 'max'):
            key = f'train/loss/bg_penalty_{name}'
            # LogProcessor averages what has "loss" in its name: leave it only the latest value.
            runner.message_hub.log_scalars.pop(key, None)
            runner.message_hub.update_scalar(key, stats[name])

    @staticmethod
    def _find_heads(model: nn.Module) -> List[BgPenaltyYOLOv8Head]:
        model = unwrapped(model)
        trained = getattr(model, 'student', model)
        return [module for module in trained.modules() if isinstance(module, BgPenaltyYOLOv8Head)]


@HOOKS.register_module()
class BurnInMeanTeacherHook(MeanTeacherHook):
    """MeanTeacherHook with burn-in, and with the buffers averaged as the parameters are.

    During burn-in, which LambdaBgSchedulerHook states, the teacher is the student's copy (unless
    ``average_in_burn_in``) and is not run; from then on teacher = (1 − momentum) · teacher + momentum · student after
    every iteration, and the unlabeled images' share ``unsup_ramp`` of the detector rises from 0 to 1. All of it follows
    from progress, so a resumed run neither misses nor repeats the hand-over.

    Of several processes the student's BN statistics, each of its own images (unless it is SyncBN's), are averaged after
    every iteration: all have the same student and the same teacher.

    Args:
        momentum: the student's share, in (0, 1).
        interval: iterations between updates of the average.
        average_in_burn_in: average from the first iteration on, so that it is an average that labels the first
            unlabeled images; and a run on labeled images alone (burn-in to the end) has its EMA.
        momentum_warmup: iterations in which 63 % of the way is done that the student's share falls, from 1 where the
            averaging begins to ``momentum``, see ``ema_momentum``; 0: all at once.
        unsup_warmup: epochs (iterations, as LambdaBgSchedulerHook counts) of the rise.
        unsup_schedule: 'constant', 'linear', 'step' or 'cosine'.
        buffers: 'average', or 'copy': the teacher's BN statistics are the student's latest, which follow the images'
            statistics sooner, but are not those of the averaged weights.

    Raises:
        ValueError: an argument out of range; no student and teacher in the model; no LambdaBgSchedulerHook.
    """

    def __init__(
        self,
        momentum: float = 0.002,
        interval: int = 1,
        unsup_warmup: float = 1,
        unsup_schedule: str = 'linear',
        average_in_burn_in: bool = False,
        momentum_warmup: float = 0,
        buffers: str = 'average',
    ):
        if isinstance(momentum, bool) or not isinstance(momentum, (int, float)) or not 0 < momentum < 1:
            raise ValueError(f'Expected `momentum` to be a number in (0, 1), but got {momentum!r}')
        super().__init__(momentum=momentum, interval=whole('interval', interval), skip_buffer=False)
        # Collecting the state takes three times as long as averaging it.
        self._averaged: Optional[tuple] = None
        self.unsup_warmup = non_negative('unsup_warmup', unsup_warmup)
        self.unsup_schedule = one_of('unsup_schedule', unsup_schedule, SCHEDULES)
        if not isinstance(average_in_burn_in, bool):
            raise ValueError(f'Expected `average_in_burn_in` to be True or False, but got {average_in_burn_in!r}')
        self.average_in_burn_in = average_in_burn_in
        self.momentum_warmup = non_negative('momentum_warmup', momentum_warmup)
        self.buffers = one_of('buffers', buffers, ('average', 'copy'))

    def before_train(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        if not (hasattr(model, 'student') and hasattr(model, 'teacher')):
            raise ValueError(
                f'BurnInMeanTeacherHook expects a model with a student and a teacher, but got {type(model).__name__}'
            )
        plan = next((hook for hook in runner.hooks if isinstance(hook, LambdaBgSchedulerHook)), None)
        if plan is None:
            raise ValueError(
                'BurnInMeanTeacherHook takes burn-in from LambdaBgSchedulerHook, which is not among the hooks: '
                'add it (with lambda_bg=0 if no penalty is wanted)'
            )
        self._plan = plan
        batches = getattr(runner.train_dataloader, 'batch_sampler', None)
        if isinstance(batches, LabeledUnlabeledBatchSampler):
            batches.labeled_only = self._plan.burn_in_batches(runner)
        self._statistics = [
            buffer
            for module in model.student.modules()
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]
        if runner.iter == 0:
            self.momentum_update(model, 1)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        elapsed = self._plan.progress(runner, batch_idx) - self._plan.burn_in
        unwrapped(runner.model).unsup_ramp = ramp(elapsed, self.unsup_warmup, self.unsup_schedule)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        all_reduce_params(self._statistics, op='mean')
        elapsed = self._plan.progress(runner, batch_idx)
        if not self.average_in_burn_in:
            elapsed -= self._plan.burn_in
        if elapsed < 0:
            self.momentum_update(unwrapped(runner.model), 1)
        elif self.every_n_train_iters(runner, self.interval):
            if self._plan.by_epoch:
                elapsed *= len(runner.train_dataloader)
            share = ema_momentum(elapsed, self.momentum, self.momentum_warmup)
            self.momentum_update(unwrapped(runner.model), share)

    def before_train_epoch(self, runner: Runner) -> None:
        self._averaged = None

    @torch.no_grad()
    def momentum_update(self, model: SemiBaseDetector, momentum: float) -> None:
        """Average parameters and, unless they are copied, floating buffers; copy counters."""
        if self._averaged is None or self._averaged[0] is not model:
            self._averaged = (model, *_by_kind(model.teacher, model.student, self.buffers == 'average'))
        _, teacher, student, copies, originals = self._averaged
        if hasattr(torch, '_foreach_lerp_'):  # torch >= 2.0; one kernel for many tensors
            torch._foreach_lerp_(teacher, student, momentum)
        else:
            for old, new in zip(teacher, student):
                old.lerp_(new, momentum)
        for old, new in zip(copies, originals):
            old.copy_(new)


def _by_kind(teacher: nn.Module, student: nn.Module, average_buffers: bool) -> List[List[Tensor]]:
    """The state's tensors: the teacher's that are averaged, the student's, and so those that are copied."""
    lists: List[List[Tensor]] = [[], [], [], []]
    parameters = {name for name, _ in teacher.named_parameters()}
    state, latest = teacher.state_dict(), student.state_dict().values()
    for name, *tensors in zip(state, state.values(), latest):
        averaged = tensors[0].is_floating_point() and (average_buffers or name in parameters)
        first = 0 if averaged else 2
        for tensor, found in zip(tensors, lists[first:]):
            found.append(tensor)
    return lists


@HOOKS.register_module()
class CompileHook(Hook):
    """Has torch compile the backbone and neck of each detector in the model, student and teacher.

    The first steps (and the first validation) take a minute or more in which nothing is logged; on a CPU torch needs a
    C++ compiler. Heads and losses are left as they are, since their shapes follow the number of objects. Weights,
    checkpoints and their names are unchanged, and the values equal to rounding.

    Args:
        **options: torch.compile's, as ``backend``, ``mode`` and ``dynamic``.

    Raises:
        ValueError: the model has no backbone to compile, or torch (before 2.2) cannot compile in place.
    """

    def __init__(self, **options):
        self.options = options

    def before_train(self, runner: Runner) -> None:
        detectors = [module for module in runner.model.modules() if hasattr(module, 'backbone')]
        if not detectors or not hasattr(nn.Module, 'compile'):
            got = f'torch {torch.__version__}' if detectors else type(unwrapped(runner.model)).__name__
            raise ValueError(f'CompileHook expects torch >= 2.2 and a model with a backbone, but got {got}')
        for detector in detectors:
            for part in (detector.backbone, getattr(detector, 'neck', None)):
                if part is not None:
                    part.compile(**self.options)


@HOOKS.register_module()
class LastEpochsPipelineHook(PipelineSwitchHook):
    """PipelineSwitchHook for the last ``share`` of training, however many epochs that has: no mosaics, no MixUp.

    As Ultralytics closes mosaics. It begins with epoch ``max_epochs - max(1, round(share * max_epochs))``, counted from
    0. Of a ``LabeledUnlabeledDataset`` it is the labeled images' pipeline. Where that mixes
    no images there is nothing to do. Under an IterBasedTrainLoop, which has no epochs, of datasets in a ConcatDataset,
    and of mosaics that no single image stands in for, nothing is switched, and the log says so.

    Args:
        share: of the epochs, in (0, 1].
        switch_pipeline: the pipeline from there on; None: training's own without what mixes images
            (``single_images``).

    Raises:
        ValueError: ``share`` is out of range.
    """

    def __init__(self, share: float = 0.1, switch_pipeline: Optional[List[dict]] = None):
        if not 0 < non_negative('share', share) <= 1:
            raise ValueError(f'Expected `share` to be in (0, 1], but got {share!r}')
        super().__init__(switch_epoch=math.inf, switch_pipeline=switch_pipeline)
        self.switch_pipeline: Optional[list] = switch_pipeline
        self.share = share

    def before_train(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        if self.switch_pipeline is None:
            pipeline = getattr(dataset, 'pipeline', None)
            if pipeline is None:
                return self._leave(f'a {type(dataset).__name__} has no pipeline')
            try:
                self.switch_pipeline = single_images(pipeline.transforms)
            except ValueError as problem:
                return self._leave(f'without a `switch_pipeline`: {problem}')
            if self.switch_pipeline == pipeline.transforms:
                return None
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            return self._leave('IterBasedTrainLoop has no epochs')
        self.switch_epoch = runner.max_epochs - max(1, round(self.share * runner.max_epochs))
        return None

    def _leave(self, why: str) -> None:
        message = f'LastEpochsPipelineHook leaves the pipeline as it is to the end: {why}'
        print_log(message, logger='current', level=logging.WARNING)
