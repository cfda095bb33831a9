"""Weights of Ultralytics' YOLOv8, under the names of MMYOLO.

Ultralytics saves a pickled model, not a ``state_dict``. ``torch.load`` with ``weights_only=True`` reads it here: each
class that it does not allow becomes an inert stub. So no code of the file or of another package runs.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

# The modules of yolov8.yaml (n to x have the same), numbered as in Ultralytics, and their names in MMYOLO.
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


class _Stub:
    """Takes the place of a class of the file. It keeps the state and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


def read_model(path: str) -> Any:
    """The content of a checkpoint file, with stubs for all classes that torch's safe loading does not know.

    Raises:
        OSError, RuntimeError, pickle.UnpicklingError: as ``torch.load(path, weights_only=True)``.
    """
    stubs = [(type('Stub', (_Stub,), {}), name) for name in get_unsafe_globals_in_checkpoint(path)]
    with safe_globals(stubs):
        return torch.load(path, map_location='cpu', weights_only=True)


def yolov8_weights(content: Any) -> dict[str, Tensor] | None:
    """The weights of a YOLOv8 detector of Ultralytics in MMYOLO's names, fp32. None if ``content`` has no such model.

    Ultralytics itself takes ``ema`` if it is there, and ``model`` otherwise.
    """
    model = (content.get('ema') or content.get('model')) if isinstance(content, Mapping) else None
    weights = {}
    for name, value in _tensors(model):
        number, _, rest = name.removeprefix('model.').partition('.')
        if not number.isdigit() or int(number) not in MODULES:
            return None
        if 'dfl' not in rest:  # the fixed projection, which MMYOLO makes itself
            weights[f'{MODULES[int(number)]}.{_renamed(int(number), rest)}'] = value.float()
    return weights or None


def _tensors(module: Any, prefix: str = '') -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a pickled ``nn.Module``, named as in its ``state_dict``."""
    state = getattr(module, '__dict__', {})
    for name, value in {**state.get('_parameters', {}), **state.get('_buffers', {})}.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
    for name, child in state.get('_modules', {}).items():
        yield from _tensors(child, f'{prefix}{name}.')


def _renamed(number: int, name: str) -> str:
    for old, new in (IN_SPPF if number == SPPF else IN_DETECT if number == DETECT else IN_C2F).items():
        name, found = re.subn(old, new, name)
        if found:
            break
    return name
