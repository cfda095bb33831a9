"""The setting that an error is about, for errors that come while the parts of a config are built."""

import re
import traceback
from collections.abc import Iterator, Mapping
from types import FrameType

from mmengine.registry import Registry

from mmyolo_bgpenalty.config_check.overrides import similar
from mmyolo_bgpenalty.config_check.parts import dicts_in, kind_of
from mmyolo_bgpenalty.utils.files import printable

BUILDERS = ('mmengine.registry.', 'mmengine.runner.', 'mmengine.optim.', 'mmengine.dataset.')
LONGEST = 300  # characters of a message or value
# In the message of a TypeError, the kind of the wrong value.
KINDS = {"'str'": str, "'list'": list, "'dict'": dict, "'NoneType'": type(None), "'float'": float, "'int'": int}


def explain(error: BaseException, cfg: Mapping) -> str:
    """One line with the setting, its value, and what was expected, if the config has a part that raised the error."""
    message, frames = message_of(error), list(_frames(error))
    found = next(filter(None, (_part_in(frame, cfg) for frame in frames)), None)
    if found is None:
        return message
    path, node = found
    unknown = re.match(r'\S* ?(\S+) is not in the (.+?) registry', message)
    if unknown and kind_of(node) == unknown[1].rpartition('.')[2]:
        names = next((_names(frame.f_locals['registry']) for frame in frames if 'registry' in frame.f_locals), [])
        meant = similar(kind_of(node), names)
        expected = f'is {meant} meant?' if meant else 'is its module in `custom_imports`?'
        return f"{path}.type: got {node['type']!r}, expected a class of the registry '{unknown[2]}': {expected}"
    key = _entry(node, message)
    if key is None:
        return f'{path}: {message}'
    if isinstance(node[key], Mapping):
        return f'{path}.{key}: {message}'
    expected = message if 'xpected' in message else f'expected another value: {message}'
    return f'{path}.{key}: got {_shortened(repr(node[key]))}, {expected}'


def message_of(error: BaseException) -> str:
    """Kind and message of an error in one line. An assertion without a message shows its code."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = _shortened(' '.join(str(text).split()))
    if not text:
        text = traceback.extract_tb(error.__traceback__)[-1].line or 'no message'
    return text if text.startswith('Expected') else f'{type(error).__name__}: {text}'


def _shortened(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST else f'{text[:LONGEST]}…'


def _frames(error: BaseException | None) -> Iterator[FrameType]:
    """The frames of an error and of the errors that caused it, from the place where the first was raised."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for one in reversed(chain):
        yield from reversed([frame for frame, _ in traceback.walk_tb(one.__traceback__)])


def _part_in(frame: FrameType, cfg: Mapping) -> tuple[str, Mapping] | None:
    """The part that a function of MMEngine builds: the entry of the config that equals one of its variables."""
    module = frame.f_globals.get('__name__', '')
    # The other functions of the Runner have all parts in their variables.
    many = module.startswith('mmengine.runner.') and not frame.f_code.co_name.startswith('build')
    if many or not module.startswith(BUILDERS):
        return None
    built = [value for value in frame.f_locals.values() if isinstance(value, Mapping) and value]
    nodes = [(path, node) for path, node in dicts_in(cfg) if node]
    for value in built:
        for path, node in nodes:
            if node == value:
                return path, node
    # A part may get further entries from its owner.
    for value in built:
        fitting = [(path, node) for path, node in nodes if kind_of(node) and _within(node, value)]
        if fitting:
            return max(fitting, key=lambda found: len(found[1]))
    return None


def _within(node: Mapping, value: Mapping) -> bool:
    # `check` gives the visualizer a name of its own.
    return all(key == 'name' or (key in value and value[key] == entry) for key, entry in node.items())


def _names(registry: Registry) -> list[str]:
    parent = [] if registry.parent is None else _names(registry.parent)
    return [*registry.module_dict, *parent]


def _entry(node: Mapping, message: str) -> str | None:
    """The entry that a message names, or whose value it names, or whose kind is the wrong one."""
    keys = [key for key in node if key not in ('type', '_scope_')]
    for key in keys:
        if re.search(rf'(?<![\w/-]){re.escape(str(key))}(?!\.?\w)', message):  # not as the name of a file
            return key
    for key in keys:
        # Many messages have a digit, every message contains the empty text, and None is a common word.
        if (
            not isinstance(node[key], (Mapping, bool))
            and node[key] is not None
            and len(str(node[key])) > (not message.startswith('AssertionError'))
            and re.search(rf'(?<![\w.-]){re.escape(str(node[key]))}(?!\w)', message)
        ):
            return key
    for name, kind in KINDS.items():
        wrong = [key for key in keys if type(node[key]) is kind]
        if name in message and len(wrong) == 1:
            return wrong[0]
    return None
