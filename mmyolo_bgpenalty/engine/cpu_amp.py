"""Training in bf16 on a CPU that has instructions for it."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CpuBf16OptimWrapper(OptimWrapper):
    """An OptimWrapper that runs forward passes in bf16 on a CPU. torch.autocast chooses the operations.

    MMEngine's AmpOptimWrapper needs a GPU. Weights, gradients, optimizer, losses and validation stay in fp32. Losses
    are not scaled, since bf16 has the range of fp32. If the processor has instructions for bf16 (``avx512_bf16`` or
    ``amx_bf16`` among the flags of ``lscpu``), convolutions take about half the time. Otherwise bf16 is slower.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
