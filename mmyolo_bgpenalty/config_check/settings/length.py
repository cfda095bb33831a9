"""Checks of lengths: burn-in, ramps, warm-ups, averages and intervals must fit into the run."""

import math

from mmengine.optim.scheduler.param_scheduler import INF

from mmyolo_bgpenalty.config_check.findings import Findings, error, warning
from mmyolo_bgpenalty.config_check.parts import ConfigParts, names_of
from mmyolo_bgpenalty.config_check.settings.plan import plan_of
from mmyolo_bgpenalty.engine.schedule import iterations_of, lambda_bg_at
from mmyolo_bgpenalty.engine.settings import settings_in

# Iterations. From COCO weights, 2,700 iterations are still better than 1,170 (docs/lab_notes).
SHORTEST_RUN = 1000
# Iterations of burn-in, and after burn-in. The teacher averages the last 250 iterations (momentum=0.004).
SHORTEST_PHASE = 300


def check_burn_in(parts: ConfigParts) -> Findings:
    """Burn-in and the ramps after it must end within the run."""
    plan, length, hooks = parts.plan, parts.length, parts.hooks_of('LambdaBgSchedulerHook')
    if not plan or not length:
        return
    by_epoch, run = hooks[0].node.get('by_epoch', True), plan_of(parts)
    if by_epoch != parts.by_epoch:
        if run is None or not run.epoch:
            return
        length = run.total / run.epoch if by_epoch else run.total
    where, unit = _burn_in_path(parts), 'epochs' if by_epoch else 'iterations'
    burn_in, highest, reached = plan['burn_in'], plan['lambda_bg'], lambda_bg_at(length, **plan)
    if burn_in >= length:
        unused = 'no unlabeled image is used, and ' if parts.semi else ''
        what = f'burn-in takes {burn_in} of {length:g} {unit}: {unused}λ stays 0'
        yield warning(where, what, f'write less than {length:g}, or train longer')
        return
    if reached < highest:
        what = f'burn-in and warm-up do not fit into {length:g} {unit}: λ ends at {reached:.3g} of {highest}'
        yield warning(where, what, 'shorten one of them, or train longer')
    for hook in parts.hooks_of('BurnInMeanTeacherHook'):
        if length < burn_in + hook.node.get('unsup_warmup', 1):
            what = f'the weight of the unlabeled images still rises at the end, after {length:g} {unit}'
            yield warning(f'{hook.path}.unsup_warmup', what, 'write a smaller number')


def _burn_in_path(parts: ConfigParts) -> str:
    hooks = parts.hooks_of('LambdaBgSchedulerHook')
    return 'burn_in' if 'burn_in' in settings_in(parts.cfg) else f'{hooks[0].path}.burn_in'


def check_run(parts: ConfigParts) -> Findings:
    run = plan_of(parts)
    if run is None or not (parts.semi or parts.has_penalty):
        return
    name, each = ('max_epochs', run.epoch) if parts.by_epoch and run.epoch else ('max_iters', 1)
    if run.total < SHORTEST_RUN:
        epochs = f' ({parts.length} epochs of {each})' if name == 'max_epochs' else ''
        what = f'the run has {run.total:,} iterations{epochs}: too few for a good detector'
        longer = 'scale burn_in and warm-up too' if run.burn_in else 'train longer'
        where, place = (name, ' in config(…)') if name in parts.given else (f'train_cfg.{name}', '')
        yield warning(where, what, f'write {math.ceil(SHORTEST_RUN / each)} or more{place}; {longer}')
    elif parts.semi and 0 < run.burn_in < run.total:
        if run.burn_in < SHORTEST_PHASE:
            what = f'burn-in has {run.burn_in} iterations: the teacher labels images before it has learnt enough'
            yield warning(_burn_in_path(parts), what, f'write a longer one, of {SHORTEST_PHASE} iterations or more')
        if run.total - run.burn_in < SHORTEST_PHASE:
            what = f'{run.total - run.burn_in} iterations come after burn-in: too few to learn from unlabeled images'
            yield warning(_burn_in_path(parts), what, 'write a smaller number, or train longer')


def least_momentum(iterations: int, interval: int = 1) -> float:
    """The smallest momentum with which the teacher averages (about interval / momentum) at most a third of the run."""
    return math.ceil(3000 * interval / iterations) / 1000


def check_average(parts: ConfigParts) -> Findings:
    """The teacher must average over many iterations, but over few compared with the run."""
    run = plan_of(parts)
    if run is None or not parts.semi:
        return
    for hook in parts.hooks_of('MeanTeacherHook'):
        own = 'BurnInMeanTeacherHook' in hook.names
        in_burn_in = hook.node.get('average_in_burn_in', not own)
        total = run.total - (0 if in_burn_in else run.burn_in)
        if total <= 0:  # check_burn_in reports it
            continue
        interval, momentum = hook.node.get('interval', 1), hook.node.get('momentum', 0.002 if own else 0.001)
        if momentum > 0 and interval / momentum > total / 3:
            what = f'the teacher lags: it averages the last {interval / momentum:,.0f} iterations of {total:,}'
            yield warning(f'{hook.path}.momentum', what, f'write {least_momentum(total, interval):g} or more')
        where = f'{hook.path}.momentum_warmup'
        warmup = iterations_of('momentum_warmup', hook.node.get('momentum_warmup', 0), run.total)
        late = in_burn_in and 0 < run.burn_in < min(warmup, run.total)
        if warmup > total / 3 or late:
            what = f'{warmup:,} of {total:,} iterations'
            what += f', but burn-in has {run.burn_in:,}' if late else ''
            instead = 'write a share of the run, such as 0.1'
            yield warning(where, f'{what}. In the first {warmup:,} the teacher nearly copies the student', instead)


def check_warmup(parts: ConfigParts) -> Findings:
    run = plan_of(parts)
    if run is None:
        return
    rises = []
    for where, node in parts.entries('param_scheduler'):
        names, by_epoch = names_of(node, 'PARAM_SCHEDULERS', parts.scope), node.get('by_epoch', True)
        if 'WarmupLR' in names:
            rises.append((f'{where}.length', iterations_of('length', node['length'], run.total)))
        elif 'LinearLR' in names and node.get('start_factor', 1 / 3) < node.get('end_factor', 1):
            unit = (run.epoch or 0) if by_epoch else 1
            rises.append((f'{where}.end', min(node.get('end', INF) * unit, run.total) - node.get('begin', 0) * unit))
    for hook in parts.hooks_of('YOLOv5ParamSchedulerHook'):
        least, epochs = hook.node.get('warmup_mim_iter', 1000), hook.node.get('warmup_epochs', 3)
        key = 'warmup_mim_iter' if least > epochs * (run.epoch or 0) else 'warmup_epochs'
        rises.append((f'{hook.path}.{key}', max(least, epochs * (run.epoch or 0))))
    for where, length in rises:
        if length > run.total / 3:
            what = f'the learning rate rises for {length:,.0f} of {run.total:,} iterations'
            yield warning(where, what, f'write a smaller number: {run.total // 50:,} iterations would be 2 %')


def check_intervals(parts: ConfigParts) -> Findings:
    """Validation and checkpoints must come at least once."""
    length, loop = parts.length, parts.get('train_cfg') or {}
    unit = 'epochs' if parts.by_epoch else 'iterations'
    if length and parts.val and loop.get('val_interval', 1) > length and not loop.get('dynamic_intervals'):
        what = f'{loop["val_interval"]} is more than the {length} {unit} of the run: only its end is validated'
        yield warning('train_cfg.val_interval', what, f'write {max(1, length // 10)}')
    for hook in parts.hooks_of('CheckpointHook') if length else ():
        rare = hook.node.get('by_epoch', True) == parts.by_epoch and hook.node.get('interval', -1) > length
        if rare and not hook.node.get('save_last', True) and not hook.node.get('save_best'):
            what = f'{hook.node["interval"]} is more than the {length} {unit} of the run: no checkpoint is written'
            yield error(f'{hook.path}.interval', what, f'write {length}, or save_last=True')


def check_pictures(parts: ConfigParts) -> Findings:
    """A sheet of pseudo-labels must come after burn-in."""
    run = plan_of(parts)
    if run is None or not parts.semi or run.burn_in >= run.total:
        return
    for hook in parts.hooks_of('PseudoLabelPicturesHook'):
        interval = hook.node.get('interval', 0.2)
        every = 0 if interval == -1 else iterations_of('interval', interval, run.total)
        if every and run.total // every * every <= run.burn_in:
            what = f'no sheet (every {every:,} iterations) comes after burn-in ({run.burn_in:,} of {run.total:,})'
            yield warning(f'{hook.path}.interval', what, 'write a share of the run, such as 0.2')


CHECKS = (check_burn_in, check_run, check_average, check_warmup, check_intervals, check_pictures)
