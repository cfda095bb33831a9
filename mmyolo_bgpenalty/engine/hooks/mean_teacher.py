"""BurnInMeanTeacherHook: the teacher as the average of the student."""

from collections import defaultdict

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
from mmyolo_bgpenalty.utils.arguments import flag, non_negative, one_of, whole_number
from mmyolo_bgpenalty.utils.distributed import unwrapped


@HOOKS.register_module()
class BurnInMeanTeacherHook(MeanTeacherHook):
    """MeanTeacherHook with burn-in, which also averages the buffers.

    In burn-in the teacher is a copy of the student, or with ``average_in_burn_in`` its average, and does not run. After
    burn-in every iteration ends with teacher = (1 − momentum) · teacher + momentum · student, and the weight of the
    unlabeled images, ``unsup_ramp`` of the detector, rises from 0 to 1. Burn-in is an argument of
    LambdaBgSchedulerHook. Everything follows from progress, so a resumed run is on schedule.

    With several processes the hook averages the batch normalization statistics of the student over the processes after
    every iteration (SyncBN needs no average). So all processes have the same student and the same teacher.

    Args:
        momentum: the student's part in an update, in (0, 1).
        interval: iterations between updates.
        unsup_warmup: length of the rise of ``unsup_ramp``, >= 0, in epochs or iterations, as LambdaBgSchedulerHook
            counts.
        unsup_schedule: shape of the rise, 'constant', 'linear', 'step' or 'cosine'.
        average_in_burn_in: average from the first iteration on. Then an average labels the first unlabeled images, and
            a run on labeled images alone (burn-in to the end) has its EMA.
        momentum_warmup: number of iterations, >= 0, in which the student's part falls from 1 towards ``momentum`` by
            63 %, see ``ema_momentum``. It falls from the first average on. 0: ``momentum`` at once.

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
        self.momentum_warmup = non_negative('momentum_warmup', momentum_warmup)
        # The model, and its tensors by kind. To collect them takes three times as long as to average them.
        self._collected: tuple[SemiBaseDetector, dict[str, list[Tensor]]] | None = None

    def before_train(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        if not (hasattr(model, 'student') and hasattr(model, 'teacher')):
            raise ValueError(
                f'BurnInMeanTeacherHook expects a model with a student and a teacher, but got {type(model).__name__}'
            )
        plan = next((hook for hook in runner.hooks if isinstance(hook, LambdaBgSchedulerHook)), None)
        if plan is None:
            raise ValueError(
                'BurnInMeanTeacherHook expects a LambdaBgSchedulerHook, which states burn-in, among the hooks, but '
                'found none: add it (with lambda_bg=0 for no penalty)'
            )
        self._plan = plan
        sampler = getattr(runner.train_dataloader, 'batch_sampler', None)
        if isinstance(sampler, LabeledUnlabeledBatchSampler):
            sampler.labeled_only = plan.burn_in_batches(runner)
        self._statistics = [
            buffer
            for module in model.student.modules()
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]
        if runner.iter == 0:
            self.momentum_update(model, 1)

    def before_train_epoch(self, runner: Runner) -> None:
        self._collected = None  # another hook may have replaced tensors

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
            momentum = ema_momentum(elapsed, self.momentum, self.momentum_warmup)
            self.momentum_update(unwrapped(runner.model), momentum)

    @torch.no_grad()
    def momentum_update(self, model: SemiBaseDetector, momentum: float) -> None:
        """Average parameters and floating-point buffers; copy other buffers (counters)."""
        if self._collected is None or self._collected[0] is not model:
            self._collected = model, _collect(model)
        tensors = self._collected[1]
        if hasattr(torch, '_foreach_lerp_'):  # torch >= 2.0; one kernel for many tensors
            torch._foreach_lerp_(tensors['averages'], tensors['averaged'], momentum)
        else:
            for average, new in zip(tensors['averages'], tensors['averaged']):
                average.lerp_(new, momentum)
        for copy, original in zip(tensors['copies'], tensors['originals']):
            copy.copy_(original)


def _collect(model: SemiBaseDetector) -> dict[str, list[Tensor]]:
    """Tensors of the teacher (averages, copies) and, in the same order, of the student (averaged, originals)."""
    tensors = defaultdict(list)
    for old, new in zip(model.teacher.state_dict().values(), model.student.state_dict().values()):
        names = ('averages', 'averaged') if old.is_floating_point() else ('copies', 'originals')
        for name, tensor in zip(names, (old, new)):
            tensors[name].append(tensor)
    return tensors
