"""What the commands share: how they read a config, build a Runner, and report a mistake in their input."""

import argparse
import functools
import io
import os
import sys
import traceback
import warnings
from typing import Callable, Mapping, Sequence

from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmyolo_bgpenalty.config_check.overrides import LIVE_NAMES, check_overrides

# Code of other packages counts as the user's own.
LIBRARIES = {'mmyolo_bgpenalty', 'mmengine', 'mmcv', 'mmdet', 'mmyolo', 'torch', 'numpy', 'yaml'}
LIBRARIES |= sys.stdlib_module_names


class InputError(ValueError):
    """The user's input is wrong: an argument, a config or a file. The message is for the user."""


def command(main: Callable) -> Callable[[Sequence[str] | None], int]:
    """Make a function of the command-line arguments a command.

    The command returns the exit code: that of ``main``, or 0 if ``main`` returns None. An InputError becomes one line
    on stderr and exit code 2. Every other exception passes through.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # The terminal's encoding may lack λ, or a character of a file's name.
                stream.reconfigure(errors='backslashreplace')
        try:
            return main(argv) or 0
        except InputError as error:
            print(f'{os.path.basename(sys.argv[0])}: {error}', file=sys.stderr)
            return 2

    return guarded


class InputCheck(Hook):
    """In the block of ``with InputCheck()``, a ValueError, OSError or ImportError becomes an InputError.

    The error keeps its traceback where the user's own code takes part. Registered as a hook, the check also ends when
    the Runner has built everything and starts to train or to test.
    """

    priority = 'LOWEST'

    def __init__(self):
        self.over = False

    def before_train(self, runner) -> None:
        self.over = True

    def before_test(self, runner) -> None:
        self.over = True

    def __enter__(self) -> 'InputCheck':
        return self

    def __exit__(self, kind, error, tb) -> None:
        if isinstance(error, (ValueError, OSError, ImportError)) and not isinstance(error, InputError):
            if not self.over and not in_users_code(error):
                raise InputError(_line(error)) from error


def in_users_code(error: BaseException | None) -> bool:
    """Whether code of neither this package nor its libraries takes part in an error, or in one that led to it.

    The function that catches the error does not count.
    """
    while error is not None:
        # A config file's code has no module name.
        names = [frame.f_globals.get('__name__', '') for frame, _ in traceback.walk_tb(error.__traceback__)]
        if any(name.partition('.')[0] not in LIBRARIES for name in names[1:]):
            return True
        error = error.__cause__ or error.__context__
    return False


def _line(error: Exception) -> str:
    """The message, with type and place where another package than this one raised the error."""
    message = str(error).strip() or type(error).__name__
    frame, number = list(traceback.walk_tb(error.__traceback__))[-1]
    if isinstance(error, OSError) or frame.f_globals.get('__name__', '').startswith('mmyolo_bgpenalty.'):
        return message
    return f'{type(error).__name__}: {" ".join(message.split())} ({frame.f_code.co_filename}:{number})'


def config_parser(description: str | None, config: str = 'config file') -> argparse.ArgumentParser:
    """A parser with the arguments ``config`` and ``--cfg-options``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help=config)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Overrides,
        default={},
        metavar='NAME=VALUE',
        help='override settings: lambda_bg=1.5 burn_in=3 train_cfg.max_epochs=40',
    )
    return parser


class _Overrides(DictAction):
    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                raise InputError(f'Expected --cfg-options to be like lambda_bg=1.5, but got {value!r}')
        super().__call__(parser, namespace, values, option_string)


def read_config(file: str, options: Mapping) -> Config:
    """A config with ``--cfg-options`` merged.

    Raises:
        ValueError: the config or one that it builds on cannot be read, or an override would change nothing. The message
            names it.
        Exception: whatever the config's own code raises.
    """
    try:
        cfg = Config.fromfile(file)
    except SyntaxError as error:
        raise InputError(f'{_broken_file(error) or file}, line {error.lineno}: {error.msg}') from None
    except Exception as error:  # MMEngine lets pass whatever its parsers raise
        if in_users_code(error):
            raise
        raise InputError(_why_unreadable(file, error)) from error
    check_overrides(cfg.to_dict(), options, LIVE_NAMES - {'launcher'})
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f'--cfg-options {" ".join(options)}: {error.args[0]}') from error
    return cfg


def _broken_file(error: SyntaxError) -> str | None:
    """The file with the syntax error. MMEngine parses a config's text without its name."""
    if error.filename != '<unknown>':
        return error.filename
    local = [frame.f_locals.get('filename') for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [os.path.normpath(name) for name in local if isinstance(name, str) and os.path.isfile(name)]
    return files[-1] if files else None


def _why_unreadable(file: str, error: BaseException) -> str:
    if isinstance(error, OSError):
        return f'{os.path.normpath(error.filename or file)}: {error.strerror or error}'
    if isinstance(error, ImportError):
        while error.__context__ is not None:
            error = error.__context__
        return f'{file}: {error}. Is the folder of the modules in `custom_imports` on PYTHONPATH?'
    return f'{file}: {type(error).__name__}: {" ".join(str(error).split())}'


def build_runner(cfg: Config) -> Runner:
    """The config's Runner."""
    # The configs pin memory, as MMDetection's do. torch warns of it on a machine without a GPU, where it does nothing.
    warnings.filterwarnings('ignore', "'pin_memory' argument is set as true but no accelerator is found")
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def work_dir_of(args: argparse.Namespace, cfg: Config) -> str:
    """As MMDetection chooses it: of the command line, the config, or by the config's name."""
    name = os.path.splitext(os.path.basename(args.config))[0]
    return args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', name)
