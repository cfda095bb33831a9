"""Read checkpoint files safely, write them completely, and check them before a run starts from them."""

import logging
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

from mmengine.dist import barrier, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, hub, load, nn

from mmyolo_bgpenalty.compat import allow_checkpoint_types, safe_loading
from mmyolo_bgpenalty.engine.checkpoints.file_kinds import BrokenFileError, ForeignFileError, check_kind
from mmyolo_bgpenalty.engine.checkpoints.resume_fields import wrong_field
from mmyolo_bgpenalty.engine.checkpoints.ultralytics_weights import is_ultralytics, read_ultralytics
from mmyolo_bgpenalty.utils.arguments import is_meant
from mmyolo_bgpenalty.utils.files import write_whole

_WEB = ('http://', 'https://')


class CheckpointError(ValueError):
    """A checkpoint is broken, unsafe, or not for this model. The message names the file."""


def read_checkpoint(path: str) -> Any:
    """Read a checkpoint to the CPU. From torch 2.6 on nothing in it is executed.

    A YOLOv8 detector of Ultralytics (.pt) becomes a checkpoint with MMYOLO's names, see ``read_ultralytics``.

    MMEngine's own loaders may execute code: torch.hub, which reads URLs, turns safe loading off. onedl-mmengine turns
    it off for files that safe loading refuses. A file that this function has read is safe for those loaders.

    Args:
        path: a file, or a URL that MMEngine knows.

    Raises:
        CheckpointError: the file is broken, or holds an object that safe loading refuses.
        OSError: there is no such file or host.
    """
    allow_checkpoint_types()  # again, since onedl-mmengine forbids these types after it has read a file
    try:
        if path.startswith(_WEB):
            return _read_download(_downloaded(path))
        return _read_url(path) if '://' in path else _read_file(os.path.expanduser(path))
    except Exception as error:  # torch raises errors of many types for a file that is broken or no checkpoint
        # There is no such file, host or package, or no published model has this name.
        if isinstance(error, (OSError, ImportError)) or ('://' in path and isinstance(error, KeyError)):
            raise
        hint = ''
        if isinstance(error, BrokenFileError) and path.startswith(_WEB):
            hint = '. The download is removed, so the next run downloads it again'
        elif '://' in path:
            hint = f'. If the download was broken, delete it from {_downloads()}'
        raise CheckpointError(f'{path}: cannot be read as a checkpoint: {_reason(path, error)}{hint}') from None


def _read_file(file: str) -> Any:
    if not os.path.exists(file):
        raise FileNotFoundError(f'{file}: no such file{is_meant(file)}')
    check_kind(file)
    return read_ultralytics(file) if is_ultralytics(file) else load(file, map_location='cpu')


def _read_download(file: str) -> Any:
    """Read a downloaded file. A broken one is removed, because it would be taken for the download ever after."""
    try:
        return _read_file(file)
    except BrokenFileError:
        Path(file).unlink(missing_ok=True)
        raise


def _downloads() -> str:
    return os.path.join(hub.get_dir(), 'checkpoints')


def _downloaded(url: str) -> str:
    """Download a file, unless it is in the folder of torch.hub, and return its path."""
    file = os.path.join(_downloads(), os.path.basename(urlparse(url).path))
    for turn in (is_main_process(), True):  # the other processes look for the file when it is complete
        if turn and not os.path.isfile(file):
            os.makedirs(os.path.dirname(file), exist_ok=True)
            try:
                hub.download_url_to_file(url, file, progress=sys.stderr.isatty())
            except OSError as error:  # it does not name the URL
                raise OSError(f'{url}: {error}') from None
        barrier()
    return file


def _read_url(path: str) -> Any:
    """Read a checkpoint by a loader of MMEngine, such as open-mmlab://…"""
    name = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'  # torch's own switch, since torch.hub asks for unsafe loading
    before = os.environ.get(name)
    if safe_loading() and not os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        os.environ[name] = '1'
    try:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu', logger=None)
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _reason(path: str, error: Exception) -> str:
    if isinstance(error, ForeignFileError):
        return str(error)
    refused = re.search(r'(?:GLOBAL|refused) ([\w.]+)', str(error)) if isinstance(error, UnpicklingError) else None
    if refused:
        return f'it holds {refused.group(1)}, which safe loading refuses'
    if isinstance(error, UnpicklingError) and zipfile.is_zipfile(path):
        return 'it holds objects that safe loading refuses'
    if isinstance(error, RuntimeError):
        return str(error).strip().partition('\n')[0].partition('. ')[0]
    return 'it is not a torch file'


@register_backend('whole_files')
class WholeFileBackend(LocalBackend):
    """A LocalBackend that writes a complete file or none, even if the process or the machine is killed."""

    def put(self, obj: bytes, filepath) -> None:
        write_whole(filepath, obj)


def check_resumable(path: str, model: nn.Module, optimizer: bool = True) -> None:
    """Raise a CheckpointError if no run can be resumed from a checkpoint (a file or a URL).

    The checkpoint must hold the progress, and every parameter of the model with its shape. With ``optimizer`` it must
    hold the state of the optimizer, too. Its fields must be of the right kinds, and its weights finite. Buffers may be
    absent. ``read_checkpoint`` may raise other errors.
    """
    content = read_checkpoint(path)
    wanted = ['meta', 'state_dict', 'message_hub', *(['optimizer'] if optimizer else [])]
    missing = [key for key in wanted if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping)]
    missing += [f'meta.{key}' for key in ('epoch', 'iter') if not missing and key not in content['meta']]
    if missing:
        raise CheckpointError(
            f'{path}: no run can be resumed from it: it has no {", ".join(f"`{key}`" for key in missing)}. To '
            'start a new run from its weights, set it as `load_from` without --resume'
        )
    if 'config' in content['meta']:
        # Runner.resume would execute it. MMEngine itself writes `meta.cfg`, which is text.
        raise CheckpointError(f'{path}: no run can be resumed from it: `meta.config` is code')
    fault = wrong_field(content, optimizer)
    if fault:
        raise CheckpointError(f'{path}: no run can be resumed from it. {fault}')
    check_parameters(path, model, content['state_dict'])
    for name in ('state_dict', 'ema_state_dict'):
        check_finite(path, content.get(name) or {})
    warn_if_suspect(path, content)


def not_finite(weights: Mapping) -> list[str]:
    """The names of the tensors that hold NaN or infinite numbers."""
    floating = {name: v for name, v in weights.items() if isinstance(v, Tensor) and v.is_floating_point()}
    return [name for name, value in floating.items() if not value.isfinite().all()]


def check_finite(path: str, weights: Mapping) -> None:
    """Raise a CheckpointError if a tensor of a checkpoint holds NaN or infinite numbers."""
    bad = not_finite(weights)
    if bad:
        raise CheckpointError(
            f'{path}: {len(bad)} of {len(weights)} tensors are NaN or infinite, the first is {bad[0]}. Take an earlier '
            'checkpoint'
        )


def warn_if_suspect(path: str, content: Mapping) -> None:
    """Warn if NonFiniteGuardHook was skipping iterations when a checkpoint was saved."""
    guard = content.get('nonfinite_guard')
    if isinstance(guard, Mapping) and guard.get('in_a_row'):
        print_log(
            f'{path}: the iterations before it was saved had losses or gradients that were NaN or infinite. Its '
            'weights may have diverged: take an earlier checkpoint if there is one',
            logger='current',
            level=logging.WARNING,
        )


def latest_checkpoint(work_dir: str | Path) -> str:
    """The path of the checkpoint from which ``--resume`` continues, '' without one."""
    try:
        text = Path(work_dir, 'last_checkpoint').read_bytes()
    except OSError:  # there is none, or it is a folder
        return ''
    return text.decode(errors='replace').strip()


def plain_name(name: str) -> str:
    """Remove the prefix of student or teacher. SemiBaseDetector loads a plain detector into both."""
    return re.sub(r'^(student\.|teacher\.)', '', name)


def shape_of(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else 'absent'


def check_parameters(path: str, model: nn.Module, found: Mapping, hint: str = '') -> None:
    """Raise a CheckpointError if a parameter of the model is not in ``found`` with the same shape."""
    own = dict(model.named_parameters())
    differ = [name for name, value in own.items() if shape_of(found.get(name)) != shape_of(value)]
    if differ:
        name = differ[0]
        raise CheckpointError(
            f'{path}: is of another model: {len(differ)} of {len(own)} parameters differ. The first is {name}: '
            f'{shape_of(found.get(name))} in the checkpoint, {shape_of(own[name])} in the model{hint}'
        )
