"""A hook that measures a training. It imports only MMEngine, so that any training can have it by `custom_imports`."""

import json
import time
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ClockHook(Hook):
    """Ends a training after ``iterations``, and writes to ``file`` when each of them ended, in seconds.

    It also writes how long each iteration waited for its batch. This needs an IterTimerHook.
    """

    priority = 'LOWEST'

    def __init__(self, file: str, iterations: int):
        self.file, self.iterations = Path(file), iterations
        self.ends: list[float] = []
        self.waits: list[float] = []

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        self.ends.append(time.perf_counter())
        self.waits.append(float(runner.message_hub.get_scalar('train/data_time').current()))
        if len(self.ends) == self.iterations:
            self.file.write_text(json.dumps(dict(ends=self.ends, waits=self.waits)))
            raise SystemExit
