"""Checkpoint files: read safely, written whole, and checked before a run builds on them."""

import os
import re
from contextlib import contextmanager
from functools import wraps
from pickle import UnpicklingError
from typing import Callable, List, Mapping, Tuple

from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    load_from_http,
    load_from_mmcls,
    load_from_openmmlab,
    load_from_torchvision,
)
from torch import Tensor, nn
from torch import load as torch_load

from mmyolo_bgpenalty.compat import safe_loading
from mmyolo_bgpenalty.utils.files import write_whole


class CheckpointError(ValueError):
    """A checkpoint that is broken, unsafe or of something else. The message names it."""


@contextmanager
def _weights_only():
    """torch.hub asks for unsafe loading of what it downloads; this is torch's own switch against that."""
    name = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before = os.environ.get(name)
    if safe_loading() and not os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        os.environ[name] = '1'
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _guarded(loader: Callable) -> Callable:
    """One of MMEngine's loaders, whose files run nothing, and which says in one line what cannot be read."""

    @wraps(loader)
    def load(filename: str, map_location=None):
        try:
            with _weights_only():
                content = loader(filename, map_location=map_location)
        except Exception as error:  # whatever torch meets in a file that is broken or no checkpoint
            # No such file, host, package, or name of a published model.
            if isinstance(error, (OSError, ImportError)) or ('://' in filename and isinstance(error, KeyError)):
                raise
            raise CheckpointError(f'{filename}: cannot be read as a checkpoint: {_reason(error)}') from None
        meta = content.get('meta') if isinstance(content, Mapping) else None
        if isinstance(meta, dict):
            # Runner.resume would execute it, as a config; MMEngine itself writes `cfg`.
            meta.pop('config', None)
        return content

    return load


def _reason(error: Exception) -> str:
    refused = re.search(r'(?:GLOBAL|refused) ([\w.]+)', str(error)) if isinstance(error, UnpicklingError) else None
    if refused:
        return f'it holds {refused.group(1)}, which safe loading refuses'
    if isinstance(error, EOFError):
        return 'it ends too early'
    if isinstance(error, RuntimeError):
        return str(error).strip().partition('\n')[0].partition('. ')[0]
    return 'it is no torch file'


def load_from_local(filename: str, map_location=None):
    """As MMEngine's. The fork's would allow ``getattr`` itself, and then take back what this package allows."""
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'no such checkpoint: {filename}')
    return torch_load(filename, map_location=map_location)


read_file = _guarded(load_from_local)


def guard_loaders() -> None:
    """Have whatever MMEngine reads of files and of the web be read so: load_from, resume, init_cfg."""
    for prefixes, loader in (
        ('', read_file),
        (('http://', 'https://'), _guarded(load_from_http)),
        (('modelzoo://', 'torchvision://'), _guarded(load_from_torchvision)),
        (('open-mmlab://', 'openmmlab://'), _guarded(load_from_openmmlab)),
        ('mmcls://', _guarded(load_from_mmcls)),
    ):
        CheckpointLoader.register_scheme(prefixes, loader, force=True)


@register_backend('whole_files')
class WholeFileBackend(LocalBackend):
    """LocalBackend whose files are there whole or not at all, whenever the process or the machine ends."""

    def put(self, obj: bytes, filepath) -> None:
        write_whole(filepath, obj)


def check_resumable(path: str, model: nn.Module, optimizer: bool = True) -> None:
    """Read what a run is to go on from.

    Args:
        path: file or URL.
        model: whose parameters must all be there; of buffers modules take care themselves.
        optimizer: whether its state must be there.

    Raises:
        CheckpointError: it cannot be read, lacks what a run goes on with, or is of another model.
        OSError: no such file.
    """
    content = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger=None)
    wanted = ['meta', 'state_dict', 'message_hub', *(['optimizer'] if optimizer else [])]
    missing = [key for key in wanted if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping)]
    missing += [f'meta.{key}' for key in ('epoch', 'iter') if not missing and key not in content['meta']]
    if missing:
        raise CheckpointError(
            f'{path}: no run can go on from it: it has no {", ".join(f"`{key}`" for key in missing)}. As load_from, '
            'without --resume, its weights can start a new one'
        )
    own = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = _shapes(content['state_dict'])
    unlike = [name for name in own if found.get(name) != own[name]]
    if unlike:
        raise CheckpointError(_of_another(path, unlike, own, found))


def check_loadable(path: str, model: nn.Module, whole: bool = False) -> None:
    """Read what a model is to take its weights from.

    Args:
        path: file or URL.
        model: that is to take them.
        whole: whether each of its parameters must be there, as for evaluation.

    Raises:
        CheckpointError: it cannot be read, none of its tensors fits the model, or with ``whole`` one is missing.
        OSError: no such file.
    """
    content = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger=None)
    weights = content.get('state_dict', content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not _shapes(weights):
        raise CheckpointError(f'{path}: expected a `state_dict` of tensors, but there is none')
    own, found = _shapes(dict(model.named_parameters())), _shapes(weights)
    if not {(_plain(name), shape) for name, shape in own.items()} & {(_plain(name), s) for name, s in found.items()}:
        raise CheckpointError(
            f'{path}: is of another model: none of its tensors, as {next(iter(found))}, is in this one'
        )
    there = {name: found.get(name, found.get(_plain(name))) for name in own}
    unlike = [name for name in own if there[name] != own[name]]
    if unlike and whole:
        raise CheckpointError(_of_another(path, unlike, own, there))


def _plain(name: str) -> str:
    """SemiBaseDetector gives the weights of a plain detector to student and teacher."""
    return re.sub(r'^(module\.)?(student\.|teacher\.)?', '', name)


def _of_another(path: str, unlike: List[str], own: Mapping, found: Mapping) -> str:
    shape = found.get(unlike[0])
    return (
        f'{path}: is of another model: {len(unlike)} of {len(own)} parameters differ, the first of them '
        f'{unlike[0]}, which is {own[unlike[0]]} here and {"absent" if shape is None else shape} there'
    )


def _shapes(weights: Mapping[str, Tensor]) -> Mapping[str, Tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items() if isinstance(value, Tensor)}
