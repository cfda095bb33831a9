"""How the command-line tools begin, with a config, and end: with 0, or 2 and one line on what their input lacked."""

import os
import sys
from typing import Callable, Mapping, Optional


def run(main: Callable[[], Optional[int]]) -> int:
    """The exit code of ``main``. ValueError, OSError and ImportError become one line on stderr and 2."""
    try:
        return main() or 0
    except (ValueError, OSError, ImportError) as error:
        line = ' '.join(str(error).split())
        print(f'{os.path.basename(sys.argv[0])}: {line}', file=sys.stderr)
        return 2


def read_config(file: str, options: Mapping):
    """A config with ``--cfg-options`` merged, as mmengine's Config.

    Raises:
        ValueError: an override that would change nothing.
        FileNotFoundError: no such config.
    """
    from mmengine.config import Config

    from .hooks import LIVE_NAMES
    from .overrides import check_overrides

    cfg = Config.fromfile(file)
    check_overrides(cfg.to_dict(), options, LIVE_NAMES - {'launcher'})
    cfg.merge_from_dict(dict(options))
    return cfg
