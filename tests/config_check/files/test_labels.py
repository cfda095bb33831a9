import shutil

import cv2
import pytest
import torch
from mmdet.datasets import CocoDataset

from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.config_check.files import images, labels
from mmyolo_bgpenalty.config_check.findings import run_checks
from mmyolo_bgpenalty.config_check.parts import ConfigParts
from tests.helpers.changes import DELETED, change, edit
from tests.helpers.tiny import SEMI

LABELED, UNLABELED = 'train_dataloader.dataset.labeled', 'train_dataloader.dataset.unlabeled'
VAL = 'val_dataloader.dataset'
E, W = 'error', 'warning'


def edited(name, change):
    return lambda root: edit(root, name, change)


def without(name):
    """Remove a category and its boxes."""

    def change(coco):
        (number,) = [category['id'] for category in coco['categories'] if category['name'] == name]
        coco['categories'] = [category for category in coco['categories'] if category['id'] != number]
        coco['annotations'] = [box for box in coco['annotations'] if box['category_id'] != number]

    return change


def relabel(coco):
    for box in coco['annotations']:
        box['category_id'] = {3: 2}.get(box['category_id'], box['category_id'])


def add_a_class(coco):
    coco['categories'].append(dict(id=9, name='ring'))
    coco['annotations'][0]['category_id'] = 9


def spoil_boxes(coco):
    for annotation, box in zip(coco['annotations'], ([80, 0, 9, 9], [-30, -30, 30, 40], [3, 3, 0.5, 20])):
        annotation['bbox'] = box


def spoil_images(root):
    first, second, third = (root / f'images/unlabeled_00{i}.png' for i in range(3))
    first.write_bytes(bytes(cv2.imencode('.jpg', cv2.imread(str(first)))[1])[:-9])
    second.write_bytes(b'')
    third.unlink()
    third.mkdir()


def name_image(place, name):
    return lambda coco: coco['images'][place].update(file_name=name)


CATEGORIES, JSON = f'{LABELED}.metainfo.classes', f'{LABELED}.ann_file'
MISTAKES = {
    'field of a json': (
        edited('unlabeled', lambda coco: coco['images'][3].update(width=-80)),
        *(E, f'{UNLABELED}.ann_file', '`images[3].width` is -80'),
    ),
    'image missing': (edited('val', name_image(2, 'x')), E, VAL, '1 of the 4 images looked at cannot be read: '),
    'training images spoilt': (spoil_images, W, UNLABELED, 'unlabeled_000.png (truncated JPEG), '),
    'images elsewhere': (
        lambda root: [path.unlink() for path in root.glob('images/labeled*')],
        *(E, LABELED, '6 of the 6 images looked at cannot be read: '),
    ),
    'name that is not UTF-8': (
        edited('labeled', name_image(0, '\udce9.png')),
        *(W, LABELED, r'images/\udce9.png (No such file or directory)'),
    ),
    'boxes that MMDetection drops': (edited('labeled', spoil_boxes), W, JSON, '3 of 8 boxes of '),
    'none of the classes': (
        edited('val', lambda coco: [category.update(name=f'no {category["id"]}') for category in coco['categories']]),
        *(E, f'{VAL}.metainfo.classes', 'none of square, disc, bar'),
    ),
    'class in the middle missing': (
        edited('labeled', without('disc')),
        *(E, CATEGORIES, 'has the order square, bar. MMDetection numbers labels in that order'),
    ),
    'last class missing': (edited('labeled', without('bar')), W, CATEGORIES, 'lacks bar'),
    'last class missing in validation': (
        edited('val', without('bar')),
        *(E, f'{VAL}.metainfo.classes', 'val.json lacks bar'),
    ),
    'json of another order': (
        edited('val', lambda coco: coco['categories'].reverse()),
        *(E, f'{VAL}.metainfo.classes', 'has the order bar, disc, square'),
    ),
    'class without a box': (edited('labeled', relabel), W, JSON, 'no box of bar'),
    'class that the head lacks': (edited('labeled', add_a_class), W, CATEGORIES, '1 boxes of ring'),
    'no box': (edited('labeled', lambda coco: coco['annotations'].clear()), E, JSON, 'no box of square, disc, bar'),
    'labeled image in the unlabeled set': (
        edited('unlabeled', name_image(4, './labeled_001.png')),
        *(W, UNLABELED, '1 images are also in train_dataloader.dataset.labeled'),
    ),
    'validation image in the labeled set': (
        edited('labeled', name_image(2, 'val_003.png')),
        *(W, VAL, '1 images are also in train_dataloader.dataset.labeled'),
    ),
}


@pytest.fixture
def root(data, tmp_path):
    """A copy of the tiny set."""
    return shutil.copytree(data, tmp_path / 'set')


@pytest.fixture
def cfg(root, tiny, tmp_path):
    return tiny(SEMI, root, tmp_path / 'work')


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_in_a_file(root, cfg, mistake, only_finding):
    change, *expected = MISTAKES[mistake]
    change(root)
    only_finding(check_config(cfg), *expected)


def without_boxes(coco):
    coco['annotations'].clear()


@pytest.mark.parametrize('name, path', [('labeled', LABELED), ('val', VAL)])
@pytest.mark.parametrize('removed', [without_boxes, without('bar')])
def test_the_sets_of_a_loader_are_judged_together(root, cfg, name, path, removed):
    """Empty images, or images that show fewer classes, beside others."""
    shutil.copy(root / f'{name}.json', root / 'more.json')
    edit(root, 'more', removed)
    one = ConfigParts(cfg).get(path)
    change(cfg, {path: dict(type='ConcatDataset', datasets=[one, dict(one, ann_file='more.json')])})
    assert run_checks(labels.CHECKS, ConfigParts(cfg)) == []


class OwnFormat(CocoDataset):
    def load_data_list(self):
        return []


@pytest.mark.parametrize(
    'kind', ['mmdet.BaseDetDataset', 'mmdet.CocoPanopticDataset', 'mmdet.LVISV1Dataset', OwnFormat]
)
def test_a_json_file_of_another_format_is_not_judged(root, cfg, kind):
    edit(root, 'labeled', lambda coco: coco.pop('images'))
    change(cfg, {f'{LABELED}.type': kind})
    assert run_checks(labels.CHECKS, ConfigParts(cfg)) == []


VOC, WRITES = dict(type='mmdet.VOCMetric'), dict(type='mmdet.CocoMetric')


@pytest.mark.parametrize(
    'removed, changes, levels',
    [
        (without('bar'), {'val_evaluator': VOC}, [W]),
        (without('bar'), {'val_evaluator': WRITES}, [W]),
        (without_boxes, {'default_hooks.checkpoint.save_best': DELETED}, [W]),
        (without_boxes, {'val_evaluator.format_only': True}, []),
    ],
)
def test_what_validation_does_not_need_is_no_error(root, cfg, removed, changes, levels):
    edit(root, 'val', removed)
    change(cfg, changes)
    assert [finding.level for finding in run_checks(labels.CHECKS, ConfigParts(cfg))] == levels


@pytest.mark.parametrize(
    'text, message',
    [
        (None, 'empty.txt: No such file or directory'),
        ('', 'empty.txt: names no image'),
        ('unlabeled_003.png\nunlabeled_99.png\n', '1 of 2 names match no image of the set: unlabeled_99.png'),
        ('unlabeled_003.png\n', None),
    ],
)
@pytest.mark.parametrize('folder', [False, True])
def test_names_of_known_empty_images(root, tiny, tmp_path, text, message, folder):
    cfg = tiny('yolov8_semi_bgpenalty.py', root, tmp_path / 'work')
    cfg.train_dataloader.dataset.known_empty = 'empty.txt'
    if folder:
        unlabeled = dict(type='ImageFolderDataset', ann_file='', data_prefix=dict(img='images'))
        cfg.train_dataloader.dataset.unlabeled.update(unlabeled)
    if text is not None:
        (root / 'empty.txt').write_text(text)
    where = 'train_dataloader.dataset.known_empty'
    found = [finding for finding in check_config(cfg) if finding.where == where]
    assert [finding.level for finding in found] == [E] * bool(message)
    assert not message or message in found[0].what


def test_a_folder_of_unlabeled_images(root, cfg, monkeypatch, only_finding):
    pool = root / 'pool'
    (pool / 'deep').mkdir(parents=True)
    for file in (root / 'images').glob('unlabeled_*'):
        file.rename(pool / 'deep' / file.name)
    cfg.train_dataloader.dataset.unlabeled.update(type='ImageFolderDataset', ann_file='', data_prefix=dict(img='pool'))
    assert check_config(cfg) == []
    (pool / 'broken.jpg').write_bytes(b'')
    what = f'1 of the 11 images looked at cannot be read: {pool}/broken.jpg'
    only_finding(check_config(cfg), W, UNLABELED, what)

    def refuse(folder, *options):
        raise PermissionError(13, 'Permission denied', folder)

    monkeypatch.setattr(images, 'image_names', refuse)
    only_finding(check_config(cfg), E, f'{UNLABELED}.data_prefix', f'{pool}: Permission denied')


LOAD_FROM = {
    'no file': (lambda file: None, E, 'no such file'),
    'no checkpoint': (lambda file: file.write_text('model = 1'), E, "it is a text file, which starts with 'model = 1'"),
    'no weights': (lambda file: torch.save([1], file), E, 'expected a `state_dict` of tensors, but got none'),
    'other size': (
        lambda file: torch.save({'backbone.stem.conv.weight': torch.ones(32, 3, 3, 3)}, file),
        *(W, 'is YOLOv8-s, but the config builds YOLOv8-n/2, so most weights do not fit'),
    ),
}


@pytest.mark.parametrize('mistake', LOAD_FROM)
def test_a_mistake_in_load_from(cfg, mistake, tmp_path, only_finding):
    write, level, what = LOAD_FROM[mistake]
    file = tmp_path / 'weights.pth'
    write(file)
    cfg.load_from = str(file)
    only_finding(check_config(cfg), level, 'load_from', f'{file}')
    only_finding(check_config(cfg), level, 'load_from', what)


def test_weights_of_the_same_size_are_fine(cfg, tmp_path):
    cfg.load_from = str(tmp_path / 'weights.pth')
    torch.save(dict(state_dict={'student.backbone.stem.conv.weight': torch.ones(8, 3, 3, 3)}), cfg.load_from)
    assert check_config(cfg) == []


def test_files_on_another_machine_are_not_checked(cfg):
    train = cfg.train_dataloader.dataset
    for dataset in (train.labeled, train.unlabeled, cfg.val_dataloader.dataset):
        dataset.update(backend_args=dict(backend='petrel'), data_root='s3://bucket/')
    cfg.val_evaluator.ann_file = 's3://bucket/val.json'
    assert check_config(cfg) == []


def test_the_classes_of_all_sets_have_another_order_than_the_json_files(cfg):
    train = cfg.train_dataloader.dataset
    for dataset in (train.labeled, train.unlabeled, cfg.val_dataloader.dataset):
        dataset.metainfo = dict(classes=('disc', 'square', 'bar'))
    found = check_config(cfg)
    assert [finding[:2] for finding in found] == [(E, CATEGORIES), (E, f'{VAL}.metainfo.classes')]
    assert all('has the order square, disc, bar' in finding.what for finding in found)
