"""tools/setup_env.py under faults, with real processes, environments and pip, but made-up packages and compilers.

Each fault ends in one line, and the next run succeeds.
"""

import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tiny_wheels import write_wheel

REPO = Path(__file__).resolve().parents[1]
PYTHON = getattr(sys, '_base_executable', sys.executable)
TORCH = """
__version__ = '2.13.0'
class cuda:
    is_available = staticmethod(lambda: False)
def tensor(values): return values
def ones(count): return [1.0] * count
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "tiny_wheels"\nbackend-path = ["."]\n'
# says that it is clang, so that no header is precompiled; $STATE/hold has it wait, $STATE/error has it fail
COMPILER = """#!/bin/sh
case " $* " in *" -E "*) echo '#define __clang__ 1'; exit ;; esac
echo "$$" >>"{state}/compiled"
while [ -e "{state}/hold" ]; do sleep 0.05; done
[ ! -e "{state}/error" ] || {{ cat "{state}/error"; exit 1; }}
"""

STARTED = []  # the processes of a test, and what holds their compilers


@pytest.fixture(scope='session')
def index(tmp_path_factory) -> str:
    """URL of a package index with made-up packages."""
    root = tmp_path_factory.mktemp('index')
    source = "__version__ = '{}'\n"
    packages = {'torch': '2.13.0', 'mmengine': '0.10.7', 'mmdet': '3.3.0', 'mmyolo': '0.6.0'}
    packages.update(dict.fromkeys(['setuptools', 'wheel', 'ninja', 'packaging', 'numpy', 'alpha', 'beta'], '1.0'))
    for name, version in packages.items():
        (root / name).mkdir()
        files = {f'{name}/__init__.py': TORCH if name == 'torch' else source.format(version)}
        if name == 'torch':
            files['torch-2.13.0.dist-info/entry_points.txt'] = '[console_scripts]\ntorchrun = torch:ones\n'
        write_wheel(root / name, name, version, files)
    (root / 'mmcv').mkdir()
    work = tmp_path_factory.mktemp('mmcv') / 'mmcv-2.0.1'
    work.mkdir()
    (work / 'pyproject.toml').write_text(PYPROJECT)
    shutil.copy(REPO / 'tests' / 'tiny_wheels.py', work)
    with tarfile.open(root / 'mmcv' / 'mmcv-2.0.1.tar.gz', 'w:gz') as archive:
        archive.add(work, work.name)
    for folder in root.iterdir():
        links = ''.join(f'<a href="{file.name}">{file.name}</a>\n' for file in folder.iterdir())
        (folder / 'index.html').write_text(f'<!DOCTYPE html><html><body>{links}</body></html>')
    return root.as_uri()


class Checkout:
    """What tools/setup_env.py needs of a checkout, in a folder with spaces and an umlaut, with a cache of its own."""

    def __init__(self, root: Path, index: str):
        self.path, self.cache, self.state = root / 'ein Pfad mit ü', root / 'der Cache', root / 'state'
        self.python = PYTHON
        (root / 'tmp').mkdir(parents=True)
        self.state.mkdir()
        for name in ('tools', 'requirements', 'mmyolo_bgpenalty'):
            (self.path / name).mkdir(parents=True)
        for name in ('setup_env.py', 'mmcv_cxx.sh'):
            shutil.copy(REPO / 'tools' / name, self.path / 'tools')
        shutil.copy(REPO / 'tests' / 'tiny_wheels.py', self.path)
        (self.path / 'pyproject.toml').write_text(PYPROJECT)
        (self.path / 'setup.py').write_text('')
        (self.path / 'requirements' / 'runtime.txt').write_text('alpha==1.0\n')
        (self.path / 'requirements' / 'tests.txt').write_text('beta==1.0\n')
        (self.path / 'mmyolo_bgpenalty' / '__init__.py').write_text("__version__ = '0.1.0'\n")
        compiler = self.state / 'c++'
        compiler.write_text(COMPILER.format(state=self.state))
        compiler.chmod(0o755)
        ours = ('PIP_', 'BGP_', 'PYTHON', 'TORCH_', 'CXX', 'MAX_JOBS', 'FORCE_CUDA', 'LC_', 'LANG')
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(ours) and not k.lower().endswith('_proxy')}
        self.env.update(
            BGP_CACHE=str(self.cache),
            CXX=str(compiler),
            PIP_CONFIG_FILE=os.devnull,
            PIP_INDEX_URL=index,
            PIP_NO_CACHE_DIR='1',
            PIP_RETRIES='1',
            TMPDIR=str(root / 'tmp'),
        )

    @property
    def venv(self) -> Path:
        return self.path / '.venv'

    @property
    def packages(self) -> Path:
        return self.venv / 'lib' / 'python{}.{}'.format(*sys.version_info) / 'site-packages'

    def start(self, **env) -> subprocess.Popen:
        command = [self.python, str(self.path / 'tools' / 'setup_env.py')]
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        env = {k: str(v) for k, v in {**self.env, **env}.items() if v is not None}
        session = dict(start_new_session=True, preexec_fn=as_on_a_terminal)
        process = subprocess.Popen(command, env=env, encoding='utf-8', **session, **pipes)
        STARTED.append((process, self.state / 'hold'))
        return process

    def run(self, **env) -> subprocess.CompletedProcess:
        with self.start(**env) as process:
            out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def succeeds(self, **env) -> str:
        result = self.run(**env)
        assert (result.returncode, result.stderr) == (0, ''), result
        script = 'import torch, mmcv.ops, mmdet, mmyolo, alpha, beta, mmyolo_bgpenalty'
        subprocess.run([self.venv / 'bin' / 'python', '-c', script], check=True, cwd=self.state, env=self.env)
        return result.stdout

    def fails(self, *, code: int = 1, **env) -> str:
        result = self.run(**env)
        return one_line(result.returncode, result.stdout, result.stderr, code)

    def held(self, **env) -> subprocess.Popen:
        """A set-up that is compiling, and stays there until the hold is released."""
        (self.state / 'hold').touch()
        process = self.start(**env)
        wait_for(lambda: (self.state / 'compiled').exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process

    def release(self):
        (self.state / 'hold').unlink()

    def compiled(self) -> list:
        """Process ids of the compilers that were started."""
        return [int(pid) for pid in (self.state / 'compiled').read_text().split()]

    def undo(self, step: str, package: str = ''):
        """Has the set-up do this step again, and its package's metadata missing."""
        stamp = self.venv / '.bgpenalty-setup.json'
        state = json.loads(stamp.read_text())
        del state[step]
        stamp.write_text(json.dumps(state))
        for metadata in self.packages.glob(f'{package}-*.dist-info') if package else ():
            shutil.rmtree(metadata)

    def files(self) -> set:
        return {path for root in (self.path, self.cache) for path in root.rglob('*') if path.suffix != '.pyc'}


def one_line(code: int, out: str, err: str, expected: int = 1) -> str:
    assert code == expected, (out, err)
    assert 'Traceback' not in out
    (line,) = err.splitlines()
    assert line.startswith('setup: ')
    return line


def wait_for(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def as_on_a_terminal():
    """Under nohup, or in the background of a script, the tests ignore signals, and so would what they start."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def read_until(process: subprocess.Popen, text: str) -> str:
    limit = threading.Timer(300, process.kill)
    limit.start()
    seen = ''
    while text not in seen:
        line = process.stdout.readline()
        assert line, (seen, process.communicate())
        seen += line
    limit.cancel()
    return seen


def alive(pid: int) -> bool:
    try:  # a zombie is not alive
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> list:
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [found for child in map(int, children) for found in (child, *descendants(child))]


@pytest.fixture(autouse=True)
def none_left():
    """A test that fails leaves no set-up behind."""
    yield
    for process, hold in STARTED:
        hold.unlink(missing_ok=True)
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=300)
    STARTED.clear()


@pytest.fixture
def checkout(tmp_path, index) -> Checkout:
    return Checkout(tmp_path / 'one', index)


@pytest.fixture(scope='session')
def template(tmp_path_factory, index) -> Checkout:
    """One that is set up, at the second try: the compiler failed."""
    checkout = Checkout(tmp_path_factory.mktemp('template') / 'one', index)
    (checkout.state / 'error').write_text('1.cpp:1:2: fatal error: no such luck\n')
    checkout.first = checkout.fails()
    assert not list(checkout.cache.rglob('build-*'))
    (checkout.state / 'error').unlink()
    checkout.second = checkout.succeeds()
    return checkout


@pytest.fixture
def done(tmp_path, index, template) -> Checkout:
    """A checkout that is set up, its cache empty."""
    return copy_of(template, tmp_path / 'done', index)


@pytest.fixture
def begun(done) -> Checkout:
    """A checkout in which MMCV has to be compiled."""
    done.undo('mmcv', 'mmcv')
    return done


@pytest.fixture
def lacking(done) -> Checkout:
    """A checkout in which pip has something to install from the index."""
    done.undo('requirements', 'beta')
    return done


def copy_of(template: Checkout, root: Path, index: str) -> Checkout:
    checkout = Checkout(root, index)
    shutil.copytree(template.venv, checkout.venv, symlinks=True)
    return checkout  # whose own package is still to be installed


def test_a_set_up_is_done_once(template):
    assert 'compiling MMCV failed: 1.cpp:1:2: fatal error: no such luck; all of the output: ' in template.first
    assert 'torch==2.13.0' not in template.second  # what was done before is not done again
    assert 'mmyolo_bgpenalty 0.1.0' in template.second
    assert len(template.compiled()) == 1 + 3
    assert template.succeeds() == ''


@pytest.mark.parametrize('how', ['none', 'no such program', 'cannot be run', 'does not work'])
def test_no_compiler(checkout, how, tmp_path):
    broken = tmp_path / 'broken'
    broken.write_text('#!/bin/sh\necho this is no compiler >&2\nexit 1\n' if how == 'does not work' else '\x7fELF')
    broken.chmod(0o755)
    (tmp_path / 'bin').mkdir()
    env, expected = {
        'none': (dict(CXX=None, PATH=tmp_path / 'bin'), 'no C++ compiler (g++, c++, clang++): '),
        'no such program': (dict(CXX='/no/such/c++'), 'CXX=/no/such/c++ is no program: '),
        'cannot be run': (dict(CXX=broken), f'{broken} compiles no C++17 (Exec format error): '),
        'does not work': (dict(CXX=broken), f'{broken} compiles no C++17 (this is no compiler): '),
    }[how]
    before = checkout.files()
    line = checkout.fails(**env)
    assert line.startswith(f'setup: {expected}install the package g++, or name a')
    assert checkout.files() == before  # so the next run is as the first


def test_no_headers(checkout, tmp_path):
    """An interpreter whose include folder is not there, as where a distribution packs it by itself."""
    version = 'python{}.{}'.format(*sys.version_info)
    (tmp_path / 'home' / 'lib').mkdir(parents=True)
    (tmp_path / 'home' / 'lib' / version).symlink_to(os.path.dirname(os.__file__))
    before = checkout.files()
    line = checkout.fails(PYTHONHOME=tmp_path / 'home')
    include = tmp_path / 'home' / 'include' / version
    assert line == f'setup: no Python.h in {include}: install the package python3-dev; MMCV has to be compiled'
    assert checkout.files() == before


# A full disk


def patched(folder: Path, code: str) -> str:
    """A PYTHONPATH that has every Python run this code first."""
    folder.mkdir()
    (folder / 'sitecustomize.py').write_text(code)
    return str(folder)


def test_too_small_a_disk(checkout, tmp_path):
    code = 'import shutil\nshutil.disk_usage = lambda path: shutil._ntuple_diskusage(2 * 10**9, 10**9, {})\n'
    before = checkout.files()
    line = checkout.fails(PYTHONPATH=patched(tmp_path / '2GB', code.format('2 * 10**9')))
    assert line == f'setup: the environment needs 3.0 GB in {checkout.venv}, 2.0 GB are free: make room'
    checkout.venv.mkdir()
    (checkout.venv / 'lib').mkdir()
    line = checkout.fails(PYTHONPATH=patched(tmp_path / '1GB', code.format('10**9')))
    assert line == f'setup: compiling MMCV needs 1.5 GB in {checkout.cache}, 1.0 GB are free: make room'
    shutil.rmtree(checkout.venv)
    assert {path for path in checkout.files() if path.parent != checkout.cache} == before


def test_the_disk_fills_while_the_environment_is_made(checkout, tmp_path):
    code = (
        'import os, shutil\n'
        'def usage(path): return shutil._ntuple_diskusage(10**10, 0, 0 if os.path.exists({!r}) else 10**10)\n'
        'shutil.disk_usage = usage\n'
    )
    path = patched(tmp_path / 'full', code.format(str(checkout.venv)))
    made = f'import os, sys\nos.mkdir({str(checkout.venv)!r})\nsys.exit(1)\n'
    (tmp_path / 'full' / 'venv').mkdir()
    (tmp_path / 'full' / 'venv' / '__init__.py').touch()
    (tmp_path / 'full' / 'venv' / '__main__.py').write_text(made)
    assert checkout.fails(PYTHONPATH=path) == 'setup: cannot make .venv: the disk is full: make room'
    checkout.succeeds()


def test_the_disk_fills_while_pip_installs(lacking, tmp_path):
    path = patched(tmp_path / 'full', '')
    message = 'ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device'
    (tmp_path / 'full' / 'pip.py').write_text(f'import sys\nprint({message!r})\nsys.exit(1)\n')
    line = lacking.fails(PYTHONPATH=path)
    assert line.startswith('setup: pip install failed: the disk is full (Could not install packages due to an OSError')
    assert line.endswith(f': make room; all of its output: {lacking.venv / "bgpenalty-pip.log"}')
    lacking.succeeds()


def test_the_disk_fills_while_a_log_is_written(lacking):
    log = lacking.venv / 'bgpenalty-pip.log'
    log.unlink()
    log.symlink_to('/dev/full')
    assert lacking.fails() == f'setup: the disk is full ({log}): make room'
    log.unlink()
    lacking.succeeds()


def test_the_disk_fills_while_mmcv_is_compiled(begun):
    error = begun.state / 'error'
    error.write_text('1.cpp:9: fatal error: error writing to 1.s: No space left on device\n')
    line = begun.fails()
    assert 'compiling MMCV failed: the disk is full (1.cpp:9: fatal error: error writing to 1.s: No space' in line
    assert ': make room; all of the output: ' in line
    assert not list(begun.cache.rglob('build-*'))
    error.unlink()
    begun.succeeds()


# Stopped and killed


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_while_mmcv_is_compiled(begun, number):
    process = begun.held()
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    line = one_line(process.returncode, out, err, 128 + number)
    assert line == 'setup: stopped; run it again to go on where it was'
    assert not any(map(alive, begun.compiled()))
    assert not list(begun.cache.rglob('build-*'))
    begun.release()
    begun.succeeds()


def test_killed_while_mmcv_is_compiled(begun):
    process = begun.held()
    process.kill()
    process.communicate(timeout=300)
    wait_for(lambda: not any(map(alive, begun.compiled())))
    (left,) = begun.cache.rglob('build-*')
    begun.release()
    begun.succeeds()
    assert not left.exists()


STUBBORN_PIP = """
import os, pathlib, signal, sys, time
state = pathlib.Path({state!r})
if (state / 'pid').exists():
    try:
        stat = pathlib.Path('/proc', (state / 'pid').read_text(), 'stat').read_text()
    except FileNotFoundError:
        stat = ') Z'
    (state / 'met').write_text(stat.rsplit(')', 1)[1].split()[0])
    sys.exit('ERROR: that is all')
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(state / 'part').write_text(str(os.getpid()))
(state / 'part').rename(state / 'pid')
time.sleep(600)
"""


def test_the_next_waits_until_all_that_a_killed_one_left_is_stopped(lacking, tmp_path):
    """A pip that does not stop when asked to is killed, and does not meet that of the next set-up."""
    path = patched(tmp_path / 'path', '')
    state = lacking.state
    (tmp_path / 'path' / 'pip.py').write_text(STUBBORN_PIP.format(state=str(state)))
    process = lacking.start(PYTHONPATH=path)
    wait_for((state / 'pid').exists)
    process.kill()
    process.communicate(timeout=300)
    assert 'that is all' in lacking.fails(PYTHONPATH=path)
    assert (state / 'met').read_text() in 'ZX'  # dead
    lacking.succeeds()


def test_all_killed_while_mmcv_is_compiled(begun):
    process = begun.held()
    stop = descendants(process.pid)
    for pid in [process.pid, *stop]:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=300)
    (left,) = begun.cache.rglob('build-*')
    begun.release()
    begun.succeeds()
    assert not left.exists()


def test_killed_while_the_environment_is_made(checkout):
    """pip is unpacked in order of its files' names: it can be imported, but is not whole."""
    subprocess.run([PYTHON, '-m', 'venv', '--without-pip', checkout.venv], check=True)
    (checkout.packages / 'pip').mkdir()
    (checkout.packages / 'pip' / '__init__.py').write_text('')
    checkout.succeeds()


@pytest.mark.parametrize('lacks', ['RECORD', 'INSTALLER in RECORD'])
def test_killed_while_pip_installs(done, lacks):
    """Unpacked, but its scripts not made: pip by itself would take it for installed."""
    record = done.packages / 'torch-2.13.0.dist-info' / 'RECORD'
    script = done.venv / 'bin' / 'torchrun'
    assert script.exists()
    script.unlink()
    record.write_text(record.read_text().replace('INSTALLER', 'OTHER'))
    if lacks == 'RECORD':
        record.unlink()
    done.undo('torch')
    done.succeeds()
    assert script.exists()
    assert 'INSTALLER' in record.read_text()


def test_what_others_installed_is_left(begun, tmp_path):
    """An environment that .venv links to may hold packages that pip did not install."""
    other = tmp_path / 'other'
    begun.venv.rename(other)
    begun.venv.symlink_to(other)
    (other / 'pyvenv.cfg').rename(other / 'no.cfg')
    foreign = begun.packages / 'foreign-1.0.dist-info'
    foreign.mkdir()
    begun.run()
    assert foreign.exists()


# The cache


def test_a_cache_that_cannot_be_written(begun):
    """A file stands in its way, which stops root, too."""
    begun.cache.write_text('')
    result = begun.run(BGP_CACHE=begun.cache / 'wheels')
    line = one_line(result.returncode, result.stdout, result.stderr, 0)
    assert line == (
        f'setup: the cache {begun.cache / "wheels"} cannot be written: the wheel of MMCV is not kept; '
        'check who owns it, or name another folder in BGP_CACHE'
    )
    assert not list((begun.path.parent / 'tmp').glob('mmyolo_bgpenalty-*'))
    assert begun.succeeds() == ''


@pytest.fixture
def full_cache(tmp_path, template) -> Path:
    shutil.copytree(template.cache, tmp_path / 'cache')
    return tmp_path / 'cache'


def test_a_cache_that_can_only_be_read(begun, full_cache):
    folders = [full_cache, *(path for path in full_cache.rglob('*') if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    begun.succeeds(BGP_CACHE=full_cache, CXX='/no/such/c++')
    for folder in folders:
        folder.chmod(0o755)


def test_damaged_wheels(begun, full_cache):
    (wheel,) = full_cache.rglob('*.whl')
    whole = wheel.stat().st_size
    with wheel.open('r+b') as file:
        file.truncate(100)
    (wheel.parent / 'mmcv-0.whl').mkdir()  # cannot be removed as a file is
    result = begun.run(BGP_CACHE=full_cache)
    assert result.returncode == 0
    assert set(result.stderr.splitlines()) == {
        f'setup: {wheel.parent / "mmcv-0.whl"} is damaged, and cannot be removed: not used',
        f'setup: {wheel.name} in the cache was damaged: removed, to be built again',
    }
    assert wheel.stat().st_size == whole
    assert begun.succeeds() == ''


# The network


@contextmanager
def server(answer: str):
    """Port of a server that answers everything so."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline().strip():
                pass
            self.wfile.write(f'HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'.encode())

    with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found.server_address[1]
        found.shutdown()


@contextmanager
def nobody():
    """A port that nobody listens at, nor will."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ('answer', 'variable', 'cause'),
    [
        (None, 'https_proxy', '[Errno 111] Connection refused'),
        (None, 'PIP_PROXY', '[Errno 111] Connection refused'),
        ('407 Proxy Authentication Required', 'https_proxy', 'Tunnel connection failed: 407 Proxy Auth'),
        ('502 Bad Gateway', 'https_proxy', 'Tunnel connection failed: 502 Bad Gateway'),
    ],
)
def test_a_proxy_that_does_not_work(lacking, answer, variable, cause):
    before = lacking.files()
    with server(answer) if answer else nobody() as port:
        proxy = {variable: f'http://somebody:secret@127.0.0.1:{port}'}
        line = lacking.fails(PIP_INDEX_URL='https://index.invalid/simple', **proxy)
    assert line.startswith(f'setup: pip install failed: the proxy does not work ({cause}')
    assert '): check https_proxy, http_proxy and PIP_PROXY; all of its output: ' in line
    assert 'secret' not in line
    assert lacking.files() == before
    if variable == 'PIP_PROXY':  # once is enough, as nothing was changed
        lacking.succeeds()


def test_a_proxy_that_is_none(lacking):
    line = lacking.fails(PIP_INDEX_URL='https://index.invalid/simple', https_proxy='nonsense:')
    assert 'pip install failed: the proxy does not work (Please check proxy URL' in line


@pytest.mark.parametrize(
    ('answer', 'cause'),
    [(None, '[Errno 111] Connection refused'), ('502 Bad Gateway', '502 Server Error: Bad Gateway')],
)
@pytest.mark.parametrize('retries', [0, 1])
def test_an_index_that_does_not_answer(lacking, answer, cause, retries):
    before = lacking.files()
    with server(answer) if answer else nobody() as port:
        line = lacking.fails(PIP_INDEX_URL=f'http://127.0.0.1:{port}/simple', PIP_RETRIES=retries)
    assert line.startswith(
        'setup: pip install failed: no network, or the package index does not answer as it should ('
        f'{cause}): check the network, or name another index in PIP_INDEX_URL; all of its output: '
    )
    assert lacking.files() == before


def test_an_index_that_lacks_a_package(lacking, tmp_path):
    (tmp_path / 'empty').mkdir()
    line = lacking.fails(PIP_INDEX_URL=(tmp_path / 'empty').as_uri())
    assert 'pip install failed: the package index has no such package for this Python (No matching' in line


def test_an_index_that_lacks_a_version(lacking):
    line = lacking.fails(TORCH_SPEC='torch==1.0.0')
    assert 'pip install failed: the package index has no such version for this Python (No matching' in line
    lacking.succeeds()


# Two at once


def test_two_on_one_checkout(begun):
    first = begun.held()
    second = begun.start()
    read_until(second, 'that holds this environment\n')
    begun.release()
    for process in (first, second):
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, '')
    assert out == ''  # the second found all done
    assert len(begun.compiled()) == 3
    assert begun.succeeds() == ''


def test_two_checkouts_with_one_cache(begun, tmp_path, index, template):
    other = copy_of(template, tmp_path / 'other', index)
    other.undo('mmcv', 'mmcv')
    first = begun.held()
    second = other.start(BGP_CACHE=begun.cache)
    read_until(second, 'that holds the build of MMCV\n')
    begun.release()
    for process in (first, second):
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, '')
    assert 'compiles' not in out
    assert len(begun.compiled()) == 3
    assert not (other.state / 'compiled').exists()


def test_stopped_while_it_waits_for_another(begun):
    first = begun.held()
    second = begun.start()
    read_until(second, 'that holds this environment\n')
    second.terminate()
    out, err = second.communicate(timeout=300)
    one_line(second.returncode, out, err, 143)
    begun.release()
    out, err = first.communicate(timeout=300)
    assert (first.returncode, err) == (0, '')


# What is left


def test_an_incomplete_checkout(checkout):
    (checkout.path / 'requirements' / 'tests.txt').unlink()
    line = checkout.fails()
    assert line == 'setup: requirements/tests.txt is missing: the checkout is not complete'


def test_no_home_for_the_cache(checkout):
    line = checkout.fails(BGP_CACHE='~nobody-of-this-name/cache')
    assert line == 'setup: no home folder to keep wheels in: name a folder in BGP_CACHE'


def test_an_environment_that_was_spoilt(done):
    (done.packages / 'numpy' / '__init__.py').write_text('raise ImportError("half a file")\n')
    line = done.fails()
    assert line == 'setup: the environment does not work (ImportError: half a file): remove .venv and run it again'
