"""Checks of how training images reach the model: pipelines (branches, geometry, mosaics), samplers, batches."""

import re
from collections.abc import Iterator, Sequence

from mmyolo_bgpenalty.config_check.findings import Findings, error, warning
from mmyolo_bgpenalty.config_check.parts import ConfigParts, Dataset, Transform, class_of, kind_of, transforms_in

BRANCHES = dict(labeled=('sup',), unlabeled=('unsup_teacher', 'unsup_student'), empty=('bg',))
PENALISED = 'padding counts as background and is penalised'
RECORDED = dict(
    LetterResize='RecordedLetterResize',
    Mosaic='RecordedMosaic',
    RandomAffine='RecordedYOLOv5RandomAffine',
    YOLOv5RandomAffine='RecordedYOLOv5RandomAffine',
    YOLOv5MixUp='RecordedMixUp',
)
# These transforms move or add pixels, but do not change homography_matrix.
UNRECORDED = {
    *RECORDED,
    *('CachedMosaic', 'Mosaic9', 'MixUp', 'CachedMixUp', 'YOLOXMixUp', 'CopyPaste', 'YOLOv5CopyPaste'),
    *('Expand', 'MinIoURandomCrop', 'RandomCenterCropPad', 'PPYOLOERandomCrop', 'RandomShift', 'CenterCrop'),
}
# These transforms change homography_matrix, or do not need to.
KNOWN = {*('Resize', 'RandomFlip', 'RandomCrop', 'GeomTransform', 'Pad'), *('CutOut', 'RandomErasing')}
KNOWN |= {'RandomResize', 'RandomChoiceResize', 'ResizeShortestEdge', 'RandomChoice', 'TransformBroadcaster'}
PADDING = {*RECORDED, 'Pad', 'Expand', 'RandomCenterCropPad', 'GeomTransform', 'Mosaic9', 'RandomShift'}
GEOMETRIC = re.compile(
    'Affine|Resize|Scale|Crop|Mosaic|Mix|Rotat|Shear|Translat|(?<!RGB)Shift|Perspective|Flip|Expand|Transpose'
    '|OpticalDistortion|GridDistortion|Elastic|Zoom|^Pad|Paste'
)
MIXING = {'RecordedMosaic', 'RecordedMixUp'}
# These datasets put themselves into the dict of each image, so that a mosaic can take other images from them.
GIVE_THEMSELVES = {'BatchShapePolicyDataset', 'ImageFolderDataset'}


def check_branches(parts: ConfigParts) -> Findings:
    roles = {dataset.role for dataset in parts.train}
    needed = {'labeled', *(['unlabeled'] if parts.semi else ()), *(['empty'] if 'empty' in roles else ())}
    every = [name for role, names in BRANCHES.items() if role in needed for name in names]
    for dataset in parts.train if len(needed) > 1 else ():
        wanted = BRANCHES.get(dataset.role, ())
        views = [transform for transform in dataset.transforms if 'branch_field' in transform.node]
        lacking = [name for name in wanted if not any(name in view.node for view in views)]
        if lacking or not wanted:
            hint = ', '.join(f'{name}=[…]' for name in wanted or every)
            what = f'no branch {", ".join(lacking or every)}'
            yield error(dataset.pipeline, what, f"end it with dict(type='Views', branch_field=[…], {hint})")
            continue
        fields = {name for view in views for name in view.node['branch_field']}
        if not fields.issuperset(every):
            what = f'it lacks {[name for name in every if name not in fields]}'
            yield error(f'{views[0].path}.branch_field', what, f'write {every} in every pipeline')


def check_switch(parts: ConfigParts) -> Findings:
    """The pipeline that PipelineSwitchHook sets in the last epochs."""
    both = 'LabeledUnlabeledDataset' in parts.train_set.names
    for hook in parts.hooks_of('PipelineSwitchHook'):
        where = f'{hook.path}.switch_pipeline'
        if hook.node.get('switch_pipeline') is None:  # LastEpochsPipelineHook logs its own warning
            continue
        if 'ConcatDataset' in parts.train_set.names and not both:
            what = f'it sets the pipeline of a {parts.train_set.kind}, which has no effect on its members'
            yield error(hook.path, what, 'train on a LabeledUnlabeledDataset, or remove the hook')
        elif both and 'sup' not in {transform.branch for transform in _switched(parts, hook)}:
            what = 'it becomes the pipeline of the labeled images, but has no branch `sup`'
            yield error(where, what, "end it with dict(type='Views', branch_field=[…], sup=[…])")


def _switched(parts: ConfigParts, hook) -> list[Transform]:
    pipeline = hook.node.get('switch_pipeline') or []
    return list(transforms_in(pipeline, f'{hook.path}.switch_pipeline', parts.scope))


def check_geometry(parts: ConfigParts) -> Findings:
    pipelines = [dataset.transforms for dataset in parts.train]
    pipelines += [_switched(parts, hook) for hook in parts.hooks_of('PipelineSwitchHook')]
    for transforms in pipelines:
        for transform in transforms:
            # Only transforms within one view change the projection between the views.
            view = parts.semi and transform.branch in BRANCHES['unlabeled'] and not transform.inner
            if view:
                yield from _within_view(parts, transform)
            if view or parts.penalised:
                yield from _recording(transform, view)
        for pack in (transform for transform in transforms if 'PackDetInputs' in transform.names):
            before = [transform for transform in transforms if transform.branch in (None, pack.branch)]
            yield from _meta_keys(parts, pack, before)


def _within_view(parts: ConfigParts, transform: Transform) -> Findings:
    where = f'{transform.path}.type'
    if MIXING & transform.names:
        what = f'{transform.kind} within one view: the images that it adds are missing in the other view'
        yield error(where, what, 'put it before the views')
    if 'DenseSemiYOLODetector' in parts.model.names and GEOMETRIC.search(transform.kind):
        what = f'{transform.kind} within one view: DenseSemiYOLODetector compares the views prior by prior'
        yield error(where, what, 'put it before the views')
    if transform.branch == 'unsup_teacher' and {'CutOut', 'RandomErasing'} & transform.names:
        what = f"{transform.kind} in the teacher's view: erased objects get no pseudo-box and are penalised"
        yield warning(where, what, "move it into the student's view")


def _recording(transform: Transform, view: bool) -> Findings:
    for where, name, sure in _unrecorded(transform):
        does = 'does not record' if sure else 'may not record'
        harm = 'pseudo-boxes land in the wrong place' if view else PENALISED
        instead = 'write a subclass that records this in homography_matrix, or remove the transform'
        if name in RECORDED:
            instead = f"write type='{RECORDED[name]}'"
        yield (error if view and sure else warning)(where, f'{name} {does} how it moves pixels: {harm}', instead)


def _unrecorded(transform: Transform) -> Iterator[tuple[str, str, bool]]:
    """Transforms that move pixels without changing homography_matrix: path, name, and whether this is certain."""
    if transform.kind == 'Albu':
        for place, node in enumerate(transform.node.get('transforms') or []):
            if GEOMETRIC.search(kind_of(node)):
                yield f'{transform.path}.transforms.{place}', kind_of(node), True
    elif transform.kind in UNRECORDED:
        yield f'{transform.path}.type', transform.kind, True
    elif not {*RECORDED.values()} & transform.names:
        if UNRECORDED & transform.names or (GEOMETRIC.search(transform.kind) and not KNOWN & transform.names):
            yield f'{transform.path}.type', transform.kind, False


def _meta_keys(parts: ConfigParts, pack: Transform, transforms: Sequence[Transform]) -> Findings:
    keys, where = pack.node.get('meta_keys') or (), f'{pack.path}.meta_keys'
    view = parts.semi and pack.branch in BRANCHES['unlabeled']
    if view and parts.train_set.node.get('known_empty') and 'known_empty' not in keys:
        what = 'no `known_empty`: the detector is not told which images are empty'
        yield error(where, what, "add 'known_empty'")
    if view and 'homography_matrix' not in keys:
        what = 'no `homography_matrix`: boxes cannot be projected from view to view'
        yield error(where, what, "add 'homography_matrix'")
    elif parts.penalised:
        names = {name for transform in transforms for name in transform.names}
        needed = dict(homography_matrix=PADDING, mosaic_tiles=MIXING)
        lacking = ' and '.join(f'`{key}`' for key, movers in needed.items() if key not in keys and movers & names)
        if lacking:
            yield warning(where, f'no {lacking}: {PENALISED}', f'add {lacking}')


def check_mixing(parts: ConfigParts) -> Findings:
    """Mosaic and MixUp need other images of the dataset. On unlabeled images they would fail only after burn-in."""
    for dataset in parts.train:
        for transform in dataset.transforms:
            # check_geometry refuses mosaics within one view. The mosaics of MMDetection need MultiImageMixDataset.
            if 'BaseMixImageTransform' in transform.names and transform.branch is None:
                yield from _mixing(parts, dataset, transform)


def _mixing(parts: ConfigParts, dataset: Dataset, transform: Transform) -> Findings:
    if transform.node.get('use_cached'):
        if 'LabeledUnlabeledDataset' in parts.train_set.names:
            what = 'the images depend on what a worker loaded before: a resumed run sees other images'
            yield warning(f'{transform.path}.use_cached', what, 'remove it')
        return
    if _is_of('mmdet', dataset.node, 'DATASETS', parts) and not GIVE_THEMSELVES & dataset.names:
        what = f'{transform.kind} fails, because {dataset.kind} gives it no other images'
        yield error(f'{dataset.path}.type', what, "write type='CheckedCocoDataset' or 'ImageFolderDataset'")
    if not transform.node.get('pre_transform'):
        what = f'{transform.kind} fails, because no `pre_transform` loads its other images'
        yield error(transform.path, what, 'write pre_transform=[…] with the transforms that come before')


def check_empty_views(parts: ConfigParts) -> Findings:
    """A mosaic must not tell whether an image is empty."""
    mosaics = {
        dataset.role: any('Mosaic' in transform.names for transform in dataset.transforms) for dataset in parts.train
    }
    labeled, empty = mosaics.get('labeled'), mosaics.get('empty')
    if empty is not None and labeled is not None and labeled != empty:
        where = next(dataset.pipeline for dataset in parts.train if dataset.role == 'empty')
        what = f'{"only labeled" if labeled else "only empty"} images are mosaics, and training learns this difference'
        yield warning(where, what, 'write the same transforms as for labeled images')


def check_loading(parts: ConfigParts) -> Findings:
    for dataset in parts.train if parts.penalised else ():
        for transform in dataset.transforms if dataset.has_labels else ():
            if transform.kind == 'LoadAnnotations' and _is_of('mmyolo', transform.node, 'TRANSFORMS', parts):
                what = 'LoadAnnotations of MMYOLO drops crowd boxes, so crowds are penalised as background'
                yield warning(f'{transform.path}.type', what, "write type='mmdet.LoadAnnotations'")


def _is_of(package: str, node, registry: str, parts: ConfigParts) -> bool:
    """Whether a package defines the class of a part."""
    return getattr(class_of(node, registry, parts.scope), '__module__', '').startswith(f'{package}.')


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


CHECKS = (
    *(check_branches, check_switch, check_geometry, check_mixing, check_empty_views, check_loading),
    *(check_samplers, check_preprocessor),
)
