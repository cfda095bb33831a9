"""BurnInMeanTeacherHook: the teacher as the average of the student, after burn-in."""

from typing import Optional

import torch
from mmdet.engine.hooks import MeanTeacherHook
from mmdet.models import SemiBaseDetector
from mmengine.dist import all_reduce_params
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmyolo_bgpenalty.datasets.samplers import LabeledUnlabeledBatchSampler
from mmyolo_bgpenalty.engine.hooks.lambda_bg import LambdaBgSchedulerHook
from mmyolo_bgpenalty.engine.schedule import SCHEDULES, ema_momentum, ramp
from mmyolo_bgpenalty.utils.arguments import non_negative, one_of, whole_number
from mmyolo_bgpenalty.utils.distributed import unwrapped


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
    ):
        if isinstance(momentum, bool) or not isinstance(momentum, (int, float)) or not 0 < momentum < 1:
            raise ValueError(f'Expected `momentum` to be a number in (0, 1), but got {momentum!r}')
        super().__init__(momentum=momentum, interval=whole_number('interval', interval), skip_buffer=False)
        # Collecting the state takes three times as long as averaging it.
        self._averaged: Optional[tuple] = None
        self.unsup_warmup = non_negative('unsup_warmup', unsup_warmup)
        self.unsup_schedule = one_of('unsup_schedule', unsup_schedule, SCHEDULES)
        if not isinstance(average_in_burn_in, bool):
            raise ValueError(f'Expected `average_in_burn_in` to be True or False, but got {average_in_burn_in!r}')
        self.average_in_burn_in = average_in_burn_in
        self.momentum_warmup = non_negative('momentum_warmup', momentum_warmup)

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
        """Average parameters and floating-point buffers; copy other buffers (counters)."""
        if self._averaged is None or self._averaged[0] is not model:
            self._averaged = (model, *_by_kind(model.teacher, model.student))
        _, teacher, student, copies, originals = self._averaged
        if hasattr(torch, '_foreach_lerp_'):  # torch >= 2.0; one kernel for many tensors
            torch._foreach_lerp_(teacher, student, momentum)
        else:
            for old, new in zip(teacher, student):
                old.lerp_(new, momentum)
        for old, new in zip(copies, originals):
            old.copy_(new)


def _by_kind(teacher: nn.Module, student: nn.Module) -> list[list[Tensor]]:
    """Tensors to average, of the teacher and of the student, and tensors to copy, of the teacher and of the student."""
    lists: list[list[Tensor]] = [[], [], [], []]
    for old, new in zip(teacher.state_dict().values(), student.state_dict().values()):
        first = 0 if old.is_floating_point() else 2
        lists[first].append(old)
        lists[first + 1].append(new)
    return lists
