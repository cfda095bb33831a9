"""Checks of the training batches: samplers, collate function, data preprocessor."""

from mmyolo_bgpenalty.config_check.findings import Findings, error, warning
from mmyolo_bgpenalty.config_check.parts import ConfigParts, kind_of


def check_samplers(parts: ConfigParts) -> Findings:
    size = parts.get('train_dataloader.batch_size', 1)
    own = parts.sampler.node.get('batch_size', size)
    if own != size:
        what = f"{own}, but the loader's batch_size is {size}: batches do not keep the ratio of the sources"
        yield error(f'{parts.sampler.path}.batch_size', what, f'write {size}')
    mixed = {'LabeledUnlabeledBatchSampler', 'MultiSourceSampler'}
    if parts.semi and parts.train_set.node and not mixed & (parts.sampler.names | parts.batch_sampler.names):
        what = 'batches hold labeled and unlabeled images by chance, and may lack one of them'
        instead = "write batch_sampler=dict(type='LabeledUnlabeledBatchSampler', source_ratio=[1, 1])"
        yield error('train_dataloader.batch_sampler', what, instead)


def check_preprocessor(parts: ConfigParts) -> Findings:
    """MMYOLO's batches of boxes do not state where padding and crowd boxes are."""
    where = 'train_dataloader.collate_fn'
    collate, preprocessor = kind_of(parts.get(where)), parts.part('model.data_preprocessor', 'MODELS')
    stated = collate == 'bg_penalty_collate' and 'BgPenaltyDetDataPreprocessor' in preprocessor.names
    if parts.penalised and 'YOLOv5DetDataPreprocessor' in preprocessor.names and not stated:
        used = f'{collate or "pseudo_collate"} with {preprocessor.kind}'
        what = f'{used} loses where padding and crowd boxes are, so these are penalised'
        instead = "write collate_fn=dict(type='bg_penalty_collate') and type='BgPenaltyDetDataPreprocessor'"
        yield warning(where, what, instead)


CHECKS = (check_samplers, check_preprocessor)
