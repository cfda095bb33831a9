"""WarmupLR: the rise of the learning rate at the start of training."""

from mmengine.optim import LinearLR
from mmyolo.registry import PARAM_SCHEDULERS

from mmyolo_bgpenalty.engine.schedule import iterations_of


@PARAM_SCHEDULERS.register_module()
class WarmupLR(LinearLR):
    """LinearLR of MMEngine that rises over a share of the run. A longer or shorter run scales it.

    Write ``by_epoch=False``. Then the Runner gives the scheduler the iterations of the run as ``end``.

    Args:
        length: iterations of the rise, or below 1 a share of the run, see ``iterations_of``. At least two iterations,
            because the first one has ``start_factor`` and the last one the full learning rate.
        end: iterations of the run.
        **kwargs: arguments of LinearLR, such as ``start_factor``.

    Raises:
        ValueError: ``length`` is out of range, or ``by_epoch`` is not False.
    """

    def __init__(self, optimizer, length: float, end: int, begin: int = 0, by_epoch: bool = True, **kwargs):
        if by_epoch:
            raise ValueError(f'Expected `by_epoch` of WarmupLR to be False, but got {by_epoch!r}')
        end = begin + max(2, iterations_of('length', length, end))
        super().__init__(optimizer, begin=begin, end=end, by_epoch=False, **kwargs)
