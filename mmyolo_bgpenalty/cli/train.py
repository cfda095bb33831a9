"""Train a detector, like MMDetection's tools/train.py. Overrides that would change nothing are refused."""

import argparse
import gc
import os
import shlex
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import torch
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner

from mmyolo_bgpenalty.cli.report.report import write_report
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
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import latest_checkpoint
from mmyolo_bgpenalty.engine.checkpoints.run_folder import RunFolder
from mmyolo_bgpenalty.engine.checkpoints.start_weights import check_start
from mmyolo_bgpenalty.engine.console import evaluated_model
from mmyolo_bgpenalty.engine.cpu_amp import computes_in_bf16
from mmyolo_bgpenalty.engine.hooks.checkpoint import ResumableCheckpointHook
from mmyolo_bgpenalty.engine.hooks.lambda_bg import LambdaBgSchedulerHook
from mmyolo_bgpenalty.evaluation.table import class_table, headline
from mmyolo_bgpenalty.utils.arguments import flag, is_meant
from mmyolo_bgpenalty.utils.distributed import destroy_processes, init_cpu_processes, sync_batch_norm_on_cpu
from mmyolo_bgpenalty.utils.files import lock_folder
from mmyolo_bgpenalty.utils.threads import number_of_cores

BETTER = 0.02  # in mAP; smaller differences are chance
Rows = Mapping[str, Mapping[str, float]]  # of `headline`


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
        steps = (file for file in Path(cfg.work_dir).glob('*[0-9].pth') if not file.name.startswith('best_'))
        cfg.resume = os.path.isfile(latest_checkpoint(cfg.work_dir)) or any(steps)
        cfg.load_from = None if cfg.resume else cfg.get('load_from')
    elif args.resume:
        cfg.resume, cfg.load_from = True, args.resume
    if cfg.get('load_from'):
        cfg.load_from = os.path.expanduser(cfg.load_from)
    if cfg.get('load_from') and '://' not in cfg.load_from and not os.path.isfile(cfg.load_from):
        raise FileNotFoundError(f'no such checkpoint: {cfg.load_from}{is_meant(cfg.load_from)}')
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


class Report(Hook):
    """Logs what is trained. After training, it logs what was reached and what to run next."""

    priority = 'LOWEST'  # after CheckpointHook, which decides what is best

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self._start, self._first = time.monotonic(), 0  # when this run started, and after which iteration
        # The best checkpoint and its metrics. Without one, the metrics of the last validation.
        self._best = ''
        self._metrics: dict = {}
        self._latest: dict = {}  # the metrics of the last validation

    def before_train(self, runner: Runner) -> None:
        self._start, self._first = time.monotonic(), runner.iter
        self._best = best_checkpoint(runner)  # of an earlier run that is resumed: its metrics are unknown
        loop = runner.train_loop
        by_iter = isinstance(loop, IterBasedTrainLoop)
        done = loop.iter >= loop.max_iters if by_iter else loop.epoch >= loop.max_epochs
        lines = [_how_to_train_longer(runner)] if done else self._plan(runner)
        runner.logger.info('\n'.join(lines))

    def _plan(self, runner: Runner) -> list[str]:
        plans = [hook for hook in runner.hooks if isinstance(hook, LambdaBgSchedulerHook)]
        burn_in = plans[0].burn_in_batches(runner) if plans else 0
        processes = '' if get_world_size() == 1 else f', {get_world_size()} processes'
        return [
            f'Training {self.args.config}',
            f'  images: {_images(runner)}',
            f'  device: {get_device()}{processes}{_threads()}{_faster(runner)}',
            f'  plan: {RunPlan(len(runner.train_dataloader), burn_in, runner.max_iters)}',
            f'  work dir: {shown(runner.work_dir)}',
            *self._start_of(runner),
        ]

    def _start_of(self, runner: Runner) -> list[str]:
        if runner.iter:
            return [f'  continues after iteration {runner.iter:,}']
        return ['  there is no checkpoint to resume from: starts at the beginning'] if self.args.resume else []

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        best, self._latest = best_checkpoint(runner), dict(metrics or {})
        if best != self._best or not best:
            self._best, self._metrics = best, self._latest

    def end(self, runner: Runner) -> None:
        """Log the classes, the summary of a finished run, and the next commands."""
        classes = class_table(self._metrics, 'The best checkpoint' if self._best else 'The last validation')
        if classes is not None:
            runner.logger.info(classes)
        rows = headline(self._metrics, evaluated_model(runner))
        best, last = self._best, runner.message_hub.runtime_info.get('last_ckpt') or ''
        lines = [f'  best checkpoint: {shown(best)}'] if best else ['  last validation:'] if rows else []
        lines += _judgement(rows)
        lines += [f'  last checkpoint: {shown(last)}'] if last else []
        if last and self._latest is not self._metrics:
            lines += _values(headline(self._latest, evaluated_model(runner)))
        if runner.iter > self._first:
            took = timedelta(seconds=round(time.monotonic() - self._start))
            lines.insert(0, f'Training is finished: {runner.iter:,} iterations, {took} in this run.')
        lines.append(f'  log: {shown(runner.logger.log_file)}')
        pictures = Path(runner.log_dir, 'vis_data', 'vis_image')
        if pictures.is_dir():
            lines.append(f'  pictures: {shown(str(pictures))}')
        lines += self._next(runner, last if _found_nothing(rows) or not best else best)
        runner.logger.info('\n'.join(lines))

    def _next(self, runner: Runner, checkpoint: str) -> list[str]:
        if not checkpoint:
            return []
        work_dir = ['--work-dir', self.args.work_dir] if self.args.work_dir else []
        out = shown(os.path.join(runner.work_dir, 'test'))
        commands = [('test', *work_dir, '--out', out)] if runner.cfg.get('test_dataloader') else []
        commands += [('predict', 'PICTURES'), ('export',)]
        lines = [command_line(name, self.args, shown(checkpoint), *more) for name, *more in commands]
        if runner.cfg.get('test_dataloader'):
            lines.insert(1, shlex.join(['python', '-m', 'mmyolo_bgpenalty', 'report', shown(runner.work_dir)]))
        return ['What to run next:', *(f'  {line}' for line in lines)]

    def stopped(self, runner: Runner, how: str) -> None:
        """Log how to continue a run that was stopped."""
        if not isinstance(runner.optim_wrapper, OptimWrapper):  # the data are read before it is built
            runner.logger.info(f'{how} before the first iteration.')
            return
        # The loop counts an iteration after its hooks. A hook may have saved it, or stopped the run.
        done = max(runner.iter, runner.optim_wrapper.inner_count)
        lines, latest = [f'{how} after iteration {done:,} of {runner.max_iters:,}.'], latest_checkpoint(runner.work_dir)
        if not latest:
            lines[0] += ' No checkpoint has been saved yet.'
        else:
            lines[0] += f' The latest checkpoint is {shown(latest)}. To continue from it:'
            flags = ['--work-dir', self.args.work_dir] if self.args.work_dir else []
            flags += ['--amp'] if self.args.amp else []
            again = command_line('train', self.args, *flags, '--resume')
            lines.append(f'  {again}' if self.args.launcher == 'none' else '  the same command, with --resume')
        runner.logger.info('\n'.join(lines))


def _threads() -> str:
    threads = torch.get_num_threads()
    return f', {threads} thread{"s" * (threads > 1)} on {number_of_cores()} cores' if get_device() == 'cpu' else ''


def _faster(runner: Runner) -> str:
    slow = type(runner.optim_wrapper) is OptimWrapper and get_device() == 'cpu' and computes_in_bf16()
    return '. The processor has instructions for bf16: --amp trains faster' * slow


def _how_to_train_longer(runner: Runner) -> str:
    by_iter = isinstance(runner.train_loop, IterBasedTrainLoop)
    unit, length = ('iterations', runner.max_iters) if by_iter else ('epochs', runner.max_epochs)
    return (
        f'This run is finished: all {length:,} {unit} are done, and its learning rate is at its end. To train longer, '
        f'start a new run without --resume, in another --work-dir. `load_from` can name the last checkpoint'
    )


def _found_nothing(rows: Rows) -> bool:
    return any(values.get('mAP') == 0 for values in list(rows.values())[:1])


def _values(rows: Rows) -> list[str]:
    """The values of the first model, which is the teacher of a semi-supervised run."""
    lines = [
        f'    {role}: {", ".join(f"{name} {value:.3f}" for name, value in values.items())}'
        for role, values in rows.items()
    ]
    return lines[:1]


def _judgement(rows: Rows) -> list[str]:
    """The values of the first model, and what they mean."""
    lines = _values(rows)
    if _found_nothing(rows):
        lines.append(f'    the {next(iter(rows))} has found no object in validation: train longer')
    teacher, student = (rows.get(role, {}).get('mAP', 0.0) for role in ('teacher', 'student'))
    if student - teacher > BETTER:
        lines.append(
            '    the student was better than the teacher: train longer, or predict with the student '
            '(--cfg-options model.semi_test_cfg.predict_on=student)'
        )
    return lines


def best_checkpoint(runner: Runner) -> str:
    """The path of the best checkpoint, of the first metric of ``save_best`` if it has several. '' without one."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            paths = [getattr(hook, 'best_ckpt_path', None), *getattr(hook, 'best_ckpt_path_dict', {}).values()]
            return next((path for path in paths if path), '')
    return ''


def shown(path: str) -> str:
    """A path as a person reads it: relative, if it is below the current folder."""
    relative = os.path.relpath(path) if path and '://' not in path else path
    return path if relative.startswith('..') else relative


def _images(runner: Runner) -> str:
    dataset = runner.train_dataloader.dataset
    if isinstance(dataset, LabeledUnlabeledDataset):
        numbers = [f'{len(member):,} {source}' for source, member in zip(dataset.sources, dataset.datasets)]
        text = ', '.join(numbers[:-1]) + ' and ' * (len(numbers) > 1) + numbers[-1]
    else:
        text = f'{len(dataset):,}'
    return text if runner.val_loop is None else f'{text}, {len(runner.val_dataloader.dataset):,} for validation'


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with InputCheck() as check:
        cfg = check.cfg = load_config(args)
        flag('report', cfg.get('report', False))
        if args.launcher == 'none':
            lock_folder(cfg.work_dir)  # before the runner writes there
        sync_bn = args.launcher == 'pytorch' and get_device() == 'cpu' and init_cpu_processes(cfg)
        setup_cache_size_limit_of_dynamo()
        runner = build_runner(cfg)
        if sync_bn:
            sync_batch_norm_on_cpu(runner.model)
        runner.register_hook(check)
        if not any(isinstance(hook, ResumableCheckpointHook) for hook in runner.hooks):
            # ResumableCheckpointHook would check the checkpoint itself.
            check_start(runner, optimizer=False)
            for hook in [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]:
                runner.register_hook(RunFolder(hook))
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
        page = bool(cfg.get('report')) and is_main_process()
        end_workers(runner)
    del runner, report, check
    destroy_processes()
    gc.collect()  # memory for the report
    if page:
        write_page(cfg.work_dir)


def end_workers(runner: Runner) -> None:
    """End the worker processes of the data loaders.

    The runner is in a reference cycle. When the garbage collector frees it, the queues close before the workers are
    told to end. Then torch waits 5 s for each worker, and terminates it.
    """
    for loop in (runner.train_loop, runner.val_loop):
        # IterBasedTrainLoop keeps the iterator, too.
        for holder in (getattr(loop, 'dataloader', None), getattr(loop, 'dataloader_iterator', None)):
            if getattr(holder, '_iterator', None) is not None:
                holder._iterator = None  # type: ignore[union-attr]


def write_page(work_dir: str) -> None:
    """Test the best checkpoint and write ``report.html`` to the work dir. Without it the training is complete, too."""
    page = Path(work_dir, 'report.html')
    try:
        write_report(page, [work_dir])
    except Exception as error:  # memory may be short
        if not isinstance(error, (OSError, ValueError)):
            traceback.print_exc()
        again = shlex.join(['python', '-m', 'mmyolo_bgpenalty', 'report', work_dir])
        print(f'No report: {error}. The training is complete. To try again: {again}')
    else:
        print(f'The mistakes, in a browser: {shown(str(page))}')
