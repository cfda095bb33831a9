"""The parts of a config: hooks, datasets, pipelines, loop. A missing part is an empty dict.

Paths are dotted as in ``--cfg-options``: ``train_dataloader.dataset.labeled.pipeline.1``.
"""

import ast
import functools
import os.path as osp
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmyolo.registry
from mmdet.datasets.api_wrappers import COCO
from mmengine.fileio import list_from_file

from mmyolo_bgpenalty.engine.schedule import DEFAULT_PLAN
from mmyolo_bgpenalty.engine.settings import HOOK_SETTINGS, settings_in
from mmyolo_bgpenalty.utils.coco_json import read_coco

READERS = ('mmdet.datasets.coco', 'mmyolo_bgpenalty.')  # the modules whose datasets read COCO json files


def kind_of(node) -> str:
    """The class name of a part without its scope, or '' if there is no ``type``."""
    kind = node.get('type') if isinstance(node, Mapping) else None
    return '' if kind is None else str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def class_of(node, registry: str, scope: str | None = None) -> type | None:
    """The class of a part, from the registry of MMYOLO or MMDetection. None if it is unknown or a function."""
    kind = node.get('type') if isinstance(node, Mapping) else None
    if not isinstance(kind, str):
        return kind if isinstance(kind, type) else None
    scopes = [] if '.' in kind else dict.fromkeys([node.get('_scope_') or scope or 'mmyolo', 'mmyolo', 'mmdet'])
    for name in [*(f'{scope}.{kind}' for scope in scopes), kind]:
        found = getattr(mmyolo.registry, registry).get(name)
        if found is not None:
            return found if isinstance(found, type) else None
    return None


@dataclass(frozen=True)
class Part:
    """A dict with a ``type``. ``names`` holds the names of its class and of the base classes."""

    path: str
    node: Mapping
    names: frozenset[str]

    @property
    def kind(self) -> str:
        return kind_of(self.node)


@dataclass(frozen=True)
class Transform(Part):
    """``branch``: its branch of MultiBranch, or None. ``inner``: whether it belongs to a ``pre_transform``."""

    branch: str | None
    inner: bool


@dataclass(frozen=True)
class Dataset(Part):
    """A dataset that reads files. ``role`` is 'labeled', 'unlabeled', 'empty', 'train', 'val' or 'test'."""

    role: str
    transforms: list[Transform]

    @property
    def pipeline(self) -> str:
        """The path of its pipeline."""
        return f'{self.path}{"_" if self.kind == "EmptyImageDataset" else "."}pipeline'

    @property
    def has_labels(self) -> bool:
        return self.role not in ('unlabeled', 'empty')

    @property
    def ann_file(self) -> str:
        name = self.node.get('ann_file')
        return self.joined(name) if name else ''

    @property
    def folder(self) -> str:
        prefix = self.node.get('data_prefix') or {}
        return self.joined(prefix.get('img_path', prefix.get('img', '')) if isinstance(prefix, Mapping) else '')

    def joined(self, name: str) -> str:
        """The path of a name that is relative to ``data_root``. Absolute paths and URLs stay as they are."""
        return name if osp.isabs(name) or '://' in name else osp.join(self.node.get('data_root') or '', name)

    def is_local(self, path: str) -> bool:
        """Whether a path must exist on this machine. SolarPanelDataset makes its files on first use."""
        to_be_made = 'SolarPanelDataset' in self.names and not osp.exists(self.joined('solar.json'))
        return not to_be_made and '://' not in path and not self.node.get('backend_args')


def names_of(node, registry: str, scope: str | None = None) -> frozenset[str]:
    """The names of the class of a part and of its base classes."""
    bases = getattr(class_of(node, registry, scope), '__mro__', ())
    return frozenset([kind_of(node), *(base.__name__ for base in bases)]) - {'', 'object'}


def transforms_in(
    pipeline, path: str, scope: str | None = None, branch: str | None = None, inner: bool = False
) -> Iterator[Transform]:
    """The transforms of a pipeline. A transform that contains others comes before them."""
    nodes = enumerate(pipeline) if isinstance(pipeline, (list, tuple)) else [(None, pipeline)]
    for place, node in nodes:
        here = path if place is None else f'{path}.{place}'
        if isinstance(node, (list, tuple)):
            yield from transforms_in(node, here, scope, branch, inner)
        if not kind_of(node):
            continue
        yield Transform(here, node, names_of(node, 'TRANSFORMS', scope), branch, inner)
        if kind_of(node) == 'Albu':  # contains transforms of albumentations
            continue
        for key, value in node.items():
            if 'branch_field' in node and key not in ('type', '_scope_', 'branch_field'):
                yield from transforms_in(value, f'{here}.{key}', scope, key, inner)
            elif key in ('transforms', 'transform', 'pre_transform', 'aug_space', 'policies'):
                yield from transforms_in(value, f'{here}.{key}', scope, branch, inner or key == 'pre_transform')


def datasets_in(node, path: str, role: str, scope: str | None = None, outer: tuple = ()) -> Iterator[Dataset]:
    """The datasets that read files, also inside wrappers. ``outer``: the transforms of the wrappers."""
    if not isinstance(node, Mapping):
        return
    transforms = (*transforms_in(node.get('pipeline') or [], f'{path}.pipeline', scope), *outer)
    members = {key: node[key] for key in ('labeled', 'unlabeled', 'dataset') if isinstance(node.get(key), Mapping)}
    if isinstance(node.get('datasets'), (list, tuple)):
        members = {f'datasets.{place}': member for place, member in enumerate(node['datasets'])}
    for key, member in members.items():
        named = key if key in ('labeled', 'unlabeled') else role
        yield from datasets_in(member, f'{path}.{key}', named, scope, transforms)
    if node.get('empty') is not None:
        labeled = next(datasets_in(node.get('labeled'), f'{path}.labeled', 'labeled', scope), None)
        own = {key: labeled.node[key] for key in ('data_root', 'data_prefix') if labeled and key in labeled.node}
        own |= dict(type='EmptyImageDataset', source=node['empty'], pipeline=node.get('empty_pipeline') or [])
        views = list(transforms_in(own['pipeline'], f'{path}.empty_pipeline', scope))
        yield Dataset(f'{path}.empty', own, names_of(own, 'DATASETS', scope), 'empty', views)
    if not members and kind_of(node):
        branches = {transform.branch for transform in transforms} - {None}
        if role == 'train' and branches:
            role = 'labeled' if 'sup' in branches else 'unlabeled'
        yield Dataset(path, node, names_of(node, 'DATASETS', scope), role, list(transforms))


def dicts_in(node: Any, path: str = '') -> Iterator[tuple[str, Mapping]]:
    """All dicts below a dict or a list, with their dotted paths."""
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
        here = f'{path}.{key}' if path else str(key)
        if isinstance(value, Mapping):
            yield here, value
        if isinstance(value, (Mapping, list, tuple)):
            yield from dicts_in(value, here)


def coco_or_error(file: str) -> dict | ValueError:
    """The content of a COCO json file, or the error that says why it cannot be read."""
    try:
        return read_coco(file, training=True)
    except ValueError as problem:
        return problem


class ConfigParts:
    """The parts of a config, and what a Runner knows.

    ``hooks`` of a Runner are added if the config does not name them. ``epoch_length`` is the number of iterations of an
    epoch, if it is known.
    """

    def __init__(self, cfg: Mapping, hooks: Iterable = (), epoch_length: int | None = None):
        self.epoch_length = epoch_length
        self.cfg: Mapping = cfg.to_dict() if hasattr(cfg, 'to_dict') else cfg
        self.filename, self.text = (str(getattr(cfg, name, None) or '') for name in ('filename', 'text'))
        self.scope = self.cfg.get('default_scope')
        named, listed = self.cfg.get('default_hooks'), self.cfg.get('custom_hooks')
        paths = [f'default_hooks.{key}' for key in named] if isinstance(named, Mapping) else []
        paths += [f'custom_hooks.{i}' for i in range(len(listed))] if isinstance(listed, (list, tuple)) else []
        self.hooks = [hook for hook in (self.part(path, 'HOOKS') for path in paths) if hook.kind]
        known = {hook.kind for hook in self.hooks}
        for hook in hooks:
            if type(hook).__name__ not in known:
                names = frozenset(base.__name__ for base in type(hook).__mro__)
                self.hooks.append(Part('the hooks of the Runner', dict(vars(hook), type=type(hook)), names))
        self.model = self.part('model', 'MODELS')
        self.semi = 'SemiBaseDetector' in self.model.names
        self.detector = self.part('model.detector' if self.semi else 'model', 'MODELS')
        self.head = self.part(f'{self.detector.path}.bbox_head', 'MODELS')
        self.penalised = 'BgPenaltyYOLOv8Head' in self.head.names
        losses = (node for node in self.head.node.values() if isinstance(node, Mapping) and kind_of(node))
        wrapped = any('BackgroundPenaltyLoss' in names_of(node, 'MODELS', self.scope) for node in losses)
        self.has_penalty = self.penalised or wrapped
        self.sampler = self.part('train_dataloader.sampler', 'DATA_SAMPLERS')
        self.batch_sampler = self.part('train_dataloader.batch_sampler', 'DATA_SAMPLERS')
        self.train_set = self.part('train_dataloader.dataset', 'DATASETS')
        self.train, self.val, self.test = (
            list(datasets_in(self.get(path), path, path.partition('_')[0], self.scope))
            for path in ('train_dataloader.dataset', 'val_dataloader.dataset', 'test_dataloader.dataset')
        )
        if self.get('test_dataloader') == self.get('val_dataloader'):
            self.test = []
        self.datasets = [*self.train, *self.val, *self.test]
        self.coco = functools.cache(coco_or_error)

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path."""
        node: Any = self.cfg
        for key in path.split('.'):
            if isinstance(node, (list, tuple)) and key.isdigit() and int(key) < len(node):
                node = node[int(key)]
            elif isinstance(node, Mapping) and key in node:
                node = node[key]
            else:
                return default
        return node

    def part(self, path: str, registry: str) -> Part:
        node = self.get(path)
        node = node if isinstance(node, Mapping) else {}
        return Part(path, node, names_of(node, registry, self.scope))

    def entries(self, path: str) -> list[tuple[str, Mapping]]:
        """Path and content of each dict in the list at a path. One dict counts as a list of one."""
        node = self.get(path) or []
        found = [(path, node)] if isinstance(node, Mapping) else [(f'{path}.{i}', one) for i, one in enumerate(node)]
        return [(where, one) for where, one in found if isinstance(one, Mapping)]

    @functools.cached_property
    def given(self) -> frozenset[str]:
        """The variables that the config file gives to ``mmyolo_bgpenalty.config(…)``."""
        try:
            nodes = list(ast.walk(ast.parse(Path(self.filename).read_text(encoding='utf-8'))))
        except (OSError, ValueError, SyntaxError):
            return frozenset()
        calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).endswith('.config')]
        return frozenset(word.arg for call in calls for word in call.keywords if word.arg)

    def hooks_of(self, name: str) -> list[Part]:
        """The hooks of a class and of its subclasses."""
        return [hook for hook in self.hooks if name in hook.names]

    def classes_of(self, dataset: Dataset) -> list[str] | None:
        """The class names of a dataset, in the order of the labels. None if neither config nor class has names."""
        meta = dataset.node.get('metainfo') or {}
        found = meta.get('classes', meta.get('CLASSES')) if isinstance(meta, Mapping) else None
        if found is None:
            found = getattr(class_of(dataset.node, 'DATASETS', self.scope), 'METAINFO', {}).get('classes')
        if isinstance(found, str):
            # A remote file is not read.
            return None if '://' in found else list_from_file(found) if osp.isfile(found) else [found]
        return list(found) if found else None

    def coco_of(self, dataset: Dataset) -> dict | ValueError | None:
        """The content of the json file of a dataset, or the error.

        None if the class reads another format, or if the file is no local json or is not made yet.
        """
        file, kind = dataset.ann_file, class_of(dataset.node, 'DATASETS', self.scope)
        load = getattr(kind, 'load_data_list', None)
        reads = getattr(kind, 'COCOAPI', None) is COCO and getattr(load, '__module__', '').startswith(READERS)
        return self.coco(file) if reads and file.endswith('.json') and dataset.is_local(file) else None

    @property
    def by_epoch(self) -> bool | None:
        """Whether the train loop counts epochs. None if its class is unknown."""
        loop = self.part('train_cfg', 'LOOPS')
        if not loop.kind:
            return self.get('train_cfg.by_epoch')
        return True if 'EpochBasedTrainLoop' in loop.names else False if 'IterBasedTrainLoop' in loop.names else None

    @property
    def plan(self) -> dict | None:
        """The schedule of λ: the arguments of ``lambda_bg_at``. None without a LambdaBgSchedulerHook."""
        hooks = self.hooks_of('LambdaBgSchedulerHook')
        if not hooks:
            return None
        stated = {**hooks[0].node, **hooks[0].node.get('plan', {})}  # a hook of the Runner has `plan`
        stated |= {HOOK_SETTINGS[k]: value for k, value in settings_in(self.cfg).items() if k in HOOK_SETTINGS}
        return {name: stated.get(name, default) for name, default in DEFAULT_PLAN.items()}

    @property
    def length(self) -> float | None:
        """Length of training in epochs or, if the loop does not count epochs, iterations."""
        return self.get('train_cfg.max_epochs' if self.by_epoch else 'train_cfg.max_iters')
