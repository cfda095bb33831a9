"""BurnInMeanTeacherHook: makes the teacher the average (EMA) of the student."""

import torch
from mmdet.engine.hooks import MeanTeacherHook
from mmdet.models import SemiBaseDetector
from mmengine.dist import all_reduce_params
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmyolo_bgpenalty.datasets.samplers import LabeledUnlabeledBatchSampler
from mmyolo_bgpenalty.engine.hooks.lambda_bg import LambdaBgSchedulerHook
from mmyolo_bgpenalty.engine.schedule import SCHEDULES, ema_momentum, iterations_of, ramp
from mmyolo_bgpenalty.utils.arguments import flag, non_negative, one_of, whole_number
from mmyolo_bgpenalty.utils.distributed import unwrapped


@HOOKS.register_module()
class BurnInMeanTeacherHook(MeanTeacherHook):
    """A MeanTeacherHook with burn-in. It also averages the buffers.

    In burn-in the teacher makes no pseudo-labels. It is a copy of the student, or with ``average_in_burn_in`` its
    average. After burn-in every ``interval``-th iteration ends with teacher = (1 − momentum) · teacher + momentum ·
    student. ``unsup_ramp`` of the detector, which multiplies ``unsup_weight``, rises from 0 to 1. Burn-in is an
    argument of LambdaBgSchedulerHook. All values depend on progress only, so a resumed run is on schedule.

    With several processes the hook averages the batch normalization statistics of the student over the processes after
    every iteration (SyncBN needs no average). So all processes have the same student and the same teacher.

    Args:
        momentum: weight of the student in an update, in (0, 1).
        interval: iterations between updates.
        unsup_warmup: length of the rise of ``unsup_ramp``, >= 0, in the unit of LambdaBgSchedulerHook.
        unsup_schedule: shape of the rise, 'constant', 'linear', 'step' or 'cosine'.
        average_in_burn_in: average from the first iteration on. Then the first pseudo-labels come from an average, and
            a run with only labeled images (burn-in to the end) has an EMA.
        momentum_warmup: ``warmup`` of ``ema_momentum``, as iterations or below 1 as a share of the run, see
            ``iterations_of``. It begins with the first average.

    Raises:
        ValueError: an argument is out of range; no student and teacher in the model; no LambdaBgSchedulerHook.
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
        if not 0 < non_negative('momentum', momentum) < 1:
            raise ValueError(f'Expected `momentum` to be in (0, 1), but got {momentum!r}')
        super().__init__(momentum=momentum, interval=whole_number('interval', interval), skip_buffer=False)
        self.unsup_warmup = non_negative('unsup_warmup', unsup_warmup)
        self.unsup_schedule = one_of('unsup_schedule', unsup_schedule, SCHEDULES)
        self.average_in_burn_in = flag('average_in_burn_in', average_in_burn_in)
        iterations_of('momentum_warmup', momentum_warmup, 1)
        self.momentum_warmup = momentum_warmup

    def before_train(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        if not (hasattr(model, 'student') and hasattr(model, 'teacher')):
            raise ValueError(
                f'BurnInMeanTeacherHook expects a model with a student and a teacher, but got {type(model).__name__}'
            )
        plans = [hook for hook in runner.hooks if isinstance(hook, LambdaBgSchedulerHook)]
        if not plans:
            raise ValueError(
                'BurnInMeanTeacherHook expects a LambdaBgSchedulerHook, which has the length of burn-in, but found '
                'none: add it (with lambda_bg=0 for no penalty)'
            )
        self._plan = plans[0]
        self._warmup = iterations_of('momentum_warmup', self.momentum_warmup, runner.max_iters)
        sampler = getattr(runner.train_dataloader, 'batch_sampler', None)
        if isinstance(sampler, LabeledUnlabeledBatchSampler):
            sampler.labeled_only = self._plan.burn_in_batches(runner)
        self._statistics = [
            buffer
            for module in model.student.modules()
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]
        self._collect(model)
        if runner.iter == 0:
            self.momentum_update(model, 1)

    def before_train_epoch(self, runner: Runner) -> None:
        self._collect(unwrapped(runner.model))  # again, since another hook may have replaced tensors

    def _collect(self, model: SemiBaseDetector) -> None:
        """Collect the tensors of teacher and student. Collecting takes three times as long as averaging."""
        pairs = list(zip(model.teacher.state_dict().values(), model.student.state_dict().values()))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
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
            momentum = ema_momentum(elapsed, self.momentum, self._warmup)
            self.momentum_update(unwrapped(runner.model), momentum)

    @torch.no_grad()
    def momentum_update(self, model: SemiBaseDetector, momentum: float) -> None:
        """Average parameters and floating-point buffers; copy other buffers (counters)."""
        averages, tensors = zip(*self._averaged)
        torch._foreach_lerp_(averages, tensors, momentum)  # one kernel for many tensors
        for copy, original in self._copied:
            copy.copy_(original)
