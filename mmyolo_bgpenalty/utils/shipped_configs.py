"""Where the shipped configs lie, for configs of other projects."""

from pathlib import Path


def config(name: str) -> str:
    """Absolute path of a shipped config, installed or in a checkout.

    MMEngine's ``package::`` prefix knows OpenMMLab's packages only; in a config of another project write
    ``_base_ = __import__('mmyolo_bgpenalty').config('yolov8_semi_bgpenalty.py')``.

    Raises:
        FileNotFoundError: there is no such config; lists those there are.
    """
    package = Path(__file__).resolve().parent.parent
    folder = next(path for path in (package / 'configs', package.parent / 'configs') if path.is_dir())
    if not (folder / name).is_file():
        known = ', '.join(sorted(path.name for path in folder.glob('*.py')))
        raise FileNotFoundError(f'no config {name!r} among {known}')
    return str(folder / name)
