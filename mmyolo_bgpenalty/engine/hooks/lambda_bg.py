"""LambdaBgSchedulerHook: sets λ_bg from the progress of training, and logs it."""

import math
from dataclasses import replace
from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import nn

from mmyolo_bgpenalty.engine.schedule import DEFAULT_PLAN, lambda_bg_at
from mmyolo_bgpenalty.engine.settings import HOOK_SETTINGS, hook_arguments, settings_in
from mmyolo_bgpenalty.models.bg_penalty_head import BgPenaltyYOLOv8Head
from mmyolo_bgpenalty.models.losses.background_penalty_loss import BackgroundPenaltyLoss
from mmyolo_bgpenalty.utils.arguments import flag
from mmyolo_bgpenalty.utils.distributed import unwrapped

_STATED_TWICE = '`{}` is stated twice: {!r} at the top level of the config and {}; remove one'


@HOOKS.register_module()
class LambdaBgSchedulerHook(Hook):
    """Sets λ_bg of the trained heads and losses to ``lambda_bg_at`` of the progress.

    They are each BgPenaltyYOLOv8Head and each BackgroundPenaltyLoss of the model, or of the student.

    Settings at the top level of the config replace defaults of arguments: ``lambda_bg``, ``burn_in``,
    ``lambda_bg_warmup`` and ``lambda_bg_schedule``; ``use_focal_bg`` sets their ``focal``. So ``--cfg-options
    lambda_bg=1.5`` works with any ``tools/train.py``. BurnInMeanTeacherHook reads burn-in from this hook.

    Every iteration logs ``semi/lambda_bg``. When LoggerHook prints, ``semi/bg_penalty_mean`` and
    ``semi/bg_penalty_max`` (statistics of the background scores) are logged as well, and ``bg_penalty``, the penalty in
    the losses. Each pass over the train loader ends with two
    lines in the log. ``Epoch 6: λ_bg=0.196 in its last iteration``; epochs count from 1.
    ``BG Penalty Stats: mean=… max=… min=…`` has the statistics of the last loss.

    Args:
        lambda_bg: maximum of λ, >= 0.
        burn_in: length of burn-in, in which λ is 0, >= 0.
        warmup: length of the ramp from 0 to the maximum after burn-in, >= 0.
        schedule: shape of the ramp, 'constant', 'linear', 'step' or 'cosine'.
        by_epoch: True: lengths are in epochs (passes over the train loader). False: in iterations.

    Raises:
        ValueError: an argument is out of range or contradicts a setting, or the model has no λ_bg.
    """

    def __init__(
        self,
        lambda_bg: float = DEFAULT_PLAN['lambda_bg'],
        burn_in: float = DEFAULT_PLAN['burn_in'],
        warmup: float = DEFAULT_PLAN['warmup'],
        schedule: str = DEFAULT_PLAN['schedule'],
        by_epoch: bool = True,
    ):
        self.plan: dict[str, Any] = dict(lambda_bg=lambda_bg, burn_in=burn_in, warmup=warmup, schedule=schedule)
        self.by_epoch = flag('by_epoch', by_epoch)
        lambda_bg_at(0, **self.plan)
        self._penalties: list[BgPenaltyYOLOv8Head | BackgroundPenaltyLoss] = []

    @property
    def burn_in(self) -> float:
        """Length of burn-in, in epochs or, without ``by_epoch``, in iterations."""
        return self.plan['burn_in']

    def progress(self, runner: Runner, batch_idx: int) -> float:
        """Epochs (or iterations) before this batch. IterBasedTrainLoop has epoch 0; ``batch_idx`` is the iteration."""
        return runner.epoch + batch_idx / len(runner.train_dataloader) if self.by_epoch else runner.iter

    def burn_in_batches(self, runner: Runner) -> int:
        """Number of batches in burn-in."""
        batches = self.burn_in * len(runner.train_dataloader) if self.by_epoch else self.burn_in
        # A rounding error must not add a batch to burn-in.
        return math.floor(batches - 1e-6) + 1 if batches else 0

    def before_run(self, runner: Runner) -> None:
        settings, given = settings_in(runner.cfg), hook_arguments(runner.cfg)
        for name, argument in HOOK_SETTINGS.items():
            if name in settings:
                if given.get(argument, settings[name]) != settings[name]:
                    where = f'{given[argument]!r} as `{argument}` of LambdaBgSchedulerHook'
                    raise ValueError(_STATED_TWICE.format(name, settings[name], where))
                self.plan[argument] = settings[name]
        lambda_bg_at(0, **self.plan)
        trained = getattr(unwrapped(runner.model), 'student', unwrapped(runner.model))
        self._penalties = penalties_in(trained)
        if 'use_focal_bg' in settings:
            for penalty in self._penalties:
                if penalty.bg_penalty.focal and settings['use_focal_bg'] is False:
                    where = 'True as `focal` in `bg_penalty` of the head or loss'
                    raise ValueError(_STATED_TWICE.format('use_focal_bg', False, where))
                penalty.bg_penalty = replace(penalty.bg_penalty, focal=settings['use_focal_bg'])

    def before_train(self, runner: Runner) -> None:
        if not self._penalties:
            raise ValueError(
                'LambdaBgSchedulerHook expects a model with a BgPenaltyYOLOv8Head or a BackgroundPenaltyLoss, but '
                "found none: write type='BgPenaltyYOLOv8Head' in `bbox_head`, or put the `loss_cls` of another head "
                'into a BackgroundPenaltyLoss, or remove the hook'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        value = lambda_bg_at(self.progress(runner, batch_idx), **self.plan)
        for penalty in self._penalties:
            penalty.lambda_bg = value
        runner.message_hub.update_scalar('train/semi/lambda_bg', value)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        epoch, rest = divmod(runner.iter + 1, len(runner.train_dataloader))
        interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 10)
        printed = self.every_n_inner_iters(batch_idx, interval) or self.end_of_epoch(runner.train_dataloader, batch_idx)
        if rest and not printed:
            return
        stats = _joined([penalty.get_bg_penalty_stats() for penalty in self._penalties])
        if printed:
            for name in ('mean', 'max'):
                # Not below `loss/`: MLflow and Neptune refuse a name that begins with another name and a slash.
                runner.message_hub.update_scalar(f'train/semi/bg_penalty_{name}', stats[name])
            parts = [part.latest_penalty for part in self._penalties if isinstance(part, BackgroundPenaltyLoss)]
            if parts:  # a head has `loss_bg`
                total = sum(float(part) for part in parts if part is not None)
                runner.message_hub.update_scalar('train/bg_penalty', total)
        if not rest:
            runner.logger.info(f'Epoch {epoch}: λ_bg={self._penalties[0].lambda_bg:.3f} in its last iteration')
            runner.logger.info('BG Penalty Stats: mean={mean:.4f} max={max:.4f} min={min:.4f}'.format(**stats))


def penalties_in(model: nn.Module) -> list[BgPenaltyYOLOv8Head | BackgroundPenaltyLoss]:
    """The heads and losses of a model that have a ``lambda_bg``."""
    return [part for part in model.modules() if isinstance(part, (BgPenaltyYOLOv8Head, BackgroundPenaltyLoss))]


def _joined(statistics: list[dict[str, float]]) -> dict[str, float]:
    """The statistics of all background priors together."""
    some = [one for one in statistics if one['num']] or statistics[:1]
    number = sum(one['num'] for one in some)
    mean = sum(one['mean'] * one['num'] for one in some) / max(number, 1)
    return dict(mean=mean, max=max(one['max'] for one in some), min=min(one['min'] for one in some), num=number)
