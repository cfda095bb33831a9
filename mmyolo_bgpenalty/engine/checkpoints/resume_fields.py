"""The fields of a checkpoint that a run continues from: random states, and a check of the types of the fields."""

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch


def random_state() -> dict:
    """The random states of this process, in types that safe loading accepts."""
    name, keys, *rest = np.random.get_state()
    numpy = (name, np.asarray(keys).tolist(), *rest)
    state: dict[str, Any] = dict(python=random.getstate(), numpy=numpy, torch=torch.get_rng_state())
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping) -> None:
    """Set the random states of this process."""
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def wrong_field(content: Mapping, optimizer: bool) -> str | None:
    """Which field of a checkpoint is of a wrong kind, and what was expected. None if there is none.

    The checkpoint must have `meta`, `message_hub` and, with ``optimizer``, `optimizer`. A checkpoint of MMEngine's
    CheckpointHook has no `resume`.
    """
    hub, position = content['message_hub'], content.get('resume')
    checks: list[tuple[str, str, Callable[[], bool]]] = [
        ('meta.epoch', 'a whole number >= 0', lambda: _is_count(content['meta']['epoch'])),
        ('meta.iter', 'a whole number >= 0', lambda: _is_count(content['meta']['iter'])),
        ('meta.seed', 'a whole number', lambda: type(content['meta'].get('seed', 0)) in (int, type(None))),
    ]
    for name in ('log_scalars', 'runtime_info', 'resumed_keys'):
        checks.append((f'message_hub.{name}', 'a dict', partial(_has_dict, hub, name)))
    if optimizer:
        checks.append(('optimizer', 'the state of an optimizer', lambda: _is_optimizer(content['optimizer'])))
    if position is not None:
        checks += [
            ('resume.batch', 'a whole number >= 0', lambda: _is_count(position['batch'])),
            ('resume.batches', 'a whole number >= 0', lambda: _is_count(position['batches'])),
            ('resume.validated', 'True or False', lambda: isinstance(position['validated'], bool)),
            ('resume.random_states', 'a list of random states', lambda: _are_states(position['random_states'])),
        ]
    for name, expected, check in checks:
        try:
            right = check()
        except Exception:  # what an absent key or another type raises
            right = False
        if not right:
            return f'Expected `{name}` to be {expected}, but got {_shown(content, name)}'
    return None


def _has_dict(hub: Mapping, name: str) -> bool:
    return isinstance(hub[name], Mapping)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_optimizer(state: Mapping) -> bool:
    if 'param_groups' not in state:  # of several optimizers, by name
        return bool(state) and all(_is_optimizer(one) for one in state.values())
    return isinstance(state['state'], Mapping) and all('params' in group for group in state['param_groups'])


def _are_states(states: Any) -> bool:
    """Try each state in generators that nobody uses."""
    for state in states:
        random.Random().setstate(state['python'])
        np.random.RandomState().set_state(state['numpy'])
        torch.Generator().set_state(state['torch'].cpu())
    return isinstance(states, list)


def _shown(content: Any, name: str) -> str:
    for key in name.split('.'):
        if not isinstance(content, Mapping) or key not in content:
            return 'nothing'
        content = content[key]
    text = repr(content)
    return text if len(text) <= 60 else f'a {type(content).__name__} with other content'
