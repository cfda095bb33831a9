"""Suggestions for mistyped options and paths."""

import pytest

from mmyolo_bgpenalty.__main__ import COMMANDS, main
from mmyolo_bgpenalty.cli.run import InputError, read_config
from mmyolo_bgpenalty.utils.arguments import Parser, is_meant


@pytest.mark.parametrize('name', COMMANDS)
def test_each_command_suggests_the_option_that_is_meant(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, '--hepl'])
    assert ended.value.code == 2
    assert capsys.readouterr() == (
        '',
        f'python -m mmyolo_bgpenalty {name}: there is no option --hepl; is --help meant?\n',
    )


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--labelled', 'x'], 'no option --labelled; is --labeled meant?'),  # the missing option is not the fault
        (['--labelled=x'], 'no option --labelled; is --labeled meant?'),
        (['-labeled', 'x'], 'no option -labeled; is --labeled meant?'),
        (['--labeled', 'x', '--xyz'], 'no option --xyz. --help lists the options'),
        (['--lab'], 'argument --labeled: expected one argument'),
        (['--labeled', 'x', '--seed', '-a'], 'no option -a. '),
        (['--seed', '-1'], 'required: --labeled'),
        (['--labeled', 'x', 'y'], 'unrecognized arguments: y'),
    ],
)
def test_a_mistyped_option(arguments, message, capsys):
    parser = Parser('')
    parser.add_argument('--labeled', required=True)
    parser.add_argument('--seed', type=int)
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    'path, meant',
    [
        ('cells/cels.py', 'cells/cells.py'),
        ('cels/cells.py', 'cells/cells.py'),
        ('cels/cels.py', 'cells/cells.py'),
        ('cells/cells', 'cells/cells.py'),
        ('cells/cells.yp', 'cells/cells.py'),
        ('./cells/../cels', 'cells/../cells'),
        ('cells/train.py', ''),
        ('cells/xyz.txt', ''),
        ('none/cells.py', ''),
    ],
)
def test_a_mistyped_path(path, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'cells').mkdir()
    for name in ('cells.py', 'other.py', 'notes.txt'):
        (tmp_path / 'cells' / name).touch()
    assert is_meant(path) == (f'; is {meant} meant?' if meant else '')
    if meant:
        assert is_meant(tmp_path / path) == f'; is {tmp_path / meant} meant?'


def test_a_link_to_nothing_means_no_other_file(tmp_path):
    (tmp_path / 'a.json').symlink_to('gone.json')
    assert is_meant(tmp_path / 'a.json') == ''


def test_a_mistyped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine.py').touch()
    for name, meant in (('mien.py', 'mine.py'), ('yolov8_semi_bgpenalty_bcd', 'yolov8_semi_bgpenalty_bccd.py')):
        with pytest.raises(InputError, match=f'^{name}: no such file.* is {meant} meant.$'):
            read_config(name, {})
