"""Set up an environment for this checkout: torch, MMCV, MMDetection, MMYOLO and this package.

Needs Python 3.10 to 3.13 and, to build MMCV, a C++ compiler. Does nothing if the environment is up to date.
A package index has MMCV only as source. Its wheel is built once for each Python, torch and MMCV version and cached.

Environment variables:
  TORCH_SPEC       the torch to install, torch==2.13.0 by default; later runs keep it
  BGP_PYTHON_ENV   an existing environment with torch, in place of .venv; only missing packages are installed
  BGP_VENV         the folder of the environment, in place of .venv
  BGP_OPENMMLAB    fork: use the maintained fork of OpenMMLab's packages; needs BGP_VENV or BGP_PYTHON_ENV
  BGP_CACHE        the folder of the built wheels; ${XDG_CACHE_HOME:-~/.cache}/mmyolo_bgpenalty by default
  CXX, MAX_JOBS    the C++ compiler for MMCV, and the number of parallel compilations
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn, TextIO

OLDEST, NEWEST = (3, 10), (3, 13)
TORCH = 'torch==2.13.0'
BUILD_TOOLS = ['setuptools<81', 'wheel', 'ninja', 'packaging', 'numpy']  # MMCV's setup.py imports pkg_resources
BUILD_REVISION = 'r1'  # increase it when a change of the flags or of tools/mmcv_build changes the wheel

REPO = Path(__file__).resolve().parent.parent
FORK = os.environ.get('BGP_OPENMMLAB')
OPENMMLAB = REPO / 'requirements' / (f'openmmlab_{FORK}.txt' if FORK else 'openmmlab.txt')
REQUIREMENTS = [REPO / f'requirements/{name}.txt' for name in ('runtime', 'tests', 'docs')]
DEFAULT_CACHE = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'mmyolo_bgpenalty')
CACHE = Path(os.environ.get('BGP_CACHE') or DEFAULT_CACHE).expanduser().absolute()

OWN_ENV = not os.environ.get('BGP_PYTHON_ENV')
NAMED = os.environ.get('BGP_PYTHON_ENV') or os.environ.get('BGP_VENV')
ENV = Path(NAMED or REPO / '.venv').expanduser().resolve()
PYTHON = ENV / 'bin/python'
LOG = ENV / 'bgpenalty-setup.log'
STAMP = ENV / '.bgpenalty-setup'  # a digest of the inputs of the last complete set-up
KEPT_TORCH = ENV / '.bgpenalty-torch'  # the last TORCH_SPEC
CHANGING = ENV / '.bgpenalty-changing'  # exists while packages are installed, and remains if that fails

PROBE = r"""
import json, os, pathlib, re, sys, torch
cuda = torch.cuda.is_available()
arch = os.environ.get('TORCH_CUDA_ARCH_LIST') or (cuda and '%d.%d' % torch.cuda.get_device_capability()) or 'any'
device = f'cuda{torch.version.cuda}-sm{arch}' if cuda or os.environ.get('FORCE_CUDA') == '1' else 'cpu'
header = pathlib.Path(torch.__file__).parent / 'include/ATen/ATen.h'
std = re.findall(r'C\+\+(\d\d) or later', header.read_text() if header.exists() else '') or ['17']
key = 'cp%d%d_torch-%s_%s' % (*sys.version_info[:2], torch.__version__, device)
print(json.dumps({'key': key, 'std': std[0]}))
"""

CHECK = """
import mmcv, mmcv.ops, mmdet, mmengine, numpy, platform, torch
import mmyolo_bgpenalty  # before MMYOLO: MMYOLO by itself refuses the fork's MMCV
import mmyolo
mmcv.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
names = (torch, mmengine, mmcv, mmdet, mmyolo, mmyolo_bgpenalty, numpy)
print('Python', platform.python_version(), *(f'{m.__name__} {m.__version__}' for m in names))
"""


def fail(line: str) -> NoReturn:
    sys.exit(f'setup: {line}')


def lock() -> TextIO:
    """Wait for other set-ups that use this cache. Then make them wait until the returned file is closed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    file = (CACHE / 'lock').open('w')
    os.set_inheritable(file.fileno(), True)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f'setup: waits for another set-up (lock file {file.name})', flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def run(what: str, *command, **env: str) -> None:
    """Run a command. Print its purpose and time, and log its output. Ctrl-C and SIGTERM also end the command."""
    print(f'setup: {what} ... ', end='', flush=True)
    begin = time.monotonic()
    with LOG.open('a+', encoding='utf-8', errors='replace') as log:
        print('$', *command, file=log, flush=True)
        start = log.tell()
        # Children inherit the lock: the next set-up waits for them even if only this program was killed.
        options = dict(stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, close_fds=False, start_new_session=True)
        process = subprocess.Popen([str(part) for part in command], stdout=log, env={**os.environ, **env}, **options)
        try:
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            print(f'{time.monotonic() - begin:.0f} s', flush=True)
        if code:
            log.seek(start)
            lines = [line.strip() for line in log if line.strip()] or ['no output']
            if 'install' in command and not any(line.startswith('Installing collected') for line in lines):
                CHANGING.unlink()  # pip changed nothing before it failed
            reason = next((line for line in lines if re.search('error: ', line, re.IGNORECASE)), lines[-1])
            fail(f'the last step failed with code {code} ({reason[:300]}); its full output: {LOG}')


def install(what: str, *arguments) -> None:
    CHANGING.touch()
    run(f'installs {what}', PYTHON, '-m', 'pip', 'install', *arguments)
    CHANGING.unlink()


def python_says(*arguments: str) -> str:
    """Return what the environment's Python prints. It runs outside the checkout and imports installed packages only."""
    process = subprocess.run([str(PYTHON), *arguments], cwd=ENV, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.splitlines() or [f'exit code {process.returncode}'])[-1]
        fail(f'{ENV} does not work ({reason}): repair or delete it, then run the set-up again')
    return process.stdout.strip()


def read(*files: Path) -> str:
    return '\n'.join(file.read_text(encoding='utf-8') for file in files)


def by_name(requirements: str) -> dict:
    """Return package name -> line. The key of a package of the fork is the name of the package that it replaces."""
    matches = re.finditer(r'^(?:onedl.)?([\w.-]+).*', requirements, re.MULTILINE)
    return {match[1].replace('mmdetection', 'mmdet'): match[0] for match in matches}


def check_settings() -> None:
    if OWN_ENV and not OLDEST <= sys.version_info[:2] <= NEWEST:
        wanted, got = '{}.{} to {}.{}'.format(*OLDEST, *NEWEST), '{}.{}'.format(*sys.version_info)
        fail(f'Expected Python {wanted}, but {sys.executable} is {got}: choose another (`make PYTHON=python3.12 env`)')
    if OWN_ENV and not importlib.util.find_spec('ensurepip'):
        fail(f'{sys.executable} cannot make environments, because it lacks ensurepip: install the package python3-venv')
    if FORK and not NAMED:
        fail('Expected BGP_VENV or BGP_PYTHON_ENV with BGP_OPENMMLAB, because .venv is for the original packages')


def make_venv() -> None:
    """Make the environment, unless a complete one of this Python exists."""
    settings = ENV / 'pyvenv.cfg'
    if not CHANGING.exists() and not settings.exists() and ENV.exists() and any(ENV.iterdir()):
        fail(f'Expected BGP_VENV to be an environment or a new folder, but {ENV} has other files')
    version = 'version = {}.{}.'.format(*sys.version_info)
    if not CHANGING.exists() and PYTHON.exists() and version in settings.read_text():
        return
    ENV.mkdir(parents=True, exist_ok=True)
    CHANGING.touch()
    for path in ENV.glob('[!.]*'):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    run(f'makes {ENV}', sys.executable, '-m', 'venv', ENV)


def install_missing(installed: dict) -> None:
    """Install the requirements that the user's environment lacks. Installed packages keep their versions."""
    names = {*BUILD_TOOLS, *by_name(read(*REQUIREMENTS))} - {'setuptools'}
    if any(name.startswith('opencv') for name in installed):
        names.remove('opencv-python-headless')
    kept = ENV / 'bgpenalty-kept.txt'
    kept.write_text('\n'.join(line for name, line in installed.items() if name != 'setuptools'))
    install(f'packages that {ENV} lacks', f'--constraint={kept}', *sorted(names))


def install_mmcv(requirement: str) -> None:
    probe = json.loads(python_says('-c', PROBE))
    key = '_'.join([probe['key'], requirement.replace('==', '-'), platform.machine(), BUILD_REVISION])
    folder = CACHE / 'wheels' / re.sub(r'[^\w.+-]', '-', key)
    wheel = next(folder.glob('*.whl'), None) or build_mmcv(requirement, folder, probe['std'])
    install(wheel.name, '--no-deps', '--force-reinstall', wheel)


def build_mmcv(requirement: str, folder: Path, std: str) -> Path:
    """Build MMCV's wheel with C++ standard ``std`` (such as 17) in a temporary folder, then move it to the cache."""
    named = os.environ.get('CXX')
    compiler = next(filter(None, map(shutil.which, [named] if named else ['g++', 'c++', 'clang++'])), None)
    if not compiler:
        fail(f'no {named or "C++ compiler"} found to build MMCV: install g++, or set CXX to a compiler')
    gigabytes = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2**30
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob('build-*'):  # from a set-up that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix='build-', dir=folder) as work:
        tools = shutil.copytree(REPO / 'tools/mmcv_build', Path(work, 'tools'))
        env = {
            'MMCV_WITH_OPS': '1',
            'CFLAGS': '-O2 -g0 -w -DNDEBUG',  # replaces the interpreter's own flags, so -O2 must be repeated
            'NVCC_APPEND_FLAGS': f'{os.environ.get("NVCC_APPEND_FLAGS", "")} -std=c++{std}',
            'MAX_JOBS': os.environ.get('MAX_JOBS') or str(max(1, min(len(os.sched_getaffinity(0)), gigabytes // 2))),
            'CXX': 'mmcv_cxx.sh',  # a name to find in PATH, because a path with a space would be split
            'CXX_STD': std,
            'REAL_CXX': compiler,
            'PCH_DIR': work,
            'TMPDIR': work,
            'PYTHONPATH': str(tools),
            'PATH': f'{tools}:{ENV / "bin"}:{os.environ.get("PATH", os.defpath)}',
        }
        # No pip cache: it would reuse a wheel for another torch.
        options = ['--no-deps', '--no-build-isolation', '--no-cache-dir', '--no-binary=:all:', '-v', f'-w{work}/wheel']
        run(f'builds {requirement}, for some minutes', PYTHON, '-m', 'pip', 'wheel', *options, requirement, **env)
        (wheel,) = Path(work, 'wheel').glob('*.whl')
        return wheel.replace(folder / wheel.name)


def set_up(torch: str) -> None:
    installed = {}
    if OWN_ENV:
        make_venv()
        install(f'{torch} and the requirements', torch, *BUILD_TOOLS, *(f'-r{file}' for file in REQUIREMENTS))
        KEPT_TORCH.write_text('' if torch == TORCH else torch)
    else:
        installed = by_name(python_says('-m', 'pip', 'list', '--format=freeze'))
        install_missing(installed)
    missing = {name: line for name, line in by_name(read(OPENMMLAB)).items() if name not in installed}
    if 'mmcv' in missing:
        install_mmcv(missing['mmcv'])
    install('OpenMMLab and this package', '--no-deps', '--no-build-isolation', *missing.values(), f'-e{REPO}')
    print('setup:', python_says('-c', CHECK).splitlines()[-1])


def main() -> None:
    torch = os.environ.get('TORCH_SPEC') or (KEPT_TORCH.exists() and KEPT_TORCH.read_text()) or TORCH
    files = [Path(__file__), REPO / 'setup.py', REPO / 'pyproject.toml', OPENMMLAB, *REQUIREMENTS]
    parts = [str(REPO), torch, sys.version, sys.base_prefix, read(*files)]
    digest = hashlib.sha256('\0'.join(parts).encode()).hexdigest()

    def is_done() -> bool:
        return PYTHON.exists() and STAMP.exists() and STAMP.read_text() == digest

    if is_done():
        return
    check_settings()
    with lock():
        if not is_done():  # another set-up may have done it meanwhile
            STAMP.unlink(missing_ok=True)
            set_up(torch)
            STAMP.write_text(digest)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        fail('stopped; run it again to continue')
    except OSError as error:
        fail(str(error))
