"""Values and errors of the hook. tests/engine/test_runs.py tests it in real runs."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import LoggerHook
from mmyolo.registry import MODELS
from torch import nn

from mmyolo_bgpenalty import LambdaBgSchedulerHook, lambda_bg_at
from tests.helpers.heads import head_cfg
from tests.helpers.schedules import GOLDEN
from tests.helpers.stand_ins import Model, Semi, plain_model, runner


@pytest.mark.parametrize('arguments, progress, expected', GOLDEN)
@pytest.mark.parametrize('loop', ['epoch', 'iter', 'by_iteration'])
def test_hook_follows_the_golden_table(arguments, progress, expected, loop):
    """A new hook sets the right λ at any iteration, as after a resume. An epoch has 1000 iterations."""
    batches, by_epoch = 1000, loop != 'by_iteration'
    if not by_epoch:
        arguments = {**arguments, 'burn_in': arguments['burn_in'] * batches, 'warmup': arguments['warmup'] * batches}
        expected = lambda_bg_at(progress * batches, **arguments)
    place = round(progress * batches)
    epoch, batch_idx = divmod(place, batches) if loop == 'epoch' else (0, place)
    run = runner(plain_model(), epoch=epoch, iteration=place, batches=batches)
    hook = LambdaBgSchedulerHook(**arguments, by_epoch=by_epoch)
    hook.before_run(run)
    hook.before_train(run)
    hook.before_train_iter(run, batch_idx)
    assert run.model.bbox_head.lambda_bg == pytest.approx(expected, abs=1e-12)
    assert run.message_hub.get_scalar('train/semi/lambda_bg').current() == run.model.bbox_head.lambda_bg


def test_the_hook_sets_lambda_in_the_student_only():
    hook, run = LambdaBgSchedulerHook(burn_in=0, warmup=0), runner(Semi())
    student, teacher = run.model.student.bbox_head, run.model.teacher.bbox_head
    student.lambda_bg = teacher.lambda_bg = 0.25
    hook.before_run(run)
    hook.before_train_iter(run, 0)
    assert (student.lambda_bg, teacher.lambda_bg) == (1.0, 0.25)


def test_a_model_without_a_penalty_head_is_an_error_before_training():
    hook = LambdaBgSchedulerHook()
    run = runner(Model(MODELS.build(head_cfg('YOLOv8Head'))))
    hook.before_run(run)
    with pytest.raises(ValueError, match='a BgPenaltyYOLOv8Head or a BackgroundPenaltyLoss, but found none'):
        hook.before_train(run)


def test_settings_at_the_top_level_replace_default_arguments():
    cfg = dict(lambda_bg=1.5, lambda_bg_warmup=10, lambda_bg_schedule='cosine', use_focal_bg=True, burn_in=3)
    hook = LambdaBgSchedulerHook()
    run = runner(plain_model(), cfg=cfg)
    hook.before_run(run)
    assert hook.plan == dict(lambda_bg=1.5, warmup=10, schedule='cosine', burn_in=3)
    assert run.model.bbox_head.bg_penalty.focal is True


def test_a_setting_stated_twice_is_refused():
    cfg = dict(lambda_bg=1.5, default_hooks=dict(lambda_bg=dict(type='LambdaBgSchedulerHook', lambda_bg=2.0)))
    with pytest.raises(ValueError, match='`lambda_bg` is stated twice: 1.5 .* 2.0'):
        LambdaBgSchedulerHook(lambda_bg=2.0).before_run(runner(plain_model(), cfg=cfg))
    model = plain_model()
    model.bbox_head.bg_penalty = replace(model.bbox_head.bg_penalty, focal=True)
    with pytest.raises(ValueError, match='`use_focal_bg` is stated twice: False .* True'):
        LambdaBgSchedulerHook().before_run(runner(model, cfg=dict(use_focal_bg=False)))


@pytest.mark.parametrize(
    'cfg, message', [(dict(lambda_bg=-1), '`lambda_bg`.*-1'), (dict(use_focal_bg=3), '`focal`.*3')]
)
def test_bad_settings_and_arguments_are_refused_before_training(cfg, message):
    with pytest.raises(ValueError, match=message):
        LambdaBgSchedulerHook().before_run(runner(plain_model(), cfg=cfg))
    with pytest.raises(ValueError, match='warmup'):
        LambdaBgSchedulerHook(warmup='5')


def test_statistics_are_logged_when_the_logger_prints():
    hook, logger = LambdaBgSchedulerHook(), LoggerHook(interval=4)
    model = plain_model()
    asked = []
    model.bbox_head.get_bg_penalty_stats = lambda: asked.append(1) or dict(mean=0.25, max=0.5, min=0.0, num=4)
    run = runner(model, hooks=[logger], batches=6)
    hook.before_run(run)
    when = []
    for batch_idx in range(6):
        hook.after_train_iter(run, batch_idx)
        when.append(len(asked))
    # After the fourth and the last batch of the epoch.
    assert when == [0, 0, 0, 1, 1, 2]
    assert run.message_hub.get_scalar('train/semi/bg_penalty_mean').current() == 0.25
    assert run.message_hub.get_scalar('train/semi/bg_penalty_max').current() == 0.5


def test_losses_are_steered_as_heads_are():
    """Two heads of YOLOv8, each with a BackgroundPenaltyLoss, and one BgPenaltyYOLOv8Head."""
    loss = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True)
    wrapper = dict(type='BackgroundPenaltyLoss', loss=loss, use_sigmoid=True)
    model = plain_model()
    model.others = nn.ModuleList(MODELS.build(head_cfg('YOLOv8Head', loss_cls=wrapper)) for _ in range(2))
    hook, run = LambdaBgSchedulerHook(burn_in=0, warmup=0), runner(model, hooks=[LoggerHook(1)], batches=4)
    run.cfg.update(lambda_bg=2.0, use_focal_bg=True)
    hook.before_run(run)
    hook.before_train(run)
    hook.before_train_iter(run, 0)
    losses = [head.loss_cls for head in model.others]
    assert [loss.lambda_bg for loss in losses] == [model.bbox_head.lambda_bg] * 2 == [2.0] * 2
    assert all(part.bg_penalty.focal for part in (*losses, model.bbox_head))
    logits = torch.tensor([[0.0, -9, -9], [2, -9, -9]])
    for loss in losses:
        loss(logits, torch.tensor([3, 0]))
        loss(logits, torch.tensor([0, 3]))
    hook.after_train_iter(run, 0)
    logged = {
        name: run.message_hub.get_scalar(f'train/{name}').current() for name in ('bg_penalty', 'semi/bg_penalty_max')
    }
    low, high = 0.5**2 * math.log(2), float(logits[1, 0].sigmoid() ** 2 * -torch.log1p(-logits[1, 0].sigmoid()))
    assert logged['bg_penalty'] == pytest.approx(2 * 2.0 * (low + high), rel=1e-5)
    assert logged['semi/bg_penalty_max'] == pytest.approx(float(logits[1, 0].sigmoid()))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_end_of_each_epoch_is_logged(by_epoch):
    """Epochs count from 1. Burn-in is epochs 1 to 5, warm-up 6 to 10. The last of 4 batches of epoch 6 has λ 0.15."""
    scale = 1 if by_epoch else 4
    hook = LambdaBgSchedulerHook(burn_in=5 * scale, warmup=5 * scale, by_epoch=by_epoch)
    model = plain_model()
    model.bbox_head.get_bg_penalty_stats = lambda: dict(mean=0.012345, max=0.5, min=0.0, num=4)
    lines = []
    for iteration in (18, 19, 20, 22, 23):
        run = runner(model, batches=4, iteration=iteration, epoch=iteration // 4)
        run.logger = SimpleNamespace(info=lines.append)
        hook.before_run(run)
        hook.before_train_iter(run, iteration % 4)
        hook.after_train_iter(run, iteration % 4)
    stats = 'BG Penalty Stats: mean=0.0123 max=0.5000 min=0.0000'
    assert lines == [
        'Epoch 5: λ_bg=0.000 in its last iteration',
        stats,
        'Epoch 6: λ_bg=0.150 in its last iteration',
        stats,
    ]
