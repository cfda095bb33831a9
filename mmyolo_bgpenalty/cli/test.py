"""Evaluate a checkpoint, like MMDetection's tools/test.py. --out writes the metrics to a file."""

import json
import math
import os
from collections.abc import Sequence

from mmyolo_bgpenalty.cli.run import InputCheck, build_runner, command, config_parser, read_config, work_dir_of
from mmyolo_bgpenalty.engine.checkpoints.start_weights import check_start
from mmyolo_bgpenalty.utils.files import write_whole


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint file')
    folder = 'folder of the logs (default: work_dir of the config, or work_dirs/<name of the config>)'
    parser.add_argument('--work-dir', help=folder)
    parser.add_argument('--out', help='folder for metrics.json, and for the curves of PrecisionRecallMetric')
    args = parser.parse_args(argv)
    with InputCheck() as check:
        cfg = read_config(args.config, args.cfg_options)
        if not os.path.isfile(args.checkpoint):
            raise FileNotFoundError(f'no such checkpoint: {args.checkpoint}')
        cfg.load_from, cfg.resume = args.checkpoint, False
        cfg.work_dir = work_dir_of(args, cfg)
        if args.out:
            evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
            for evaluator in evaluators:
                if str(evaluator.type).endswith('PrecisionRecallMetric'):
                    evaluator.outfile_prefix = os.path.join(args.out, 'test')
        runner = build_runner(cfg)
        runner.register_hook(check)
        # If a layer has another shape, MMEngine only warns, and the layer keeps its initial weights.
        check_start(runner, complete=True)
        metrics = runner.test()
    if args.out:
        # JSON has no nan. An undefined metric is nan, such as false positives per empty image if no image is empty.
        known = {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in metrics.items()}
        write_whole(os.path.join(args.out, 'metrics.json'), json.dumps(known, indent=1) + '\n')
