"""Thresholds by class: the two rules, their window, and real runs."""

import copy
import json
import math
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from mmyolo_bgpenalty import ClassThresholdsHook
from mmyolo_bgpenalty.models.thresholds import build_thresholds, class_frequency_thresholds, mixture_thresholds
from tests.helpers.semi import SHAPE, batch, build, sample
from tests.helpers.tiny import CLASSES, SEMI, load, make_images, make_set

BATCHES = 5  # an epoch: 10 unlabeled images, 2 a batch
BOXES = st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 3)), max_size=40)


def columns(boxes):
    scores, labels = zip(*boxes) if boxes else ((), ())
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(labels, dtype=torch.long)


# Class frequency


def naive_frequency(boxes, wanted, floor, ceiling):
    thresholds = []
    for label, number in enumerate(wanted):
        scores = sorted((score for score, of in boxes if of == label), reverse=True)
        k = math.floor(number + 0.5)
        threshold = ceiling if k == 0 else scores[k - 1] if k <= len(scores) else floor
        thresholds.append(min(max(threshold, floor), ceiling))
    return thresholds


@given(BOXES, st.lists(st.floats(0, 6), min_size=4, max_size=4), st.floats(0, 0.5), st.floats(0.5, 1))
def test_class_frequency_equals_a_naive_search(boxes, wanted, floor, ceiling):
    found = class_frequency_thresholds(*columns(boxes), torch.tensor(wanted, dtype=torch.float64), floor, ceiling)
    assert found.tolist() == pytest.approx(naive_frequency(boxes, wanted, floor, ceiling), abs=1e-12)


def test_class_frequency_keeps_as_many_as_wanted():
    scores, labels = torch.rand(5000), torch.randint(0, 3, (5000,))
    wanted = torch.tensor([0.0, 37.0, 1200.4])
    thresholds = class_frequency_thresholds(scores, labels, wanted, 0.0, 1.0)
    kept = torch.bincount(labels[scores >= thresholds[labels]], minlength=3)
    assert kept.tolist() == [0, 37, 1200]


# Mixture


def naive_mixture(scores, floor, ceiling, fallback, min_scores, at):
    """EM score by score, at the centres of the bins; then the posterior at each bin from mean to mean."""
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
def test_mixture_equals_em_score_by_score(at, stds):
    parts = [two_clusters(0, stds=stds), two_clusters(1, (40, 200)), two_clusters(2, (20, 10), stds=stds)]
    labels = torch.cat([torch.full((len(part),), label) for label, part in enumerate(parts)])
    found = mixture_thresholds(torch.cat(parts), labels, 3, 0.1, 0.9, 0.5, min_scores=10, at=at)
    expected = [naive_mixture(part.tolist(), 0.1, 0.9, 0.5, 10, at) for part in parts]
    assert all(0.2 < threshold < 0.9 for threshold in expected)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_mixture_finds_the_clusters():
    """Of equal shares and deviations they cross half way."""
    scores = two_clusters(3, (4000, 4000), (0.3, 0.8), (0.05, 0.05))
    labels = torch.zeros(len(scores), dtype=torch.long)
    assert mixture_thresholds(scores, labels, 1, 0.0, 1.0, 0.4).item() == pytest.approx(0.55, abs=0.0101)
    assert mixture_thresholds(scores, labels, 1, 0.0, 1.0, 0.4, at='mean').item() == pytest.approx(0.8, abs=0.005)
    assert mixture_thresholds(scores, labels, 1, 0.6, 1.0, 0.7).item() == 0.6
    assert mixture_thresholds(scores, labels, 1, 0.0, 0.5, 0.4).item() == 0.5


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


def test_mixture_takes_the_number_of_scores_asked_for():
    scores, labels = two_clusters(0, (21, 10)), torch.zeros(31, dtype=torch.long)
    assert 0.4 < mixture_thresholds(scores, labels, 1, 0.1, 0.9, 0.375, min_scores=31).item() < 0.6


@given(BOXES, st.randoms(use_true_random=False), st.sampled_from(['crossing', 'mean']))
def test_mixture_is_in_range_and_knows_neither_order_nor_other_classes(boxes, random, at):
    shuffled = random.sample(boxes, len(boxes))
    options = dict(floor=0.1, ceiling=0.9, fallback=0.4, min_scores=1, at=at)
    found = mixture_thresholds(*columns(boxes), 4, **options)
    assert ((found >= 0.1) & (found <= 0.9)).all()
    assert torch.equal(found, mixture_thresholds(*columns(shuffled), 4, **options))
    alone = [mixture_thresholds(*columns([box for box in boxes if box[1] == c]), 4, **options)[c] for c in range(4)]
    torch.testing.assert_close(found, torch.stack(alone), rtol=0, atol=1e-9)


# The window


def images(number, seed=0, most=6):
    rng = np.random.default_rng(seed)
    return [
        (
            torch.tensor(np.sort(rng.random(n))[::-1].copy(), dtype=torch.float32),
            torch.from_numpy(rng.integers(0, 3, n)),
        )
        for n in rng.integers(0, most + 1, number)
    ]


def frequency(objects=(1.0, 0.5, 0.0), **options):
    options = {'window': 8, 'min_images': 4, 'floor': 0.05, 'share': 1.0, **options}
    module = build_thresholds(dict(type='ClassFrequency', **options), 3, 5, 0.4)
    module.objects_per_image = None if objects is None else torch.tensor(objects)
    return module


@pytest.mark.parametrize('size, share', [(1, 1.0), (3, 0.5), (10, 1.0)])
def test_the_window_holds_the_latest_images(size, share):
    """Until there are ``min_images`` score_thr holds; of an image the surest five boxes count."""
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


def test_six_of_ten_are_wanted_unless_stated():
    module = build_thresholds(dict(type='ClassFrequency', min_images=1), 1, 20, 0.4)
    module.objects_per_image = torch.tensor([10.0])
    scores = torch.linspace(0.8, 0.2, 15)
    (threshold,) = module([(scores, torch.zeros(15, dtype=torch.long))])
    assert (scores >= threshold).sum() == 6


@pytest.mark.parametrize('kind', ['ClassFrequency', 'Mixture'])
def test_the_state_is_a_plain_tensor_that_goes_on_exactly(kind, tmp_path):
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
            r'keys of `Mixture` among at, ceiling, floor, min_scores, window, but got ..share',
        ),
        (dict(type='Mixture', score_thr=0.3), 'but got ..score_thr'),
        (
            dict(type='Fixed', thresholds=[0.4, 0.4, 0.4], window=9),
            '`Fixed` among floor, thresholds, but got ..window',
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
        (dict(type='Fixed'), '`thresholds` to be 3 numbers, one a class'),
        (dict(type='Fixed', thresholds=0.4), '`thresholds` to be 3 numbers, one a class, but got 0.4'),
        (dict(type='Fixed', thresholds=[0.4, 0.4]), '`thresholds` to be 3 numbers, one a class'),
        (dict(type='Fixed', thresholds=[0.4, 0.4, 2]), r'`thresholds` to be in \[0, 1\].*2'),
        (dict(type='Fixed', thresholds=[0.4, 0.05, 0.4]), '`thresholds` to be at least `floor` 0.1'),
    ],
)
def test_bad_arguments_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        build_thresholds(bad, 3, 300, 0.4)


def test_labeled_boxes_that_nobody_counted_are_asked_for():
    module = frequency(objects=None)
    module(images(3))
    with pytest.raises(ValueError, match='`objects_per_image` to be set.*ClassThresholdsHook'):
        module(images(1))


# The detector


def teacher_scores(model, found, least=0.1):
    """Make the teacher find boxes of these scores and labels, asked for those above ``least``."""

    def predict_by_feat(*args, batch_img_metas, cfg, **kwargs):
        assert cfg.score_thr == least
        return [
            InstanceData(bboxes=torch.tensor([[10.0, 10, 50, 50]]).repeat(len(s), 1), scores=s, labels=labels)
            for s, labels in found
        ]

    model.teacher.bbox_head.predict_by_feat = predict_by_feat


@pytest.mark.parametrize('unsure_thr, unsure', [(None, None), (0.05, [0.6, 0.2, 0.07]), (0.2, [0.6]), (0.45, [0.6])])
def test_a_box_is_sure_by_its_classs_threshold(unsure_thr, unsure):
    fixed = dict(type='Fixed', thresholds=[0.5, 0.3, 0.9])
    model = build(class_thresholds=fixed, unsure_thr=unsure_thr)
    scores, labels = torch.tensor([0.9, 0.6, 0.5, 0.4, 0.2, 0.07]), torch.tensor([0, 2, 0, 1, 1, 1])
    nothing = (torch.zeros(0), torch.zeros(0, dtype=torch.int32))  # as MMYOLO's head says it
    teacher_scores(model, [(scores, labels), nothing], least=min(0.1, unsure_thr or 1))
    inputs, samples = batch(2)
    losses = model.loss(inputs, samples)
    for views in (model.pseudo_labels, samples['unsup_student']):
        assert views[0].gt_instances.scores.tolist() == pytest.approx([0.9, 0.5, 0.4])
        assert len(views[1].gt_instances) == 0
        if unsure is not None:
            assert views[0].ignored_instances.scores.tolist() == pytest.approx(unsure)
            assert len(views[1].ignored_instances) == 0
    assert losses['semi/pseudo_boxes'] == 1.5


def test_the_unsure_zone_does_not_move_thresholds():
    found = []
    for unsure_thr in (None, 0.01):
        thresholds = dict(type='ClassFrequency', floor=0.1, share=1.0, window=4, min_images=1)
        model = build(class_thresholds=thresholds, unsure_thr=unsure_thr)
        model.class_thresholds.objects_per_image = torch.tensor([1.0, 2.0, 0.0])
        scores = torch.tensor([0.9, 0.6, 0.05, 0.04][: 2 if unsure_thr is None else 4])
        teacher_scores(model, [(scores, torch.tensor([0, 1, 1, 1])[: len(scores)])], least=unsure_thr or 0.1)
        model.get_pseudo_instances(torch.zeros(1, 3, *SHAPE), [sample()])
        found.append((model.class_thresholds.current.tolist(), model.class_thresholds.window.tolist()))
    assert found[0] == found[1] and found[0][0] == pytest.approx([0.9, 0.1, 0.9])


def test_equal_thresholds_are_one_threshold():
    """What NMS keeps above a threshold does not depend on what is below it."""
    shapes = [(8, 12), (4, 6), (2, 3)]
    cls_scores = [torch.randn(2, 3, *shape) - 1.5 for shape in shapes]
    bbox_preds = [torch.full((2, 4, *shape), 1.5) for shape in shapes]
    results = []
    for options in (dict(), dict(class_thresholds=dict(type='Fixed', thresholds=[0.4] * 3), unsure_thr=0.1)):
        model = build(**options)
        model.teacher.extract_feat = lambda inputs: None
        model.teacher.bbox_head.forward = lambda features: (cls_scores, bbox_preds)
        results.append(model.get_pseudo_instances(torch.zeros(2, 3, *SHAPE), [sample(), sample()])[0])
    single, fixed = results
    assert all(len(one.gt_instances) > 2 and len(two.ignored_instances) > 2 for one, two in zip(single, fixed))
    for one, two in zip(single, fixed):
        for name in ('bboxes', 'scores', 'labels'):
            assert torch.equal(one.gt_instances[name], two.gt_instances[name])


def test_the_option_alone_adds_to_a_checkpoint():
    plain = build().state_dict()
    state = build(class_thresholds=dict(type='Mixture', window=7)).state_dict()
    assert state.keys() - plain.keys() == {'class_thresholds.window'}
    assert state['class_thresholds.window'].shape == (7, 300, 2)
    assert build(class_thresholds=dict(type='Fixed', thresholds=[0.4] * 3)).state_dict().keys() == plain.keys()


def test_the_detector_names_a_bad_argument():
    with pytest.raises(ValueError, match='`semi_train_cfg.class_thresholds`: .*`at`'):
        build(class_thresholds=dict(type='Mixture', at='high'))
    fixed = dict(type='Fixed', thresholds=[0.5, 0.3, 0.6])
    assert build(class_thresholds=fixed, unsure_thr=0.6).semi_train_cfg.unsure_thr == 0.6
    with pytest.raises(
        ValueError, match='`semi_train_cfg.unsure_thr`.*highest of `class_thresholds`.*0.6, but got 0.7'
    ):
        build(class_thresholds=fixed, unsure_thr=0.7)


OPTIONS = dict(type='ClassFrequency', share=1.0, window=6, min_images=2)


def found_by(rank, step):
    return images(2, seed=2 * step + rank)


def worker(rank, store, queue):
    torch.distributed.init_process_group('gloo', store=torch.distributed.FileStore(store, 2), rank=rank, world_size=2)
    try:
        model = build(class_thresholds=OPTIONS)
        model.class_thresholds.objects_per_image = torch.tensor([1.0, 0.5, 0.25])
        for step in range(5):
            teacher_scores(model, found_by(rank, step))
            model.get_pseudo_instances(torch.zeros(2, 3, *SHAPE), [sample(), sample()])
        queue.put((model.class_thresholds.current.tolist(), model.class_thresholds.window.tolist()))
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_have_the_thresholds_of_one_with_all_images(tmp_path):
    fork = multiprocessing.get_context('fork')
    queue = fork.Queue()
    children = [fork.Process(target=worker, args=(rank, str(tmp_path / 'store'), queue)) for rank in (0, 1)]
    for child in children:
        child.start()
    answers = [queue.get(timeout=120) for _ in children]
    for child in children:
        child.join()
    one = build_thresholds(OPTIONS, 3, 300, 0.4)
    one.objects_per_image = torch.tensor([1.0, 0.5, 0.25])
    for step in range(5):
        one([image for rank in (0, 1) for image in found_by(rank, step)])
    assert len(set(one.current.tolist())) == 3
    assert answers == [(one.current.tolist(), one.window.tolist())] * 2


# Runs


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = make_set(tmp_path_factory.mktemp('set'))
    make_images(root, 'crowd', 12, seed=5, crowd=True)
    return root


@pytest.fixture(scope='module')
def cfg(data, tmp_path_factory):
    cfg = load(
        SEMI,
        data,
        tmp_path_factory.mktemp('work'),
        burn_in=1,
        lambda_bg_warmup=0,
        train_cfg__max_epochs=4,
        train_dataloader__dataset__labeled__ann_file='crowd.json',
        default_hooks__checkpoint__interval=1,
        default_hooks__checkpoint__save_best=None,
        default_hooks__checkpoint__max_keep_ckpts=-1,
        default_hooks__mean_teacher__momentum=0.25,
        # An early teacher is sure of nothing, and all its boxes count.
        model__semi_train_cfg__pseudo_test_cfg=dict(score_thr=0.005, max_per_img=5),
        model__semi_train_cfg__unsure_thr=0.004,
    )
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    del cfg.default_hooks.pictures
    return cfg


class Recorder(Hook):
    def __init__(self):
        self.thresholds, self.losses, self.unsure = {}, {}, 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = float(outputs['loss'])
        if runner.model.pseudo_labels and runner.model.class_thresholds is not None:
            self.thresholds[runner.iter] = runner.model.class_thresholds.current.tolist()
            self.unsure += sum(len(sample.ignored_instances) for sample in runner.model.pseudo_labels)


def train(cfg, work_dir, class_thresholds, **changes):
    cfg = copy.deepcopy(cfg)
    cfg.visualizer.name = cfg.work_dir = str(work_dir)
    if class_thresholds is not None:
        cfg.model.semi_train_cfg.class_thresholds = class_thresholds
    cfg.merge_from_dict({name.replace('__', '.'): value for name, value in changes.items()})
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder


def crowded(data):
    """Boxes by class, crowds apart, and images."""
    content = json.loads((data / 'crowd.json').read_text())
    labels = [item['category_id'] - 1 for item in content['annotations'] if not item['iscrowd']]
    assert len(labels) < len(content['annotations'])
    return np.bincount(labels, minlength=3), len(content['images'])


@pytest.mark.parametrize(
    'thresholds',
    [
        dict(type='ClassFrequency', floor=0.004, window=12, min_images=4),
        dict(type='Mixture', floor=0.004, window=12, min_scores=4),
    ],
    ids=['ClassFrequency', 'Mixture'],
)
def test_a_run_follows_its_teacher_and_resumes_exactly(cfg, data, tmp_path, thresholds):
    runner, recorder = train(cfg, tmp_path / 'a', thresholds)
    values = recorder.thresholds
    assert sorted(values) == list(range(BATCHES + 1, 4 * BATCHES))
    assert recorder.unsure > 0
    if thresholds['type'] == 'ClassFrequency':
        assert len({value for row in values.values() for value in row}) > BATCHES
        counts, number = crowded(data)
        assert runner.model.class_thresholds.objects_per_image.tolist() == pytest.approx(list(counts / number))
    rows = [json.loads(row) for row in (Path(runner.log_dir) / 'vis_data/scalars.json').read_text().splitlines()]
    rows = [row for row in rows if 'semi/threshold_bar' in row]
    logged = {row['step'] - 1: [row[f'semi/threshold_{name}'] for name in CLASSES] for row in rows}
    assert logged == {iteration: pytest.approx(row) for iteration, row in values.items()}

    checkpoint = str(tmp_path / 'a/epoch_2.pth')
    assert 'class_thresholds.window' in torch.load(checkpoint, weights_only=True)['state_dict']
    resumed, after = train(cfg, tmp_path / 'b', thresholds, load_from=checkpoint, resume=True)
    assert after.thresholds == {i: row for i, row in values.items() if i >= 2 * BATCHES}
    assert after.losses == {i: loss for i, loss in recorder.losses.items() if i >= 2 * BATCHES}
    state = resumed.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in runner.model.state_dict().items())


def test_another_window_or_a_checkpoint_without_one_begins_anew(cfg, tmp_path):
    thresholds = dict(type='ClassFrequency', floor=0.004, window=12, min_images=4)
    quick = dict(train_cfg__max_epochs=2)
    train(cfg, tmp_path / 'a', thresholds, **quick)
    train(cfg, tmp_path / 'b', dict(type='Fixed', thresholds=[0.005] * 3, floor=0.004), **quick)
    for source, window in (('a', 20), ('b', 12)):
        changed = dict(thresholds, window=window)
        options = dict(load_from=str(tmp_path / source / 'epoch_2.pth'), resume=True, train_cfg__max_epochs=3)
        runner, recorder = train(cfg, tmp_path / f'{source}2', changed, **options)
        # Of batches of two images the second makes four.
        assert recorder.thresholds[2 * BATCHES] == [0.005] * 3 != recorder.thresholds[2 * BATCHES + 1]
        assert int(runner.model.class_thresholds.images) == 2 * BATCHES


def test_without_the_option_the_hook_does_nothing(cfg, tmp_path):
    runner, _ = train(cfg, tmp_path, None, train_cfg__max_epochs=2)
    assert runner.model.class_thresholds is None
    assert not any('threshold' in name for name in runner.message_hub.log_scalars)


class Listed:
    def __init__(self, images, classes=CLASSES):
        self.images, self.metainfo = images, dict(classes=classes)

    def __len__(self):
        return len(self.images)

    def get_data_info(self, i):
        return dict(instances=self.images[i])


def started(dataset, thresholds):
    scalars = {}
    hub = SimpleNamespace(log_scalars=scalars, update_scalar=scalars.__setitem__)
    model = torch.nn.Module()
    model.class_thresholds = thresholds
    loader = SimpleNamespace(dataset=dataset)
    hooks = [LoggerHook(interval=1)]
    runner = SimpleNamespace(model=model, train_dataloader=loader, message_hub=hub, hooks=hooks)
    hook = ClassThresholdsHook()
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    return scalars


@pytest.mark.parametrize(
    'dataset, message',
    [
        (SimpleNamespace(), 'got a training set that does not tell them'),
        (SimpleNamespace(datasets=[Listed([[], []]), Listed([])]), 'got 2 without any'),
        (
            SimpleNamespace(datasets=[Listed([[dict(bbox_label=0, ignore_flag=1)]]), Listed([])]),
            'got 1 without any',
        ),
    ],
)
def test_no_labeled_boxes_are_an_error(dataset, message):
    with pytest.raises(ValueError, match=f"type='ClassFrequency'.*labeled images with boxes, but {message}"):
        started(dataset, frequency())
    # Nobody asks how many there are.
    assert started(dataset, build_thresholds(dict(type='Mixture'), 3, 5, 0.4)) == {}


@pytest.mark.parametrize('number', [20, 21])
def test_of_many_classes_a_summary_is_logged(number):
    values = torch.linspace(0.2, 0.6, number).tolist()
    names = [f'loss {i}' for i in range(number)]
    dataset = SimpleNamespace(datasets=[Listed([], names), Listed([])])
    logged = started(dataset, build_thresholds(dict(type='Fixed', thresholds=values), number, 5, 0.4))
    if number == 21:
        expected = dict(min=0.2, mean=0.4, max=0.6)
    else:
        expected = dict(zip(names, values))
    assert logged == pytest.approx({f'train/semi/threshold_{name}': value for name, value in expected.items()})
