"""tools/noxfile.py with a fake for each Python. The fake logs its arguments and makes the environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
echo "${{0##*/}} $* $BGP_OPENMMLAB" >>{told}
[ -z "$BGP_VENV" ] || {{ mkdir -p "$BGP_VENV/bin"; cp "$0" "$BGP_VENV/bin/python"; }}
"""


def test_each_session_has_its_own_environment(tmp_path):
    (tmp_path / 'bin').mkdir()
    shutil.copytree(REPO / 'tools', tmp_path / 'tools')
    versions = ['3.10', '3.11', '3.12', '3.13']
    for version in versions:
        python = tmp_path / 'bin' / f'python{version}'
        python.write_text(PYTHON.format(told=tmp_path / 'told'))
        python.chmod(0o755)
    env = {**os.environ, 'PATH': f'{tmp_path / "bin"}:{os.environ["PATH"]}', 'BGP_VENV': '', 'BGP_OPENMMLAB': ''}
    command = [sys.executable, '-m', 'nox', '-f', 'tools/noxfile.py', '--', '-k', 'name']
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    told = (tmp_path / 'told').read_text().splitlines()
    runs = [(f'python{version} tools/setup_env.py ', 'python -m pytest tests -k name ') for version in versions]
    runs.append(('python3.11 tools/setup_env.py fork', 'python -m pytest tests -k name '))
    assert told == [line for run in runs for line in run]
    assert {path.name for path in (tmp_path / '.matrix').iterdir()} == {*(f'python{v}' for v in versions), 'fork'}
