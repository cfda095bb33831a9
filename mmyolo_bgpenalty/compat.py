"""Check versions, import MMYOLO, let torch load MMEngine's checkpoints, and let Ctrl-C end commands quietly."""

import contextlib
import re
import sys
from importlib import import_module, metadata
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from pickle import UnpicklingError

REQUIRED = {  # module: (lowest version, first version that does not work)
    'torch': ('2.1', None),
    'mmengine': ('0.10', '1.0'),
    'mmcv': ('2.0.0', '2.1.0'),
    'mmdet': ('3.0.0', '4.0.0'),
    'mmyolo': ('0.6.0', '1.0'),
}
FORK = {  # the maintained fork of OpenMMLab. module: (distribution, lowest version, first that does not work)
    'mmengine': ('onedl-mmengine', '0.10.8', '1.0'),
    'mmcv': ('onedl-mmcv', '2.3', '2.4'),
    'mmdet': ('onedl-mmdetection', '3.4', '4.0'),
}


def _release(version: str) -> tuple[int, ...]:
    """'2.13.0+cpu' -> (2, 13, 0). A pre-release comes before its release: '3.0.0rc6' -> (3, 0, -1)."""
    numbers = []
    for part in version.split('+')[0].split('.'):
        digits = re.match(r'\d+', part)
        if not digits:
            break
        numbers.append(int(digits.group()) - (digits.group() != part))
    return (*numbers, 0, 0, 0)[:3]


def installed(distribution: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def is_own_command() -> bool:
    """Whether this process runs ``python -m mmyolo_bgpenalty``, a module of this package, or a file of tools/."""
    package = Path(__file__).resolve().parent
    tools = package.parent / 'tools', package / '.mim/tools'
    # Python imports a package before its __main__.py, and argv[0] is '-m' until then.
    with contextlib.suppress(IndexError, OSError):  # no argv, or the current folder is deleted
        module = sys.argv[0] == '-m' and any(one.partition('.')[0] == package.name for one in sys.orig_argv)
        return module or Path(sys.argv[0]).resolve().parent in tools
    return False


def end_quietly_on_ctrl_c() -> None:
    """Let Ctrl-C end with 130 and without a traceback."""
    sys.excepthook = _without_interrupts


def _without_interrupts(kind, error, tb) -> None:
    if issubclass(kind, KeyboardInterrupt):
        raise SystemExit(130)
    sys.__excepthook__(kind, error, tb)


def check_versions() -> None:
    """Raise an ImportError if versions do not work (it names each package), or if MMCV has no compiled operators."""
    faults = []
    for module, (lowest, limit) in REQUIRED.items():
        name, found = module, installed(module)
        forked = installed(FORK[module][0]) if module in FORK else None
        if found and forked:
            both = f'{name} {found} and {FORK[module][0]} {forked}'
            faults.append(f'{both} are installed over each other: uninstall both, then install one')
            continue
        if forked:
            found, (name, lowest, limit) = forked, FORK[module]
        if not found or _release(found) < _release(lowest) or (limit and _release(found) >= _release(limit)):
            wanted = f'{name} >= {lowest}' + (f', < {limit}' if limit else '')
            faults.append(f'{wanted} is needed, and {name} {f"{found} is" if found else "is not"} installed')
    if not faults:
        try:
            import_module('mmcv.ops')
        except ImportError as error:
            faults.append(f'mmcv is installed without its compiled operators or for another torch ({error})')
    if faults:
        place = 'See "In an environment that has OpenMMLab" in docs/start/install.md.'
        raise ImportError(f'mmyolo_bgpenalty cannot work here: {"; ".join(faults)}. {place}')


def import_mmyolo() -> None:
    """Import MMYOLO with the MMCV of the fork. Without the fork this does nothing: the usual import works.

    ``mmyolo/__init__.py`` asserts that MMCV is older than 2.1. With the fork, this function executes that file without
    its assertions, as ``python -O`` does. All of them are about versions, which ``check_versions`` has checked.
    """
    if 'mmyolo' in sys.modules or not installed(FORK['mmcv'][0]):
        return
    spec = find_spec('mmyolo')
    assert spec and spec.origin  # check_versions has found it
    code = compile(Path(spec.origin).read_bytes(), spec.origin, 'exec', dont_inherit=True, optimize=1)
    module = sys.modules['mmyolo'] = module_from_spec(spec)
    exec(code, vars(module))


def safe_loading() -> bool:
    """Whether ``torch.load`` executes nothing in a file by default: from torch 2.6 on."""
    import torch  # not at the top, since check_versions must report a missing torch

    return _release(torch.__version__) >= (2, 6)


def allow_checkpoint_types() -> None:
    """Let ``torch.load(weights_only=True)``, the default from torch 2.6 on, read MMEngine's own checkpoints.

    The checkpoints hold HistoryBuffer objects with NumPy arrays. A pickled HistoryBuffer calls ``getattr`` for its
    statistics methods. Here ``getattr`` is replaced by a function that finds only these. The rest is still refused.
    """
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    if not safe_loading():
        return
    multiarray = (getattr(np, '_core', None) or np.core).multiarray
    # NumPy 2 writes its functions under another name than NumPy 1.
    arrays = [
        (getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
        for name in ('_reconstruct', 'scalar')
        for core in ('core', '_core')
    ]
    dtypes = [type(np.dtype(kind)) for kind in ('float64', 'int64')]
    method = (_statistics_method, 'builtins.getattr')
    torch.serialization.add_safe_globals([HistoryBuffer, method, *arrays, np.ndarray, np.dtype, *dtypes])


def _statistics_method(owner, name):
    """``getattr`` for the statistics methods of HistoryBuffer only."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'refused getattr({owner!r}, {name!r}) in a checkpoint')
    return getattr(owner, name)
