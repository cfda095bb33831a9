"""Losses with sparse targets, against those of MMYOLO's YOLOv8Head."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmyolo.models.utils import gt_instances_preprocess
from mmyolo.registry import MODELS

from mmyolo_bgpenalty.models.sparse_yolov8_head import LossInputs, padded_objects
from tests.helpers.heads import (
    NO_OBJECTS,
    OBJECTS,
    PENALTIES,
    PRIORS,
    assert_near,
    batch,
    both_paths,
    build,
    features,
    foreground,
    gradient_reaches,
    head_cfg,
    in_boxes,
    losses_and_gradients,
)

SPARSE = 'SparseTaskAlignedAssigner'


def sparse(**kwargs):
    return build(**kwargs, sparse_targets=True, assigner=SPARSE)


@both_paths
@pytest.mark.parametrize('objects', [OBJECTS, (*OBJECTS[:1], NO_OBJECTS[0]), NO_OBJECTS], ids=['all', 'one', 'none'])
@pytest.mark.parametrize('reg_max', [16, 4])
def test_losses_and_gradients_equal_those_of_yolov8head(path, objects, reg_max):
    """With reg_max=4 some boxes are larger than the distributions can express."""
    expected = losses_and_gradients(build('YOLOv8Head', reg_max=reg_max), batch(path, objects))
    head = sparse(bg_penalty={'lambda_bg': 0.0}, reg_max=reg_max)
    losses, gradients = losses_and_gradients(head, batch(path, objects))
    assert losses.pop('loss_bg').item() == 0
    assert_near(losses, expected[0])
    if objects is NO_OBJECTS:
        # Our distributions have a gradient of 0. Those of YOLOv8Head have no gradient.
        gradients = {name: g if expected[1][name] is not None else None for name, g in gradients.items()}
    assert_near(gradients, expected[1])


@pytest.mark.parametrize('penalty', PENALTIES, ids=str)
@pytest.mark.parametrize('objects', [OBJECTS, NO_OBJECTS], ids=['all', 'none'])
def test_the_penalty_is_the_same_with_sparse_targets(penalty, objects):
    ignored = [torch.tensor([[0.0, 40, 30, 64]]), torch.zeros(0, 4)]
    heads = [make(bg_penalty={'lambda_bg': 1.5, **penalty}) for make in (build, sparse)]
    results = [losses_and_gradients(head, batch('list', objects, ignored=ignored)) for head in heads]
    for found, expected in zip(results[1], results[0]):
        assert_near(found, expected)
    stats = [head.get_bg_penalty_stats() for head in heads]
    assert stats[0] == pytest.approx(stats[1]) and stats[0]['num'] > 0
    pictures = [head.background_predictions(0, 9) for head in heads]
    assert_near(*pictures)


def test_box_weights_weigh_only_the_box_losses():
    """Box losses are linear in the weights. Objects without weights have the weight 1."""

    def losses(*weights):
        samples = batch('list', OBJECTS)
        for one, row in zip(samples, weights):
            one.gt_instances.box_weights = torch.tensor(row)
        return losses_and_gradients(sparse(), samples)

    plain, ones = losses(), losses([1.0, 1.0], [1.0])
    for found, expected in zip(ones, plain):
        assert_near(found, expected, 1e-6)
    single = [losses(*rows)[0] for rows in (([1.0, 0.0], [0.0]), ([0.0, 1.0], [0.0]), ([0.0, 0.0], [1.0]))]
    weighed, _ = losses([0.5, 2.0], [0.25])
    for name in ('loss_bbox', 'loss_dfl'):
        parts = [one[name].item() for one in single]
        assert min(parts) > 0 and sum(parts) == pytest.approx(plain[0][name].item(), rel=1e-5)
        expected = 0.5 * parts[0] + 2 * parts[1] + 0.25 * parts[2]
        assert weighed[name].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(weighed['loss_cls'], plain[0]['loss_cls'])
    # Only one image has weights.
    assert_near(losses([1.0, 1.0])[0], plain[0], 1e-6)


def test_score_weights_multiply_the_targets():
    """The targets are also the weights of the box losses, and the losses are divided by their sum."""
    assigned, weights = {}, torch.tensor([[0.3, 1.0], [0.25, 1.0]])
    for name in ('plain', 'weighed'):
        samples, head = batch('list', OBJECTS), sparse(bg_penalty={'lambda_bg': 0.0})
        if name == 'weighed':
            samples[0].gt_instances.score_weights, samples[1].gt_instances.score_weights = weights[0], weights[1, :1]
        assign = head._assign
        head._assign = lambda *args, assign=assign, name=name: assigned.setdefault(name, assign(*args))
        outs = head(features())
        inputs = LossInputs(*outs, [one.gt_instances for one in samples], [{}] * 2)
        losses, _, score_sum, *_ = head._compute_losses(inputs)
        if name == 'plain':
            parts = {loss: losses[loss] * score_sum.clamp(min=1) for loss in losses}
    image, prior, box, score = assigned['plain']
    assert all(torch.equal(a, b) for a, b in zip(*assigned.values()))  # the assignment does not change
    soft = score * weights[image, box]
    assert score_sum.item() == pytest.approx(soft.sum().item(), rel=1e-6)
    assert 0 < soft.sum() < 0.9 * score.sum()
    label = torch.tensor([[int(one) for one in [*sample.gt_instances.labels, 0]][:2] for sample in samples])[image, box]
    logits = torch.cat([level.flatten(2) for level in outs[0]], 2)
    targets = torch.zeros_like(logits)
    targets[image, label, prior] = soft
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction='sum')
    number = len(samples) * head.loss_cls.loss_weight / soft.sum().clamp(min=1)
    assert losses['loss_cls'].item() == pytest.approx((bce * number).item(), rel=1e-5)
    for loss in ('loss_bbox', 'loss_dfl'):
        share = losses[loss] * soft.sum().clamp(min=1) / parts[loss]
        assert weights.min() < share < 1


def test_backward_keeps_no_copy_of_the_logits():
    """Neither targets nor copies of shape (B, N, C) are kept after the forward pass."""
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    head = sparse()
    outs = head(features())
    logits = [level.detach().requires_grad_() for level in outs[0]]
    head.forward = lambda x: (logits, *([level.detach() for level in out] for out in outs[1:]))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        head.loss(None, batch('list'))
    own = {level.data_ptr() for level in logits}
    smallest = min(level.numel() for level in logits)
    sizes = [t.numel() for t in kept if t.is_floating_point() and t.data_ptr() not in own]
    assert own <= {t.data_ptr() for t in kept}
    # The largest other tensors are (B, N), for the penalty.
    assert max(sizes) <= max(2 * 84, smallest)


def test_sparse_targets_are_the_default_if_possible():
    assert build(assigner=SPARSE).sparse_targets
    assert not build().sparse_targets
    assert not build(assigner=SPARSE, sparse_targets=False).sparse_targets
    # A detector that only predicts has no assigner.
    assert build(train_cfg=None).sparse_targets


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(), 'a SparseTaskAlignedAssigner instead of BatchTaskAlignedAssigner'),
        *(
            (dict(assigner=SPARSE, loss_cls=dict(type='mmdet.CrossEntropyLoss', loss_weight=0.5, **wrong)), 'loss_cls')
            for wrong in (
                dict(use_sigmoid=True, reduction='mean'),
                dict(use_sigmoid=True, reduction='none', class_weight=[1.0, 2.0, 1.0]),
                dict(use_sigmoid=False, reduction='none'),
            )
        ),
        (dict(assigner=SPARSE, loss_cls=dict(type='mmdet.QualityFocalLoss', reduction='none')), 'loss_cls'),
        (dict(assigner=SPARSE, reg_max=1), 'instead of `reg_max` 1'),
    ],
)
def test_a_missing_requirement_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(sparse_targets=True, **options)
    assert not build(**options).sparse_targets


def test_sizes_may_change():
    """Multi-scale training needs new priors."""
    head, original = sparse(bg_penalty={'lambda_bg': 0.0}), build('YOLOv8Head')
    generator = torch.Generator().manual_seed(5)
    for grids in ((8, 4, 2), (4, 2, 1), (8, 4, 2)):
        feats = [torch.randn(2, 16, n, n, generator=generator) for n in grids]
        losses = head.loss(feats, batch('list'))
        losses.pop('loss_bg')
        assert_near(losses, original.loss(feats, batch('list')))


@both_paths
@pytest.mark.parametrize('labels', [None, [0, 2], [-1, 3]])
@pytest.mark.parametrize('dtype', [None, torch.float16, torch.bfloat16], ids=['fp32', 'fp16', 'bf16'])
def test_ignored_objects_are_left_out_of_the_classification_loss(path, labels, dtype):
    """Only background priors in the box change. If the class is unknown, all classes are left out."""
    boxes = torch.tensor([[0.0, 30, 40, 64], [34, 0, 64, 30]])  # there are priors on the edge x = 40
    data = batch(path, ignored=[boxes, torch.zeros(0, 4)])
    if labels is not None and path == 'list':
        data[0].ignored_instances.labels = torch.tensor(labels)
    elif labels is not None:
        data['img_metas'][0]['ignored_labels'] = torch.tensor(labels)
    head = build(assigner=SPARSE, ignored_in_cls=True)
    with torch.autocast('cpu', dtype or torch.bfloat16, enabled=dtype is not None):
        outs = head(features())
        found = gradient_reaches(head, outs, data, 'loss_cls')
    taken = foreground(head, [[level.float() for level in levels] for levels in outs])[0]
    expected = torch.ones_like(found)
    for place, box in enumerate(boxes.numpy()):
        inside = torch.from_numpy(in_boxes(PRIORS, [box])) & ~taken
        assert inside.any()
        known = labels is not None and 0 <= labels[place] < 3
        expected[0, inside] &= torch.arange(3) != labels[place] if known else torch.zeros(3, dtype=torch.bool)
    assert torch.equal(found, expected)
    assert gradient_reaches(build(assigner=SPARSE), outs, data, 'loss_cls').all()


def test_bad_ignored_in_cls_is_named():
    with pytest.raises(ValueError, match='Expected `sparse_targets` for `ignored_in_cls=True`.*BatchTaskAligned'):
        build(ignored_in_cls=True)
    with pytest.raises(ValueError, match='`ignored_in_cls` to be True or False, but got 1'):
        build(ignored_in_cls=1)


@pytest.mark.parametrize('sparse_targets', [False, True])
def test_priors_follow_the_model_to_another_dtype_and_device(sparse_targets):
    """YOLOv8Head keeps priors as long as the sizes of the feature maps stay."""
    head = build(assigner=SPARSE, sparse_targets=sparse_targets)
    head.loss(features(), batch('list'))
    expected = build(assigner=SPARSE, sparse_targets=sparse_targets).double()
    wide = [feature.double() for feature in features()]
    results = [one.double().loss(wide, batch('list', dtype=torch.float64)) for one in (head, expected)]
    for name, loss in results[1].items():
        assert torch.equal(results[0][name], loss), name
    assert head.flatten_priors_train.dtype == torch.float64
    head._update_priors([feature.to('meta') for feature in wide])
    assert head.flatten_priors_train.device.type == 'meta'


def test_priors_of_predictions_follow_the_model():
    head = build(assigner=SPARSE)
    options = dict(batch_img_metas=[dict(ori_shape=(64, 64), scale_factor=(1.0, 1.0))] * 2, rescale=False)
    options['cfg'] = ConfigDict(
        multi_label=False, score_thr=0.0, nms_pre=10, nms=dict(type='nms', iou_threshold=0.9), max_per_img=5
    )
    head.eval()
    first = head.predict_by_feat(*head(features()), **options)
    head.double()
    none = dict(options, cfg=ConfigDict(options['cfg'], score_thr=1.0))  # MMCV's NMS does not accept fp64
    head.predict_by_feat(*head([feature.double() for feature in features()]), **none)
    assert head.mlvl_priors[0].dtype == torch.float64
    again = head.float().predict_by_feat(*head(features()), **options)
    assert all(torch.equal(a.bboxes, b.bboxes) and len(a.bboxes) for a, b in zip(first, again))


def test_the_head_without_a_penalty_has_the_same_losses():
    head = MODELS.build(head_cfg('SparseYOLOv8Head', assigner=SPARSE))
    ours = build('BgPenaltyYOLOv8Head', assigner=SPARSE)
    head.load_state_dict(ours.state_dict())
    losses, expected = head.loss(features(), batch('list')), ours.loss(features(), batch('list'))
    assert expected.keys() - losses.keys() == {'loss_bg'}
    assert all(torch.equal(expected[name], loss) for name, loss in losses.items())


@given(st.lists(st.integers(0, 3), max_size=12), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_padded_objects_are_those_of_mmyolo(image, random):
    """Images without objects, no object at all, and rows in any order."""
    rows = torch.tensor([[i, random.randrange(3), *(random.random() for _ in range(4))] for i in image]).reshape(-1, 6)
    assert torch.equal(padded_objects(rows, 4), gt_instances_preprocess(rows, 4))
