import inspect
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmyolo_bgpenalty import LambdaBgSchedulerHook
from mmyolo_bgpenalty.config_check.overrides import check_overrides, dead_names
from mmyolo_bgpenalty.engine.settings import HOOK_SETTINGS, SETTINGS, hook_arguments, settings_in

RUNNER = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
SHIPPED = Config.fromfile(Path(__file__).resolve().parents[2] / 'configs' / 'yolov8_semi_bgpenalty.py').to_dict()
HOOK = {'type': 'LambdaBgSchedulerHook', 'warmup': 3}
CFG = {
    'lambda_bg': 1.0,
    'burn_in': None,
    'max_epochs': 20,
    'img_scale': (320, 256),
    'num_classes': 3,
    'train_cfg': {'type': 'EpochBasedTrainLoop', 'max_epochs': 20, 'val_interval': 5},
    'model': {'head': {'num_classes': 3, 'loss': {'num_classes': 3}}, 'data_preprocessor': None},
    'param_scheduler': [{'type': 'LinearLR', 'start_factor': 0.01, 'end': 50}, {'type': 'CosineAnnealingLR'}],
    'optim_wrapper': {'optimizer': {'type': 'AdamW', 'lr': 1e-3}},
    'default_hooks': {'logger': {'interval': 20}, 'lambda_bg': HOOK},
    'custom_hooks': [],
}


def refusal(*options, cfg=CFG):
    with pytest.raises(ValueError) as error:
        check_overrides(cfg, options, RUNNER)
    return str(error.value)


MISSPELT = [
    ('lamda_bg', 'lambda_bg'),
    ('lambda_bq', 'lambda_bg'),
    ('lambdabg', 'lambda_bg'),
    ('burnin', 'burn_in'),
    ('burn_in_', 'burn_in'),
    ('lambda_bg_warm_up', 'lambda_bg_warmup'),
    ('lambda_bg_schedul', 'lambda_bg_schedule'),
    ('use_focal', 'use_focal_bg'),
    ('focal_bg', 'use_focal_bg'),
]


@pytest.mark.parametrize('name, meant', MISSPELT)
def test_misspelt_settings_are_refused(name, meant):
    assert name in refusal(name) and f'`{meant}`' in refusal(name)


def test_settings_are_what_the_top_level_states():
    assert settings_in(CFG) == {'lambda_bg': 1.0}
    assert settings_in({'use_focal_bg': False, 'lambda_bg': 0, 'burn_in': 0}) == {
        'use_focal_bg': False,
        'lambda_bg': 0,
        'burn_in': 0,
    }
    assert settings_in({'model': {'lambda_bg': 3, 'lamda_bg': 3}}) == {}


def test_settings_of_the_shipped_config():
    assert settings_in(SHIPPED).keys() == set(SETTINGS)
    base = SHIPPED.keys() - set(SETTINGS)
    assert len(base) > 50 and settings_in(dict.fromkeys(base, 1)) == {}


def test_every_setting_of_the_hook_is_an_argument():
    arguments = inspect.signature(LambdaBgSchedulerHook).parameters
    assert set(HOOK_SETTINGS.values()) == arguments.keys() - {'by_epoch'}
    assert set(SETTINGS) == {*HOOK_SETTINGS, 'use_focal_bg'}


@pytest.mark.parametrize('name', SETTINGS)
def test_settings_may_be_overridden(name):
    """Even those that the config leaves out."""
    check_overrides(CFG, [name], RUNNER)


@pytest.mark.parametrize('name', SETTINGS)
def test_settings_without_a_hook_are_refused(name):
    cfg = {**CFG, 'default_hooks': {'logger': {'interval': 20}, 'timer': None}, 'custom_hooks': None}
    assert name in refusal(name, cfg=cfg) and 'LambdaBgSchedulerHook' in refusal(name, cfg=cfg)


@pytest.mark.parametrize(
    'type', ['LambdaBgSchedulerHook', 'mmyolo.LambdaBgSchedulerHook', LambdaBgSchedulerHook], ids=str
)
@pytest.mark.parametrize('place', ['default_hooks', 'custom_hooks'])
def test_the_hook_is_found(place, type):
    """Whichever way a config names it: Python-style configs state the class."""
    hook = {'type': type, 'burn_in': 2, 'by_epoch': False}
    cfg = {'default_hooks': {'logger': None}, place: {'x': hook} if place == 'default_hooks' else [hook]}
    assert hook_arguments(cfg) == {'burn_in': 2, 'by_epoch': False}
    check_overrides({**CFG, 'default_hooks': {}, **cfg}, ['lambda_bg'], RUNNER)


def test_arguments_of_the_hook():
    assert hook_arguments(CFG) == {'warmup': 3}
    assert hook_arguments({}) == {}
    assert hook_arguments({'default_hooks': {'logger': {'interval': 20}}, 'custom_hooks': [{'type': 'EMAHook'}]}) == {}


def test_dead_variables_are_refused_with_the_live_name():
    assert 'train_cfg.max_epochs' in refusal('max_epochs')
    assert 'model.head.num_classes' in refusal('num_classes') and 'model.head.loss.num_classes' in refusal(
        'num_classes'
    )
    for name in ('img_scale', 'max_epochs'):
        assert f'`{name}` is a variable' in refusal(name) and 'change nothing' in refusal(name)


def test_dead_variables_of_the_shipped_config():
    assert 'override train_cfg.max_epochs' in refusal('max_epochs', cfg=SHIPPED)
    for option in ('img_scale', 'train_pipeline', 'affine.max_rotate_degree', 'classes'):
        assert option in refusal(option, cfg=SHIPPED)


@pytest.mark.parametrize(
    'name, meant',
    [
        ('val_interval', 'train_cfg.val_interval'),
        ('lr', 'optim_wrapper.optimizer.lr'),
        ('modle.head', 'model'),
        ('train_config', 'train_cfg'),
    ],
)
def test_unknown_names_are_refused(name, meant):
    assert meant in refusal(name) and name in refusal(name)


def test_an_unknown_name_like_no_other():
    assert 'nothing reads `zzz`' in refusal('zzz') and 'meant' not in refusal('zzz')


@pytest.mark.parametrize(
    'name, meant',
    [
        ('train_cfg.max_epoch', 'train_cfg.max_epochs'),
        ('train_cfg.val_intervall', 'train_cfg.val_interval'),
        ('model.heads.num_classes', 'model.head.num_classes'),
        ('optim_wrapper.optimiser.lr', 'optim_wrapper.optimizer.lr'),
        ('default_hooks.lambda_bg.warm_up', 'default_hooks.lambda_bg.warmup'),
        ('default_hooks.loger.interval', 'default_hooks.logger.interval'),
    ],
)
def test_nested_misspellings_are_refused(name, meant):
    assert f'`{meant}`' in refusal(name) and name in refusal(name)


@pytest.mark.parametrize(
    'name',
    [
        'train_cfg.max_epochs',
        'train_cfg.val_begin',
        'optim_wrapper.clip_grad.max_norm',
        'optim_wrapper.optimizer.weight_decay',
        'param_scheduler.0.end',
        'param_scheduler.0.end_factor',
        'param_scheduler.7.end',
        'model.data_preprocessor.mean',
        'default_hooks.checkpoint.interval',
        'default_hooks.lambda_bg.by_epoch',
        'work_dir',
        'resume',
    ],
)
def test_legitimate_overrides_are_accepted(name):
    check_overrides(CFG, [name], RUNNER)


@pytest.mark.parametrize(
    'name', ['sup_weight', 'unsup_weight', 'min_pseudo_bbox_wh', 'pseudo_test_cfg.nms_pre', 'freeze_teacher']
)
def test_documented_options_of_the_detector_are_accepted(name):
    """Though one is named much like another that the shipped config states."""
    check_overrides(SHIPPED, [f'model.semi_train_cfg.{name}'], RUNNER)


def test_an_entry_of_what_is_no_dict_is_left_to_mmengine():
    check_overrides(CFG, ['train_cfg.max_epochs.x', 'custom_hooks.x'], RUNNER)


def test_one_bad_option_among_good_ones():
    assert 'train_cfg.max_epoch:' in refusal('lambda_bg', 'train_cfg.max_epoch', 'resume')


def test_a_valid_config_is_left_as_it_is():
    before = repr(CFG)
    check_overrides(CFG, ['lambda_bg', 'train_cfg.max_epochs'], RUNNER)
    settings_in(CFG), hook_arguments(CFG)
    assert repr(CFG) == before


CHILD = dict(
    max_epochs=2,
    img_scale=(64, 64),
    num_classes=2,
    scale=(9, 9),
    lamda_bg=1.5,
    note='mine',
    train_cfg=dict(max_epochs=20, val_interval=10),
    model=dict(head=dict(num_classes=2)),
    loader=dict(pipeline=[dict(type='Mosaic', img_scale=(320, 256)), dict(type='Resize', scale=(9, 9))]),
)


@pytest.mark.parametrize(
    'line, expected',
    [
        ('max_epochs = 2', {'max_epochs': 'train_cfg.max_epochs'}),
        ('img_scale = (64, 64)', {'img_scale': 'loader.pipeline.0.img_scale'}),
        ('lamda_bg = 1.5', {'lamda_bg': 'write lambda_bg'}),
        # Its value is where it is read; it is used; a setting; MMEngine reads it; a name of one's own.
        ('num_classes = 2', {}),
        ('scale = (9, 9)', {}),
        ('max_epochs = 2\ntrain_cfg = dict(max_epochs=max_epochs)', {}),
        ('lambda_bg = 1.5', {}),
        ('train_cfg = dict(max_epochs=20)', {}),
        ("note = 'mine'", {}),
    ],
)
def test_variables_that_a_child_restates_in_vain(line, expected):
    text, base = f"_base_ = './base.py'\n{line}\n", 'max_epochs = 20\nimg_scale = (320, 256)\n'
    found = dict(dead_names(text, base + text, CHILD, RUNNER))
    assert found.keys() == expected.keys() and all(expected[name] in instead for name, instead in found.items())
    assert not list(dead_names(f'{line}\n', base + line, CHILD, RUNNER))  # no child
    assert not [name for name, _ in dead_names(text, text, CHILD, RUNNER) if name != 'lamda_bg']  # of its own
