"""tools/matrix.py: each row in its own environment, none passed over in silence."""

import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))
import matrix  # noqa: E402
import setup_env  # noqa: E402

HERE = '{}.{}'.format(*sys.version_info)
# In place of setup_env.py: an environment whose python is this one, and a note of what it was told.
SETUP = """
import os, pathlib, sys
if os.environ.get('BGP_OPENMMLAB') == 'fork':
    print('setup: about to fail', file=sys.stderr)
    sys.exit('setup: pip install failed: no network')
folder = pathlib.Path(os.environ.get('BGP_PYTHON_ENV') or os.environ.get('BGP_VENV') or '.venv')
(folder / 'bin').mkdir(parents=True)
python = folder / 'bin' / 'python'
python.write_text(f'#!/bin/sh\\nexec "{sys.executable}" "$@"\\n')
python.chmod(0o755)
(folder / 'told').write_text(repr(sorted(i for i in os.environ.items() if i[0].startswith('BGP_'))))
"""
# That tests meet none of a row's settings: they test the set-up, too.
ONE = """
import os
def test_one():
    assert not {'BGP_VENV', 'BGP_OPENMMLAB'} & {*os.environ}
"""


def program(path, line):
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\n{line}\n')
    path.chmod(0o755)
    return str(path)


def first_in_path(folder, monkeypatch):
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Two rows that can be had, one of the user's own environment, and two that cannot."""
    program(tmp_path / f'bin/python{HERE}', f'exec "{sys.executable}" "$@"')
    first_in_path(tmp_path / 'bin', monkeypatch)
    (tmp_path / 'setup.py').write_text(SETUP)
    (tmp_path / 'tests').mkdir()
    (tmp_path / 'tests/test_one.py').write_text(ONE)
    (tmp_path / 'tests/test_two.py').write_text('def test_two(): assert False\n')
    rows = {
        'main': matrix.Row(HERE),
        'second': matrix.Row(HERE, {'BGP_VENV': str(tmp_path / 'second'), 'BGP_OPENMMLAB': 'other'}),
        'fork': matrix.Row(HERE, {'BGP_OPENMMLAB': 'fork'}),
        'none': matrix.Row('2.6'),
    }
    monkeypatch.setattr(matrix, 'ROWS', rows)
    monkeypatch.setattr(matrix, 'REPO', tmp_path)
    monkeypatch.setattr(matrix, 'SETUP', tmp_path / 'setup.py')
    monkeypatch.setenv('BGP_PYTHON_ENV', str(tmp_path / 'own'))
    monkeypatch.setenv('BGP_OPENMMLAB', 'fork')  # a row says itself what it is
    monkeypatch.setenv('BGP_VENV', str(tmp_path / 'other'))


def run(monkeypatch, capfd, *arguments):
    monkeypatch.setattr(sys, 'argv', ['matrix.py', *arguments])
    code = matrix.main()
    out = capfd.readouterr().out
    return code, out, {line.split('  ')[0]: line for line in out.rpartition('\n\n')[2].splitlines()}


def test_rows_that_pass(rows, tmp_path, monkeypatch, capfd):
    code, out, lines = run(monkeypatch, capfd, '--rows', 'main', 'second', '--', 'tests/test_one.py', '-q')
    assert code == 0 and list(lines) == ['', 'main', 'second']
    for name in ('main', 'second'):
        assert f'matrix: {name}' in out
        python, torch = lines[name].split()[1:3]
        assert python == '{}.{}.{}'.format(*sys.version_info) and re.match(r'\d+\.\d+', torch)
        assert '1 passed' in lines[name]
    assert (tmp_path / 'own/told').exists() and not (tmp_path / 'other').exists()
    assert (tmp_path / 'second/told').read_text() == repr(sorted(matrix.ROWS['second'].settings.items()))


def test_a_row_whose_tests_fail(rows, monkeypatch, capfd):
    code, _, lines = run(monkeypatch, capfd, '--rows', 'main')
    assert code == 1
    assert '1 failed, 1 passed' in lines['main'] and '(exit code 1)' in lines['main']


def test_rows_that_cannot_be_had_are_reported_and_fail(rows, monkeypatch, capfd):
    code, _, lines = run(monkeypatch, capfd, '--', 'tests/test_one.py')
    assert code == 1 and list(lines) == ['', 'main', 'second', 'fork', 'none']
    assert '1 passed' in lines['second']
    assert lines['fork'].endswith('not run: pip install failed: no network')
    assert lines['none'].endswith('not run: no Python 2.6: install one, so that python2.6 is found')


def test_an_unknown_row_is_named(rows, monkeypatch, capfd):
    with pytest.raises(SystemExit):
        run(monkeypatch, capfd, '--rows', 'python3.99')
    assert "invalid choice: 'python3.99'" in capfd.readouterr().err


def test_a_python_of_pyenv_is_found_behind_a_name_that_does_not_run(tmp_path, monkeypatch):
    program(tmp_path / 'shims/python3.10', 'echo "no such version" >&2; exit 127')
    kept = program(tmp_path / 'versions/3.10.4/bin/python3.10', 'echo 3.10')
    first_in_path(tmp_path / 'shims', monkeypatch)
    monkeypatch.setenv('PYENV_ROOT', str(tmp_path))
    assert matrix.find_python('3.10') == kept


def test_the_shipped_rows():
    """The first is `make test`'s own; every other has its own folder, outside git."""
    first, *others = matrix.ROWS.values()
    assert not first.settings
    folders = [Path(row.settings['BGP_VENV']) for row in others]
    assert len(set(folders)) == len(folders) and {folder.parent for folder in folders} == {ROOT / '.matrix'}
    assert '/.matrix/' in (ROOT / '.gitignore').read_text().splitlines()


@pytest.mark.parametrize(
    'named, openmmlab, expected',
    [
        ('env', 'onedl', '=onedl, expected fork, or nothing for the releases of OpenMMLab'),
        (None, 'fork', '=fork is not for .venv, which has the releases: name another folder in BGP_VENV'),
    ],
)
def test_a_set_of_packages_that_is_unknown_or_in_the_wrong_place_is_refused(named, openmmlab, expected, monkeypatch):
    monkeypatch.setattr(setup_env, 'NAMED', named)
    monkeypatch.setenv('BGP_OPENMMLAB', openmmlab)
    with pytest.raises(setup_env.SetupError, match=f'^BGP_OPENMMLAB{expected}$'):
        setup_env.check_python()


@pytest.mark.parametrize(
    'dists, installed',
    [
        (['torch'], [['mmengine==0.10.7', 'mmdet==3.3.0', 'mmyolo==0.6.0']]),
        (['mmengine', 'mmdet'], [['mmyolo==0.6.0']]),
        (['onedl-mmengine', 'onedl-mmdetection'], [['mmyolo==0.6.0']]),
        (['onedl-mmengine', 'mmdet', 'mmyolo'], []),
    ],
)
def test_the_fork_in_an_environment_of_the_users_own_stays(dists, installed, monkeypatch):
    calls = []
    monkeypatch.setattr(setup_env, 'OWN_ENV', False)
    monkeypatch.setattr(setup_env, 'probe', lambda: {'dists': dists})
    monkeypatch.setattr(setup_env, 'pip', lambda arguments: calls.append(arguments[2:]))
    setup_env.install_openmmlab()
    assert calls == installed
