"""Read pictures from a file, a folder or a video."""

import os
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mmyolo_bgpenalty.utils.arguments import is_meant
from mmyolo_bgpenalty.utils.image_files import EXTENSIONS, image_names


class Picture(NamedTuple):
    name: str  # relative to the folder, or the name of the file, or `clip_000001.jpg` for a frame of `clip.mp4`
    image: np.ndarray | None  # (H, W, 3) in BGR, None if it cannot be read
    fault: str = ''  # why it cannot be read


class Source(NamedTuple):
    pictures: Iterator[Picture]
    names: list[str]  # of all pictures, empty for a video
    total: int | None  # number of pictures, None if a video does not say it
    fps: float | None  # of a video, else None


def open_source(path: str, load: Callable[[str], np.ndarray]) -> Source:
    """Open a picture, a folder with pictures (also in sub-folders) or a video.

    Args:
        path: a file without an extension of a picture must be a video.
        load: reads a picture. A ValueError says why it cannot be read.

    Raises:
        ValueError: there is no such file, the folder has no pictures, or OpenCV cannot decode the video.
        OSError: a folder cannot be listed.
    """
    if os.path.isdir(path):
        names = image_names(path)
        if not names:
            raise ValueError(f'{path}: expected pictures ({", ".join(EXTENSIONS)}), but found none')
        return Source(_pictures(path, names, load), names, len(names), None)
    if not os.path.isfile(path):
        fault = 'not a regular file' if os.path.exists(path) else f'no such file or folder{is_meant(path)}'
        raise ValueError(f'{path}: {fault}')
    if path.lower().endswith(EXTENSIONS) and not path.lower().endswith('.gif'):  # a GIF may be a video
        folder, name = os.path.split(path)
        return Source(_pictures(folder, [name], load), [name], 1, None)
    video = cv2.VideoCapture(path)
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    frames, begin = _frames(video, Path(path).stem, total), []
    for picture in frames:
        begin.append(picture)
        if picture.image is not None:
            break
    else:
        raise ValueError(
            f'{path}: expected a picture ({", ".join(EXTENSIONS)}), a folder, or a video, but OpenCV cannot decode it. '
            'It may lack the codec: convert the video to H.264 in mp4'
        )
    fps = video.get(cv2.CAP_PROP_FPS)
    return Source(chain(begin, frames), [], total if total > 0 else None, fps if fps > 0 else 25.0)


def _pictures(folder: str, names: list[str], load: Callable[[str], np.ndarray]) -> Iterator[Picture]:
    for name in names:
        try:
            yield Picture(name, load(os.path.join(folder, name)))
        except ValueError as error:
            yield Picture(name, None, str(error))


def _frames(video: cv2.VideoCapture, stem: str, total: int) -> Iterator[Picture]:
    """The frames of a video. In some formats OpenCV only estimates ``total``; in others it skips damaged frames."""
    lost = 0
    for number in count(1):
        read, frame = video.read()
        if read:
            for damaged in range(number - lost, number):
                yield Picture(f'{stem}_{damaged:06}.jpg', None, 'a damaged frame')
            lost = 0
            yield Picture(f'{stem}_{number:06}.jpg', frame)
        elif number > total:
            break
        else:
            lost += 1
    video.release()
    if lost:
        yield Picture(stem, None, f'{lost} frames fewer than the {total} that OpenCV expects')
