"""LastEpochsPipelineHook: no mosaic and no MixUp in the last epochs."""

import logging
import math

from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner
from mmyolo.registry import HOOKS

from mmyolo_bgpenalty.datasets.transforms import single_images
from mmyolo_bgpenalty.utils.arguments import non_negative


@HOOKS.register_module()
class LastEpochsPipelineHook(PipelineSwitchHook):
    """Switches the pipeline for the last part of training. Ultralytics ends mosaics in this way.

    The last ``max(1, round(share * max_epochs))`` epochs have the new pipeline. In a ``LabeledUnlabeledDataset`` the
    pipeline of the labeled images is switched, and that of the empty images to its ``single_images``. So a mosaic never
    tells whether an image is empty. The hook warns and keeps a pipeline for an IterBasedTrainLoop, or if
    ``switch_pipeline`` is None and the set is a ConcatDataset or makes only mosaics.

    Args:
        share: part of the epochs, in (0, 1].
        switch_pipeline: the new pipeline; no effect on a plain ConcatDataset. None: ``single_images`` of the old one.

    Raises:
        ValueError: ``share`` is out of range.
    """

    def __init__(self, share: float = 0.1, switch_pipeline: list[dict] | None = None):
        if not 0 < non_negative('share', share) <= 1:
            raise ValueError(f'Expected `share` to be in (0, 1], but got {share!r}')
        super().__init__(switch_epoch=math.inf, switch_pipeline=switch_pipeline)
        self.switch_pipeline: list | None = switch_pipeline
        self.share = share

    def before_train(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        if self.switch_pipeline is None:
            pipeline = getattr(dataset, 'pipeline', None)
            if pipeline is None:
                return _warn(f'a {type(dataset).__name__} has no pipeline')
            try:
                self.switch_pipeline = single_images(pipeline.transforms)
            except ValueError as error:
                return _warn(f'`switch_pipeline` is not set, and the mosaic cannot be removed. {error}')
            if self.switch_pipeline == pipeline.transforms:
                return None
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            return _warn('IterBasedTrainLoop has no epochs')
        self.switch_epoch = runner.max_epochs - max(1, round(self.share * runner.max_epochs))
        return None

    def before_train_epoch(self, runner: Runner) -> None:
        had_switched = self._has_switched
        super().before_train_epoch(runner)
        empty = getattr(runner.train_dataloader.dataset, 'empty_set', None)
        if empty is not None and self._has_switched and not had_switched:
            try:
                empty.pipeline = Compose(single_images(empty.pipeline.transforms))
            except ValueError as error:
                _warn(f'the mosaic cannot be removed from `empty_pipeline`. {error}')


def _warn(why: str) -> None:
    message = f'LastEpochsPipelineHook keeps the pipeline to the end of training: {why}'
    print_log(message, logger='current', level=logging.WARNING)
