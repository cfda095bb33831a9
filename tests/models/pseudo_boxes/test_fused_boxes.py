"""Boxes of several views of one image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.structures import InstanceData

from mmyolo_bgpenalty.models.pseudo_boxes.fused_boxes import fused_boxes
from mmyolo_bgpenalty.utils.geometry import FLIPS, flip_boxes

NMS = dict(type='nms', iou_threshold=0.5, class_agnostic=True)


def view(*rows):
    """Instances from rows of box, score and label."""
    boxes, scores, labels = zip(*rows) if rows else ((), (), ())
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.long),
    )


def iou(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(width, 0) * max(height, 0)
    return (
        both / sum((one[2] - one[0]) * (one[3] - one[1]) for one in (a, b))
        if not both
        else both / (sum((one[2] - one[0]) * (one[3] - one[1]) for one in (a, b)) - both)
    )


def naive(views):
    """Boxes, scores and labels, one box after another."""
    rows = sorted((row for one in views for row in one), key=lambda row: -row[1])
    kept = []
    for row in rows:
        if all(iou(row[0], other[0]) <= 0.5 for other in kept):
            kept.append(row)
    fused = []
    for box, _, label in kept:
        best = []
        for one in views:
            near = [row for row in one if row[2] == label and iou(box, row[0]) >= 0.5]
            best.append(max(near, key=lambda row: row[1]) if near else (box, 0.0, label))
        total = sum(row[1] for row in best)
        mean = [sum(row[1] * row[0][i] for row in best) / total for i in range(4)]
        fused.append((mean, total / len(views), label))
    return sorted(fused, key=lambda row: -row[1])


def test_boxes_of_two_views_become_one_with_the_mean_score():
    box, near, far = [10.0, 10, 50, 50], [12.0, 10, 52, 50], [60.0, 60, 80, 80]
    fused = fused_boxes([view((box, 0.8, 1), (far, 0.6, 0)), view((near, 0.4, 1))], NMS)
    torch.testing.assert_close(fused.scores, torch.tensor([0.6, 0.3]))
    torch.testing.assert_close(fused.bboxes[0], torch.tensor([10 + 2 / 3, 10, 50 + 2 / 3, 50]))
    assert fused.labels.tolist() == [1, 0]


def test_a_view_with_another_class_does_not_support_a_box():
    box = [10.0, 10, 50, 50]
    fused = fused_boxes([view((box, 0.8, 1)), view((box, 0.6, 0))], NMS)
    assert fused.labels.tolist() == [1] and fused.scores.tolist() == pytest.approx([0.4])


def test_without_boxes():
    assert len(fused_boxes([view(), view()], NMS)) == 0


def test_soft_nms_may_have_no_threshold():
    box = [10.0, 10, 50, 50]
    fused = fused_boxes([view((box, 0.8, 1)), view((box, 0.4, 1))], dict(type='soft_nms', min_score=0.5))
    assert fused.scores.tolist() == pytest.approx([0.6])


# Scores that differ, so that the order of the boxes is clear.
rows = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(3, 9), st.integers(3, 9), st.integers(0, 1)), max_size=5
)


@given(st.lists(rows, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_as_computed_box_by_box(found, random):
    scores = [i / 100 for i in range(1, 100)]
    random.shuffle(scores)
    views = [[([x, y, x + w, y + h], scores.pop(), label) for x, y, w, h, label in one] for one in found]
    fused, expected = fused_boxes([view(*one) for one in views], NMS), naive(views)
    assert len(fused) == len(expected)
    if expected:
        boxes, means, labels = zip(*expected)
        torch.testing.assert_close(fused.scores, torch.tensor(means), atol=1e-6, rtol=1e-5)
        order = sorted(zip(means, labels, boxes))
        assert sorted(fused.labels.tolist()) == sorted(labels)
        got = sorted(zip(fused.scores.tolist(), fused.labels.tolist(), fused.bboxes.tolist()))
        for (_, _, box), (_, _, other) in zip(got, order):
            assert box == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize('axes', FLIPS.values())
def test_boxes_follow_the_flip_of_the_image(axes):
    image = torch.zeros(1, 1, 10, 16)
    image[..., 2:5, 3:9] = 1
    rows, columns = (image.flip(axes)[0, 0].any(dim).nonzero()[:, 0] for dim in (1, 0))
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    boxes = torch.tensor([[3.0, 2, 9, 5]])
    assert flip_boxes(boxes, (10, 16), axes).tolist() == [[float(side) for side in expected]]
    assert boxes.tolist() == [[3, 2, 9, 5]]
    assert torch.equal(flip_boxes(boxes, (10, 16), ()), boxes)
