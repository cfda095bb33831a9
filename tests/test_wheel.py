"""The package, installed from its source archive without a checkout, in an environment of its own."""

import ast
import re
import sys
from pathlib import Path

import pytest

from mmyolo_bgpenalty.__main__ import COMMANDS
from mmyolo_bgpenalty.compat import REQUIRED
from tests.helpers.environments import OwnEnvironment, copy_checkout
from tests.helpers.tiny import CONFIGS, ROOT, SEMI, SMALL, data_options, stated

# The package does not require these. Torch, OpenMMLab and OpenCV must match each other and the machine. The others are
# optional.
NOT_REQUIRED = {*REQUIRED, 'cv2', 'onnx', 'onnxruntime', 'ultralytics'}
DISTRIBUTIONS = {'PIL': 'pillow', 'yaml': 'pyyaml'}  # of modules with another name

# Two iterations, with unlabeled images, and neither validation nor checkpoints.
SHORT = {
    'burn_in': 0,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_begin': 2,
    'default_hooks.checkpoint.interval': -1,
    'default_hooks.checkpoint.save_best': None,
    'default_hooks.checkpoint.save_last': False,
    'train_dataloader.dataset.labeled.indices': 4,
    'train_dataloader.dataset.unlabeled.indices': 4,
}


@pytest.fixture(scope='module')
def installed(tmp_path_factory) -> OwnEnvironment:
    """The source archive is made from a copy of the checkout. The wheel is built from the archive."""
    folder = tmp_path_factory.mktemp('wheel')
    checkout, environment = copy_checkout(folder / 'checkout'), OwnEnvironment(folder / 'env')
    # An earlier build may have left a file that the checkout no longer has.
    stale = checkout / 'build/lib/mmyolo_bgpenalty/stale.py'
    stale.parent.mkdir(parents=True)
    stale.touch()
    environment.run('setup.py', '-q', 'sdist', '--dist-dir', str(folder), cwd=checkout)
    (archive,) = folder.glob('*.tar.gz')
    environment.run('-m', 'pip', 'install', '--no-build-isolation', str(archive), cwd=folder)
    return environment


@pytest.fixture(scope='module')
def package(installed) -> Path:
    return installed.site / 'mmyolo_bgpenalty'


def mim_finds(package: Path, config: str) -> Path:
    """The config that ``mim train mmyolo_bgpenalty CONFIG`` takes: mim/commands/train.py of openmim 0.3.9.

    OpenMIM looks for the file name in the whole package, and refuses several files of this name.
    """
    (found,) = package.rglob(config)
    return found


def test_the_wheel_has_everything_once(package):
    shipped = {path.relative_to(package / '.mim').as_posix() for path in package.glob('.mim/**/*.py')}
    tools = {f'tools/{path.name}' for path in (ROOT / 'tools').glob('*.py')} - {
        'tools/setup_env.py',
        'tools/noxfile.py',
    }
    assert shipped == tools | {f'configs/{path.relative_to(CONFIGS).as_posix()}' for path in CONFIGS.rglob('*.py')}
    inside, checkout = (
        {
            path.relative_to(folder).as_posix()
            for path in folder.rglob('*.*')
            if path.suffix in ('.py', '.html', '.css', '.js')
        }
        for folder in (package, ROOT / 'mmyolo_bgpenalty')
    )
    assert {name for name in inside if not name.startswith('.mim/')} == checkout


def test_mim_finds_each_config_by_its_file_name(package):
    for config in CONFIGS.glob('*.py'):
        assert mim_finds(package, config.name) == package / '.mim/configs' / config.name


def test_the_wheel_requires_the_packages_that_it_imports(installed):
    (about,) = installed.site.glob('*.dist-info')
    required = set(re.findall(r'^Requires-Dist: (\S+)$', (about / 'METADATA').read_text(encoding='utf-8'), re.M))
    nodes = [
        node for path in (ROOT / 'mmyolo_bgpenalty').rglob('*.py') for node in ast.walk(ast.parse(path.read_text()))
    ]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    others = {name.partition('.')[0] for name in imported} - {*sys.stdlib_module_names, 'mmyolo_bgpenalty'}
    assert {DISTRIBUTIONS.get(name, name) for name in others - NOT_REQUIRED} == required
    assert list(about.rglob('LICENSE'))
    # An environment with OpenMMLab and globox has them all, so pip has added nothing else.
    added = {path.name for path in installed.site.iterdir()} - {'rest.pth', '__pycache__'}
    assert added == {'mmyolo_bgpenalty', about.name}


def test_commands_and_configs_are_those_of_the_wheel(installed, package, data, tmp_path):
    """In one process, because the import takes seconds. The folder is empty, so `check` takes the shipped config."""
    code = f"""
from mmyolo_bgpenalty import config
from mmyolo_bgpenalty.__main__ import main
print(config('{SEMI}'))
print(config('yolov8_bgpenalty_own.py', max_epochs=3))
main(['--help'])
raise SystemExit(main(['check', '{SEMI}', '--cfg-options', *{stated(data_options(data))}]))
"""
    shipped, copied, *usage, checked = installed.run('-c', code, cwd=tmp_path).splitlines()
    assert Path(shipped) == package / '.mim/configs' / SEMI
    assert copied.endswith('/yolov8_bgpenalty_own.py') and not Path(copied).exists()
    assert all(any(line.startswith(f'  {name} ') for line in usage) for name in COMMANDS)
    assert checked.startswith(f'{SEMI}: errors: 0')


def test_mim_trains_a_config_of_the_wheel(installed, package, data, tmp_path):
    options = data_options(data) | SMALL | SHORT
    arguments = ['--launcher', 'none', '--work-dir', 'runs', '--cfg-options', *stated(options)]
    script = package / '.mim/tools/train.py'
    printed = installed.run(str(script), str(mim_finds(package, SEMI)), *arguments, cwd=tmp_path)
    assert 'Epoch(train) [1][2/2]' in printed
