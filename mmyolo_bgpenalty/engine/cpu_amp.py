"""Training in bf16 on a CPU that has instructions for it."""

from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CpuBf16OptimWrapper(OptimWrapper):
    """An OptimWrapper that runs forward passes in bf16 on a CPU. torch.autocast chooses the operations.

    MMEngine's AmpOptimWrapper needs a GPU. Weights, gradients, optimizer, losses and validation stay in fp32. Losses
    are not scaled, since bf16 has the range of fp32. It is for processors for which ``computes_in_bf16``
    is True. On others bf16 is slower.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


def computes_in_bf16(cpuinfo: Path = Path('/proc/cpuinfo')) -> bool:
    """Whether the processor has instructions for bf16. False where the system does not tell (not Linux, not x86)."""
    try:
        flags = cpuinfo.read_text(encoding='utf-8').split()
    except OSError:
        return False
    return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(flags)
