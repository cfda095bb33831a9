"""Comparison of states: nested dicts and lists of tensors."""

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def tensors(node, path=''):
    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, (dict, list, tuple)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from tensors(value, f'{path}.{key}')


def same(one, other):
    one, other = dict(tensors(one)), dict(tensors(other))
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def states(runner):
    return {
        'model': runner.model.state_dict(),
        'optimizer': runner.optim_wrapper.state_dict(),
        'schedulers': [scheduler.state_dict() for scheduler in runner.param_schedulers],
    }


def assert_equal(a, b, path=''):
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_equal(a[key], b[key], f'{path}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f'{path}[{i}]')
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
    elif isinstance(a, HistoryBuffer):
        np.testing.assert_array_equal(a.data, b.data, path)  # nan equals nan
    else:
        assert a == b or callable(a), path
