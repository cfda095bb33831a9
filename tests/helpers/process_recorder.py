"""A hook that records what each process of a real run does, for tests/utils/test_distributed.py.

The run trains in fp64, so that the order of a sum hardly matters. It evaluates in fp32, which MMCV's operators need.
"""

import atexit
import hashlib
import json
import os
import signal
from pathlib import Path

import mmengine
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmyolo.registry import HOOKS

torch.set_default_dtype(torch.float64)
# As in conftest.py: formatting the text of the config takes seconds.
mmengine.config.config.FormatCode = lambda text, **kwargs: (text, False)


def digest(module) -> str:
    """Hash every bit of the state."""
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def note_end(file: Path) -> None:
    """Write down whether the process is still connected when the interpreter ends."""
    file.write_text(str(torch.distributed.is_initialized()))


@HOOKS.register_module()
class ProcessRecorder(Hook):
    """Writes rows to ``folder/<rank>.jsonl``, and the model's state before validation to ``folder/<rank>.pth``.

    Args:
        end: how process 1 fails after two epochs: 'raises', 'killed' or 'stopped' (SIGSTOP). With None it goes on.
    """

    priority = 'VERY_LOW'

    def __init__(self, folder: str, end=None):
        self.folder, self.end = Path(folder), end

    def write(self, **row):
        with open(self.folder / f'{get_rank()}.jsonl', 'a') as file:
            file.write(json.dumps(row) + '\n')

    def before_run(self, runner):
        for module in runner.model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    module._buffers[name] = buffer.double()

    def before_train(self, runner):
        self.model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        atexit.register(note_end, self.folder / f'{get_rank()}.end')
        sets = runner.train_dataloader.dataset.datasets
        self.write(
            pid=os.getpid(), sets=[[data.get_data_info(i)['img_path'] for i in range(len(data))] for data in sets]
        )

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model, samples, scalars = self.model, data_batch['data_samples'], runner.message_hub.log_scalars
        branches = {name: [sample.img_path for sample in found if sample] for name, found in samples.items()}
        thresholds = getattr(model.class_thresholds, 'current', None)
        quality = [scalars.get(f'train/semi/pseudo_{name}') for name in ('precision', 'recall')]
        self.write(
            iteration=runner.iter,
            lambda_bg=model.student.bbox_head.lambda_bg,
            ramp=model.unsup_ramp,
            student=digest(model.student),
            teacher=digest(model.teacher),
            labeled=branches['sup'],
            unlabeled=branches.get('unsup_student', []),
            outputs={name: float(value) for name, value in outputs.items()},
            thresholds=None if thresholds is None else thresholds.tolist(),
            quality=[None if value is None else value.current() for value in quality],
        )

    def after_train_epoch(self, runner):
        if self.end and get_rank() == 1 and runner.epoch == 1:
            if self.end == 'raises':
                raise RuntimeError('process 1 dies here')
            os.kill(os.getpid(), signal.SIGKILL if self.end == 'killed' else signal.SIGSTOP)

    def before_val(self, runner):
        torch.save(self.model.state_dict(), self.folder / f'{get_rank()}.pth')
        torch.set_default_dtype(torch.float32)
        self.model.float()

    def after_val_epoch(self, runner, metrics=None):
        self.write(metrics=metrics)
