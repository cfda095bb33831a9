"""Predict on the pictures of a folder, on one picture, or on a video.

In a semi-supervised config the teacher predicts, in any other config the detector. For the student, give
--cfg-options model.semi_test_cfg.predict_on=student. No annotation file is needed. The folder of --out gets:

- pictures/: the pictures with boxes, as JPEG. A video becomes one video with boxes instead.
- predictions.json, with --labels coco: a COCO set with scores. File names are relative to the folder of the pictures.
- labels/ and data.yaml, with --labels yolo: a text file for each picture, in the format of Ultralytics.
- Annotations/, with --labels voc: a Pascal VOC xml file for each picture. The format has no place for scores.
- images/, with --labels: links to the pictures, or the frames of a video. `init` takes these, not the drawn ones.
"""

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from mmyolo_bgpenalty.cli.run import InputCheck, InputError, command, config_parser, new_folder, read_config
from mmyolo_bgpenalty.deploy.predictor import PictureLoader, Predictor, rgb
from mmyolo_bgpenalty.deploy.sources import Picture, Source, open_source
from mmyolo_bgpenalty.evaluation.drawing import PictureFolder, class_legend, draw_boxes, predicted_boxes
from mmyolo_bgpenalty.evaluation.matching import Detections
from mmyolo_bgpenalty.utils.arguments import fraction, is_meant
from mmyolo_bgpenalty.utils.files import NAMED, printable, write_whole
from mmyolo_bgpenalty.utils.label_export import (
    LabeledPicture,
    coco_labels,
    label_file,
    voc_labels,
    yolo_data,
    yolo_labels,
)

SUFFIXES = dict(yolo='.txt', voc='.xml')  # of the formats with a file for each picture


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser(__doc__, 'config file of the training')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('path', help='a picture, a folder with pictures (also in sub-folders), or a video')
    parser.add_argument(
        '--out', help='a new or empty folder (default: predictions/<name of PATH>, then <name>2, <name>3, …)'
    )
    parser.add_argument('--score', type=float, default=0.25, help='lowest score of a box (default 0.25)')
    labels = 'also write the boxes as labels for an annotation tool'
    parser.add_argument('--labels', nargs='+', choices=['coco', 'yolo', 'voc'], default=[], help=labels)
    parser.add_argument('--save-conf', action='store_true', help='with --labels yolo: the score as the sixth column')
    args = parser.parse_args(argv)
    if args.save_conf and 'yolo' not in args.labels:
        raise InputError('Expected --save-conf only with --labels yolo')
    return args


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with InputCheck():
        fraction('--score', args.score)
        cfg = read_config(args.config, args.cfg_options)
        if not os.path.isfile(args.checkpoint):
            raise FileNotFoundError(f'no such checkpoint: {args.checkpoint}{is_meant(args.checkpoint)}')
        loader = PictureLoader(cfg)
        source = open_source(args.path, loader.load)
        for suffix in (suffix for kind, suffix in SUFFIXES.items() if kind in args.labels):
            _check_label_files(source, suffix)
        predictor = Predictor(cfg, args.checkpoint, loader)
        path = Path(args.path).absolute()
        folder = new_folder('--out', args.out or unused(Path('predictions', path.name if path.is_dir() else path.stem)))
    home = path if path.is_dir() else path.parent
    outputs = Outputs(folder, predictor.classes, source, home, args.labels, args.save_conf)
    unreadable = []
    pictures = track(source.pictures, 'predicts', source.total, disable=not sys.stdout.isatty())
    try:
        for batch in _batches(pictures, predictor.batch_size):
            unreadable += [picture for picture in batch if picture.image is None]
            readable = [(picture.name, picture.image) for picture in batch if picture.image is not None]
            if readable:
                found = predictor([image for _, image in readable], args.score)
                for (name, image), detections in zip(readable, found):
                    outputs.write(name, image, detections)
    finally:
        outputs.close()  # also after Ctrl-C: what is predicted so far is kept
    _report(outputs, unreadable, args.score)
    return 0 if outputs.pictures else 1


def unused(folder: Path) -> Path:
    """The first of <folder>, <folder>2, <folder>3, … that does not exist, as in Ultralytics."""
    numbered = (folder.with_name(f'{folder.name}{number}') for number in count(2))
    return next(place for place in chain([folder], numbered) if not os.path.lexists(place))


def _report(outputs: 'Outputs', unreadable: list[Picture], score: float) -> None:
    if unreadable:
        named = [printable(f'{picture.name} ({picture.fault})') for picture in unreadable[:NAMED]]
        count = f'{len(unreadable)} of {outputs.pictures + len(unreadable)} pictures cannot be read'
        print(f'{count}: {", ".join(named)}{", …" if len(unreadable) > NAMED else ""}', file=sys.stderr)
    counts = ', '.join(f'{printable(name)} {outputs.counts[k]}' for k, name in enumerate(outputs.classes))
    print(f'{outputs.pictures} pictures with {outputs.counts.total()} boxes (score >= {score:g}): {counts}')
    print(f'written to {outputs.folder}: {", ".join(sorted(entry.name for entry in outputs.folder.iterdir()))}')


def _batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    left = iter(pictures)
    while batch := list(islice(left, size)):
        yield batch


def _check_label_files(source: Source, suffix: str) -> None:
    first: dict[str, str] = {}
    for name in source.names:
        other = first.setdefault(label_file(name, suffix), name)
        if other != name:
            raise ValueError(f'{other} and {name} would share the label file {label_file(name, suffix)}: rename one')


class Outputs:
    """The folder that the command fills. Names of pictures are relative to ``home``."""

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        source: Source,
        home: Path,
        labels: Sequence[str],
        save_conf: bool,
    ):
        self.folder, self.classes, self.labels, self.save_conf = folder, classes, labels, save_conf
        self._home = home
        self.pictures, self.counts = 0, Counter[int]()
        self._drawn = PictureFolder(folder / 'pictures')
        self._labeled: list[LabeledPicture] = []
        self._is_video = source.fps is not None
        self._video = None if source.fps is None else Video(folder / 'video.mp4', source.fps)

    def write(self, name: str, image: np.ndarray, found: Detections) -> None:
        """Write what belongs to one picture."""
        self.pictures += 1
        self.counts.update(found.labels.tolist())
        # All pictures of a video must have the same size, so they have no title.
        legend = () if self._is_video else class_legend(found, self.classes)
        drawn = draw_boxes(rgb(image), predicted_boxes(found, self.classes), legend=legend)
        if self._video is None or not self._video.write(drawn):
            self._drawn.write(name, drawn)
        if not self.labels:
            return
        height, width = image.shape[:2]
        labeled = LabeledPicture(Path(name).as_posix(), width, height, *found)
        if 'coco' in self.labels:
            self._labeled.append(labeled)
        if 'yolo' in self.labels:
            write_whole(self.folder / 'labels' / label_file(name), yolo_labels(labeled, self.save_conf))
        if 'voc' in self.labels:
            write_whole(self.folder / 'Annotations' / label_file(name, '.xml'), voc_labels(labeled, self.classes))
        if self._is_video:
            write_whole(self.folder / 'images' / name, cv2.imencode('.jpg', image)[1].tobytes())
        else:
            link(self._home / name, self.folder / 'images' / name)

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
        if self._labeled:
            write_whole(self.folder / 'predictions.json', json.dumps(coco_labels(self._labeled, self.classes)))
        if 'yolo' in self.labels:
            write_whole(self.folder / 'data.yaml', yolo_data(self.classes))


def link(file: Path, place: Path) -> None:
    """Make a symbolic link to a file, or a copy where the system allows no links."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(file)
    except OSError:
        shutil.copyfile(file, place)


class Video:
    """A video file. It has its name only when it is complete."""

    def __init__(self, path: Path, fps: float):
        self._path, self._draft, self._fps = path, path.with_name(f'.{path.name}.tmp{path.suffix}'), fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: np.ndarray) -> bool:
        """Append a picture in RGB. Returns False if OpenCV cannot write videos."""
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(self._draft), codec, self._fps, image.shape[1::-1])
        if self._writer.isOpened():
            self._writer.write(image[..., ::-1])
            return True
        return False

    def close(self) -> None:
        if self._writer is not None and self._writer.isOpened():
            self._writer.release()
            self._draft.replace(self._path)
        self._draft.unlink(missing_ok=True)
