import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

NAME = 'mmyolo_bgpenalty'
ROOT = Path(__file__).resolve().parent


class BuildWithConfigs(build_py):
    """Copies configs/ into the built package. An editable install reads the configs in the checkout."""

    def run(self):
        super().run()
        if not getattr(self, 'editable_mode', False):
            target = Path(self.build_lib, NAME, 'configs')
            shutil.copytree(ROOT / 'configs', target, ignore=shutil.ignore_patterns('__pycache__'), dirs_exist_ok=True)

    def get_outputs(self, include_bytecode=True):
        configs = [] if getattr(self, 'editable_mode', False) else (ROOT / 'configs').rglob('*.py')
        copied = [str(Path(self.build_lib, NAME, file.relative_to(ROOT))) for file in configs]
        return super().get_outputs(include_bytecode) + copied


version = re.search(r"__version__ = '([^']+)'", (ROOT / NAME / 'version.py').read_text(encoding='utf-8'))

setup(
    name=NAME,
    version=version.group(1),
    description='Semi-supervised YOLOv8 with a background penalty, for MMDetection and MMYOLO',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='GPL-3.0-or-later',
    python_requires='>=3.10',
    packages=find_packages(include=[f'{NAME}*']),
    # None: mmcv and torch must match each other and the machine, so pip must not replace them. The package checks
    # their versions at import.
    install_requires=[],
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
)
