"""python -m mmyolo_bgpenalty: the list of commands, and a call of each command."""

import subprocess
import sys

import pytest

from mmyolo_bgpenalty.__main__ import COMMANDS, main
from tests.helpers.tiny import ROOT


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['__main__.py'])


@pytest.mark.parametrize('arguments, code', [(['--help'], 0), ([], 2)])
def test_help_has_a_line_for_each_command(arguments, code, capsys):
    assert main(arguments) == code
    usage, *lines = capsys.readouterr().out.splitlines()
    assert usage.startswith('usage: python -m mmyolo_bgpenalty COMMAND')
    assert all(any(line.startswith(f'  {name} ') for line in lines) for name in COMMANDS)


@pytest.mark.parametrize('name, meant', [('trian', 'train?'), ('xyz', 'init, check, browse, ')])
def test_an_unknown_command_gives_an_error_of_one_line(name, meant, capsys):
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"python -m mmyolo_bgpenalty: there is no command '{name}'; did you mean {meant}")
    assert error.count('\n') == 1


@pytest.mark.parametrize('name', COMMANDS)
def test_each_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, '--help'])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: python -m mmyolo_bgpenalty {name} ')


def test_an_error_line_begins_with_the_command(tmp_path):
    command = [sys.executable, '-W', 'ignore', '-m', 'mmyolo_bgpenalty', 'train', 'none.py']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    line = 'python -m mmyolo_bgpenalty train: none.py: no such file, and no shipped config is called'
    assert done.stderr.splitlines()[-1].startswith(line)
