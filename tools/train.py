"""Train a detector: MMDetection's tools/train.py, which also refuses overrides that would change nothing."""

import argparse
import os
import os.path as osp
import sys

from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (work_dirs/<name of the config>)')
    parser.add_argument('--amp', action='store_true', help='mixed precision: fp16, on a CPU bf16')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue from this checkpoint, or without a value from the latest one in the work dir',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='override settings: lambda_bg=1.5 burn_in=3 train_cfg.max_epochs=40',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed passes --local-rank
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config with everything the command line says of it.

    Raises:
        FileNotFoundError: no such checkpoint; and as read_config.
    """
    from mmyolo_bgpenalty.cli.run import read_config

    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    name = osp.splitext(osp.basename(args.config))[0]
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or osp.join('work_dirs', name)
    if args.amp:
        use_amp(cfg.optim_wrapper)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if cfg.get('load_from') and '://' not in cfg.load_from and not osp.isfile(cfg.load_from):
        raise FileNotFoundError(f'no such checkpoint: {cfg.load_from}')
    return cfg


def use_amp(wrapper: dict) -> None:
    """Have an optim_wrapper's config train in mixed precision: in fp16, or as its ``dtype`` says; on a CPU in bf16.

    Raises:
        ValueError: another ``dtype`` on a CPU.
    """
    if get_device() != 'cpu':
        wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
        return
    dtype = wrapper.pop('dtype', 'bfloat16')
    if dtype not in ('bfloat16', None):
        raise ValueError(f"Expected optim_wrapper.dtype='bfloat16' for --amp on a CPU, but got {dtype!r}")
    wrapper.pop('loss_scale', None)
    wrapper['type'] = 'CpuBf16OptimWrapper'


def main() -> int:
    args = parse_args()
    try:
        cfg = load_config(args)
        if args.launcher == 'pytorch' and get_device() == 'cpu':
            from mmyolo_bgpenalty.utils.distributed import meet_on_cpu

            meet_on_cpu(cfg)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f'train.py: {error}', file=sys.stderr)
        return 2
    setup_cache_size_limit_of_dynamo()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    from mmyolo_bgpenalty.engine.checkpoint_files import CheckpointError
    from mmyolo_bgpenalty.utils.distributed import leave

    try:
        runner.train()
    except CheckpointError as error:
        print(f'train.py: {error}', file=sys.stderr)
        return 2
    del runner
    leave()
    return 0


if __name__ == '__main__':
    sys.exit(main())
