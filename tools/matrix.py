"""Runs the tests with several versions, each in an environment of its own that tools/setup_env.py keeps.

The first row is that of `make test`, in .venv; the others lie in .matrix/. A second run finds every environment and
every wheel made. A row whose environment cannot be had is reported with the reason, and counts as failed.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Dict, List, Optional

REPO = Path(__file__).resolve().parent.parent
SETUP = REPO / 'tools' / 'setup_env.py'
FOLDER = REPO / '.matrix'
SHOWN = {  # column: distributions of which one is installed
    'torch': ['torch'],
    'numpy': ['numpy'],
    'mmengine': ['mmengine', 'onedl-mmengine'],
    'mmcv': ['mmcv', 'onedl-mmcv'],
    'mmdet': ['mmdet', 'onedl-mmdetection'],
    'mmyolo': ['mmyolo'],
}
PROBE = """
import platform, sys
from importlib import metadata
print(platform.python_version(), end='')
for names in sys.argv[1:]:
    found = [d.version for name in names.split(',') for d in metadata.distributions(name=name)]
    print('\\t' + '+'.join(found or ['-']), end='')
"""


class Unavailable(Exception):
    """Why an environment cannot be had, in one line."""


@dataclass
class Row:
    """An environment: its Python, and what setup_env.py is told."""

    python: str
    settings: Dict[str, str] = field(default_factory=dict)


ROWS = {
    'python3.11': Row('3.11'),
    'python3.10': Row('3.10', {'BGP_VENV': str(FOLDER / 'python3.10')}),
    'fork': Row('3.11', {'BGP_VENV': str(FOLDER / 'fork'), 'BGP_OPENMMLAB': 'fork'}),
}


@dataclass
class Result:
    """What a row came to: versions by column, and pytest's last line or why there is none."""

    ok: bool
    line: str
    versions: List[str]
    seconds: float = 0.0


def find_python(version: str) -> str:
    """A Python of this version, from PATH or pyenv; a name in PATH may be one that pyenv does not let run."""
    root = Path(os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv')
    kept = sorted(root.glob(f'versions/{version}*/bin/python{version}'))
    for candidate in [which(f'python{version}'), *reversed(kept), sys.executable]:
        if candidate and version_of(str(candidate)) == version:
            return str(candidate)
    raise Unavailable(f'no Python {version}: install one, so that python{version} is found')


def version_of(python: str) -> Optional[str]:
    try:
        code = 'import sys; print("%d.%d" % sys.version_info[:2])'
        return subprocess.run([python, '-c', code], capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def environment(row: Row) -> Dict[str, str]:
    """Ours with the row's settings; BGP_PYTHON_ENV, where set, is the first row's."""
    own = {k: v for k, v in os.environ.items() if k not in ('BGP_VENV', 'BGP_OPENMMLAB')}
    if row.settings:
        own.pop('BGP_PYTHON_ENV', None)
    return {**own, **row.settings}


def set_up(row: Row, env: Dict[str, str]) -> Path:
    """Its Python, the environment made or brought up to date."""
    process = subprocess.run([find_python(row.python), str(SETUP)], env=env, stderr=subprocess.PIPE, text=True)
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f'exit code {process.returncode}']
        raise Unavailable(re.sub('^setup: ', '', lines[-1]))
    folder = env.get('BGP_PYTHON_ENV') or env.get('BGP_VENV') or REPO / '.venv'
    return Path(folder).expanduser().absolute() / 'bin' / 'python'


def run_tests(python: Path, env: Dict[str, str], arguments: List[str]) -> Result:
    """Runs pytest, its output going on to ours."""
    start, last = time.monotonic(), ''
    command = [str(python), '-m', 'pytest', *(arguments or ['tests'])]
    process = subprocess.Popen(command, cwd=REPO, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        print(line, end='', flush=True)
        last = line.strip() or last
    ok = process.wait() == 0
    summary = re.sub(r'^=+ | =+$', '', last)
    return Result(ok, summary if ok else f'{summary} (exit code {process.returncode})', [], time.monotonic() - start)


def run_row(name: str, row: Row, arguments: List[str]) -> Result:
    print(f'matrix: {name}', flush=True)
    env = environment(row)
    try:
        python = set_up(row, env)
    except Unavailable as reason:
        return Result(False, f'not run: {reason}', ['-'] * (len(SHOWN) + 1))
    result = run_tests(python, env, arguments)
    names = [','.join(names) for names in SHOWN.values()]
    probe = subprocess.run([str(python), '-c', PROBE, *names], capture_output=True, text=True)
    result.versions = probe.stdout.split('\t')
    return result


def table(results: Dict[str, Result]) -> str:
    """In columns, one line a row."""
    lines = [['', 'Python', *SHOWN, 'seconds', 'tests']]
    for name, result in results.items():
        lines.append([name, *result.versions, f'{result.seconds:.0f}', result.line])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return '\n'.join('  '.join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description='Run the tests with several versions')
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS), metavar='ROW', help=', '.join(ROWS))
    parser.add_argument('arguments', nargs='*', help='for pytest, after --')
    args = parser.parse_args()
    results = {name: run_row(name, ROWS[name], args.arguments) for name in args.rows}
    print('\n' + table(results))
    return 0 if all(result.ok for result in results.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
