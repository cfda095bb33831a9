"""The checks of a config when training starts."""

import logging
import os

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmyolo.registry import HOOKS

from mmyolo_bgpenalty.config_check.check import check_at_start
from mmyolo_bgpenalty.config_check.overrides import LIVE_NAMES, check_overrides, misspelt_setting
from mmyolo_bgpenalty.engine.settings import SETTINGS


@HOOKS.register_module()
class ConfigCheckHook(Hook):
    """Checks the config and the training sets before training, see ``check_at_start``.

    Raises:
        ValueError: an error was found, or a setting was misspelt.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        _check_dead_names(runner.cfg)

    def before_train(self, runner: Runner) -> None:
        check_at_start(runner)


def _check_dead_names(cfg) -> None:
    """Look for names at the top level that were added or changed since the config was read, and that nothing reads.

    A name that looks like a misspelt setting is refused. The others get a warning, as tools add names of their own.
    """
    filename = getattr(cfg, 'filename', None)
    if not filename or not os.path.isfile(filename):
        return
    read, now = Config.fromfile(filename).to_dict(), cfg.to_dict()
    for name in now:
        if name not in SETTINGS and (name not in read or now[name] != read[name]):
            try:
                check_overrides(read, [name], LIVE_NAMES)
            except ValueError as error:
                if misspelt_setting(name):
                    raise
                print_log(str(error), logger='current', level=logging.WARNING)
