"""The shipped config with stronger views: samples and real runs."""

import copy
import json
from pathlib import Path

import mmcv.transforms.loading as loading
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmyolo_bgpenalty import PseudoLabelQualityHook
from mmyolo_bgpenalty.datasets.samplers import SeededIndex
from tests.helpers.tiny import CONFIGS, load, make_images, make_set

VIEWS = 'yolov8_semi_bgpenalty_views.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = make_set(tmp_path_factory.mktemp('set'))
    make_images(root, 'crowded', 6, seed=9, crowd=True)
    empty = json.loads((root / 'crowded.json').read_text())
    empty['annotations'] = [one for one in empty['annotations'] if one['image_id'] != 2]
    (root / 'crowded.json').write_text(json.dumps(empty))
    return root


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmyolo')


def configured(data, work_dir, folder=False, **options):
    cfg = load(
        VIEWS,
        data,
        work_dir,
        burn_in=1,
        lambda_bg_warmup=0,
        train_cfg__max_epochs=3,
        train_cfg__val_interval=10,
        default_hooks__checkpoint__interval=1,
        default_hooks__checkpoint__save_best=None,
        model__semi_train_cfg__class_thresholds=None,
        model__semi_train_cfg__unsure_thr=None,
        model__semi_train_cfg__soft_unsure=False,
        model__semi_train_cfg__pseudo_test_cfg__score_thr=0.0,
        model__semi_train_cfg__pseudo_test_cfg__max_per_img=5,
        **options,
    )
    cfg.train_dataloader.dataset.labeled.ann_file = 'crowded.json'
    if folder:
        dataset = cfg.train_dataloader.dataset
        dataset.unlabeled.update(type='ImageFolderDataset', ann_file='', data_prefix=dict(img='pool'))
    for part in ('val', 'test'):
        cfg[f'{part}_dataloader'] = cfg[f'{part}_evaluator'] = cfg[f'{part}_cfg'] = None
    return cfg


@pytest.fixture(scope='module')
def pool(data):
    """The unlabeled images in a folder with sub-folders. Every second file is broken."""
    for i, file in enumerate(sorted((data / 'images').glob('unlabeled_*'))):
        target = data / f'pool/{i % 3}/{i}.png'
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
        target.with_name(f'{i}_broken.png').write_bytes(b'no picture')
    return data


def test_the_config_differs_from_its_base_only_in_the_views():
    cfg, base = (Config.fromfile(CONFIGS / name).to_dict() for name in (VIEWS, 'yolov8_semi_bgpenalty.py'))
    for key in base.keys() - {'train_dataloader', 'unsup_pipeline'}:
        assert cfg[key] == base[key], key
    one, other = (c['train_dataloader']['dataset']['unlabeled'] for c in (cfg, base))
    assert one.pop('pipeline') != other.pop('pipeline')
    assert cfg['train_dataloader'] == base['train_dataloader']


def test_mosaics_take_partners_only_from_their_own_set(data, tmp_path, monkeypatch):
    cfg = configured(data, tmp_path)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    paths, read = [], loading.fileio.get

    def spy(path, *args, **kwargs):
        paths.append(Path(path).name)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(loading.fileio, 'get', spy)
    for places, name in ((range(6), 'crowded'), (range(6, 16), 'unlabeled')):
        paths.clear()
        for place in places:
            dataset[SeededIndex(place, place)]
        assert len(paths) > len(places) and {path.partition('_')[0] for path in paths} == {name}


def test_labeled_mosaics_keep_crowds_and_take_images_without_boxes(data, tmp_path):
    cfg = configured(data, tmp_path)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    objects = crowds = 0
    for seed in range(30):
        sample = dataset[SeededIndex(seed % 6, seed)]['data_samples']['sup']
        assert sample.mosaic_tiles.shape[1] == 4 and len(sample.mosaic_tiles) >= 1
        objects += len(sample.gt_instances)
        crowds += len(sample.ignored_instances)
        for instances in (sample.gt_instances, sample.ignored_instances):
            boxes = instances.bboxes.tensor
            assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all() and (boxes[:, 2] <= 96).all()
    assert objects > 20 and crowds > 10


def flat(batch):
    """The content of a batch as arrays, by branch and index in the batch."""
    found = {}
    for branch, images in batch['inputs'].items():
        for i, (image, sample) in enumerate(zip(images, batch['data_samples'][branch])):
            if image is None:
                continue
            boxes = sample.gt_instances.bboxes
            found[branch, i] = [image.numpy(), np.asarray(getattr(boxes, 'tensor', boxes)), sample.homography_matrix]
            found[branch, i] += [sample.metainfo.get('mosaic_tiles'), sample.img_path]
    return found


@pytest.mark.parametrize('folder', [False, True])
def test_a_sample_depends_only_on_its_seed(data, pool, tmp_path, folder):
    """Neither the number of workers nor earlier samples matter."""
    cfg = configured(data, tmp_path, folder)

    def loaded(workers):
        loader = Runner.build_dataloader(dict(cfg.train_dataloader, num_workers=workers), seed=4)
        return [flat(batch) for batch in loader]

    alone, together = loaded(0), loaded(2)
    assert len(alone) == len(together) == (10 if folder else 5)
    tiles = 0
    for one, other in zip(alone, together):
        assert one.keys() == other.keys() and len(one) == 6  # two labeled, two unlabeled in two views
        for key, values in one.items():
            tiles += values[3] is not None
            for value, again in zip(values, other[key]):
                assert np.array_equal(value, again), key
    assert 0 < tiles
    again = DATASETS.build(cfg.train_dataloader.dataset)
    first = again[SeededIndex(7, 3)]['inputs']['unsup_student']
    again[SeededIndex(2, 5)]
    assert torch.equal(first, again[SeededIndex(7, 3)]['inputs']['unsup_student'])


def test_unreadable_partner_images_are_replaced(data, pool, tmp_path):
    cfg = configured(data, tmp_path, folder=True)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.unlabeled.pipeline}
    steps['RandomChoice'].prob, steps['RecordedMixUp'].prob = [1.0, 0.0], 1.0
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for seed in range(10):
        sample = dataset[SeededIndex(6, seed)]['data_samples']['unsup_teacher']
        assert sample.img_path.endswith('0.png') and len(sample.mosaic_tiles) > 1
    # About half of the partners are broken.
    assert 5 <= dataset.datasets[1].first_readable.bad.sum() <= 10


class Watch(Hook):
    priority = 'VERY_HIGH'

    def __init__(self):
        self.rows, self.tiles, self.boxes, self.paths = [], dict(sup=[], unsup_teacher=[]), [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.rows.append(float(outputs['loss'].detach()))
        for branch, rows in self.tiles.items():
            samples = data_batch['data_samples'][branch]
            rows += [(runner.epoch, 'mosaic_tiles' in sample.metainfo) for sample in samples if sample is not None]
        self.boxes.append(float(outputs['semi/pseudo_boxes']))
        self.paths += [sample.img_path for sample in data_batch['data_samples']['unsup_student'] if sample]


def train(cfg):
    runner, watch = Runner.from_cfg(copy.deepcopy(cfg)), Watch()
    runner.register_hook(watch)
    runner.train()
    return runner, watch


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    init_default_scope('mmyolo')
    return train(configured(data, tmp_path_factory.mktemp('work'), default_hooks__quality__interval=1))


def test_training_with_strong_views(run):
    runner, watch = run
    assert len(watch.rows) == 15 and np.isfinite(watch.rows).all()
    assert max(watch.boxes[6:]) > 0
    # Labeled images are mosaics until the pipeline is switched. About half of the unlabeled images are mosaics.
    assert all(mosaic == (epoch < 2) for epoch, mosaic in watch.tiles['sup'])
    made = [mosaic for _, mosaic in watch.tiles['unsup_teacher']]
    assert 0.2 < np.mean(made) < 0.9
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'pseudo_recall' in log


def test_workers_and_resuming_change_nothing(run, data, tmp_path):
    original, watch = run
    cfg = configured(data, tmp_path, train_dataloader__num_workers=2, default_hooks__quality__interval=1)
    cfg.load_from, cfg.resume = str(Path(original.work_dir) / 'epoch_2.pth'), True
    runner, resumed = train(cfg)
    assert resumed.rows == watch.rows[10:] and len(resumed.rows) == 5
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, original.model.state_dict()[name]), name


def test_training_on_a_folder(data, pool, tmp_path):
    runner, watch = train(configured(data, tmp_path, folder=True, train_dataloader__num_workers=2))
    assert np.isfinite(watch.rows).all() and runner.train_dataloader.dataset.datasets[1].first_readable.bad.sum() == 10
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert all(log.count(f'/{i}_broken.png cannot be read and is skipped') == 1 for i in range(10))
    files = {str(path) for path in (pool / 'pool').glob('*/?.png')}
    assert len(files) == 10 and set(watch.paths) == files


def test_quality_is_measured_only_on_single_images(run, monkeypatch):
    """The hook knows only the boxes of the first image of a mosaic."""
    runner, _ = run
    hook = PseudoLabelQualityHook()
    hook._truth = {'a.png': np.array([[10, 10, 30, 30, 0, 0]], np.float32)}
    hook._counts = np.zeros((3, 3))
    single, mosaic = (runner.model.pseudo_labels[0].new() for _ in range(2))
    for sample in (single, mosaic):
        sample.set_metainfo(dict(img_path='a.png', homography_matrix=np.eye(3, dtype=np.float32), img_shape=(64, 96)))
        sample.gt_instances = runner.model.pseudo_labels[0].gt_instances[:0]
        sample.pop('mosaic_tiles', None)
    mosaic.set_metainfo(dict(mosaic_tiles=np.zeros((4, 4), np.float32)))
    for samples in ([single], [mosaic]):
        monkeypatch.setattr(runner.model, 'pseudo_labels', samples)
        hook.after_train_iter(runner, 0)
        hook._count()
        assert hook._counts[2].tolist() == [1, 0, 0]
