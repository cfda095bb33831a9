"""The versions this plugin works with, and what torch may unpickle from MMEngine's checkpoints."""

import re
import sys
from importlib import import_module, metadata
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Optional

REQUIRED = {  # module: (lowest version, first version that does not work)
    'torch': ('1.13', None),
    'mmengine': ('0.10', '1.0'),
    'mmcv': ('2.0.0', '2.1.0'),
    'mmdet': ('3.0.0', '4.0.0'),
    'mmyolo': ('0.6.0', '1.0'),
}
FORK = {  # module: the distribution of it in OpenMMLab's maintained fork, and its versions
    'mmengine': ('onedl-mmengine', '0.10.8', '1.0'),
    'mmcv': ('onedl-mmcv', '2.3', '2.4'),
    'mmdet': ('onedl-mmdetection', '3.4', '4.0'),
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


def installed(distribution: str) -> Optional[str]:
    """Its version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_versions() -> None:
    """Say in one error what is missing or of a wrong version.

    Raises:
        ImportError: lists every package at fault, with what was found and what is needed.
    """
    faults = []
    for module, bounds in REQUIRED.items():
        name, lowest, limit = module, *bounds
        found = installed(name)
        forked = installed(FORK[module][0]) if module in FORK else None
        if found and forked:
            both = f'{name} {found} and {FORK[module][0]} {forked}'
            faults.append(f'{both} are installed over each other: uninstall both, then install one')
            continue
        if forked:
            found, (name, lowest, limit) = forked, FORK[module]
        wanted = f'{name} >= {lowest}' + (f', < {limit}' if limit else '')
        if found is None:
            faults.append(f'{wanted} is needed, and {name} is not installed')
        elif _release(found) < _release(lowest) or (limit and not _release(found) < _release(limit)):
            faults.append(f'{wanted} is needed, and {name} {found} is installed')
    if not faults:
        try:
            import_module('mmcv.ops')
        except ImportError as error:
            faults.append(f'mmcv is installed without its compiled operators or for another torch ({error})')
    if faults:
        raise ImportError('mmyolo_bgpenalty cannot work here: ' + '; '.join(faults) + '. See README.md, "Install".')


def import_mmyolo() -> None:
    """Import MMYOLO beside the fork's MMCV, too, which ``mmyolo/__init__.py`` asserts to be older than 2.1.

    Only with the fork, and of that one file only: it is run without its assertions, which are all on versions, as
    ``python -O`` runs it. ``check_versions`` has checked the same versions before. Nothing is written, and no module
    says a version that it is not. Whoever imports MMYOLO first still meets its assertion.
    """
    if 'mmyolo' in sys.modules or not installed(FORK['mmcv'][0]):
        return
    spec = find_spec('mmyolo')
    assert spec and spec.origin  # check_versions has found it
    code = compile(Path(spec.origin).read_bytes(), spec.origin, 'exec', dont_inherit=True, optimize=1)
    module = sys.modules['mmyolo'] = module_from_spec(spec)
    try:
        exec(code, vars(module))
    except BaseException:
        del sys.modules['mmyolo']
        raise


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
