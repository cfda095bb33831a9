"""Sets up the environment of this checkout: a .venv with torch, MMCV, MMDetection, MMYOLO and this package.

Needs a Python 3.10 or 3.11 and its standard library only. What was done before is not done again. MMCV 2.0.1
comes as source: its wheel is built once for each torch and kept in a cache outside the checkout.

Environment variables:
  TORCH_SPEC       the torch to install, kept for later runs; torch==2.13.0 where never set
  BGP_PYTHON_ENV   an existing environment with torch, used in place of .venv; only what it lacks is installed
  BGP_VENV         where to make the environment, in place of .venv
  BGP_OPENMMLAB    fork: OpenMMLab's maintained fork (onedl-mmengine, onedl-mmcv, onedl-mmdetection); not in .venv
  BGP_CACHE        where wheels are kept; ${XDG_CACHE_HOME:-~/.cache}/mmyolo_bgpenalty where unset
  CXX, MAX_JOBS    the C++ compiler for MMCV, and how many of it to run at once
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 10), (3, 11))
TORCH = 'torch==2.13.0'
MMCV = 'mmcv==2.0.1'
OPENMMLAB = ['mmengine==0.10.7', 'mmdet==3.3.0', 'mmyolo==0.6.0']
FORKED = {'mmengine': 'onedl-mmengine', 'mmdet': 'onedl-mmdetection'}  # distributions of the same import names
if os.environ.get('BGP_OPENMMLAB') == 'fork':
    MMCV = 'onedl-mmcv==2.3.6'
    OPENMMLAB = ['onedl-mmengine==0.10.12', 'onedl-mmdetection==3.5.1', 'mmyolo==0.6.0']
    # its mmdet imports imgaug, and that scikit-image; also without dependencies, for the same opencv-python
    OPENMMLAB += ['imaug==0.4.3', 'scikit-image==0.26.0', 'imageio==2.38.1', 'lazy-loader==0.6', 'tifffile==2026.3.3']
BUILD_TOOLS = ['setuptools<81', 'wheel', 'ninja', 'packaging', 'numpy']
REQUIREMENTS = [REPO / 'requirements' / 'runtime.txt', REPO / 'requirements' / 'tests.txt']
# setuptools puts CFLAGS in place of the interpreter's own flags, so -O2 has to be said
CFLAGS = '-O2 -g0 -w -DNDEBUG'
BUILD_REVISION = 'r1'  # raise it when the flags or the wrapper change what is compiled
BUILD_CORE_SECONDS = 300  # what compiling MMCV takes of one core, with the precompiled header
GB = 10**9

OWN_ENV = not os.environ.get('BGP_PYTHON_ENV')
NAMED = os.environ.get('BGP_PYTHON_ENV') or os.environ.get('BGP_VENV')
ENV = Path(NAMED).expanduser().absolute() if NAMED else REPO / '.venv'
PYTHON = ENV / 'bin' / 'python'
STAMP = ENV / '.bgpenalty-setup.json'
PIP_LOG = ENV / 'bgpenalty-pip.log'
BUILD_LOG = ENV / 'bgpenalty-mmcv-build.log'
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HELD = []  # descriptors of the locks that are held

PROBE = r"""
import importlib.metadata as metadata, json, platform, sys
def has(module):
    try:
        __import__(module)
    except Exception:
        return False
    return True
out = {'python': sys.version_info[:2], 'machine': platform.machine()}
out.update(torch=None, device='cpu', nvcc=None, std='17')
names = {d.metadata['Name'] or '' for d in metadata.distributions()}
out['dists'] = sorted(n.lower().replace('_', '-') for n in names)
out['modules'] = [m for m in ('cv2', 'pkg_resources', 'mmcv.ops') if has(m)]
if has('torch'):
    import os, re, torch
    aten = os.path.join(os.path.dirname(torch.__file__), 'include', 'ATen', 'ATen.h')
    if os.path.exists(aten):
        out['std'] = (re.findall(r'C\+\+(\d\d) or later', open(aten).read()) or ['17'])[0]
    out['torch'] = torch.__version__
    if torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1':
        arch = os.environ.get('TORCH_CUDA_ARCH_LIST')
        if not arch and torch.cuda.is_available():
            arch = '.'.join(map(str, torch.cuda.get_device_capability()))
        out['device'] = 'cuda%s-sm%s' % (torch.version.cuda, arch or 'any')
        from torch.utils.cpp_extension import CUDA_HOME
        out['nvcc'] = os.environ.get('PYTORCH_NVCC') or (CUDA_HOME and os.path.join(CUDA_HOME, 'bin', 'nvcc'))
print(json.dumps(out))
"""

CHECK = """
import mmcv, mmcv.ops, mmdet, mmengine, numpy, platform, torch
import mmyolo_bgpenalty  # before MMYOLO, which by itself refuses the fork's MMCV
import mmyolo
mmcv.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
names = (torch, mmengine, mmcv, mmdet, mmyolo, mmyolo_bgpenalty, numpy)
print('Python', platform.python_version(), *(f'{m.__name__} {m.__version__}' for m in names))
"""


class SetupError(Exception):
    """What is missing and what to do, in one line."""


class Step:
    """A line saying what is done and how long it may take, closed with how long it took."""

    def __init__(self, what, expected):
        self.what, self.expected = what, expected
        self.shown, self.lines = 0, False
        self.terminal = sys.stdout.isatty()

    def __enter__(self):
        self.start = time.monotonic()
        print(f'setup: {self.what} (about {self.expected}) ... ', end='', flush=True)
        return self

    def progress(self, done, total):
        percent = 100 * done // total
        if self.terminal:
            print(f'\rsetup: {self.what} (about {self.expected}) ... {percent:3} % ', end='', flush=True)
        elif percent // 10 > self.shown // 10:
            print('' if self.lines else '\n', f'setup:   {percent} %', sep='', flush=True)
            self.lines = True
        self.shown = percent

    def __exit__(self, kind, *_):
        took = f'{time.monotonic() - self.start:.0f} s'
        end = took if kind is None else 'failed' if issubclass(kind, SetupError) else 'stopped'
        print(f'setup:   {end}' if self.lines else end, flush=True)


def warn(line):
    print(f'setup: {line}', file=sys.stderr, flush=True)


def digest(*parts):
    return hashlib.sha256('\0'.join(map(str, parts)).encode()).hexdigest()[:16]


def text_of(path):
    try:
        return path.read_text(encoding='utf-8')
    except FileNotFoundError:
        raise SetupError(f'{path.relative_to(REPO)} is missing: the checkout is not complete') from None


def seconds(value):
    return f'{value:.0f} s' if value < 90 else f'{value / 60:.0f} min'


@contextlib.contextmanager
def named(path):
    """Errors of writing name no file; they get this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


def is_full(path):
    return shutil.disk_usage(existing(path)).free < 10**7


# Processes


# Reads the number of a process; if it then comes to the end of its input, stops that process and its children.
WATCH = """
read -r number || exit
read -r end && exit
kill -s TERM -- "-$number"
for tenth in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    kill -s 0 -- "-$number" || exit
    sleep 0.1
done
kill -s KILL -- "-$number"
"""


def run(command, log, env=None, on_line=None):
    """Runs a command, its output going to the log; a stop of this program stops it with all its children.

    So does a watcher when this program is killed, which can stop nobody then; the locks are held by it until it has.
    """
    with named(log), open(log, 'a', encoding='utf-8', errors='backslashreplace') as out:
        out.write(f'\n$ {" ".join(map(shlex.quote, map(str, command)))}\n')
        lines = []
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        watcher = subprocess.Popen(
            ['/bin/sh', '-c', WATCH],
            stdin=pipe,
            stdout=null,
            stderr=null,
            encoding='utf-8',
            start_new_session=True,
            pass_fds=HELD,
        )
        process = subprocess.Popen(
            [str(c) for c in command],
            stdin=null,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            encoding='utf-8',
            errors='replace',
            start_new_session=True,
        )
        try:
            watcher.stdin.write(f'{process.pid}\n')
            watcher.stdin.flush()
            for line in process.stdout:
                if re.match(r'\s*(Skipping|Found) link', line):  # pip says so of thousands
                    continue
                out.write(line)
                lines.append(line)
                if on_line:
                    on_line(line)
            return process.wait(), lines
        finally:
            if process.poll() is None:
                stop_group(process)
            watcher.communicate('end\n')


def stop_group(process):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            for _ in range(50):  # children may outlive the first process, and still write
                time.sleep(0.1)
                process.poll()
                os.killpg(process.pid, 0)
        except OSError:
            return


def pip_reason(lines):
    """One line for why pip failed and, where that is known, what to do."""
    errors = [re.sub(r'^\s*ERROR:\s*', '', line).strip() for line in lines if re.match(r'\s*ERROR:', line)]
    errors = [e for e in errors if e] or [line.strip() for line in lines if line.strip()] or ['no output']
    text = ''.join(lines)
    if errors[-1].endswith('OSError.'):  # which, says the last line of its traceback
        errors = re.findall(r'^[\w.]+: (.+)', text, re.MULTILINE)[-1:] or errors
    last = ' / '.join(errors[-2:])[:400].rstrip('.')
    if re.search(r'No space left|Errno 28|Disk quota', text):
        return f'the disk is full ({last}): make room'
    if not re.search(r'No matching distribution|proxy URL|[Cc]onnect|imed out|Max retries', last):
        return last
    # an index that lacks a package answers 404, which is no fault where another has it
    refused = re.search(r'Could not fetch URL \S+: ((?!404)\d{3} \w+ Error: .*?) for url', text)
    cause = r'Tunnel connection failed: [^\'"()]+|\[Errno -?\d+\] [^\'"()]+|CERTIFICATE_VERIFY_FAILED|timed out'
    cause = refused.group(1) if refused else (re.findall(cause, text) or [last])[-1]
    if re.search(r'ProxyError|proxy URL|: 407 Client', text):
        return f'the proxy does not work ({cause}): check https_proxy, http_proxy and PIP_PROXY'
    if refused or re.search(r'Retrying|Could not fetch URL \S+: (connection error|There was a problem)', text):
        return (
            f'no network, or the package index does not answer as it should ({cause}): '
            'check the network, or name another index in PIP_INDEX_URL'
        )
    known = re.search(r'from versions: (?!none)', text)
    what = 'version' if known else 'package'
    return f'the package index has no such {what} for this Python ({errors[-1]})'


def pip(arguments, log=PIP_LOG, env=None, on_line=None):
    # as verbose as this, it says what an index answers
    command = [PYTHON, '-m', 'pip', '-vv', '--disable-pip-version-check', '--no-input', *arguments]
    base = {'PIP_ROOT_USER_ACTION': 'ignore', 'PYTHONUNBUFFERED': '1', 'PYTHONWARNINGS': 'ignore'}
    code, lines = run(command, log, {**base, **(env or {})}, on_line)
    if code:
        raise SetupError(f'pip {arguments[0]} failed: {pip_reason(lines)}; all of its output: {log}')


def python_says(code):
    # in a folder without packages, since -c imports from it first
    pipe = subprocess.PIPE
    process = subprocess.run([str(PYTHON), '-c', code], cwd=str(ENV), stdout=pipe, stderr=pipe, universal_newlines=True)
    lines = (process.stdout if process.returncode == 0 else process.stderr).strip().splitlines()
    return process.returncode, lines[-1] if lines else ''


def probe():
    code, line = python_says(PROBE)
    if code:
        raise SetupError(f'{PYTHON} does not work: {line}')
    return json.loads(line)


# Locks


@contextlib.contextmanager
def lock(path, what):
    """An exclusive lock on a file or folder; says so when another set-up holds it."""
    if not path.exists():
        path.touch()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'setup: waits for another set-up, or what is left of one, that holds {what}', flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            warn(f'cannot lock {what} ({error.strerror}); run no second set-up meanwhile')
        HELD.append(descriptor)
        yield
    finally:
        if descriptor in HELD:
            HELD.remove(descriptor)
        os.close(descriptor)


# Checks


def check_python():
    version = sys.version_info[:2]
    openmmlab = os.environ.get('BGP_OPENMMLAB')
    if openmmlab not in (None, '', 'fork'):
        raise SetupError(f'BGP_OPENMMLAB={openmmlab}, expected fork, or nothing for the releases of OpenMMLab')
    if openmmlab and not NAMED:
        raise SetupError('BGP_OPENMMLAB=fork is not for .venv, which has the releases: name another folder in BGP_VENV')
    if OWN_ENV and version not in PYTHONS:
        wanted = ' or '.join(f'{a}.{b}' for a, b in PYTHONS)
        raise SetupError(
            f'this is Python {version[0]}.{version[1]}, expected {wanted}: '
            'install one and name it, as in make env PYTHON=python3.11'
        )
    if not OWN_ENV and not PYTHON.exists():
        raise SetupError(f'BGP_PYTHON_ENV={ENV} has no bin/python: name an existing environment')


def check_venv():
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            'this Python cannot make environments: install the package python3-venv '
            f'(or python{sys.version_info[0]}.{sys.version_info[1]}-venv)'
        ) from None


def existing(path):
    while not path.exists():
        path = path.parent
    return path


def check_disk(path, need, what):
    free = shutil.disk_usage(existing(path)).free
    if free < need:
        raise SetupError(f'{what} needs {need / GB:.1f} GB in {path}, {free / GB:.1f} GB are free: make room')


def compiler(std='17'):
    """The C++ compiler, and whether it is GCC; fails where there is none that works."""
    wanted = os.environ.get('CXX')
    found = next(filter(None, map(shutil.which, [wanted] if wanted else ['g++', 'c++', 'clang++'])), None)
    if not found:
        what = f'CXX={wanted} is no program' if wanted else 'no C++ compiler (g++, c++, clang++)'
        raise SetupError(f'{what}: install the package g++, or name a compiler in CXX; MMCV has to be compiled')
    command = [found, f'-std=c++{std}', '-x', 'c++', '-E', '-dM', '-']
    try:
        test = subprocess.run(
            command,
            input='#include <cstdlib>\n',
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        reason = test.returncode and (test.stderr.strip().splitlines() or ['no output'])[0]
    except OSError as error:
        reason = error.strerror
    if reason:
        raise SetupError(
            f'{found} compiles no C++{std} ({reason}): install the package g++, or name another compiler in CXX'
        )
    return found, '__clang__' not in test.stdout


def check_headers():
    if OWN_ENV:
        include = sysconfig.get_path('include')
    else:
        include = python_says('import sysconfig; print(sysconfig.get_path("include"))')[1]
    if not Path(include, 'Python.h').exists():
        raise SetupError(f'no Python.h in {include}: install the package python3-dev; MMCV has to be compiled')


# MMCV


def cache_home():
    folder = os.environ.get('BGP_CACHE')
    try:
        if folder:
            return Path(folder).expanduser().absolute()
        return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmyolo_bgpenalty'
    except RuntimeError:
        raise SetupError('no home folder to keep wheels in: name a folder in BGP_CACHE') from None


def wheel_key(python, torch, device, machine):
    tag = f'cp{python[0]}{python[1]}'
    return '_'.join([tag, f'torch-{torch}', device, MMCV.replace('==', '-'), machine, BUILD_REVISION])


def good_wheel(folder):
    """The wheel in the folder, or None; one that is damaged is removed."""
    for path in sorted(folder.glob('*mmcv-*.whl')):
        try:
            with zipfile.ZipFile(path) as archive:
                whole = archive.testzip() is None
                if whole and any(re.match(r'mmcv/_ext.*\.so$', name) for name in archive.namelist()):
                    return path
        except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile):
            pass
        try:
            path.unlink()
            warn(f'{path.name} in the cache was damaged: removed, to be built again')
        except OSError:
            warn(f'{path} is damaged, and cannot be removed: not used')
    return None


def torch_spec():
    return os.environ.get('TORCH_SPEC') or load_stamp().get('torch_spec') or TORCH


def wheel_may_be_cached():
    """Before torch is there, its full version (as 2.13.0+cpu) is only guessed."""
    match = re.match(r'torch==([\w.+]+)$', torch_spec())
    key = wheel_key(sys.version_info[:2], f'{match.group(1) if match else ""}*', '*', '*')
    return any((cache_home() / 'wheels').glob(f'{key}/*mmcv-*.whl'))


def writable(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def jobs():
    if os.environ.get('MAX_JOBS', '').isdigit():
        return max(1, int(os.environ['MAX_JOBS']))
    count = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    try:
        free = int(re.search(r'MemAvailable:\s+(\d+)', Path('/proc/meminfo').read_text()).group(1)) * 1024
    except (OSError, AttributeError):
        return count
    return max(1, min(count, int(free // (1.5 * GB))))


def build_mmcv(folder, info):
    """Builds MMCV's wheel in a temporary folder beside its place, then moves it there."""
    cxx, gcc = compiler(info['std'])
    check_headers()
    check_disk(folder, 1.5 * GB, 'compiling MMCV')
    for left in folder.glob('build-*'):  # this process holds the lock, so whoever made them is gone
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix='build-', dir=folder))
    try:
        for name in ('bin', 'pch', 'source', 'tmp', 'wheel'):
            (work / name).mkdir()
        # called by name through PATH, so that a space in the checkout's path does no harm
        for name in ('mmcv_cxx.sh', 'mmcv_nvcc.sh'):
            shutil.copy(REPO / 'tools' / 'mmcv_cxx.sh', work / 'bin' / name)
            (work / 'bin' / name).chmod(0o755)
        count = jobs()
        # clang names and finds precompiled headers in another way
        pch = gcc and shutil.which('flock')
        env = {
            'MMCV_WITH_OPS': '1',
            'CFLAGS': CFLAGS,
            'MAX_JOBS': str(count),
            'CXX': 'mmcv_cxx.sh',
            'REAL_CXX': cxx,
            'CXX_STD': info['std'],
            'PCH_DIR': str(work / 'pch') if pch else '',
            'TMPDIR': str(work / 'tmp'),
            'PATH': f'{work / "bin"}:{ENV / "bin"}:{os.environ.get("PATH", os.defpath)}',
        }
        if info['nvcc']:
            # mmcv also gives nvcc -std=c++14. Not tried: no machine with CUDA's compiler was at hand.
            env.update(PYTORCH_NVCC='mmcv_nvcc.sh', REAL_NVCC=info['nvcc'])
        BUILD_LOG.unlink() if BUILD_LOG.exists() else None
        with Step(f'downloads the source of {MMCV}', '10 s'):
            arguments = ['download', '--no-deps', '--no-binary', ':all:', '--no-build-isolation', MMCV]
            pip([*arguments, '--dest', work / 'source'], env=env)
        source = next((work / 'source').iterdir())

        expected = BUILD_CORE_SECONDS / count * (1 if pch else 3) + 10
        if info['nvcc']:
            expected *= 4
        what = f'compiles {MMCV} for torch {info["torch"]} ({info["device"]}), {count} at a time'
        with Step(what, seconds(expected)) as step:

            def on_line(line):
                match = re.match(r'\s*\[(\d+)/(\d+)\] ', line)
                if match:
                    step.progress(int(match.group(1)), int(match.group(2)))

            # pip's own cache of built wheels knows nothing of torch's version
            arguments = ['wheel', '--no-deps', '--no-build-isolation', '--no-cache-dir']
            try:
                pip([*arguments, '--wheel-dir', work / 'wheel', source], BUILD_LOG, env, on_line)
            except SetupError:
                raise SetupError(build_reason()) from None
        built = good_wheel(work / 'wheel')
        if built is None:
            raise SetupError(f'MMCV was built without its operators; all of the output: {BUILD_LOG}')
        target = folder / built.name
        os.replace(built, target)
        return target
    finally:
        shutil.rmtree(work, ignore_errors=True)


def build_reason():
    lines = BUILD_LOG.read_text(encoding='utf-8', errors='replace').splitlines()
    pattern = r'(fatal )?error: |No space left|Killed|out of memory|Error: '
    first = next((line.strip() for line in lines if re.search(pattern, line)), 'see the log')[:300]
    if any('No space left' in line for line in lines):
        first = f'the disk is full ({first}): make room'
    return f'compiling MMCV failed: {first}; all of the output: {BUILD_LOG}'


def install_mmcv(info):
    with contextlib.ExitStack() as stack:
        key = wheel_key(info['python'], info['torch'], info['device'], info['machine'])
        folder = cache_home() / 'wheels' / re.sub(r'[^\w.+;-]', '-', key)
        wheel = good_wheel(folder)
        if wheel is None:
            if not writable(folder):
                warn(
                    f'the cache {cache_home()} cannot be written: the wheel of MMCV is not kept; '
                    'check who owns it, or name another folder in BGP_CACHE'
                )
                folder = Path(tempfile.mkdtemp(prefix='mmyolo_bgpenalty-'))
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(lock(folder / 'lock', 'the build of MMCV'))
            wheel = good_wheel(folder) or build_mmcv(folder, info)
        with Step(f'installs {wheel.name}', '5 s'):
            pip(['install', '--no-deps', '--force-reinstall', wheel])


# Steps of the set-up


def distribution(requirement):
    return re.match(r'[\w.-]+', requirement).group(0).lower().replace('_', '-')


def missing(info):
    """What an environment of the user's own lacks; pins are left out, so as to suit what is in there."""
    names = [r for r in BUILD_TOOLS if not r.startswith('setuptools')]
    for path in REQUIREMENTS:
        names += [line for line in text_of(path).splitlines() if re.match(r'\w', line)]
    names = sorted({distribution(r) for r in names if not r.startswith('setuptools')} - set(info['dists']))
    if 'cv2' in info['modules'] and 'opencv-python-headless' in names:
        names.remove('opencv-python-headless')
    return names + ([] if 'pkg_resources' in info['modules'] else ['setuptools<81'])


def forget_cut_off():
    """Takes the metadata of packages whose installation was killed, so that pip installs them again.

    pip unpacks a package, compiles it, makes its scripts and then only writes what it did into RECORD; killed in
    between, it takes the package for installed from then on.
    """
    if not (ENV / 'pyvenv.cfg').exists():
        return  # .venv may be a link to something else, whose packages others installed
    for metadata in ENV.glob('lib/python*/site-packages/*.dist-info'):
        try:
            whole = f'{metadata.name}/INSTALLER' in (metadata / 'RECORD').read_text(encoding='utf-8')
        except OSError:
            whole = False
        if not whole:
            shutil.rmtree(metadata)


def make_venv():
    with Step(f'makes the environment {ENV.name}', '10 s'):
        same = (0, '{} {}'.format(*sys.version_info))
        whole = any(ENV.glob('lib/python*/site-packages/pip-*.dist-info'))
        if whole and PYTHON.exists() and python_says('import pip, sys; print(*sys.version_info[:2])') == same:
            return
        if not ENV.is_symlink():
            shutil.rmtree(ENV, ignore_errors=True)
        with tempfile.NamedTemporaryFile('w', suffix='.log') as log:
            code, lines = run([sys.executable, '-m', 'venv', ENV], log.name)
        if code:
            # venv keeps to itself what pip said
            reason = 'the disk is full: make room' if is_full(ENV) else pip_reason(lines)
            raise SetupError(f'cannot make {ENV.name}: {reason}')


def install_torch():
    with Step(f'installs {torch_spec()}', '1 min'):
        pip(['install', '--constraint', REQUIREMENTS[0], torch_spec(), *BUILD_TOOLS])


def install_requirements():
    with Step('installs the requirements', '1 min'):
        pip(['install', *(a for path in REQUIREMENTS for a in ('--requirement', path))])


def install_missing():
    info = probe()
    if info['torch'] is None:
        raise SetupError(f'{ENV} has no torch that can be imported: install the one that suits the machine')
    names = missing(info)
    if not names:
        return
    with Step(f'installs what {ENV} lacks: {" ".join(names)}', '1 min'):
        with tempfile.NamedTemporaryFile('w', suffix='.txt') as kept:
            _, lines = run([PYTHON, '-m', 'pip', 'freeze', '--exclude-editable'], PIP_LOG)
            kept.writelines(line for line in lines if re.match(r'(torch|numpy|opencv[\w-]*)==', line))
            kept.flush()
            pip(['install', '--constraint', kept.name, *names])


def mmcv_step():
    info = probe()
    if OWN_ENV or 'mmcv.ops' not in info['modules']:
        install_mmcv(info)


def install_openmmlab():
    info = {'dists': []} if OWN_ENV else probe()
    names = [r for r in OPENMMLAB if not {distribution(r), FORKED.get(distribution(r))} & set(info['dists'])]
    if names:
        with Step(f'installs {", ".join(names)}', '15 s'):
            pip(['install', '--no-deps', *names])


def install_package():
    with Step('installs this package, editable', '5 s'):
        pip(['install', '--no-deps', '--no-build-isolation', '--editable', REPO])


def check_all():
    with Step('checks that everything can be imported', '10 s'):
        code, line = python_says(CHECK)
        if code:
            advice = ': remove .venv and run it again' if OWN_ENV else ''
            raise SetupError(f'the environment does not work ({line}){advice}')
    print(f'setup: {line}', flush=True)


def steps():
    """Name, what the step depends on, and what does it; each depends on those before it too."""
    version = '.'.join(map(str, sys.version_info[:3]))
    requirements = '\0'.join(text_of(path) for path in REQUIREMENTS)
    if OWN_ENV:
        yield 'venv', (version, sys.base_prefix), make_venv
        yield 'torch', (torch_spec(), BUILD_TOOLS), install_torch
        yield 'requirements', (requirements,), install_requirements
    else:
        yield 'requirements', (requirements, BUILD_TOOLS), install_missing
    yield 'mmcv', (MMCV, BUILD_REVISION), mmcv_step
    yield 'openmmlab', (OPENMMLAB,), install_openmmlab
    package = [text_of(REPO / name) for name in ('setup.py', 'pyproject.toml')]
    yield 'package', (REPO, *package), install_package
    yield 'check', (text_of(Path(__file__)),), check_all


def planned():
    plan, chain = [], ''
    for name, depends, action in steps():
        chain = digest(chain, *depends)
        plan.append((name, chain, action))
    return plan


def load_stamp():
    try:
        done = json.loads(STAMP.read_text())
        return done if isinstance(done, dict) and PYTHON.exists() else {}
    except (OSError, ValueError):
        return {}


def save_stamp(done):
    part = STAMP.with_suffix('.part')
    part.write_text(json.dumps(done, indent=1))
    os.replace(part, STAMP)


def set_up():
    plan = planned()
    if all(load_stamp().get(name) == key for name, key, _ in plan):
        return
    check_python()
    with lock(REPO if OWN_ENV else ENV, 'this environment'):
        done = load_stamp()  # another set-up may just have done it
        todo = [(name, key, action) for name, key, action in plan if done.get(name) != key]
        if not todo:
            return
        with Step('checks what this machine has', '1 s'):
            names = {name for name, _, _ in todo}
            if 'venv' in names:
                check_venv()
            if 'torch' in names and not (ENV / 'lib').exists():
                check_disk(ENV, 3 * GB, 'the environment')
            if OWN_ENV and 'mmcv' in names and not wheel_may_be_cached():
                compiler()
                check_headers()
                kept = writable(cache_home() / 'wheels')
                check_disk(cache_home() if kept else Path(tempfile.gettempdir()), 1.5 * GB, 'compiling MMCV')
            if not writable(ENV.parent if OWN_ENV else ENV):
                raise SetupError(f'{ENV} cannot be written: check who owns it')
        if OWN_ENV:
            forget_cut_off()
        for name, key, action in todo:
            action()
            done[name] = key
            if name == 'torch':
                done['torch_spec'] = os.environ.get('TORCH_SPEC') or done.get('torch_spec')
            save_stamp(done)


def stop(number, _):
    for other in SIGNALS:  # a second one would keep the children from being stopped
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main():
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup has SIGHUP ignored
            signal.signal(number, stop)
    if hasattr(sys.stdout, 'reconfigure'):  # a path may hold what the terminal cannot show
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        set_up()
    except SetupError as error:
        warn(error)
        return 1
    except OSError as error:
        where = error.filename or 'no file named'
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            warn(f'the disk is full ({where}): make room')
        else:
            warn(f'{error.strerror or error}: {where}')
        return 1
    except SystemExit as error:
        warn('stopped; run it again to go on where it was')
        return error.code
    return 0


if __name__ == '__main__':
    sys.exit(main())
