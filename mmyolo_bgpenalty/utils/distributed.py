"""Helpers for distributed training."""

import gc
from datetime import timedelta
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce as all_reduce_with_gradient


def init_cpu_processes(cfg) -> bool:
    """Connect the processes of torchrun through gloo, and change a config so that it trains on CPUs.

    Otherwise MMEngine would select a GPU for each process and for the model wrapper, and MMYOLO's detectors would use
    torch's SyncBatchNorm, which needs GPUs.

    Args:
        cfg: MMEngine's Config. This function sets ``model_wrapper_cfg``, removes ``sync_bn``, and sets ``use_syncbn``
            of a YOLODetector. It reads the timeout in seconds from ``env_cfg.dist_cfg.timeout``.

    Returns:
        Whether the config asks for synchronized batch normalization: see :func:`sync_batch_norm_on_cpu`.

    Raises:
        ValueError: ``sync_bn`` is set, but not to 'torch'. 'mmcv' needs GPUs.
    """
    sync_bn = cfg.pop('sync_bn', None)
    if sync_bn not in (None, 'torch'):
        raise ValueError(f"Expected `sync_bn` to be 'torch' on a CPU, but got {sync_bn!r}")
    detector = cfg.model.get('detector', cfg.model)
    if str(detector.get('type')).endswith('YOLODetector'):
        sync_bn = sync_bn or detector.get('use_syncbn', True)  # True is MMYOLO's default
        detector.use_syncbn = False
    timeout = ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout')
    torch.distributed.init_process_group('gloo', timeout=None if timeout is None else timedelta(seconds=timeout))
    # MMEngine's defaults, without a device.
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = dict(cfg.get('model_wrapper_cfg') or wrapper, device_ids=None)
    return bool(sync_bn)


class CpuSyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalization with mean and variance of the batches of all processes, as torch's SyncBatchNorm on GPUs.

    For the n values x of a channel in all processes, mean = Σx / n and var = Σ(x − mean)² / n. ``running_var`` follows
    var · n / (n − 1). All processes must call their layers in the same order. A layer needs ``momentum`` and running
    statistics, as all detectors have.
    """

    momentum: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and torch.distributed.is_initialized()):
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32)).transpose(0, 1).flatten(1)  # a row a channel
        total = all_reduce_with_gradient(torch.cat([x.sum(1), x.new_tensor([x.shape[1]])]))
        mean, number = total[:-1] / total[-1], total[-1].detach()
        x = x - mean[:, None]
        var = all_reduce_with_gradient(x.square().sum(1)) / number
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((var * number / (number - 1)).to(self.running_var), self.momentum)
        x = x * (self.weight * (var + self.eps).rsqrt())[:, None] + self.bias[:, None]
        return x.unflatten(1, (input.shape[0], *input.shape[2:])).transpose(0, 1).to(input.dtype)


def sync_batch_norm_on_cpu(model: nn.Module) -> None:
    """Turn batch normalization layers into :class:`CpuSyncBatchNorm`. Call it after DDP is made: DDP refuses these."""
    for layer in model.modules():
        if type(layer) in (nn.BatchNorm2d, nn.SyncBatchNorm):
            layer.__class__ = CpuSyncBatchNorm


def destroy_processes() -> None:
    """Disconnect from the other processes. Otherwise gloo's threads may abort this process after training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # frees DistributedDataParallel, which holds the process group in a reference cycle
        torch.distributed.destroy_process_group()


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, as a new tensor. Every process must call this function."""
    values = values.clone()
    all_reduce(values)
    return values


def unwrapped(model: nn.Module) -> Any:
    """The model without MMEngine's wrapper."""
    return model.module if is_model_wrapper(model) else model
