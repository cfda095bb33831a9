"""A hook that skips iterations whose losses or gradients are not finite."""

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import Tensor, nn
from torch.optim import Optimizer

from mmyolo_bgpenalty.utils.arguments import whole_number
from mmyolo_bgpenalty.utils.distributed import unwrapped

MAX_PATHS = 16  # in a message
MIN_LOSS_SCALE = 2.0**-20  # GradScaler begins with 2**16
SCALE_INTERVAL = 100  # iterations between looks at the loss scale


@HOOKS.register_module()
class NonFiniteGuardHook(Hook):
    """Skips iterations in which a loss or a gradient is NaN or infinite in any process.

    All processes skip such an iteration. Parameters, optimizer and the buffers of the trained detector (batch
    normalization statistics) stay as they were before it. A warning names the losses or the gradient, and the images
    of the batch. After ``max_skips`` skipped iterations in a row the next one stops the run, before the optimizer's
    step. No checkpoint of that iteration is written.

    Losses and gradients are tested together, just before the optimizer's step, so that the host waits for the device
    once per iteration. In three cases the losses are tested before the backward pass: with accumulated gradients, since
    a NaN would spoil the finite ones; with a loss scaler, which would lower its scale; and with several optimizers.
    GradScaler tests the gradients itself.

    GradScaler skips updates whose fp16 gradients overflow. The hook counts them. It stops the run if they still
    overflow at a loss scale below 2^-20.

    ``skipped_iterations`` and ``amp_overflows`` are logged as soon as there are any. When training ends, a line has
    the totals, and the images that could not be read. A resumed run continues the counts of the main process.

    Args:
        max_skips: largest number of iterations in a row that are skipped, >= 0. With 0, and before torch 2.0, the first
            one stops the run.

    Raises:
        ValueError: ``max_skips`` is out of range.
        FloatingPointError: in training, too many iterations in a row were not finite.
    """

    def __init__(self, max_skips: int = 10):
        self.max_skips = whole_number('max_skips', max_skips, least=0)
        self._skipped = self._in_a_row = 0
        self._overflows: int | Tensor = 0  # a tensor if the optimizer is fused

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['nonfinite_guard'] = dict(
            skipped=self._skipped, in_a_row=self._in_a_row, overflows=int(self._overflows)
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = checkpoint.get('nonfinite_guard')
        if runner._resume and state:
            self._skipped, self._in_a_row = state['skipped'], state['in_a_row']
            self._overflows = state['overflows']

    def before_train(self, runner: Runner) -> None:
        self._runner = runner
        model = unwrapped(runner.model)
        groups = defaultdict(list)
        for buffer in getattr(model, 'student', model).buffers():
            groups[buffer.dtype, buffer.device].append(buffer)
        # One kernel copies all tensors of a dtype.
        self._buffers = [(group, [torch.empty_like(buffer) for buffer in group]) for group in groups.values()]
        wrapper = runner.optim_wrapper
        self._wrappers = [*wrapper.values()] if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        self._scaled = {one.optimizer for one in self._wrappers if _is_scaled(one)}
        accumulates = any(getattr(one, '_accumulative_counts', 1) > 1 for one in self._wrappers)
        self._early = bool(self._scaled) or accumulates or len(self._wrappers) > 1
        self._handles = [model.register_forward_hook(self._after_forward)]
        for one in self._wrappers:
            if hasattr(one.optimizer, 'register_step_pre_hook'):
                self._handles.append(one.optimizer.register_step_pre_hook(self._before_step))
            else:  # before torch 2.0 nothing can be done between backward pass and step
                self._early, self.max_skips = True, 0
        self._learnt: bool | None = None  # whether any losses since the last step were finite; None: there were none
        self._begin_iteration(None)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._begin_iteration(data_batch)
        for buffers, copies in self._buffers:
            _copy(buffers, copies)

    def _begin_iteration(self, data_batch) -> None:
        self._batch = data_batch
        self._losses: list[dict[str, Tensor]] = []  # of each forward pass, if they are tested before the step
        self._stepped: set[Optimizer] = set()
        self._was_skipped = False

    def _after_forward(self, model: nn.Module, args, outputs) -> dict | None:
        if not (model.training and isinstance(outputs, dict)):
            return None
        losses = {name: _total(map(_mean, _parts(value))) for name, value in outputs.items() if 'loss' in name}
        if not self._early:
            self._losses.append(losses)
        elif not self._all_finite([_total(losses.values())]) and self._skip([losses], []):
            self._learnt = bool(self._learnt)
            return _without_gradient(outputs, model)
        self._learnt = True
        return None

    def _before_step(self, optimizer: Optimizer, args, kwargs) -> None:
        self._stepped.add(optimizer)
        if self._learnt is False or not self._may_step(optimizer):
            # An optimizer passes over parameters without a gradient.
            for group in optimizer.param_groups:
                for p in group['params']:
                    p.grad = None
        else:
            self._in_a_row = 0

    def _may_step(self, optimizer: Optimizer) -> bool:
        found_inf = getattr(optimizer, 'found_inf', None)
        if found_inf is not None:  # GradScaler leaves it to a fused optimizer to skip the step, on the device
            self._overflows = self._overflows + found_inf
        if found_inf is not None or optimizer in self._scaled:
            return True
        losses, self._losses = self._losses, []
        gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        # A norm is not finite if a term is not, or if it overflows: `_skip` tests each gradient.
        norms = torch._foreach_norm(gradients) if gradients else []
        totals = [_total(one.values()) for one in losses]
        return self._all_finite([*totals, *norms]) or not self._skip(losses, gradients)

    @staticmethod
    def _all_finite(values: list[Tensor]) -> bool:
        """Whether the numbers are finite in all processes. This waits for the device."""
        finite = torch.stack(values or [torch.zeros(())]).isfinite().all().float()
        all_reduce(finite, 'min')
        return bool(finite)

    def _skip(self, losses: Sequence[dict[str, Tensor]], gradients: Sequence[Tensor]) -> bool:
        """Undo the iteration and warn, or end the run. False if every number is finite after all."""
        found = (_loss_faults(losses), self._gradient_faults(gradients), _image_paths(self._batch))
        reports = all_gather_object(found)
        # If a loss is not finite, its gradients are not finite either.
        kind = 0 if any(report[0] for report in reports) else 1
        reports = [report for report in reports if report[kind]]
        if not reports:
            return False
        what = '; '.join(dict.fromkeys(report[kind] for report in reports))
        batch = _batch_text([path for report in reports for path in report[2]])
        for buffers, copies in self._buffers:
            _copy(copies, buffers)
        if self._in_a_row == self.max_skips:
            self._stop(what, batch)
        self._skipped += 1
        self._in_a_row += 1
        self._was_skipped = True
        runner = self._runner
        print_log(
            f'Skipped iteration {runner.iter} (epoch {runner.epoch}), {self._in_a_row} in a row and {self._skipped} in '
            f'all: {what}.{batch}',
            logger='current',
            level=logging.WARNING,
        )
        return True

    def _gradient_faults(self, gradients: Sequence[Tensor]) -> str:
        bad = {id(gradient) for gradient in gradients if not gradient.isfinite().all()}
        if not bad:
            return ''
        names = [name for name, p in unwrapped(self._runner.model).named_parameters() if id(p.grad) in bad]
        # If all gradients are bad, clipping has spread the NaN of one of them.
        which = f', the first of {names[0]}' if names and len(bad) < len(gradients) else ''
        return f'the losses are finite, but {len(bad)} of {len(gradients)} gradients are NaN or infinite{which}'

    def _stop(self, what: str, batch: str = '') -> None:
        runner = self._runner
        after = f', after {self._in_a_row} skipped iterations in a row' if self._in_a_row else ''
        lines = [
            f'Stopped in iteration {runner.iter} (epoch {runner.epoch}) before the optimizer changed a weight: '
            f'{what}{after}.{batch}'
        ]
        weights = [name for name, p in unwrapped(runner.model).named_parameters() if not p.isfinite().all()]
        if weights:
            lines.append(f'{len(weights)} weights were not finite before, the first {weights[0]}: see `load_from`.')
        penalty = runner.message_hub.log_scalars.get('train/semi/lambda_bg')
        if penalty is not None:
            lines.append(f'λ_bg was {penalty.current():.4g}.')
        lines.append(
            'Try a lower `optim_wrapper.optimizer.lr`, `optim_wrapper.clip_grad=dict(max_norm=10)`, with --amp '
            '`optim_wrapper.dtype=bfloat16`; if it is an `unsup_` or `bg` entry, a smaller '
            '`model.semi_train_cfg.unsup_weight` or `lambda_bg`; and look at these images and their boxes.'
        )
        latest = os.path.join(runner.work_dir, 'last_checkpoint')
        if os.path.isfile(latest):
            with open(latest) as file:
                lines.append(f'The latest checkpoint is good: {file.read().strip()}')
        message = ' '.join(lines)
        print_log(message, logger='current', level=logging.ERROR)
        raise FloatingPointError(message)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._count_overflows(runner)
        if self._stepped:
            self._learnt = None
        if self._was_skipped:
            # One NaN would make the mean of many iterations NaN: these means start again.
            scalars = runner.message_hub.log_scalars
            for name in [name for name, history in scalars.items() if not math.isfinite(history.current())]:
                del scalars[name]
            runner.message_hub.update_scalar('train/skipped_iterations', self._skipped)

    def _count_overflows(self, runner: Runner) -> None:
        due = self.every_n_train_iters(runner, SCALE_INTERVAL)
        for wrapper in filter(_is_scaled, self._wrappers):
            if wrapper.should_update() and wrapper.optimizer not in self._stepped:
                self._overflows += 1
                self._stepped.add(wrapper.optimizer)
            if due and (scale := wrapper.loss_scaler.get_scale()) < MIN_LOSS_SCALE:
                self._stop(f'gradients overflow in fp16 at any scale of the losses, now {scale:.3g}')
        # With a fused optimizer the count is on the device, and is read only now and then.
        if (due or not isinstance(self._overflows, Tensor)) and int(self._overflows):
            runner.message_hub.update_scalar('train/amp_overflows', int(self._overflows))

    def after_train(self, runner: Runner) -> None:
        for handle in self._handles:
            handle.remove()
        dataset = runner.train_dataloader.dataset
        readable = [getattr(one, 'first_readable', None) for one in getattr(dataset, 'datasets', [dataset])]
        overflows = int(self._overflows)
        parts = [
            self._skipped and f'{self._skipped} iterations whose losses or gradients were not finite',
            overflows and f'{overflows} updates whose fp16 gradients overflowed',
            *(one.summary() for one in readable if one is not None),
        ]
        if any(parts):
            text = '; '.join(part for part in parts if part)
            print_log(f'Training has skipped {text}', logger='current', level=logging.WARNING)


@torch.no_grad()
def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    if hasattr(torch, '_foreach_copy_'):  # torch >= 2.1
        torch._foreach_copy_(targets, sources)
    else:
        for target, source in zip(targets, sources):
            target.copy_(source)


def _is_scaled(wrapper: OptimWrapper) -> bool:
    scaler = getattr(wrapper, 'loss_scaler', None)
    return scaler is not None and scaler.is_enabled()


def _parts(value) -> Sequence[Tensor]:
    return value if isinstance(value, (list, tuple)) else [value]


def _mean(loss: Tensor) -> Tensor:
    return loss.detach().float().mean() if loss.dim() else loss.detach().float()


def _total(losses: Iterable[Tensor]) -> Tensor:
    """The sum, which is finite only if every loss is."""
    return torch.as_tensor(sum(losses))


def _loss_faults(passes: Sequence[dict[str, Tensor]]) -> str:
    for losses in passes:
        values = {name: float(value) for name, value in losses.items()}
        bad = [f'{name} is {value}' for name, value in values.items() if not math.isfinite(value)]
        fine = [f'{name} {value:.4g}' for name, value in values.items() if math.isfinite(value)]
        if not bad and not _total(losses.values()).isfinite():
            bad = ['the sum of the losses is inf']
        if bad:
            return f'{", ".join(bad)} (finite: {", ".join(fine) or "none"})'
    return ''


def _without_gradient(outputs: dict, model: nn.Module) -> dict:
    """The same losses with a gradient of 0 for every parameter, for which DistributedDataParallel waits."""
    zero = sum((p * 0).sum() for p in model.parameters() if p.requires_grad)
    outputs = dict(outputs)
    for name in [name for name in outputs if 'loss' in name]:
        values = [part.detach() + zero for part in _parts(outputs[name])]
        outputs[name] = values if isinstance(outputs[name], (list, tuple)) else values[0]
    return outputs


def _image_paths(batch) -> list[str]:
    """Paths of the images of a batch, each once. MMYOLO's own fast collate function keeps none: []."""
    if isinstance(batch, dict):
        if isinstance(batch.get('img_path'), str):
            return [batch['img_path']]
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return list(dict.fromkeys(path for item in batch for path in _image_paths(item)))
    path = getattr(batch, 'img_path', None)
    return [path] if path else []


def _batch_text(paths: Sequence[str]) -> str:
    more = ', …' if len(paths) > MAX_PATHS else ''
    return f' The batch: {", ".join(paths[:MAX_PATHS])}{more}.' if paths else ''
