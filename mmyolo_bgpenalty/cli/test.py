"""Evaluate a checkpoint, like MMDetection's tools/test.py. It can also write plots and pictures."""

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_bgpenalty.cli.run import (
    InputCheck,
    build_runner,
    command,
    config_parser,
    new_folder,
    read_config,
    work_dir_of,
)
from mmyolo_bgpenalty.deploy.predictor import PictureLoader, rgb
from mmyolo_bgpenalty.engine.checkpoints.start_weights import check_start
from mmyolo_bgpenalty.evaluation.drawing import PictureFolder, draw_boxes, judged_boxes
from mmyolo_bgpenalty.evaluation.matching import Detections, true_boxes, truth_of, xywh
from mmyolo_bgpenalty.utils.arguments import fraction, is_meant
from mmyolo_bgpenalty.utils.files import write_whole

OUT = (
    'folder for metrics.json and, from PrecisionRecallMetric, the predictions and curves (json), '
    'precision_recall.png, confidence.png and confusion_matrix.png. `report` reads it'
)
SHOW = 'a new or empty folder for pictures of the test set: hits are green, false positives red, missed objects yellow'

TESTED = 'tested.json'  # beside the predictions: what they are of, for `report`
RESAMPLES = 1000  # of the images, for intervals


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint file')
    folder = 'folder of the logs (default: work_dir of the config, or work_dirs/<name of the config>)'
    parser.add_argument('--work-dir', help=folder)
    parser.add_argument('--out', help=OUT)
    parser.add_argument('--show-dir', help=SHOW)
    parser.add_argument('--show-score', type=float, default=0.25, help='lowest score that is drawn (default 0.25)')
    # `mim test` always passes --launcher none.
    parser.add_argument('--launcher', choices=['none'], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    with InputCheck() as check:
        fraction('--show-score', args.show_score)
        cfg = check.cfg = read_config(args.config, args.cfg_options)
        if not os.path.isfile(args.checkpoint):
            raise FileNotFoundError(f'no such checkpoint: {args.checkpoint}{is_meant(args.checkpoint)}')
        for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
            if not cfg.get(key):
                raise ValueError(f'{args.config}: expected `{key}` in the config, but there is none')
        cfg.load_from, cfg.resume, cfg.launcher = args.checkpoint, False, 'none'
        cfg.work_dir = work_dir_of(args, cfg)
        own = _own_metrics(cfg)
        for evaluator in own:
            evaluator.setdefault('bootstrap', RESAMPLES)
        if args.out:
            _write_curves(own, args.out)
        runner = build_runner(cfg)
        runner.register_hook(check)
        if args.show_dir:
            pictures = PredictionPictures(cfg, new_folder('--show-dir', args.show_dir), args.show_score)
            runner.register_hook(pictures)
        # If a layer has another shape, MMEngine only warns, and the layer keeps its initial weights.
        check_start(runner, complete=True)
        metrics = runner.test()
    if args.out:
        # JSON has no nan and no inf. They stand for an undefined metric and for a recall that is not reached.
        known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        write_whole(os.path.join(args.out, 'metrics.json'), json.dumps(known, indent=1) + '\n')
        for evaluator in own:
            _write_tested(runner, evaluator, args.checkpoint)
        print(f'written to {args.out}: {", ".join(sorted(os.listdir(args.out)))}')


def _own_metrics(cfg: Config) -> list:
    """The configs of each PrecisionRecallMetric."""
    listed = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    kinds = [getattr(evaluator.get('type'), '__name__', str(evaluator.get('type'))) for evaluator in listed]
    return [metric for metric, kind in zip(listed, kinds) if kind.endswith('PrecisionRecallMetric')]


def _write_curves(own: list, folder: str) -> None:
    """Let each PrecisionRecallMetric write to a folder. If there are several, each gets a sub-folder."""
    for evaluator in own:
        place = folder if len(own) == 1 else os.path.join(folder, evaluator.get('prefix') or 'pr')
        evaluator.update(outfile_prefix=os.path.join(place, 'test'), plot_dir=place)
    if not own:
        print('No plots are written: they need a PrecisionRecallMetric in `test_evaluator`.')


def _write_tested(runner: Runner, metric: Mapping, checkpoint: str) -> None:
    """Write beside the predictions which images they are of. Without ``ann_file`` there is nothing to compare with."""
    if not metric.get('ann_file'):
        return
    dataset = runner.test_dataloader.dataset
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    content = dict(
        ann_file=os.path.abspath(metric['ann_file']) if os.path.exists(metric['ann_file']) else metric['ann_file'],
        classes=list(map(str, dataset.metainfo.get('classes') or ())),
        iou_thr=metric.get('iou_thr', 0.5),
        score_thr=metric.get('score_thr', 0.25),
        prevalence=metric.get('prevalence'),
        checkpoint=os.path.abspath(checkpoint),
        images=[[info['img_id'], os.path.abspath(info['img_path'])] for info in infos],
    )
    folder = os.path.dirname(metric['outfile_prefix'])
    write_whole(os.path.join(folder, TESTED), json.dumps(content, default=str) + '\n')


class PredictionPictures(Hook):
    """Draws each picture of the test set, with its detections and the objects that are missed."""

    priority = 'LOW'

    def __init__(self, cfg: Config, folder: Path, score_thr: float):
        self._loader, self._folder, self._score_thr = PictureLoader(cfg), PictureFolder(folder), score_thr

    def before_test(self, runner: Runner) -> None:
        dataset = runner.test_dataloader.dataset
        self._classes = dataset.metainfo['classes']
        # The objects come from the data set, because a pipeline may load none, or may move them.
        infos = (dataset.get_data_info(index) for index in range(len(dataset)))
        self._objects = {info['img_path']: info.get('instances', ()) for info in infos}
        self._root = (getattr(dataset, 'data_prefix', None) or {}).get('img') or ''

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        for sample in outputs or ():
            instances = sample.pred_instances.cpu().numpy()
            found = Detections(xywh(instances.bboxes), instances.scores, instances.labels)
            found = Detections(*(column[found.scores >= self._score_thr] for column in found))
            boxes, title = judged_boxes(found, truth_of(true_boxes(self._objects[sample.img_path])), self._classes)
            name = os.path.relpath(sample.img_path, self._root) if self._root else sample.img_path
            if os.path.isabs(name) or name.startswith('..'):
                name = os.path.basename(name)
            image = rgb(self._loader.load(sample.img_path))
            self._folder.write(name, draw_boxes(image, boxes, [*title, (name, 'white')]))
