"""A train loop that continues within an epoch."""

from collections.abc import Iterable

from mmengine.runner import EpochBasedTrainLoop
from mmyolo.registry import LOOPS
from torch import nn


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """An EpochBasedTrainLoop that continues where ``ResumableCheckpointHook`` saved.

    MMEngine's loop repeats an interrupted epoch from its beginning, and omits a validation that was due after the
    checkpoint. This loop skips the finished batches, and runs the missing validation. If the batch sampler has an
    attribute ``first_batch``, the skipped batches are not read.
    """

    first_batch = 0  # batches to skip in the next epoch
    validated = True  # False: a validation of the latest epoch may still be due

    def run(self) -> nn.Module:
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
        due = self._epoch == self._max_epochs or self._epoch % self.val_interval == 0
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            self.runner.val_loop.run()
        self.validated = True
