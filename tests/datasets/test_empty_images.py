"""Images that are known to show no object, as a source of their own."""

import json
import os

import pytest
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty import EmptyImageDataset, branch_collate
from mmyolo_bgpenalty.datasets.empty_images import empty_images
from tests.helpers.tiny import SEMI, load, make_images, make_set


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = make_set(tmp_path_factory.mktemp('set'))
    make_images(root, 'good', 5, seed=7)
    content = json.loads((root / 'good.json').read_text())
    (root / 'good.json').write_text(json.dumps(dict(content, annotations=[], categories=[])))
    (root / 'good.txt').write_text('good_001.png\n\ngood_003.png\n')
    (root / 'folders.txt').write_text('../folder/\ngood_001.png')
    (root / 'folder/below').mkdir(parents=True)
    for place, name in enumerate(('folder/a.png', 'folder/below/b.png')):
        os.link(root / f'images/good_00{place}.png', root / name)
    return root


def dataset(root, source, **kwargs):
    pipeline = [dict(type='LoadImageFromFile')]
    return EmptyImageDataset(
        source=source, data_root=f'{root}/', data_prefix=dict(img='images/'), pipeline=pipeline, **kwargs
    )


@pytest.mark.parametrize(
    'source, names',
    [
        ('folder', ['folder/a.png', 'folder/below/b.png']),
        ('good.json', [f'images/good_00{i}.png' for i in range(5)]),
        ('good.txt', ['images/good_001.png', 'images/good_003.png']),
        ('folders.txt', ['folder/a.png', 'folder/below/b.png', 'images/good_001.png']),
        (['good.txt', 'folder/', 'good.json'], None),
    ],
)
def test_sources(data, source, names):
    found = dataset(data, source)
    paths = [os.path.relpath(found.get_data_info(i)['img_path'], data) for i in range(len(found))]
    if names is None:  # an image that is named twice counts once
        first = ['images/good_001.png', 'images/good_003.png', 'folder/a.png', 'folder/below/b.png']
        names = first + [f'images/good_00{i}.png' for i in (0, 2, 4)]
    assert paths == names
    results = found.first_readable(0, found.pipeline.transforms)
    assert results['known_empty'] is True and results['instances'] == [] and results['img'].shape == (64, 80, 3)


def test_a_subset(data):
    assert len(dataset(data, 'good.json', indices=2)) == 2


@pytest.mark.parametrize(
    'source, message',
    [
        (3, 'Expected a folder, a json or text file, or a list of these, but got 3'),
        ([], r'but got \[\]'),
        (['good.txt', 4], 'or a list of these, but got'),
        ('', 'or a list of these, but got'),
        ('nothing', 'nothing: no such file or folder'),
        ('nothing.json', 'nothing.json: no such file'),
        ('images/good_000.png', 'is not UTF-8 text'),
        ('labeled.json', r'labeled.json: expected images without boxes, but 6 of 6 have boxes, the first labeled_000'),
        ('list.json', 'list.json: expected a COCO set with `images`'),
        ('names.json', r'names.json: expected `images\[1\].file_name` to be a name, but got 5'),
        ('none', 'Expected images .* in .*none, but found none'),
    ],
)
def test_bad_sources_are_refused(data, source, message):
    (data / 'list.json').write_text('[1]')
    (data / 'names.json').write_text('{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": 5}]}')
    (data / 'none').mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=message):
        dataset(data, source)
    with pytest.raises(ValueError, match=message):
        empty_images(source, f'{data}/', f'{data}/images/')


def built(root, tmp_path, **options):
    cfg = load(SEMI, root, tmp_path, **options)
    return DATASETS.build(cfg.train_dataloader.dataset)


def test_a_source_beside_labeled_and_unlabeled_images(data, tmp_path):
    found = built(data, tmp_path, train_dataloader__dataset__empty='good.txt')
    assert found.sources == ['labeled', 'unlabeled', 'empty'] and [*map(len, found.datasets)] == [6, 10, 2]
    sample = found[16]['data_samples']
    assert [name for name, view in sample.items() if view is not None] == ['bg']
    assert sample['bg'].metainfo['known_empty'] and not len(sample['bg'].gt_instances)


def test_names_below_a_relative_data_root(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    options = {f'train_dataloader__dataset__{name}__data_root': f'{data.name}/' for name in ('labeled', 'unlabeled')}
    found = built(data, tmp_path, train_dataloader__dataset__empty='good.txt', **options)
    assert os.path.samefile(found.datasets[2].get_data_info(0)['img_path'], data / 'images/good_001.png')


def test_views_of_older_configs_name_no_branch_for_empty_images(data, tmp_path):
    found = built(data, tmp_path)
    found.datasets[1].pipeline.transforms[-1].branch_field.remove('bg')
    batch = branch_collate([found[0], found[6]])
    assert batch['inputs']['bg'] == [None, None] and batch['inputs']['sup'][1] is None


def test_without_unlabeled_images(data, tmp_path):
    found = built(data, tmp_path, train_dataloader__dataset__unlabeled=None, train_dataloader__dataset__empty='folder')
    assert found.sources == ['labeled', 'empty'] and len(found) == 8


def test_a_mistake_in_the_pipeline_is_found_without_a_source(data, tmp_path):
    pipeline = [dict(type='mmdet.RandomFlip', prob=0.5, directon='vertical')]
    with pytest.raises(TypeError, match='directon'):
        built(data, tmp_path, train_dataloader__dataset__empty_pipeline=pipeline)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(empty='labeled.json'), '`empty` set: .*labeled.json: expected images without boxes'),
        (dict(empty=3), '`empty`: Expected a folder'),
        (dict(unlabeled=None, known_empty='a.txt'), 'Expected an `unlabeled` set for `known_empty`'),
    ],
)
def test_a_bad_setting_is_named(data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        built(data, tmp_path, **{f'train_dataloader__dataset__{name}': value for name, value in options.items()})
