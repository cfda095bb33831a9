"""Paths of the shipped configs, for use in configs of other projects."""

import ast
import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mmyolo_bgpenalty.utils.arguments import one_of, similar, similar_file

MODEL_SIZES = ('n', 's', 'm', 'l', 'x', 'n/2')  # of YOLOv8; 'n/2' has half the width of n


def config(name: str, **variables: Any) -> str:
    """Absolute path of a shipped config, in an installed package or in a checkout.

    MMEngine's prefix ``package::`` supports only OpenMMLab's packages. In a config of another project, write
    ``_base_ = __import__('mmyolo_bgpenalty').config('yolov8_semi_bgpenalty.py')``.

    A child config cannot change a variable of its base, because the base has already used the variable. ``variables``
    change it before: ``config('yolov8_semi_bgpenalty.py', img_scale=(640, 512))`` is the path of a copy in which every
    pipeline has this size. The copy is removed when the process ends.

    Args:
        name: file name of the config.
        **variables: new values of variables that the config or its bases assign: numbers, strings, and tuples, lists
            and dicts of them.

    Raises:
        FileNotFoundError: there is no such config. The message suggests one, or lists all but the parts in ``_base_``.
        ValueError: neither the config nor its bases assign such a variable, or its value cannot be right.
    """
    for variable, value in variables.items():
        _check_value(variable, value)
    folder = _folder()
    if not (folder / name).is_file():
        files = (file.relative_to(folder) for file in folder.rglob('*.py'))
        known = sorted(str(file) for file in files if file.parts[0] != '_base_')
        meant = similar_file(name, known)
        hint = f'is {meant} meant?' if meant else f'the shipped configs are {", ".join(known)}'
        raise FileNotFoundError(f'no shipped config is called {name!r}; {hint}')
    return _copy(name, repr(variables)) if variables else str(folder / name)


def _check_value(variable: str, value: Any) -> None:
    if variable == 'model' or variable.endswith(('_dataloader', '_evaluator', '_wrapper', '_hooks', '_cfg')):
        # The new value would replace the whole section.
        raise ValueError(f'`{variable}` is no variable: write {variable} = dict(…) below `_base_`, where it is merged')
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError):
        kind = type(value).__name__
        raise ValueError(
            f'Expected `{variable}` to be a plain number, string, tuple, list or dict, but got a {kind}: {value!r}'
        ) from None
    if variable == 'model_size':
        one_of(variable, value, MODEL_SIZES)
    if variable == 'img_scale' and not (isinstance(value, (tuple, list)) and len(value) == 2):
        raise ValueError(f'Expected `img_scale` to be (width, height), such as (640, 640), but got {value!r}')


def _folder() -> Path:
    package = Path(__file__).resolve().parent.parent
    return next(path for path in (package / '.mim/configs', package.parent / 'configs') if path.is_dir())


@cache
def variables_of_configs() -> set[str]:
    """The names of the variables that the shipped configs assign."""
    files = _folder().glob('**/*.py')
    return {name for file in files for name in re.findall(r'^(\w+) = ', file.read_text(encoding='utf-8'), re.M)}


@cache  # MMEngine reads a config several times
def _copy(name: str, text: str) -> str:
    """Copy the configs into a folder of this process, with other values of the variables. Returns the path."""
    folder = Path(tempfile.mkdtemp(prefix='mmyolo_bgpenalty-'))
    atexit.register(_remove, folder, os.getpid())
    shutil.copytree(_folder(), folder, ignore=shutil.ignore_patterns('__pycache__'), dirs_exist_ok=True)
    variables = ast.literal_eval(text)
    assigned = _assign(folder, folder / name, variables)
    for variable in variables:
        if variable not in assigned:
            meant = similar(variable, assigned) or 'one of ' + ', '.join(sorted(assigned))
            raise ValueError(f'{name} has no variable `{variable}`; is it {meant}?')
    return str(folder / name)


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not a fork, which inherits this function
        shutil.rmtree(folder, ignore_errors=True)


def _assign(folder: Path, file: Path, variables: Mapping[str, Any]) -> set[str]:
    """Change variables in a copied config and in its bases. Returns the names of all variables that they assign."""
    text = file.read_text(encoding='utf-8')
    lines, names = text.splitlines(keepends=True), set()
    for node in reversed(ast.parse(text).body):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        if name == '_base_':
            bases = list(_bases(folder, file, node.value, variables))
            names |= {found for base, values in bases for found in _assign(folder, base, values)}
            value: Any = [str(base) for base, _ in bases]
        elif name in variables:
            value = variables[name]
        else:
            value = node.value
        names |= {name} - {'_base_'}
        if not isinstance(value, ast.expr):
            lines[node.lineno - 1 : node.end_lineno] = [f'{name} = {value!r}\n']
    file.write_text(''.join(lines), encoding='utf-8')
    return names


def _bases(folder: Path, file: Path, value: ast.expr, variables: Mapping) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The bases of a copied config and their variables. A base is a path, or a call of ``config``."""
    for base in value.elts if isinstance(value, ast.List) else [value]:
        if isinstance(base, ast.Call):
            own = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in base.keywords}
            yield folder / ast.literal_eval(base.args[0]), {**own, **variables}
        else:
            yield file.parent / ast.literal_eval(base), dict(variables)
