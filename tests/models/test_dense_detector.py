"""DenseSemiYOLODetector and its loss."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mmengine.runner import Runner

from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.models.losses.sparse import dense_distillation
from tests.helpers.semi import DENSE, build_dense, sample, views
from tests.helpers.tiny import load, make_set


@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([1e-6, 0.1, 0.5, 1.0]),
    gamma=st.sampled_from([0.0, 1.0, 2.0]),
    highest=st.sampled_from([0.02, 1.0]),
)
def test_the_loss_equals_the_naive_one(seed, share, gamma, highest):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64) * 4
    scores = torch.rand(2, 12, 3, generator=generator, dtype=torch.float64) * highest
    total, confidence = 0.0, {}
    for image in range(2):
        best = sorted(range(12), key=lambda i: -scores[image, i].max())[: max(1, round(12 * share))]
        confidence.update({(image, prior): scores[image, prior].max().item() for prior in best})
        for prior in range(12):
            for c in range(3):
                target = scores[image, prior, c] if prior in best else torch.tensor(0.0, dtype=torch.float64)
                z = logits[image, prior, c]
                total += (z.sigmoid() - target).abs() ** gamma * F.binary_cross_entropy_with_logits(z, target)
    loss, image, prior, weight = dense_distillation(logits, scores, share, gamma)
    assert loss.item() == pytest.approx(total.item() / max(1, sum(confidence.values())), rel=1e-9)
    assert dict(zip(zip(image.tolist(), prior.tolist()), weight.tolist())) == pytest.approx(confidence)


@pytest.mark.parametrize('gamma', [0.0, 2.0])
def test_gradients(gamma):
    logits = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.rand(2, 6, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: dense_distillation(z, scores, 0.3, gamma)[0], [logits])


def test_large_logits_are_finite():
    logits = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]]], requires_grad=True)
    loss, *_ = dense_distillation(logits, torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]), 1.0, 2.0)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_a_student_equal_to_its_teacher_has_no_class_or_box_loss():
    """If both are in eval mode and see the same view, the targets are the student's own scores and boxes."""
    model = build_dense(dict(share=1.0))
    model.student.backbone.eval(), model.student.neck.eval()
    for module in model.student.bbox_head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    losses = model.loss(*views())
    assert losses['unsup_loss_cls'].item() == pytest.approx(0, abs=1e-6)
    assert losses['unsup_loss_bbox'].item() == pytest.approx(0, abs=1e-4)
    assert losses['sup_loss_cls'] > 0.1


def test_losses_and_gradients():
    model = build_dense()
    losses = model.loss(*views())
    names = {f'sup_loss_{n}' for n in ('cls', 'bbox', 'dfl', 'bg')} | {
        f'unsup_loss_{n}' for n in ('cls', 'bbox', 'dfl')
    }
    assert {name for name in losses if 'loss' in name} == names
    unsup = sum(losses[f'unsup_loss_{n}'] for n in ('cls', 'bbox', 'dfl'))
    assert unsup > 0
    unsup.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    head = model.student.bbox_head.head_module
    for layers in (head.cls_preds, head.reg_preds):
        assert sum(float(layer[-1].weight.grad.abs().sum()) for layer in layers) > 0


def test_weights_scale_the_unlabeled_losses():
    inputs, samples = views()
    plain = build_dense().loss(inputs, copy.deepcopy(samples))
    model = build_dense(unsup_weight=0.5, unsup_loss_weights=dict(loss_dfl=0.0))
    model.unsup_ramp = 0.5
    weighed = model.loss(inputs, copy.deepcopy(samples))
    assert weighed['semi/unsup_weight'] == 0.25 and weighed['unsup_loss_dfl'] == 0
    for name in ('unsup_loss_cls', 'unsup_loss_bbox'):
        assert torch.allclose(weighed[name], plain[name] * 0.25)


def test_views_of_different_geometry_are_named():
    model = build_dense()
    inputs, samples = views()
    samples['unsup_student'] = [sample(np.array([[1, 0, 4], [0, 1, 0], [0, 0, 1]], dtype=np.float32))] * 2
    with pytest.raises(ValueError, match=r'but those of a.png differ \(homographies by 4; .*before `Views`'):
        model.loss(inputs, samples)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(dense=dict(share=0)), r'`dense.share` to be above 0, but got 0'),
        (dict(dense=dict(share=1.5)), r'`dense.share` to be in \[0, 1\], but got 1.5'),
        (dict(dense=dict(gamma=-1)), '`dense.gamma`.*-1'),
        (dict(dense=dict(topk=5)), "keys of `dense` to be among share, gamma, but got.*'topk'"),
        (dict(unsure_thr=0.1), '`semi_train_cfg.unsure_thr` to be None.*not learn from pseudo-boxes, but got 0.1'),
        (dict(unsure_thr=0.1, soft_unsure=True), '`semi_train_cfg.unsure_thr` to be None'),
        (dict(head=dict(sparse_targets=False)), 'with `sparse_targets=False`'),
    ],
)
def test_bad_config_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_dense(**arguments)


def test_a_geometric_transform_of_one_view_is_found_before_training(tmp_path):
    cfg = load(DENSE, make_set(tmp_path / 'set'), tmp_path)
    cfg.test_dataloader, cfg.test_evaluator = copy.deepcopy((cfg.val_dataloader, cfg.val_evaluator))
    assert check_config(cfg, data=False) == []
    pipeline = 'train_dataloader.dataset.unlabeled.pipeline'
    cfg.train_dataloader.dataset.unlabeled.pipeline[-1].unsup_student.insert(0, dict(type='mmdet.RandomFlip', prob=0.5))
    found = check_config(cfg, data=False)
    assert [(one.level, one.where) for one in found] == [('error', f'{pipeline}.5.unsup_student.0.type')]
    assert 'prior by prior' in found[0].what


def test_it_trains_and_resumes(tmp_path):
    """The run also draws pictures."""
    cfg = load(
        DENSE,
        make_set(tmp_path / 'set'),
        tmp_path / 'a',
        burn_in=1,
        lambda_bg_warmup=1,
        train_cfg__max_epochs=3,
        train_cfg__val_interval=3,
        default_hooks__checkpoint__interval=1,
        default_hooks__pictures__interval=3,
    )
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert float(scalars['train/unsup_loss_cls'].current()) > 0
    assert [*(tmp_path / 'a').rglob('pseudo_labels_*.png')]
    cfg.merge_from_dict({'work_dir': str(tmp_path / 'b'), 'load_from': str(tmp_path / 'a/epoch_2.pth'), 'resume': True})
    cfg.visualizer.name = 'b'
    resumed = Runner.from_cfg(cfg)
    resumed.train()
    expected = runner.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
