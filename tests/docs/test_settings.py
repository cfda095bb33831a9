"""The tables of docs/reference/settings.md: each default is that of the config, and each range is that of the code."""

import inspect
import math
import re
from dataclasses import fields

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.dataset import DefaultSampler
from mmyolo.registry import HOOKS, MODELS

from mmyolo_bgpenalty.datasets.samplers import LabeledUnlabeledBatchSampler
from mmyolo_bgpenalty.engine.hooks.lambda_bg import LambdaBgSchedulerHook
from mmyolo_bgpenalty.engine.settings import HOOK_SETTINGS, SETTINGS
from mmyolo_bgpenalty.models.empty_branch import EmptyBranch
from mmyolo_bgpenalty.models.losses.penalty import BackgroundPenaltyOptions
from mmyolo_bgpenalty.models.semi_options import SemiTrainOptions
from tests.helpers.tiny import CONFIGS, ROOT

TEXT = (ROOT / 'docs/reference/settings.md').read_text(encoding='utf-8')
ROWS = {
    name: (default, values)
    for name, default, values in re.findall(r'^\| `([\w.]+)` \| (.+?) \| (.+?) \| .+ \|$', TEXT, re.M)
}
SHIPPED = Config.fromfile(CONFIGS / 'yolov8_semi_bgpenalty.py')
SHIPPED.merge_from_dict({'default_hooks.misfires': ConfigDict(type='MisfiresFirstHook'), 'model.bg_branch': {}})
HEAD, OPTIONS = 'model.detector.bbox_head.', 'model.semi_train_cfg.'
HOOK, SAMPLER = 'default_hooks.', 'train_dataloader.batch_sampler.'

# Values of a range, and values outside of it.
RANGES = {
    'number >= 0': ([0, 0.5, 7], [-0.1, math.inf, math.nan]),
    'number > 1': ([1.1, 7], [1, 0.5, math.inf]),
    'at least 0, below 1': ([0, 0.5], [-0.1, 1]),
    'above 0, below 1': ([0.1, 0.9], [0, 1]),
    'above 0, at most 1': ([0.1, 1], [0, 1.1]),
    '0 to 1': ([0, 0.3, 1], [-0.1, 1.1]),
    'whole number >= 1': ([1, 7], [0, 1.5]),
    'whole number >= 1, or `None`': ([1, 7, None], [0, 1.5]),
    'iterations, or a share below 1': ([0, 0.5, 7], [-1, 1.5]),
    'iterations > 0, a share below 1, or -1': ([0.5, 7, -1], [0, 1.5, -2]),
    '`True`, `False`': ([True, False], ['False', 1]),
    '`True`, `False`, or `None`': ([True, False, None], ['False', 1]),
    'a dict of numbers >= 0': ([{}, dict(loss_bg=0.5)], [dict(loss_bg=-1), dict(other=1)]),
    'options of `bg_penalty`': ([{}, dict(focal=True)], [dict(focal=1), dict(lambda_bg=1)]),
    'two numbers >= 0': ([(0, 3)], [(-1, 3), (1,)]),
    'two whole numbers >= 1': ([[1, 1], [3, 1]], [[0, 1], [1]]),
    "list of `'horizontal'`, `'vertical'`, `'diagonal'`": ([[], ['vertical', 'diagonal']], ['vertical', ['left']]),
}
# Files, a choice of classes, and a part that MMCV builds.
OTHERS = {
    *(OPTIONS + 'class_thresholds', 'train_dataloader.dataset.known_empty', 'train_dataloader.dataset.empty'),
    *('model.detector.train_cfg.assigner.type', 'model.detector.test_cfg.nms.iou_threshold'),
}


class Images:
    datasets, sources = [range(8)] * 3, ['labeled', 'unlabeled', 'empty']

    def __len__(self):
        return 24


def build(name, value):
    """Build what a setting belongs to, as the Runner does. A value that is out of range raises a ValueError."""
    cfg = SHIPPED._cfg_dict.to_dict()
    *path, last = name.split('.')
    place = cfg
    for key in path:
        place = place.setdefault(key, {})
    place[last] = value
    if name in HOOK_SETTINGS:
        LambdaBgSchedulerHook(**{HOOK_SETTINGS[name]: value})
    elif name == 'use_focal_bg':
        BackgroundPenaltyOptions(focal=value)
    elif name.startswith(HOOK):
        HOOKS.build(cfg['default_hooks'][path[1]])
    elif name.startswith(OPTIONS):
        options = cfg['model']['semi_train_cfg']
        if name.endswith('score_thr'):  # else the thresholds of the classes and of unsure boxes bound it
            options |= dict(class_thresholds=None, unsure_thr=0.0)
        if name.endswith('unsure_thr'):  # the highest threshold bounds it
            options |= dict(class_thresholds=dict(type='Fixed', thresholds=[1.0] * 3))
        SemiTrainOptions.from_cfg(options).build_class_thresholds(3)
    elif name.startswith(HEAD):
        detector = ConfigDict(cfg['model']['detector'])
        if name.endswith('sparse_targets') and value is False:
            detector.bbox_head.ignored_in_cls = False
        MODELS.build(dict(detector.bbox_head, train_cfg=detector.train_cfg, test_cfg=detector.test_cfg))
    elif name.startswith('model.bg_branch.'):
        EmptyBranch.from_cfg(cfg['model']['bg_branch'])
    elif name.startswith(SAMPLER):
        options = {key: entry for key, entry in cfg['train_dataloader']['batch_sampler'].items() if key != 'type'}
        LabeledUnlabeledBatchSampler(DefaultSampler(Images()), 4, **options)
    else:
        raise AssertionError(f'{name} is not tried')


def default_of(name):
    """The value in the shipped config or, if it does not state one, the default of the class."""
    *path, last = name.split('.')
    place = SHIPPED
    for key in path:
        place = place.get(key, {})
    if last in place:
        return place[last]
    if name.startswith(OPTIONS):
        options = SemiTrainOptions()
        return options.pseudo_test_cfg[last] if 'pseudo_test_cfg' in name else getattr(options, last)
    if name.startswith(HEAD + 'bg_penalty.'):
        return getattr(BackgroundPenaltyOptions(), last)
    if name.startswith('model.bg_branch.'):
        return getattr(EmptyBranch(), last)
    registry = HOOKS if name.startswith(HOOK) else MODELS if name.startswith(HEAD) else None
    kind = LabeledUnlabeledBatchSampler if registry is None else registry.get(place['type'])
    for base in kind.__mro__:
        parameter = inspect.signature(base).parameters.get(last)
        if parameter is not None:
            return parameter.default
    raise AssertionError(f'{name} has no default')


@pytest.mark.parametrize('name', sorted(set(ROWS) - OTHERS))
def test_a_default_is_that_of_the_config_or_of_the_class(name):
    text, _ = ROWS[name]
    value = default_of(name)
    value = dict(value) if isinstance(value, dict) else value
    stated = eval(text.strip('`'), {'dict': dict})
    assert stated == value and type(stated) in (type(value), int), text


@pytest.mark.parametrize('name', sorted(set(ROWS) - OTHERS))
def test_a_range_is_that_of_the_code(name):
    text = ROWS[name][1]
    if text in RANGES:
        inside, outside = RANGES[text]
    else:  # a list of names
        inside, outside = re.findall(r"`'(\w+)'`", text), ['another']
        assert text == ', '.join(f"`'{one}'`" for one in inside) and len(inside) > 1
    for value in inside:
        build(name, value)
    for value in outside:
        with pytest.raises(ValueError, match=r'Expected'):
            build(name, value)


def test_no_option_lacks_a_row():
    """Each setting at the top level, and each option of the teacher, the penalty and the empty images."""
    wanted = {*SETTINGS, *(OPTIONS + option.name for option in fields(SemiTrainOptions))}
    wanted |= {HEAD + 'bg_penalty.' + option.name for option in fields(BackgroundPenaltyOptions)}
    wanted |= {'model.bg_branch.' + option.name for option in fields(EmptyBranch)}
    rows = {re.sub(r'(?<=pseudo_test_cfg)\..+', '', row) for row in ROWS}
    assert wanted - rows == {HEAD + 'bg_penalty.focal'}  # use_focal_bg sets it
