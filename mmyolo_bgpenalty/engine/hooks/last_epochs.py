"""LastEpochsPipelineHook: no mosaics and no MixUp in the last epochs."""

import logging
import math
from typing import List, Optional

from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner
from mmyolo.registry import HOOKS

from mmyolo_bgpenalty.datasets.transforms import single_images
from mmyolo_bgpenalty.utils.arguments import non_negative


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
