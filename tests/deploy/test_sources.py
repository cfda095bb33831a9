"""Pictures from files, folders and videos."""

import os

import cv2
import numpy as np
import pytest

from mmyolo_bgpenalty.deploy.sources import open_source


def load(path):
    image = cv2.imread(path)
    if image is None:
        raise ValueError('broken')
    return image


def write(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 8, 3), shade, np.uint8))


def test_a_folder_with_sub_folders(tmp_path):
    for shade, name in enumerate(('b.png', 'a/x.png', 'a/x.jpg')):
        write(tmp_path / name, 100 * shade)
    (tmp_path / 'a/broken.png').write_text('no picture')
    (tmp_path / 'a/notes.txt').write_text('no picture')
    source = open_source(str(tmp_path), load)
    assert source.names == ['a/broken.png', 'a/x.jpg', 'a/x.png', 'b.png'] and source.total == 4
    pictures = list(source.pictures)
    assert [picture.name for picture in pictures] == source.names and source.fps is None
    assert pictures[0].image is None and pictures[0].fault == 'broken'
    assert [int(picture.image.mean()) for picture in pictures[1:]] == [200, 100, 0]


def test_one_picture(tmp_path, monkeypatch):
    write(tmp_path / 'A.PNG', 50)
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / 'A.PNG'), 'A.PNG'):
        source = open_source(path, load)
        assert [(picture.name, picture.image.mean()) for picture in source.pictures] == [('A.PNG', 50)]


def test_a_video(tmp_path):
    path = str(tmp_path / 'clip.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*'MJPG'), 5, (32, 24))
    for shade in (20, 120, 220):
        writer.write(np.full((24, 32, 3), shade, np.uint8))
    writer.release()
    source = open_source(path, load)
    assert (source.names, source.total, source.fps) == ([], 3, 5)
    frames = list(source.pictures)
    assert [frame.name for frame in frames] == [f'clip_00000{number}.jpg' for number in (1, 2, 3)]
    assert [round(frame.image.mean(), -1) for frame in frames] == [20, 120, 220]


@pytest.mark.parametrize('suffix, codec', [('avi', 'MJPG'), ('mp4', 'mp4v')])
@pytest.mark.parametrize('share', [0, 0.5])
def test_damaged_frames_are_left_out(tmp_path, suffix, codec, share):
    """The first frames or frames in the middle are damaged. All others are read."""
    path = tmp_path / f'clip.{suffix}'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 5, (160, 120))
    for number in range(30):
        writer.write(np.random.default_rng(number).integers(0, 255, (120, 160, 3), dtype=np.uint8))
    writer.release()
    content = bytearray(path.read_bytes())
    start = content.index(b'movi' if suffix == 'avi' else b'mdat') + 12 + int(share * len(content))
    content[start : start + len(content) // 20] = bytes(len(content) // 20)
    path.write_bytes(content)
    frames = list(open_source(str(path), load).pictures)
    names = [frame.name for frame in frames if frame.image is not None]
    assert 26 <= len(names) < 30 and names == sorted(set(names))
    faults = {frame.fault.lstrip('1234') for frame in frames if frame.image is None}
    assert faults and faults <= {'a damaged frame', ' frames fewer than the 30 that OpenCV expects'}


def test_a_video_of_unknown_length_has_no_damaged_frames(tmp_path):
    """For this format OpenCV estimates the number of frames from duration and frame rate."""
    path = str(tmp_path / 'clip.ts')
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*'mp4v'), 12.5, (160, 120))
    for number in range(40):
        writer.write(np.random.default_rng(number).integers(0, 255, (120, 160, 3), dtype=np.uint8))
    writer.release()
    frames = list(open_source(path, load).pictures)
    assert sum(frame.image is not None for frame in frames) == 40
    assert not any('damaged' in frame.fault for frame in frames)


def test_anything_else_is_refused(tmp_path):
    (tmp_path / 'clip.mp4').write_bytes(b'no video' * 99)
    (tmp_path / 'folder').mkdir()
    os.mkfifo(tmp_path / 'camera')
    for name, message in (
        ('none.png', 'none.png: no such file or folder'),
        ('camera', 'camera: not a regular file$'),
        ('folder', r'folder: expected pictures \(.jpg, .*\), but found none'),
        ('clip.mp4', 'clip.mp4: expected a picture .* OpenCV cannot decode it'),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(str(tmp_path / name), load)
