"""SparseTaskAlignedAssigner against its reference, BatchTaskAlignedAssigner of MMYOLO."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmyolo.models.task_modules import BatchTaskAlignedAssigner

from mmyolo_bgpenalty.models.assigner import SparseTaskAlignedAssigner
from mmyolo_bgpenalty.utils.geometry import as_grids, priors_in_boxes

YOLOV8 = dict(topk=10, alpha=0.5, beta=6.0, eps=1e-9, use_ciou=True)


def make_priors(size, strides=(8, 16, 32), offset=0.5):
    """(N, 4): x, y, stride and stride, as from MlvlPointGenerator."""
    levels = []
    for stride in strides:
        y, x = torch.meshgrid(*(torch.arange(side // stride) for side in reversed(size)), indexing='ij')
        points = torch.stack([x, y], -1).reshape(-1, 2) * float(stride) + offset * stride
        levels.append(torch.cat([points, torch.full_like(points, stride)], 1))
    return torch.cat(levels)


def boxes_of(kind, number, size, random):
    """(number, 4), xyxy."""
    frame = torch.tensor([*size, *size], dtype=torch.float32)
    corners = random(number, 2, 2).sort(1).values.flatten(1) * frame
    if kind == 'off the image':
        return corners * 3 - frame
    if kind == 'whole image':
        return torch.tensor([0.0, 0, *size]).repeat(number, 1)
    if kind == 'tiny':
        return torch.cat([corners[:, :2], corners[:, :2] + 1 + random(number, 1) * 8], 1)
    if kind == 'duplicates':
        return corners[:1].repeat(number, 1)
    if kind == 'on the priors':  # edges and centres coincide with priors
        return (corners / 4).round() * 4
    return corners


def predictions(kind, priors, images, classes, boxes, random):
    """Boxes (B, N, 4) and scores (B, N, C)."""
    number, stride = len(priors), priors[None, :, 2:3]
    reach = random(images, number, 4) * 8
    scores = torch.sigmoid(random(images, number, classes) * 8 - 6)
    if kind == 'all alike':
        reach, scores = torch.full_like(reach, 3), torch.full_like(scores, 0.25)
    if kind == 'few values':
        reach, scores = reach.round(), (scores * 4).round() / 4
    if kind == 'points':
        reach = torch.zeros_like(reach)
    bboxes = torch.cat([priors[:, :2] - reach[..., :2] * stride, priors[:, :2] + reach[..., 2:] * stride], -1)
    if kind == 'exact' and boxes.shape[1]:
        bboxes = boxes[:, torch.arange(number) % boxes.shape[1]]
    if kind == 'far away':
        bboxes = bboxes + 1e4
    return bboxes, scores


def compare(assigner, inputs):
    expected = BatchTaskAlignedAssigner(**assigner)(*inputs)
    found = SparseTaskAlignedAssigner(**assigner)(*inputs)
    assert found.keys() == expected.keys()
    for name in ('assigned_labels', 'assigned_bboxes', 'fg_mask_pre_prior'):
        assert torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype, name
    assert found['assigned_scores'].dtype == expected['assigned_scores'].dtype
    torch.testing.assert_close(found['assigned_scores'], expected['assigned_scores'], rtol=0, atol=1e-6)
    return found


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([(64, 64), (96, 64), (256, 192), (256, 320)]),
    images=st.integers(1, 3),
    numbers=st.lists(st.integers(0, 7), min_size=3, max_size=3),
    classes=st.sampled_from([1, 3]),
    kind=st.sampled_from(['random', 'off the image', 'whole image', 'tiny', 'duplicates', 'on the priors']),
    predicted=st.sampled_from(['random', 'all alike', 'few values', 'points', 'exact', 'far away']),
    ciou=st.booleans(),
    topk=st.sampled_from([1, 10, 13]),
)
def test_equals_the_original(seed, size, images, numbers, classes, kind, predicted, ciou, topk):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(*shape, generator=generator)

    priors, most = make_priors(size), max(numbers[:images])
    bboxes, labels, exists = torch.zeros(images, most, 4), torch.zeros(images, most, 1), torch.zeros(images, most, 1)
    for image, number in enumerate(numbers[:images]):
        bboxes[image, :number] = boxes_of(kind, number, size, random) if number else bboxes[image, :0]
        labels[image, :number] = (random(number, 1) * classes).floor()
        exists[image, :number] = (bboxes[image, :number].sum(-1, keepdim=True) > 0).float()
    inputs = (*predictions(predicted, priors, images, classes, bboxes, random), priors, labels, bboxes, exists)
    compare(dict(YOLOV8, num_classes=classes, topk=topk, use_ciou=ciou), inputs)


def test_only_predictions_at_priors_inside_a_box_are_read():
    priors = make_priors((256, 256))
    bboxes = torch.tensor([[[40.0, 40, 80, 90]], [[200.0, 0, 250, 30]]])
    seen = []

    def boxes_at(image, prior):
        seen.append((image, prior))
        return torch.cat([priors[prior, :2] - 20, priors[prior, :2] + 20], 1)

    assigner = SparseTaskAlignedAssigner(num_classes=1, **YOLOV8)
    positives = assigner.match(
        boxes_at,
        lambda image, prior, label: torch.full((len(prior),), 0.5),
        priors,
        torch.zeros(2, 1, 1),
        bboxes,
        torch.ones(2, 1, 1),
    )
    assert len(positives.prior) == 20 and positives.box.eq(0).all()
    for image, prior in seen:
        x, y = priors[prior, 0], priors[prior, 1]
        x1, y1, x2, y2 = bboxes[image, 0].unbind(1)
        assert ((x > x1) & (x < x2) & (y > y1) & (y < y2)).all()


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([(64, 64), (96, 64), (32, 320)]),
    offset=st.sampled_from([0.0, 0.5]),
    on_grid=st.booleans(),
)
def test_priors_in_boxes_equal_a_naive_search(seed, size, offset, on_grid):
    generator = torch.Generator().manual_seed(seed)
    priors = make_priors(size, offset=offset)
    boxes = torch.rand(9, 4, generator=generator) * 1.5 * max(size) - 0.25 * max(size)
    boxes = (boxes / 4).round() * 4 if on_grid else boxes
    valid = torch.rand(9, generator=generator) > 0.2
    expected = [
        (i, j)
        for i, (x1, y1, x2, y2) in enumerate(boxes.tolist())
        for j, (x, y) in enumerate(priors[:, :2].tolist())
        if valid[i] and x1 < x < x2 and y1 < y < y2
    ]
    box, point, counts = priors_in_boxes(as_grids(priors), boxes, valid)
    assert list(zip(box.tolist(), point.tolist())) == expected
    assert counts.tolist() == [sum(i == row for i, _ in expected) for row in range(9)]


@pytest.mark.parametrize('name, value', [('topk', 0), ('topk', 2.5), ('alpha', -1.5), ('beta', 1e999), ('eps', 'x')])
def test_values_out_of_range(name, value):
    with pytest.raises(ValueError, match=f'Expected `{name}` to be a .* number >= '):
        SparseTaskAlignedAssigner(num_classes=3, **{name: value})
