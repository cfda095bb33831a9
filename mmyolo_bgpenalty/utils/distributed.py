"""Several processes: how they meet where there is no GPU, sums over them, and the model inside its wrapper."""

import gc
from datetime import timedelta
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.model import is_model_wrapper
from torch import Tensor, nn


def meet_on_cpu(cfg) -> None:
    """Have the processes that torchrun started meet by gloo, and the model made for several processes of a CPU.

    MMEngine's own start asks torch for a GPU whatever the backend, and hands one to the wrapper; MMYOLO's detectors
    convert BN to SyncBN, which torch has for GPUs alone. The ``timeout`` of ``env_cfg.dist_cfg``, in seconds, holds as
    it does with GPUs.

    Args:
        cfg: mmengine's Config; its ``model_wrapper_cfg`` is set, and ``use_syncbn`` of a YOLODetector.

    Raises:
        ValueError: ``sync_bn``.
    """
    if cfg.get('sync_bn'):
        raise ValueError(f'Expected no `sync_bn` on a CPU, where torch has no SyncBatchNorm, but got {cfg.sync_bn!r}')
    detector = cfg.model.get('detector', cfg.model)
    if str(detector.get('type')).endswith('YOLODetector'):
        detector.use_syncbn = False
    timeout = ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout')
    torch.distributed.init_process_group('gloo', timeout=None if timeout is None else timedelta(seconds=timeout))
    # What MMEngine makes of no config, with its device left out.
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = dict(cfg.get('model_wrapper_cfg') or wrapper, device_ids=None)


def leave() -> None:
    """Part from the other processes. At the interpreter's end gloo's threads may abort a process that has finished."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # DistributedDataParallel holds the group, and lies in circles of references
        torch.distributed.destroy_process_group()


def sum_over_processes(values: Tensor) -> Tensor:
    """A new tensor; every process must call this as often as the others."""
    values = values.clone()
    all_reduce(values)
    return values


def unwrapped(model: nn.Module) -> Any:
    """The model itself, of whatever type its config names."""
    return model.module if is_model_wrapper(model) else model
