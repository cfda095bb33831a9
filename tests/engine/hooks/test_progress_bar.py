"""The bar on a pseudo terminal, read back by a small emulator, and its absence in a pipe."""

import copy
import gc
import io
import logging
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from torch import nn

from mmyolo_bgpenalty import LambdaBgSchedulerHook
from mmyolo_bgpenalty.engine.hooks import progress_bar as progress
from mmyolo_bgpenalty.engine.hooks.progress_bar import ProgressBarHook
from tests.helpers.tiny import ROOT, SEMI, load, make_set

WIDTH = 110
OVERRIDES = ('FORCE_COLOR', 'NO_COLOR', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE', 'LINES')  # of what rich finds out


def screen(text: str):
    """The lines a terminal shows after ``text``, and whether the cursor is visible. Refuses what it does not know."""
    rows, row, column, cursor = [''], 0, 0, True
    for part in re.findall(r'\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x00-\x1f]+|[\x00-\x1f]', text):
        if part == '\r':
            column = 0
        elif part == '\n':
            row += 1
            rows.extend([''] * (row + 1 - len(rows)))
        elif part[0] >= ' ':
            while part:
                if column == WIDTH:
                    row, column = row + 1, 0
                    rows.extend([''] * (row + 1 - len(rows)))
                here, part = part[: WIDTH - column], part[WIDTH - column :]
                line = rows[row].ljust(column)
                rows[row] = line[:column] + here + line[column + len(here) :]
                column += len(here)
        elif part == '\x1b[2K':
            rows[row] = ''
        elif re.fullmatch(r'\x1b\[\d*A', part):
            row -= int(part[2:-1] or 1)
        elif part in ('\x1b[?25l', '\x1b[?25h'):
            cursor = part.endswith('h')
        else:
            assert re.fullmatch(r'\x1b\[[\d;]*m', part), repr(part)
    return [line.rstrip() for line in rows], cursor


class Terminal:
    """A pseudo terminal: ``file`` is for a program to write, ``text`` what has been written."""

    def __init__(self):
        self.master, slave = os.openpty()
        self.file = open(slave, 'w', encoding='utf-8')
        self.errors = open(os.dup(slave), 'w', buffering=1, encoding='utf-8')
        self._parts = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        # Without a writer left, reading fails on Linux and returns nothing elsewhere.
        try:
            while chunk := os.read(self.master, 65536):
                self._parts.append(chunk)
        except OSError:
            pass

    def close(self) -> str:
        if not self.file.closed:
            self.file.close()
            self.errors.close()
            self._reader.join(10)
            os.close(self.master)
        return b''.join(self._parts).decode()


@contextmanager
def on_terminal():
    """stdout and stderr are a Terminal's. (No fixture: pytest sets both anew when the test begins.)"""
    terminal = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        for name in OVERRIDES:
            patch.delenv(name, raising=False)
        patch.setenv('TERM', 'xterm-256color')
        patch.setenv('COLUMNS', str(WIDTH))
        patch.setattr(sys, 'stdout', terminal.file)
        patch.setattr(sys, 'stderr', terminal.errors)
        try:
            yield terminal
        finally:
            terminal.close()


class FakeRunner:
    """As much of a Runner as the hook reads; 4 epochs of 5 batches, with a logger that writes to stdout."""

    def __init__(self, hook, semi=True, epochs=4, batches=5):
        self.model = nn.Module()
        if semi:
            self.model.student, self.model.teacher = nn.Linear(1, 1), nn.Linear(1, 1)
        self.hook = hook
        self.plan = LambdaBgSchedulerHook(burn_in=1, warmup=2)
        self.hooks = [self.plan, hook]
        self.train_dataloader = range(batches)
        self.max_iters = epochs * batches
        self.iter = self.epoch = 0
        self.message_hub = MessageHub.get_instance(f'test_progress_{id(self)}')
        self.logger = logging.Logger('run')
        self.logger.addHandler(logging.StreamHandler(sys.stdout))

    def step(self, outputs, batch_idx=None):
        self.message_hub.update_scalar('train/semi/lambda_bg', 0.25)
        batch_idx = self.iter % len(self.train_dataloader) if batch_idx is None else batch_idx
        self.hook.after_train_iter(self, batch_idx, outputs=outputs)
        self.iter += 1


def outputs(step, semi=True, device='cpu'):
    entries = dict(loss=step + 0.5)
    if semi:
        entries.update(
            sup_loss_cls=step + 0.125, sup_loss_bbox=0.125, sup_acc=99, unsup_loss_cls=0.125, unsup_loss_bg=0.125
        )
        entries['semi/unsup_weight'] = 0.375
        entries['semi/pseudo_boxes'] = 77
    return {name: torch.tensor(float(value), device=device) for name, value in entries.items()}


def test_the_bar_has_every_field_and_log_lines_stay_above_it():
    with on_terminal() as terminal:
        hook = ProgressBarHook(refresh_per_second=1000)
        runner = FakeRunner(hook)
        hook.before_train(runner)
        for step in range(7):
            if step == 5:
                runner.epoch = 1
            runner.logger.info(f'\x1b[37mline {step} [red] [1/5]\x1b[0m')
            runner.step(outputs(step))
            terminal.file.flush()
        print('printed')
        print('warned', file=sys.stderr)
        hook.before_val(runner)
        hook.after_train(runner)
        runner.logger.info('afterwards')
        text = terminal.close()
        # Visible all the while: a killed process could not show it again.
        assert screen(text[: text.index('line 0')])[1]
        rows, cursor = screen(text)
        assert cursor
        assert rows[:9] == [f'line {step} [red] [1/5]' for step in range(7)] + ['printed', 'warned']
        assert re.fullmatch(r'epoch 1  val [━╸╺]+ +7/20 +\d+\.\d (it/s|s/it) \d:\d\d:\d\d', rows[9]), rows[9]
        assert rows[10] == 'loss 6.5  loss_sup 6.25  loss_unsup 0.25  unsup_weight 0.375  lambda_bg 0.25'
        assert rows[11:] == ['afterwards', '']


def test_the_mode_follows_burn_in_and_the_epoch_the_schedule():
    with on_terminal():
        seen = []
        for semi, by_iterations in ((True, False), (True, True), (False, False)):
            hook = ProgressBarHook(refresh_per_second=1e6)
            runner = FakeRunner(hook, semi=semi)
            hook.before_train(runner)
            for step in range(12):
                runner.epoch = 0 if by_iterations else step // 5
                runner.step(outputs(step, semi), step if by_iterations else None)
                assert hook._progress.tasks[0].description.split() == [
                    'epoch',
                    str(step // 5),
                    'train' if not semi else 'burn-in' if step < 5 else 'semi',
                ]
            seen.append(hook._figures.plain)
            hook.after_train(runner)
        assert seen[2] == 'loss 11.5  lambda_bg 0.25'


def test_a_resumed_run_goes_on_where_it_stopped():
    with on_terminal():
        hook = ProgressBarHook()
        runner = FakeRunner(hook)
        runner.iter, runner.epoch = 10, 2
        hook.before_train(runner)
        assert hook._progress.tasks[0].completed == 10
        runner.step(outputs(0))
        assert hook._progress.tasks[0].completed == 11
        hook.after_train(runner)


def test_a_drawing_a_quarter_of_a_second_and_no_wait_in_between(monkeypatch):
    with on_terminal():
        clock = SimpleNamespace(now=100.0)
        monkeypatch.setattr(progress, 'time', SimpleNamespace(monotonic=lambda: clock.now))
        hook = ProgressBarHook(refresh_per_second=4)
        runner = FakeRunner(hook)
        hook.before_train(runner)
        drawn = []
        for step in range(20):
            clock.now = 100 + step / 16
            due = step % 4 == 0 or step == 19  # the last is always drawn
            # Reading a tensor of the meta device raises: none is read in between.
            runner.step(outputs(step, device='cpu' if due else 'meta'))
            drawn.append(hook._figures.plain.split()[1])
        assert drawn == [str(step // 4 * 4 + 0.5) for step in range(19)] + ['19.5']
        hook.after_train(runner)


@pytest.mark.parametrize('value', [0, -1, float('nan'), float('inf'), '4', True])
def test_bad_arguments_are_refused(value):
    with pytest.raises(ValueError, match='Expected `refresh_per_second` to be'):
        ProgressBarHook(refresh_per_second=value)


def test_stdout_stderr_and_handlers_are_given_back():
    with on_terminal() as terminal:
        for how in ('end', 'error'):
            hook = ProgressBarHook()
            runner = FakeRunner(hook)
            handler = runner.logger.handlers[0]
            elsewhere = logging.StreamHandler(io.StringIO())
            runner.logger.addHandler(elsewhere)
            kept = elsewhere.stream
            hook.before_train(runner)
            assert handler.stream is sys.stdout is not terminal.file and sys.stderr is not terminal.errors
            assert elsewhere.stream is kept
            if how == 'end':
                hook.after_train(runner)
            else:  # nobody calls after_train; the runner goes when its last traceback does
                del runner, hook
                gc.collect()
            assert handler.stream is sys.stdout is terminal.file and sys.stderr is terminal.errors


def test_errors_that_go_to_a_file_stay_there(monkeypatch, tmp_path):
    with on_terminal():
        with open(tmp_path / 'errors', 'w') as errors:
            monkeypatch.setattr(sys, 'stderr', errors)
            hook = ProgressBarHook()
            runner = FakeRunner(hook)
            hook.before_train(runner)
            print('warned', file=sys.stderr)
            hook.after_train(runner)
        assert (tmp_path / 'errors').read_text() == 'warned\n'


@pytest.mark.parametrize('how', ['hung up', 'closed', 'hung up while it writes'])
def test_a_terminal_that_goes_away_ends_the_bar_alone(monkeypatch, how):
    with on_terminal():
        master, slave = os.openpty()
        file = open(slave, 'w', encoding='utf-8')
        monkeypatch.setattr(sys, 'stdout', file)
        hook = ProgressBarHook(refresh_per_second=1e6)
        runner = FakeRunner(hook)
        hook.before_train(runner)
        runner.step(outputs(0))
        if how == 'closed':
            file.close()
        else:
            os.close(master)
        if how == 'hung up while it writes':
            monkeypatch.setattr(hook._live, 'refresh', lambda: os.write(slave, b' '))
        for step in range(3):
            runner.step(outputs(step))
        hook.before_val(runner)
        hook.after_train(runner)
        assert sys.stdout is file is runner.logger.handlers[0].stream
        if how == 'closed':
            os.close(master)
        else:
            with suppress(OSError):
                file.close()


@pytest.mark.parametrize('environment', [{}, dict(FORCE_COLOR='1'), dict(TTY_COMPATIBLE='1', TTY_INTERACTIVE='1')])
def test_nothing_is_drawn_in_a_pipe(monkeypatch, environment):
    piped = io.StringIO()
    with on_terminal() as terminal:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, 'stdout', piped)
        hook = ProgressBarHook(refresh_per_second=1e6)
        runner = FakeRunner(hook)
        hook.before_train(runner)
        runner.logger.info('line')
        runner.step(outputs(0, device='meta'))
        hook.before_val(runner)
        hook.after_train(runner)
        assert sys.stdout is runner.logger.handlers[0].stream is piped and sys.stderr is terminal.errors
        assert terminal.close() == ''
    assert piped.getvalue() == 'line\n'


def test_only_the_main_process_draws(monkeypatch):
    with on_terminal() as terminal:
        monkeypatch.setattr(progress, 'is_main_process', lambda: False)
        hook = ProgressBarHook(refresh_per_second=1e6)
        runner = FakeRunner(hook)
        hook.before_train(runner)
        runner.step(outputs(0, device='meta'))
        hook.before_val(runner)
        hook.after_train(runner)
        assert terminal.close() == ''


def test_an_interrupted_run_leaves_a_whole_terminal():
    """In a process of its own: the traceback is read above the bar, the line is ended, the cursor is there."""
    terminal = Terminal()
    code = """
from tests.engine.hooks import test_progress_bar as t
hook = t.ProgressBarHook(refresh_per_second=1000)
runner = t.FakeRunner(hook)
hook.before_train(runner)
for step in range(3):
    runner.step(t.outputs(step))
raise KeyboardInterrupt
"""
    env = dict(os.environ, TERM='xterm', COLUMNS=str(WIDTH), PYTHONPATH=str(ROOT))
    for name in OVERRIDES:
        env.pop(name, None)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], stdout=terminal.file, stderr=terminal.errors, env=env
    )
    rows, cursor = screen(terminal.close())
    assert done.returncode != 0 and cursor
    (start,) = (index for index, row in enumerate(rows) if row.startswith('Traceback'))
    assert rows[start + 1].startswith('  File "<string>"')  # from Python 3.13 on, the line of code follows
    assert rows[-4] == 'KeyboardInterrupt'
    assert '3/20' in rows[-3] and rows[-2].startswith('loss 2.5') and rows[-1] == ''


@pytest.fixture(scope='module')
def cfg(tmp_path_factory):
    return load(
        SEMI,
        make_set(tmp_path_factory.mktemp('set')),
        tmp_path_factory.mktemp('work'),
        burn_in=1,
        train_cfg__max_epochs=2,
        train_cfg__val_interval=2,
        default_hooks__checkpoint=None,
        experiment_name='terminal',
        default_hooks__progress=dict(type='ProgressBarHook', refresh_per_second=1e6),
    )


def test_a_real_run_in_a_pipe(cfg, monkeypatch, tmp_path):
    cfg = copy.deepcopy(cfg)
    cfg.visualizer.name = cfg.work_dir = str(tmp_path / 'work')
    cfg.experiment_name = 'pipe'
    monkeypatch.setenv('NO_COLOR', '1')  # else termcolor remembers what it found at the first of all runs
    cfg.train_cfg.max_epochs = cfg.train_cfg.val_interval = 1
    piped = open(tmp_path / 'piped', 'w', buffering=1)  # stays open: it is the current logger's until the next run
    with on_terminal(), monkeypatch.context() as patch:
        patch.setattr(sys, 'stdout', piped)
        Runner.from_cfg(cfg).train()
    text = (tmp_path / 'piped').read_text()
    assert text.count('Epoch(train)') == 5
    assert re.findall(r'[\x00-\x08\x0b-\x1f]', text) == []


def test_a_real_run_on_a_terminal(cfg):
    with on_terminal() as terminal:
        Runner.from_cfg(cfg).train()
        text = terminal.close()
    rows, cursor = screen(text)
    assert cursor
    shown = '\n'.join(rows)
    # As many lines of the log as of batches, each whole, and one bar below them.
    assert re.findall(r'Epoch\(train\) +\[(\d)\]\[(\d)/5\]', shown) == [(e, b) for e in '12' for b in '12345']
    assert shown.count(' ━━') == 1
    last = next(i for i, row in enumerate(rows) if '━━' in row)
    assert any('Epoch(val)' in row for row in rows[:last])
    assert '10/10' in rows[last]
    for part in ('epoch 0  burn-in', 'epoch 1  semi', 'epoch 1  val'):
        assert part in text
    for name in ('loss', 'loss_sup', 'loss_unsup', 'unsup_weight', 'lambda_bg'):
        assert re.search(rf'(^|  ){name} -?\d', rows[last + 1]), rows[last + 1]
