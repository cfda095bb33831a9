"""Evaluate a checkpoint: MMDetection's tools/test.py, which also refuses overrides that would change nothing and
writes the figures to one file."""

import argparse
import json
import math
import os.path as osp
import sys

from mmengine.config import DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmyolo_bgpenalty.cli.run import read_config, run
from mmyolo_bgpenalty.engine.checkpoint_files import check_loadable
from mmyolo_bgpenalty.utils.distributed import unwrapped
from mmyolo_bgpenalty.utils.files import write_whole


def main() -> int:
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where logs go (work_dirs/<name of the config>)')
    parser.add_argument('--out', help='folder for metrics.json, and for the curves of PrecisionRecallMetric')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='override settings')
    args = parser.parse_args()
    cfg = read_config(args.config, args.cfg_options)
    if not osp.isfile(args.checkpoint):
        raise FileNotFoundError(f'no such checkpoint: {args.checkpoint}')
    cfg.load_from = args.checkpoint
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    )
    if args.out:
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        for evaluator in evaluators:
            if str(evaluator.type).endswith('PrecisionRecallMetric'):
                evaluator.outfile_prefix = osp.join(args.out, 'test')
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    # MMEngine leaves layers of another shape as they were initialised, and says so in the log.
    check_loadable(args.checkpoint, unwrapped(runner.model), whole=True)
    metrics = runner.test()
    if args.out:
        # json knows no nan, as of false positives an empty image where no image is empty
        known = {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in metrics.items()
        }
        write_whole(osp.join(args.out, 'metrics.json'), json.dumps(known, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
