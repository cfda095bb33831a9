import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmyolo_bgpenalty.utils.geometry import (
    FLIPS,
    flipped_back,
    mean_predictions,
    priors_inside,
    priors_on_image,
    project_boxes,
)

seeds = st.integers(0, 999)


def boxes_from(rng, *shape, scale=100.0):
    """Boxes (x1, y1, x2, y2) with corners in order, fp32."""
    return np.sort(rng.uniform(0, scale, (*shape, 2, 2)), axis=-2).reshape(*shape, 4).astype(np.float32)


def homography_from(rng, perspective=1e-4):
    """Rotation, scale, shear and shift, with some perspective, fp32."""
    angle, scale = rng.uniform(-math.pi, math.pi), rng.uniform(0.5, 2)
    matrix = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    matrix[:2] *= scale
    matrix[0, 1] += rng.uniform(-0.2, 0.2)
    matrix[:2, 2] = rng.uniform(-100, 100, 2)
    matrix[2, :2] = rng.uniform(-perspective, perspective, 2)
    return matrix.astype(np.float32)


def map_points(points, matrix):
    mapped = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.astype(np.float64).T
    return mapped[:, :2] / mapped[:, 2:]


def reference(boxes, matrix):
    """project_boxes in fp64, box by box."""
    projected = []
    for x1, y1, x2, y2 in boxes.astype(np.float64):
        corners = map_points(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), matrix)
        projected.append([*corners.min(0), *corners.max(0)])
    return np.array(projected).reshape(-1, 4)


def inside(x, y, boxes):
    return any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes)


@given(seed=seeds, number=st.integers(0, 5))
def test_projection_equals_the_reference(seed, number):
    rng = np.random.default_rng(seed)
    boxes, matrix = boxes_from(rng, number), homography_from(rng)
    projected = project_boxes(torch.from_numpy(boxes), torch.from_numpy(matrix))
    assert projected.shape == (number, 4) and projected.dtype == torch.float32
    np.testing.assert_allclose(projected.numpy(), reference(boxes, matrix), atol=1e-3)


def test_clip_is_height_and_width():
    boxes = torch.tensor([[-5.0, -7, 20, 300], [10, 10, 500, 20], [600, 600, 700, 700], [-9, -9, -1, -1]])
    clipped = project_boxes(boxes, torch.eye(3), clip_shape=(240, 320))
    assert clipped.tolist() == [[0, 0, 20, 240], [10, 10, 320, 20], [320, 240, 320, 240], [0, 0, 0, 0]]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@given(seed=seeds)
def test_autocast_does_not_round_the_projection(dtype, seed):
    """The error stays below 0.01 px at coordinates around 1000."""
    rng = np.random.default_rng(seed)
    matrix = np.eye(3) + np.array([[*rng.uniform(-0.1, 0.1, 2), 3.7], [*rng.uniform(-0.1, 0.1, 2), -5.3], [0, 0, 0]])
    matrix = matrix.astype(np.float32)
    boxes = boxes_from(rng, 6) + np.float32(1000)
    plain = project_boxes(torch.from_numpy(boxes), torch.from_numpy(matrix))
    with torch.autocast('cpu', dtype=dtype):
        cast = project_boxes(torch.from_numpy(boxes), torch.from_numpy(matrix))
        # A box of 0.02 px around each projected point.
        around = np.tile(map_points(boxes[:, :2], matrix), 2) + np.array([-0.01, -0.01, 0.01, 0.01])
        hit = priors_on_image(
            torch.from_numpy(boxes[:, :2]),
            torch.from_numpy(matrix)[None],
            torch.from_numpy(around).float()[None],
        )
    torch.testing.assert_close(cast, plain, atol=0.01, rtol=0)
    np.testing.assert_allclose(cast.numpy(), reference(boxes, matrix), atol=0.01)
    assert hit.all()


@given(seed=seeds, priors=st.integers(0, 6), number=st.integers(0, 4))
def test_priors_inside_equals_the_naive_loop(seed, priors, number):
    rng = np.random.default_rng(seed)
    # Whole coordinates, so that some priors lie on an edge.
    points = rng.integers(0, 8, (2, priors, 2)).astype(np.float32)
    boxes = boxes_from(rng, 2, number, scale=8.0).round()
    expected = [[inside(*point, boxes[i]) for point in points[i]] for i in range(2)]
    found = priors_inside(torch.from_numpy(points), torch.from_numpy(boxes))
    assert found.dtype == torch.bool and found.shape == (2, priors)
    assert found.tolist() == expected
    assert priors_inside(torch.from_numpy(points[0]), torch.from_numpy(boxes[0])).tolist() == expected[0]


@given(seed=seeds, images=st.integers(1, 3), number=st.integers(0, 3))
def test_priors_on_image_equals_the_naive_loop(seed, images, number):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 100, (7, 2)).astype(np.float32)
    matrices = np.stack([homography_from(rng, perspective=0) for _ in range(images)])
    boxes = boxes_from(rng, images, number)
    expected = [
        [inside(*point, boxes[i]) for point in map_points(points.astype(np.float64), matrices[i])]
        for i in range(images)
    ]
    found = priors_on_image(*map(torch.from_numpy, (points, matrices, boxes)))
    assert found.dtype == torch.bool and found.shape == (images, 7)
    assert found.tolist() == expected


def test_boxes_of_nan_contain_no_point():
    points = torch.rand(5, 2)
    hollow = torch.full((2, 3, 4), torch.nan)
    assert not priors_on_image(points, torch.eye(3).expand(2, 3, 3), hollow).any()
    hollow[1, 2] = torch.tensor([0, 0, torch.inf, torch.inf])
    assert priors_on_image(points, torch.eye(3).expand(2, 3, 3), hollow).tolist() == [[False] * 5, [True] * 5]


@pytest.mark.parametrize('direction', FLIPS)
def test_predictions_flipped_back_are_mirrored_boxes(direction):
    torch.manual_seed(0)
    stride, sizes = 8, [(4, 6), (2, 3)]
    scores = [torch.randn(2, 3, *size) for size in sizes]
    distances = [torch.rand(2, 4, *size) * 3 for size in sizes]

    def boxes(level, step):
        found = {}
        for b, y, x in np.ndindex(level.shape[0], *level.shape[2:]):
            left, top, right, bottom = (level[b, :, y, x] * step).tolist()
            found[b, y, x] = [(x + 0.5) * step - left, (y + 0.5) * step - top]
            found[b, y, x] += [(x + 0.5) * step + right, (y + 0.5) * step + bottom]
        return found

    back = flipped_back(scores, distances, direction)
    for i, (height, width) in enumerate(sizes):
        step = stride * 2**i
        seen, mine = boxes(distances[i], step), boxes(back[1][i], step)
        for (b, y, x), (x1, y1, x2, y2) in seen.items():
            if direction in ('horizontal', 'diagonal'):
                x, x1, x2 = width - 1 - x, width * step - x2, width * step - x1
            if direction in ('vertical', 'diagonal'):
                y, y1, y2 = height - 1 - y, height * step - y2, height * step - y1
            assert mine[b, y, x] == pytest.approx([x1, y1, x2, y2], abs=1e-4)
        again = flipped_back(*back, direction)
        assert torch.equal(again[0][i], scores[i]) and torch.equal(again[1][i], distances[i])


def test_mean_predictions_are_of_probabilities_and_distances():
    torch.manual_seed(0)
    scores, distances = torch.randn(3, 2, 4, 5, 6) * 4, torch.rand(3, 2, 4, 5, 6)
    (mean,), (place,) = mean_predictions([([a], [b]) for a, b in zip(scores, distances)])
    torch.testing.assert_close(mean.sigmoid(), scores.sigmoid().mean(0))
    torch.testing.assert_close(place, distances.mean(0))
    # Logits themselves are not averaged. Extreme logits stay finite.
    assert (mean - scores.mean(0)).abs().max() > 0.1
    (extreme,), _ = mean_predictions([([torch.tensor([[[[200.0, -200]]]])], [torch.zeros(1, 4, 1, 2)])])
    assert extreme.isfinite().all() and extreme[..., 0].item() > 15 > -15 > extreme[..., 1].item()
