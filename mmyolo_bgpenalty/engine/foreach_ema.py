"""ForeachEMA: MMYOLO's exponential moving average with one call for all tensors."""

import torch
from mmyolo.models.layers import ExpMomentumEMA
from mmyolo.registry import MODELS
from torch import Tensor, nn

from mmyolo_bgpenalty.engine.schedule import ema_momentum


@MODELS.register_module()
class ForeachEMA(ExpMomentumEMA):
    """ExpMomentumEMA that averages by one ``torch._foreach_lerp_``. The values are the same, bit for bit.

    This is for ``update_buffers=True`` and weights that are not shared. Otherwise it is ExpMomentumEMA.
    """

    _pairs: tuple[list[Tensor], list[Tensor]] | None = None  # the averages, and what they average
    _shared = False  # whether a tensor has several names

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the averages of the floating-point parameters and buffers after a training step."""
        if self._pairs is None:  # the tensors stay: weights are loaded and swapped in place
            names = [name for name, tensor in self.avg_parameters.items() if tensor.is_floating_point()]
            self._pairs = [self.avg_parameters[name] for name in names], [self.src_parameters[name] for name in names]
            self._shared = len({tensor.data_ptr() for tensor in self._pairs[0]}) < len(names)
        if self._shared or not self.update_buffers or self.steps == 0 or self.steps % self.interval:
            return super().update_parameters(model)
        torch._foreach_lerp_(*self._pairs, ema_momentum(float(1 + self.steps), self.momentum, self.gamma))
        self.steps += 1
        return None
