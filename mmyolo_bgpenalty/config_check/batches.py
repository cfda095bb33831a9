"""Checks of the training batches: samplers, collate function, data preprocessor."""

from mmyolo_bgpenalty.config_check.findings import Findings, error, warning
from mmyolo_bgpenalty.config_check.parts import ConfigParts, Part, kind_of

COLLATES = ('yolov5_collate', 'bg_penalty_collate')


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
    """The collate function and the data preprocessor must belong together."""
    collate = kind_of(parts.get('train_dataloader.collate_fn'))
    outer = parts.part(f'{parts.model.path}.data_preprocessor', 'MODELS')
    inner = parts.part(f'{outer.path}.data_preprocessor', 'MODELS') if parts.semi else outer
    if parts.semi:
        yield from _semi_preprocessor(parts, collate, outer, inner)
    else:
        yield from _fast_path(parts, collate, outer)
    if inner.node.get('batch_augments') and (parts.semi or parts.penalised):
        what = 'they move pixels after the geometry was recorded'
        yield error(f'{inner.path}.batch_augments', what, 'remove them, and resize in the pipeline')


def _semi_preprocessor(parts: ConfigParts, collate: str, outer: Part, inner: Part) -> Findings:
    if collate in COLLATES:
        what = f'{collate} mixes the branches'
        yield error('train_dataloader.collate_fn', what, "write dict(type='branch_collate')")
    # During burn-in, batches have no unlabeled images.
    partial = 'LabeledUnlabeledBatchSampler' in parts.batch_sampler.names and parts.plan and parts.plan['burn_in']
    if outer.node and ('SemiDataPreprocessor' if partial else 'MultiBranchDataPreprocessor') not in outer.names:
        what = f'{outer.kind} fails on batches with branches' + ', or on those of burn-in' * bool(partial)
        yield error(outer.path, what, "write dict(type='SemiDataPreprocessor', data_preprocessor=…)")
    if 'YOLOv5DetDataPreprocessor' in inner.names:
        what = f'{inner.kind} expects the batches of yolov5_collate, which have no branches'
        yield error(f'{inner.path}.type', what, "write type='mmdet.DetDataPreprocessor'")


def _fast_path(parts: ConfigParts, collate: str, outer: Part) -> Findings:
    """The batches of MMYOLO, in which one tensor holds the boxes of all images."""
    fast = 'YOLOv5DetDataPreprocessor' in outer.names
    where = 'train_dataloader.collate_fn'
    instead = "write collate_fn=dict(type='bg_penalty_collate') and type='BgPenaltyDetDataPreprocessor'"
    if (collate in COLLATES and outer.kind == 'DetDataPreprocessor') or (fast and collate not in COLLATES):
        yield error(where, f'{collate or "the default"} and {outer.kind} do not belong together', instead)
    elif parts.penalised and fast:
        if collate != 'bg_penalty_collate' or 'BgPenaltyDetDataPreprocessor' not in outer.names:
            what = f'{collate} with {outer.kind} loses where padding and crowd boxes are, so these are penalised'
            yield warning(where, what, instead)


CHECKS = (check_samplers, check_preprocessor)
