"""Labeled and unlabeled images as one dataset."""

import json

import mmcv
import pytest
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from mmyolo_bgpenalty import RecordedLetterResize
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
