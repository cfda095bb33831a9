"""Helpers for distributed training."""

import gc
from datetime import timedelta
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.model import is_model_wrapper
from torch import Tensor, nn


def init_cpu_processes(cfg) -> None:
    """Connect the processes of torchrun through gloo, and change a config so that it trains on CPUs.

    Otherwise MMEngine would select a GPU for each process and for the model wrapper, and MMYOLO's detectors would use
    SyncBatchNorm, which needs GPUs.

    Args:
        cfg: MMEngine's Config. This function sets ``model_wrapper_cfg``, and ``use_syncbn`` of a YOLODetector. It reads
            the timeout in seconds from ``env_cfg.dist_cfg.timeout``.

    Raises:
        ValueError: ``sync_bn`` is set.
    """
    if cfg.get('sync_bn'):
        raise ValueError(f'Expected no `sync_bn` on a CPU, because SyncBatchNorm needs GPUs, but got {cfg.sync_bn!r}')
    detector = cfg.model.get('detector', cfg.model)
    if str(detector.get('type')).endswith('YOLODetector'):
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
