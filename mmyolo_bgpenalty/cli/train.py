"""Train a detector, like MMDetection's tools/train.py. Overrides that would change nothing are refused."""

import argparse
import os
from collections.abc import Sequence

from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.device import get_device

from mmyolo_bgpenalty.cli.run import InputCheck, build_runner, command, config_parser, read_config, work_dir_of
from mmyolo_bgpenalty.engine.checkpoints.start_weights import check_start
from mmyolo_bgpenalty.engine.hooks.checkpoint import ResumableCheckpointHook
from mmyolo_bgpenalty.utils.distributed import destroy_processes, init_cpu_processes


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser(__doc__)
    folder = 'folder of logs and checkpoints (default: work_dir of the config, or work_dirs/<name of the config>)'
    parser.add_argument('--work-dir', help=folder)
    parser.add_argument('--amp', action='store_true', help='mixed precision: fp16 on a GPU, bf16 on a CPU')
    resume = 'continue from this checkpoint, or from the latest if none is named'
    parser.add_argument('--resume', nargs='?', const='auto', help=resume)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes --local_rank.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config with all arguments applied."""
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = work_dir_of(args, cfg)
    if args.amp:
        use_amp(cfg.optim_wrapper)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if cfg.get('load_from') and '://' not in cfg.load_from and not os.path.isfile(cfg.load_from):
        raise FileNotFoundError(f'no such checkpoint: {cfg.load_from}')
    return cfg


def use_amp(wrapper: dict) -> None:
    """Switch the config of an optim_wrapper to mixed precision: fp16 or its ``dtype`` on a GPU, bf16 on a CPU.

    Raises:
        ValueError: the config asks for another ``dtype`` than bfloat16 on a CPU.
    """
    if get_device() != 'cpu':
        wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
        return
    dtype = wrapper.pop('dtype', 'bfloat16')
    if dtype not in ('bfloat16', None):
        raise ValueError(f"Expected optim_wrapper.dtype='bfloat16' for --amp on a CPU, but got {dtype!r}")
    wrapper.pop('loss_scale', None)
    wrapper['type'] = 'CpuBf16OptimWrapper'


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with InputCheck() as check:
        cfg = load_config(args)
        if args.launcher == 'pytorch' and get_device() == 'cpu':
            init_cpu_processes(cfg)
        setup_cache_size_limit_of_dynamo()
        runner = build_runner(cfg)
        runner.register_hook(check)
        if not any(isinstance(hook, ResumableCheckpointHook) for hook in runner.hooks):
            # ResumableCheckpointHook would check the checkpoint itself.
            check_start(runner, optimizer=False)
        runner.train()
    del runner
    destroy_processes()
