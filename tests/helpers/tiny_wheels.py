"""Fake packages for `test_setup_env.py`: writes their wheels, and builds two from source (PEP 517 and 660)."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "tiny_wheels"\nbackend-path = ["."]\n'


def write_wheel(folder, name: str, version: str, files: dict) -> str:
    """Write a wheel with these files: their texts by path. Return the name of the wheel."""
    info = f'{name}-{version}.dist-info'
    files = {
        **files,
        f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n',
        f'{info}/WHEEL': 'Wheel-Version: 1.0\nGenerator: tiny\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    }
    files[f'{info}/RECORD'] = ''.join(f'{path},,\n' for path in [*files, f'{info}/RECORD'])
    wheel = f'{name}-{version}-py3-none-any.whl'
    with zipfile.ZipFile(Path(folder, wheel), 'w') as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def build_wheel(folder, config_settings=None, metadata_directory=None):
    """Compile a file as MMCV does, with the compiler in CXX."""
    if subprocess.run([os.environ['CXX'], '-std=c++14', '-c', 'a.cpp', '-o', 'a.o']).returncode:
        sys.exit('a.cpp does not compile')
    files = {'mmcv/__init__.py': "__version__ = '2.0.1'\n", 'mmcv/ops.py': 'def nms(*args): pass\n', 'mmcv/_ext.so': ''}
    return write_wheel(folder, 'mmcv', '2.0.1', files)


def build_editable(folder, config_settings=None, metadata_directory=None):
    return write_wheel(folder, 'mmyolo_bgpenalty', '0.1.0', {'mmyolo_bgpenalty.pth': f'{os.getcwd()}\n'})
