"""The setting that an error is about."""

import re

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import VISUALIZERS, Registry
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn

from mmyolo_bgpenalty.config_check.settings.culprit import explain, message_of

PARTS = Registry('tone', locations=[])


@PARTS.register_module()
class Horn:
    def __init__(self, pitch, valves=3, mute=None):
        if valves < 1:
            raise ValueError(f'cannot be {valves}')
        assert pitch > 0
        self.mute = mute and PARTS.build(mute)


@PARTS.register_module()
class Door:
    def __init__(self, **arguments):
        raise RuntimeError('something broke: None of the 2 doors in side.json is open')


@PARTS.register_module()
class Bell:
    def __init__(self, clapper):
        raise ValueError('Expected `clapper` to ring')


def caught(cfg, path='part'):
    """The error of building a part, and a config in which the part has a place."""
    with pytest.raises(Exception) as caught:
        PARTS.build(ConfigDict(cfg))
    return caught.value, {'other': [dict(type='Horn', pitch=9)], path: cfg}


@pytest.mark.parametrize(
    'cfg, line',
    [
        (dict(type='Hornn', pitch=1), "part.type: got 'Hornn', expected a class of the registry .*: is Horn meant?"),
        (dict(type='Horn', pitch=1, vales=2), 'part.vales: got 2, .*unexpected keyword'),
        (dict(type='Horn', pitch=1, valves=-1), 'part.valves: got -1, expected another value: ValueError: cannot be'),
        (dict(type='Horn', pitch='high'), "part.pitch: got 'high', expected another value: TypeError: '>' not"),
        (dict(type='Horn', pitch=1, valves=[3]), r'part.valves: got \[3\], expected another value: TypeError'),
        (dict(type='Horn', pitch=0), r'part.pitch: got 0, .*AssertionError: assert'),
        (dict(type='Horn', pitch=1, mute=dict(type='Horn', pitch='low')), "part.mute.pitch: got 'low', .*"),
        (dict(type='Door', root='', mode=None, size=2, side=dict(a=1)), 'part: RuntimeError: something broke'),
        (dict(type='Bell', clapper=dict(a=1)), 'part.clapper: Expected `clapper` to ring$'),
        (dict(type='Horn'), "part: TypeError: .*missing 1 required positional argument: 'pitch'"),
    ],
)
def test_an_error_of_building_a_part_names_its_setting(cfg, line):
    error, whole = caught(cfg)
    assert re.match(line, explain(error, whole)), explain(error, whole)
    assert '\n' not in explain(error, whole)


def test_a_part_that_is_built_with_further_entries_is_found():
    cfg = dict(type='Horn', pitch='high')
    with pytest.raises(TypeError) as caught:
        PARTS.build(ConfigDict(cfg, valves=2))
    assert explain(caught.value, dict(part=cfg)).startswith("part.pitch: got 'high'")


@VISUALIZERS.register_module()
class Offline(Visualizer):
    def add_config(self, config):
        raise RuntimeError('the server does not answer')


def test_an_error_of_the_runner_itself_names_no_part(tmp_path):
    cfg = dict(model=dict(type='BaseDataPreprocessor'), visualizer=dict(type='Offline', name='offline'))
    with pytest.raises(RuntimeError) as caught:
        Runner(work_dir=str(tmp_path), cfg=Config(cfg), default_scope='mmyolo', **cfg)
    assert explain(caught.value, cfg) == 'RuntimeError: the server does not answer'


def test_an_optimizer_is_found():
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr='fast', momentum=0.9))
    with pytest.raises(TypeError) as caught:
        build_optim_wrapper(nn.Linear(1, 1), ConfigDict(wrapper))
    line = explain(caught.value, dict(optim_wrapper=wrapper))
    assert line.startswith("optim_wrapper.optimizer.lr: got 'fast', expected another value: TypeError")


def test_an_error_elsewhere_is_shown_in_one_line():
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) + torch.zeros(3)
    line = explain(caught.value, dict(part=dict(type='Horn')))
    assert line == message_of(caught.value) and line.startswith('RuntimeError: The size') and '\n' not in line
