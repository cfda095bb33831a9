"""One pass on the first batch of a config."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from mmyolo_bgpenalty import BurnInMeanTeacherHook, LambdaBgSchedulerHook, lambda_bg_at
from mmyolo_bgpenalty.cli.dry_run import _gradients, _plan, dry_run
from tests.helpers.tiny import SEMI, SUPERVISED, load


@pytest.fixture(scope='module')
def cfg(data, tmp_path_factory):
    changes = dict(lambda_bg=2.0, burn_in=2, train_cfg__max_epochs=8, default_hooks__mean_teacher__unsup_warmup=2)
    changes['model__semi_train_cfg__pseudo_test_cfg__max_per_img'] = 3
    cfg = load(SEMI, data, tmp_path_factory.mktemp('config') / 'none', **changes)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    return cfg


@pytest.fixture(scope='module')
def step(cfg):
    return dry_run(cfg)


def test_labeled_boxes_are_counted_for_the_class_thresholds_before_the_pass(cfg):
    cfg = copy.deepcopy(cfg)
    cfg.model.semi_train_cfg.class_thresholds = dict(type='ClassFrequency', min_images=1)
    assert math.isfinite(dry_run(cfg).losses['unsup_loss_cls'])


def test_a_pass_has_all_branches_and_every_loss(step):
    assert step.images == dict(sup=2, unsup_teacher=2, unsup_student=2)
    for branch in ('sup', 'unsup'):
        for name in ('cls', 'bbox', 'dfl', 'bg'):
            assert math.isfinite(step.losses[f'{branch}_loss_{name}'])
    parts = [value for key, value in step.losses.items() if 'loss' in key and key != 'loss']
    assert step.losses['loss'] == pytest.approx(sum(parts), rel=1e-5)
    assert step.losses['semi/unsup_weight'] == 0.5
    assert step.not_finite == step.untouched == []
    assert list(step.gradients) == ['backbone', 'neck', 'bbox_head', 'total'] and min(step.gradients.values()) > 0


def test_lambda_is_at_its_maximum(step):
    assert step.lambda_bg == 2.0
    # On labeled images sup_loss_bg is mean · 0.5 (loss_weight) · 2 images · 2 (λ). `penalty` describes strong views.
    assert step.losses['sup_loss_bg'] == pytest.approx(2 * step.penalty['mean'], rel=0.5)
    assert step.penalty['num'] > 100 and 0 < step.penalty['min'] < step.penalty['mean'] < step.penalty['max'] < 1


def test_the_plan_in_epochs(step):
    rows = step.plan
    # The epochs 1 and 2 are burn-in. Epoch 8 is the last one.
    assert [(row.first, row.last) for row in rows] == [(1, 2), *((e, e) for e in range(3, 9))]
    for row in rows:
        for epoch in (row.first, row.last):
            done = epoch - 1
            expected = lambda_bg_at(done, lambda_bg=2.0, burn_in=2, warmup=5, schedule='linear')
            assert row.lambda_bg == pytest.approx(expected)
            assert row.unsup_ramp == min(1, max(0, (done - 2) / 2))
            assert row.mode == ('burn-in' if epoch <= 2 else 'semi')


def test_the_plan_in_iterations(cfg):
    hook = LambdaBgSchedulerHook(lambda_bg=1.0, burn_in=100, warmup=50, by_epoch=False)
    teacher = BurnInMeanTeacherHook(unsup_schedule='constant')
    runner = SimpleNamespace(cfg=Config(dict(train_cfg=dict(max_iters=400))), hooks=[hook, teacher])
    rows = list(_plan(runner, hook, 20))
    assert rows[0] == (1, 100, 'burn-in', 0.0, 0.0)
    assert [row.first for row in rows[1:]] == [101 + 5 * i for i in range(11)]
    assert rows[-1] == (151, 400, 'semi', 1.0, 1.0)
    assert [row.lambda_bg for row in rows[1:]] == pytest.approx([i / 10 for i in range(11)])


def test_the_teacher_comes_from_the_checkpoint(cfg, step, tmp_path):
    """This teacher finds objects everywhere. The initial teacher finds none."""
    assert step.pseudo_boxes == 0
    model = MODELS.build(cfg.model)
    for name, parameter in model.teacher.bbox_head.named_parameters():
        if 'cls_preds' in name and name.endswith('2.bias'):
            parameter.data.fill_(5.0)
    torch.save(model.state_dict(), tmp_path / 'sure.pth')
    loaded = Config(dict(cfg.to_dict(), load_from=str(tmp_path / 'sure.pth')))
    loaded = dry_run(loaded)
    assert loaded.pseudo_boxes == 6  # max_per_img=3
    assert (step.start, loaded.start) == (None, f'{tmp_path}/sure.pth: all 297 tensors taken')


def test_a_supervised_config_has_no_teacher(data, tmp_path):
    step = dry_run(load(SUPERVISED, data, tmp_path, burn_in=1, lambda_bg_warmup=1, train_cfg__max_epochs=3))
    assert step.images == dict(images=4) and step.pseudo_boxes is None
    assert step.losses.keys() == {'loss', 'loss_cls', 'loss_bbox', 'loss_dfl', 'loss_bg'}
    assert [tuple(row) for row in step.plan] == [
        (1, 1, 'burn-in', 0.0, 0.0),
        (2, 2, 'supervised', 0.0, 0.0),
        (3, 3, 'supervised', 1.0, 0.0),
    ]


def test_gradients_by_hand():
    model = nn.ModuleDict(dict(one=nn.Linear(2, 1), two=nn.Linear(1, 1), three=nn.Linear(1, 1)))
    model['one'].weight.grad, model['one'].bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    model['two'].weight.grad = torch.tensor([[12.0]])
    model['three'].requires_grad_(False)
    norms, not_finite, untouched = _gradients(model)
    assert norms == pytest.approx(dict(one=5, two=12, total=13))
    assert not_finite == [] and untouched == ['two.bias']
    model['two'].bias.grad = torch.tensor([math.inf])
    assert _gradients(model)[1] == ['the gradient of two.bias']


def test_weights_start_a_supervised_config(data, tmp_path):
    """Its EMA has no copy of the model yet."""
    cfg = load(SUPERVISED, data, tmp_path, burn_in=1)
    torch.save(MODELS.build(cfg.model).state_dict(), tmp_path / 'plain.pth')
    cfg.load_from = str(tmp_path / 'plain.pth')
    assert dry_run(cfg).start == f'{tmp_path}/plain.pth: all 297 tensors taken'
