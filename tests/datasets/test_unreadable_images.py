"""Images that cannot be read: the check before training, the training, and its last line in the log."""

import copy
import errno
import json
import os
import shutil
import threading
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.runner import Runner
from mmyolo.datasets import YOLOv5CocoDataset
from mmyolo.registry import DATASETS
from PIL import Image

from mmyolo_bgpenalty.config_check.files.images import ImageSet, image_faults
from mmyolo_bgpenalty.datasets import unreadable_images
from tests.helpers.changes import edit
from tests.helpers.spoilt import LOAD, PACK, member, pair, spoil
from tests.helpers.tiny import SEMI, SUPERVISED, load

REASONS = {
    'labeled_000': '(empty)',
    'labeled_001': '(truncated JPEG)',
    'labeled_002': '(truncated PNG)',
    'labeled_003': 'No such file',
    'labeled_004': 'it is 64 x 80, but its annotation says 80 x 64; its EXIF orientation may rotate it',
}


@pytest.mark.parametrize('type', ['CheckedCocoDataset', 'YOLOv5CocoDataset', 'mmdet.CocoDataset'])
def test_unreadable_images_are_replaced_by_others_with_their_own_boxes(root, warnings, type):
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
    assert unlabeled.first_readable.bad.sum() == 2


def test_a_truncated_jpeg_that_opencv_decodes_is_skipped(root, warnings, monkeypatch):
    """OpenCV before 5 decodes it."""
    original = Path(root / 'images/labeled_001.png')
    picture = cv2.imread(str(original))
    jpeg = bytes(cv2.imencode('.jpg', picture)[1])
    original.write_bytes(jpeg[: len(jpeg) // 2])
    monkeypatch.setattr('mmcv.imfrombytes', lambda content, **kwargs: picture)
    assert Path(pair(root)[1]['data_samples'].img_path).name == 'labeled_002.png'
    assert 'labeled_001.png cannot be read and is skipped (truncated JPEG)' in warnings[0]


def test_a_file_is_examined_only_before_its_first_load(root, monkeypatch):
    dataset, examined = pair(root), []
    monkeypatch.setattr(unreadable_images, 'image_fault', lambda path, most_pixels: examined.append(path) or '')
    for _ in range(2):
        for place in range(len(dataset)):
            dataset[place]
        assert len(examined) == len(set(examined)) == 16


def test_an_image_of_another_size_is_not_decoded(root, warnings, monkeypatch):
    """One is larger than its json says. The other is huge, and has no boxes, so that its size is not compared."""
    for name, side in (('labeled_000', 12_000), ('unlabeled_000', 20_000)):
        Image.new('1', (side, side)).save(root / f'images/{name}.png')
    edit(root, 'unlabeled', lambda coco: coco.pop('annotations'))
    decoded, decode = [], mmcv.imfrombytes
    monkeypatch.setattr(
        'mmcv.imfrombytes', lambda content, **kwargs: decoded.append(content) or decode(content, **kwargs)
    )
    dataset = pair(root)
    assert [Path(dataset[place]['data_samples'].img_path).name for place in (0, 6)] == [
        'labeled_001.png',
        'unlabeled_001.png',
    ]
    assert len(decoded) == 2
    assert (
        'labeled_000.png cannot be read and is skipped (it is 12000 x 12000, but its annotation says 80 x 64)'
        in warnings[0]
    )
    assert 'unlabeled_000.png cannot be read and is skipped (too large: 20000 x 20000 pixels' in warnings[1]


class LoadHalf(mmcv.transforms.LoadImageFromFile):
    def transform(self, results):
        results = super().transform(results)
        return dict(results, img=results['img'][::2, ::2])


def test_a_loader_of_another_class_may_load_another_size(root, warnings):
    edit(root, 'labeled', lambda coco: [image.update(width=40, height=32) for image in coco['images']])
    dataset = pair(root, pipeline=[LoadHalf(), dict(PACK, meta_keys=('img_path',))])
    assert Path(dataset[0]['data_samples'].img_path).name == 'labeled_000.png' and warnings == []


def test_sizes_do_not_matter_without_boxes(root, warnings):
    edit(root, 'unlabeled', lambda coco: (coco.pop('annotations'), [i.update(width=9) for i in coco['images']]))
    assert Path(pair(root)[6]['data_samples'].img_path).name == 'unlabeled_000.png' and warnings == []


def test_too_many_unreadable_images_in_a_row_are_an_error(root):
    for path in (root / 'images').glob('labeled*'):
        path.unlink()
    dataset = pair(root)
    with pytest.raises(ValueError, match=r'usable images in .*labeled.json, but 6 in a row are not usable: FileNotF'):
        dataset[0]
    assert 'unlabeled_002' in dataset[8]['data_samples'].img_path


class Drive:
    """Loads from a drive that does not answer while ``away`` is True."""

    def __init__(self):
        self.away = False

    def __call__(self, results):
        if self.away:
            raise OSError(errno.EIO, 'Input/output error')
        return dict(results, img=np.zeros((64, 80, 3), np.uint8))


def test_an_image_is_tried_again_after_a_system_error(root, warnings):
    drive = Drive()
    dataset = pair(root, pipeline=[drive, dict(PACK, meta_keys=('img_path',))])
    drive.away = True
    with pytest.raises(ValueError, match='6 in a row are not usable: OSError: .*Input/output error'):
        dataset[0]
    drive.away = False
    assert 'labeled_000' in dataset[0]['data_samples'].img_path
    assert dataset.datasets[0].first_readable.bad.sum() == 0 and len(warnings) == 6


@pytest.mark.parametrize('type', ['CheckedCocoDataset', 'mmdet.CocoDataset'])
def test_a_pipe_in_place_of_an_image_is_not_opened(root, warnings, type):
    """The writer thread waits until somebody opens the pipe to read. A folder is not opened either."""
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
    assert [line.count('cannot be read and is skipped (not a regular file)') for line in warnings] == [1, 1]
    (root / 'images/labeled_000.png').read_bytes()
    writer.join(60)
    assert not writer.is_alive()


def test_check_and_summary_count_all_and_name_the_first_ten(root):
    missing = [f'{root}/images/gone_{i:02}.png' for i in range(15)]
    (finding,) = image_faults(ImageSet('train', 'here', [f'{root}/images/val_000.png', *missing], True))
    assert finding.level == 'warning' and finding.what.startswith('15 of the 16 images looked at cannot be read: ')
    assert [path in finding.what for path in missing] == [True] * 10 + [False] * 5 and finding.what.endswith(', …')
    image = dict(width=80, height=64)
    edit(root, 'val', lambda coco: coco.update(images=[dict(image, id=i, file_name=f'{i}') for i in range(12)]))
    dataset = DATASETS.build(member(root, 'val'))
    dataset.first_readable.bad[1:] = True
    first = ', '.join(f'{root}/images/{i}' for i in range(1, 11))
    assert dataset.first_readable.summary() == f'11 of 12 images in {root}/val.json ({first}, …)'


def test_errors_of_other_transforms_are_raised(root, warnings):
    def wrong(results):
        raise TypeError('of ours')

    for pipeline in ([*LOAD, wrong], [LOAD[0], wrong], [wrong, *LOAD]):
        with pytest.raises(TypeError, match='of ours'):
            pair(root, pipeline=pipeline)[0]
    assert warnings == []


@DATASETS.register_module()
class OwnDataset(CocoDataset):
    """Loads images in its own way."""

    def prepare_data(self, idx):
        return f'{type(self).__name__} {idx}'


def test_a_dataset_with_its_own_way_of_loading_is_left_alone(root):
    dataset = pair(root, type='OwnDataset')
    assert dataset[2] == 'OwnDataset 2' and dataset[9] == 'OwnDataset 3'


def test_subsets_skip_unreadable_images_and_test_mode_raises_an_error(root):
    spoil(root)
    dataset = DATASETS.build(member(root, 'labeled'))
    assert isinstance(dataset, YOLOv5CocoDataset)
    subset = dataset.get_subset([3, 5, 4])
    assert [Path(subset[i]['data_samples'].img_path).stem for i in range(3)] == ['labeled_005'] * 3
    assert subset.first_readable.bad.sum() == 2 and dataset.first_readable.bad.sum() == 0
    dataset.get_subset_([0, 5])
    assert Path(dataset[0]['data_samples'].img_path).stem == 'labeled_005' and dataset.first_readable.bad.sum() == 1
    testing = DATASETS.build(member(root, 'labeled', test_mode=True))
    assert Path(testing[5]['data_samples'].img_path).stem == 'labeled_005'
    with pytest.raises(FileNotFoundError):
        testing[3]


def test_a_file_name_that_is_not_utf8_is_escaped_in_the_log(root, warnings):
    edit(root, 'labeled', lambda coco: coco['images'][0].update(file_name='\udce9.png'))
    dataset = pair(root)
    assert Path(dataset[0]['data_samples'].img_path).name == 'labeled_001.png'
    assert r'images/\udce9.png cannot be read and is skipped' in warnings[0]
    assert r'images/\udce9.png' in dataset.datasets[0].first_readable.summary()


PLAN = dict(train_cfg__max_epochs=2, train_cfg__val_interval=10, default_hooks__checkpoint__save_best=None)


def train(cfg):
    cfg.visualizer.name = cfg.work_dir
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, next(Path(runner.log_dir).glob('*.log')).read_text()


def test_training_skips_unreadable_images_and_logs_them(root, tmp_path):
    """The log names them before training, once during training (not once per worker), and at the end."""
    broken = spoil(root)
    cfg = load(SEMI, root, tmp_path / 'work', burn_in=1, train_dataloader__num_workers=2, **PLAN)
    runner, log = train(cfg)
    lines = [line.partition(' - WARNING - ')[2] for line in log.splitlines() if ' - WARNING - ' in line]
    assert runner.iter == 10
    before = [line for line in lines if 'images looked at cannot be read' in line]
    assert len(before) == 2 and 'labeled: 4 of the 6 images' in before[0] and 'unlabeled: 1 of the 10' in before[1]
    assert '/labeled_000.png (empty)' in before[0] and '/labeled_001.png (truncated JPEG' in before[0]
    for name in broken:
        assert sum(f'/{name}.png cannot be read and is skipped' in line for line in lines) == 1
    assert lines[-1].startswith(
        f'Training has skipped 5 of 6 images in {root}/labeled.json ({root}/images/labeled_000.'
    )
    assert lines[-1].endswith(
        f'; 2 of 10 images in {root}/unlabeled.json ({root}/images/unlabeled_003.png, {root}/images/unlabeled_004.png)'
    )


def test_a_supervised_run_with_mosaics_skips_unreadable_images(root, tmp_path):
    broken = spoil(root)
    shutil.copy(root / 'images/labeled_005.png', root / 'images/labeled_003.png')
    cfg = load(SUPERVISED, root, tmp_path / 'work', burn_in=0, train_dataloader__batch_size=2, **PLAN)
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


def test_training_does_not_begin_if_a_set_is_unreadable(root, tmp_path):
    """All labeled images are missing, and a broken validation image would end the run hours later."""
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
