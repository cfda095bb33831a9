"""The benchmark's ratios and report, and one real run on tiny shapes."""

import json
import socket

import pytest
import torch

from mmyolo_bgpenalty.cli.benchmark import benchmark
from mmyolo_bgpenalty.cli.benchmark.cases import TINY, Pair
from mmyolo_bgpenalty.cli.benchmark.measures import spread
from tests.helpers.tiny import ROOT


@pytest.mark.parametrize('case, pairs', [('loss', 8), ('semi step', 4)])
def test_ratios_are_ours_over_theirs(monkeypatch, case, pairs):
    monkeypatch.setattr(benchmark, 'paired_times', lambda ours, theirs, pairs: [(ours, theirs)] * pairs)
    row = benchmark.time_row(Pair(case, 'x', TINY, 0.4, 0.2, 'equal'), 8)
    assert (row.ours, row.theirs) == pytest.approx((400, 200)) and row.ratio.number == pairs
    assert row.ratio.median == pytest.approx(2) and row.note == 'equal'


def test_a_line_of_the_table():
    row = benchmark.Row('loss', 'x', '2 px', 12.345, 123.45, 'ms', spread([0.05] * 6), 'a')
    assert benchmark.line(row) == (
        '| loss | x | 2 px | 12.3 | 123 ms | **0.050** [0.050, 0.050] | 0.050 – 0.050, 6 | a |'
    )
    row = row._replace(ratio=spread([2.0]), unit='MiB', note='')
    assert benchmark.line(row) == '| loss | x | 2 px | 12.3 | 123 MiB | **2.00** |  |  |'


def test_a_quick_run(tmp_path):
    threads = torch.get_num_threads()
    cases = ['--cases', 'loss', 'traffic', 'assigner', 'step', 'memory']  # test_whole_trainings.py has the others
    try:
        assert benchmark.main(['--quick', '--threads', '1', *cases, '--out', str(tmp_path / 'b')]) == 0
    finally:
        torch.set_num_threads(threads)
    text, content = (tmp_path / 'b.md').read_text('utf-8'), json.loads((tmp_path / 'b.json').read_text('utf-8'))
    cases = {row['case'] for row in content['rows']}
    assert cases == {
        *('loss', 'traffic', 'assigner', 'supervised step', 'semi step'),
        *('memory of the loss', 'memory of the supervised step', 'memory of the semi step'),
    }
    assert content['threads'] == 1 and content['command'].endswith('--pairs 2 --threads 1 --quick')
    assert all(f'\n| {case} | ' in text for case in cases) and content['command'] in text
    for name in (socket.gethostname(), str(tmp_path), str(ROOT)):
        assert name not in text and name not in json.dumps(content)


def test_rows_are_kept_if_a_later_case_fails(tmp_path, monkeypatch):
    def fails(device, quick):
        raise RuntimeError('a later case')

    monkeypatch.setitem(benchmark.TIMED, 'assigner', fails)
    threads, options = torch.get_num_threads(), ['--quick', '--cases', 'traffic', 'assigner']
    with pytest.raises(RuntimeError, match='a later case'):
        benchmark.main([*options, '--threads', str(threads), '--out', str(tmp_path / 'b')])
    (row,) = json.loads((tmp_path / 'b.json').read_text('utf-8'))['rows']
    assert row['case'] == 'traffic' and '| traffic | ' in (tmp_path / 'b.md').read_text('utf-8')


def test_an_mmcv_without_operators_for_the_gpu_is_named(monkeypatch, capsys):
    def without_cuda(*args):
        raise NotImplementedError('nms_impl: implementation for device cuda:0 not found.')

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(benchmark, 'nms', without_cuda)
    monkeypatch.setattr(benchmark.torch, 'tensor', lambda *args, device: None)
    monkeypatch.setattr(benchmark.torch, 'ones', lambda *args, device: None)
    assert benchmark.main(['--device', 'cuda']) == 2
    assert 'MMCV with operators for the GPU' in capsys.readouterr().err


@pytest.mark.parametrize('ours, theirs, ratio', [(6, 24, 0.25), (0, 0, 0.0), (2, 0, 2.0)])
def test_waits_are_numbers(monkeypatch, ours, theirs, ratio):
    monkeypatch.setattr(benchmark, 'host_waits', lambda task: task)
    row = benchmark.waits_row(Pair('semi step', 'x', TINY, ours, theirs))
    assert (row.ours, row.theirs, row.ratio.median) == (ours, theirs, ratio)
    assert f'| {ours} | {theirs} | ' in benchmark.line(row)


def test_each_device_has_its_cases(monkeypatch):
    monkeypatch.setattr(benchmark, 'check_gpu', lambda: None)
    found = {device: set(benchmark.parse_args(['--device', device]).cases) for device in ('cpu', 'cuda')}
    assert found['cuda'] == {'loss', 'traffic', 'assigner', 'step', 'memory', 'waits'}
    assert found['cpu'] == found['cuda'] - {'waits'} | {'training', 'data', 'start', 'busy', 'ablation'}


@pytest.mark.parametrize(
    'options, what',
    [
        (['--cases', 'waits'], 'cuda'),
        (['--pairs', '0'], '--pairs'),
        (['--threads', '0'], '--threads'),
        (['--device', 'cuda'], 'GPU'),
    ],
)
def test_bad_options_are_named(options, what, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert benchmark.main(options) == 2
    assert what in capsys.readouterr().err
