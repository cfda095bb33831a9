"""Data preprocessors for branches, and for what tells background from padding."""

from typing import List, Optional

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor, MultiBranchDataPreprocessor
from mmengine.model import ImgDataPreprocessor
from mmengine.utils import is_seq_of
from mmyolo.models.data_preprocessors import YOLOv5DetDataPreprocessor
from mmyolo.registry import MODELS


class _StackedImages(ImgDataPreprocessor):
    """ImgDataPreprocessor that fills one batch instead of padding and stacking images; the result is the same."""

    def forward(self, data: dict, training: bool = False) -> dict:
        images = data['inputs']
        if not (
            is_seq_of(images, torch.Tensor)
            and len({image.shape for image in images}) == 1
            and images[0].shape[:-2] == (3,)
            and not any(side % self.pad_size_divisor for side in images[0].shape[1:])
        ):
            return super().forward(data, training)
        data = self.cast_data(data)
        batch = torch.empty(len(images), *images[0].shape, device=self.device)
        for row, image in zip(batch, data['inputs']):
            row.copy_(image.flip(0) if self._channel_conversion else image)
        if self._enable_normalize:
            batch.sub_(self.mean).div_(self.std)
        data['inputs'] = batch
        data.setdefault('data_samples', None)
        return data


@MODELS.register_module()
class StackingDetDataPreprocessor(DetDataPreprocessor, _StackedImages):
    """DetDataPreprocessor, faster where the images of a batch are of one shape that needs no padding."""


@MODELS.register_module()
class SemiDataPreprocessor(MultiBranchDataPreprocessor):
    """MultiBranchDataPreprocessor for batches in which a branch may be missing (burn-in)."""

    def __init__(self, data_preprocessor: dict):
        super().__init__(data_preprocessor)
        _refuse_batch_augments(self.data_preprocessor)

    def forward(self, data: dict, training: bool = False) -> dict:
        if training:
            data = {
                key: {branch: items for branch, items in branches.items() if any(item is not None for item in items)}
                for key, branches in data.items()
            }
        return super().forward(data, training)


def _refuse_batch_augments(preprocessor) -> None:
    if preprocessor.batch_augments is not None:
        raise ValueError(
            'Expected no `batch_augments`, but got some: they move pixels after the geometry was recorded; '
            'resize in the pipeline, by a transform that records it'
        )


@MODELS.register_module()
class BgPenaltyDetDataPreprocessor(YOLOv5DetDataPreprocessor):
    """YOLOv5DetDataPreprocessor that hands the ``regions`` of ``bg_penalty_collate`` to the head."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _refuse_batch_augments(self)

    def forward(self, data: dict, training: bool = False) -> dict:
        regions: Optional[List[dict]] = None
        if training:
            samples = dict(data['data_samples'])
            regions = samples.pop('regions', None)
            data = dict(data, data_samples=samples)
        data = super().forward(data, training)
        if regions is not None:
            metas = data['data_samples']['img_metas']
            data['data_samples']['img_metas'] = [{**region, **meta} for region, meta in zip(regions, metas)]
        return data
