"""Wiring mistakes of a config, found before training: each check reads the config as data and builds nothing.

An error is what stops training or leaves something without effect; a warning may be meant.
"""

import logging
import os
import re
from difflib import get_close_matches
from typing import Callable, Iterator, List, Mapping, NamedTuple, Set, Tuple

from mmyolo_bgpenalty.config_check.overrides import LIVE_NAMES, dead_names
from mmyolo_bgpenalty.config_check.parts import ConfigParts, class_of, kind_of, steps_in
from mmyolo_bgpenalty.engine.schedule import lambda_bg_at
from mmyolo_bgpenalty.engine.settings import HOOK_SETTINGS, SETTINGS, hook_arguments, settings_in
from mmyolo_bgpenalty.models.thresholds import build_thresholds
from mmyolo_bgpenalty.utils.files import printable

BRANCHES = dict(labeled=('sup',), unlabeled=('unsup_teacher', 'unsup_student'))
COCO_KEYS = re.compile(r'(bbox|segm)_mAP(_50|_75|_s|_m|_l)?$|AR|.*_precision$')
PENALISED = 'padding counts as background and is penalised'
RECORDED = dict(
    LetterResize='RecordedLetterResize',
    Mosaic='RecordedMosaic',
    RandomAffine='RecordedYOLOv5RandomAffine',
    YOLOv5RandomAffine='RecordedYOLOv5RandomAffine',
    YOLOv5MixUp='RecordedMixUp',
)
# They move pixels or add some, and leave homography_matrix as it is.
UNRECORDED = {
    *RECORDED,
    *('CachedMosaic', 'Mosaic9', 'MixUp', 'CachedMixUp', 'YOLOXMixUp', 'CopyPaste', 'YOLOv5CopyPaste'),
    *('Expand', 'MinIoURandomCrop', 'RandomCenterCropPad', 'PPYOLOERandomCrop', 'RandomShift', 'CenterCrop'),
}
# They record what they do, or do nothing that needs it.
KNOWN = {*('Resize', 'RandomFlip', 'RandomCrop', 'GeomTransform', 'Pad'), *('CutOut', 'RandomErasing')}
KNOWN |= {'RandomResize', 'RandomChoiceResize', 'ResizeShortestEdge', 'RandomChoice', 'TransformBroadcaster'}
PADDING = {*RECORDED, 'Pad', 'Expand', 'RandomCenterCropPad', 'GeomTransform', 'Mosaic9', 'RandomShift'}
GEOMETRIC = re.compile(
    'Affine|Resize|Scale|Crop|Mosaic|Mix|Rotat|Shear|Translat|(?<!RGB)Shift|Perspective|Flip|Expand|Transpose'
    '|OpticalDistortion|GridDistortion|Elastic|Zoom|^Pad|Paste'
)
MIXING = dict(RecordedMosaic='mosaic', RecordedMixUp='mixed image')
COLLATES = ('yolov5_collate', 'bg_penalty_collate')


class Finding(NamedTuple):
    """``level`` is 'error' or 'warning', ``where`` the dotted name in the config, ``instead`` what to write there."""

    level: str
    where: str
    what: str
    instead: str

    def __str__(self) -> str:
        return f'{self.where}: {self.what}. {self.instead[:1].upper()}{self.instead[1:]}.'


Findings = Iterator[Finding]


def error(where: str, what: str, instead: str) -> Finding:
    return Finding('error', where, printable(what), instead)


def warning(where: str, what: str, instead: str) -> Finding:
    return Finding('warning', where, printable(what), instead)


def check_config(cfg: Mapping, data: bool = True) -> List[Finding]:
    """The wiring mistakes in a config, errors first. In what only testing reads they are warnings.

    Args:
        cfg: the config, with its ``--cfg-options``.
        data: read the json files and look for the images too.
    """
    from mmyolo_bgpenalty.config_check.data_path import DATA_CHECKS

    findings = run_checks((*CHECKS, *(DATA_CHECKS if data else ())), ConfigParts(cfg))
    findings = [finding._replace(level='warning') if _of_test(finding) else finding for finding in findings]
    return sorted(findings, key=lambda finding: finding.level)


def _of_test(finding: Finding) -> bool:
    return finding.where.startswith('test_')


def check_at_start(runner) -> None:
    """The same checks on a Runner about to train, of the sets as they are built; no json is read.

    Warnings are logged.

    Raises:
        ValueError: lists the errors.
    """
    from mmengine.logging import print_log

    from mmyolo_bgpenalty.config_check.data_path import check_built_sets, check_evaluator_paths

    findings = run_checks((*CHECKS, check_evaluator_paths), ConfigParts(runner.cfg, runner.hooks))
    findings += run_checks([check_built_sets], runner)
    findings = [finding for finding in findings if not _of_test(finding)]
    for finding in findings:
        if finding.level == 'warning':
            print_log(str(finding), logger='current', level=logging.WARNING)
    errors = [str(finding) for finding in findings if finding.level == 'error']
    if errors:
        raise ValueError('Expected a config without wiring mistakes, but found:\n' + '\n'.join(errors))


def run_checks(checks, subject) -> List[Finding]:
    findings: List[Finding] = []
    for check in checks:
        try:
            findings += check(subject)
        except (TypeError, AttributeError, KeyError, IndexError, ValueError) as problem:
            # Anything may stand in a config; one odd value must neither end the other checks nor a training.
            what = f'{type(problem).__name__}: {problem}'
            findings.append(warning(check.__name__.replace('_', ' '), f'this was not checked: {what}', 'see the value'))
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.level)


# Hooks


def check_teacher(parts: ConfigParts) -> Findings:
    teachers = parts.hooks_of('MeanTeacherHook')
    if not parts.model.node:
        return
    if not parts.semi:
        for hook in teachers:
            yield error(hook.path, f'{hook.kind} in a config whose model has no teacher', 'remove it')
        return
    if not teachers:
        yield error('default_hooks', 'nothing updates the teacher', "add dict(type='BurnInMeanTeacherHook')")
    for hook in teachers[1:]:
        yield error(hook.path, f'a second teacher hook beside {teachers[0].path}: two averages a step', 'remove one')
    for hook in teachers:
        if 'BurnInMeanTeacherHook' not in hook.names:
            # Of MMDetection's own semi-supervised detectors many keep BatchNorm frozen.
            skips = 'YOLODetector' in parts.detector.names and hook.node.get('skip_buffer', True)
            if skips and hook.node.get('skip_buffers', True):
                yield error(
                    hook.path,
                    f"{hook.kind} leaves out the buffers: the teacher keeps BatchNorm's initial statistics",
                    "write type='BurnInMeanTeacherHook' (or skip_buffer=False)",
                )
            elif parts.plan and parts.plan['burn_in']:
                yield warning(
                    hook.path,
                    f'{hook.kind} knows no burn-in: the teacher labels images from the first iteration',
                    "write type='BurnInMeanTeacherHook', or burn_in=0",
                )
        if hook.node.get('momentum', 0) > 0.5:
            yield warning(
                f'{hook.path}.momentum',
                f"{hook.node['momentum']} is the student's share of the update, not the teacher's",
                f'write {1 - hook.node["momentum"]:.4g}, or a value near 0',
            )
    for hook in parts.hooks_of('EMAHook'):
        yield error(
            hook.path,
            'EMAHook beside a teacher: it averages student and teacher once more and validates that',
            'remove it (custom_hooks = [])',
        )


def check_lambda_hook(parts: ConfigParts) -> Findings:
    hooks = parts.hooks_of('LambdaBgSchedulerHook')
    settings = settings_in(parts.cfg)
    if not hooks:
        if 'BurnInMeanTeacherHook' in {name for hook in parts.hooks for name in hook.names}:
            what, level = 'no LambdaBgSchedulerHook, from which BurnInMeanTeacherHook takes burn-in', error
        elif settings:
            what, level = f'no LambdaBgSchedulerHook: nothing reads {", ".join(sorted(settings))}', error
        elif parts.penalised and 'bg_penalty' not in parts.head.node:
            what, level = 'no λ hook: BgPenaltyYOLOv8Head keeps λ at 1 from the first iteration', warning
        else:
            return
        yield level('default_hooks', what, "add lambda_bg=dict(type='LambdaBgSchedulerHook', burn_in=…, warmup=…)")
        return
    if parts.head.node and not parts.penalised:
        yield error(
            f'{parts.head.path}.type',
            f'{parts.head.kind} has no penalty for {hooks[0].path} to steer',
            "write type='BgPenaltyYOLOv8Head', or remove the hook",
        )
    for hook in hooks[1:]:
        yield error(hook.path, f'a second λ hook beside {hooks[0].path}', 'remove one')
    given = hook_arguments(parts.cfg)
    for name, argument in HOOK_SETTINGS.items():
        if name in settings and given.get(argument, settings[name]) != settings[name]:
            yield error(
                f'{hooks[0].path}.{argument}',
                f'stated twice: {given[argument]!r} and {name}={settings[name]!r}',
                'remove one',
            )
    plan = parts.plan or {}
    try:
        lambda_bg_at(0, **{name: value for name, value in plan.items() if name != 'by_epoch'})
    except ValueError as problem:
        yield error(hooks[0].path, str(problem), 'correct it')
    for name in parts.cfg:
        meant = next(iter(get_close_matches(name, SETTINGS, n=1, cutoff=0.8)), None) if name not in SETTINGS else None
        if meant and meant not in settings:
            yield warning(name, f'nothing reads it; it looks like `{meant}`', f'write {meant} = {parts.cfg[name]!r}')


def check_length(parts: ConfigParts) -> Findings:
    """Burn-in and warm-up against the length of training."""
    plan, length = parts.plan, parts.length
    if not plan or not length:
        return
    unit = 'epochs' if parts.by_epoch else 'iterations'
    where = (
        'burn_in'
        if 'burn_in' in settings_in(parts.cfg)
        else f'{parts.hooks_of("LambdaBgSchedulerHook")[0].path}.burn_in'
    )
    if plan['burn_in'] >= length:
        unused = 'no unlabeled image is used and ' if parts.semi else ''
        yield warning(
            where,
            f'{plan["burn_in"]} of {length} {unit}: {unused}λ stays 0',
            f'write less than {length}, or train longer',
        )
    elif plan['burn_in'] + plan['warmup'] > length and plan['schedule'] != 'constant' and plan['lambda_bg']:
        arguments = {name: value for name, value in plan.items() if name != 'by_epoch'}
        reached = lambda_bg_at(length, **arguments)
        yield warning(
            where,
            f'burn-in {plan["burn_in"]} + warm-up {plan["warmup"]} exceed the {length} {unit}: λ ends at '
            f'{reached:.3g} of {plan["lambda_bg"]:.3g}',
            'shorten one of them, or train longer',
        )
    for hook in parts.hooks_of('BurnInMeanTeacherHook'):
        rise = hook.node.get('unsup_warmup', 1)
        if plan['burn_in'] < length < plan['burn_in'] + rise:
            yield warning(
                f'{hook.path}.unsup_warmup',
                f"the unlabeled images' weight still rises at {unit[:-1]} {length}",
                'shorten it',
            )


# Names


def check_names(parts: ConfigParts) -> Findings:
    if not os.path.isfile(parts.filename) or not parts.filename.endswith('.py'):
        return
    with open(parts.filename, encoding='utf-8') as file:
        text = file.read()
    for name, instead in dead_names(text, parts.text, parts.cfg, LIVE_NAMES):
        yield warning(name, 'nothing reads it: a variable of the base has been used by then', instead)


# Loop and schedules


def check_loop(parts: ConfigParts) -> Findings:
    sampler, epochs = parts.sampler, parts.get('train_cfg.max_epochs')
    infinite = 'InfiniteSampler' in sampler.names or 'MultiSourceSampler' in sampler.names
    if parts.by_epoch and infinite and parts.batch_sampler.kind in ('', 'SeededBatchSampler'):
        yield error(
            sampler.path,
            f'{sampler.kind} never ends, so neither does the first epoch of EpochBasedTrainLoop',
            "write sampler=dict(type='DefaultSampler', shuffle=True) with batch_sampler="
            "dict(type='LabeledUnlabeledBatchSampler'), or an IterBasedTrainLoop",
        )
    for hook in parts.hooks:
        switch = (
            hook.node.get('switch_epoch', hook.node.get('num_last_epochs'))
            if 'PipelineSwitchHook' in hook.names
            else None
        )
        if (
            parts.by_epoch is False
            and {'YOLOv5ParamSchedulerHook', 'PipelineSwitchHook', 'YOLOXModeSwitchHook'} & hook.names
            and ('LastEpochsPipelineHook' not in hook.names or _mixes_images(parts))
        ):
            # The shipped hook goes without, and is harmless then.
            level = warning if 'LastEpochsPipelineHook' in hook.names else error
            yield level(
                hook.path,
                f'{hook.kind} counts epochs, and IterBasedTrainLoop stays in epoch 0: it never fires',
                'use an EpochBasedTrainLoop'
                + (', or param_scheduler with by_epoch=False' if 'YOLOv5ParamSchedulerHook' in hook.names else ''),
            )
        elif parts.by_epoch and epochs and switch is not None and switch >= epochs:
            yield warning(
                f'{hook.path}.switch_epoch', f'{switch} of {epochs} epochs: it never fires', f'write less than {epochs}'
            )
        elif parts.by_epoch and epochs and 'YOLOv5ParamSchedulerHook' in hook.names:
            yield from _yolo_schedule(hook, epochs)
    schedulers = parts.cfg.get('param_scheduler') or []
    for place, scheduler in enumerate([schedulers] if isinstance(schedulers, Mapping) else schedulers):
        if isinstance(scheduler, Mapping):
            where = 'param_scheduler' if isinstance(schedulers, Mapping) else f'param_scheduler.{place}'
            yield from _scheduler(parts, where, scheduler)


def _yolo_schedule(hook, epochs: int) -> Findings:
    planned, where = hook.node.get('max_epochs', 300), f'{hook.path}.max_epochs'
    if planned < epochs:
        negative = hook.node.get('scheduler_type', 'linear') == 'linear'
        yield (error if negative else warning)(
            where,
            f'the schedule ends after {planned} of {epochs} epochs, and '
            + ('the learning rate then falls below 0' if negative else 'the learning rate then rises again'),
            f'write {epochs}',
        )
    elif planned > epochs:
        yield warning(where, f'the schedule is cut off after {epochs} of {planned} epochs', f'write {epochs}')


def _scheduler(parts: ConfigParts, where: str, node: Mapping) -> Findings:
    by_epoch = node.get('by_epoch', True)
    if by_epoch and parts.by_epoch is False and not node.get('convert_to_iter_based'):
        yield error(
            where,
            f'{kind_of(node)} counts epochs, and IterBasedTrainLoop stays in epoch 0: it never fires',
            'write by_epoch=False and count iterations',
        )
    length = parts.get('train_cfg.max_epochs' if parts.by_epoch else 'train_cfg.max_iters')
    if length and by_epoch == parts.by_epoch:
        unit = 'epochs' if by_epoch else 'iterations'
        if node.get('begin', 0) >= length:
            yield warning(
                f'{where}.begin', f'{node["begin"]} of {length} {unit}: it never fires', f'write less than {length}'
            )
        elif length < node.get('end', length) < 1 << 30:  # MMEngine's "for ever"
            yield warning(f'{where}.end', f'cut off after {length} of {node["end"]} {unit}', f'write {length}')


def check_pipeline_switch(parts: ConfigParts) -> Findings:
    for hook in parts.hooks_of('PipelineSwitchHook'):
        given = hook.node.get('switch_pipeline')
        if given is None and not _mixes_images(parts):
            continue
        if 'ConcatDataset' in parts.train_set.names and 'LabeledUnlabeledDataset' not in parts.train_set.names:
            yield error(
                hook.path,
                f'it sets `pipeline` of a {parts.train_set.kind}, which has no effect on its members',
                'train on a LabeledUnlabeledDataset, whose labeled images it switches, or remove it',
            )
            continue
        if given is None:
            yield from _not_closed(parts, hook)
            continue
        steps = list(steps_in(given, f'{hook.path}.switch_pipeline', parts.scope))
        if 'LabeledUnlabeledDataset' in parts.train_set.names and 'sup' not in {step.branch for step in steps}:
            yield error(
                f'{hook.path}.switch_pipeline',
                "it becomes the labeled images' pipeline, but has no branch `sup`",
                "end it with dict(type='Views', branch_field=[…], sup=[…])",
            )
        before = {size for dataset in parts.train if dataset.role != 'unlabeled' for size in _sizes(dataset.steps)}
        if before and set(_sizes(steps)) - before:
            yield warning(
                f'{hook.path}.switch_pipeline',
                f'images of {_listed(set(_sizes(steps)))}, after {_listed(before)}',
                'give both pipelines one size',
            )


def _sizes(steps) -> Iterator[Tuple[int, int]]:
    """Widths and heights that are stated by the transforms of a pipeline."""
    for step in steps:
        for size in (step.node.get('scale'), step.node.get('img_scale')):
            if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size):
                yield tuple(size)


def check_sizes(parts: ConfigParts) -> Findings:
    """Pipelines that share no size, as when one of several was changed."""
    stated = [(dataset, set(_sizes(dataset.steps))) for dataset in (*parts.train, *parts.val, *parts.test)]
    stated = [(dataset, sizes) for dataset, sizes in stated if sizes]
    for dataset, sizes in stated[1:]:
        first, expected = stated[0]
        if not sizes & expected:
            yield warning(
                f'{dataset.path}.pipeline',
                f'images of {_listed(sizes)}, but {first.path} has {_listed(expected)}',
                'give all pipelines one size, if that is not meant',
            )


def _listed(sizes) -> str:
    return ', '.join('×'.join(map(str, size)) for size in sorted(sizes))


def _mixes_images(parts: ConfigParts) -> bool:
    steps = (step for dataset in parts.train if dataset.role != 'unlabeled' for step in dataset.steps)
    return any('BaseMixImageTransform' in step.names for step in steps)


def _not_closed(parts: ConfigParts, hook) -> Findings:
    """Mosaics in whose place LastEpochsPipelineHook finds no single image."""
    for dataset in parts.train:
        choices = [step.path for step in dataset.steps if 'RandomChoice' in step.names]
        for step in dataset.steps if dataset.role != 'unlabeled' else ():
            mosaic = 'BaseMixImageTransform' in step.names and not {'YOLOv5MixUp', 'YOLOXMixUp'} & step.names
            if mosaic and not step.inner and not any(step.path.startswith(f'{path}.') for path in choices):
                yield warning(
                    step.path,
                    f'{hook.kind} finds no single image to take in place of a {_noun(step)}, which stays to the end',
                    f'write {hook.path}=None, a switch_pipeline, or a RandomChoice of {_noun(step)} and single image',
                )


# Batches


def check_batches(parts: ConfigParts) -> Findings:
    size = parts.get('train_dataloader.batch_size')
    for sampler in (parts.sampler, parts.batch_sampler):
        own, ratio = sampler.node.get('batch_size', size), sampler.node.get('source_ratio')
        if None not in (own, size) and own != size and 'BatchSampler' not in sampler.names:
            yield error(
                f'{sampler.path}.batch_size',
                f"{own}, but the loader's batch_size is {size}: batches do not hold {ratio} of the sources",
                f'write {size}',
            )
        if not isinstance(ratio, (list, tuple)) or not all(isinstance(n, (int, float)) for n in ratio):
            continue
        members = parts.train_set.node.get('datasets') or parts.train_set.node.keys() & {'labeled', 'unlabeled'}
        if members and len(ratio) != len(members):
            yield error(
                f'{sampler.path}.source_ratio', f'{list(ratio)} for {len(members)} sets', 'write one number a set'
            )
        elif 'LabeledUnlabeledBatchSampler' in sampler.names and size and sum(ratio) and size % sum(ratio):
            yield error(
                'train_dataloader.batch_size',
                f'{size} is no multiple of {sum(ratio)}, the sum of source_ratio {list(ratio)}',
                f'write {max(1, round(size / sum(ratio))) * sum(ratio)}, or another source_ratio',
            )
    mixed = {'LabeledUnlabeledBatchSampler', 'MultiSourceSampler'}
    if parts.semi and parts.train_set.node and not mixed & (parts.sampler.names | parts.batch_sampler.names):
        yield error(
            'train_dataloader.batch_sampler',
            'batches hold labeled and unlabeled images by chance, and may lack one of them',
            "write batch_sampler=dict(type='LabeledUnlabeledBatchSampler', source_ratio=[1, 1])",
        )
    elif 'LabeledUnlabeledBatchSampler' in parts.batch_sampler.names:
        if parts.sampler.node and 'DefaultSampler' not in parts.sampler.names:
            yield error(
                parts.sampler.path,
                f'LabeledUnlabeledBatchSampler takes seed and epoch from a DefaultSampler, not {parts.sampler.kind}',
                "write dict(type='DefaultSampler', shuffle=True)",
            )
        if parts.train_set.node and 'ConcatDataset' not in parts.train_set.names:
            yield error(
                'train_dataloader.dataset',
                f'LabeledUnlabeledBatchSampler expects two sets, but got one {parts.train_set.kind}',
                "write dict(type='LabeledUnlabeledDataset', labeled=…, unlabeled=…)",
            )


def check_collate(parts: ConfigParts) -> Findings:
    collate = kind_of(parts.get('train_dataloader.collate_fn'))
    where = f'{parts.model.path}.data_preprocessor'
    outer = parts.part(where, 'MODELS')
    if parts.semi:
        if collate in COLLATES:
            yield error(
                'train_dataloader.collate_fn', f'{collate} knows no branches', 'remove it: the default keeps them apart'
            )
        inner = parts.part(f'{where}.data_preprocessor', 'MODELS')
        if outer.node and 'MultiBranchDataPreprocessor' not in outer.names:
            yield error(where, f'{outer.kind} knows no branches', "write dict(type='SemiDataPreprocessor', …)")
        elif parts.plan and parts.plan['burn_in'] and outer.node and 'SemiDataPreprocessor' not in outer.names:
            if 'LabeledUnlabeledBatchSampler' in parts.batch_sampler.names:
                yield error(
                    f'{where}.type',
                    f'{outer.kind} fails on the batches of burn-in, which have no unlabeled part',
                    "write type='SemiDataPreprocessor'",
                )
        if 'YOLOv5DetDataPreprocessor' in inner.names:
            yield error(
                f'{inner.path}.type',
                f'{inner.kind} expects the batches of yolov5_collate, which has no branches',
                "write type='mmdet.DetDataPreprocessor'",
            )
        outer = inner if inner.node else outer
    else:
        fast = 'YOLOv5DetDataPreprocessor' in outer.names
        if (collate in COLLATES and outer.kind == 'DetDataPreprocessor') or (fast and collate not in COLLATES):
            found = collate or 'the default'
            yield error(
                'train_dataloader.collate_fn',
                f"{found} and {outer.kind} do not belong together: MMYOLO's fast data path needs both or neither",
                "write collate_fn=dict(type='bg_penalty_collate') and type='BgPenaltyDetDataPreprocessor'",
            )
        elif parts.penalised and fast:
            if collate != 'bg_penalty_collate':
                yield warning(
                    'train_dataloader.collate_fn',
                    f'{collate} drops what tells padding and crowd boxes from background: they are penalised',
                    "write dict(type='bg_penalty_collate')",
                )
            if 'BgPenaltyDetDataPreprocessor' not in outer.names:
                yield warning(
                    f'{where}.type',
                    f'{outer.kind} drops what tells padding and crowd boxes from background: they are penalised',
                    "write type='BgPenaltyDetDataPreprocessor'",
                )
    if outer.node.get('batch_augments') and (parts.semi or parts.penalised):
        yield error(
            f'{outer.path}.batch_augments',
            'they move pixels after the geometry was recorded',
            'remove them, and resize in the pipeline by a transform that records it',
        )


# Pipelines


def check_branches(parts: ConfigParts) -> Findings:
    if not parts.semi:
        return
    for dataset in parts.train:
        where = f'{dataset.path}.pipeline'
        wanted = BRANCHES.get(dataset.role)
        views = [step for step in dataset.steps if 'branch_field' in step.node]
        if not views or wanted is None:
            hint = {'labeled': 'sup=[…]', 'unlabeled': 'unsup_teacher=[…], unsup_student=[…]'}.get(dataset.role, '…')
            yield error(
                where,
                'it has no branches for student and teacher',
                f"end it with dict(type='Views', branch_field=[…], {hint})",
            )
            continue
        found = {key for step in views for key in step.node} - {'type', '_scope_', 'branch_field'}
        fields = {name for step in views for name in step.node['branch_field']}
        for name in [name for name in wanted if name not in found]:
            yield error(views[0].path, f'no branch `{name}`, but {sorted(found)}', f'add {name}=[…]')
        for name in sorted(found - {*wanted}) if found >= {*wanted} else ():
            yield error(
                f'{views[0].path}.{name}', f'the detector knows no branch `{name}` of these images', 'remove it'
            )
        missing = [name for names in BRANCHES.values() for name in names if name not in fields]
        if missing and found >= {*wanted}:
            yield error(
                f'{views[0].path}.branch_field',
                f'it lacks {missing}',
                f'write {[name for names in BRANCHES.values() for name in names]} in every pipeline',
            )
        hands_itself = {'BatchShapePolicyDataset', 'ImageFolderDataset'} & dataset.names
        if any('Views' not in step.names for step in views) and hands_itself:
            yield warning(
                f'{views[0].path}.type',
                f'{views[0].kind} copies the whole dataset for each image, since it is in the sample',
                "write type='Views'",
            )


def check_geometry(parts: ConfigParts) -> Findings:
    pipelines = [dataset.steps for dataset in parts.train]
    for hook in parts.hooks_of('PipelineSwitchHook'):
        pipelines.append(list(steps_in(hook.node.get('switch_pipeline') or [], f'{hook.path}.switch_pipeline')))
    for steps in pipelines:
        for step in steps:
            # What both views share cancels out of the projection between them.
            view = parts.semi and step.branch in BRANCHES['unlabeled'] and not step.inner
            if not (view or parts.penalised):
                continue
            spoils = 'pseudo-boxes land elsewhere' if view else PENALISED
            if view and {*MIXING} & step.names:
                what = f'a {_noun(step)} within one view: the other view has none of its other images'
                yield error(f'{step.path}.type', what, 'put it before the views, which then share it')
            if view and 'DenseSemiYOLODetector' in parts.model.names and GEOMETRIC.search(step.kind):
                what = f'{step.kind} within one view: DenseSemiYOLODetector compares the views prior by prior'
                yield error(f'{step.path}.type', what, 'put it before `Views`')
            if parts.semi and step.branch == 'unsup_teacher' and {'CutOut', 'RandomErasing'} & step.names:
                what = f"{step.kind} in the teacher's view: what it erases gets no pseudo-box, and is penalised"
                yield warning(f'{step.path}.type', what, "move it into the student's view")
            for where, name, sure in _unrecorded(step):
                level = error if view and sure else warning
                does = 'does not record' if sure else 'may not record'
                instead = RECORDED.get(name)
                yield level(
                    where,
                    f'{name} {does} all it does to the pixels: {spoils}',
                    f"write type='{instead}'"
                    if instead
                    else 'enter it in homography_matrix in a subclass, or remove it',
                )
        for pack in (step for step in steps if 'PackDetInputs' in step.names):
            yield from _meta_keys(parts, pack, [step for step in steps if step.branch in (None, pack.branch)])


def check_mixing(parts: ConfigParts) -> Findings:
    """Mosaic and MixUp get their other images from the dataset that the image is of."""
    for dataset in parts.train:
        handed = {'BatchShapePolicyDataset', 'ImageFolderDataset'} & dataset.names
        for step in dataset.steps:
            # In one view it is an error as it is; MMDetection's own take MultiImageMixDataset.
            if 'BaseMixImageTransform' not in step.names or step.branch is not None:
                continue
            if step.node.get('use_cached'):
                if 'LabeledUnlabeledDataset' in parts.train_set.names:
                    what = 'it mixes what its worker has loaded before: a resumed run sees other images'
                    yield warning(f'{step.path}.use_cached', what, 'remove it')
                continue
            module = getattr(class_of(dataset.node, 'DATASETS', parts.scope), '__module__', '')
            if not handed and module.startswith('mmdet.'):
                what = f'{kind_of(dataset.node)} hands no other images to a {_noun(step)}, which fails'
                yield error(f'{dataset.path}.type', what, "write type='CheckedCocoDataset' or 'ImageFolderDataset'")
            if not step.node.get('pre_transform'):
                what = f'no `pre_transform` loads the other images of the {_noun(step)}, which fails'
                yield error(step.path, what, "write pre_transform=[…] of the pipeline's steps that come before")


def _noun(step) -> str:
    return next((noun for name, noun in MIXING.items() if name in step.names), step.kind)


def _unrecorded(step) -> Iterator[tuple]:
    """(where, name, whether that is sure) of what changes pixels in a step and not homography_matrix."""
    if step.kind == 'Albu':
        for place, node in enumerate(step.node.get('transforms') or []):
            if GEOMETRIC.search(kind_of(node)):
                yield f'{step.path}.transforms.{place}', kind_of(node), True
    elif step.kind in UNRECORDED:
        yield f'{step.path}.type', step.kind, True
    elif not {*RECORDED.values()} & step.names:
        if UNRECORDED & step.names or (GEOMETRIC.search(step.kind) and not KNOWN & step.names):
            yield f'{step.path}.type', step.kind, False


def _meta_keys(parts: ConfigParts, pack, steps) -> Findings:
    keys, where = pack.node.get('meta_keys') or (), f'{pack.path}.meta_keys'
    known_empty = parts.train_set.node.get('known_empty') and parts.semi and pack.branch in BRANCHES['unlabeled']
    if known_empty and 'known_empty' not in keys:
        yield error(where, 'no `known_empty`: the detector is not told which images are empty', "add 'known_empty'")
    if 'homography_matrix' not in keys:
        if parts.semi and pack.branch in BRANCHES['unlabeled']:
            what = 'no `homography_matrix`: boxes cannot be projected from view to view'
            yield error(where, what, "add 'homography_matrix'")
        elif parts.penalised and any(PADDING & step.names for step in steps):
            yield warning(where, f'no `homography_matrix`: {PENALISED}', "add 'homography_matrix' and 'mosaic_tiles'")
    elif parts.penalised and 'mosaic_tiles' not in keys and any({*MIXING} & step.names for step in steps):
        yield warning(where, f'no `mosaic_tiles`: {PENALISED}', "add 'mosaic_tiles'")


def check_loading(parts: ConfigParts) -> Findings:
    if not parts.penalised:
        return
    for dataset in parts.train:
        for step in dataset.steps:
            module = getattr(class_of(step.node, 'TRANSFORMS', parts.scope), '__module__', '')
            if step.kind == 'LoadAnnotations' and module.startswith('mmyolo.') and dataset.role != 'unlabeled':
                yield warning(
                    f'{step.path}.type',
                    "MMYOLO's LoadAnnotations drops crowd boxes: they are penalised as background",
                    "write type='mmdet.LoadAnnotations'",
                )


# Pseudo-labels and evaluation


def check_pseudo_labels(parts: ConfigParts) -> Findings:
    model = parts.model
    known_empty = f'{parts.train_set.path}.known_empty'
    if parts.get(known_empty) and ('SemiYOLODetector' not in model.names or 'DenseSemiYOLODetector' in model.names):
        yield warning(known_empty, f'{model.kind} does not know of it', "write type='SemiYOLODetector' or remove it")
    if 'SemiYOLODetector' in model.names:
        where, found = (
            f'{model.path}.semi_train_cfg.pseudo_test_cfg',
            parts.get('model.semi_train_cfg.pseudo_test_cfg') or {},
        )
        threshold = 0.4
        unsure_thr = parts.get('model.semi_train_cfg.unsure_thr')
        if unsure_thr is not None and not parts.head.node.get('ignored_in_cls'):
            yield warning(
                f'{model.path}.semi_train_cfg.unsure_thr',
                'without `ignored_in_cls` of the head the classification loss learns what is unsure as background',
                f'write {parts.head.path}.ignored_in_cls=True',
            )
    elif 'SemiBaseDetector' in model.names and 'YOLODetector' in parts.detector.names:
        where, found, threshold = f'{parts.detector.path}.test_cfg', parts.detector.node.get('test_cfg') or {}, 0.0
        yield warning(
            'model.type',
            f"{model.kind} takes YOLOv8's pseudo-labels by its evaluation config, clamped to the original image",
            "write type='SemiYOLODetector'",
        )
    else:
        return
    multi, low = bool(found.get('multi_label')), found.get('score_thr', threshold) < 0.05
    if multi and low:
        yield error(
            where,
            f"an evaluation's: multi_label=True and score_thr={found.get('score_thr', threshold)} give one box several "
            'classes, and nearly every prior one',
            'write pseudo_test_cfg=dict(score_thr=0.4)',
        )
    elif multi:
        yield warning(f'{where}.multi_label', 'one box may get several classes', 'write multi_label=False')
    elif low:
        yield warning(
            f'{where}.score_thr',
            f'{found.get("score_thr", threshold)} takes nearly every prior for an object',
            'write 0.4',
        )


def check_class_thresholds(parts: ConfigParts) -> Findings:
    where = 'model.semi_train_cfg.class_thresholds'
    found = parts.get(where)
    number = parts.get(f'{parts.head.path}.head_module.num_classes')
    if None in (found, number) or 'SemiYOLODetector' not in parts.model.names:
        return
    score_thr = parts.get('model.semi_train_cfg.pseudo_test_cfg.score_thr', 0.4)
    try:
        floor = build_thresholds(found, number, 1, score_thr).floor
    except ValueError as problem:
        yield error(where, str(problem), 'correct it')
        return
    if found['type'] == 'ClassFrequency' and not parts.hooks_of('ClassThresholdsHook'):
        yield error(
            where,
            'no hook counts the labeled boxes an image',
            "add thresholds=dict(type='ClassThresholdsHook') to default_hooks",
        )
    if floor < 0.05:
        yield warning(f'{where}.floor', f'{floor} takes nearly every prior into NMS', 'write 0.1')


def check_classes(parts: ConfigParts) -> Findings:
    heads = parts.part(f'{parts.head.path}.head_module', 'MODELS')
    if not (heads.node or parts.semi):
        return  # not every detector has one list of classes
    head = heads if 'num_classes' in heads.node else parts.head
    number = head.node.get('num_classes')
    where = f'{parts.detector.path}.train_cfg.assigner.num_classes'
    assigned = parts.get(where)
    if None not in (number, assigned) and number != assigned:
        yield error(where, f'{assigned}, but the head has {number} classes', f'write {number}')
    train = [(dataset, classes_of(parts, dataset)) for dataset in parts.train]
    train = [(dataset, classes) for dataset, classes in train if classes and dataset.role != 'unlabeled']
    for dataset, classes in train:
        if number is not None and len(classes) > number:
            yield error(
                f'{head.path}.num_classes',
                f'the head has {number} classes, but {dataset.path} has {len(classes)}: {some(classes)}',
                f'write {len(classes)}, here and in the assigner',
            )
        elif number is not None and len(classes) < number:
            yield (error if parts.val else warning)(
                f'{head.path}.num_classes',
                f'the head has {number} classes, but {dataset.path} only {len(classes)}: {some(classes)}; the first '
                'prediction of another class stops validation',
                f'write {len(classes)}, here and in the assigner',
            )
    if not train:
        return
    names = train[0][1]
    for dataset in (*parts.train, *parts.val, *parts.test):
        classes = classes_of(parts, dataset)
        if classes is None or classes == names:
            continue
        moved = any(name in names and names.index(name) != place for place, name in enumerate(classes))
        yield (error if moved and dataset.role != 'unlabeled' else warning)(
            f'{dataset.path}.metainfo.classes',
            f'{some(classes)}, but {train[0][0].path} has {some(names)}: a class stands for another',
            'state one list in one order for all sets',
        )


def classes_of(parts: ConfigParts, dataset):
    """The names a dataset gives its labels, as a list; None where that cannot be told."""
    meta = dataset.node.get('metainfo') or {}
    found = meta.get('classes', meta.get('CLASSES')) if isinstance(meta, Mapping) else None
    if found is None:
        found = getattr(class_of(dataset.node, 'DATASETS', parts.scope), 'METAINFO', {}).get('classes')
    return [found] if isinstance(found, str) else list(found) if found else None


def some(names, most: int = 5) -> str:
    """The first names."""
    names = list(map(str, names))
    return ', '.join(names[:most]) + (', …' if len(names) > most else '')


def check_evaluation(parts: ConfigParts) -> Findings:
    both = kind_of(parts.get('val_cfg')) == 'TeacherStudentValLoop'
    if both and not parts.semi and parts.model.node:
        yield error('val_cfg.type', 'TeacherStudentValLoop needs a model with a teacher', "write type='ValLoop'")
    yield from _save_best(parts, both)
    for dataset in (*parts.val, *parts.test) if 'YOLODetector' in parts.detector.names else ():
        letterbox = any('LetterResize' in step.names for step in dataset.steps)
        for step in dataset.steps:
            keys = step.node.get('meta_keys')
            if 'PackDetInputs' in step.names and keys:
                needed = ['scale_factor', *(['pad_param'] if letterbox else [])]
                for key in [key for key in needed if key not in keys]:
                    yield error(
                        f'{step.path}.meta_keys',
                        f'no `{key}`, by which boxes return to the original image',
                        f"add '{key}'",
                    )


def _save_best(parts: ConfigParts, both: bool) -> Findings:
    evaluators = parts.get('val_evaluator')
    prefixes: Set[str] = set()
    for node in [evaluators] if isinstance(evaluators, Mapping) else evaluators or []:
        name = getattr(class_of(node, 'METRICS', parts.scope), '__name__', '')
        if name not in ('CocoMetric', 'PrecisionRecallMetric'):
            prefixes = set()  # what it reports cannot be told
            break
        prefixes.add(node.get('prefix') or dict(CocoMetric='coco', PrecisionRecallMetric='pr')[name])
        prefixes |= {'coco'} if node.get('coco') else set()
    first = 'teacher/' if both else ''
    wanted = f'{first}coco/bbox_mAP_50' if 'coco' in prefixes or not prefixes else f'{first}{sorted(prefixes)[0]}/…'
    for hook in parts.hooks_of('CheckpointHook'):
        keys = hook.node.get('save_best')
        for key in [keys] if isinstance(keys, str) else keys or []:
            model, _, rest = key.partition('/') if both else ('teacher', '', key)
            prefix, _, name = rest.partition('/')
            known = not prefixes or (prefix in prefixes and (prefix != 'coco' or COCO_KEYS.match(name)))
            if key != 'auto' and not (known and model in ('teacher', 'student')):
                yield error(f'{hook.path}.save_best', f'no evaluator reports `{key}`', f'write {wanted}')


def check_files(parts: ConfigParts) -> Findings:
    start = parts.cfg.get('load_from')
    if start and '://' not in start and not os.path.isfile(start):
        yield error('load_from', f'no such checkpoint: {start}', 'correct the path')


CHECKS: List[Callable] = [
    check_teacher,
    check_lambda_hook,
    check_length,
    check_loop,
    check_names,
    check_pipeline_switch,
    check_sizes,
    check_batches,
    check_collate,
    check_branches,
    check_geometry,
    check_mixing,
    check_loading,
    check_pseudo_labels,
    check_class_thresholds,
    check_classes,
    check_evaluation,
    check_files,
]
