"""Labeled and unlabeled images as one dataset."""

import json
import shutil

import mmcv
import pytest
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope

from mmyolo_bgpenalty import RecordedLetterResize
from mmyolo_bgpenalty.datasets.labeled_unlabeled import leaves_of
from mmyolo_bgpenalty.datasets.samplers import SeededIndex
from tests.helpers.tiny import SEMI, load


@pytest.fixture
def cfg(data, tmp_path):
    init_default_scope('mmyolo')
    return load(SEMI, data, tmp_path)


def test_training_does_not_read_the_boxes_of_unlabeled_images(cfg):
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.datasets[1].get_data_info(0)['instances']
    samples = dataset[len(dataset.datasets[0])]['data_samples']
    assert samples['sup'] is None
    for branch in ('unsup_teacher', 'unsup_student'):
        assert len(samples[branch].gt_instances) == 0


@pytest.mark.parametrize('serialize_data', [True, False])
@pytest.mark.parametrize('name', ['labeled', 'unlabeled'])
def test_an_empty_set_is_named(cfg, name, serialize_data):
    cfg.train_dataloader.dataset[name].update(filter_cfg=dict(min_size=99), serialize_data=serialize_data)
    with pytest.raises(ValueError, match=f'`{name}` set: Expected images in .*{name}.json, but none is left'):
        DATASETS.build(cfg.train_dataloader.dataset)


def test_the_unlabeled_json_needs_no_boxes(cfg, data, tmp_path):
    content = json.loads((data / 'unlabeled.json').read_text())
    del content['annotations']
    (tmp_path / 'bare.json').write_text(json.dumps(content))
    cfg.train_dataloader.dataset.unlabeled.ann_file = str(tmp_path / 'bare.json')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset.datasets[1]) == 10
    assert dataset[6]['inputs']['unsup_student'].shape == (3, 64, 96)


def test_the_solar_set_refuses_a_folder_with_other_data(cfg):
    for name in ('labeled', 'unlabeled'):
        cfg.train_dataloader.dataset[name].type = 'SolarPanelDataset'
    with pytest.raises(ValueError, match="not a generated set.*For your own data, use `type='CheckedCocoDataset'`"):
        DATASETS.build(cfg.train_dataloader.dataset)


def test_labels_of_other_classes_are_named(cfg):
    for name in ('labeled', 'unlabeled'):
        cfg.train_dataloader.dataset[name].metainfo.classes = ('cat', 'dog', 'cow')
    with pytest.raises(ValueError, match="'cat'.*labeled.json.*'square', 'disc', 'bar'"):
        DATASETS.build(cfg.train_dataloader.dataset)


def test_mmdetections_pipeline_switch_reaches_the_labeled_images(cfg):
    """PipelineSwitchHook sets `pipeline` of the dataset in the loader."""
    from mmcv.transforms import Compose

    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    unlabeled = dataset.datasets[1].pipeline
    switched = Compose([lambda results: 'switched'])
    dataset.pipeline = switched
    assert dataset.pipeline is switched and dataset[0] == 'switched'
    assert dataset.datasets[1].pipeline is unlabeled


def test_both_views_come_from_one_decoded_image(cfg, monkeypatch):
    calls = []
    for owner, name in ((mmcv, 'imfrombytes'), (RecordedLetterResize, 'transform')):
        original = getattr(owner, name)

        def counted(*args, _name=name, _original=original, **kwargs):
            calls.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for index, branches in ((0, {'sup'}), (6, {'unsup_teacher', 'unsup_student'})):
        calls.clear()
        inputs = dataset[index]['inputs']
        assert {branch for branch, image in inputs.items() if image is not None} == branches
        assert calls == ['imfrombytes', 'transform']


def wrapped(kind, inner):
    options = dict(RepeatDataset=dict(times=3), ClassBalancedDataset=dict(oversample_thr=0.9))
    if kind == 'ConcatDataset':
        return dict(type=kind, datasets=[inner, dict(inner, indices=3)])
    return dict(type=kind, dataset=inner, **options[kind])


@pytest.mark.parametrize('kind', ['RepeatDataset', 'ClassBalancedDataset', 'ConcatDataset'])
def test_wrappers_give_the_images_of_their_datasets(cfg, kind):
    node = cfg.train_dataloader.dataset
    plain = DATASETS.build(node)
    node.labeled, node.unlabeled = wrapped(kind, node.labeled), wrapped('RepeatDataset', node.unlabeled)
    dataset = DATASETS.build(node)
    labeled, unlabeled = dataset.datasets
    assert len(labeled) == dict(RepeatDataset=18, ConcatDataset=9).get(kind, len(labeled)) > 6
    assert len(unlabeled) == 30 and len(dataset) == len(labeled) + 30
    last = plain[SeededIndex(15, 7)]['inputs']['unsup_student']
    assert dataset[SeededIndex(len(dataset) - 1, 7)]['inputs']['unsup_student'].equal(last)
    first = plain[SeededIndex(0, 7)]['inputs']['sup']
    assert dataset[SeededIndex(0, 7)]['inputs']['sup'].equal(first)
    dataset.pipeline = plain.datasets[1].pipeline
    assert all(leaf.pipeline is dataset.pipeline for leaf in leaves_of(labeled))


def test_a_wrapped_set_is_searched_for_objects_only_to_the_first(cfg, monkeypatch):
    node, looked = cfg.train_dataloader.dataset, []
    get = BaseDataset.get_data_info
    monkeypatch.setattr(BaseDataset, 'get_data_info', lambda self, i: looked.append(i) or get(self, i))
    node.labeled = dict(type='RepeatDataset', dataset=node.labeled, times=1000)
    DATASETS.build(node)
    assert len(looked) <= 6


def test_a_wrapped_set_without_objects_is_named(cfg, data, tmp_path):
    content = json.loads((data / 'labeled.json').read_text())
    for annotation in content['annotations']:
        annotation['iscrowd'] = 1
    (tmp_path / 'crowds.json').write_text(json.dumps(content))
    node = cfg.train_dataloader.dataset
    node.labeled.ann_file = str(tmp_path / 'crowds.json')
    node.labeled = dict(type='RepeatDataset', dataset=node.labeled, times=2)
    crowds = len(content['annotations'])
    with pytest.raises(ValueError, match=f'in .*crowds.json, but found none, only {crowds} crowds'):
        DATASETS.build(node)


def test_sets_in_mmdetections_concat_dataset_may_have_other_palettes(cfg):
    node = cfg.train_dataloader.dataset
    palette = dict(metainfo=dict(node.labeled.metainfo, palette=[(0, 0, 9)] * 3))
    node.labeled = dict(type='mmdet.ConcatDataset', datasets=[node.labeled, dict(node.labeled, **palette)])
    assert len(DATASETS.build(node).datasets[0]) == 12


def test_an_unreadable_image_in_a_wrapper_is_replaced(cfg, data, tmp_path):
    shutil.copytree(data, tmp_path / 'set')
    (tmp_path / 'set/images/unlabeled_000.png').write_bytes(b'no picture')
    node = cfg.train_dataloader.dataset
    node.unlabeled.data_root = f'{tmp_path}/set/'
    node.unlabeled = wrapped('ConcatDataset', node.unlabeled)
    dataset = DATASETS.build(node)
    assert dataset[6]['data_samples']['unsup_student'].img_path.endswith('unlabeled_001.png')
    assert 'unlabeled_000.png' in next(leaves_of(dataset.datasets[1])).first_readable.summary()
