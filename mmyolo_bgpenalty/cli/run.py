"""Shared by the commands: read a config, build a Runner, and report a mistake in the input in one line."""

import argparse
import functools
import io
import os
import os.path as osp
import re
import shlex
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import mmdet
import mmengine
import mmyolo
import torch
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.config_check.overrides import check_overrides
from mmyolo_bgpenalty.config_check.settings.culprit import explain, message_of
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError
from mmyolo_bgpenalty.engine.console import SPELLED, CommandRunner, quiet_libraries
from mmyolo_bgpenalty.utils.arguments import Parser, is_meant
from mmyolo_bgpenalty.utils.files import printable_lines, unlock_folders
from mmyolo_bgpenalty.utils.shipped_configs import config
from mmyolo_bgpenalty.utils.threads import free_cores

# The user's own code is neither in these folders nor in an installed package. MMDetection may be a checkout.
FOLDERS = (sysconfig.get_path('stdlib'), *(osp.dirname(one.__file__) for one in (mmcv, mmdet, mmengine, mmyolo)))
FOLDERS = tuple(f'{folder}{os.sep}' for folder in (*FOLDERS, Path(__file__).parents[1]))
INSTALLED = {'site-packages', 'dist-packages'}
CONFIG_HELP = 'config file, or name of a shipped config'


class InputError(ValueError):
    """A mistake in an argument, a config or a file of the user."""


def command(main: Callable) -> Callable[[Sequence[str] | None], int]:
    """Make ``main(argv)`` a command, which returns an exit code.

    The exit code is what ``main`` returns, or 0 for None. An InputError becomes one line on stderr and exit code 2.
    Other exceptions pass through. ``quiet_libraries`` hides warnings that a user can do nothing about. torch gets no
    more threads than other programs leave cores free, see ``free_cores``.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # The encoding of the terminal may lack λ, or a character of a file name.
                stream.reconfigure(errors=SPELLED)
        try:
            free = free_cores()
            if free is not None and free < torch.get_num_threads():
                torch.set_num_threads(free)
            with quiet_libraries():
                return main(argv) or 0
        except InputError as error:
            print(printable_lines(f'{os.path.basename(sys.argv[0])}: {error}'), file=sys.stderr)
            return 2
        finally:
            unlock_folders()

    return guarded


class InputCheck(Hook):
    """``with InputCheck():`` turns an error of the block into an InputError.

    Errors from the user's own code stay as they are. The check is also a hook of the Runner. After the first iteration
    of training or testing all errors stay as they are, because all settings have been used.

    Attributes:
        cfg: the config, once it has been read. With it, an error in a part names the setting.
    """

    priority = 'LOWEST'
    over = False
    cfg: Config | None = None

    def after_train_iter(self, *args, **kwargs) -> None:
        self.over = True

    def after_test_iter(self, *args, **kwargs) -> None:
        self.over = True

    def __enter__(self) -> 'InputCheck':
        return self

    def __exit__(self, kind, error, tb) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError):
            if not self.over and not in_users_code(error):
                raise InputError(lines_of(error, self.cfg)) from error


def in_users_code(error: BaseException | None) -> bool:
    """Whether the user's own code is in the traceback of this error or of an error that caused it.

    The function that catches the error does not count.
    """
    while error is not None:
        for frame, _ in [*traceback.walk_tb(error.__traceback__)][1:]:
            # The path of compiled and generated code is not that of its module.
            file = frame.f_globals.get('__file__') or frame.f_code.co_filename
            if not _is_of_library(file, frame.f_globals.get('__name__', '')):
                return True
        # The error of a worker process has the traceback as a text.
        files = re.findall(r'^  File "(.+?)", line', str(error), re.M) if 'Original Traceback' in str(error) else []
        if not all(map(_is_of_library, files)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_of_library(file: str, module: str = '') -> bool:
    """Whether code is not the user's own. The code of a config has no file, so it is the user's own."""
    standard = file.startswith('<frozen ') or module.partition('.')[0] in sys.stdlib_module_names
    return standard or file.startswith(FOLDERS) or bool(INSTALLED & set(Path(file).parts))


def lines_of(error: Exception, cfg: Config | None = None) -> str:
    """What is wrong: the mistakes that ``check`` finds in the settings, one a line, or else the error in one line."""
    frame, number = list(traceback.walk_tb(error.__traceback__))[-1]
    place, ours = f'({frame.f_code.co_filename}:{number})', 'mmyolo_bgpenalty.'
    complete = isinstance(error, (OSError, CheckpointError))  # these name their file
    if complete or frame.f_globals.get('__name__', '').startswith(f'{ours}config_check.'):
        return str(error).strip()
    if cfg is not None:
        errors = [str(finding) for finding in check_config(cfg, data=False) if finding.level == 'error']
        if errors:
            return '\n'.join(errors)
        line = explain(error, cfg.to_dict())
        if line != message_of(error):
            return line
    if isinstance(error, ValueError) and frame.f_globals.get('__name__', '').startswith(ours) and str(error).strip():
        return str(error).strip()
    return f'{message_of(error)} {place}'


def config_parser(description: str | None, what: str = CONFIG_HELP) -> argparse.ArgumentParser:
    """A parser with the arguments ``config`` and ``--cfg-options``. ``what`` is the help of ``config``."""
    parser = Parser(description)
    parser.add_argument('config', help=what)
    overrides = 'override settings: lambda_bg=1.5 burn_in=3 train_cfg.max_epochs=40'
    parser.add_argument('--cfg-options', nargs='+', action=_Overrides, default={}, metavar='NAME=VALUE', help=overrides)
    return parser


class _Overrides(DictAction):
    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                raise InputError(f'Expected --cfg-options to be like lambda_bg=1.5, but got {value!r}')
            if value.partition('=')[2].lstrip().startswith(('dict(', '{')):
                raise InputError(f'Expected a number, a text or a list, but got {value!r}: write a dict in a config')
            try:
                self._parse_iterable(value.partition('=')[2])
            except (RecursionError, AssertionError):  # of MMEngine's parser, at brackets
                raise InputError(f'Expected a number, a text or a list, but got {value!r}') from None
        namespace.cfg_texts = [*getattr(namespace, 'cfg_texts', ()), *values]  # as typed, to show them in a command
        super().__call__(parser, namespace, values, option_string)


def read_config(file: str, options: Mapping) -> Config:
    """Read a config and merge ``--cfg-options``. If there is no such file, it is the shipped config of this name.

    Raises:
        ValueError: a config file cannot be read, or an override would change nothing. The message names it.
        Exception: anything that the code in the config raises.
    """
    if not os.path.exists(file):
        try:
            file = config(file)
        except FileNotFoundError as error:
            raise InputError(f'{file}: no such file{is_meant(file) or f", and {error}"}') from None
    if os.path.isdir(file):
        project = os.path.join(file, f'{os.path.basename(os.path.abspath(file))}.py')  # as `init` makes it
        meant = f'; is {project} meant?' if os.path.isfile(project) else ''
        raise InputError(f'{file}: expected a config file, but this is a folder{meant}')
    try:
        cfg = Config.fromfile(file)
    except SyntaxError as error:
        raise InputError(f'{_broken_file(error) or file}, line {error.lineno}: {error.msg}') from None
    except Exception as error:  # the parsers of MMEngine raise errors of many types
        if in_users_code(error):
            raise
        raise InputError(_why_unreadable(file, error)) from error
    plain = cfg.to_dict()  # a config of the new style has classes as `type`; here they become dotted names
    if Config._is_lazy_import(file):
        cfg = Config(plain, cfg_text=cfg.text, filename=cfg.filename)
    check_overrides(plain, options)
    try:
        cfg.merge_from_dict({name: _replacing(plain, name, value) for name, value in options.items()})
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f'--cfg-options {" ".join(options)}: {error.args[0]}') from error
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if isinstance(loader, dict) and loader.get('num_workers') == 0:
            loader.update(persistent_workers=False)  # torch refuses True without workers
            loader.pop('prefetch_factor', None)
    return cfg


def _replacing(cfg: Mapping, name: str, value: Any) -> Any:
    """The value of an override. A dict with another ``type`` replaces the old part, and is not merged into it."""
    old: Any = cfg
    for key in name.split('.'):
        if not isinstance(old, Mapping) or key not in old:
            return value
        old = old[key]
    if not isinstance(value, Mapping):
        return value
    same = isinstance(old, Mapping) and value.get('type', old.get('type')) == old.get('type')
    return value if same else {**value, '_delete_': True}


def _broken_file(error: SyntaxError) -> str | None:
    """The file with the syntax error. MMEngine parses a config without naming its file."""
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
    """Build the Runner of a config."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else CommandRunner.from_cfg(cfg)


def command_line(name: str, args: argparse.Namespace, *arguments: str) -> str:
    """A command for the config of ``args`` and its overrides, to copy into a shell."""
    options = ['--cfg-options', *args.cfg_texts] if 'cfg_texts' in args else []
    return shlex.join(['python', '-m', 'mmyolo_bgpenalty', name, args.config, *arguments, *options])


def work_dir_of(args: argparse.Namespace, cfg: Config) -> str:
    """``--work-dir``, the config's ``work_dir``, or work_dirs/<name of the config>."""
    name = os.path.splitext(os.path.basename(args.config))[0]
    return args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', name)


def new_folder(option: str, path: str | Path) -> Path:
    """Make a folder that a command fills.

    Raises:
        ValueError: it exists and is not an empty folder. New files would be mixed with those of the user.
    """
    folder = Path(path)
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f'Expected {option} to be a new or an empty folder, but {folder} has content')
    folder.mkdir(parents=True, exist_ok=True)
    return folder
