import inspect

import pytest
from mmengine.config import Config

from mmyolo_bgpenalty import LambdaBgSchedulerHook
from mmyolo_bgpenalty.engine.settings import HOOK_SETTINGS, SETTINGS, hook_arguments, settings_in
from tests.helpers.tiny import CONFIGS


def test_settings_come_from_the_top_level():
    stated = {'use_focal_bg': False, 'lambda_bg': 0, 'burn_in': 0}
    assert settings_in(stated) == stated
    assert settings_in({'lambda_bg': 1.0, 'max_epochs': 20}) == {'lambda_bg': 1.0}
    assert settings_in({'burn_in': None}) == {'burn_in': None}  # None is refused later, and takes no default
    assert settings_in({'model': {'lambda_bg': 3, 'lamda_bg': 3}}) == {}


def test_every_setting_is_in_the_shipped_config_and_all_but_use_focal_bg_are_arguments_of_the_hook():
    cfg = Config.fromfile(CONFIGS / 'yolov8_semi_bgpenalty.py')
    assert settings_in(cfg).keys() == set(SETTINGS) == {*HOOK_SETTINGS, 'use_focal_bg'}
    assert {*HOOK_SETTINGS.values(), 'by_epoch'} == set(inspect.signature(LambdaBgSchedulerHook).parameters)


@pytest.mark.parametrize('kind', ['LambdaBgSchedulerHook', 'mmyolo.LambdaBgSchedulerHook', LambdaBgSchedulerHook])
@pytest.mark.parametrize('place', ['default_hooks', 'custom_hooks'])
def test_the_arguments_of_the_hook(place, kind):
    """A Python-style config has the class as `type`."""
    hook = {'type': kind, 'burn_in': 2, 'by_epoch': False}
    cfg = {'default_hooks': {'logger': None}, place: {'x': hook} if place == 'default_hooks' else [hook]}
    assert hook_arguments(cfg) == {'burn_in': 2, 'by_epoch': False}


def test_a_config_without_the_hook_has_no_arguments():
    assert hook_arguments({}) == {}
    assert hook_arguments({'default_hooks': {'logger': {'interval': 20}}, 'custom_hooks': [{'type': 'EMAHook'}]}) == {}
