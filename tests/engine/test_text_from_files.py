"""Names from files in the log, on a terminal and in tables."""

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from mmengine.logging import MMLogger
from rich.console import Console

from mmyolo_bgpenalty.cli.data.split import show
from mmyolo_bgpenalty.engine.console import SPELLED, show_as_text
from mmyolo_bgpenalty.utils.files import printable, printable_lines

FORGED = 'a\n2099/01/01 00:00:00 - mmengine - INFO - all is well\x1b[2J\x1b]0;owned\x07\u202e\x9b31m.png'


def test_a_name_is_one_harmless_line():
    for text in (FORGED, 'a\r\n\tb', 'a\u2028b\x7f', '\udce9', 'é [red] λ 中 \u200d'):
        shown = printable(text)
        assert len(shown.splitlines()) == 1 and shown.encode() and not re.search('[\x00-\x1f\x7f-\x9f]', shown)
    assert printable('é [red] λ 中') == 'é [red] λ 中'
    assert printable_lines('| a |\n\t| b |') == '| a |\n\t| b |'


def test_a_log_record_cannot_be_forged(tmp_path):
    logger = MMLogger('test_text', log_file=str(tmp_path / 'a.log'))
    console = io.TextIOWrapper(io.BytesIO(), encoding='ascii', write_through=True)
    logger.handlers[0].setStream(console)
    show_as_text(logger)
    logger.info('λ_bg of %s …', FORGED)
    logger.warning(f'a table\n| {FORGED} |\n| é |')
    log, shown = (tmp_path / 'a.log').read_text(encoding='utf-8'), console.buffer.getvalue().decode('ascii')
    for text in (log, shown):
        assert sum(bool(re.match(r'\d\d(\d\d)?/', line)) for line in text.splitlines()) == 2
        assert '\x1b[2J' not in text and '\x07' not in text and r'\x1b[2J' in text
    assert 'λ_bg of a\\n2099' in log and '…' in log and 'lambda_bg of a' in shown and '...' in shown


def test_a_log_file_is_utf8_in_every_locale(tmp_path):
    code = f"""
import logging
from mmengine.logging import MMLogger
from mmyolo_bgpenalty.engine.console import quiet_libraries
logger = MMLogger.get_instance('one', log_file={str(tmp_path / 'a.log')!r})
with quiet_libraries():
    logger.info('\\u03bb_bg \\u2713')
"""
    env = dict(PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', LC_ALL='C', PATH='')
    env['PYTHONPATH'] = ':'.join(sys.path)
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env, capture_output=True)
    assert done.returncode == 0 and b'Traceback' not in done.stderr, done.stderr.decode()[-2000:]
    assert b'lambda_bg \\u2713' in done.stdout
    assert 'λ_bg ✓' in (tmp_path / 'a.log').read_text(encoding='utf-8')


@pytest.mark.parametrize('encoding, shown', [('ascii', r'lambda -> \xe9'), ('latin-1', 'lambda -> é')])
def test_characters_that_the_encoding_lacks_are_spelled(encoding, shown):
    assert 'λ → é'.encode(encoding, SPELLED).decode(encoding) == shown


def test_brackets_of_class_names_are_no_markup(capsys):
    names = ['[red]crack', 'hot [/cell]', ':smile:\x1b[2J\nx']
    show(
        Console(width=200, highlight=False, markup=False, emoji=False),
        names,
        np.array([0, 1, 2]),
        np.arange(3),
        {'[b]1.json': np.array([True, True, False])},
    )
    output = capsys.readouterr()
    assert all(name in output.out for name in ('[red]crack', 'hot [/cell]', r':smile:\x1b[2J\nx', '[b]1'))
    assert r'has no object of :smile:\x1b[2J\nx:' in output.err
