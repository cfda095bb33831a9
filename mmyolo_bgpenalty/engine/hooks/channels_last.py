"""ChannelsLastHook: a faster memory format for convolutions."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmyolo.registry import HOOKS

from mmyolo_bgpenalty.engine.fused_adamw import lay_out_moments


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Gives the weights of a model the memory format ``torch.channels_last``.

    A convolution gives its output the format of its weights, so the whole model then computes in this format. Results
    change only by rounding, and checkpoints fit models of both formats. A model in a wrapper, as with several
    processes, keeps its format, because DistributedDataParallel has already laid out its gradient buckets in it.
    ``SemiYOLODetector`` has an option of its own.

    The moments of the optimizer, which may come from a checkpoint of the other format, get the format of their weights.
    Fused optimizers on a CPU read both as flat memory.
    """

    priority = 'VERY_HIGH'  # EMAHook copies the model later

    def before_run(self, runner: Runner) -> None:
        if not is_model_wrapper(runner.model):
            runner.model.to(memory_format=torch.channels_last)

    def before_train(self, runner: Runner) -> None:
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)  # a dict of wrappers has none
        if optimizer:
            lay_out_moments(optimizer)
