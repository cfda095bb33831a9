import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmyolo_bgpenalty.models.pseudo_boxes.thresholds import (
    build_thresholds,
    class_frequency_thresholds,
    mixture_thresholds,
)
from tests.helpers.thresholds import frequency, images

BOXES = st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 3)), max_size=40)


def columns(boxes):
    scores, labels = zip(*boxes) if boxes else ((), ())
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(labels, dtype=torch.long)


def naive_frequency(boxes, wanted, floor, ceiling):
    thresholds = []
    for label, number in enumerate(wanted):
        scores = sorted((score for score, other in boxes if other == label), reverse=True)
        k = math.floor(number + 0.5)
        threshold = ceiling if k == 0 else scores[k - 1] if k <= len(scores) else floor
        thresholds.append(min(max(threshold, floor), ceiling))
    return thresholds


@given(BOXES, st.lists(st.floats(0, 6), min_size=4, max_size=4), st.floats(0, 0.5), st.floats(0.5, 1))
def test_class_frequency_equals_a_naive_search(boxes, wanted, floor, ceiling):
    found = class_frequency_thresholds(*columns(boxes), torch.tensor(wanted, dtype=torch.float64), floor, ceiling)
    assert found.tolist() == pytest.approx(naive_frequency(boxes, wanted, floor, ceiling), abs=1e-12)


def naive_mixture(scores, floor, ceiling, fallback, min_scores, at):
    """EM on scores rounded to bin centres. 'crossing': end of last bin where the Gaussian of lower mean is larger."""
    x = (np.minimum(np.floor(np.array(scores, dtype=np.float32) * 200), 199) + 0.5) / 200
    if len(x) < max(min_scores, 1):
        return fallback

    def normal(x, mean, std):
        return np.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))

    def fit(weights):
        mean = np.average(x, weights=weights)
        return mean, max(math.sqrt(np.average((x - mean) ** 2, weights=weights)), 0.01)

    upper = (x > (x.min() + x.max()) / 2).astype(float)
    if not 0 < upper.sum() < len(x):
        return fallback
    for _ in range(50):
        parts = [(1 - upper).mean(), *fit(1 - upper)], [upper.mean(), *fit(upper)]
        densities = [share * normal(x, mean, std) for share, mean, std in parts]
        upper = densities[1] / (densities[0] + densities[1])
    gain = np.log(sum(densities)).sum() - np.log(normal(x, *fit(np.ones(len(x))))).sum()
    if 2 * gain <= 3 * math.log(len(x)):
        return fallback
    means = [np.average(x, weights=1 - upper), np.average(x, weights=upper)]
    first = int(means[0] > means[1])
    if at == 'mean':
        threshold = max(means)
    else:
        threshold = min(means)
        for centre in (np.arange(200) + 0.5) / 200:
            ours, theirs = (parts[i][0] * normal(centre, *parts[i][1:]) for i in (1 - first, first))
            if min(means) < centre < max(means) and ours < theirs:
                threshold = centre + 0.5 / 200
    return min(max(threshold, floor), ceiling)


def two_clusters(seed, sizes=(300, 80), means=(0.2, 0.75), stds=(0.06, 0.08)):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(*part) for part in zip(means, stds, sizes)])
    return torch.from_numpy(rng.permutation(scores.clip(0, 1))).float()


@pytest.mark.parametrize('at', ['crossing', 'mean'])
@pytest.mark.parametrize('stds', [(0.06, 0.08), (0.15, 0.03), (0.02, 0.2)])
def test_mixture_equals_em_for_single_scores(at, stds):
    parts = [two_clusters(0, stds=stds), two_clusters(1, (40, 200)), two_clusters(2, (20, 10), stds=stds)]
    labels = torch.cat([torch.full((len(part),), label) for label, part in enumerate(parts)])
    found = mixture_thresholds(torch.cat(parts), labels, 3, 0.1, 0.9, 0.5, min_scores=10, at=at)
    expected = [naive_mixture(part.tolist(), 0.1, 0.9, 0.5, 10, at) for part in parts]
    assert all(0.2 < threshold < 0.9 for threshold in expected)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('at', ['crossing', 'mean'])
@pytest.mark.parametrize(
    'scores',
    [
        torch.zeros(0),
        two_clusters(0, (21, 10)),
        torch.full((500,), 0.625),
        torch.zeros(500),
        torch.ones(500),
        two_clusters(0, (0, 500)),
    ],
    ids=['none', 'few', 'all equal', 'all 0', 'all 1', 'one cluster'],
)
def test_mixture_falls_back(scores, at):
    labels = torch.zeros(len(scores), dtype=torch.long)
    assert mixture_thresholds(scores, labels, 2, 0.1, 0.9, 0.375, at=at).tolist() == [0.375, 0.375]


def test_mixture_is_fitted_from_min_scores_on():
    scores, labels = two_clusters(0, (21, 10)), torch.zeros(31, dtype=torch.long)
    assert 0.4 < mixture_thresholds(scores, labels, 1, 0.1, 0.9, 0.375, min_scores=31).item() < 0.6


@given(BOXES, st.randoms(use_true_random=False), st.sampled_from(['crossing', 'mean']))
def test_mixture_is_in_range_and_depends_on_neither_order_nor_other_classes(boxes, random, at):
    shuffled = random.sample(boxes, len(boxes))
    options = dict(floor=0.1, ceiling=0.9, fallback=0.4, min_scores=1, at=at)
    found = mixture_thresholds(*columns(boxes), 4, **options)
    assert ((found >= 0.1) & (found <= 0.9)).all()
    assert torch.equal(found, mixture_thresholds(*columns(shuffled), 4, **options))
    alone = [mixture_thresholds(*columns([box for box in boxes if box[1] == c]), 4, **options)[c] for c in range(4)]
    torch.testing.assert_close(found, torch.stack(alone), rtol=0, atol=1e-9)


@pytest.mark.parametrize('size, share', [(1, 1.0), (3, 0.5), (10, 1.0)])
def test_the_window_holds_the_latest_images(size, share):
    """With fewer than ``min_images`` images the threshold is score_thr. At most five boxes of an image count."""
    module, seen = frequency(share=share), images(30)
    for start in range(0, 30, size):
        found = module(seen[start : start + size])
        latest = seen[: start + size][-8:]
        boxes = [box for scores, labels in latest for box in zip(scores[:5].tolist(), labels[:5].tolist())]
        wanted = [number * share * len(latest) for number in (1.0, 0.5, 0.0)]
        expected = [0.4] * 3 if len(latest) < 4 else naive_frequency(boxes, wanted, 0.05, 0.9)
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
        assert module.current is found


def test_images_without_boxes_count():
    module = frequency(objects=(0.5, 1.0, 0.0))
    nothing = (torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert module([nothing] * 4).tolist() == [0.05, 0.05, 0.9]
    found = module([(torch.tensor([0.75, 0.5, 0.25]), torch.tensor([0, 0, 0]))] * 2)
    assert found.tolist() == pytest.approx([0.5, 0.05, 0.9])


@pytest.mark.parametrize('kind', ['ClassFrequency', 'Mixture'])
def test_thresholds_go_on_exactly_from_a_saved_state(kind, tmp_path):
    def module():
        mixture = dict(type='Mixture', window=20, min_scores=8)
        return build_thresholds(mixture, 3, 5, 0.4) if kind == 'Mixture' else frequency()

    seen, whole, first, second = images(40), module(), module(), module()
    expected = [whole(seen[start : start + 4]) for start in range(0, 40, 4)]
    assert len({value for row in expected[5:] for value in row.tolist()}) >= 5
    for start in range(0, 20, 4):
        first(seen[start : start + 4])
    torch.save(first.state_dict(), tmp_path / 'state.pth')
    second.load_state_dict(torch.load(tmp_path / 'state.pth', weights_only=True))
    found = [second(seen[start : start + 4]) for start in range(20, 40, 4)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected[5:]))


def test_fixed_thresholds_have_no_state():
    module = build_thresholds(dict(type='Fixed', thresholds=[0.5, 0.25, 1]), 3, 5, 0.4)
    assert module(images(2)).tolist() == [0.5, 0.25, 1.0] and not module.state_dict()


@pytest.mark.parametrize(
    'bad, message',
    [
        (0.4, r'Expected dict\(type=…\) with one of Fixed, ClassFrequency, Mixture, but got 0.4'),
        (dict(type='GMM'), "with one of Fixed, ClassFrequency, Mixture, but got .*'GMM'"),
        (dict(), 'with one of'),
        (
            dict(type='Mixture', share=1.0),
            r'keys of `Mixture` to be among at, ceiling, floor, min_scores, window, but got ..share',
        ),
        (dict(type='Mixture', score_thr=0.3), 'but got ..score_thr'),
        (
            dict(type='Fixed', thresholds=[0.4, 0.4, 0.4], window=9),
            '`Fixed` to be among floor, thresholds, but got ..window',
        ),
        (dict(type='Mixture', floor=-0.1), '`floor`.*-0.1'),
        (dict(type='Mixture', ceiling=1.5), r'`ceiling` to be in \[0, 1\].*1.5'),
        (dict(type='Mixture', floor=0.5), '`floor` 0.5, `score_thr` 0.4 and `ceiling` 0.9'),
        (dict(type='Mixture', ceiling=0.3), '`score_thr` 0.4 and `ceiling` 0.3'),
        (dict(type='Mixture', window=0), '`window`.*>= 1.*0'),
        (dict(type='Mixture', min_scores=0), '`min_scores`.*>= 1.*0'),
        (dict(type='Mixture', at='high'), "`at` to be one of crossing, mean, but got 'high'"),
        (dict(type='ClassFrequency', share=0), '`share` to be > 0'),
        (dict(type='ClassFrequency', min_images=0), '`min_images`.*>= 1.*0'),
        (dict(type='ClassFrequency', window=16), '`min_images` to be at most `window` 16, but got 32'),
        (dict(type='Fixed'), '`thresholds` to be 3 numbers, one per class'),
        (dict(type='Fixed', thresholds=0.4), '`thresholds` to be 3 numbers, one per class, but got 0.4'),
        (dict(type='Fixed', thresholds=[0.4, 0.4]), '`thresholds` to be 3 numbers, one per class'),
        (dict(type='Fixed', thresholds=[0.4, 0.4, 2]), r'`thresholds` to be in \[0, 1\].*2'),
        (dict(type='Fixed', thresholds=[0.4, 0.05, 0.4]), '`thresholds` to be at least `floor` 0.1'),
    ],
)
def test_bad_arguments_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        build_thresholds(bad, 3, 300, 0.4)


def test_missing_counts_of_labeled_boxes_are_named():
    module = frequency(objects=None)
    module(images(3))
    with pytest.raises(ValueError, match='`objects_per_image` to be set.*ClassThresholdsHook'):
        module(images(1))
