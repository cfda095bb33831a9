"""How the command-line tools begin, with a config, and end: with 0, or 2 and one line on what their input lacked."""

import io
import os
import sys
from typing import Callable, Mapping, Optional


def run(main: Callable[[], Optional[int]]) -> int:
    """The exit code of ``main``. ValueError, OSError and ImportError become one line on stderr and 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # or a λ or a file's name that the terminal has not would end the tool
            stream.reconfigure(errors='backslashreplace')
    try:
        return main() or 0
    except (ValueError, OSError, ImportError) as error:
        line = ' '.join(str(error).split()) or type(error).__name__
        print(f'{os.path.basename(sys.argv[0])}: {line}', file=sys.stderr)
        return 2


def read_config(file: str, options: Mapping):
    """A config with ``--cfg-options`` merged, as mmengine's Config.

    Raises:
        ValueError: an override that would change nothing, or a config that cannot be read; the message names it.
        OSError: no such config, or none that it builds on.
    """
    from mmengine.config import Config

    from mmyolo_bgpenalty.config_check.overrides import LIVE_NAMES, check_overrides

    try:
        cfg = Config.fromfile(file)
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:  # a config is code, and may fail in any way
        raise ValueError(f'{file}: {type(error).__name__}: {error}') from error
    check_overrides(cfg.to_dict(), options, LIVE_NAMES - {'launcher'})
    cfg.merge_from_dict(dict(options))
    return cfg
