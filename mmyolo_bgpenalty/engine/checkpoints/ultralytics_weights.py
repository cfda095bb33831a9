"""Weights of Ultralytics' YOLOv8, under the names of MMYOLO.

Ultralytics saves a pickled model, not a ``state_dict``. ``torch.load(weights_only=True)`` reads it here. Each class
that torch does not allow becomes an inert stub. So no code of the file runs, and Ultralytics need not be installed.
"""

import pickletools
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from mmyolo_bgpenalty.compat import safe_loading
from mmyolo_bgpenalty.engine.checkpoints.file_kinds import ForeignFileError, torch_pickle

# The modules of yolov8.yaml with weights (n to x have the same), numbered as in Ultralytics, and their names in MMYOLO.
MODULES = {
    **{0: 'backbone.stem'},
    **{number: f'backbone.stage{(number + 1) // 2}.{(number + 1) % 2}' for number in range(1, 9)},
    **{9: 'backbone.stage4.2', 12: 'neck.top_down_layers.0', 15: 'neck.top_down_layers.1'},
    **{16: 'neck.downsample_layers.0', 18: 'neck.bottom_up_layers.0'},
    **{19: 'neck.downsample_layers.1', 21: 'neck.bottom_up_layers.1', 22: 'bbox_head.head_module'},
}
SPPF, DETECT = 9, 22
IN_SPPF = {r'^cv(\d)\.': r'conv\1.'}
IN_DETECT = {r'^cv2\.': 'reg_preds.', r'^cv3\.': 'cls_preds.'}
IN_C2F = {r'^cv1\.': 'main_conv.', r'^cv2\.': 'final_conv.', r'^m\.(\d+)\.cv(\d)\.': r'blocks.\1.conv\2.'}
# The classes of Ultralytics in a YOLOv8 detector. Other models have others.
CLASSES = {'DetectionModel', 'Conv', 'C2f', 'Bottleneck', 'SPPF', 'Concat', 'Detect', 'DFL'}
# Modules of other repositories, as they stand in pickled models.
OTHERS = {'models.yolo ': 'YOLOv5 or YOLOv7', 'yolov6.': 'YOLOv6'}
ONLY = 'Expected a YOLOv8 detector: yolov8n.pt to yolov8x.pt, or one trained from these'


class Stub:
    """Takes the place of a class or function of the file. It keeps the state and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def is_ultralytics(file: str) -> bool:
    """Whether a torch file holds objects of Ultralytics. Nothing in it is unpickled.

    Raises:
        ForeignFileError: it holds objects of another YOLO.
    """
    pickled = torch_pickle(file)
    names = {str(arg) for code, arg, _ in pickletools.genops(pickled) if code.name == 'GLOBAL'} if pickled else set()
    for prefix, name in OTHERS.items():
        if any(found.startswith(prefix) for found in names):
            raise ForeignFileError(f'it is a model of {name}. {ONLY}')
    return any(found.startswith('ultralytics.') for found in names)


def read_ultralytics(file: str) -> dict:
    """Read a YOLOv8 detector of Ultralytics as a checkpoint of MMEngine: ``state_dict`` and ``meta.dataset_meta``.

    Raises:
        ForeignFileError: the model is no YOLOv8 detector, or this torch cannot read it safely.
        Exception: as ``torch.load(file, weights_only=True)``.
    """
    if not safe_loading():
        raise ForeignFileError(
            f'it is a model of Ultralytics. To read it safely, torch 2.6 is needed, but got {torch.__version__}. '
            "Update torch, or convert the file with MMYOLO's tools/model_converters/yolov8_to_mmyolo.py"
        )
    content = read_with_stubs(file)
    # Ultralytics itself takes `ema` if there is one.
    model = (content.get('ema') or content.get('model')) if isinstance(content, Mapping) else None
    weights = yolov8_weights(model)
    names = getattr(model, 'names', None)
    classes = tuple(map(str, names.values() if isinstance(names, dict) else names or ()))
    return dict(meta=dict(dataset_meta=dict(classes=classes)), state_dict=weights)


def read_with_stubs(file: str) -> Any:
    """The content of a torch file. torch's own safe types are read, all others become stubs."""
    serialization = torch.serialization
    allowed = serialization.get_safe_globals()
    serialization.clear_safe_globals()  # what other packages allow becomes a stub, too
    try:
        names = serialization.get_unsafe_globals_in_checkpoint(file)
        with serialization.safe_globals([(type(name, (Stub,), {}), name) for name in names]):
            return torch.load(file, map_location='cpu', weights_only=True)
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(allowed)


def yolov8_weights(model: Any) -> dict[str, Tensor]:
    """The weights of a pickled YOLOv8 detector of Ultralytics under MMYOLO's names. Half precision becomes fp32.

    Raises:
        ForeignFileError: it is another model.
    """
    weights, numbers = {}, set()
    for name, value in _tensors(model):
        number, _, rest = name.removeprefix('model.').partition('.')
        numbers.add(number)
        # `dfl` is a fixed projection, which MMYOLO makes itself.
        if number.isdigit() and int(number) in MODULES and not rest.startswith('dfl.'):
            value = value.detach()
            weights[_renamed(int(number), rest)] = value.float() if value.is_floating_point() else value
    names = {type(module).__name__ for _, module in _modules(model)}
    classes = {name.rpartition('.')[2] for name in names if name.startswith('ultralytics.')}
    if not classes <= CLASSES or numbers != set(map(str, MODULES)):
        raise ForeignFileError(f'it is {_description(model)}. {ONLY}')
    return weights


def _description(model: Any) -> str:
    """What a model of Ultralytics is, for a message."""
    if not isinstance(model, Stub):
        return 'a file of Ultralytics without a model'
    yaml = getattr(model, 'yaml', None)
    file = PurePath(str(yaml.get('yaml_file', ''))).name if isinstance(yaml, dict) else ''
    kind = type(model).__name__.rpartition('.')[2]
    return f'a model of Ultralytics, {file!a} ({kind})' if file else f'a model of Ultralytics ({kind})'


def _modules(module: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """All modules of a pickled ``nn.Module`` and the prefixes of their tensors."""
    yield prefix, module
    for name, child in getattr(module, '__dict__', {}).get('_modules', {}).items():
        yield from _modules(child, f'{prefix}{name}.')


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a pickled ``nn.Module``, named as in its ``state_dict``."""
    for prefix, module in _modules(model):
        state = getattr(module, '__dict__', {})
        for name, value in {**state.get('_parameters', {}), **state.get('_buffers', {})}.items():
            if isinstance(value, Tensor):
                yield prefix + name, value


def _renamed(number: int, name: str) -> str:
    for old, new in (IN_SPPF if number == SPPF else IN_DETECT if number == DETECT else IN_C2F).items():
        name, found = re.subn(old, new, name)
        if found:
            break
    return f'{MODULES[number]}.{name}'
