"""Data preprocessors for the plain detector, for branches, and for MMYOLO's fast collate function."""

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor, MultiBranchDataPreprocessor
from mmdet.models.utils.misc import samplelist_boxtype2tensor
from mmengine.utils import is_seq_of
from mmyolo.models.data_preprocessors import YOLOv5DetDataPreprocessor
from mmyolo.registry import MODELS


@MODELS.register_module()
class StackingDetDataPreprocessor(DetDataPreprocessor):
    """DetDataPreprocessor with the same result, faster if all images have the same shape and need no padding.

    It writes each image directly into the batch.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        if not self._needs_no_padding(data['inputs']):
            return super().forward(data, training)
        data = self.cast_data(data)
        images, samples = data['inputs'], data.get('data_samples')
        batch = torch.empty(len(images), *images[0].shape, device=self.device)
        for row, image in zip(batch, images):
            row.copy_(image.flip(0) if self._channel_conversion else image)
        if self._enable_normalize:
            batch.sub_(self.mean).div_(self.std)
        if samples is not None:
            shape = tuple(batch.shape[-2:])
            for sample in samples:
                sample.set_metainfo(dict(batch_input_shape=shape, pad_shape=shape))
            if self.boxtype2tensor:
                samplelist_boxtype2tensor(samples)
        return dict(inputs=batch, data_samples=samples)

    def _needs_no_padding(self, images) -> bool:
        return (
            is_seq_of(images, torch.Tensor)
            and len({image.shape for image in images}) == 1
            and images[0].shape[:-2] == (3,)
            and not any(side % self.pad_size_divisor for side in images[0].shape[1:])
            and not (self.pad_mask or self.pad_seg or self.batch_augments)
        )


@MODELS.register_module()
class SemiDataPreprocessor(MultiBranchDataPreprocessor):
    """MultiBranchDataPreprocessor that accepts batches without some of the branches, as in burn-in."""

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


@MODELS.register_module()
class BgPenaltyDetDataPreprocessor(YOLOv5DetDataPreprocessor):
    """YOLOv5DetDataPreprocessor that adds the ``regions`` of ``bg_penalty_collate`` to the metas of the images."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _refuse_batch_augments(self)

    def forward(self, data: dict, training: bool = False) -> dict:
        regions: list[dict] | None = None
        if training:
            samples = dict(data['data_samples'])
            regions = samples.pop('regions', None)
            data = dict(data, data_samples=samples)
        data = super().forward(data, training)
        if regions is not None:
            metas = data['data_samples']['img_metas']
            data['data_samples']['img_metas'] = [{**region, **meta} for region, meta in zip(regions, metas)]
        return data


def _refuse_batch_augments(preprocessor) -> None:
    if preprocessor.batch_augments is not None:
        raise ValueError(
            'Expected no `batch_augments`, but got some: they move pixels after the geometry was recorded. '
            'Resize in the pipeline with RecordedLetterResize'
        )
