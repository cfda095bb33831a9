"""NonFiniteGuardHook: skips iterations whose losses or gradients are not finite."""

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import Tensor, nn
from torch.optim import Optimizer

from mmyolo_bgpenalty.datasets.labeled_unlabeled import leaves_of
from mmyolo_bgpenalty.utils.arguments import whole_number
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.files import write_whole

MAX_PATHS = 16  # image paths in a message
MIN_LOSS_SCALE = 2.0**-20  # GradScaler begins with 2**16
READ_INTERVAL = 20  # iterations between two reads of a count on the device


@HOOKS.register_module()
class NonFiniteGuardHook(Hook):
    """Skips iterations in which a loss or a gradient is NaN or infinite in any process.

    All processes skip such an iteration. It changes neither the parameters nor the optimizer nor the buffers of the
    trained detector (batch normalization statistics). A warning names the losses or the gradient, and the images of the
    batch. After ``max_skips`` skipped iterations in a row, another such iteration stops the run before the optimizer's
    step. No checkpoint of that iteration is written.

    GradScaler itself skips updates whose fp16 gradients overflow. The hook counts these updates. It stops the run if
    gradients still overflow at a loss scale below 2^-20. With a fused optimizer the count stays on the device. The hook
    reads it every 20 iterations, because the host waits for each read.

    ``skipped_iterations`` and ``amp_overflows`` are logged as soon as there are any. When training ends, a line has
    the totals, and the images that could not be read. A resumed run continues the counts of the main process.

    Args:
        max_skips: largest number of iterations in a row that are skipped, >= 0. 0: the first one stops the run.

    Raises:
        ValueError: ``max_skips`` is out of range.
        FloatingPointError: too many iterations in a row were not finite, or fp16 gradients overflow at any loss scale.
    """

    def __init__(self, max_skips: int = 10):
        self.max_skips = whole_number('max_skips', max_skips, least=0)
        self._skipped = self._in_a_row = self._overflows = 0
        self._uncounted: int | Tensor = 0  # overflows that are not in `_overflows` yet

    @property
    def skipping(self) -> bool:
        """Whether the latest iteration was skipped, or no update has followed a skipped one."""
        return self._in_a_row > 0

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._count_overflows()
        checkpoint['nonfinite_guard'] = dict(skipped=self._skipped, in_a_row=self._in_a_row, overflows=self._overflows)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = checkpoint.get('nonfinite_guard')
        if runner._resume and state:
            self._skipped, self._in_a_row, self._overflows = state['skipped'], state['in_a_row'], state['overflows']

    def before_train(self, runner: Runner) -> None:
        self._runner = runner
        model = unwrapped(runner.model)
        groups = defaultdict(list)
        for buffer in getattr(model, 'student', model).buffers():
            groups[buffer.dtype, buffer.device].append(buffer)
        # One kernel copies all tensors of a dtype.
        self._buffers = [(group, [torch.empty_like(buffer) for buffer in group]) for group in groups.values()]
        wrapper = runner.optim_wrapper
        scaler = getattr(wrapper, 'loss_scaler', None)
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        # Losses and gradients are tested together, just before the optimizer's step. So the host waits for the device
        # once per iteration. In two cases the losses are tested before the backward pass: their NaN would lower the
        # scale of GradScaler, or spoil accumulated gradients.
        self._early = self._scaler is not None or getattr(wrapper, '_accumulative_counts', 1) > 1
        self._handles = [
            model.register_forward_hook(self._after_forward),
            wrapper.optimizer.register_step_pre_hook(self._before_step),
        ]
        self._passes: list[bool] = []  # whether the losses were finite, for each forward pass since the last step
        self.before_train_iter(runner, 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        for buffers, copies in self._buffers:
            torch._foreach_copy_(copies, buffers)
        self._batch = data_batch
        self._losses: list[dict[str, Tensor]] = []  # of each forward pass; to be tested before the step
        self._stepped = self._was_skipped = False

    def _after_forward(self, model: BaseModel, args, outputs) -> dict | None:
        named = {name: value for name, value in outputs.items() if 'loss' in name} if isinstance(outputs, dict) else {}
        if not model.training or not named:
            return None
        with torch.no_grad():
            _, losses = model.parse_losses(named)
        finite = True
        if not self._early:
            self._losses.append(losses)
        elif not self._all_finite([losses['loss']]):
            finite = not self._skip([losses], [])
        self._passes.append(finite)
        return None if finite else _without_gradient(outputs, model)

    def _before_step(self, optimizer: Optimizer, args, kwargs) -> None:
        self._stepped = True
        if (self._passes and not any(self._passes)) or not self._may_step(optimizer):
            optimizer.zero_grad()  # an optimizer does not change a parameter whose gradient is None
        else:
            self._in_a_row = 0

    def _may_step(self, optimizer: Optimizer) -> bool:
        found_inf = getattr(optimizer, 'found_inf', None)
        if found_inf is not None:  # a fused optimizer skips the step itself, so the count stays on the device
            self._uncounted = self._uncounted + found_inf
        if found_inf is not None or self._scaler is not None:
            return True
        losses, self._losses = self._losses, []
        gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        # The norm of large finite gradients may overflow. Therefore `_skip` tests each gradient.
        norms = torch._foreach_norm(gradients) if gradients else []
        return self._all_finite([*(one['loss'] for one in losses), *norms]) or not self._skip(losses, gradients)

    @staticmethod
    def _all_finite(values: list[Tensor]) -> bool:
        """Whether the numbers are finite in all processes. This waits for the device."""
        finite = torch.stack(values or [torch.zeros(())]).isfinite().all().float()
        all_reduce(finite, 'min')
        return bool(finite)

    def _skip(self, losses: Sequence[dict[str, Tensor]], gradients: Sequence[Tensor]) -> bool:
        """Undo the iteration and warn, or stop the run. Return False if every number is finite after all."""
        reports = all_gather_object((_loss_faults(losses), self._gradient_faults(gradients), _image_paths(self._batch)))
        # If a loss is not finite, its gradients are not finite either.
        kind = 0 if any(report[0] for report in reports) else 1
        reports = [report for report in reports if report[kind]]
        if not reports:
            return False
        for buffers, copies in self._buffers:
            torch._foreach_copy_(buffers, copies)
        what = '; '.join(dict.fromkeys(report[kind] for report in reports))
        paths = [path for report in reports for path in report[2]]
        more = ', …' if len(paths) > MAX_PATHS else ''
        batch = f' The batch: {", ".join(paths[:MAX_PATHS])}{more}.' if paths else ''
        if self._in_a_row == self.max_skips:
            self._stop(what, batch)
        self._skipped += 1
        self._in_a_row += 1
        self._was_skipped = True
        count = f'{self._in_a_row} in a row and {self._skipped} in all'
        print_log(f'Skipped {self._place()}, {count}: {what}.{batch}', logger='current', level=logging.WARNING)
        return True

    def _place(self) -> str:
        return f'iteration {self._runner.iter + 1} (epoch {self._runner.epoch + 1})'  # as in the log

    def _gradient_faults(self, gradients: Sequence[Tensor]) -> str:
        bad = {id(gradient) for gradient in gradients if not gradient.isfinite().all()}
        if not bad:
            return ''
        names = [name for name, p in unwrapped(self._runner.model).named_parameters() if id(p.grad) in bad]
        # If all gradients are bad, clipping has spread the NaN of one of them.
        which = f', the first is that of {names[0]}' if names and len(bad) < len(gradients) else ''
        return f'the losses are finite, but {len(bad)} of {len(gradients)} gradients are NaN or infinite{which}'

    def _stop(self, what: str, batch: str = '') -> None:
        after = f', after {self._in_a_row} skipped iterations in a row' if self._in_a_row else ''
        lines = [f'Stopped in {self._place()}, in which the optimizer changed no weight: {what}{after}.{batch}']
        weights = [name for name, p in unwrapped(self._runner.model).named_parameters() if not p.isfinite().all()]
        if weights:
            lines.append(
                f'{len(weights)} weights were already NaN or infinite, the first is {weights[0]}: check `load_from`.'
            )
        penalty = self._runner.message_hub.log_scalars.get('train/semi/lambda_bg')
        if penalty is not None:
            lines.append(f'λ_bg was {penalty.current():.4g}.')
        lines.append(
            'Try a lower `optim_wrapper.optimizer.lr`, `optim_wrapper.clip_grad=dict(max_norm=10)`, or with --amp '
            '`optim_wrapper.dtype=bfloat16`. If an `unsup_` or `bg` loss is not finite, try a smaller '
            '`model.semi_train_cfg.unsup_weight` or `lambda_bg`. Look at the images of the batch and their boxes.'
        )
        info = self._runner.message_hub.runtime_info
        good, latest = info.get('good_ckpt'), info.get('last_ckpt')
        if good:
            more = '' if good == latest else ', which --resume takes; later ones may hold weights that have diverged'
            lines.append(f'The last good checkpoint is {good}{more}')
            if is_main_process():
                write_whole(Path(self._runner.work_dir, 'last_checkpoint'), good)
        elif latest:
            lines.append(f'No checkpoint is known to be good. The latest is {latest}')
        message = ' '.join(lines)
        print_log(message, logger='current', level=logging.ERROR)
        raise FloatingPointError(message)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._scaler is not None and runner.optim_wrapper.should_update() and not self._stepped:
            self._uncounted += 1
            self._stepped = True
        if not isinstance(self._uncounted, Tensor) or self.every_n_train_iters(runner, READ_INTERVAL):
            self._check_overflows()
        if self._stepped:
            self._passes = []
        if self._was_skipped:
            # One NaN would make a mean over many iterations NaN. Therefore these means start again.
            for name, history in [*runner.message_hub.log_scalars.items()]:
                if not math.isfinite(history.current()):
                    del runner.message_hub.log_scalars[name]
            runner.message_hub.update_scalar('train/skipped_iterations', self._skipped)

    def _check_overflows(self) -> None:
        if self._count_overflows():
            # The scaler is unknown if a wrapper other than MMEngine's scales the losses.
            scale = math.inf if self._scaler is None else self._scaler.get_scale()
            if scale < MIN_LOSS_SCALE:
                self._stop(f'gradients overflow in fp16 at any scale of the losses, now {scale:.3g}')

    def _count_overflows(self) -> int:
        """Count the new overflows, and return their number. With a fused optimizer this waits for the device."""
        new, self._uncounted = int(self._uncounted), 0
        self._overflows += new
        if new:
            self._runner.message_hub.update_scalar('train/amp_overflows', self._overflows)
        return new

    def after_train(self, runner: Runner) -> None:
        for handle in self._handles:
            handle.remove()
        self._count_overflows()
        dataset = runner.train_dataloader.dataset
        parts = [
            self._skipped and f'{self._skipped} iterations whose losses or gradients were not finite',
            self._overflows and f'{self._overflows} updates whose fp16 gradients overflowed',
        ]
        for one in leaves_of(dataset):
            if getattr(one, 'first_readable', None) is not None:
                parts.append(one.first_readable.summary())
        if any(parts):
            text = '; '.join(part for part in parts if part)
            print_log(f'Training has skipped {text}', logger='current', level=logging.WARNING)


def _loss_faults(passes: Sequence[dict[str, Tensor]]) -> str:
    for losses in passes:
        values = {name: float(value) for name, value in losses.items()}
        total = values.pop('loss')
        bad = [f'{name} is {value}' for name, value in values.items() if not math.isfinite(value)]
        fine = [f'{name} {value:.4g}' for name, value in values.items() if math.isfinite(value)]
        if bad or not math.isfinite(total):
            return f'{", ".join(bad) or f"the sum of the losses is {total}"} (finite: {", ".join(fine) or "none"})'
    return ''


def _without_gradient(outputs: dict, model: nn.Module) -> dict:
    """The same losses with gradients of 0. DistributedDataParallel waits for a gradient of every parameter."""
    zero = sum((p * 0).sum() for p in model.parameters() if p.requires_grad)
    outputs = dict(outputs)
    for name in [name for name in outputs if 'loss' in name]:
        value = outputs[name]
        outputs[name] = value.detach() + zero if isinstance(value, Tensor) else [part.detach() + zero for part in value]
    return outputs


def _image_paths(batch) -> list[str]:
    """Paths of the images of a batch, each once. Empty with ``yolov5_collate`` of MMYOLO, which keeps no paths."""
    if isinstance(batch, dict) and not isinstance(batch.get('img_path'), str):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return list(dict.fromkeys(path for item in batch for path in _image_paths(item)))
    path = batch['img_path'] if isinstance(batch, dict) else getattr(batch, 'img_path', None)
    return [path] if path else []
