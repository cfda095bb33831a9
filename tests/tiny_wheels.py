"""Made-up packages for `test_setup_env.py`: writes their wheels, and builds those that come as source."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path


def write_wheel(folder, name: str, version: str, files: dict) -> str:
    """Writes a wheel of these files, given by their path, and returns its name."""
    info = f'{name}-{version}.dist-info'
    files = {
        **files,
        f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n',
        f'{info}/WHEEL': 'Wheel-Version: 1.0\nGenerator: tiny\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    }
    record = ''.join(f'{path},,\n' for path in [*files, f'{info}/RECORD'])
    with zipfile.ZipFile(Path(folder, f'{name}-{version}-py3-none-any.whl'), 'w') as archive:
        for path, text in {**files, f'{info}/RECORD': record}.items():
            archive.writestr(path, text)
    return f'{name}-{version}-py3-none-any.whl'


# What pip calls to build; see PEP 517 and PEP 660


def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = Path(folder, 'mmcv-2.0.1.dist-info')
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: mmcv\nVersion: 2.0.1\n')
    return info.name


def build_wheel(folder, config_settings=None, metadata_directory=None):
    """Compiles three files as MMCV does, saying how far it is as ninja does."""
    for number in (1, 2, 3):
        command = [os.environ['CXX'], '-std=c++14', '-c', f'{number}.cpp', '-o', f'{number}.o']
        if subprocess.run(command).returncode:
            sys.exit(f'{number}.cpp does not compile')
        print(f'[{number}/3] {" ".join(command)}', flush=True)
    files = {'mmcv/__init__.py': "__version__ = '2.0.1'\n", 'mmcv/ops.py': 'def nms(*args): pass\n', 'mmcv/_ext.so': ''}
    return write_wheel(folder, 'mmcv', '2.0.1', files)


def build_editable(folder, config_settings=None, metadata_directory=None):
    return write_wheel(folder, 'mmyolo_bgpenalty', '0.1.0', {'mmyolo_bgpenalty.pth': f'{os.getcwd()}\n'})
