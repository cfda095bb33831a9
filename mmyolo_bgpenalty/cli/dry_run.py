"""Run one forward and backward pass on the first batch of a config, as after burn-in. The work dir stays as it is."""

import copy
import math
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import nn

from mmyolo_bgpenalty.cli.run import build_runner
from mmyolo_bgpenalty.config_check.check import start_findings
from mmyolo_bgpenalty.config_check.files.built import try_first_images
from mmyolo_bgpenalty.config_check.findings import Finding
from mmyolo_bgpenalty.engine.checkpoints.start_weights import check_start
from mmyolo_bgpenalty.engine.hooks.lambda_bg import LambdaBgSchedulerHook, penalties_in
from mmyolo_bgpenalty.engine.hooks.mean_teacher import BurnInMeanTeacherHook
from mmyolo_bgpenalty.engine.hooks.pseudo_labels import ClassThresholdsHook
from mmyolo_bgpenalty.engine.schedule import lambda_bg_at, ramp


class PlanRow(NamedTuple):
    """λ and the ramp of the unlabeled weight at the start of each of the epochs (or iterations) ``first`` to ``last``.

    Epochs and iterations are counted from 1.
    """

    first: int
    last: int
    mode: str
    lambda_bg: float
    unsup_ramp: float


class FirstPass(NamedTuple):
    """The results of one pass."""

    start: str | None  # which weights of `load_from` fit, None without `load_from`
    images: dict[str, int]  # number of images by branch
    losses: dict[str, float]  # what the model returns for the log; `loss` is the sum of the losses
    penalty: dict | None  # statistics of the head, None without the penalty
    lambda_bg: float | None  # λ in this pass, None without the penalty
    pseudo_boxes: int | None  # number of pseudo-boxes, None without a teacher
    gradients: dict[str, float]  # norm by part of the trained detector; `total` is the norm of all
    not_finite: list[str]  # logged values that are not finite, and parameters whose gradient is not finite
    untouched: list[str]  # trained parameters without a gradient
    plan: list[PlanRow]  # λ and the ramp over the whole training
    unit: str  # unit of the plan, 'epoch' or 'iteration'


def dry_run(cfg: Config) -> FirstPass:
    """Run one pass on the first batch, with λ at its maximum and the unlabeled images at their full weight.

    The model starts as in training: with initial weights, or with the weights of ``load_from``.
    """
    cfg = copy.deepcopy(cfg)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.pop('prefetch_factor', None)
    with _unlogged_runner(cfg) as runner:
        return _first_pass(runner)


def errors_at_start(cfg: Config) -> list[Finding]:
    """Build all parts that training needs, and return the errors with which it would stop before its first iteration.

    Raises:
        Exception: a part cannot be built, or the first image of a dataset cannot be loaded or predicted.
    """
    with _unlogged_runner(cfg, resume=bool(cfg.get('resume') and cfg.get('load_from'))) as runner:
        visualizer = cfg.get('visualizer')
        if isinstance(visualizer, dict):
            visualizer = dict(visualizer, name=f'{runner.experiment_name}_visualizer')
        runner.build_visualizer(visualizer)
        # The order is that of Runner.train.
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
        if runner.param_schedulers is not None:
            runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        if runner._val_loop is not None:
            runner._val_loop = runner.build_val_loop(runner._val_loop)
        runner.call_hook('before_run')
        check_start(runner, optimizer=False)  # needed if no ResumableCheckpointHook has checked `load_from`
        errors = [finding for finding in start_findings(runner) if finding.level == 'error']
        if not errors:
            try_first_images(runner)
        return errors


@contextmanager
def _unlogged_runner(cfg: Config, resume: bool = False) -> Iterator[Runner]:
    """A Runner of a copy of the config that works in a temporary folder."""
    cfg = copy.deepcopy(cfg)
    name = f'dry_run_{uuid.uuid4().hex}'  # MMEngine makes one visualizer and one logger per name
    cfg.merge_from_dict(dict(experiment_name=name, log_level='ERROR', launcher='none', resume=resume))
    cfg.visualizer = dict(type='Visualizer', name=name)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        yield build_runner(cfg)


def _first_pass(runner: Runner) -> FirstPass:
    model = runner.model
    loader = runner.build_dataloader(runner.cfg.train_dataloader, seed=runner.seed)
    model.init_weights()
    trained = getattr(model, 'student', model)
    start = check_start(runner)
    if start is not None:
        # EMAHook would load into a copy of the model that it makes before a training.
        runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, EMAHook)]
        runner.load_checkpoint(runner._load_from)
    elif trained is not model:
        model.teacher.load_state_dict(trained.state_dict())
    heads = penalties_in(trained)
    hook = _find_hook(runner, LambdaBgSchedulerHook)
    if hook is not None:
        hook.before_run(runner)
        for head in heads:
            head.lambda_bg = hook.plan['lambda_bg']
    thresholds = _find_hook(runner, ClassThresholdsHook)
    if thresholds is not None:
        thresholds.count(model, loader.dataset)
    model.train()
    wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    data = model.data_preprocessor(next(iter(loader)), True)
    with wrapper.optim_context(model):
        total, losses = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    gradients, not_finite, untouched = _gradients(trained)
    losses = {key: float(torch.as_tensor(value).detach()) for key, value in losses.items()}
    labels = getattr(model, 'pseudo_labels', None)
    inputs = data['inputs'] if isinstance(data['inputs'], dict) else dict(images=data['inputs'])
    return FirstPass(
        start=start,
        images={branch: len(images) for branch, images in inputs.items()},
        losses=losses,
        penalty=heads[0].get_bg_penalty_stats() if heads else None,
        lambda_bg=heads[0].lambda_bg if heads else None,
        pseudo_boxes=None if labels is None else sum(len(sample.gt_instances) for sample in labels),
        gradients=gradients,
        not_finite=[key for key, value in losses.items() if not math.isfinite(value)] + not_finite,
        untouched=untouched,
        plan=[] if hook is None else list(_plan(runner, hook, len(loader))),
        unit='epoch' if hook is None or hook.by_epoch else 'iteration',
    )


def _find_hook(runner: Runner, kind: type[Hook]) -> Any:
    return next((hook for hook in runner.hooks if isinstance(hook, kind)), None)


def _gradients(detector: nn.Module) -> tuple[dict[str, float], list[str], list[str]]:
    """Norms by part and in total, parameters whose gradient is not finite, and parameters without a gradient."""
    norms, not_finite, untouched = {}, [], []
    for part, module in detector.named_children():
        named = [(f'{part}.{name}', p) for name, p in module.named_parameters() if p.requires_grad]
        untouched += [name for name, p in named if p.grad is None]
        grads = [(name, p.grad) for name, p in named if p.grad is not None]
        not_finite += [f'the gradient of {name}' for name, grad in grads if not torch.isfinite(grad).all()]
        if grads:
            norms[part] = float(torch.stack([grad.float().norm() for _, grad in grads]).norm())
    norms['total'] = math.hypot(*norms.values())
    return norms, not_finite, untouched


def _plan(runner: Runner, hook: LambdaBgSchedulerHook, batches: int) -> Iterator[PlanRow]:
    loop = runner.cfg.train_cfg
    epochs = loop.get('max_epochs')
    iterations = epochs * batches if epochs else loop.max_iters
    points: Iterable[int]
    if hook.by_epoch:
        points = range(epochs or math.ceil(iterations / batches))
    else:
        # Ten steps show the ramp. One row per iteration would be too many.
        burn_in, warmup = hook.plan['burn_in'], hook.plan['warmup']
        ends = (0, burn_in - 1, *(burn_in + math.ceil(warmup * i / 10) for i in range(11)), iterations)
        points = sorted({math.ceil(min(max(point, 0), iterations - 1)) for point in ends})
    teacher = _find_hook(runner, BurnInMeanTeacherHook)
    rows = []
    for point in points:
        elapsed = point - hook.burn_in
        mode = 'burn-in' if elapsed < 0 else 'supervised' if teacher is None else 'semi'
        rise = 0.0 if teacher is None else ramp(elapsed, teacher.unsup_warmup, teacher.unsup_schedule)
        rows.append((point, (mode, lambda_bg_at(point, **hook.plan), rise)))
    for values, group in groupby(rows, key=lambda row: row[1]):
        same = [point + 1 for point, _ in group]
        yield PlanRow(same[0], same[-1], *values)
