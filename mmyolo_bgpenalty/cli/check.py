"""Check a config before a long training: its settings and its files. --step also runs one forward and backward pass.

Exit code 0: no errors, possibly warnings. 1: errors. 2: the config cannot be read, or an argument is wrong.
"""

import contextlib
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial

from mmengine.config import Config
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmyolo_bgpenalty.cli.dry_run import FirstPass, dry_run, errors_at_start
from mmyolo_bgpenalty.cli.run import InputCheck, command, config_parser, in_users_code, lines_of, read_config
from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.config_check.findings import Finding, error, first_of
from mmyolo_bgpenalty.config_check.settings.plan import run_plan

COLOURS = dict(error='bold red', warning='yellow')


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = config_parser(__doc__)
    parser.add_argument('--step', action='store_true', help='run one forward and backward pass on the first batch')
    args = parser.parse_args(argv)
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)  # `try_out` hides what others print
    with InputCheck() as check:
        cfg = check.cfg = read_config(args.config, args.cfg_options)
        plan, findings = run_plan(cfg), check_config(cfg)
    if plan is not None:
        console.print(Text(f'Plan: {plan}'))
    if not any(finding.level == 'error' for finding in findings):
        findings += try_out(cfg, errors_at_start)
    if args.step:
        if any(finding.level == 'error' for finding in findings):
            console.print('The errors below must be corrected before --step can run.')
        else:
            findings += try_out(cfg, partial(take_step, console))
    show_findings(console, args.config, findings)
    return int(any(finding.level == 'error' for finding in findings))


def try_out(cfg: Config, trial: Callable[[Config], list[Finding]]) -> list[Finding]:
    """The findings of a trial. An exception becomes a finding."""
    if not all(cfg.get(name) for name in ('train_dataloader', 'train_cfg', 'optim_wrapper')):
        return []
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # hides what MMEngine and the datasets print
            return trial(cfg)
    except Exception as problem:
        if in_users_code(problem):
            traceback.print_exc()
        where, _, what = lines_of(problem, cfg).partition(': ')
        if where.partition('.')[0] not in cfg:
            return [error('the start of training', lines_of(problem, cfg), 'training would stop with this error')]
        return [error(where, what, 'correct this setting')]


def take_step(console: Console, cfg: Config) -> list[Finding]:
    """Run one pass and show its results."""
    first = dry_run(cfg)
    show_pass(console, first)
    return [
        Finding('error', 'the first step', f'{name} is not finite', 'check the loss weights, `load_from` and the data')
        for name in first.not_finite
    ]


def show_pass(console: Console, first: FirstPass) -> None:
    if first.start:
        console.print(Text(f'Weights: {first.start}'))
    images = ', '.join(f'{number} {branch}' for branch, number in first.images.items())
    console.print(Text(f'One pass on the first batch ({images}):'))
    for name, value in first.losses.items():
        console.print(Text(f'    {name:<24}{value:.6g}'))
    if first.penalty:
        stats = ' '.join(f'{name}={value:.4g}' for name, value in first.penalty.items())
        console.print(Text(f'BG penalty at λ_bg={first.lambda_bg:g}: {stats}'))
    if first.pseudo_boxes is not None:
        hint = '' if first.start else ' (from initial weights; --cfg-options load_from=… starts from trained ones)'
        console.print(Text(f'Pseudo-boxes: {first.pseudo_boxes}{hint}'))
    norms = ', '.join(f'{part} {norm:.4g}' for part, norm in first.gradients.items())
    console.print(Text(f'Gradient norm: {norms}'))
    if first.untouched:
        console.print(Text(f'No gradient reaches {len(first.untouched)} parameters: {first_of(first.untouched)}'))
    if first.plan:
        title = f'The plan. λ_bg and the ramp are those at the start of an {first.unit}.'
        table = Table(f'{first.unit}', 'to', 'mode', 'λ_bg', 'unsup ramp', title=title, title_justify='left')
        for row in first.plan:
            table.add_row(f'{row.first}', f'{row.last}', row.mode, f'{row.lambda_bg:.4g}', f'{row.unsup_ramp:.4g}')
        console.print(table)


def show_findings(console: Console, name: str, findings: list[Finding]) -> None:
    for finding in findings:
        console.print(Text(f'{finding.level}: ', COLOURS[finding.level]).append(finding.where, 'bold'))
        console.print(Text(f'    {finding.what}'))
        console.print(Text(f'    -> {finding.instead}', 'green'))
    errors = sum(finding.level == 'error' for finding in findings)
    console.print(Text(f'{name}: errors: {errors}, warnings: {len(findings) - errors}'))
