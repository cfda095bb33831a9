"""Train a detector, like MMDetection's tools/train.py. Overrides that would change nothing are refused."""

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from mmyolo_bgpenalty.cli.run import (
    InputCheck,
    build_runner,
    command,
    command_line,
    config_parser,
    read_config,
    work_dir_of,
)
from mmyolo_bgpenalty.config_check.settings.plan import RunPlan
from mmyolo_bgpenalty.datasets.labeled_unlabeled import LabeledUnlabeledDataset
from mmyolo_bgpenalty.engine.checkpoints.start_weights import check_start
from mmyolo_bgpenalty.engine.hooks.checkpoint import ResumableCheckpointHook
from mmyolo_bgpenalty.engine.hooks.lambda_bg import LambdaBgSchedulerHook
from mmyolo_bgpenalty.engine.run_summary import RunSummaryHook, latest_checkpoint, shown
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
    if args.resume == 'auto':
        # Without a checkpoint the run starts anew, from its weights.
        cfg.resume = bool(os.path.isdir(cfg.work_dir) and any(Path(cfg.work_dir).glob('*.pth')))
        cfg.load_from = None if cfg.resume else cfg.get('load_from')
    elif args.resume:
        cfg.resume, cfg.load_from = True, args.resume
    if cfg.get('load_from'):
        cfg.load_from = os.path.expanduser(cfg.load_from)
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


class Report(RunSummaryHook):
    """Logs what is trained. After training, it logs what was reached and what to run next."""

    def __init__(self, args: argparse.Namespace):
        super().__init__()
        self.args = args

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        plans = [hook for hook in runner.hooks if isinstance(hook, LambdaBgSchedulerHook)]
        burn_in = plans[0].burn_in_batches(runner) if plans else 0
        processes = '' if get_world_size() == 1 else f', {get_world_size()} processes'
        lines = [
            f'Training {self.args.config}',
            f'  images: {_images(runner)}',
            f'  device: {get_device()}{processes}',
            f'  plan: {RunPlan(len(runner.train_dataloader), burn_in, runner.max_iters)}',
            f'  work dir: {shown(runner.work_dir)}',
        ]
        if runner.iter:
            lines.append(f'  continues after iteration {runner.iter:,}')
        runner.logger.info('\n'.join(lines))

    def end(self, runner: Runner) -> None:
        """Log the summary of a finished run, and the next commands."""
        lines, best = self.finished(runner), self.best_or_last(runner)
        if best:
            work_dir = ['--work-dir', self.args.work_dir] if self.args.work_dir else []
            tests = [command_line('test', self.args, best, *work_dir)] if runner.cfg.get('test_dataloader') else []
            predict, export = (
                command_line('predict', self.args, best, 'PICTURES'),
                command_line('export', self.args, best),
            )
            lines += ['What to run next:', *(f'  {line}' for line in (*tests, predict, export))]
        runner.logger.info('\n'.join(lines))

    def stopped(self, runner: Runner, how: str) -> None:
        """Log how to continue a run that was stopped."""
        lines, latest = [f'{how} after iteration {runner.iter:,} of {runner.max_iters:,}.'], latest_checkpoint(runner)
        if not latest:
            lines[0] += ' No checkpoint has been saved yet.'
        else:
            lines[0] += f' The latest checkpoint is {shown(latest)}. To continue from it:'
            flags = ['--work-dir', self.args.work_dir] if self.args.work_dir else []
            flags += ['--amp'] if self.args.amp else []
            again = command_line('train', self.args, *flags, '--resume')
            lines.append(f'  {again}' if self.args.launcher == 'none' else '  the same command, with --resume')
        runner.logger.info('\n'.join(lines))


def _images(runner: Runner) -> str:
    dataset = runner.train_dataloader.dataset
    if isinstance(dataset, LabeledUnlabeledDataset):
        labeled, unlabeled = dataset.datasets
        text = f'{len(labeled):,} labeled and {len(unlabeled):,} unlabeled'
    else:
        text = f'{len(dataset):,}'
    return text if runner.val_loop is None else f'{text}, {len(runner.val_dataloader.dataset):,} for validation'


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
        report = Report(args)
        runner.register_hook(report)
        try:
            runner.train()
        except (KeyboardInterrupt, SyntaxError) as error:
            # MMEngine raises a SyntaxError if Ctrl-C comes while it formats the config for a checkpoint.
            if not isinstance(error.__context__ or error, KeyboardInterrupt):
                raise
            report.stopped(runner, 'Stopped by Ctrl-C')
            raise SystemExit(128 + signal.SIGINT) from None
        except SystemExit:  # of ResumableCheckpointHook, after SIGTERM
            report.stopped(runner, 'Stopped')
            raise
        report.end(runner)
    del runner
    destroy_processes()
