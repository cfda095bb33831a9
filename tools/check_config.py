"""Check a config before an hour is lost: its wiring, its files and, with --step, one forward and backward pass.

Exit code 0: no error (there may be warnings); 1: errors; 2: the config cannot be read.
"""

import argparse
import contextlib
import io
import sys
import traceback
from typing import List

from mmengine.config import DictAction
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmyolo_bgpenalty.cli.dry_run import Step, dry_run
from mmyolo_bgpenalty.cli.run import read_config, run
from mmyolo_bgpenalty.config_check.check import Finding, check_config

COLOURS = dict(error='bold red', warning='yellow')


def show_findings(console: Console, name: str, findings: List[Finding]) -> None:
    for finding in findings:
        console.print(Text(f'{finding.level}: ', COLOURS[finding.level]).append(finding.where, 'bold'))
        console.print(Text(f'    {finding.what}'))
        console.print(Text(f'    -> {finding.instead}', 'green'))
    errors = sum(finding.level == 'error' for finding in findings)
    console.print(Text(f'{name}: errors: {errors}, warnings: {len(findings) - errors}'))


def show_step(console: Console, step: Step, loaded: bool) -> None:
    images = ', '.join(f'{number} {branch}' for branch, number in step.images.items())
    console.print(Text(f'One pass over the first batch ({images}):'))
    for name, value in step.losses.items():
        console.print(Text(f'    {name:<24}{value:.6g}'))
    if step.penalty:
        stats = ' '.join(f'{name}={value:.4g}' for name, value in step.penalty.items())
        console.print(Text(f'BG penalty at λ_bg={step.lambda_bg:g}: {stats}'))
    if step.pseudo_boxes is not None:
        hint = '' if loaded else ' (from initial weights; --cfg-options load_from=… looks at trained ones)'
        console.print(Text(f'Pseudo-boxes: {step.pseudo_boxes}{hint}'))
    norms = ', '.join(f'{part} {norm:.4g}' for part, norm in step.gradients.items())
    console.print(Text(f'Gradient norm: {norms}'))
    if step.untouched:
        console.print(Text(f'No gradient reaches {len(step.untouched)} parameters: {", ".join(step.untouched[:5])}'))
    if step.plan:
        table = Table('from', 'to', 'mode', 'λ_bg', 'unsup ramp', title=f'By {step.unit}', title_justify='left')
        for row in step.plan:
            table.add_row(f'{row.first:g}', f'{row.last:g}', row.mode, f'{row.lambda_bg:.4g}', f'{row.unsup_ramp:.4g}')
        console.print(table)


def take_step(console: Console, cfg) -> List[Finding]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what the datasets and MMEngine say on the way
            step = dry_run(cfg)
    except Exception as problem:  # whatever a config's parts raise is a finding
        frame = traceback.extract_tb(problem.__traceback__)[-1]
        what = f'{type(problem).__name__}: {problem} ({frame.filename}:{frame.lineno})'
        return [Finding('error', 'the first step', what, 'see the message')]
    show_step(console, step, bool(cfg.get('load_from')))
    return [
        Finding('error', 'the first step', f'{name} is not finite', 'check its weight, the learning rate and the data')
        for name in step.not_finite
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='override settings')
    parser.add_argument('--step', action='store_true', help='take the first batch through one pass')
    args = parser.parse_args()
    try:
        cfg = read_config(args.config, args.cfg_options)
    except (SyntaxError, NameError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f'{args.config}: {type(problem).__name__}: {problem}') from None
    console = Console(highlight=False, soft_wrap=True)
    findings = check_config(cfg)
    if args.step:
        if any(finding.level == 'error' for finding in findings):
            console.print('No step is taken before the errors below are corrected.')
        else:
            findings += take_step(console, cfg)
    show_findings(console, args.config, findings)
    return int(any(finding.level == 'error' for finding in findings))


if __name__ == '__main__':
    sys.exit(run(main))
