"""Mixed precision on a CPU, which MMEngine's AmpOptimWrapper refuses."""

from contextlib import contextmanager

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(AmpOptimWrapper):
    """AmpOptimWrapper with torch's autocast for the CPU. It takes both types, fp16 and bf16."""

    def __init__(self, dtype, init_scale=2.0**16, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self.cast_dtype = getattr(torch, dtype)
        self.loss_scaler, self._scale_update_param = torch.amp.GradScaler('cpu', init_scale), None

    @contextmanager
    def optim_context(self, model):
        with OptimWrapper.optim_context(self, model), torch.autocast('cpu', self.cast_dtype):
            yield
