"""States that are nested dicts and lists of tensors."""

import torch


def tensors(node, path=''):
    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, (dict, list, tuple)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from tensors(value, f'{path}.{key}')


def same(one, other):
    one, other = dict(tensors(one)), dict(tensors(other))
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
