"""CompileHook: torch.compile of the backbones and necks."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import nn

from mmyolo_bgpenalty.utils.distributed import unwrapped


@HOOKS.register_module()
class CompileHook(Hook):
    """Has torch compile the backbone and neck of each detector in the model, student and teacher.

    The first steps (and the first validation) take a minute or more in which nothing is logged; on a CPU torch needs a
    C++ compiler. Heads and losses are left as they are, since their shapes follow the number of objects. Weights,
    checkpoints and their names are unchanged, and the values equal to rounding.

    Args:
        **options: torch.compile's, as ``backend``, ``mode`` and ``dynamic``.

    Raises:
        ValueError: the model has no backbone to compile, or torch (before 2.2) cannot compile in place.
    """

    def __init__(self, **options):
        self.options = options

    def before_train(self, runner: Runner) -> None:
        detectors = [module for module in runner.model.modules() if hasattr(module, 'backbone')]
        if not detectors or not hasattr(nn.Module, 'compile'):
            got = f'torch {torch.__version__}' if detectors else type(unwrapped(runner.model)).__name__
            raise ValueError(f'CompileHook expects torch >= 2.2 and a model with a backbone, but got {got}')
        for detector in detectors:
            for part in (detector.backbone, getattr(detector, 'neck', None)):
                if part is not None:
                    part.compile(**self.options)
