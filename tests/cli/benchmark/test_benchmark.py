"""tools/benchmark.py: what it compares, which way round, and once for real on tiny shapes."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from mmyolo_bgpenalty.cli.benchmark import benchmark, steps
from tests.helpers.tiny import ROOT

TINY = steps.Shape(2, 64, 96, 3, 3)
LOSSES = ('loss_cls', 'loss_bbox', 'loss_dfl')


@pytest.fixture
def bench(monkeypatch):
    """A bench whose time passes only where a test lets it."""
    monkeypatch.setattr(benchmark.Bench, 'clock', lambda self: self.now)
    bench = benchmark.Bench('cpu', 7, quick=True)
    bench.now = 0.0

    def takes(seconds):
        def step():
            bench.now += seconds

        return step

    bench.takes = takes
    return bench


def test_ours_over_theirs(bench):
    """Twice as slow as MMYOLO is 2, and misses the target."""
    row = bench.compare('loss', 'x', benchmark.LARGE, bench.takes(0.4), bench.takes(0.2))
    assert row.ratio.median == pytest.approx(2) and row.ratio.interval == pytest.approx((2, 2))
    assert (row.ours, row.theirs) == pytest.approx((400, 200))
    assert (row.target, row.reached) == (0.4, 'not met')
    row = bench.compare('loss', 'x', benchmark.LARGE, bench.takes(0.1), bench.takes(1.0))
    assert row.ratio.median == pytest.approx(0.1) and row.reached == 'met'
    assert '| ≤ 0.4: met |' in benchmark.markdown(bench, dict.fromkeys(MACHINE, 0))


MACHINE = ('device', 'cores', 'threads', 'load', 'torch', 'python', 'date', 'command')


def test_a_gpu_has_targets_of_its_own(bench):
    bench.device = 'cuda'
    assert bench.compare('loss', 'x', benchmark.LARGE, bench.takes(0.5), bench.takes(1.0)).reached == 'met'
    assert bench.compare('semi step', 'x', benchmark.NANO, bench.takes(2.0), bench.takes(1.0)).target is None


def test_share_of_the_penalty(bench, monkeypatch):
    """3 ms with it, 1 ms without, in a step of 100 ms."""
    heads = iter((3e-3, 1e-3))
    monkeypatch.setattr(benchmark, 'LossStep', lambda head, scene: bench.takes(next(heads)))
    benchmark._share(bench, TINY, 100.0)
    assert bench.rows[0].ratio.median == pytest.approx(0.02)


def test_sides():
    """Ours is the shipped config's, theirs MMYOLO's own; both alike in size."""
    ours = steps.our_config(TINY, {'bbox_head.bg_penalty.focal': True}).model
    theirs = steps.their_detector(TINY, ours)
    shipped = steps.Config.fromfile(steps.mmyolo_bgpenalty.config('yolov8_bgpenalty.py'))
    assert ours.train_cfg.assigner.type == shipped.model.train_cfg.assigner.type
    assert ours.bbox_head.bg_penalty == dict(lambda_bg=shipped.lambda_bg, focal=True) and shipped.lambda_bg > 0
    assert theirs.bbox_head.type == 'YOLOv8Head' and theirs.train_cfg.assigner.type == 'BatchTaskAlignedAssigner'
    assert theirs.backbone.widen_factor == ours.backbone.widen_factor
    assert {cfg.bbox_head.head_module.num_classes for cfg in (ours, theirs)} == {3}
    assert {cfg.train_cfg.assigner.num_classes for cfg in (ours, theirs)} == {3}


def test_scene():
    scene = steps.Scene(steps.Shape(2, 64, 96, 3, 50), 'cpu')
    sides = scene.bboxes[..., 2:] - scene.bboxes[..., :2]
    assert sides.min() >= 8 and (sides <= torch.tensor([48, 32])).all()
    assert scene.bboxes.min() >= 0 and (scene.bboxes[..., 2:] <= torch.tensor([96, 64])).all()
    assert [tuple(x.shape) for x in scene.logits] == [(2, 3, 8, 12), (2, 3, 4, 6), (2, 3, 2, 3)]
    assert [tuple(x.shape) for x in scene.distributions] == [(2, 64, 8, 12), (2, 64, 4, 6), (2, 64, 2, 3)]


def losses(decode):
    scene = steps.Scene(TINY, 'cpu')
    ours = steps.our_config(TINY).model
    cfgs = ours, steps.their_detector(TINY, ours)
    return [steps.LossStep(steps.build_head(cfg, 'cpu'), scene, decode) for cfg in cfgs]


@pytest.mark.parametrize('decode', [True, False])
def test_loss_steps_agree_but_for_the_penalty(decode):
    ours, theirs = losses(decode)
    assert steps.disagreement(ours, theirs) < 1e-5
    assert ours.losses()['loss_bg'] > 0 and set(theirs.losses()) == set(LOSSES)
    levels = len(steps.STRIDES)
    for step in (ours, theirs):
        gradients = step()
        assert len(gradients) == (2 if decode else 3) * levels
        assert all(gradient.abs().sum() > 0 for gradient in gradients[:levels] + gradients[-levels:])


def test_decoding_changes_no_loss():
    (ours, _), (apart, _) = losses(True), losses(False)
    assert ours.losses() == apart.losses()


def test_disagreement_is_the_largest():
    class Fake:
        def __init__(self, *values):
            self.losses = lambda: dict(zip(LOSSES, values))

    assert steps.disagreement(Fake(1.0, 2.2, 3.0), Fake(1.0, 2.0, 3.03)) == pytest.approx(0.1)


def test_an_assigner_that_differs_is_not_timed():
    ours = steps.our_config(TINY).model
    theirs = steps.their_detector(TINY, ours)
    ours.train_cfg.assigner.topk = 1
    with pytest.raises(ValueError, match='differs from MMYOLO'):
        steps.assigner_steps(ours, theirs, steps.Scene(TINY, 'cpu'))


def test_semi_steps_do_the_same_work():
    """Before any update the two detectors give the same losses, pseudo-labels included, but for the penalty."""
    ours, theirs = steps.semi_steps(steps.Shape(4, 64, 96, 3, 3), None, 'cpu')
    assert ours.pseudo_boxes() == theirs.pseudo_boxes() > 0
    before = {name: p.clone() for name, p in ours.model.student.named_parameters()}
    mine, other = ours(), theirs()
    names = [f'{branch}_{name}' for branch in ('sup', 'unsup') for name in LOSSES]
    assert {name for name in other if name != 'loss'} == set(names)
    for name in names:
        assert mine[name].item() == pytest.approx(other[name].item(), rel=1e-3), name
        assert mine[name] > 0
    assert mine['unsup_loss_bg'] > 0
    # the learning rate is 0
    assert all(torch.equal(p, before[name]) for name, p in ours.model.student.named_parameters())


def test_peak_of_a_step_by_hand():
    """With x of 4 MB: exp (4) stays, sigmoid (4) stays, the gradient (4) joins them."""
    x = torch.zeros(1000, 1000, requires_grad=True)
    peak = benchmark.peak_bytes(lambda: torch.autograd.grad((x * 2).exp().sigmoid().sum(), x), 'cpu')
    assert peak == pytest.approx(12e6, rel=1e-3)


@pytest.mark.slow
def test_quick_run(tmp_path):
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools/benchmark.py'), '--quick', '--threads', '1']
    done = subprocess.run(
        [*command, '--out', str(tmp_path / 'b')], capture_output=True, text=True, timeout=600, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text, content = (tmp_path / 'b.md').read_text('utf-8'), json.loads((tmp_path / 'b.json').read_text('utf-8'))
    assert (tmp_path / 'b.png').read_bytes().startswith(b'\x89PNG')
    cases = {row['case'] for row in content['rows']}
    assert {'loss', 'loss from predictions', 'traffic', 'assigner', 'assigner in our head'} <= cases
    assert {'supervised step', 'semi step', 'share'} <= cases
    assert {'memory of the loss', 'memory of the supervised step', 'memory of the semi step'} <= cases
    assert {(row['case'], row['axis']) for row in content['growth']} == {
        (case, axis) for case in ('assigner', 'loss') for axis in ('boxes', 'pixels')
    }
    assert content['threads'] == 1 and content['command'].endswith('--pairs 2 --threads 1 --quick')
    assert all(case in text for case in cases) and content['command'] in text
    for name in (socket.gethostname(), str(tmp_path), str(ROOT)):
        assert name not in text and name not in json.dumps(content)


@pytest.mark.parametrize(
    'options, what', [(['--pairs', '0'], '--pairs'), (['--threads', '0'], '--threads'), (['--device', 'cuda'], 'GPU')]
)
def test_bad_options_are_named(options, what, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert benchmark.main(options) == 2
    assert what in capsys.readouterr().err
