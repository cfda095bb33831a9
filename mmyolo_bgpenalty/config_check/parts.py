"""What a config says, by parts: hooks, datasets, pipelines, loop. A part that is absent is empty.

Paths are dotted as in ``--cfg-options``: ``train_dataloader.dataset.labeled.pipeline.1``.
"""

import os.path as osp
from typing import FrozenSet, Iterable, Iterator, List, Mapping, NamedTuple, Optional

from mmyolo_bgpenalty.engine.schedule import DEFAULT_PLAN
from mmyolo_bgpenalty.engine.settings import HOOK_SETTINGS, settings_in


def kind_of(node) -> str:
    """The name of a part's class, without scope; '' where it states none."""
    kind = node.get('type') if isinstance(node, Mapping) else None
    return '' if kind is None else str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def class_of(node, registry: str, scope: Optional[str] = None) -> Optional[type]:
    """The class that a part's ``type`` names in MMYOLO's or MMDetection's registry, or None."""
    import mmyolo.registry

    kind = node.get('type') if isinstance(node, Mapping) else None
    if not isinstance(kind, str):
        return kind if isinstance(kind, type) else None
    scopes = [] if '.' in kind else dict.fromkeys([node.get('_scope_') or scope or 'mmyolo', 'mmyolo', 'mmdet'])
    for name in [*(f'{scope}.{kind}' for scope in scopes), kind]:
        found = getattr(mmyolo.registry, registry).get(name)
        if found is not None:
            return found
    return None


class Part(NamedTuple):
    """``names`` are the names of its class and of those it inherits from."""

    path: str
    node: Mapping
    names: FrozenSet[str]

    @property
    def kind(self) -> str:
        return kind_of(self.node)


def part(path: str, node, registry: str, scope: Optional[str] = None) -> Part:
    node = node if isinstance(node, Mapping) else {}
    bases = getattr(class_of(node, registry, scope), '__mro__', ())
    return Part(path, node, frozenset([kind_of(node), *(base.__name__ for base in bases)]) - {'', 'object'})


class Step(NamedTuple):
    """A transform: ``branch`` of MultiBranch that it is in, or None; ``inner``: within another's ``pre_transform``."""

    path: str
    node: Mapping
    names: FrozenSet[str]
    branch: Optional[str]
    inner: bool

    @property
    def kind(self) -> str:
        return kind_of(self.node)


class Dataset(NamedTuple):
    """A dataset that reads files: ``role`` is 'labeled' or 'unlabeled' of a semi-supervised set, else its loader's."""

    path: str
    node: Mapping
    names: FrozenSet[str]
    role: str
    steps: List[Step]

    @property
    def ann_file(self) -> str:
        name = self.node.get('ann_file')
        return _joined(self.node, name) if name else ''

    @property
    def folder(self) -> str:
        prefix = self.node.get('data_prefix') or {}
        return _joined(self.node, prefix.get('img_path', prefix.get('img', '')) if isinstance(prefix, Mapping) else '')


def _joined(node: Mapping, name: str) -> str:
    return name if osp.isabs(name) or '://' in name else osp.join(node.get('data_root') or '', name)


def steps_in(
    pipeline, path: str, scope: Optional[str] = None, branch: Optional[str] = None, inner: bool = False
) -> Iterator[Step]:
    """The transforms of a pipeline, those within others after them."""
    steps = enumerate(pipeline) if isinstance(pipeline, (list, tuple)) else [(None, pipeline)]
    for place, node in steps:
        here = path if place is None else f'{path}.{place}'
        if isinstance(node, (list, tuple)):
            yield from steps_in(node, here, scope, branch, inner)
        if not kind_of(node):
            continue
        yield Step(*part(here, node, 'TRANSFORMS', scope), branch, inner)
        if kind_of(node) == 'Albu':  # its transforms are albumentations', not MMCV's
            continue
        for key, value in node.items():
            if 'branch_field' in node and key not in ('type', '_scope_', 'branch_field'):
                yield from steps_in(value, f'{here}.{key}', scope, key, inner)
            elif key in ('transforms', 'transform', 'pre_transform', 'aug_space', 'policies'):
                yield from steps_in(value, f'{here}.{key}', scope, branch, inner or key == 'pre_transform')


def datasets_in(node, path: str, role: str, scope: Optional[str] = None, outer: tuple = ()) -> Iterator[Dataset]:
    """The datasets that read files, within any wrappers; ``outer`` are the transforms of the wrappers."""
    if not isinstance(node, Mapping):
        return
    steps = (*steps_in(node.get('pipeline') or [], f'{path}.pipeline', scope), *outer)
    members = {key: node[key] for key in ('labeled', 'unlabeled', 'dataset') if isinstance(node.get(key), Mapping)}
    if isinstance(node.get('datasets'), (list, tuple)):
        members = {f'datasets.{place}': member for place, member in enumerate(node['datasets'])}
    for key, member in members.items():
        named = key if key in ('labeled', 'unlabeled') else role
        yield from datasets_in(member, f'{path}.{key}', named, scope, steps)
    if not members and kind_of(node):
        branches = {step.branch for step in steps} - {None}
        if role == 'train' and branches:
            role = 'labeled' if 'sup' in branches else 'unlabeled'
        yield Dataset(*part(path, node, 'DATASETS', scope), role, list(steps))


class ConfigParts:
    """The parts of ``cfg``, a mapping as mmengine's Config gives.

    Args:
        cfg: the config.
        hooks: hooks that a Runner was given beside the config's.
    """

    def __init__(self, cfg: Mapping, hooks: Iterable = ()):
        self.cfg = cfg.to_dict() if hasattr(cfg, 'to_dict') else cfg
        self.filename, self.text = (str(getattr(cfg, name, None) or '') for name in ('filename', 'text'))
        self.scope = self.cfg.get('default_scope')
        self.hooks = list(self._hooks())
        known = {hook.kind for hook in self.hooks}
        for hook in hooks:
            if type(hook).__name__ not in known:
                node = dict(vars(hook), type=type(hook))
                self.hooks.append(part('the hooks that were registered', node, 'HOOKS'))
        self.model = self.part('model', 'MODELS')
        self.semi = 'SemiBaseDetector' in self.model.names
        self.detector = self.part('model.detector' if self.semi else 'model', 'MODELS')
        self.head = self.part(f'{self.detector.path}.bbox_head', 'MODELS')
        self.penalised = 'BgPenaltyYOLOv8Head' in self.head.names
        self.sampler = self.part('train_dataloader.sampler', 'DATA_SAMPLERS')
        self.batch_sampler = self.part('train_dataloader.batch_sampler', 'DATA_SAMPLERS')
        self.train_set = self.part('train_dataloader.dataset', 'DATASETS')
        self.train = self._datasets('train')
        self.val = self._datasets('val')
        self.test = [] if self.get('test_dataloader') == self.get('val_dataloader') else self._datasets('test')

    def get(self, path: str, default=None):
        """What lies at a dotted path, or ``default``."""
        node = self.cfg
        for key in path.split('.'):
            if isinstance(node, (list, tuple)) and key.isdigit() and int(key) < len(node):
                node = node[int(key)]
            elif isinstance(node, Mapping) and key in node:
                node = node[key]
            else:
                return default
        return node

    def part(self, path: str, registry: str) -> Part:
        return part(path, self.get(path), registry, self.scope)

    def hooks_of(self, name: str) -> List[Part]:
        """The hooks of that class or of one that inherits from it."""
        return [hook for hook in self.hooks if name in hook.names]

    @property
    def by_epoch(self) -> Optional[bool]:
        """Whether the train loop counts epochs; None of a loop of one's own."""
        loop = self.part('train_cfg', 'LOOPS')
        if not loop.kind:
            return self.get('train_cfg.by_epoch')
        return True if 'EpochBasedTrainLoop' in loop.names else False if 'IterBasedTrainLoop' in loop.names else None

    @property
    def plan(self) -> Optional[dict]:
        """LambdaBgSchedulerHook's arguments, with the settings at the top level and defaults; None without the hook."""
        hooks = self.hooks_of('LambdaBgSchedulerHook')
        if not hooks:
            return None
        plan = dict(DEFAULT_PLAN, by_epoch=True)
        plan.update({key: value for key, value in hooks[0].node.items() if key in plan})
        plan.update(hooks[0].node.get('plan', {}))  # of a hook that was registered
        plan.update({HOOK_SETTINGS[k]: value for k, value in settings_in(self.cfg).items() if k in HOOK_SETTINGS})
        return plan

    @property
    def length(self) -> Optional[float]:
        """Length of training in the unit of ``plan``, where the config alone tells it."""
        plan = self.plan
        if plan is None or self.by_epoch is None or plan['by_epoch'] != self.by_epoch:
            return None
        return self.get('train_cfg.max_epochs' if self.by_epoch else 'train_cfg.max_iters')

    def _hooks(self) -> Iterator[Part]:
        for name, hooks in (
            ('default_hooks', self.cfg.get('default_hooks') or {}),
            ('custom_hooks', dict(enumerate(self.cfg.get('custom_hooks') or []))),
        ):
            for key, node in hooks.items():
                if kind_of(node):
                    yield part(f'{name}.{key}', node, 'HOOKS', self.scope)

    def _datasets(self, name: str) -> List[Dataset]:
        path = f'{name}_dataloader.dataset'
        return list(datasets_in(self.get(path), path, name, self.scope))
