"""What the console, the log file and the json files show of a validation."""

import io
import json
import logging
import re
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import mmengine
import pytest
from mmengine.evaluator import BaseMetric
from mmengine.hooks import LoggerHook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmyolo.registry import METRICS
from yapf.yapflib import yapf_api

from mmyolo_bgpenalty import ValidationLoggerHook
from mmyolo_bgpenalty.engine.console import CommandRunner, short_line
from tests.helpers.tiny import SEMI, SUPERVISED, load

DETAILS = ('bbox_mAP_75', 'Average Precision', '| category', '| square', 'Evaluating bbox', 'copypaste', 'fp_place')


@METRICS.register_module()
class NumberOfImages(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(images=len(results))


def watched(cfg, run=Runner.train):
    """Run with a config. Returns the text on the console, the text of the log file and the rows of scalars.json."""
    # A name of its own, so that the run has its own logger.
    cfg.experiment_name = re.sub(r'\W', '_', cfg.work_dir)
    with redirect_stdout(io.StringIO()) as console:
        runner = Runner.from_cfg(cfg)
        run(runner)
    log = MMLogger.get_instance(runner.experiment_name).log_file
    rows = [json.loads(line) for line in open(f'{runner._log_dir}/vis_data/scalars.json')]
    return SimpleNamespace(console=console.getvalue(), log=open(log).read(), rows=rows, runner=runner)


def tables(text):
    """The tables in a text: title, columns, and the cells of each row by its name."""
    found = []
    for title, header, body in re.findall(r'INFO\S* - (.+)\n\+-.*\n\|(.*)\|\n\+-.*\n((?:\|.*\n)+)', text):
        rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in body.splitlines()]
        columns = [cell.strip() for cell in header.split('|')][1:]
        found.append((title, columns, {name: cells for name, *cells in rows}))
    return found


COLUMNS = ['mAP', 'mAP50', 'precision', 'recall', 'false positives per image']


@pytest.fixture(scope='module')
def semi(data, tmp_path_factory):
    options = dict(burn_in=1, train_cfg__max_epochs=2, train_cfg__val_interval=1, default_hooks__checkpoint=None)
    return watched(load(SEMI, data, tmp_path_factory.mktemp('semi'), **options))


def test_each_validation_is_a_short_table_on_the_console(semi):
    found = tables(semi.console)
    for epoch, (title, columns, rows) in enumerate(found, 1):
        assert title == (
            f'Validation after epoch {epoch} of 2 (precision, recall and false positives at confidence 0.25)'
        )
        assert columns == COLUMNS and list(rows) == ['teacher', 'student']
    assert len(found) == 2
    metrics = [row for row in semi.rows if 'teacher/coco/bbox_mAP' in row]
    names = (
        'coco/bbox_mAP',
        'coco/bbox_mAP_50',
        'pr/precision_at_0.25',
        'pr/recall_at_0.25',
        'pr/fp_per_image_at_0.25',
    )
    for row, (_, _, rows) in zip(metrics, found, strict=True):
        for role, cells in rows.items():
            assert cells == [f'{row[f"{role}/{name}"]:.3f}' for name in names]


def test_a_line_of_training_is_short_on_the_console_and_complete_in_the_log_file(semi):
    whole, short = (re.findall(r'INFO\S* - (Epoch\(train\).+)', text) for text in (semi.log, semi.console))
    rows = [row for row in semi.rows if 'loss' in row]
    assert len(whole) == len(short) == len(rows) == 10
    for row, long, line in zip(rows, whole, short):
        assert all(f'{name.split("/")[-1]}: ' in long for name in row if name not in ('iter', 'epoch', 'step'))
        assert len(line) < 100 < len(long) and line.startswith(long.partition(']  ')[0])
        kept = re.search(r'  eta \d.*  loss ([\d.]+) \(sup [\d.]+(, unsup [\d.]+)?\)  λ_bg [\d.]+$', line)
        assert float(kept[1]) == pytest.approx(row['loss'], rel=1e-3)
    assert ['unsup' in line for line in short] == ['unsup_loss_cls' in row for row in rows]


ETA = 'base_lr: 1.0000e-03 lr: 2.0000e-05  eta: 1 day, 2:03:04  time: 1.2500  data_time: 0.0100  memory: 7000  '


@pytest.mark.parametrize(
    'line, expected',
    [
        (
            f'Epoch(train)   [3][ 20/135]  {ETA}grad_norm: 9.0000  loss: 3.2110  loss_cls: 1.2310  loss_bbox: 0.4310  '
            'loss_dfl: 0.9920  loss_bg: 0.0123  semi/lambda_bg: 0.2000  semi/bg_penalty_mean: 0.0100',
            'Epoch(train)   [3][ 20/135]  eta 1 day, 2:03:04  loss 3.211 (cls 1.231, bbox 0.431, dfl 0.992, bg 0.0123)'
            '  λ_bg 0.2',
        ),
        (
            f'Iter(train) [  20/1000]  {ETA}loss: nan  sup_loss_cls: nan  sup_loss_bbox: 1.0  unsup_loss_cls: 0.5',
            'Iter(train) [  20/1000]  eta 1 day, 2:03:04  loss nan (sup nan, unsup 0.5)',
        ),
        (
            'Epoch(train) [1][2/2]  lr: 1.0000e-03  loss: 1234.5000  '
            + '  '.join(f'd{layer}.loss_cls: 1.0000' for layer in range(6)),
            'Epoch(train) [1][2/2]  loss 1234',
        ),
        ('Epoch(train) [1][2/2]  lr: 1.0000e-03  acc: 0.5000', None),
        ('Epoch(test) [20/76]    eta: 0:00:24  time: 0.4383  data_time: 0.0171  ', None),
        ('The best model has a loss: 0.1', None),
        (
            'The best checkpoint with 0.1234 teacher/coco/bbox_mAP_50 at 4 epoch is saved to best_x_epoch_4.pth.',
            'New best checkpoint (0.1234): best_x_epoch_4.pth',
        ),
    ],
)
def test_what_a_short_line_keeps(line, expected):
    assert short_line(line) == (line if expected is None else expected)


def test_a_handler_of_a_file_gets_everything(tmp_path):
    logger, console = logging.Logger('all'), io.StringIO()
    logger.handlers += [logging.StreamHandler(console), logging.FileHandler(tmp_path / 'log', encoding='utf-8')]
    for _ in range(2):  # a logger may serve several runs
        ValidationLoggerHook().before_run(SimpleNamespace(logger=logger, timestamp=''))
    lines = [
        'Saving checkpoint at 4 epochs',
        'The previous best checkpoint a.pth is removed',
        'The best checkpoint with 0.5 mAP at 4 epoch is saved to b.pth.',
        'Epoch(train) [1][2/2]  lr: 0.1  loss: 2.5  acc: 0.5',
    ]
    for line in lines:
        logger.info('%s', line)
    assert (tmp_path / 'log').read_text().splitlines() == lines
    short = ['Saving checkpoint at 4 epochs', 'New best checkpoint (0.5): b.pth', 'Epoch(train) [1][2/2]  loss 2.5']
    assert console.getvalue().splitlines() == short


def test_the_details_are_in_the_log_file_only(semi):
    for part in DETAILS:
        assert part in semi.log and part not in semi.console
    assert semi.log.count('IoU=0.50:0.95 | area=   all | maxDets=100') == 8  # AP and AR, two models, two validations
    assert len(tables(semi.log)) >= 2 and '\n\n' not in semi.console.partition('Epoch(train)')[2]


def test_all_metrics_are_in_the_json_file(semi):
    row = next(row for row in semi.rows if 'teacher/coco/bbox_mAP' in row)
    for role in ('teacher', 'student'):
        for name in ('coco/bbox_mAP_75', 'coco/square_precision', 'pr/fp_place', 'pr/square_f1', 'pr/best_confidence'):
            assert f'{role}/{name}' in row


def test_a_supervised_run_and_a_test_have_the_row_model(data, tmp_path):
    cfg = load(SUPERVISED, data, tmp_path, train_cfg__max_epochs=1, default_hooks__checkpoint=None)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator

    def run(runner):
        runner.train()
        runner.test()

    seen = watched(cfg, run)
    titles = ['Validation after epoch 1 of 1', 'Test']
    *short, (title, columns, rows) = tables(seen.console)
    assert (title, columns) == ('Test, by class', ['AP', 'AP50', 'recall at 0.25'])
    assert list(rows) == ['square', 'bar']  # the set has no disc
    for title, (found, columns, rows) in zip(titles, short, strict=True):
        assert found == f'{title} (precision, recall and false positives at confidence 0.25)'
        assert columns == COLUMNS and list(rows) == ['model']
    assert not any(part in seen.console.partition('Test, by class')[0] for part in DETAILS)


@pytest.fixture
def other_metrics(data, tmp_path):
    def run(evaluator, **options):
        cfg = load(SUPERVISED, data, tmp_path, default_hooks__checkpoint=None, train_cfg__max_epochs=1, **options)
        cfg.val_evaluator = evaluator
        return watched(cfg, Runner.val)

    return run


def test_other_metrics_show_what_they_have(other_metrics, data):
    seen = other_metrics(dict(type='mmdet.CocoMetric', metric='bbox', ann_file=f'{data}/val.json'))
    [(title, columns, rows)] = tables(seen.console)
    assert (title, columns, list(rows)) == ('Validation', ['mAP', 'mAP50'], ['model'])
    assert 'copypaste' in seen.log and 'copypaste' not in seen.console


def test_false_alarms_on_good_parts_follow_as_a_second_table(other_metrics, data, tmp_path):
    content = json.loads(Path(data, 'val.json').read_text())
    good = content['images'][0]['id']
    content['annotations'] = [box for box in content['annotations'] if box['image_id'] != good]
    (tmp_path / 'good.json').write_text(json.dumps(content))
    seen = other_metrics(dict(type='PrecisionRecallMetric', ann_file=f'{tmp_path}/good.json', prevalence=0.99))
    first, second = seen.console.split('Validation, false alarms on good parts where this share is found\n')
    assert 'Validation (precision, recall and false positives at confidence 0.25)' in first
    assert re.findall(r'^\| (0\.\d) ', second, re.M) == ['0.7', '0.8', '0.9'] and 'if 0.99 of parts are good' in second


def test_without_a_known_metric_the_line_of_mmengine_stays(other_metrics):
    seen = other_metrics(dict(type='NumberOfImages', prefix='mine'))
    assert re.search(r'Epoch\(val\) \[\d\]\[1/1\] +mine/images: 4', seen.console)


def test_without_the_hook_nothing_is_hidden(other_metrics, data):
    cfg = dict(type='PrecisionRecallMetric', coco=True, ann_file=f'{data}/val.json', classwise=True)
    seen = other_metrics(cfg, default_hooks__logger__type='LoggerHook')
    assert all(part in seen.console for part in DETAILS)


def test_it_is_a_logger_hook():
    """Other hooks look for a LoggerHook to know its interval."""
    assert isinstance(ValidationLoggerHook(interval=7), LoggerHook)


def test_the_text_of_a_config_is_formatted_once_until_it_changes(data, tmp_path, monkeypatch):
    """MMEngine asks for it four times when a run starts, and at each checkpoint."""
    calls = []

    def formatted(text, **kwargs):
        calls.append(text)
        return f'# formatted\n{text}', True

    for owner in (mmengine.config.config, yapf_api):  # as in conftest.py
        if hasattr(owner, 'FormatCode'):
            monkeypatch.setattr(owner, 'FormatCode', formatted)
    cfg = load(SEMI, data, tmp_path)
    runner = CommandRunner.from_cfg(cfg)
    assert len(calls) == 1 and runner.cfg.pretty_text == cfg.pretty_text and len(calls) == 2
    assert {file.read_text() for file in tmp_path.glob('**/*.py')} == {cfg.pretty_text}
    runner.cfg.lambda_bg = 0.123
    assert 'lambda_bg=0.123' in runner.cfg.pretty_text and 'lambda_bg=0.123' not in cfg.pretty_text
