"""Show what the training pipeline makes of the data, before an hour is spent.

    python -m mmyolo_bgpenalty browse CONFIG [--batches 2] [--out browse]

writes a sheet for each of the first batches and each kind of images in it: labeled ones (sup), both views of the
unlabeled ones (unsup_teacher and unsup_student), and those that are known to be empty (bg). They are as the network
gets them, with all augmentation, and in the order of the training. Boxes are those that it learns from. Dashed boxes
are ignored.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.structures.bbox import get_box_tensor
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image

from mmyolo_bgpenalty.cli.run import InputCheck, command, config_parser, new_folder, read_config
from mmyolo_bgpenalty.deploy.predictor import rgb
from mmyolo_bgpenalty.evaluation.drawing import Title, draw_boxes, true_label_boxes
from mmyolo_bgpenalty.evaluation.matching import Truth, xywh
from mmyolo_bgpenalty.utils.arguments import whole_number
from mmyolo_bgpenalty.utils.files import printable, write_whole

WIDTH = 480  # of a picture on a sheet, in pixels


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument('--batches', type=int, default=1, help='how many batches (default 1)')
    parser.add_argument('--out', default='browse', help='a new or empty folder (default browse)')
    args = parser.parse_args(argv)
    with InputCheck() as check:
        whole_number('--batches', args.batches)
        cfg = check.cfg = read_config(args.config, args.cfg_options)
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        options = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
        options.pop('prefetch_factor', None)
        loader = Runner.build_dataloader(options, seed=(cfg.get('randomness') or {}).get('seed') or 0)
        folder = new_folder('--out', args.out)
        classes = list(map(str, loader.dataset.metainfo.get('classes', ())))
        files = [
            _write_sheet(folder / f'{number}_{branch}.jpg', pictures, classes)
            for number, indices in enumerate(islice(loader.batch_sampler, args.batches), 1)
            for branch, pictures in _by_branch(loader.dataset[index] for index in indices).items()
        ]
    print(f'written to {folder}: {", ".join(files)}')


def _by_branch(items) -> dict[str, list[tuple]]:
    """The images and data samples of a batch, by branch. A set without branches has only labeled images."""
    found: dict[str, list[tuple]] = {}
    for item in items:
        inputs, samples = item['inputs'], item['data_samples']
        branches: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {'sup': inputs}
        for branch, image in branches.items():
            if image is not None:
                found.setdefault(branch, []).append((image, samples[branch] if branches is inputs else samples))
    return found


def _write_sheet(file: Path, pictures: Sequence[tuple], classes: Sequence[str]) -> str:
    drawn = [_drawn(image, sample, classes) for image, sample in pictures]
    columns = min(len(drawn), 4)
    heights = [max(one.height for one in drawn[start : start + columns]) for start in range(0, len(drawn), columns)]
    sheet = Image.new('RGB', (columns * WIDTH, sum(heights)), 'white')
    for place, one in enumerate(drawn):
        sheet.paste(one, (place % columns * WIDTH, sum(heights[: place // columns])))
    content = io.BytesIO()
    sheet.save(content, 'JPEG', quality=90)
    write_whole(file, content.getvalue())
    return file.name


def _drawn(image, sample, classes: Sequence[str]) -> Image.Image:
    picture = image.permute(1, 2, 0).numpy()
    picture = picture[..., 0] if picture.shape[-1] == 1 else rgb(picture)
    title: Title = [(printable(Path(str(sample.metainfo.get('img_path', ''))).name), 'white')]
    drawn = Image.fromarray(draw_boxes(picture, true_label_boxes(_truth(sample), classes), title))
    return drawn.resize((WIDTH, round(drawn.height * WIDTH / drawn.width)))


def _truth(sample) -> Truth:
    parts = list(_instances(sample))
    boxes, labels, ignored = (np.concatenate(column) for column in zip(*parts))
    return Truth(boxes, labels, ignored)


def _instances(sample) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for name in ('gt_instances', 'ignored_instances'):
        found = getattr(sample, name, None)
        if found is not None and 'bboxes' in found:
            boxes = xywh(get_box_tensor(found.bboxes).numpy())
            labels = found.labels.numpy() if 'labels' in found else np.full(len(boxes), -1)
            yield boxes, labels, np.full(len(boxes), name == 'ignored_instances')
    yield np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool)
