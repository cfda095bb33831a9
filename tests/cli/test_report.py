"""What the command train says at the start and at the end, and when it is stopped."""

import io
import re
import shlex
import shutil
import signal
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmyolo.registry import HOOKS

from mmyolo_bgpenalty.__main__ import main as run_command
from mmyolo_bgpenalty.cli import train as train_command
from mmyolo_bgpenalty.cli.train import Report
from mmyolo_bgpenalty.cli.train import main as train
from mmyolo_bgpenalty.engine.cpu_amp import computes_in_bf16
from mmyolo_bgpenalty.utils.threads import number_of_cores
from tests.helpers.tiny import SEMI, SUPERVISED, load

HINT = '. The processor has instructions for bf16: --amp trains faster'


@HOOKS.register_module()
class ActsOfTestReport(Hook):
    """In the second iteration, sends a signal to this process."""

    def __init__(self, number):
        self.number = number

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 1:
            signal.raise_signal(self.number)


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    """Trains a tiny variant of a shipped config by the command."""

    def run(name, base, *arguments, stopped=None, validate=True, **options):
        folder = tmp_path_factory.mktemp('a folder')
        cfg = load(base, data, folder / 'work', experiment_name=name, **options)
        if not validate:
            cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = cfg.test_cfg = None
        cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
        cfg.dump(folder / 'tiny.py')
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for a test run in the background
        with redirect_stdout(io.StringIO()) as console, pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            argv = ['tiny.py', *arguments]
            if stopped is None:
                assert train(argv) == 0
            else:
                with pytest.raises(SystemExit) as end:
                    train(argv)
                assert end.value.code == stopped
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return SimpleNamespace(text=console.getvalue(), folder=folder)

    return run


@pytest.fixture(scope='module')
def semi(run):
    options = dict(train_cfg__max_epochs=2, train_cfg__val_interval=1, burn_in=1, default_hooks__checkpoint__interval=1)
    return run(
        'report_semi', SEMI, '--cfg-options', 'lambda_bg=0.5', 'model.semi_train_cfg.teacher_flips=[]', **options
    )


def test_the_start_says_what_is_trained(semi):
    start = semi.text.partition('Epoch(train)')[0]
    assert (
        'Training tiny.py\n'
        '  images: 6 labeled and 10 unlabeled, 4 for validation\n'
        f'  device: cpu, 1 thread on {number_of_cores()} cores{HINT * computes_in_bf16()}\n'
        '  plan: an epoch = 5 iterations; burn-in 5; total 10\n'
        '  work dir: work\n'
    ) in start


def test_the_end_names_the_best_and_the_last_checkpoint_with_its_figures(semi):
    end = semi.text.partition('Training is finished: 10 iterations, 0:')[2]
    [best] = (semi.folder / 'work').glob('best_*.pth')
    assert f'  best checkpoint: work/{best.name}\n    teacher: mAP 0.000' in end
    assert '    the teacher has found no object in validation: train longer\n' in end
    assert '  last checkpoint: work/epoch_2.pth\n    teacher: mAP 0.000' in end
    [log] = (semi.folder / 'work').glob('*/*.log')
    assert f'  log: {log.relative_to(semi.folder)}\n' in end and 'What to run next:' in log.read_text()


def test_the_next_commands_can_be_copied(semi, monkeypatch, capsys):
    _, *commands = semi.text.partition('What to run next:')[2].splitlines()
    words = [shlex.split(line) for line in commands]
    assert [line[:4] for line in words] == [
        ['python', '-m', 'mmyolo_bgpenalty', name] for name in ('test', 'report', 'predict', 'export')
    ]
    monkeypatch.chdir(semi.folder)
    assert all(
        line[-3:] == ['--cfg-options', 'lambda_bg=0.5', 'model.semi_train_cfg.teacher_flips=[]']
        for line in words
        if line[3] != 'report'
    )
    assert run_command(words[0][3:]) == run_command(words[1][3:]) == 0
    assert '<title>Detection report' in Path('report.html').read_text(encoding='utf-8')
    assert run_command(words[3][3:]) == 0 and Path('work/epoch_2_teacher.pth').exists()


def test_a_finished_run_says_so_and_how_to_train_longer(semi, monkeypatch):
    shutil.copytree(semi.folder / 'work', semi.folder / 'again')
    monkeypatch.chdir(semi.folder)
    with redirect_stdout(io.StringIO()) as console:
        assert train(['tiny.py', '--work-dir', 'again', '--resume', '--cfg-options', 'visualizer.name=again']) == 0
    text = console.getvalue()
    assert 'This run is finished: all 2 epochs are done' in text and 'To train longer, start a new run' in text
    assert 'Epoch(train)' not in text and 'Training' not in text and 'continues' not in text
    assert '  last checkpoint: ' in text and 'What to run next:\n' in text


@pytest.fixture
def end_of(monkeypatch, tmp_path):
    """The text at the end of a run with one validation."""

    def end(metrics, best='best.pth'):
        lines, hub = [], SimpleNamespace(runtime_info=dict(last_ckpt='last.pth'))
        runner = SimpleNamespace(iter=3, message_hub=hub, model=torch.nn.Identity(), cfg={}, log_dir=str(tmp_path))
        runner.work_dir = str(tmp_path)
        runner.logger = SimpleNamespace(info=lines.append, log_file='log')
        monkeypatch.setattr(train_command, 'best_checkpoint', lambda _: best)
        report = Report(train_command.parse_args(['tiny.py']))
        report.after_val_epoch(runner, metrics)
        report.end(runner)
        return '\n'.join(lines)

    return end


def test_a_run_that_is_stopped_while_it_reads_data():
    """Its optimizer is not built yet."""
    lines = []
    runner = SimpleNamespace(optim_wrapper=dict(type='OptimWrapper'), logger=SimpleNamespace(info=lines.append))
    Report(train_command.parse_args(['tiny.py'])).stopped(runner, 'Stopped by Ctrl-C')
    assert lines == ['Stopped by Ctrl-C before the first iteration.']


@pytest.mark.parametrize('value, expected', [(0.0, 'last.pth'), (0.001, 'best.pth')])
def test_a_model_that_finds_nothing_is_not_the_best(value, expected, end_of):
    text = end_of({'coco/bbox_mAP': value, 'pr/fp_per_image_at_0.25': 3.0})
    assert f'predict tiny.py {expected} PICTURES' in text


@pytest.mark.parametrize('student, said', [(0.34, True), (0.31, False)])
def test_a_student_that_is_better_than_its_teacher_is_named(student, said, end_of):
    text = end_of({'teacher/coco/bbox_mAP': 0.3, 'student/coco/bbox_mAP': student})
    assert ('predict_on=student' in text) == said


@pytest.mark.parametrize('best, what', [('best.pth', 'The best checkpoint'), ('', 'The last validation')])
def test_the_end_has_a_table_of_the_classes(best, what, end_of):
    text = end_of({'coco/bbox_mAP': 0.375, 'coco/crack_precision': 0.25, 'pr/crack_ap_50': 0.5}, best)
    assert text.startswith(f'{what}, by class\n+') and '| crack | 0.250 | 0.500 |\n' in text
    assert f'  {"best checkpoint: best.pth" if best else "last validation:"}\n    model: mAP 0.375\n' in text


def test_iterations_without_validation_on_labels_only(run):
    options = dict(
        train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4),
        default_hooks__checkpoint=dict(_delete_=True, type='ResumableCheckpointHook', interval=2, by_epoch=False),
    )
    done = run('report_iterations', SUPERVISED, '--resume', validate=False, **options)
    assert '  there is no checkpoint to resume from: starts at the beginning\n' in done.text
    assert '  images: 6\n' in done.text and 'iterations; burn-in 60; total 4\n' in done.text
    end = done.text.partition('Training is finished: 4 iterations, ')[2]
    assert '  last checkpoint: work/iter_4.pth\n' in end and 'best' not in end
    assert re.findall(r'mmyolo_bgpenalty (\w+) tiny.py work/iter_4.pth', end) == ['predict', 'export']


@pytest.mark.parametrize('number, how', [(signal.SIGTERM, 'Stopped'), (signal.SIGINT, 'Stopped by Ctrl-C')])
def test_a_stopped_run_says_how_to_continue(run, number, how):
    options = dict(custom_hooks=[dict(type='ActsOfTestReport', number=int(number))], train_cfg__max_epochs=2)
    arguments = ['--work-dir', 'my work', '--cfg-options', 'burn_in=1']
    done = run(f'report_{number}', SEMI, *arguments, stopped=128 + number, **options)
    assert 'finished' not in done.text and 'What to run next' not in done.text
    told = f'{how} after iteration 2 of 10. The latest checkpoint is my work/epoch_0_iter_2.pth. To continue from it:\n'
    words = shlex.split(done.text.partition(told)[2])
    assert words[:5] == ['python', '-m', 'mmyolo_bgpenalty', 'train', 'tiny.py']
    assert words[5:] == ['--work-dir', 'my work', '--resume', '--cfg-options', 'burn_in=1']
