"""Paths of the shipped configs, for use in configs of other projects."""

from pathlib import Path


def config(name: str) -> str:
    """Absolute path of a shipped config, in an installed package or in a checkout.

    MMEngine's prefix ``package::`` supports only OpenMMLab's packages. In a config of another project, write
    ``_base_ = __import__('mmyolo_bgpenalty').config('yolov8_semi_bgpenalty.py')``.

    Raises:
        FileNotFoundError: there is no such config. The message lists all configs outside sub-folders.
    """
    package = Path(__file__).resolve().parent.parent
    folder = next(path for path in (package / 'configs', package.parent / 'configs') if path.is_dir())
    if not (folder / name).is_file():
        known = ', '.join(sorted(path.name for path in folder.glob('*.py')))
        raise FileNotFoundError(f'no config {name!r}; the shipped configs are {known}')
    return str(folder / name)
