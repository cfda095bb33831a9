"""The bar on a terminal, and no bar elsewhere. ``screen`` is a small emulator: it makes the lines of a terminal."""

import gc
import io
import logging
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from torch import nn

from mmyolo_bgpenalty.engine.hooks import progress_bar as progress
from mmyolo_bgpenalty.engine.hooks.lambda_bg import LambdaBgSchedulerHook
from mmyolo_bgpenalty.engine.hooks.progress_bar import ProgressBarHook
from tests.helpers.tiny import ROOT, SEMI, load, make_set

RICH = ('FORCE_COLOR', 'NO_COLOR', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE', 'LINES')  # variables that rich reads
ENVIRONMENT = dict(TERM='xterm-256color', COLUMNS='500')  # wide, so that no line wraps


def screen(text: str):
    """The lines that a terminal shows after ``text``, and whether the cursor is visible."""
    rows, row, column, cursor = [''], 0, 0, True
    for part in re.findall(r'\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x00-\x1f]+', text):
        if part in '\r\n':
            column = 0
            row += part == '\n'
            rows.extend([''] * (row + 1 - len(rows)))
        elif part[0] != '\x1b':
            line = rows[row].ljust(column)
            rows[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
        elif part == '\x1b[2K':
            rows[row] = ''
        elif part[-1] == 'A':
            row -= int(part[2:-1] or 1)
        elif part in ('\x1b[?25l', '\x1b[?25h'):
            cursor = part[-1] == 'h'
    return [line.rstrip() for line in rows], cursor


class Terminal(io.StringIO):
    def isatty(self):
        return super().isatty() or True  # raises ValueError if it is closed, as files do


@contextmanager
def on_terminal():
    """stdout and stderr are a terminal. This is no fixture, because pytest replaces both when the test begins."""
    with pytest.MonkeyPatch.context() as patch:
        for name in RICH:
            patch.delenv(name, raising=False)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        terminal, errors = Terminal(), Terminal()
        errors.write = terminal.write
        patch.setattr(sys, 'stdout', terminal)
        patch.setattr(sys, 'stderr', errors)
        yield terminal


class FakeRunner:
    """What the hook reads of a Runner: 4 epochs of 5 batches, and a logger that writes to stdout."""

    max_iters, train_dataloader, val_dataloader = 20, range(5), range(3)

    def __init__(self, hook, semi=True, iteration=0, handlers=(), plan=None):
        self.hook, self.model, self.hooks = hook, nn.Module(), [plan] if plan else []
        if semi:
            self.model.unsup_ramp = 1.0
            self.model.semi_test_cfg = dict(predict_on='teacher')
        self.iter, self.epoch = iteration, iteration // 5
        self.message_hub = MessageHub.get_instance(f'test_progress_{id(self)}')
        self.message_hub.update_scalar('train/semi/lambda_bg', 0.25)
        self.logger = logging.Logger('run')
        self.logger.handlers += [logging.StreamHandler(sys.stdout), *handlers]
        hook.before_train(self)

    def step(self, outputs, batch_idx=None):
        self.hook.after_train_iter(self, self.iter % 5 if batch_idx is None else batch_idx, outputs=outputs)
        self.iter += 1


def outputs(step, semi=True, device='cpu'):
    entries = dict(loss=step + 0.5)
    if semi:
        entries |= dict(sup_loss_cls=step + 0.125, sup_loss_bbox=0.125, sup_acc=99)
        entries |= {
            'unsup_loss_cls': 0.125,
            'unsup_loss_bg': 0.125,
            'semi/unsup_weight': 0.375,
            'semi/pseudo_boxes': 77,
        }
    return {name: torch.tensor(float(value), device=device, requires_grad=True) for name, value in entries.items()}


@pytest.mark.filterwarnings('error')  # torch warns if float() reads a tensor that requires gradients
def test_the_bar_has_every_field_and_log_lines_stay_above_it():
    with on_terminal() as terminal:
        runner = FakeRunner(ProgressBarHook(refresh_per_second=1000))
        # The cursor stays visible: a killed process could not show it again.
        assert screen(terminal.getvalue())[1]
        for step in range(7):
            runner.epoch = step // 5
            runner.logger.info(f'\x1b[37mline {step} [red] [1/5]\x1b[0m')
            runner.step(outputs(step))
        print('printed')
        print('warned', file=sys.stderr)
        runner.hook.after_train(runner)
        runner.logger.info('afterwards')
        rows, cursor = screen(terminal.getvalue())
    assert cursor
    assert rows[:9] == [f'line {step} [red] [1/5]' for step in range(7)] + ['printed', 'warned']
    assert re.fullmatch(r'epoch 2/4  semi [━╸╺]+ +7/20 +\d+\.\d (it/s|s/it) \d:\d\d:\d\d', rows[9]), rows[9]
    assert rows[10] == 'loss 6.5  loss_sup 6.25  loss_unsup 0.25  unsup_weight 0.375  lambda_bg 0.25'
    assert rows[11:] == ['afterwards', '']


@pytest.mark.parametrize(
    'plan, iteration, mode',
    [
        (dict(burn_in=3), 10, 'burn-in 3/3'),
        (dict(burn_in=2.5), 12, 'burn-in 3/3'),
        (dict(burn_in=2), 10, 'semi'),
        (dict(burn_in=11, by_epoch=False), 10, 'burn-in 11/11'),
        (dict(burn_in=10, by_epoch=False), 10, 'semi'),
        (None, 10, 'semi'),
    ],
)
def test_epochs_are_counted_from_1_also_in_burn_in(plan, iteration, mode):
    with on_terminal() as terminal:
        hook = ProgressBarHook(refresh_per_second=1e6)
        plan = plan and LambdaBgSchedulerHook(**plan)
        FakeRunner(hook, iteration=iteration, plan=plan).step(outputs(0))
        assert re.match(f'epoch 3/4  {mode} .* {iteration + 1}/20 ', screen(terminal.getvalue())[0][0])


def test_the_epoch_of_a_run_without_a_teacher_or_without_epochs():
    with on_terminal() as terminal:
        runner = FakeRunner(ProgressBarHook(refresh_per_second=1e6), semi=False, iteration=10)
        runner.step(outputs(0, semi=False))
        assert screen(terminal.getvalue())[0][0].startswith('epoch 3/4  train ')
        # IterBasedTrainLoop counts batches, not epochs.
        runner.epoch = 0
        runner.step(outputs(11, semi=False), batch_idx=11)
        runner.hook.after_train(runner)
        rows, _ = screen(terminal.getvalue())
    assert rows[0].startswith('epoch 3/4  train ') and rows[1] == 'loss 11.5  lambda_bg 0.25'


def test_validation_has_its_own_bar_and_leaves_the_latest_map():
    with on_terminal() as terminal:
        runner = FakeRunner(ProgressBarHook(refresh_per_second=1e6))
        hook, shown = runner.hook, []

        def look():
            shown.append(screen(terminal.getvalue())[0])

        for step in range(5):
            runner.step(outputs(step))
        runner.epoch = 1
        hook.before_val(runner)
        for role in ('teacher', 'student'):
            runner.model.semi_test_cfg['predict_on'] = role
            for batch in range(3):
                hook.after_val_iter(runner, batch)
                look()
        hook.after_val_epoch(runner, {'teacher/coco/bbox_mAP': 0.25, 'student/coco/bbox_mAP': 0.125})
        look()
        runner.step(outputs(5))
        look()
        hook.after_train(runner)
    for rows, role, batch in zip(shown, 3 * ['teacher'] + 3 * ['student'], 2 * [1, 2, 3]):
        assert rows[0].startswith('epoch 1/4  validation ') and ' 5/20 ' in rows[0]
        assert re.match(f'validation of the {role} .* {batch}/3 ', rows[1])
        assert rows[2].endswith('lambda_bg 0.25')
    for rows, mode in zip(shown[-2:], ('epoch 1/4  validation ', 'epoch 2/4  semi ')):
        assert rows[0].startswith(mode) and rows[1].endswith('lambda_bg 0.25  mAP 0.250 (teacher, epoch 1)')


def test_other_metrics_leave_no_map():
    with on_terminal() as terminal:
        runner = FakeRunner(ProgressBarHook(refresh_per_second=1e6), semi=False)
        runner.hook.before_val(runner)
        runner.hook.after_val_epoch(runner, {'mine/images': 4})
        runner.hook.after_train(runner)
        assert screen(terminal.getvalue())[0][1] == ''


def test_the_bar_is_drawn_four_times_a_second_and_reads_no_tensor_in_between(monkeypatch):
    with on_terminal() as terminal:
        clock = SimpleNamespace(now=100.0)
        monkeypatch.setattr(progress, 'time', SimpleNamespace(monotonic=lambda: clock.now))
        runner = FakeRunner(ProgressBarHook(refresh_per_second=4))
        drawn = []
        for step in range(20):
            clock.now = 100 + step / 16
            due = step % 4 == 0 or step == 19  # the last is always drawn
            # Reading a tensor of the meta device raises an error, so none is read in between.
            runner.step(outputs(step, device='cpu' if due else 'meta'))
            drawn.append(screen(terminal.getvalue())[0][1].split()[1])
        runner.hook.after_train(runner)
    assert drawn == [str(step // 4 * 4 + 0.5) for step in range(19)] + ['19.5']


@pytest.mark.parametrize('value', [0, float('inf'), '4'])
def test_bad_arguments_are_refused(value):
    with pytest.raises(ValueError, match='Expected `refresh_per_second` to be'):
        ProgressBarHook(refresh_per_second=value)


@pytest.mark.parametrize('error', [False, True])
def test_stdout_stderr_and_handlers_are_given_back(error, tmp_path):
    with on_terminal() as terminal, open(tmp_path / 'log', 'w') as file:
        elsewhere, errors = logging.StreamHandler(file), sys.stderr
        runner = FakeRunner(ProgressBarHook(), handlers=[elsewhere])
        handler = runner.logger.handlers[0]
        assert handler.stream is sys.stdout is not terminal and sys.stderr is not errors
        assert elsewhere.stream is file
        if error:  # MMEngine calls no hook. The runner is deleted with the last traceback.
            del runner
            gc.collect()
        else:
            runner.hook.after_train(runner)
        assert handler.stream is sys.stdout is terminal and sys.stderr is errors


def test_errors_that_go_to_a_file_stay_there(monkeypatch, tmp_path):
    with on_terminal(), open(tmp_path / 'errors', 'w') as errors:
        monkeypatch.setattr(sys, 'stderr', errors)
        runner = FakeRunner(ProgressBarHook())
        print('warned', file=sys.stderr)
        runner.hook.after_train(runner)
    assert (tmp_path / 'errors').read_text() == 'warned\n'


@pytest.mark.parametrize('closed', [True, False])
def test_training_continues_without_its_terminal(monkeypatch, closed):
    def hung_up(text):
        raise OSError('Input/output error')

    with on_terminal() as terminal:
        runner = FakeRunner(ProgressBarHook(refresh_per_second=1e6))
        runner.step(outputs(0))
        if closed:
            terminal.close()
        else:
            terminal.write = hung_up
        for step in range(3):
            runner.step(outputs(step))
        runner.hook.before_val(runner)
        runner.hook.after_train(runner)
        assert sys.stdout is terminal is runner.logger.handlers[0].stream


@pytest.mark.parametrize('why', [{}, dict(FORCE_COLOR='1'), dict(TTY_COMPATIBLE='1', TTY_INTERACTIVE='1'), 'process'])
def test_nothing_is_drawn_in_a_pipe_or_by_another_process(monkeypatch, why):
    with on_terminal() as terminal:
        stdout = terminal if why == 'process' else io.StringIO()
        monkeypatch.setattr(sys, 'stdout', stdout)
        monkeypatch.setattr(progress, 'is_main_process', lambda: why != 'process')
        for name, value in why.items() if why != 'process' else ():
            monkeypatch.setenv(name, value)
        runner = FakeRunner(ProgressBarHook(refresh_per_second=1e6))
        runner.logger.info('line')
        runner.step(outputs(0, device='meta'))
        runner.hook.before_val(runner)
        runner.hook.after_train(runner)
        assert sys.stdout is runner.logger.handlers[0].stream is stdout
        assert (stdout.getvalue(), terminal.getvalue().strip()) == ('line\n', 'line' if why == 'process' else '')


INTERRUPTED = """
import logging
from argparse import Namespace
from torch import tensor
from mmengine.logging import MessageHub
from mmyolo_bgpenalty import ProgressBarHook
hub = MessageHub.get_instance('interrupted')
runner = Namespace(model=hub, iter=0, epoch=0, max_iters=20, train_dataloader=range(5), message_hub=hub, hooks=[])
runner.logger = logging.Logger('run')
hook = ProgressBarHook()
hook.before_train(runner)
hook.after_train_iter(runner, 0, outputs=dict(loss=tensor(2.5)))
raise KeyboardInterrupt
"""


def test_a_terminal_is_usable_after_an_interrupted_run():
    """On a pseudo terminal. The traceback is above the bar, the last line is complete, and the cursor is visible."""
    master, slave = os.openpty()
    env = {name: value for name, value in os.environ.items() if name not in RICH}
    env |= dict(ENVIRONMENT, PYTHONPATH=str(ROOT))
    command = [sys.executable, '-W', 'ignore', '-c', INTERRUPTED]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=env) as process, open(master, 'rb', 0) as reader:
        os.close(slave)
        text = b''
        while chunk := read(reader):
            text += chunk
    rows, cursor = screen(text.decode())
    assert process.returncode != 0 and cursor
    assert [row for row in rows if row.startswith('Traceback')] and rows[-4] == 'KeyboardInterrupt'
    assert '1/20' in rows[-3] and rows[-2:] == ['loss 2.5', '']


def read(reader) -> bytes:
    try:
        return reader.read(65536)
    except OSError:  # Linux raises it when the last writer has closed
        return b''


def test_a_real_run_on_a_terminal(tmp_path):
    cfg = load(
        SEMI,
        make_set(tmp_path),
        tmp_path / 'work',
        burn_in=1,
        train_cfg__max_epochs=2,
        train_cfg__val_interval=2,
        default_hooks__checkpoint=None,
        experiment_name='terminal',
        default_hooks__progress=dict(type='ProgressBarHook', refresh_per_second=1e6),
    )
    with on_terminal() as terminal:
        Runner.from_cfg(cfg).train()
        text = terminal.getvalue()
    rows, cursor = screen(text)
    assert cursor
    # One whole log line for each batch, and one bar below them.
    found = [re.search(r'Epoch\(train\) +\[(\d)\]\[(\d)/5\]', row) for row in rows]
    assert [match.groups() for match in found if match] == [(e, b) for e in '12' for b in '12345']
    [last] = [i for i, row in enumerate(rows) if '━━' in row]
    assert any('Validation after epoch 2 of 2' in row for row in rows[:last])
    assert '10/10' in rows[last]
    for part in ('epoch 1/2  burn-in 1/1', 'epoch 2/2  semi', 'epoch 2/2  validation', 'validation of the student'):
        assert part in text
    assert re.search(r'  mAP \d\.\d\d\d \(teacher, epoch 2\)$', rows[last + 1])
    for name in ('loss', 'loss_sup', 'loss_unsup', 'unsup_weight', 'lambda_bg'):
        assert re.search(rf'(^|  ){name} -?\d', rows[last + 1]), rows[last + 1]
