"""LambdaBgSchedulerHook: reads progress, sets λ_bg, logs."""

import math
from typing import Any, Dict, List, Optional

from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import nn

from mmyolo_bgpenalty.engine.schedule import DEFAULT_PLAN, lambda_bg_at
from mmyolo_bgpenalty.engine.settings import HOOK_SETTINGS, hook_arguments, settings_in
from mmyolo_bgpenalty.models.bg_penalty_head import BgPenaltyYOLOv8Head
from mmyolo_bgpenalty.utils.distributed import unwrapped


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
