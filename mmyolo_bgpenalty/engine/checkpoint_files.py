"""Read checkpoint files safely, write them completely, and check them before a run starts from them."""

import os
import re
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, load, nn

from mmyolo_bgpenalty.compat import allow_checkpoint_types, safe_loading
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.files import write_whole

Shapes = dict[str, tuple[int, ...]]


class CheckpointError(ValueError):
    """A checkpoint is broken, unsafe, or not for this model. The message names the file."""


def read_checkpoint(path: str) -> Any:
    """Read a checkpoint to the CPU. From torch 2.6 on nothing in it is executed.

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
        if '://' not in path:
            return load(os.path.expanduser(path), map_location='cpu')
        return _read_url(path)
    except Exception as error:  # torch raises errors of many types for a file that is broken or no checkpoint
        # There is no such file, host or package, or no published model has this name.
        if isinstance(error, (OSError, ImportError)) or ('://' in path and isinstance(error, KeyError)):
            raise
        raise CheckpointError(f'{path}: cannot be read as a checkpoint: {_reason(error)}') from None


def _read_url(path: str) -> Any:
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


def _reason(error: Exception) -> str:
    refused = re.search(r'(?:GLOBAL|refused) ([\w.]+)', str(error)) if isinstance(error, UnpicklingError) else None
    if refused:
        return f'it holds {refused.group(1)}, which safe loading refuses'
    if isinstance(error, RuntimeError):
        return str(error).strip().partition('\n')[0].partition('. ')[0]
    return 'it is not a torch file'


@register_backend('whole_files')
class WholeFileBackend(LocalBackend):
    """A LocalBackend that writes a complete file or none, even if the process or the machine is killed."""

    def put(self, obj: bytes, filepath) -> None:
        write_whole(filepath, obj)


def check_start(runner: Runner, optimizer: bool = True) -> None:
    """Check ``load_from`` by ``check_resumable`` or ``check_loadable``, before the runner reads it."""
    path, model = runner._load_from, unwrapped(runner.model)
    if path is not None and runner._resume:
        check_resumable(path, model, optimizer)
    elif path is not None:
        check_loadable(path, model)


def check_resumable(path: str, model: nn.Module, optimizer: bool = True) -> None:
    """Raise a CheckpointError if no run can be resumed from a checkpoint (a file or a URL).

    The checkpoint must hold the progress, and every parameter of the model with its shape. With ``optimizer`` it must
    hold the state of the optimizer, too. Buffers may be absent. ``read_checkpoint`` may raise other errors.
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
    _check_shapes(path, _shapes(dict(model.named_parameters())), _shapes(content['state_dict']))


def check_loadable(path: str, model: nn.Module, complete: bool = False) -> None:
    """Raise a CheckpointError if a model cannot load weights from a checkpoint (a file or a URL).

    The checkpoint must hold at least one parameter of the model with the same shape. With ``complete``, as for
    evaluation, it must hold every parameter. ``read_checkpoint`` may raise other errors.
    """
    content = read_checkpoint(path)
    weights = content.get('state_dict', content) if isinstance(content, Mapping) else None
    found = _shapes(weights) if isinstance(weights, Mapping) else {}
    if not found:
        raise CheckpointError(f'{path}: expected a `state_dict` of tensors, but got none')
    own = _shapes(dict(model.named_parameters()))
    if not {(_plain(name), shape) for name, shape in own.items()} & {(_plain(name), s) for name, s in found.items()}:
        raise CheckpointError(
            f'{path}: is of another model: none of its tensors, such as {next(iter(found))}, is in this one '
            'with the same shape'
        )
    if complete:
        _check_shapes(path, own, {name: found.get(name, found.get(_plain(name))) for name in own})


def _plain(name: str) -> str:
    """Remove the prefix of student or teacher. SemiBaseDetector loads a plain detector into both."""
    return re.sub(r'^(module\.)?(student\.|teacher\.)?', '', name)


def _shapes(weights: Mapping) -> Shapes:
    return {name: tuple(value.shape) for name, value in weights.items() if isinstance(value, Tensor)}


def _check_shapes(path: str, own: Shapes, found: Mapping) -> None:
    differ = [name for name in own if found.get(name) != own[name]]
    if differ:
        name = differ[0]
        there = 'absent' if found.get(name) is None else found[name]
        raise CheckpointError(
            f'{path}: is of another model: {len(differ)} of {len(own)} parameters differ. The first is {name}: {there} '
            f'in the checkpoint, {own[name]} in the model'
        )
