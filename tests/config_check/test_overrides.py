import pytest
from mmengine.config import Config

from mmyolo_bgpenalty.config_check.overrides import check_overrides, dead_names
from mmyolo_bgpenalty.engine.settings import SETTINGS
from tests.helpers.tiny import CONFIGS

SHIPPED = Config.fromfile(CONFIGS / 'yolov8_semi_bgpenalty.py').to_dict()
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
        check_overrides(cfg, options)
    return str(error.value)


@pytest.mark.parametrize('name', SETTINGS)
def test_settings_can_be_overridden_if_a_hook_reads_them(name):
    """The config need not state them."""
    check_overrides(CFG, [name])
    cfg = {**CFG, 'default_hooks': {'logger': {'interval': 20}, 'timer': None}, 'custom_hooks': None}
    assert name in refusal(name, cfg=cfg) and 'LambdaBgSchedulerHook' in refusal(name, cfg=cfg)


@pytest.mark.parametrize(
    'name, meant',
    [
        ('lamda_bg', 'lambda_bg'),
        ('burn_in_', 'burn_in'),
        ('lambda_bg_warm_up', 'lambda_bg_warmup'),
        ('focal_bg', 'use_focal_bg'),
        ('modle.head', 'model'),
        ('train_cfg.max_epoch', 'train_cfg.max_epochs'),
        ('optim_wrapper.optimiser.lr', 'optim_wrapper.optimizer.lr'),
        ('default_hooks.lambda_bg.warm_up', 'default_hooks.lambda_bg.warmup'),
    ],
)
def test_misspelt_names_are_refused(name, meant):
    assert name in refusal(name) and f'is `{meant}` meant?' in refusal(name)


def test_a_launcher_is_an_option_of_train():
    assert refusal('launcher').endswith(': `train` sets it by its option --launcher')


@pytest.mark.parametrize('name, hint', [('val_interval', '; is train_cfg.val_interval meant?'), ('zzz', '')])
def test_names_that_nothing_reads_are_refused(name, hint):
    assert refusal(name).endswith(f'nothing reads `{name}`, so this would change nothing{hint}')


@pytest.mark.parametrize(
    'name, cfg, live',
    [
        ('max_epochs', CFG, 'override train_cfg.max_epochs'),
        ('num_classes', CFG, 'override model.head.num_classes or model.head.loss.num_classes'),
        ('img_scale', CFG, 'change nothing'),
        ('max_epochs', SHIPPED, 'override train_cfg.max_epochs'),
        *((name, SHIPPED, f'{name}=…)') for name in ('img_scale', 'train_pipeline', 'classes', 'model_size')),
        ('affine.max_rotate_degree', SHIPPED, 'affine=…)'),
    ],
)
def test_variables_that_the_config_has_used_are_refused(name, cfg, live):
    found = refusal(name, cfg=cfg)
    assert f'variable `{name.partition(".")[0]}`' in found and live in found


@pytest.mark.parametrize(
    'name',
    [
        *('optim_wrapper.clip_grad.max_norm', 'optim_wrapper.optimizer.weight_decay', 'model.data_preprocessor.mean'),
        *('param_scheduler.0.end_factor', 'param_scheduler.7.end', 'default_hooks.lambda_bg.by_epoch'),
        *('train_cfg.max_epochs.x', 'custom_hooks.x'),  # check_overrides lets these pass, but MMEngine refuses them
    ],
)
def test_entries_that_the_config_does_not_state_can_be_added(name):
    check_overrides(CFG, [name])


@pytest.mark.parametrize('name', ['sup_weight', 'min_pseudo_bbox_wh', 'pseudo_test_cfg.nms_pre', 'freeze_teacher'])
def test_options_of_the_detector_can_be_added(name):
    """`sup_weight` is similar to `unsup_weight`, which the config states."""
    check_overrides(SHIPPED, [f'model.semi_train_cfg.{name}'])


def test_one_bad_option_among_good_ones():
    good = ['lambda_bg', 'train_cfg.max_epochs', 'train_cfg.val_begin', 'param_scheduler.0.end', 'work_dir', 'resume']
    check_overrides(CFG, good)
    assert 'max_epochs:' in refusal(*good, 'max_epochs')


# Variables of a file


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


@pytest.mark.parametrize('line', ['img_scale = (64, 64)', 'flip = dict(type="RandomFlip")', "model_size = 's'"])
def test_a_variable_of_a_shipped_base_is_given_to_config(line):
    """An override of one of its places would leave the others as they are."""
    text = f"_base_ = './base.py'\n{line}\n"
    base = "img_scale = (320, 256)\nflip = dict(prob=0.5)\nmodel_size = 'n'\n"
    name = line.partition(' ')[0]
    found = dict(dead_names(text, base + text, {**SHIPPED, name: 'the new value'}))
    assert f"config('<the base>', {name}=…)" in found[name]


@pytest.mark.parametrize(
    'line, expected',
    [
        ('max_epochs = 2', {'max_epochs': 'train_cfg.max_epochs'}),
        ('img_scale = (64, 64)', {'img_scale': 'loader.pipeline.0.img_scale'}),
        ('lamda_bg = 1.5', {'lamda_bg': 'write lambda_bg'}),
        ('num_classes = 2\nscale = (9, 9)', {}),  # fine: deeper entries have the same names and values
        ('max_epochs = 2\ntrain_cfg = dict(max_epochs=max_epochs)', {}),
        ('lambda_bg = 1.5', {}),
        ('train_cfg = dict(max_epochs=20)', {}),
        ("note = 'mine'", {}),
    ],
)
def test_variables_of_a_file_that_nothing_reads(line, expected):
    text, base = f"_base_ = './base.py'\n{line}\n", 'max_epochs = 20\nimg_scale = (320, 256)\n'
    found = dict(dead_names(text, base + text, CHILD))
    assert found.keys() == expected.keys() and all(expected[name] in instead for name, instead in found.items())
    misspelt = {'lamda_bg'} & expected.keys()
    assert dict(dead_names(f'{line}\n', base + line, CHILD)).keys() == misspelt  # without a base
    assert dict(dead_names(text, text, CHILD)).keys() == misspelt  # the base has no such variables
