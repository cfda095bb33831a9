"""ChannelsLastHook: a faster memory format for convolutions."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmyolo.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Gives the weights of a model the memory format ``torch.channels_last``.

    A convolution gives its output the format of its weights, so the whole model then computes in this format. Results
    change only by rounding, and checkpoints fit models of both formats. A model in a wrapper, as with several
    processes, keeps its format, because DistributedDataParallel has already taken it for the gradients.
    ``SemiYOLODetector`` has an option of its own.
    """

    priority = 'VERY_HIGH'  # EMAHook copies the model later

    def before_run(self, runner: Runner) -> None:
        if not is_model_wrapper(runner.model):
            runner.model.to(memory_format=torch.channels_last)
