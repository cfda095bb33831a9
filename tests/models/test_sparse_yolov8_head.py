"""YOLOv8's losses from the positives alone, against MMYOLO's own, from dense targets."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mmyolo_bgpenalty.models.losses import bce_and_max_logits, split_by_level
from tests.models.test_bg_penalty_head import (
    NO_OBJECTS,
    OBJECTS,
    batch,
    build,
    features,
    foreground,
    losses_and_gradients,
    losses_of,
)

SPARSE = 'SparseTaskAlignedAssigner'
SHAPES = ((4, 3), (2, 2), (1, 2))


def naive(levels, image, prior, label, score, unsure=None):
    logits = torch.cat([level.flatten(2) for level in levels], 2)
    targets, weights = torch.zeros_like(logits), torch.ones_like(logits)
    targets[image, label, prior] = score.to(logits.dtype)
    if unsure is not None:
        weights[unsure[0], unsure[2], unsure[1]] = 0
    return F.binary_cross_entropy_with_logits(logits, targets, weights, reduction='sum'), logits.amax(1)


def case(seed, positives, images=2, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    levels = [
        torch.randn(images, classes, *shape, generator=generator, dtype=torch.float64).mul(6).to(dtype)
        for shape in SHAPES
    ]
    priors = sum(h * w for h, w in SHAPES)
    key = torch.randperm(images * priors, generator=generator)[:positives]
    label = torch.randint(classes, (len(key),), generator=generator)
    score = torch.rand(len(key), generator=generator, dtype=torch.float64)
    return [level.requires_grad_() for level in levels], (key // priors, key % priors, label, score)


@given(seed=st.integers(0, 10**6), positives=st.integers(0, 18), classes=st.integers(1, 4), images=st.integers(1, 3))
def test_sum_and_maximum_are_the_naive_ones(seed, positives, classes, images):
    levels, target = case(seed, positives, images, classes)
    results = []
    for function in (bce_and_max_logits, naive):
        bce, largest = function(levels, *target)
        weights = torch.linspace(-1, 2, largest.numel(), dtype=largest.dtype).view_as(largest)
        results.append((bce, largest, *torch.autograd.grad(0.7 * bce + (weights * largest).sum(), levels)))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 10**6), positives=st.integers(0, 9), unsure=st.integers(0, 9))
def test_unsure_logits_are_left_out_of_the_sum(seed, positives, unsure):
    levels, target = case(seed, positives + unsure)
    target, left_out = zip(*((x[:positives], x[positives:]) for x in target))
    results = []
    for function in (bce_and_max_logits, naive):
        bce, largest = function(levels, *target, left_out[:3])
        results.append((bce, largest, *torch.autograd.grad(0.7 * bce + largest.sum(), levels)))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_gradients():
    levels, target = case(0, 7)
    assert torch.autograd.gradcheck(lambda *levels: bce_and_max_logits(levels, *target), levels)


@pytest.mark.parametrize('use', ['bce', 'largest'])
def test_gradients_of_one_output_alone(use):
    levels, target = case(1, 7)
    results = []
    for function in (bce_and_max_logits, naive):
        bce, largest = function(levels, *target)
        results.append(torch.autograd.grad(bce if use == 'bce' else largest.sum(), levels))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_fp32(dtype):
    levels, (*where, score) = case(2, 7, dtype=dtype)
    target = (*where, score.float())
    bce, largest = bce_and_max_logits(levels, *target)
    expected, most = naive([level.double() for level in levels], *target)
    assert bce.dtype == largest.dtype == torch.float32
    torch.testing.assert_close(bce.double(), expected, rtol=1e-5, atol=0)
    assert torch.equal(largest.double(), most)
    assert all(g.dtype == dtype for g in torch.autograd.grad(bce + largest.sum(), levels))


def test_large_logits_are_finite():
    for value in (-1e4, 1e4):
        level = torch.full((1, 2, 2, 2), value, requires_grad=True)
        none = torch.zeros(0, dtype=torch.long)
        bce, _ = bce_and_max_logits([level], none, none, none, torch.zeros(0))
        bce.backward()
        assert bce.item() == max(value, 0) * 8 and torch.equal(level.grad, torch.full_like(level, float(value > 0)))


def test_memory_layout_changes_nothing():
    levels, target = case(3, 7)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        laid = [level.detach().contiguous(memory_format=layout).requires_grad_() for level in levels]
        bce, largest = bce_and_max_logits(laid, *target)
        results.append((bce, *torch.autograd.grad(bce + largest.sum(), laid)))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_each_prior_is_in_one_level(sizes, data):
    prior = data.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=8))
    where = [(level, place) for level, size in enumerate(sizes) for place in range(size)]
    found = {}
    for level, (chosen, places) in enumerate(split_by_level(torch.tensor(prior, dtype=torch.long), sizes)):
        found.update({i: (level, place) for i, place in zip(chosen.tolist(), places.tolist())})
    assert [found[i] for i in range(len(prior))] == [where[p] for p in prior]


def sparse(**kwargs):
    return build(**kwargs, sparse_targets=True, assigner=SPARSE)


def assert_near(found, expected, tolerance=2e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None or found[name] is None:
            assert found[name] is value, name
        else:
            scale = value.abs().max().clamp(min=1e-6)
            assert (found[name] - value).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize('path', ['list', 'fast'])
@pytest.mark.parametrize('objects', [OBJECTS, (*OBJECTS[:1], NO_OBJECTS[0]), NO_OBJECTS], ids=['all', 'one', 'none'])
@pytest.mark.parametrize('reg_max', [16, 4])
def test_losses_and_gradients_are_yolov8s(path, objects, reg_max):
    """With reg_max=4 also where boxes reach further than the distributions."""
    expected = losses_and_gradients(build('YOLOv8Head', reg_max=reg_max), batch(path, objects))
    head = sparse(bg_penalty={'lambda_bg': 0.0}, reg_max=reg_max)
    losses, gradients = losses_and_gradients(head, batch(path, objects))
    assert losses.pop('loss_bg').item() == 0
    assert_near(losses, expected[0])
    if objects is NO_OBJECTS:
        # What has no gradient there has one of 0 here, as what goes by the distributions has.
        gradients = {name: g if expected[1][name] is not None else None for name, g in gradients.items()}
    assert_near(gradients, expected[1])


@pytest.mark.parametrize('focal', [False, True])
@pytest.mark.parametrize('objects', [OBJECTS, NO_OBJECTS], ids=['all', 'none'])
def test_the_penalty_is_the_same(focal, objects):
    ignored = [torch.tensor([[0.0, 40, 30, 64]]), torch.zeros(0, 4)]
    heads = [make(bg_penalty={'lambda_bg': 1.5, 'focal': focal}) for make in (build, sparse)]
    results = [losses_and_gradients(head, batch('list', objects, ignored=ignored)) for head in heads]
    for found, expected in zip(results[1], results[0]):
        assert_near(found, expected)
    stats = [head.get_bg_penalty_stats() for head in heads]
    assert stats[0] == pytest.approx(stats[1]) and stats[0]['num'] > 0
    pictures = [head.background_predictions(0, 9) for head in heads]
    assert_near(*pictures)


@pytest.mark.parametrize(
    'options',
    [{'normalizer': 'positives'}, {'normalizer': 'hard', 'hard_top': 9}, {'region': 'outside', 'focal': True}],
    ids=str,
)
@pytest.mark.parametrize('objects', [OBJECTS, NO_OBJECTS], ids=['all', 'none'])
def test_the_options_of_the_penalty_are_the_same(options, objects):
    heads = [make(bg_penalty={'lambda_bg': 1.5, **options}) for make in (build, sparse)]
    results = [losses_and_gradients(head, batch('list', objects)) for head in heads]
    for found, expected in zip(results[1], results[0]):
        assert_near(found, expected)


@pytest.mark.parametrize('path', ['list', 'fast'])
def test_the_ranking_is_the_naive_one(path):
    """Of the hard background against the objects of its class, both with their gradients."""
    head = sparse(bg_penalty={'lambda_bg': 2.0, 'normalizer': 'hard', 'hard_score': 0.12, 'rank': True})
    outs = head(features())
    levels = [level.detach().requires_grad_() for level in outs[0]]
    loss = losses_of(head, (levels, *outs[1:]), batch(path))['loss_bg']
    gradients = torch.autograd.grad(loss, levels)

    logits = torch.cat([level.flatten(2) for level in levels], 2)
    found = foreground(head, outs)
    seen = {}
    head.assigner.match, match = lambda *a, **k: seen.setdefault('positives', match(*a, **k)), head.assigner.match
    losses_of(head, outs, batch(path))
    image, prior, box, score = seen['positives']
    label = torch.tensor([OBJECTS[i][1][k] for i, k in zip(image, box)])
    assert torch.equal(found.nonzero(), torch.stack([image, prior], 1).unique(dim=0))
    terms = []
    for i, n in (~found).nonzero().tolist():
        z, c = logits[i, :, n].max(0)
        same = label == c
        if z.sigmoid() > 0.12 and same.any():
            objects = logits[image[same], label[same], prior[same]]
            terms.append((score[same] * F.softplus(z - objects)).sum() / score[same].sum())
    assert 1 < len(terms) < int((~found).sum())
    expected = 2 * torch.stack(terms).mean() * 2 * head.loss_cls.loss_weight
    torch.testing.assert_close(loss, expected)
    assert_near(dict(enumerate(gradients)), dict(enumerate(torch.autograd.grad(expected, levels))))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('objects', [OBJECTS, NO_OBJECTS], ids=['all', 'none'])
def test_the_ranking_is_finite_under_autocast(dtype, objects):
    head = sparse(bg_penalty={'normalizer': 'hard', 'hard_score': 0.0, 'rank': True})
    for predictor in head.head_module.cls_preds:
        torch.nn.init.normal_(predictor[-1].weight, std=20)
    with torch.autocast('cpu', dtype=dtype):
        losses, gradients = losses_and_gradients(head, batch('list', objects))
    assert losses['loss_bg'].dtype == torch.float32
    assert (losses['loss_bg'] > 0) == (objects is OBJECTS)
    assert all(x.isfinite().all() for x in (*losses.values(), *gradients.values()) if x is not None)


def test_box_weights_weigh_the_boxes_losses_alone():
    """They are linear in the weights, and 1 where none are given; the classification is left as it is."""

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
    # Of one image alone: the other's weigh 1.
    assert_near(losses([1.0, 1.0])[0], plain[0], 1e-6)


def test_score_weights_multiply_the_targets():
    """Of classification, hence also the weights of the boxes' losses and what both are divided by."""
    assigned, weights = {}, torch.tensor([[0.3, 1.0], [0.25, 1.0]])
    for name in ('plain', 'weighed'):
        samples, head = batch('list', OBJECTS), sparse(bg_penalty={'lambda_bg': 0.0})
        if name == 'weighed':
            samples[0].gt_instances.score_weights, samples[1].gt_instances.score_weights = weights[0], weights[1, :1]
        assign = head._assign
        head._assign = lambda *args, assign=assign, name=name: assigned.setdefault(name, assign(*args))
        outs = head(features())
        losses = losses_of(head, outs, samples)
        if name == 'plain':
            parts = {loss: losses[loss] * head.assigned_score_sum.clamp(min=1) for loss in losses}
    image, prior, box, score = assigned['plain']
    assert all(torch.equal(a, b) for a, b in zip(*assigned.values()))  # who is assigned does not change
    soft = score * weights[image, box]
    assert head.assigned_score_sum.item() == pytest.approx(soft.sum().item(), rel=1e-6)
    assert 0 < soft.sum() < 0.9 * score.sum()
    label = torch.tensor([[int(one) for one in [*sample.gt_instances.labels, 0]][:2] for sample in samples])[image, box]
    bce, _ = naive(outs[0], image, prior, label, soft)
    number = len(samples) * head.loss_cls.loss_weight / soft.sum().clamp(min=1)
    assert losses['loss_cls'].item() == pytest.approx((bce * number).item(), rel=1e-5)
    for loss in ('loss_bbox', 'loss_dfl'):
        share = losses[loss] * soft.sum().clamp(min=1) / parts[loss]
        assert weights.min() < share < 1


def test_autocast():
    """bf16 features: the same as MMYOLO's up to bf16, in which MMYOLO decodes the boxes too."""
    results = []
    for head in (build('YOLOv8Head'), sparse(bg_penalty={'lambda_bg': 0.0})):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            losses, gradients = losses_and_gradients(head, batch('list'))
        losses.pop('loss_bg', None)
        results.append((losses, gradients))
    for found, expected in zip(results[1], results[0]):
        assert_near(found, expected, 0.05)


def test_nothing_as_large_as_the_logits_is_kept_but_the_logits():
    """The point of it: neither targets nor copies of shape (B, N, C) outlive the forward pass."""
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
    # Of the rest the largest are (B, N), for the penalty.
    assert max(sizes) <= max(2 * 84, smallest)
    assert head.num_classes == 3


def test_what_is_shipped_takes_it():
    assert build(assigner=SPARSE).sparse_targets
    assert not build().sparse_targets
    assert not build(assigner=SPARSE, sparse_targets=False).sparse_targets
    # A detector that only predicts has no assigner.
    assert build(train_cfg=None).sparse_targets


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(), 'a SparseTaskAlignedAssigner, but got BatchTaskAlignedAssigner'),
        *(
            (dict(assigner=SPARSE, loss_cls=dict(type='mmdet.CrossEntropyLoss', loss_weight=0.5, **wrong)), 'loss_cls')
            for wrong in (
                dict(use_sigmoid=True, reduction='mean'),
                dict(use_sigmoid=True, reduction='none', class_weight=[1.0, 2.0, 1.0]),
                dict(use_sigmoid=False, reduction='none'),
            )
        ),
        (dict(assigner=SPARSE, loss_cls=dict(type='mmdet.QualityFocalLoss', reduction='none')), 'loss_cls'),
        (dict(assigner=SPARSE, reg_max=1), 'reg_max > 1'),
    ],
)
def test_what_it_lacks_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(sparse_targets=True, **options)
    assert not build(**options).sparse_targets


def test_sizes_may_change():
    """Multi-scale training: priors are laid anew."""
    head, original = sparse(bg_penalty={'lambda_bg': 0.0}), build('YOLOv8Head')
    generator = torch.Generator().manual_seed(5)
    for grids in itertools.chain(((8, 4, 2), (4, 2, 1)), ((8, 4, 2),)):
        feats = [torch.randn(2, 16, n, n, generator=generator) for n in grids]
        losses = head.loss(feats, batch('list'))
        losses.pop('loss_bg')
        assert_near(losses, original.loss(feats, batch('list')))


def test_fifty_steps_of_training_are_the_same():
    """In fp64, since in fp32 training magnifies any rounding; MMDetection still rounds the targets to fp32."""
    runs = []
    for head in (build('YOLOv8Head'), sparse(bg_penalty={'lambda_bg': 0.0})):
        head.double()
        optimizer = torch.optim.SGD(head.parameters(), lr=1e-3, momentum=0.9)
        losses = []
        for _ in range(50):
            parts = head.loss([feature.double() for feature in features()], batch('list', dtype=torch.float64))
            total = sum(parts.values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            losses.append(total.item())
        runs.append(losses)
    assert runs[1] == pytest.approx(runs[0], rel=1e-6)
    assert runs[0][-1] < 0.8 * runs[0][0]
