"""Images that cannot be read and sets with mistakes, from the check before training to its last line."""

import copy
import errno
import json
import logging
import os
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmyolo.datasets import YOLOv5CocoDataset
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty import CheckedCocoDataset
from mmyolo_bgpenalty.config_check.files import image_faults
from tests.helpers.tiny import CLASSES, SEMI, SUPERVISED, load, make_set

LOAD = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]
PACK = dict(type='mmdet.PackDetInputs', meta_keys=('img_path', 'img_id', 'ori_shape'))
PLAIN = [*LOAD, PACK]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp('set'))


@pytest.fixture
def root(data, tmp_path):
    """A set to spoil."""
    init_default_scope('mmyolo')
    return shutil.copytree(data, tmp_path / 'set')


@pytest.fixture
def warnings():
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def edit(root, name, change):
    coco = json.loads((root / f'{name}.json').read_text())
    change(coco)
    (root / f'{name}.json').write_text(json.dumps(coco))


def member(root, name, type='CheckedCocoDataset', pipeline=PLAIN, **kwargs):
    return dict(
        type=type,
        data_root=f'{root}/',
        ann_file=f'{name}.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=pipeline,
        **kwargs,
    )


def pair(root, **kwargs):
    return DATASETS.build(
        dict(
            type='LabeledUnlabeledDataset',
            labeled=member(root, 'labeled', **kwargs),
            unlabeled=member(root, 'unlabeled', **kwargs),
        )
    )


def spoil(root):
    """One labeled image after the other broken in its own way, the last not; and some unlabeled ones."""
    images = root / 'images'
    picture = cv2.imread(str(images / 'labeled_000.png'))
    (images / 'labeled_000.png').write_bytes(b'')
    # In the middle: OpenCV before 5 would decode the upper half, and leave the rest grey.
    jpeg = bytes(cv2.imencode('.jpg', cv2.imread(str(images / 'labeled_001.png')))[1])
    (images / 'labeled_001.png').write_bytes(jpeg[: len(jpeg) // 2])
    (images / 'labeled_002.png').write_bytes((images / 'labeled_002.png').read_bytes()[:300])
    (images / 'labeled_003.png').unlink()
    cv2.imwrite(str(images / 'labeled_004.png'), np.ascontiguousarray(picture.transpose(1, 0, 2)))
    (images / 'unlabeled_003.png').write_text('<html>404</html>')
    (images / 'unlabeled_004.png').unlink()
    return {f'labeled_00{i}' for i in range(5)} | {'unlabeled_003', 'unlabeled_004'}


REASONS = {
    'labeled_000': '(empty)',
    'labeled_001': '(cut off: a JPEG without its end)',
    'labeled_002': 'failed to load',
    'labeled_003': 'No such file',
    'labeled_004': 'it is 64 x 80, but its annotation says 80 x 64; its EXIF may turn it',
}


@pytest.mark.parametrize('type', ['CheckedCocoDataset', 'YOLOv5CocoDataset', 'mmdet.CocoDataset'])
def test_images_that_cannot_be_read_give_way_to_others_with_their_own_boxes(root, warnings, type):
    broken, dataset = spoil(root), pair(root, type=type)
    true = {}
    for name in ('labeled', 'unlabeled'):
        coco = json.loads((root / f'{name}.json').read_text())
        for image in coco['images']:
            own = [a for a in coco['annotations'] if a['image_id'] == image['id']]
            true[Path(image['file_name']).stem] = sorted((*a['bbox'][:2], a['category_id'] - 1) for a in own)
    seen = []
    for _ in range(2):
        for place in range(len(dataset)):
            sample = dataset[place]['data_samples']
            name = Path(sample.img_path).stem
            objects = sample.gt_instances
            rows = zip(objects.bboxes.tensor[:, :2].tolist(), objects.labels.tolist())
            assert sorted((*corner, label) for corner, label in rows) == true[name]
            assert name not in broken and name.partition('_')[0] == ('labeled' if place < 6 else 'unlabeled')
            seen.append(name)
    assert seen[:6] == ['labeled_005'] * 6 and seen[6:16].count('unlabeled_005') == 3 and seen[:16] == seen[16:]
    assert len(warnings) == len(broken) and all(any(f'{name}.png' in line for line in warnings) for name in broken)
    for name, reason in REASONS.items():
        (line,) = [line for line in warnings if f'/{name}.png' in line]
        assert f'/{name}.png cannot be read and is skipped (' in line and reason in line
    labeled, unlabeled = dataset.datasets
    assert labeled.first_readable.summary().startswith(
        f'5 of 6 images in {root}/labeled.json ({root}/images/labeled_000'
    )
    assert unlabeled.first_readable.unreadable == 2


def test_a_jpeg_that_is_cut_off_is_not_learnt_though_it_decodes(root, warnings, monkeypatch):
    """As OpenCV before 5 does."""
    original = Path(root / 'images/labeled_001.png')
    picture = cv2.imread(str(original))
    jpeg = bytes(cv2.imencode('.jpg', picture)[1])
    original.write_bytes(jpeg[: len(jpeg) // 2])
    monkeypatch.setattr('mmcv.imfrombytes', lambda content, **kwargs: picture)
    assert Path(pair(root)[1]['data_samples'].img_path).name == 'labeled_002.png'
    assert 'labeled_001.png cannot be read and is skipped (cut off: a JPEG without its end)' in warnings[0]


def test_sizes_do_not_matter_where_there_are_no_boxes(root, warnings):
    edit(root, 'unlabeled', lambda coco: (coco.pop('annotations'), [i.update(width=9) for i in coco['images']]))
    dataset = pair(root)
    assert [Path(dataset[place]['data_samples'].img_path).name for place in (6, 15)] == [
        'unlabeled_000.png',
        'unlabeled_009.png',
    ]
    assert warnings == []


def test_nothing_readable_ends_with_an_error(root):
    for path in (root / 'images').glob('labeled*'):
        path.unlink()
    dataset = pair(root)
    with pytest.raises(ValueError, match=r'images that can be read in .*labeled.json, but 6 in a row cannot: FileNotF'):
        dataset[0]
    assert 'unlabeled_002' in dataset[8]['data_samples'].img_path


class Drive:
    """A loader from a drive that is away for a while."""

    def __init__(self):
        self.away = False

    def __call__(self, results):
        if self.away:
            raise OSError(errno.EIO, 'Input/output error')
        return dict(results, img=np.zeros((64, 80, 3), np.uint8))


def test_what_the_system_could_not_read_is_tried_again(root, warnings):
    drive = Drive()
    dataset = pair(root, pipeline=[drive, dict(PACK, meta_keys=('img_path',))])
    drive.away = True
    with pytest.raises(ValueError, match='6 in a row cannot: OSError: .*Input/output error'):
        dataset[0]
    drive.away = False
    assert 'labeled_000' in dataset[0]['data_samples'].img_path
    assert dataset.datasets[0].first_readable.unreadable == 0 and len(warnings) == 6


@pytest.mark.parametrize('type', ['CheckedCocoDataset', 'mmdet.CocoDataset'])
def test_a_pipe_in_place_of_an_image_is_not_waited_at(root, warnings, type):
    """Nor a folder. Were the pipe opened, the other end of a thread would open too."""
    (root / 'images/labeled_000.png').unlink()
    os.mkfifo(root / 'images/labeled_000.png')
    (root / 'images/labeled_001.png').unlink()
    (root / 'images/labeled_001.png').mkdir()
    opened = []
    writer = threading.Thread(target=lambda: opened.append((root / 'images/labeled_000.png').write_bytes(b'')))
    writer.daemon = True
    writer.start()
    sample = pair(root, type=type)[0]['data_samples']
    assert Path(sample.img_path).name == 'labeled_002.png' and opened == []
    assert [line.count('cannot be read and is skipped (no file)') for line in warnings] == [1, 1]
    (root / 'images/labeled_000.png').read_bytes()
    writer.join(60)
    assert not writer.is_alive()


def test_scan_and_total_count_and_name_the_first_ten(root):
    missing = [f'{root}/images/gone_{i:02}.png' for i in range(15)]
    (finding,) = image_faults('here', [f'{root}/images/val_000.png', *missing], True)
    assert finding.level == 'warning' and finding.what.startswith('15 of the 16 images looked at cannot be read: ')
    assert [path in finding.what for path in missing] == [True] * 10 + [False] * 5 and finding.what.endswith(', …')
    edit(
        root,
        'val',
        lambda coco: coco.update(images=[dict(coco['images'][0], id=i, file_name=f'{i}') for i in range(16)]),
    )
    dataset = DATASETS.build(member(root, 'val'))
    dataset.first_readable.bad[1:] = True
    assert dataset.first_readable.summary() == (
        f'15 of 16 images in {root}/val.json ({", ".join(f"{root}/images/{i}" for i in range(1, 11))}, …)'
    )


def test_only_loading_may_fail(root, warnings):
    def wrong(results):
        raise TypeError('of ours')

    for pipeline in ([*LOAD, wrong], [LOAD[0], wrong]):
        with pytest.raises(TypeError, match='of ours'):
            pair(root, pipeline=pipeline)[0]
    assert warnings == []


@DATASETS.register_module()
class OwnDataset(CocoDataset):
    """Loads in a way of its own."""

    def prepare_data(self, idx):
        return f'{type(self).__name__} {idx}'


def test_a_dataset_that_loads_in_its_own_way_does_so(root):
    dataset = pair(root, type='OwnDataset')
    assert dataset[2] == 'OwnDataset 2' and dataset[9] == 'OwnDataset 3'


def test_subsets_and_testing(root):
    spoil(root)
    dataset = DATASETS.build(member(root, 'labeled'))
    assert isinstance(dataset, YOLOv5CocoDataset)
    subset = dataset.get_subset([3, 5, 4])
    assert [Path(subset[i]['data_samples'].img_path).stem for i in range(3)] == ['labeled_005'] * 3
    assert subset.unreadable == 2 and dataset.unreadable == 0
    dataset.get_subset_([0, 5])
    assert Path(dataset[0]['data_samples'].img_path).stem == 'labeled_005' and dataset.unreadable == 1
    testing = DATASETS.build(member(root, 'labeled', test_mode=True))
    assert Path(testing[5]['data_samples'].img_path).stem == 'labeled_005'
    with pytest.raises(FileNotFoundError):
        testing[3]


# Mistakes in the json


def repeat(name):
    return lambda coco: coco[name].append(dict(coco[name][0]))


MISTAKES = {
    'image twice': (repeat('images'), '`images` has the id 0 2 times'),
    'category twice': (repeat('categories'), '`categories` has the id 1 2 times'),
    'annotation twice': (repeat('annotations'), '`annotations` has the id 1 2 times'),
    'unknown category': (
        lambda coco: [a.update(category_id=7) for a in coco['annotations'][2:4]],
        '`annotations[2].category_id` is 7, which is not there (and 1 more: 3)',
    ),
    'unknown image': (
        lambda coco: coco['annotations'][0].update(image_id='0'),
        "`annotations[0].image_id` is '0', which is not there",
    ),
    'negative size': (
        lambda coco: coco['annotations'][0].update(bbox=[1, 1, -5, 5]),
        '`annotations[0].bbox` is [1, 1, -5, 5]; expected [x, y, width, height]',
    ),
    'no number': (
        lambda coco: coco['annotations'][0].update(bbox=[1, 1, float('nan'), 5]),
        '`annotations[0].bbox` is [1, 1, nan, 5]; expected',
    ),
    'endless': (
        lambda coco: coco['annotations'][0].update(bbox=[1, float('-inf'), 5, 5]),
        '`annotations[0].bbox` is [1, -inf, 5, 5]; expected',
    ),
    'crowd in words': (
        lambda coco: coco['annotations'][0].update(iscrowd='false'),
        "`annotations[0].iscrowd` is 'false'; expected 0 or 1",
    ),
    'no images': (lambda coco: coco.update(images=[], annotations=[]), '`images` is empty'),
}


@pytest.mark.parametrize('name', ['labeled', 'unlabeled'])
@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_set_with_a_mistake_is_not_built(root, mistake, name):
    change, message = MISTAKES[mistake]
    edit(root, name, change)
    file = f'{root}/{name}.json'
    for build in (lambda: pair(root, type='YOLOv5CocoDataset'), lambda: DATASETS.build(member(root, name))):
        with pytest.raises(ValueError) as caught:
            build()
        assert f'{file}: {message}' in str(caught.value)
    with pytest.raises(ValueError, match=f'`{name}` set: {file}: '):
        pair(root)


def test_classes_that_would_be_counted_otherwise_are_refused(root):
    """Without disc bar would have its label, silently."""

    def drop(coco):
        coco['categories'].pop(1)
        coco['annotations'] = [a for a in coco['annotations'] if a['category_id'] != 2]

    assert len(CheckedCocoDataset(**{k: v for k, v in member(root, 'val').items() if k != 'type'})) == 4
    edit(root, 'val', drop)
    with pytest.raises(
        ValueError, match=r"val.json to have the categories .*lacks \['disc'\]: the labels of the classes"
    ):
        DATASETS.build(member(root, 'val'))
    # The last one may be lacking, and all of them where there are no boxes.
    edit(root, 'val', lambda coco: coco['annotations'].clear())
    assert len(DATASETS.build(member(root, 'val'))) == 4
    edit(root, 'unlabeled', lambda coco: [c.update(name=f'{c["id"]}') for c in coco['categories']])
    assert len(pair(root)) == 16


@pytest.mark.parametrize('name', ['labeled', 'unlabeled'])
def test_classes_in_another_order_are_refused(root, name):
    """MMDetection numbers labels by the json: discs would be called squares, or, in one set, be learnt as squares."""
    edit(root, name, lambda coco: coco['categories'].insert(0, coco['categories'].pop(1)))
    message = rf"{name}.json to have the categories .*in the order \['disc', 'square', 'bar'\], by which"
    with pytest.raises(ValueError, match=message):
        pair(root, type='YOLOv5CocoDataset')
    with pytest.raises(ValueError, match=message):
        DATASETS.build(member(root, name))
    ordered = DATASETS.build(dict(member(root, name), metainfo=dict(classes=('disc', 'square', 'bar'))))
    coco = json.loads((root / f'{name}.json').read_text())
    first = next(a for a in coco['annotations'] if a['image_id'] == 0)
    assert ordered.get_data_info(0)['instances'][0]['bbox_label'] == [2, 1, 3].index(first['category_id'])
    edit(root, 'unlabeled', lambda coco: coco['annotations'].clear())  # nothing can be wrong then
    assert name == 'labeled' or len(pair(root)) == 16


def test_a_filter_that_leaves_nothing_is_named(root):
    with pytest.raises(ValueError, match=r"images in .*labeled.json, but filter_cfg={'min_size': 99} leaves none"):
        DATASETS.build(dict(member(root, 'labeled'), filter_cfg=dict(min_size=99)))


def test_a_file_whose_name_is_no_text_can_be_warned_of(root, warnings):
    edit(root, 'labeled', lambda coco: coco['images'][0].update(file_name='\udce9.png'))
    dataset = pair(root)
    assert Path(dataset[0]['data_samples'].img_path).name == 'labeled_001.png'
    assert r'images/\udce9.png cannot be read and is skipped' in warnings[0]
    assert r'images/\udce9.png' in dataset.datasets[0].first_readable.summary()


def test_a_json_in_another_encoding_is_read(root):
    """pycocotools reads as the locale says."""
    text = (root / 'val.json').read_text()
    (root / 'val.json').write_bytes(text.encode('utf-8-sig'))
    assert len(DATASETS.build(member(root, 'val'))) == 4


# Runs


def train(cfg):
    cfg.visualizer.name = cfg.work_dir
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, next(Path(runner.log_dir).glob('*.log')).read_text()


def test_training_goes_on_without_them_and_says_so(root, tmp_path):
    """Before it starts, while it runs, once a file whichever worker meets it, and at its end."""
    broken = spoil(root)
    cfg = load(
        SEMI,
        root,
        tmp_path / 'work',
        burn_in=1,
        train_cfg__max_epochs=3,
        train_cfg__val_interval=10,
        default_hooks__checkpoint__save_best=None,
        train_dataloader__num_workers=2,
    )
    runner, log = train(cfg)
    lines = [line.partition(' - WARNING - ')[2] for line in log.splitlines() if ' - WARNING - ' in line]
    assert runner.iter == 15
    before = [line for line in lines if 'images looked at cannot be read' in line]
    assert len(before) == 2 and 'labeled: 3 of the 6 images' in before[0] and 'unlabeled: 1 of the 10' in before[1]
    assert '/labeled_000.png (empty)' in before[0] and '/labeled_001.png (cut off: a JPEG' in before[0]
    for name in broken:
        assert sum(f'/{name}.png cannot be read and is skipped' in line for line in lines) == 1
    assert lines[-1].startswith(
        f'Training has skipped 5 of 6 images in {root}/labeled.json ({root}/images/labeled_000.'
    )
    assert lines[-1].endswith(
        f'; 2 of 10 images in {root}/unlabeled.json ({root}/images/unlabeled_003.png, {root}/images/unlabeled_004.png)'
    )


def test_a_supervised_run_with_mosaics_goes_on_too(root, tmp_path):
    broken = spoil(root)
    shutil.copy(root / 'images/labeled_005.png', root / 'images/labeled_003.png')
    cfg = load(
        SUPERVISED,
        root,
        tmp_path / 'work',
        burn_in=0,
        train_cfg__max_epochs=2,
        train_cfg__val_interval=10,
        default_hooks__checkpoint__save_best=None,
        train_dataloader__batch_size=2,
    )
    cfg.train_dataloader.dataset.type = 'CheckedCocoDataset'
    _, log = train(cfg)
    for name in broken:
        skipped = log.count(f'/{name}.png cannot be read and is skipped')
        assert skipped == (name.startswith('labeled') and name != 'labeled_003')
    assert 'Training has skipped 4 of 6 images' in log.splitlines()[-1]


@pytest.mark.parametrize('type', ['YOLOv5CocoDataset', 'CheckedCocoDataset'])
def test_a_supervised_run_without_boxes_does_not_begin(root, tmp_path, type):
    cfg = load(SUPERVISED, root, tmp_path / 'work')
    cfg.train_dataloader.dataset.type = type
    edit(root, 'labeled', lambda coco: coco['annotations'].clear())
    with pytest.raises(ValueError, match='train_dataloader.dataset: none of its images has a box of its classes'):
        train(cfg)


def test_nothing_is_trained_where_nothing_can_be(root, tmp_path):
    """Labeled images that are elsewhere, and a validation set that would end a run hours later."""
    cfg = load(SEMI, root, tmp_path / 'work')
    (root / 'images/val_001.png').write_bytes(b'')
    for path in (root / 'images').glob('labeled*'):
        path.unlink()
    with pytest.raises(ValueError) as caught:
        train(copy.deepcopy(cfg))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith('train_dataloader.dataset.labeled: 6 of the 6 images looked at cannot be read: ')
    assert lines[2].startswith('val_dataloader.dataset: 1 of the 4 images looked at cannot be read: ')
    assert 'val_001.png (empty)' in lines[2]
