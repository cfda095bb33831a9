"""Start a run from the weights of a file: take the tensors that fit, and say what is new."""

import logging
from collections.abc import Callable, Mapping

from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import (
    CheckpointError,
    check_finite,
    check_parameters,
    check_resumable,
    plain_name,
    read_checkpoint,
    shape_of,
    warn_if_suspect,
)
from mmyolo_bgpenalty.utils.distributed import unwrapped

# The parts of a detector and their names for a reader.
PARTS = {
    'backbone.': 'the backbone',
    'neck.': 'the neck',
    'bbox_head.head_module.reg_preds.': 'the box layers',
    'bbox_head.head_module.cls_preds.': 'the class layers',
}
FIRST_LAYER, LAST_LAYER = 'backbone.stem.conv.weight', 'bbox_head.head_module.cls_preds.0.2.weight'
SIZES = {8: 'n/2', 16: 'n', 32: 's', 48: 'm', 64: 'l', 80: 'x'}  # `model_size` by the channels of the first layer
FITTED = 'fitted:'
_fitted: dict[str, Callable[[], dict]] = {}


@CheckpointLoader.register_scheme(prefixes=FITTED)
def load_from_fitted(address: str, map_location=None) -> dict:
    """The checkpoint that ``check_start`` has read and fitted for a runner. It can be loaded once."""
    return _fitted.pop(address)()


def check_start(runner: Runner, optimizer: bool = True, complete: bool = False) -> str | None:
    """Check ``load_from`` before the runner reads it.

    For --resume this is ``check_resumable``. Otherwise ``StartWeights`` reads the file. The runner will load its
    ``checkpoint()``, so that MMEngine does not read the file again. The number of tensors that fit is logged.

    Returns:
        The logged line, or None.
    """
    path, model = runner._load_from, unwrapped(runner.model)
    if path is None or path.startswith(FITTED):
        return None
    if runner._resume:
        check_resumable(path, model, optimizer)
        return None
    weights = StartWeights(path, model, complete)
    runner._load_from = FITTED + path
    _fitted[runner._load_from] = weights.checkpoint
    line, level = weights.summary()
    runner.logger.log(level, line)
    return line


class StartWeights:
    """The tensors of a checkpoint that fit a model.

    A tensor fits if its name and its shape are those in the model. Weights of a plain detector fit the student and the
    teacher. Weights of a teacher fit a plain detector.

    Args:
        path: a file, or a URL that MMEngine knows.
        model: the model to start, without a wrapper.
        complete: all parameters must fit, as for evaluation.

    Raises:
        CheckpointError: no tensor fits, or one is NaN or infinite. With ``complete``: a parameter does not fit.
        Exception: as ``read_checkpoint``.
    """

    def __init__(self, path: str, model: nn.Module, complete: bool = False):
        self.path, self.model = path, model
        self.content, found = read_weights(path)
        own = model.state_dict()
        self.named = {name: _find(found, name) for name in own}  # by names of the model, in any shape
        self.taken = {name: value for name, value in self.named.items() if shape_of(value) == shape_of(own[name])}
        if not any(name in self.taken for name in self._names()):
            first = next(iter(found))
            raise CheckpointError(
                f'{path}: is of another model: none of its tensors, such as {first}, is in this one with the same shape'
                f'{self._hint()}'
            )
        check_finite(path, self.taken)
        warn_if_suspect(path, self.content)
        if complete:
            check_parameters(path, model, self.named, self._hint())
            lost = [name for name in own if name.endswith(('running_mean', 'running_var')) and name not in self.taken]
            if lost:
                raise CheckpointError(f'{path}: lacks batch normalization statistics of the model, such as {lost[0]}')

    def checkpoint(self) -> dict:
        """The checkpoint with a complete ``state_dict``. The model's own tensors stand in for those that do not fit.

        MMEngine would warn of each tensor that is absent.
        """
        state = self.model.state_dict()
        state.update(self.taken)
        return {**self.content, 'state_dict': state}

    def summary(self) -> tuple[str, int]:
        """How many tensors fit and which parts are new, in one line, and the level for the log."""
        names = self._names()
        new = [plain_name(name) for name in names if name not in self.taken]
        if not new:
            return f'{self.path}: all {len(names)} tensors taken', logging.INFO
        parts = {next((part for start, part in PARTS.items() if name.startswith(start)), name): None for name in new}
        count = f'{len(names) - len(new)} of {len(names)} tensors'
        if 2 * len(new) > len(names):
            return f'{self.path}: only {count} fit{self._hint()}', logging.WARNING
        return f'{self.path}: {count} taken; {" and ".join(parts)} are new', logging.INFO

    def _names(self) -> list[str]:
        """The names of the detector's tensors. Student and teacher count once, and counters do not count."""
        names = [name for name in self.named if not name.endswith('num_batches_tracked')]
        return [name for name in names if name.startswith('student.')] or names

    def _hint(self) -> str:
        """The difference in model size or in the number of classes."""
        there, here = model_size(self.named), model_size(self.model.state_dict())
        if there and here and there != here:
            return f". It is YOLOv8-{there}, but the config builds YOLOv8-{here}: write model_size='{there}'"
        classes, wanted = (_channels(weights, LAST_LAYER) for weights in (self.named, self.model.state_dict()))
        return f'. It has {classes} classes, but the config has {wanted}' if 0 < classes != wanted > 0 else ''


def read_weights(path: str) -> tuple[dict, dict[str, Tensor]]:
    """Read a checkpoint (a file or a URL): its content, and its tensors by name.

    Raises:
        CheckpointError: it has no tensors.
        Exception: as ``read_checkpoint``.
    """
    content = read_checkpoint(path)
    content = content if isinstance(content, dict) else {}
    if not isinstance(content.get('state_dict'), Mapping):
        content = dict(state_dict=content)
    weights = {str(k).removeprefix('module.'): v for k, v in content['state_dict'].items() if isinstance(v, Tensor)}
    if not weights:
        raise CheckpointError(f'{path}: expected a `state_dict` of tensors, but got none')
    return content, weights


def model_size(weights: Mapping[str, Tensor | None]) -> str | None:
    """The ``model_size`` of a YOLOv8 detector, by the number of channels of its first layer. None if it is unknown."""
    return SIZES.get(_channels(weights, FIRST_LAYER))


def _channels(weights: Mapping[str, Tensor | None], layer: str) -> int:
    """The number of output channels of a layer. 0 if there is none of this name."""
    return next((len(value) for name, value in weights.items() if plain_name(name) == layer and value is not None), 0)


def _find(weights: Mapping[str, Tensor], name: str) -> Tensor | None:
    """The tensor of a checkpoint for a name of the model. A plain detector and a teacher stand in for each other."""
    return next((weights[key] for key in (name, plain_name(name), f'teacher.{name}') if key in weights), None)
