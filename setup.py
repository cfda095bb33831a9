import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

NAME = 'mmyolo_bgpenalty'
ROOT = Path(__file__).resolve().parent
DEVELOPMENT = ('noxfile.py', 'setup_env.py')  # tools that only a checkout needs


class BuildWithConfigs(build_py):
    """Copies configs/ and the commands of tools/ to mmyolo_bgpenalty/.mim/, where OpenMIM looks for them.

    An editable install reads the checkout instead.
    """

    def run(self):
        # An earlier build may have left files that the checkout no longer has.
        shutil.rmtree(Path(self.build_lib, NAME), ignore_errors=True)
        super().run()
        for target, file in self.shipped().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(str(file), target)

    def get_outputs(self, include_bytecode=True):
        return [*super().get_outputs(include_bytecode), *self.shipped()]

    def shipped(self):
        """File in the built package -> file in the checkout."""
        if getattr(self, 'editable_mode', False):
            return {}
        tools = (file for file in (ROOT / 'tools').glob('*.py') if file.name not in DEVELOPMENT)
        files = [*(ROOT / 'configs').rglob('*.py'), *tools]
        return {str(Path(self.build_lib, NAME, '.mim', file.relative_to(ROOT))): file for file in files}


version = re.search(r"__version__ = '([^']+)'", (ROOT / NAME / 'version.py').read_text(encoding='utf-8'))

setup(
    name=NAME,
    version=version.group(1),
    description='Semi-supervised YOLOv8 with a background penalty, for MMDetection and MMYOLO',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='GPL-3.0-or-later',
    python_requires='>=3.10',
    keywords='object detection, semi-supervised, YOLOv8, MMDetection, MMYOLO, OpenMMLab',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(10, 14)),
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=find_packages(include=[f'{NAME}*']),
    package_data={f'{NAME}.cli.report': ['page.*']},
    # Not torch, OpenMMLab's packages and OpenCV: they must match each other and the machine, so pip must not replace
    # them. The package checks their versions at import. torch needs jinja2, and OpenMMLab needs all others but globox.
    install_requires=[
        'globox',
        'jinja2',
        'matplotlib',
        'numpy',
        'pillow',
        'pycocotools',
        'pyyaml',
        'rich',
        'scipy',
        'terminaltables',
    ],
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
)
