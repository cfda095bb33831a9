"""Training in bf16 on a CPU that has instructions for it."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CpuBf16OptimWrapper(OptimWrapper):
    """OptimWrapper whose forward passes are in bf16 where torch.autocast holds that to be safe, on a CPU.

    AmpOptimWrapper does so on GPUs and refuses to be built without one. Weights, gradients, optimizer, the losses'
    arithmetic and validation stay in fp32; bf16 has fp32's range, so no loss is scaled. Where the processor has
    instructions for bf16 (``avx512_bf16`` or ``amx_bf16`` among the flags of ``lscpu``) convolutions take about half
    the time; where it has not, it is slower than fp32.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
