"""Folders of images without labels."""

import logging
import os
import pickle
import shutil
from multiprocessing.reduction import ForkingPickler

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from PIL import Image
from torch.utils.data import DataLoader

from mmyolo_bgpenalty import ImageFolderDataset
from mmyolo_bgpenalty.datasets.image_folder import list_images
from tests.helpers.tiny import CLASSES

LOAD = dict(type='LoadImageFromFile')


def paths(folder):
    text, ends = list_images(str(folder))
    assert text.dtype == np.uint8 and ends.dtype == np.int64
    return [os.fsdecode(text[start:end].tobytes()) for start, end in zip([0, *ends], ends)]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_of_all_formats_are_listed_sorted_by_path(tmp_path):
    kept = ['a-b/1.jpg', 'a.jpg', 'a/2.JPEG', 'a/b/c/3.Png', 'a/b.bmp', 'B.webp', 'x.jpg/5.tif', 'é.TIFF', 'Ω/ä ö.jpg']
    kept.append(os.fsdecode(b'\xff\xe9.jpg'))  # not UTF-8
    dropped = ['.hidden.jpg', '.cache/4.jpg', 'notes.txt', 'a/list.json', 'jpg', 'a/.jpg', 'video.mp4', 'a.jpg.part']
    touch(tmp_path, *reversed(kept), *dropped)
    (tmp_path / 'empty').mkdir()
    assert paths(tmp_path) == sorted(kept, key=os.fsencode)


@pytest.mark.parametrize(
    'kind, extensions',
    [
        ('JPEG', ['.jfif', '.JPE', '.mpo']),
        ('PPM', ['.ppm', '.pgm', '.pbm', '.pnm']),
        ('AVIF', ['.avif']),
        ('JPEG2000', ['.jp2', '.j2k', '.jpx', '.JPF', '.jpc', '.j2c']),
        ('GIF', ['.gif']),
    ],
)
def test_each_listed_format_can_be_decoded(tmp_path, kind, extensions):
    picture = Image.fromarray(np.full((64, 80, 3), 200, np.uint8))
    for extension in extensions:
        picture.save(tmp_path / f'a{extension}', format=kind)
    read = paths(tmp_path)
    if cv2.imread(str(tmp_path / f'a{extensions[0]}')) is None:  # this OpenCV was built without the format
        assert read == []
        return
    assert sorted(read) == sorted(f'a{extension}' for extension in extensions)
    dataset = ImageFolderDataset(data_prefix=dict(img=str(tmp_path)), pipeline=[LOAD])
    pictures = [dataset[place]['img'] for place in range(len(dataset))]
    assert all(picture.shape == (64, 80, 3) and abs(int(picture.mean()) - 200) < 5 for picture in pictures)


def test_files_that_are_not_read_are_counted_and_named(tmp_path, warnings):
    others = ['1.heic', 'a/2.HEIC', '3.dng', 'scan', 'film.mp4', 'a/list.json', 'notes.txt', '.hidden.heic']
    touch(tmp_path, 'a.jpg', *others)
    ImageFolderDataset(data_prefix=dict(img=str(tmp_path)), pipeline=[LOAD])
    counted = '5 files are not read as images (2 .heic, '
    assert len(warnings) == 1 and warnings[0].startswith(f'{tmp_path}: {counted}')
    assert all(part in warnings[0] for part in ('1 .dng', '1 without an extension', '1 .mp4'))
    (tmp_path / 'a.jpg').unlink()
    with pytest.raises(ValueError, match=r'but found none; 5 files are not read as images \(2 .heic'):
        ImageFolderDataset(data_prefix=dict(img=str(tmp_path)), pipeline=[LOAD])


NAMES = st.text('aB-./é0', min_size=1, max_size=4).filter(lambda text: '/' not in text and not text.startswith('.'))


@given(st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=12))
def test_whole_paths_are_sorted(tmp_path_factory, trees):
    root = tmp_path_factory.mktemp('tree')
    for parts in trees:
        (root.joinpath(*parts)).mkdir(parents=True, exist_ok=True)
        touch(root, '/'.join([*parts, 'x.png']), '/'.join([*parts]) + '.png')
    reference = [
        os.path.relpath(os.path.join(folder, name), root) for folder, _, files in os.walk(root) for name in files
    ]
    assert paths(root) == sorted(reference, key=os.fsencode)
    shutil.rmtree(root)


def test_links_are_followed_but_no_folder_is_entered_twice(tmp_path):
    root = tmp_path / 'root'
    touch(root, 'a/1.jpg', 'b/2.jpg')
    touch(tmp_path / 'elsewhere', '3.jpg', 'deep/4.jpg')
    links = {
        'file.jpg': root / 'a/1.jpg',
        'a/far': tmp_path / 'elsewhere',
        'b/round': root,
        'b/above': tmp_path,
        'b/self.jpg': 'self.jpg',
        'gone.jpg': 'nowhere.jpg',
        'z': root / 'a',
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    assert paths(root) == ['a/1.jpg', 'a/far/3.jpg', 'a/far/deep/4.jpg', 'b/2.jpg', 'file.jpg']
    (tmp_path / 'link').symlink_to(root)
    assert paths(tmp_path / 'link') == paths(root)


def folder(path, **kwargs):
    init_default_scope('mmyolo')
    return ImageFolderDataset(**{'data_root': str(path.parent), 'data_prefix': dict(img=path.name), **kwargs})


def paint(root, number, broken=()):
    """Write images. The value of all pixels is the index of the image. Broken files are text, empty or truncated."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        file = root / f'{i:03}.png'
        cv2.imwrite(str(file), np.full((64, 80, 3), i, np.uint8))
        if i in broken:
            file.write_bytes([b'no picture', b'', file.read_bytes()[:20]][i % 3])
    return root


def shown(results):
    return int(results['img'][0, 0, 0])


def test_the_info_of_an_image(tmp_path):
    dataset = folder(paint(tmp_path / 'pool', 4), pipeline=[LOAD], metainfo=dict(classes=CLASSES))
    assert len(dataset) == 4 and dataset.metainfo == dict(classes=CLASSES)
    for index, place in ((0, 0), (3, 3), (-1, 3), (np.int64(2), 2)):
        expected = dict(img_path=f'{tmp_path}/pool/{place:03}.png', img_id=place, sample_idx=place, instances=[])
        assert dataset.get_data_info(index) == expected
        assert shown(dataset[index]) == place
    assert dataset.get_cat_ids(1) == []
    assert dataset[1]['ori_shape'] == (64, 80)
    with pytest.raises(IndexError):
        dataset.get_data_info(4)


def test_subsets(tmp_path):
    dataset = folder(paint(tmp_path / 'pool', 9, broken=[3]), pipeline=[LOAD])
    for subset, expected in (
        (dataset.get_subset([8, 2, 3, 4]), [8, 2, 4, 4]),
        (dataset.get_subset(3), [0, 1, 2]),
        (folder(tmp_path / 'pool', pipeline=[LOAD], indices=[5, 3, 1]), [5, 1, 1]),
    ):
        assert [shown(subset[i]) for i in range(len(subset))] == expected
        assert subset.first_readable.bad.sum() == (3 in expected or len(expected) != len(set(expected)))
    assert dataset.first_readable.bad.sum() == 0
    dataset.get_subset_([7, 3])
    assert [shown(dataset[i]) for i in (0, 1)] == [7, 7] and dataset.first_readable.bad.sum() == 1


def test_a_large_set_is_small_in_memory(tmp_path):
    touch(tmp_path / 'pool', *(f'day_{i // 100:02}/{i:06}.jpg' for i in range(2000)))
    dataset = folder(tmp_path / 'pool')
    text = sum(len(name) for name in paths(tmp_path / 'pool'))
    assert dataset.data_bytes.nbytes == text and dataset.data_address.nbytes == 8 * 2000
    assert len(pickle.dumps(dataset)) < text + 9 * 2000 + 5000
    assert pickle.loads(pickle.dumps(dataset)).get_data_info(1234)['img_path'].endswith('day_12/001234.jpg')


def test_an_image_is_unreadable_if_its_loader_returns_nothing(tmp_path, warnings):
    dataset = folder(paint(tmp_path / 'pool', 3, broken=[0]), pipeline=[dict(LOAD, ignore_empty=True)])
    (tmp_path / 'pool/001.png').unlink()
    assert shown(dataset[0]) == 2 and dataset.first_readable.bad.sum() == len(warnings) == 2
    paint(tmp_path / 'pool', 3)
    assert shown(dataset[0]) == 2  # a file that was unreadable is not tried again


def test_the_next_image_is_taken_if_a_transform_returns_nothing(tmp_path, warnings):
    pool = paint(tmp_path / 'pool', 3)
    dataset = folder(pool, pipeline=[LOAD, lambda results: results if shown(results) == 1 else None])
    assert [shown(dataset[i]) for i in range(3)] == [1, 1, 1]
    assert not dataset.first_readable.bad.any() and warnings == []
    with pytest.raises(ValueError, match=f'images in {pool}, but 3 in a row are not usable: function returned nothing'):
        folder(pool, pipeline=[LOAD, lambda results: None])[0]


def test_the_search_for_a_readable_image_has_an_end(tmp_path):
    dataset = folder(paint(tmp_path / 'pool', 6, broken=range(5)), pipeline=[LOAD], max_refetch=2)
    with pytest.raises(ValueError, match='but 3 in a row are not usable: truncated PNG'):
        dataset[0]
    assert dataset.first_readable.bad.sum() == 3


def test_workers_share_the_list_of_unreadable_images(tmp_path):
    dataset = folder(paint(tmp_path / 'pool', 8, broken=[2, 6]), pipeline=[LOAD, shown])
    handler = logging.FileHandler(tmp_path / 'log')
    MMLogger.get_current_instance().addHandler(handler)
    try:
        for _ in range(2):
            batches = list(DataLoader(dataset, num_workers=2, batch_size=2))
            assert torch.cat(batches).tolist() == [0, 1, 3, 3, 4, 5, 7, 7]
    finally:
        MMLogger.get_current_instance().removeHandler(handler)
    assert dataset.first_readable.bad.sum() == 2
    log = (tmp_path / 'log').read_text()
    assert log.count('002.png cannot be read') == log.count('006.png cannot be read') == 1
    # A worker process that is spawned, not forked, gets a pickled copy.
    other = pickle.loads(ForkingPickler.dumps(dataset))
    other.first_readable.bad[0] = True
    assert dataset.first_readable.bad.sum() == 3 and other[0] == 1


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(data_prefix=dict(img='none')), 'folder of images, but .*none: No such file'),
        (dict(data_prefix=dict(img='file.jpg')), 'folder of images, but .*file.jpg: Not a directory'),
        (dict(data_prefix=dict(img='empty')), r'Expected images \(\.jpg, .*\.webp.*\) in .*empty, but found none$'),
        (dict(data_prefix=dict(img_path='pool')), r"`data_prefix` to be dict\(img='a folder'\), but got"),
        (dict(data_root='', data_prefix=dict(img='')), r"`data_prefix` to be dict\(img='a folder'\), but got"),
        (dict(ann_file='unlabeled.json'), "`ann_file` of ImageFolderDataset to be '', but got .*unlabeled.json"),
    ],
)
def test_bad_folders_are_named(tmp_path, options, message):
    paint(tmp_path / 'pool', 1)
    touch(tmp_path, 'file.jpg', 'empty/notes.txt')
    with pytest.raises(ValueError, match=message):
        folder(tmp_path / 'pool', **options)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    paint(tmp_path / 'pool', 1)

    def refuse(path):
        raise PermissionError(13, 'Permission denied', path)

    monkeypatch.setattr('os.scandir', refuse)
    with pytest.raises(ValueError, match=f'folder of images, but {tmp_path}/pool: Permission denied'):
        folder(tmp_path / 'pool')
