"""On a GPU: the CPU's losses and gradients, mixed precision, a run, and a penalty that does not wait."""

import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from test_heads import NO_OBJECTS, OBJECTS, batch, build, features
from tiny import SEMI, load, make_set

from mmyolo_bgpenalty.losses import background_penalty, bce_and_max_logits

if not torch.cuda.is_available():
    pytest.skip('torch sees no CUDA device', allow_module_level=True)

OPTIONS = [
    dict(lambda_bg=1.0),
    dict(lambda_bg=1.0, focal=True),
    dict(lambda_bg=1.0, normalizer='hard', region='outside'),
    dict(lambda_bg=1.0, normalizer='hard', hard_score=0.05, rank=True),
]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """TF32 has 10 bits, of which comparisons with the CPU would tell nothing."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


def losses_and_gradients(head, samples, device, dtype=None):
    head = head.to(device)
    feats = [feat.detach().to(device).requires_grad_() for feat in features()]
    samples = [sample.to(device) for sample in samples]
    with torch.autocast(device, dtype, enabled=dtype is not None):
        losses = head.loss(feats, samples)
    sum(losses.values()).backward()
    gradients = {f'feature {i}': feat.grad for i, feat in enumerate(feats)}
    gradients.update({name: p.grad for name, p in head.named_parameters()})
    return losses, gradients


# The ranking takes the sparse assigner.
CASES = [('SparseTaskAlignedAssigner', options) for options in OPTIONS]
CASES += [('BatchTaskAlignedAssigner', options) for options in OPTIONS if not options.get('rank')]


@pytest.mark.parametrize('objects', [OBJECTS, NO_OBJECTS], ids=['objects', 'none'])
@pytest.mark.parametrize('assigner, options', CASES, ids=str)
def test_losses_and_gradients_are_the_cpus(options, objects, assigner):
    ignored = [torch.tensor([[4.0, 4, 20, 20]]), torch.zeros(0, 4)]
    results = []
    for device in ('cpu', 'cuda'):
        head = build(assigner=assigner, bg_penalty=options)
        results.append(losses_and_gradients(head, batch('list', objects, ignored=ignored), device))
    for expected, found in zip(*results):
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            if value is None:
                assert found[name] is None
            else:
                torch.testing.assert_close(
                    found[name].cpu(), value, rtol=2e-4, atol=2e-5, msg=lambda m, n=name: f'{n}: {m}'
                )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_mixed_precision_is_finite_and_near(options, dtype):
    sparse = dict(assigner='SparseTaskAlignedAssigner', bg_penalty=options)
    plain, _ = losses_and_gradients(build(**sparse), batch('list'), 'cuda')
    losses, gradients = losses_and_gradients(build(**sparse), batch('list'), 'cuda', dtype)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(plain[name].item(), rel=0.1, abs=0.02)
    assert all(value.isfinite().all() for value in gradients.values() if value is not None)


def test_the_penalty_never_waits():
    """Neither it nor its backward pass asks the device for a value."""
    torch.manual_seed(0)
    levels = [torch.randn(2, 3, n, n, device='cuda', requires_grad=True) for n in (8, 4)]
    background = torch.rand(2, 80, device='cuda') > 0.1
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        logits = torch.cat([level.flatten(2) for level in levels], dim=2).mT
        for options in (dict(), dict(focal=True), dict(normalizer='hard', hard_top=9)):
            background_penalty(logits, background, **options).backward(retain_graph=True)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert all(level.grad.isfinite().all() and level.grad.abs().sum() > 0 for level in levels)


def test_the_sparse_classification_loss_has_a_gradient():
    levels = [torch.randn(2, 3, n, n, device='cuda', requires_grad=True) for n in (8, 4)]
    place = torch.tensor([0, 1], device='cuda')
    bce, _ = bce_and_max_logits(levels, place, place * 70, place, torch.ones(2, device='cuda'))
    bce.backward()
    assert all(level.grad.isfinite().all() and level.grad.abs().sum() > 0 for level in levels)


class Watch(Hook):
    def __init__(self):
        self.losses, self.ramps, self.boxes = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())
        self.ramps.append(runner.model.unsup_ramp)
        self.boxes.append(float(outputs['semi/pseudo_boxes']))


@pytest.mark.parametrize('dtype', [None, 'bfloat16', 'float16'], ids=['fp32', 'bf16', 'fp16'])
def test_200_iterations_of_the_semi_config(tmp_path, dtype):
    plan = dict(
        burn_in=1,
        lambda_bg_warmup=0,
        train_cfg__max_epochs=40,
        train_cfg__val_interval=40,
        default_hooks__logger__interval=50,
        default_hooks__mean_teacher__momentum=0.1,
        model__semi_train_cfg__pseudo_test_cfg__score_thr=0.002,
        model__semi_train_cfg__unsure_thr=0.001,
        model__detector__bbox_head__ignored_in_cls=True,
    )
    cfg = load(SEMI, make_set(tmp_path / 'set'), tmp_path / 'work', **plan)
    if dtype:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=dtype, loss_scale='dynamic')
    runner, watch = Runner.from_cfg(cfg), Watch()
    runner.register_hook(watch)
    runner.train()
    assert next(runner.model.parameters()).is_cuda
    assert len(watch.losses) == 200 and all(map(math.isfinite, watch.losses))
    assert watch.ramps[0] == 0 and watch.ramps[-1] == 1 and max(watch.boxes) > 0
    for student, teacher in zip(runner.model.student.parameters(), runner.model.teacher.parameters()):
        assert student.isfinite().all() and teacher.isfinite().all()
