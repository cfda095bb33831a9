"""ConfigCheckHook: misspelt settings from any tool, and one check for all processes."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmyolo_bgpenalty import ConfigCheckHook
from mmyolo_bgpenalty.config_check import hook
from tests.helpers.processes import in_two_processes


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(lamda_bg=2.0), '`lamda_bg`.*`lambda_bg` meant'),
        (dict(bg_lambda=2.0), '`bg_lambda`.*`lambda_bg` meant'),
        (dict(lambda_bg=2.0, work_dir='a', load_from=None, launcher='none'), None),
        (dict(trial=7), None),
    ],
)
def test_a_misspelt_setting_is_refused_in_any_tool(tmp_path, change, message):
    """The tools/train.py of MMDetection does not check --cfg-options. Tools may add their own names."""
    file = tmp_path / 'mine.py'
    file.write_text('lambda_bg = 1.0\nlambda_box = 7.5\nmax_epochs = 3\ntrain_cfg = dict(max_epochs=max_epochs)\n')
    cfg = Config.fromfile(file)
    cfg.merge_from_dict(change)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        ConfigCheckHook().before_run(SimpleNamespace(cfg=cfg))


def test_the_names_in_a_config_without_a_file_are_not_checked():
    ConfigCheckHook().before_run(SimpleNamespace(cfg={}))


@pytest.mark.parametrize('error', [None, ValueError('two mistakes'), KeyError('of any kind')])
@pytest.mark.parametrize('point, name', [('before_run', '_check_dead_names'), ('before_train', 'check_at_start')])
def test_the_main_process_checks_and_all_processes_stop(tmp_path, monkeypatch, point, name, error):
    checked = []

    def check(subject):
        checked.append(subject)
        if error is not None:
            raise error

    def start(rank):
        try:
            getattr(ConfigCheckHook(), point)(SimpleNamespace(cfg={}))
        except Exception as problem:
            return len(checked), str(problem)
        return len(checked), None

    monkeypatch.setattr(hook, name, check)
    message = None if error is None else str(error)
    assert in_two_processes(start, tmp_path) == [(1, message), (0, message)]
