"""What the console shows: a short table after validation and test, and no warning that a user can do nothing about.

All log records are in the log file.
"""

import codecs
import copy
import io
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import mmdet.evaluation
from mmengine.config import Config
from mmengine.hooks import LoggerHook
from mmengine.logging import MMLogger
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmyolo.registry import HOOKS

from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError
from mmyolo_bgpenalty.evaluation.table import class_table, good_parts_table, summary_table
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.files import printable_lines

_EVALUATION = str(Path(mmdet.evaluation.__file__).parent)
# Warnings of the libraries about their own code.
_WARNINGS = (
    'pkg_resources is deprecated',
    'Deprecated call to `pkg_resources',
    'torch.meshgrid: in an upcoming release',
    r'`torch.cuda.amp.autocast\(args...\)` is deprecated',  # in layers and assigners of MMDetection
    "'pin_memory' argument is set as true but no accelerator is found",  # the configs of MMDetection pin memory
)
# The same in the log of MMEngine, and its long records at the start.
_RECORDS = (
    'Failed to search registry with scope',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    r'\s*-*\s*System environment:',
    'Config:\n',
    'Hooks will be executed in',
    'Distributed training is not used',
    'Optimizer groups: ',
    'Exp name: ',
    'Load checkpoint from fitted:',  # `check_start` has named the file
    'Switch pipeline now!',
)


@HOOKS.register_module()
class ValidationLoggerHook(LoggerHook):
    """A LoggerHook with short lines and tables on the console.

    - A training iteration is one line, see ``short_line``.
    - Validation and test are a table with one row per model, teacher and student or 'model': mAP, mAP50, and precision,
      recall and false positives at a fixed confidence. If the metrics have none of these values, the console shows
      LoggerHook's line.
    - After a validation on a set with good parts, a second table has the false alarms on them where 70, 80 and 90 % of
      the objects or of the defective parts are found, see ``false_alarms``. After a test, it has the classes.
    - The removal of an outdated best checkpoint is not shown.

    The log file also has LoggerHook's complete lines, and the tables of the metrics. The json files and the backends of
    the visualizer are those of LoggerHook.

    Args:
        args, kwargs: as for LoggerHook.
    """

    _file_only = False

    def before_run(self, runner: Runner) -> None:
        super().before_run(runner)
        show_as_text(runner.logger)
        for handler in consoles(runner.logger):
            handler.addFilter(self._shows)
            handler.setFormatter(_ShortLines(handler.formatter))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        table = summary_table(metrics or {}, f'Validation{_progress(runner)}', evaluated_model(runner))
        with self._off_the_console(table is not None):
            super().after_val_epoch(runner, metrics)
        for text in (table, good_parts_table(metrics or {}, 'Validation')):
            if text is not None:
                runner.logger.info(text)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        table = summary_table(metrics or {}, 'Test', evaluated_model(runner))
        with self._off_the_console(table is not None):
            super().after_test_epoch(runner, metrics)
        for text in (table, class_table(metrics or {}, 'Test')):
            if text is not None:
                runner.logger.info(text)

    @contextmanager
    def _off_the_console(self, file_only: bool) -> Iterator[None]:
        self._file_only = file_only
        try:
            yield
        finally:
            self._file_only = False

    def _shows(self, record: logging.LogRecord) -> bool:
        """Whether the console shows a record."""
        if record.levelno > logging.INFO:
            return True
        if self._file_only or getattr(record, 'file_only', False) or record.pathname.startswith(_EVALUATION):
            return False
        return not record.getMessage().startswith('The previous best checkpoint ')


class _ShortLines(logging.Formatter):
    """Formats as ``inner`` does, with ``short_line`` of the message."""

    def __init__(self, inner: logging.Formatter | None):
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)  # the log file gets the original
        record.msg, record.args = short_line(record.getMessage()), None
        return self._inner.format(record)


def short_line(text: str) -> str:
    """A shorter line for the console. Texts other than these two stay.

    - LoggerHook's line of a training iteration: ``Epoch(train)  [3][20/60]  eta 0:05:00  loss 3.2 (sup 2.1, unsup 1.1)
      λ_bg 0.2``. 'sup' is the sum of ``sup_loss_cls``, ``sup_loss_bbox`` …. Without such a branch each loss is a part.
      If there are more than 5 parts, none is shown.
    - CheckpointHook's line of a new best checkpoint.
    """
    head = re.match(r'(Epoch|Iter)\(train\) [\[\]/ \d]+\]', text)
    if head is None:
        return re.sub(r'The best checkpoint with (\S+) .* is saved to (\S+)\.$', r'New best checkpoint (\1): \2', text)
    values = {name: float(value) for name, value in re.findall(r'(\S+): (-?(?:\d[\d.e+-]*|inf|nan))(?= |$)', text)}
    if 'loss' not in values:
        return text
    parts: defaultdict[str, float] = defaultdict(float)
    for name, value in values.items():
        if match := re.fullmatch(r'(?:([\w.]+)[._])?loss_(\w+)', name):
            parts[match[1] or match[2]] += value
    eta = re.search(r'eta: (.+?)  ', text)
    shown = [head[0], f'eta {eta[1]}' if eta else '', f'loss {values["loss"]:.4g}']
    if 0 < len(parts) <= 5:
        shown[-1] += f' ({", ".join(f"{name} {value:.4g}" for name, value in parts.items())})'
    if 'semi/lambda_bg' in values:
        shown.append(f'λ_bg {values["semi/lambda_bg"]:.4g}')
    return '  '.join(part for part in shown if part)


class FormattedOnce(Config):
    """A config that formats its text again only if it has changed.

    MMEngine asks for the text several times at the start of a run, and at each checkpoint. Each time takes 0.6 s.
    """

    @property
    def pretty_text(self) -> str:
        content = repr(self.to_dict())
        if content != self.__dict__.get('_formatted_content'):
            # Config's own __setattr__ would write a setting.
            object.__setattr__(self, '_formatted_text', Config.pretty_text.fget(self))
            object.__setattr__(self, '_formatted_content', content)
        return self.__dict__['_formatted_text']


class CommandRunner(Runner):
    """A Runner whose console shows no record of ``_RECORDS``, and whose config is ``FormattedOnce``."""

    def __init__(self, *args, cfg: Config | None = None, **kwargs):
        if type(cfg) is Config:
            formatted = FormattedOnce()
            formatted.__setstate__(cfg.__getstate__())
            cfg = formatted
        super().__init__(*args, cfg=cfg, **kwargs)

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        _hide_records(logger)
        show_as_text(logger)
        return logger

    def resume(self, filename: str, *args, **kwargs) -> None:
        try:
            super().resume(filename, *args, **kwargs)
        except Exception as error:  # a field of a wrong kind raises any error, in MMEngine or in a hook
            raise CheckpointError(
                f'{filename}: no run can be resumed from it. {type(error).__name__}: {error}'
            ) from error

    def load_checkpoint(self, *args, **kwargs) -> dict:
        with redirect_stdout(io.StringIO()):  # MMEngine prints the path once more
            return super().load_checkpoint(*args, **kwargs)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide the warnings of ``_WARNINGS`` within this context, and the records of the current logger in ``_RECORDS``.

    A Runner has a logger of its own: see ``CommandRunner``.
    """
    with warnings.catch_warnings():
        for message in _WARNINGS:
            warnings.filterwarnings('ignore', message)
        _hide_records(MMLogger.get_current_instance())
        show_as_text(MMLogger.get_current_instance())
        yield


def _hide_records(logger: logging.Logger) -> None:
    for handler in consoles(logger):
        handler.addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING or not re.match('|'.join(_RECORDS), record.getMessage())


def show_as_text(logger: logging.Logger) -> None:
    """Let the records of a logger show names from files as text, see ``printable_lines``, in any encoding.

    Log files become UTF-8. On a console, ASCII replaces the characters that its encoding lacks, see ``spelled``.
    """
    logger.addFilter(_as_text)
    for handler in logger.handlers:
        stream = getattr(handler, 'stream', None)
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            encoding = 'utf-8' if isinstance(handler, logging.FileHandler) else stream.encoding
            stream.reconfigure(encoding=encoding, errors=SPELLED)


def _as_text(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable_lines(record.getMessage()), None
    return True


def spelled(error: UnicodeError) -> tuple[str, int]:
    """An error handler of encoding: λ becomes 'lambda', ≥ becomes '>=', and others become escapes like ``\\u2713``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return ''.join(_ASCII.get(one) or one.encode('unicode_escape').decode() for one in text), error.end


SPELLED = 'mmyolo_bgpenalty.spelled'
codecs.register_error(SPELLED, spelled)
_ASCII = {'λ': 'lambda', '…': '...', '→': '->', '–': '-', '×': 'x', '≥': '>=', '≤': '<='}


def consoles(logger: logging.Logger) -> list[logging.Handler]:
    """The handlers that write to the console."""
    handlers = (handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler))
    return [handler for handler in handlers if not isinstance(handler, logging.FileHandler)]


def _progress(runner: Runner) -> str:
    loop = runner._train_loop  # runner.train_loop would build it, also for runner.val()
    if isinstance(loop, IterBasedTrainLoop):
        return f' after iteration {loop.iter} of {loop.max_iters}'
    return f' after epoch {loop.epoch} of {loop.max_epochs}' if isinstance(loop, EpochBasedTrainLoop) else ''


def evaluated_model(runner: Runner) -> str:
    """Name of the model that predicts: 'teacher' or 'student' of a semi-supervised detector, else 'model'."""
    return getattr(unwrapped(runner.model), 'semi_test_cfg', {}).get('predict_on', 'model')
