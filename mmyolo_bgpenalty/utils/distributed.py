"""Processes that train together, and the wrapper of their models."""

import gc
from datetime import timedelta
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.model import is_model_wrapper
from torch import Tensor, nn


def init_cpu_processes(cfg) -> None:
    """Connect the processes of torchrun through gloo, and change a config so that it trains on CPUs.

    MMEngine would select a GPU for each process and for the model wrapper. MMYOLO's detectors would convert batch
    normalization to SyncBatchNorm, which torch has only for GPUs.

    Args:
        cfg: mmengine's Config. ``model_wrapper_cfg`` and ``use_syncbn`` of a YOLODetector are set. The timeout is
            ``env_cfg.dist_cfg.timeout`` in seconds.

    Raises:
        ValueError: ``sync_bn`` is set.
    """
    if cfg.get('sync_bn'):
        raise ValueError(f'Expected no `sync_bn` on a CPU, where torch has no SyncBatchNorm, but got {cfg.sync_bn!r}')
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
    """Disconnect from the other processes. Otherwise gloo's threads may abort a process that has finished."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # DistributedDataParallel holds the group and lies in a reference cycle
        torch.distributed.destroy_process_group()


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum, as a new tensor. All processes must call this together."""
    values = values.clone()
    all_reduce(values)
    return values


def unwrapped(model: nn.Module) -> Any:
    """The model without MMEngine's wrapper."""
    return model.module if is_model_wrapper(model) else model
