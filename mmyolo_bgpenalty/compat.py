"""The versions this plugin works with, and what torch may unpickle from MMEngine's checkpoints."""

import re
from importlib import import_module, metadata
from pickle import UnpicklingError

REQUIRED = {  # module: (lowest version, first version that does not work)
    'torch': ('1.13', None),
    'mmengine': ('0.10', '1.0'),
    'mmcv': ('2.0.0', '2.1.0'),
    'mmdet': ('3.0.0', '4.0.0'),
    'mmyolo': ('0.6.0', '1.0'),
}


def _release(version: str):
    """'2.13.0+cpu' -> (2, 13, 0); a pre-release comes before its release: '3.0.0rc6' -> (3, 0, -1)."""
    numbers = []
    for part in version.split('+')[0].split('.'):
        digits = re.match(r'\d+', part)
        if not digits:
            break
        numbers.append(int(digits.group()) - (digits.group() != part))
    return (*numbers, 0, 0, 0)[:3]


def check_versions() -> None:
    """Say in one error what is missing or of a wrong version.

    Raises:
        ImportError: lists every package at fault, with what was found and what is needed.
    """
    faults = []
    for name, (lowest, limit) in REQUIRED.items():
        wanted = f'{name} >= {lowest}' + (f', < {limit}' if limit else '')
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            faults.append(f'{wanted} is needed, and {name} is not installed')
            continue
        if _release(found) < _release(lowest) or (limit and not _release(found) < _release(limit)):
            faults.append(f'{wanted} is needed, and {name} {found} is installed')
    if not faults:
        try:
            import_module('mmcv.ops')
        except ImportError as error:
            faults.append(f'mmcv is installed without its compiled operators or for another torch ({error})')
    if faults:
        raise ImportError('mmyolo_bgpenalty cannot work here: ' + '; '.join(faults) + '. See README.md, "Install".')


def safe_loading() -> bool:
    """Whether ``torch.load`` runs nothing of a file unless it is told to: from torch 2.6 on."""
    import torch

    return _release(torch.__version__) >= (2, 6)


def allow_checkpoint_types() -> None:
    """Let ``torch.load(weights_only=True)``, torch's default from 2.6 on, read MMEngine's own checkpoints.

    MMEngine 0.10 stores its message hub in them: HistoryBuffer objects, which hold NumPy arrays and, by way of
    ``getattr``, their own statistics methods. Exactly these are allowed: under the name of ``getattr`` stands a
    function that finds nothing else. Whatever else a file may hold is still refused.
    """
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    if not safe_loading():
        return
    multiarray = (getattr(np, '_core', None) or np.core).multiarray
    dtypes = [type(np.dtype(kind)) for kind in ('float64', 'int64')]
    # NumPy 2 writes its functions under another name than NumPy 1.
    arrays = [
        (getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
        for name in ('_reconstruct', 'scalar')
        for core in ('core', '_core')
    ]
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            (_statistics_method, 'builtins.getattr'),
            *arrays,
            np.ndarray,
            np.dtype,
            *dtypes,
        ]
    )


def _statistics_method(owner, name):
    """``getattr`` for HistoryBuffer's statistics and nothing else."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'refused getattr({owner!r}, {name!r}) in a checkpoint')
    return getattr(owner, name)
