"""Unlabeled images that are known to show no object: the file that lists them, the dataset, the detector and a run."""

import json
import os
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmyolo.registry import DATASETS, TRANSFORMS

from mmyolo_bgpenalty import ClassThresholdsHook, CollapseMonitorHook
from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.datasets.known_empty import places_of, read_names
from mmyolo_bgpenalty.models.pseudo_boxes.thresholds import build_thresholds
from tests.helpers.monitored import OBJECTS, TRUE, Listed, fake_runner
from tests.helpers.pictures import PICTURES, Pictures, picture
from tests.helpers.semi import batch, build, sample, teacher_sees, total
from tests.helpers.thresholds import images
from tests.helpers.tiny import SEMI, load, make_set

SHIPPED = 'yolov8_semi_bgpenalty.py'
KNOWN = 'train_dataloader__dataset__known_empty'


# The file


def test_names_are_lines_with_any_line_end(tmp_path):
    (tmp_path / 'empty.txt').write_bytes('\ufeffa.png\r\n\n  b c/ü.png \nd/'.encode())
    assert read_names(tmp_path / 'empty.txt') == ['a.png', 'b c/ü.png', 'd/']


@pytest.mark.parametrize(
    'content, message',
    [(None, 'No such file'), (b' \n\n', 'names no image'), ('a.png'.encode('utf-16'), 'is not UTF-8 text')],
)
def test_a_file_without_names_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / 'empty.txt').write_bytes(content)
    with pytest.raises(ValueError, match=f'empty.txt: {message}'):
        read_names(tmp_path / 'empty.txt')


parts = st.sampled_from(['a', 'b', 'ab'])
relative = st.lists(parts, min_size=1, max_size=3).map('/'.join)


@given(
    st.lists(relative, unique=True, max_size=8), st.sets(relative), st.sets(relative), st.sampled_from(['', '/r', 'r/'])
)
def test_places_equal_a_naive_search(paths, files, folders, folder):
    paths = [path + '.png' for path in paths]
    names = [name + '.png' for name in sorted(files)] + [name + '/' for name in sorted(folders)]

    def means(name, path):
        return path.startswith(name) if name.endswith('/') else path == name

    whole = [os.path.join(folder, path) for path in paths]
    if all(any(means(name, path) for path in paths) for name in names):
        expected = [i for i, path in enumerate(paths) if any(means(name, path) for name in names)]
        assert places_of(names, whole, folder) == expected
    else:
        with pytest.raises(ValueError, match='names match no image'):
            places_of(names, whole, folder)


@pytest.mark.parametrize(
    'name, paths, folder, places',
    [
        ('./', ['r/a.png', 'r/b/c.png', '/other/d.png', 'ra.png'], 'r', [0, 1]),
        ('./', ['a.png', 'b/c.png'], '', [0, 1]),
        ('../o/a.png', ['r/a.png', 'r/../o/a.png', 'o/b.png'], 'r', [1]),
    ],
)
def test_a_name_may_be_the_folder_or_lead_out_of_it(name, paths, folder, places):
    assert places_of([name], paths, folder) == places


def test_names_that_match_no_image_are_counted():
    names = ['a.png', *(f'x{i:02}.png' for i in range(12))]
    with pytest.raises(ValueError, match=r'relative to r/.* 12 of 13 names .* set: x00.png, .*x09.png, …$'):
        places_of(names, ['r/a.png'], 'r/')


# The dataset


@pytest.fixture
def data(tmp_path):
    """The tiny set. Its first three unlabeled images show nothing, and empty.txt names them."""
    root = make_set(tmp_path / 'set')
    content = json.loads((root / 'unlabeled.json').read_text())
    empty = content['images'][:3]
    taken = {image['id'] for image in empty}
    content['annotations'] = [box for box in content['annotations'] if box['image_id'] not in taken]
    (root / 'unlabeled.json').write_text(json.dumps(content))
    (root / 'empty.txt').write_text('\n'.join(image['file_name'] for image in empty))
    noise = np.random.default_rng(0).integers(0, 60, (64, 80, 3), dtype=np.uint8)
    for image in empty:
        cv2.imwrite(str(root / 'images' / image['file_name']), noise)
    return root


def built(data, tmp_path, name=SEMI, **options):
    init_default_scope('mmyolo')
    options = {KNOWN: 'empty.txt', **options}
    return DATASETS.build(load(name, data, tmp_path / 'work', **options).train_dataloader.dataset)


def flags(dataset):
    samples = [dataset[i]['data_samples'] for i in range(len(dataset))]
    return [[view.metainfo['known_empty'] for view in one.values() if view is not None] for one in samples[6:]]


def test_both_views_get_known_empty(data, tmp_path):
    assert flags(built(data, tmp_path)) == [[True] * 2] * 3 + [[False] * 2] * 7
    assert 'known_empty' not in built(data, tmp_path)[0]['data_samples']['sup'].metainfo
    assert 'known_empty' not in built(data, tmp_path, **{KNOWN: None})[6]['data_samples']['unsup_student'].metainfo


def test_a_folder_of_images(data, tmp_path):
    (data / 'images' / 'ok').mkdir()
    for i in range(3):
        os.rename(data / 'images' / f'unlabeled_{i:03}.png', data / 'images' / 'ok' / f'{i}.png')
    (data / 'empty.txt').write_text('ok/\n')
    cfg = load(SEMI, data, tmp_path / 'work', **{KNOWN: 'empty.txt'})
    folder = dict(type='ImageFolderDataset', data_root=f'{data}/', data_prefix=dict(img='images/'))
    cfg.train_dataloader.dataset.unlabeled = {**folder, 'pipeline': cfg.train_dataloader.dataset.unlabeled.pipeline}
    init_default_scope('mmyolo')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    paths = [dataset.datasets[1].get_data_info(i)['img_path'] for i in range(len(dataset.datasets[1]))]
    assert flags(dataset) == [['/ok/' in path] * 2 for path in paths] and sum('/ok/' in path for path in paths) == 3


def test_a_replacement_image_has_its_own_known_empty(data, tmp_path):
    (data / 'images' / 'unlabeled_002.png').write_bytes(b'no picture')
    assert flags(built(data, tmp_path)) == [[True] * 2] * 2 + [[False] * 2] * 8


@pytest.mark.parametrize(
    'content, message',
    [
        ('unlabeled_000.png\nunlabeled_999.png', '`known_empty`: .* 1 of 2 names .*unlabeled_999.png'),
        ('unlabeled_003.png\nunlabeled_000.png', r'unlabeled.json has boxes in 1 of 2, the first .*unlabeled_003.png'),
        ('', '`known_empty`: .*empty.txt: names no image'),
    ],
)
def test_a_file_with_a_mistake_is_named(data, tmp_path, content, message):
    (data / 'empty.txt').write_text(content)
    with pytest.raises(ValueError, match=message):
        built(data, tmp_path)


@pytest.mark.parametrize('kind', ['YOLOv5CocoDataset', 'CheckedCocoDataset'])
def test_a_set_in_test_mode_is_refused(data, tmp_path, kind):
    options = {'train_dataloader__dataset__unlabeled__type': kind}
    with pytest.raises(ValueError, match=f'no `known_empty`, because {kind} is in test_mode'):
        built(data, tmp_path, train_dataloader__dataset__unlabeled__test_mode=True, **options)


@pytest.mark.parametrize('name', ['', ['unlabeled_000.png']])
def test_a_value_that_is_no_path_is_refused(data, tmp_path, name):
    with pytest.raises(ValueError, match='Expected `known_empty` to be the path of a text file, but got'):
        built(data, tmp_path, **{KNOWN: name})


def test_a_set_that_loads_in_its_own_way_is_refused(data, tmp_path):
    class Own(DATASETS.get('YOLOv5CocoDataset')):
        def prepare_data(self, idx):
            return super().prepare_data(idx)

    DATASETS.register_module(module=Own, name='LoadsItsOwnWay', force=True)
    with pytest.raises(ValueError, match='no `known_empty`, because Own loads images in its own way'):
        built(data, tmp_path, train_dataloader__dataset__unlabeled__type='LoadsItsOwnWay')


@pytest.mark.parametrize('kind', ['RecordedMosaic', 'RecordedMixUp'])
@pytest.mark.parametrize('first, others', [(True, True), (True, False), (False, True), (True, None)])
def test_a_mixed_image_is_empty_if_all_of_its_images_are(kind, first, others):
    pictures = [picture(*PICTURES[0]) for _ in range(3)]
    if others is not None:
        pictures = [{**one, 'known_empty': others} for one in pictures]
    size = dict(img_scale=(64, 64)) if kind == 'RecordedMosaic' else {}
    results = {**picture(*PICTURES[0]), 'known_empty': first, 'dataset': Pictures(pictures)}
    assert TRANSFORMS.build(dict(type=kind, **size))(results)['known_empty'] is bool(first and others)


# The detector


def known(samples, which):
    for views in (samples['unsup_teacher'], samples['unsup_student']):
        for view, empty in zip(views, which):
            view.set_metainfo(dict(known_empty=empty))


def test_boxes_of_the_teacher_in_empty_images_are_background():
    """Boxes of the teacher in a known-empty image are neither pseudo-labels nor unsure. They are background."""
    found, unsure = [], dict(unsure_thr=0.02)
    inputs, _ = batch(3)
    for sees, which in (([2, 1, 1], [True, False, False]), ([0, 1, 1], [False] * 3)):
        model = build(dict(ignored_in_cls=True), **unsure)
        teacher_sees(model, sees)
        views = {branch: [sample(boxes=1) for _ in range(3)] for branch in inputs}
        known(views, which)
        found.append(model.loss(inputs, views))
        assert [len(view.gt_instances) for view in views['unsup_student']] == [0, 1, 1]
        assert not any(len(view.ignored_instances) for view in views['unsup_student'])
    for name in found[0]:
        if 'loss' in name:
            assert torch.equal(found[0][name], found[1][name]), name
    assert found[0]['semi/pseudo_boxes'] == 1 and found[1]['semi/pseudo_boxes'] == pytest.approx(2 / 3)
    assert found[0]['semi/pseudo_empty'] == 0 and found[1]['semi/pseudo_empty'] == pytest.approx(1 / 3)


def test_without_pseudo_boxes_known_empty_images_count_like_one_pseudo_box():
    """The unlabeled losses have the factor 1 / 4, for one and for four such images. Without these they are 0."""
    inputs, samples = batch(4)
    losses = {}
    for number in (0, 1, 4):
        model = build()
        teacher_sees(model, [0] * 4)
        known(samples, [i < number for i in range(4)])
        losses[number] = model.loss(inputs, samples)
    alone = build().student.loss(inputs['unsup_student'], samples['unsup_student'])
    assert losses[0]['unsup_loss_cls'] == 0 < losses[1]['unsup_loss_cls']
    for number in (1, 4):
        assert losses[number]['unsup_loss_cls'].item() == pytest.approx(alone['loss_cls'].item() / 4, rel=1e-4)
        assert losses[number]['semi/pseudo_boxes'] == 0
    total(losses[4]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.student.parameters())


@pytest.mark.parametrize('kind', ['ClassFrequency', 'Mixture'])
def test_thresholds_come_from_the_other_images(kind):
    """Known-empty images, here None, do not count in the window."""
    sees, ends = images(40, seed=1), []
    for among in (False, True):
        thresholds = build_thresholds(dict(type=kind, window=32), 3, 6, 0.4)
        thresholds.objects_per_image = torch.tensor([1.0, 0.5, 0.25])
        for image in sees:
            thresholds([None, image, None, None] if among else [image])
        ends.append((thresholds.current.tolist(), thresholds.window.tolist(), int(thresholds.images)))
    assert ends[0] == ends[1] and ends[0][2] == 32


def test_the_detector_leaves_known_empty_images_out_of_the_thresholds(monkeypatch):
    model = build(class_thresholds=dict(type='ClassFrequency', window=4, min_images=1))
    model.class_thresholds.objects_per_image = torch.ones(3)
    teacher_sees(model, [3, 1])
    inputs, samples = batch(2)
    known(samples, [True, False])
    model.get_pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    assert int(model.class_thresholds.images) == 1
    assert [len(view.gt_instances) for view in samples['unsup_teacher']] == [0, 1]


def test_the_collapse_monitor_leaves_known_empty_images_out(logged):
    """Known-empty images do not count as images. 0.5 pseudo-boxes per image are in the band, 3.33 are above it."""
    runner = fake_runner(Listed(OBJECTS), Listed(TRUE))
    hook = CollapseMonitorHook(band=(0.25, 3.0), window=4)
    empty = sample()
    empty.set_metainfo(dict(known_empty=True))
    runner.model.unsup_ramp = 1.0

    def iteration(boxes, *views):
        runner.model.pseudo_labels = [*views]
        hook.after_train_iter(runner, 0, outputs={'semi/pseudo_boxes': torch.tensor(boxes)})

    for _ in range(3):
        iteration(0.0, empty, empty)
    iteration(0.5, empty, sample())
    for _ in range(4):  # a window of known-empty images alone gives no warning
        iteration(0.0, empty, empty)
    assert logged == []
    iteration(4.0, empty, sample())
    iteration(3.0, sample(), sample())
    for _ in range(2):
        iteration(0.0, empty, empty)
    assert len(logged) == 1 and 'Too many pseudo-boxes: 3.33 per image' in logged[0][0]


class Names(Listed):
    """A set with some images that are known to be empty."""

    def __init__(self, images, empty):
        super().__init__(images)
        self.first_readable = SimpleNamespace(known_empty=empty and torch.tensor(empty))


@pytest.mark.parametrize(
    'empty, factor', [(None, 1), ([0, 0, 0, 0, 0], 1), ([1, 0, 0, 0, 0], 1.25), ([1, 1, 1, 0, 0], 1.5), ([1] * 5, 1.5)]
)
def test_thresholds_expect_more_objects_in_images_not_known_to_be_empty(empty, factor):
    """``factor`` raises the objects per image. It is at most 3 / 2: two of three labeled images have objects."""
    thresholds = build_thresholds(dict(type='ClassFrequency'), 3, 6, 0.4)
    runner = fake_runner(Listed(OBJECTS), Names([[]] * 5, empty))
    ClassThresholdsHook().count(SimpleNamespace(class_thresholds=thresholds), runner.train_dataloader.dataset)
    assert thresholds.objects_per_image.tolist() == pytest.approx([2 / 3 * factor, 1 / 3 * factor, 0])


# Config and run


def test_a_missing_meta_key_known_empty_is_an_error(data, tmp_path):
    cfg = load(SHIPPED, data, tmp_path / 'work', **{KNOWN: 'empty.txt'})
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    assert check_config(cfg, data=False) == []
    pack = cfg.train_dataloader.dataset.unlabeled.pipeline[-1].unsup_teacher[-1]
    pack.meta_keys = [key for key in pack.meta_keys if key != 'known_empty']
    [finding] = check_config(cfg, data=False)
    assert finding.level == 'error' and finding.where.endswith('unsup_teacher.1.meta_keys')
    assert 'known_empty' in finding.what


def test_a_detector_that_ignores_known_empty_is_a_warning(data, tmp_path):
    cfg = load('yolov8_semi_bgpenalty_dense.py', data, tmp_path / 'work', **{KNOWN: 'empty.txt'})
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    [finding] = check_config(cfg, data=False)
    assert (finding.level, finding.where) == ('warning', 'train_dataloader.dataset.known_empty')


class Watch(Hook):
    def __init__(self):
        self.seen = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for view in runner.model.pseudo_labels:
            boxes = len(view.gt_instances) + len(view.ignored_instances)
            self.seen.setdefault(os.path.basename(view.img_path), []).append(boxes)


def test_a_run_has_no_pseudo_boxes_in_known_empty_images(data, tmp_path):
    options = {'burn_in': 1, 'train_cfg__max_epochs': 3, 'train_cfg__val_interval': 3, KNOWN: 'empty.txt'}
    # An untrained teacher has low scores. With this threshold all its boxes are at least unsure, and Watch counts them.
    options['model__semi_train_cfg__unsure_thr'] = 0.0
    runner, watch = Runner.from_cfg(load(SHIPPED, data, tmp_path / 'run', **options)), Watch()
    runner.register_hook(watch)
    runner.train()
    empty = {f'unlabeled_{i:03}.png' for i in range(3)}
    assert empty < set(watch.seen) and len(watch.seen) == 10
    assert all((sum(boxes) == 0) is (name in empty) for name, boxes in watch.seen.items())
