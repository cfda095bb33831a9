"""All checks of a config, and of a Runner that starts to train."""

import logging
from collections.abc import Mapping

from mmengine.logging import print_log
from mmengine.runner import Runner

from mmyolo_bgpenalty.config_check import evaluation, pipelines, sizes
from mmyolo_bgpenalty.config_check.files import built, images, labels, weights
from mmyolo_bgpenalty.config_check.findings import Finding, run_checks
from mmyolo_bgpenalty.config_check.parts import ConfigParts
from mmyolo_bgpenalty.config_check.settings import arguments, length, training, values

WIRING = (*arguments.CHECKS, *values.CHECKS, *training.CHECKS, *pipelines.CHECKS, *sizes.CHECKS, *evaluation.CHECKS)
FILES = (*weights.CHECKS, *labels.CHECKS, *images.CHECKS)


def check_config(cfg: Mapping, data: bool = True) -> list[Finding]:
    """The mistakes in a config, errors first. Nothing is built. Mistakes in the settings of testing are warnings.

    ``cfg`` includes its ``--cfg-options``. With ``data``, the json files are read and the images are looked for.
    """
    findings = run_checks((*WIRING, *length.CHECKS, *FILES) if data else WIRING, ConfigParts(cfg))
    findings = [finding._replace(level='warning') if _of_test(finding) else finding for finding in findings]
    return sorted(findings, key=lambda finding: finding.level)


def check_at_start(runner: Runner) -> None:
    """Check the config and the datasets of a Runner. Warnings are logged.

    Raises:
        ValueError: lists the errors.
        Exception: the first image of a dataset cannot be loaded or predicted.
    """
    findings = start_findings(runner)
    for finding in findings:
        if finding.level == 'warning':
            print_log(str(finding), logger='current', level=logging.WARNING)
    errors = [str(finding) for finding in findings if finding.level == 'error']
    if errors:
        raise ValueError('Expected a config without mistakes, but found:\n' + '\n'.join(errors))
    built.try_first_images(runner)


def start_findings(runner: Runner) -> list[Finding]:
    """The mistakes in the config and the datasets of a Runner, apart from those of testing."""
    parts = ConfigParts(runner.cfg, runner.hooks, epoch_length=_epoch_length(runner))
    findings = run_checks((*WIRING, *length.CHECKS, labels.check_json), parts)
    findings += run_checks([built.check_built_sets], runner)
    return [finding for finding in findings if not _of_test(finding)]


def _epoch_length(runner: Runner) -> int | None:
    try:
        return len(runner.train_dataloader)
    except TypeError:  # an iterable dataset has no length
        return None


def _of_test(finding: Finding) -> bool:
    return finding.where.startswith('test_')
