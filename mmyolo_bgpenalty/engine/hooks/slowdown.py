"""SlowdownHook: says why a run has become slow."""

import logging
import statistics
import time

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmyolo.registry import HOOKS

from mmyolo_bgpenalty.utils.arguments import non_negative
from mmyolo_bgpenalty.utils.threads import cores_of_others, cpu_time, number_of_cores

WINDOW = 20  # iterations
FIRST = 10  # iterations that are not counted: caches are filled, and kernels are chosen
LEAST = 5.0  # seconds that a window must take


@HOOKS.register_module()
class SlowdownHook(Hook):
    """Warns once if iterations take many times as long as at the start, and says why.

    The time of an iteration includes the time that it waits for its images, and no validation. The start is the median
    of iterations 11 to 30, without and with unlabeled images. Each later window of 20 iterations is compared by its
    median.

    Args:
        times: the warning comes if a window takes at least ``times`` times as long as the start, and 5 s. > 1.

    Raises:
        ValueError: ``times`` is out of range.
    """

    priority = 'VERY_LOW'

    def __init__(self, times: float = 4.0):
        if not non_negative('times', times) > 1:
            raise ValueError(f'Expected `times` to be > 1, but got {times!r}')
        self.times = times
        self._start: dict[bool, float] = {}  # seconds of an iteration, without and with unlabeled images
        self._window: list[tuple[float, float]] = []  # for each iteration: seconds, and those of waiting for images
        self._done = 0  # iterations of this kind
        self._unlabeled = self._warned = False
        self._last = self._read = 0.0
        self._cpu = cpu_time()

    def before_train_epoch(self, runner: Runner) -> None:
        self._last = time.perf_counter()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._last = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._read = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        now = time.perf_counter()
        seconds, waited, self._last = now - self._last, self._read - self._last, now
        unlabeled = any(name.startswith('unsup') for name in outputs or ())
        if unlabeled != self._unlabeled:
            self._unlabeled, self._window, self._done = unlabeled, [], 0
        self._done += 1
        if self._warned or self._done <= FIRST:
            return
        self._window.append((seconds, waited))
        if len(self._window) == WINDOW:
            self._compare()

    def _compare(self) -> None:
        window, self._window = self._window, []
        before, self._cpu = self._cpu, cpu_time()
        median, total = statistics.median(seconds for seconds, _ in window), sum(seconds for seconds, _ in window)
        start = self._start.setdefault(self._unlabeled, max(median, 1e-3))
        if median >= self.times * start and total >= LEAST:
            self._warned = True
            waiting = sum(waited for _, waited in window) / total
            # The other processes of this training are no other programs.
            others = cores_of_others(before, self._cpu) if get_world_size() == 1 else None
            why = reason(waiting, others, number_of_cores(), torch.get_num_threads())
            text = f'An iteration takes {median:.2g} s, {median / start:.0f} times as long as at the start. {why}'
            print_log(text, logger='current', level=logging.WARNING)


def reason(waiting: float, others: float | None, number: int, threads: int) -> str:
    """Why iterations are slow, and what helps.

    Args:
        waiting: share of the time in which an iteration waits for its images, in [0, 1].
        others: cores that other programs use. None: not known.
        number: cores that this process may run on.
        threads: of torch in this process.
    """
    if waiting > 0.5:
        return (
            f'{waiting:.0%} of the time it waits for images: more `train_dataloader.num_workers`, a faster disk or '
            'smaller images may help'
        )
    if others is not None and others > number / 4:
        what = ', or stop this run and start it with OMP_NUM_THREADS=1 and --resume' if threads > 1 else ''
        return f'Other programs use {others:.1f} of {number} cores: end them{what}'
    return (
        'No other program of this machine uses much of its cores. Is the memory full, or the processor or GPU too hot?'
    )
