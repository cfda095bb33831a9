"""Copies of the checkout, and environments that see the installed packages, but not this one."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.helpers.tiny import ROOT


def copy_checkout(target: Path) -> Path:
    """Copy what an installation reads. Building in the checkout itself would leave files there."""
    for name in ('mmyolo_bgpenalty', 'configs', 'tools'):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'CHANGELOG.md', 'LICENSE'):
        shutil.copy(ROOT / name, target)
    return target


class OwnEnvironment:
    """An environment with the packages of the test environment, without the editable install of this package."""

    def __init__(self, folder: Path):
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(folder)], check=True)
        self.python = folder / 'bin/python'
        (self.site,) = (folder / 'lib').glob('python3*/site-packages')
        # The editable install is a .pth file. Python ignores those of a folder that a .pth file adds.
        (self.site / 'rest.pth').write_text(f'{sysconfig.get_path("purelib")}\n')

    def run(self, *arguments: str, cwd: Path) -> str:
        """Run this Python with arguments. Returns what it prints."""
        environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
        environment |= {'PIP_NO_INDEX': '1', 'PIP_DISABLE_PIP_VERSION_CHECK': '1'}
        environment |= {'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
        done = subprocess.run([self.python, *arguments], cwd=cwd, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout
