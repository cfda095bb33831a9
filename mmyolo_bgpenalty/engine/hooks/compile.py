"""CompileHook: torch.compile for backbones and necks."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmyolo.registry import HOOKS

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
        ValueError: the model has no backbone.
    """

    def __init__(self, **options):
        self.options = options

    def before_train(self, runner: Runner) -> None:
        detectors = [module for module in runner.model.modules() if hasattr(module, 'backbone')]
        if not detectors:
            got = type(unwrapped(runner.model)).__name__
            raise ValueError(f'CompileHook expects a model with a backbone, but got {got}')
        for detector in detectors:
            for part in (detector.backbone, getattr(detector, 'neck', None)):
                if part is not None:
                    part.compile(**self.options)
