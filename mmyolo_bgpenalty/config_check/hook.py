"""ConfigCheckHook: the checks of a config when training starts."""

import logging
import os
from collections.abc import Callable

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmyolo.registry import HOOKS

from mmyolo_bgpenalty.config_check.check import check_at_start
from mmyolo_bgpenalty.config_check.overrides import LIVE_NAMES, similar, why_dead
from mmyolo_bgpenalty.engine.settings import SETTINGS


@HOOKS.register_module()
class ConfigCheckHook(Hook):
    """Checks the config and the datasets before training, see ``check_at_start``.

    Only the main process checks. If it finds an error, all processes stop with this error.

    Raises:
        ValueError: an error was found, or a setting is misspelt.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        _on_main_process(_check_dead_names, runner.cfg)

    def before_train(self, runner: Runner) -> None:
        _on_main_process(check_at_start, runner)


def _on_main_process(check: Callable, subject) -> None:
    failure: list[Exception | None] = [None]
    if is_main_process():
        try:
            check(subject)
        except Exception as error:  # of any kind, since the other processes wait for the result
            failure = [error]
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]


def _check_dead_names(cfg: Config) -> None:
    """Find top-level names that were added or changed after the config was read, but that nothing reads.

    A name that looks like a setting is an error. Other names are warnings, because tools add their own names.
    """
    filename = getattr(cfg, 'filename', None)
    if not filename or not os.path.isfile(filename):
        return
    read, now = Config.fromfile(filename).to_dict(), cfg.to_dict()
    for name in now:
        if name not in LIVE_NAMES and (name not in read or now[name] != read[name]):
            problem = why_dead(read, name)
            if similar(name, SETTINGS):
                raise ValueError(problem)
            print_log(problem, logger='current', level=logging.WARNING)
