"""tools/setup_env.py with real processes, environments and pip, but fake packages and a fake compiler."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from tests.helpers.tiny_wheels import PYPROJECT, write_wheel

REPO = Path(__file__).parents[2]
TORCH = """
__version__ = '{}'
class cuda:
    is_available = staticmethod(lambda: False)
tensor = ones = str
"""
# Logs its process and arguments. Waits while the file `hold` exists. Fails if the file `error` exists.
COMPILER = """#!/bin/sh
[ "$1" != --version ] || {{ echo clang; exit; }}
echo "$$ $@" >>"{state}/compiled"
while [ -e "{state}/hold" ]; do sleep 0.05; done
[ ! -e "{state}/error" ] || {{ cat "{state}/error"; exit 1; }}
"""


@pytest.fixture(scope='session')
def packages(tmp_path_factory) -> Path:
    """A folder of fake packages, where pip finds them."""
    folder = tmp_path_factory.mktemp('packages')
    names = ('setuptools', 'wheel', 'ninja', 'packaging', 'numpy', 'alpha', 'beta')
    versions = [('mmengine', '0.10.7'), ('mmdet', '3.3.0'), ('mmyolo', '0.6.0'), *((name, '1.0') for name in names)]
    for name, version in versions:
        write_wheel(folder, name, version, {f'{name}/__init__.py': f"__version__ = '{version}'\n"})
    for version in ('2.13.0', '2.14.0'):
        write_wheel(folder, 'torch', version, {'torch/__init__.py': TORCH.format(version)})
    source = tmp_path_factory.mktemp('mmcv') / 'mmcv-2.0.1'
    source.mkdir()
    (source / 'PKG-INFO').write_text('Metadata-Version: 2.1\nName: mmcv\nVersion: 2.0.1\n')
    (source / 'pyproject.toml').write_text(PYPROJECT)
    shutil.copy(REPO / 'tests/helpers/tiny_wheels.py', source)
    with tarfile.open(folder / 'mmcv-2.0.1.tar.gz', 'w:gz') as archive:
        archive.add(source, source.name)
    return folder


def _listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for a test run in the background


class Checkout:
    """The files that tools/setup_env.py needs. The path has spaces and an umlaut. The cache is a folder of its own."""

    def __init__(self, root: Path, packages: Path):
        self.path, self.cache, self.state = root / 'ein Pfad mit ü', root / 'der Cache', root / 'state'
        self.python, self.venv = getattr(sys, '_base_executable', sys.executable), self.path / '.venv'
        self.changing, self.hold = self.venv / '.bgpenalty-changing', self.state / 'hold'
        for folder in (self.state, self.path / 'tools', self.path / 'requirements', self.path / 'mmyolo_bgpenalty'):
            folder.mkdir(parents=True)
        for name in ('tools/setup_env.py', 'requirements/openmmlab.txt'):
            shutil.copy(REPO / name, self.path / name)
        shutil.copytree(REPO / 'tools/mmcv_build', self.path / 'tools/mmcv_build')
        shutil.copy(REPO / 'tests/helpers/tiny_wheels.py', self.path)
        texts = {'pyproject.toml': PYPROJECT, 'setup.py': '', 'mmyolo_bgpenalty/__init__.py': "__version__ = '0.1.0'\n"}
        texts |= {'requirements/runtime.txt': 'alpha==1.0\n', 'requirements/tests.txt': '# for tests\nbeta==1.0\n'}
        texts['requirements/docs.txt'] = ''
        texts['requirements/openmmlab_fork.txt'] = 'mmyolo==0.6.0\nonedl-mmcv==2.3.6\nonedl-mmdetection==3.5.1\n'
        for name, text in texts.items():
            (self.path / name).write_text(text)
        compiler = self.state / 'c++'
        compiler.write_text(COMPILER.format(state=self.state))
        compiler.chmod(0o755)
        settings = ('PIP_', 'BGP_', 'PYTHON', 'TORCH_', 'MAX_JOBS', 'FORCE_CUDA')
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
        self.env |= dict(PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX='1', PIP_FIND_LINKS=str(packages))
        self.env |= dict(PIP_NO_CACHE_DIR='1', BGP_CACHE=str(self.cache), CXX=str(compiler))

    def start(self, **env) -> subprocess.Popen:
        command = [self.python, str(self.path / 'tools/setup_env.py')]
        env = {**self.env, **{name: str(value) for name, value in env.items()}}
        return subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding='utf-8',
            preexec_fn=_listen_to_ctrl_c,
        )

    def end(self, process: subprocess.Popen, ok: bool = True) -> str:
        """Return the output of a set-up that succeeds, or the error line of one that fails."""
        out, err = process.communicate(timeout=300)
        assert (process.returncode == 0) == ok, (out, err)
        assert not list(self.cache.rglob('build-*'))
        if not ok:
            return re.fullmatch('setup: (.+)\n', err)[1]
        assert not err and not self.changing.exists()
        script = 'import torch, mmcv.ops, mmdet, mmyolo, alpha, beta, mmyolo_bgpenalty'
        subprocess.run([self.venv / 'bin/python', '-c', script], check=True, cwd=self.state, env=self.env)
        return out

    def succeed(self, **env) -> str:
        return self.end(self.start(**env))

    def fail(self, **env) -> str:
        return self.end(self.start(**env), ok=False)

    def start_and_hold(self) -> subprocess.Popen:
        """A set-up that compiles MMCV until the file `hold` is removed."""
        self.hold.touch()
        process = self.start()
        wait_for(lambda: self.compiled() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process

    def compiled(self) -> list[str]:
        file = self.state / 'compiled'
        return file.read_text().splitlines() if file.exists() else []


def wait_for(condition) -> None:
    for _ in range(10_000):
        if condition():
            return
        time.sleep(0.03)
    pytest.fail('the condition did not become true')


def is_running(process: str) -> bool:
    try:
        return Path('/proc', process, 'cmdline').read_bytes() != b''  # empty for a zombie
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope='session')
def template(tmp_path_factory, packages) -> Checkout:
    """A checkout after two set-ups. In the first the compiler failed."""
    checkout = Checkout(tmp_path_factory.mktemp('template'), packages)
    (checkout.state / 'error').write_text('a.cpp:1:2: fatal error: no such luck\n')
    checkout.first = checkout.fail()
    (checkout.state / 'error').unlink()
    checkout.second = checkout.succeed()
    return checkout


@pytest.fixture
def checkout(tmp_path, packages, template) -> Checkout:
    """A checkout with an environment, but no wheel of MMCV."""
    checkout = Checkout(tmp_path, packages)
    shutil.copytree(template.venv, checkout.venv, symlinks=True)
    (checkout.venv / '.bgpenalty-setup').unlink()
    yield checkout
    checkout.hold.unlink(missing_ok=True)


def test_a_set_up_is_done_once(template):
    reason, log = 'a.cpp:1:2: fatal error: no such luck', template.venv / 'bgpenalty-setup.log'
    assert template.first == f'the last step failed with code 1 ({reason}); its full output: {log}'
    assert 'makes' not in template.second and 'mmyolo_bgpenalty 0.1.0' in template.second
    assert len(template.compiled()) == 2 and all(' -std=c++17 -c a.cpp' in line for line in template.compiled())
    assert template.succeed() == ''


def test_a_wheel_is_kept_for_each_torch(checkout):
    checkout.succeed()
    assert 'builds' in checkout.succeed(TORCH_SPEC='torch==2.14.0')
    assert checkout.succeed() == ''  # keeps the torch of TORCH_SPEC
    checkout.succeed(TORCH_SPEC='torch==2.13.0', CXX='/no/such/c++')
    assert len(checkout.compiled()) == 2


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_set_up_stopped_while_mmcv_is_built(checkout, number):
    process = checkout.start_and_hold()
    process.send_signal(number)
    assert checkout.end(process, ok=False) == 'stopped; run it again to continue'
    wait_for(lambda: not is_running(checkout.compiled()[0].split()[0]))
    checkout.hold.unlink(missing_ok=True)
    assert 'makes' not in checkout.succeed()


@pytest.mark.parametrize('killed', [False, True])
def test_two_set_ups_at_once(checkout, killed):
    """The second waits for the first. If the first is killed, the second waits for the processes of the first."""
    first = checkout.start_and_hold()
    if killed:
        first.kill()
    second = checkout.start()
    assert 'waits for another set-up' in second.stdout.readline()
    checkout.hold.unlink(missing_ok=True)
    first.communicate()
    assert ('builds' in checkout.end(second)) == killed
    assert len(checkout.compiled()) == 1 + killed


def test_the_next_run_after_a_failure_succeeds(checkout):
    line = checkout.fail(TORCH_SPEC='torch==1.0.0')
    assert 'ERROR: Could not find a version that satisfies the requirement torch==1.0.0 (from versions: 2.13' in line
    advice = 'install g++, or set CXX to a compiler'
    assert checkout.fail(CXX='/no/c++') == f'no /no/c++ found to build MMCV: {advice}'
    assert checkout.fail(CXX='', PATH='') == f'no C++ compiler found to build MMCV: {advice}'
    assert 'makes' not in checkout.succeed()


def test_a_broken_environment_is_reported_and_rebuilt_if_an_installation_was_killed(checkout):
    (package,) = checkout.venv.glob('lib/*/site-packages/mmdet/__init__.py')
    package.write_text('raise ImportError("half a file")\n')
    advice = 'repair or delete it, then run the set-up again'
    assert checkout.fail() == f'{checkout.venv} does not work (ImportError: half a file): {advice}'
    checkout.changing.touch()
    assert 'makes' in checkout.succeed()


def test_invalid_settings_are_refused(checkout):
    line = checkout.fail(BGP_VENV=checkout.state)
    assert line == f'Expected BGP_VENV to be an environment or a new folder, but {checkout.state} has other files'
    line = checkout.fail(BGP_OPENMMLAB='fork')
    assert line == 'Expected BGP_VENV or BGP_PYTHON_ENV with BGP_OPENMMLAB, because .venv is for the original packages'
    assert 'No such file or directory: ' in checkout.fail(BGP_OPENMMLAB='other', BGP_VENV=checkout.venv)
    script = checkout.path / 'tools/setup_env.py'
    script.write_text(
        script.read_text().replace('OLDEST, NEWEST = (3, 10), (3, 13)', 'OLDEST, NEWEST = (3, 3), (3, 5)')
    )
    assert checkout.fail().startswith(f'Expected Python 3.3 to 3.5, but {checkout.python} is 3.')


@pytest.mark.parametrize('openmmlab', ['', 'fork'])
def test_an_existing_environment_keeps_its_packages(checkout, openmmlab, tmp_path):
    """Packages with other versions stay. The fork stays, too, with and without BGP_OPENMMLAB."""
    (site,) = checkout.venv.glob('lib/*/site-packages')
    for name in ('alpha', 'beta', 'mmcv', 'mmdet'):
        shutil.rmtree(next(site.glob(f'{name}-*.dist-info')))
    for name, version in {'alpha': '0.5', 'onedl_mmcv': '2.3.6', 'onedl_mmdetection': '3.5.1'}.items():
        zipfile.ZipFile(tmp_path / write_wheel(tmp_path, name, version, {})).extractall(site)
    checkout.succeed(BGP_PYTHON_ENV=checkout.venv, BGP_OPENMMLAB=openmmlab)
    found = {path.name.removesuffix('.dist-info') for path in site.glob('*.dist-info')}
    assert {'alpha-0.5', 'beta-1.0', 'onedl_mmcv-2.3.6', 'onedl_mmdetection-3.5.1'} <= found
    assert not {'alpha-1.0', 'mmcv-2.0.1', 'mmdet-3.3.0'} & found and not checkout.compiled()
