"""Checks of the training: hooks, λ, pseudo-labels, loop and schedules."""

from pathlib import Path

from mmengine.optim.scheduler.param_scheduler import INF

from mmyolo_bgpenalty.config_check.findings import Findings, error, warning
from mmyolo_bgpenalty.config_check.overrides import dead_names
from mmyolo_bgpenalty.config_check.parts import ConfigParts, Part, kind_of
from mmyolo_bgpenalty.engine.settings import settings_in

STAYS_IN_EPOCH_0 = 'counts epochs, but IterBasedTrainLoop stays in epoch 0: later epochs never come'
LEAST = dict(max_epochs=1, max_iters=1, val_interval=1, val_begin=0)  # of the entries of a train loop


def check_teacher(parts: ConfigParts) -> Findings:
    teachers = parts.hooks_of('MeanTeacherHook')
    if not parts.semi:
        return
    if not teachers:
        add = "add mean_teacher=dict(type='BurnInMeanTeacherHook')"
        yield error('default_hooks', 'nothing updates the teacher', add)
    for hook in teachers[1:]:
        yield error(hook.path, f'the teacher is updated twice, also by {teachers[0].path}', 'remove one of the hooks')
    for hook in teachers:
        yield from _teacher_hook(parts, hook)
    for hook in parts.hooks_of('EMAHook'):
        what = 'EMAHook averages student and teacher once more, and validation uses that average'
        yield error(hook.path, what, 'remove the hook (custom_hooks = [])')


def _teacher_hook(parts: ConfigParts, hook: Part) -> Findings:
    if 'BurnInMeanTeacherHook' not in hook.names:
        # Many semi-supervised detectors of MMDetection freeze batch normalization.
        skips = hook.node.get('skip_buffer', True) and hook.node.get('skip_buffers', True)
        if skips and 'YOLODetector' in parts.detector.names:
            what = f'{hook.kind} skips the buffers: the batch normalization of the teacher keeps its initial statistics'
            yield error(hook.path, what, "write type='BurnInMeanTeacherHook' (or skip_buffer=False)")
        elif parts.plan and parts.plan['burn_in']:
            what = f'{hook.kind} has no burn-in: an untrained teacher labels images from the first iteration on'
            yield warning(hook.path, what, "write type='BurnInMeanTeacherHook', or burn_in=0")
    momentum = hook.node.get('momentum')
    if isinstance(momentum, bool) or not isinstance(momentum, (int, float)):  # another check says so
        return
    if momentum in (0, 1):
        what = f'{momentum}; expected a number above 0 and below 1'
        yield error(f'{hook.path}.momentum', what, 'write 0.004, for example')
    if 0.5 < momentum < 1:
        what = f"{momentum} is the student's share of an update: the teacher is hardly an average"
        yield warning(f'{hook.path}.momentum', what, f'write {1 - momentum:.4g}, or another value near 0')


def check_unread_preprocessor(parts: ConfigParts) -> Findings:
    """A semi-supervised detector has a preprocessor of its own. Nothing reads those of teacher and student."""
    if 'MultiBranchDataPreprocessor' not in parts.part('model.data_preprocessor', 'MODELS').names:
        return
    read = parts.get('model.data_preprocessor.data_preprocessor') or {}
    for name, value in (parts.get(f'{parts.detector.path}.data_preprocessor') or {}).items():
        used = read.get(name, False if isinstance(value, bool) else None)
        both = [[*one] if isinstance(one, (list, tuple)) else one for one in (value, used)]
        if name in ('mean', 'std', 'bgr_to_rgb', 'rgb_to_bgr') and both[0] != both[1]:
            what = f'{value!r} has no effect: model.data_preprocessor.data_preprocessor.{name} is {used!r}'
            yield error(f'{parts.detector.path}.data_preprocessor.{name}', what, 'write one value for both')


def check_lambda_hook(parts: ConfigParts) -> Findings:
    hooks = parts.hooks_of('LambdaBgSchedulerHook')
    for hook in hooks[1:]:
        yield error(hook.path, f'two hooks set λ: this one and {hooks[0].path}', 'remove one of them')
    if hooks:
        return
    add, settings = "add lambda_bg=dict(type='LambdaBgSchedulerHook')", settings_in(parts.cfg)
    if settings:
        what = f'without a LambdaBgSchedulerHook nothing reads {", ".join(sorted(settings))}'
        yield error('default_hooks', what, add)
    elif parts.penalised and 'bg_penalty' not in parts.head.node:
        what = 'without a LambdaBgSchedulerHook λ is 1 from the first iteration on'
        yield warning('default_hooks', what, add)


def check_names(parts: ConfigParts) -> Findings:
    file = Path(parts.filename)
    if file.is_file() and file.suffix == '.py':
        for name, instead in dead_names(file.read_text(encoding='utf-8'), parts.text, parts.cfg):
            yield warning(name, 'nothing reads this variable, so it changes nothing', instead)


def check_pseudo_labels(parts: ConfigParts) -> Findings:
    model, cfg, known_empty = parts.model, 'model.semi_train_cfg', f'{parts.train_set.path}.known_empty'
    if parts.get(known_empty) and ('SemiYOLODetector' not in model.names or 'DenseSemiYOLODetector' in model.names):
        yield warning(known_empty, f'{model.kind} does not read it', "write type='SemiYOLODetector', or remove it")
    if 'SemiYOLODetector' not in model.names:
        if 'SemiBaseDetector' in model.names and 'YOLODetector' in parts.detector.names:
            what = f'{model.kind} makes pseudo-labels by the test_cfg of YOLOv8, and clamps them to the original image'
            yield warning('model.type', what, "write type='SemiYOLODetector'")
        return
    if parts.get(f'{cfg}.unsure_thr') is not None and not parts.head.node.get('ignored_in_cls'):
        what = 'the classification loss learns unsure boxes as background'
        own = 'SparseYOLOv8Head' in parts.head.names
        instead = f'{parts.head.path}.ignored_in_cls=True' if own else f'{cfg}.unsure_thr=None'
        yield warning(f'{cfg}.unsure_thr', what, f'write {instead}')
    if kind_of(parts.get(f'{cfg}.class_thresholds')) == 'ClassFrequency' and not parts.hooks_of('ClassThresholdsHook'):
        add = "add thresholds=dict(type='ClassThresholdsHook') to default_hooks"
        yield error(f'{cfg}.class_thresholds', 'no hook counts the labeled boxes', add)
    score_thr = parts.get(f'{cfg}.pseudo_test_cfg.score_thr', 0.4)
    harms = [f'score_thr={score_thr} makes nearly every prior a pseudo-box'] if score_thr < 0.05 else []
    if parts.get(f'{cfg}.pseudo_test_cfg.multi_label'):
        harms.append('multi_label=True gives one box several classes')
    if harms:
        level = error if len(harms) > 1 else warning  # both together are the settings of an evaluation
        yield level(f'{cfg}.pseudo_test_cfg', ' and '.join(harms), 'write multi_label=False and score_thr=0.4')


def check_loop(parts: ConfigParts) -> Findings:
    loop = parts.get('train_cfg') or {}
    for name, least in LEAST.items() if parts.by_epoch is not None else ():  # another class may take other values
        value = loop.get(name, least)
        unused = name.startswith('val') and not parts.get('val_dataloader')
        # check_values reports values of other kinds
        if isinstance(value, (int, float)) and value < least and not unused:
            what = f'got {value}, expected a whole number >= {least}'
            yield error(f'train_cfg.{name}', what, 'write such a number')
    sampler, epochs = parts.sampler, parts.get('train_cfg.max_epochs')
    if parts.by_epoch and {'InfiniteSampler', 'MultiSourceSampler'} & sampler.names:
        instead = "write type='DefaultSampler' and a LabeledUnlabeledBatchSampler, or use an IterBasedTrainLoop"
        yield error(sampler.path, f'{sampler.kind} never ends, so the first epoch never ends', instead)
    for hook in parts.hooks:
        if 'LastEpochsPipelineHook' in hook.names:  # this hook logs its own warning
            continue
        switch = hook.node.get('switch_epoch') if 'PipelineSwitchHook' in hook.names else None
        by_epoch = {
            'YOLOv5ParamSchedulerHook',
            'PipelineSwitchHook',
            'YOLOXModeSwitchHook',
            'MisfiresFirstHook',
        } & hook.names
        if parts.by_epoch is False and by_epoch:
            yield error(hook.path, f'{hook.kind} {STAYS_IN_EPOCH_0}', 'use an EpochBasedTrainLoop, or remove the hook')
        elif parts.by_epoch and epochs and switch is not None and switch >= epochs:
            what = f'the hook fires after {switch} epochs, but the run has {epochs}'
            yield warning(f'{hook.path}.switch_epoch', what, f'write less than {epochs}')
        elif parts.by_epoch and epochs and 'YOLOv5ParamSchedulerHook' in hook.names:
            yield from _yolo_schedule(hook, epochs)


def _yolo_schedule(hook: Part, epochs: int) -> Findings:
    planned, where = hook.node.get('max_epochs', 300), f'{hook.path}.max_epochs'
    if planned < epochs:
        linear = hook.node.get('scheduler_type', 'linear') == 'linear'
        then = 'falls below 0' if linear else 'rises again'
        what = f'the schedule ends after {planned} of {epochs} epochs. Then the learning rate {then}'
        yield (error if linear else warning)(where, what, f'write {epochs}')
    elif planned > epochs:
        yield warning(where, f'the schedule is cut off after {epochs} of {planned} epochs', f'write {epochs}')


def check_schedules(parts: ConfigParts) -> Findings:
    length = parts.length
    for where, node in parts.entries('param_scheduler'):
        by_epoch = node.get('by_epoch', True)
        if by_epoch and parts.by_epoch is False and not node.get('convert_to_iter_based'):
            yield error(where, f'{kind_of(node)} {STAYS_IN_EPOCH_0}', 'write by_epoch=False and count iterations')
        if not length or by_epoch != parts.by_epoch:
            continue
        unit, begin, end = 'epochs' if by_epoch else 'iterations', node.get('begin', 0), node.get('end', length)
        if begin >= length:
            what = f'the schedule begins after {begin} of {length} {unit}: it never fires'
            yield warning(f'{where}.begin', what, f'write less than {length}')
        elif length < end < INF:  # INF: the end of training
            what = f'the schedule is cut off after {length} of {end} {unit}'
            yield warning(f'{where}.end', what, f'write {length}')


CHECKS = (
    *(check_teacher, check_unread_preprocessor, check_lambda_hook, check_names),
    *(check_pseudo_labels, check_loop, check_schedules),
)
