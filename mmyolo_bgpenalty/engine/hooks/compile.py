"""CompileHook: torch.compile for backbones and necks."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import nn

from mmyolo_bgpenalty.utils.distributed import unwrapped


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the backbone and the neck of each detector in the model, student and teacher.

    Heads and losses are not compiled: their shapes depend on the number of objects. MMEngine's own ``compile=``
    compiles the whole ``train_step``, which fails in the first iteration (torch 2.13).

    The first training step and the first validation take a minute or more, and nothing is logged meanwhile. A CPU needs
    a C++ compiler. Results change only by rounding. Checkpoints stay the same.

    Args:
        **options: options of torch.compile, such as ``backend``, ``mode`` and ``dynamic``.

    Raises:
        ValueError: the model has no backbone, or torch is older than 2.2.
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
