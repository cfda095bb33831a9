"""Misspelt entries of a part: arguments that its class does not take."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from typing import Any

from mmengine.hooks import CheckpointHook
from torch.utils.data import DataLoader

from mmyolo_bgpenalty.config_check.findings import Findings, error, first_of
from mmyolo_bgpenalty.config_check.overrides import similar
from mmyolo_bgpenalty.config_check.parts import ConfigParts, class_of, dicts_in, transforms_in
from mmyolo_bgpenalty.models.empty_branch import EMPTY_LOSSES, LABELED_LOSSES, EmptyBranch
from mmyolo_bgpenalty.models.losses.penalty import BackgroundPenaltyOptions
from mmyolo_bgpenalty.models.pseudo_boxes.thresholds import TYPES
from mmyolo_bgpenalty.models.semi_options import LOSSES, PSEUDO_TEST_CFG, SemiTrainOptions

# Entries that the Runner, a head of MMDetection or an optimizer constructor takes out before it builds the part.
TAKEN_OUT = dict(
    HOOKS={'priority'},
    PARAM_SCHEDULERS={'convert_to_iter_based'},
    MODELS={'bg_cls_weight'},
    OPTIMIZERS={'batch_size_per_gpu'},
)
READ = ('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'optim_wrapper', 'env_cfg')
# The default hooks of MMEngine's Runner, which None removes.
REMOVABLE = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
# Dicts in READ, and the keys that are read. Other keys are ignored, or fail late. A user's own code may read more keys,
# so only a key that is similar to one of these is a mistake.
LOOSE = dict(
    env_cfg=('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    dist_cfg=('backend', 'timeout', 'init_backend'),
    semi_test_cfg=('predict_on', 'forward_on', 'extract_feat_on'),
    nms=('iou_threshold', 'class_agnostic', 'split_thr', 'max_num', 'score_threshold', 'min_score'),
    clip_grad=('max_norm', 'norm_type', 'clip_value', 'error_if_nonfinite'),
    filter_cfg=('filter_empty_gt', 'min_size'),
    metainfo=('classes', 'palette'),
)
Typed = tuple[str, Mapping, str]  # path, content, registry


def check_arguments(parts: ConfigParts) -> Findings:
    """A class is left out if one of its bases may take any argument."""
    for path, node, registry in typed_parts(parts):
        kind = class_of(node, registry, parts.scope)
        known = None if kind is None else arguments_of(kind)
        if kind is not None and known is not None:
            taken_out = {'type', '_scope_', *TAKEN_OUT.get(registry, ())}
            yield from _unknown(path, kind.__name__, set(node) - taken_out, known)


def check_options(parts: ConfigParts) -> Findings:
    """Dicts of options, which are no parts."""
    semi, own = 'model.semi_train_cfg', 'SemiYOLODetector' in parts.model.names
    loader = [*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch']
    loaders = (f'{name}_dataloader' for name in ('train', 'val', 'test'))
    options: dict[str, Collection[str]] = {name: loader for name in loaders if parts.get(name)}
    penalty_options = [field.name for field in fields(BackgroundPenaltyOptions)]
    if parts.penalised:
        options[f'{parts.head.path}.bg_penalty'] = ['lambda_bg', *penalty_options]
    if own:
        options[semi] = [field.name for field in fields(SemiTrainOptions)]
        options[f'{semi}.pseudo_test_cfg'] = list(PSEUDO_TEST_CFG)
        options |= {f'{semi}.{name}_loss_weights': LOSSES for name in ('sup', 'unsup')}
    if parts.model.names & {'SemiYOLODetector', 'EmptyImagesYOLODetector'}:
        options['model.bg_branch'] = [field.name for field in fields(EmptyBranch)]
        options['model.bg_branch.penalty'] = penalty_options
        options['model.bg_branch.loss_weights'] = EMPTY_LOSSES
    if 'EmptyImagesYOLODetector' in parts.model.names:
        options['model.sup_loss_weights'] = LABELED_LOSSES
    if 'DenseSemiYOLODetector' in parts.model.names:
        options['model.dense'] = ['share', 'gamma']
    for path, known in options.items():
        yield from _unknown(path, path.rpartition('.')[2], set(parts.get(path) or {}), known)
    thresholds = parts.get(f'{semi}.class_thresholds') or {}
    if own and thresholds.get('type') in TYPES:
        kind: type = TYPES[thresholds['type']]
        of_the_detector = frozenset(['num_classes', 'per_image', 'score_thr'])
        names = (arguments_of(kind) or frozenset()) - of_the_detector
        yield from _unknown(f'{semi}.class_thresholds', thresholds['type'], set(thresholds) - {'type'}, names)


def check_loose_dicts(parts: ConfigParts) -> Findings:
    """Misspelt keys that no class refuses."""
    for path, node in dicts_in({name: parts.get(name) for name in READ}):
        yield from _misspelt(path, node, LOOSE.get(path.rpartition('.')[2], ()))
    test_cfg = f'{parts.detector.path}.test_cfg'
    if 'YOLODetector' in parts.detector.names:  # other detectors read other keys
        yield from _misspelt(test_cfg, parts.get(test_cfg) or {}, PSEUDO_TEST_CFG)
    for hook in parts.hooks_of('CheckpointHook'):  # it fails at other arguments when it writes a checkpoint
        kind = class_of(hook.node, 'HOOKS', parts.scope)
        if kind and parts.get(hook.path):  # else it is a hook of the Runner
            own = inspect.signature(kind).parameters
            yield from _misspelt(hook.path, hook.node, {*inspect.signature(CheckpointHook).parameters, *own})


def check_removed_hooks(parts: ConfigParts) -> Findings:
    """MMEngine fails at other hooks that are None, and does not name them."""
    hooks = parts.get('default_hooks')
    for name, hook in hooks.items() if isinstance(hooks, Mapping) else ():
        if hook is None and name not in REMOVABLE:
            what = f'None removes only the hooks {", ".join(sorted(REMOVABLE))}'
            hint = 'write floor=1.0, which draws all images equally often' if name == 'misfires' else 'remove the entry'
            yield error(f'default_hooks.{name}', what, hint)


def _misspelt(path: str, node: Mapping, known: Collection[str]) -> Findings:
    for name in map(str, node):
        meant = None if name in known else similar(name, known, 0.8)
        if meant and meant not in node:
            yield error(f'{path}.{name}', f'nothing reads `{name}`', f'write `{meant}`')


def _unknown(path: str, owner: str, names: Collection, known: Collection[str]) -> Findings:
    for name in sorted(map(str, set(names) - set(known))):
        meant = similar(name, known)
        # A child config merges its dict into that of its base, also if it has another `type`.
        inherited = ' (or write _delete_=True beside `type`, if a base config has it)' if owner[0].isupper() else ''
        if name == 'empty' and path == 'train_dataloader.dataset':
            instead = f'inherit yolov8_bgpenalty_own_empty.py and write {path}.empty, or empty=… in its config(…)'
            yield error(f'{path}.{name}', f'{owner} takes no images without objects', instead)
            continue
        instead = f'write `{meant}`' if meant else f'remove it{inherited}. {owner} takes {first_of(sorted(known), 12)}'
        yield error(f'{path}.{name}', f'{owner} takes no `{name}`', instead)


def typed_parts(parts: ConfigParts) -> Iterator[Typed]:
    """The parts whose classes take the entries as arguments."""
    for part in parts.hooks:
        if parts.get(part.path):  # else it is a hook of the Runner
            yield part.path, part.node, 'HOOKS'
            switched = transforms_in(
                part.node.get('switch_pipeline') or [], f'{part.path}.switch_pipeline', parts.scope
            )
            yield from ((one.path, one.node, 'TRANSFORMS') for one in switched)
    for dataset in (parts.train_set, *parts.datasets):
        yield dataset.path, dataset.node, 'DATASETS'
    yield from ((one.path, one.node, 'TRANSFORMS') for dataset in parts.datasets for one in dataset.transforms)
    for name in ('train', 'val', 'test'):
        yield from _entries(parts, f'{name}_dataloader.sampler', 'DATA_SAMPLERS')
        yield from _entries(parts, f'{name}_dataloader.batch_sampler', 'DATA_SAMPLERS')
        yield from _entries(parts, f'{name}_evaluator', 'METRICS')
        yield from _entries(parts, f'{name}_cfg', 'LOOPS')
    yield from _entries(parts, 'param_scheduler', 'PARAM_SCHEDULERS')
    yield from _entries(parts, 'optim_wrapper.optimizer', 'OPTIMIZERS')
    yield from _models(parts.model.node, 'model', parts.scope)


def _entries(parts: ConfigParts, path: str, registry: str) -> Iterator[Typed]:
    return ((where, node, registry) for where, node in parts.entries(path))


def _models(node: Any, path: str, scope: str | None) -> Iterator[Typed]:
    """The parts of a model, but not layers such as ``norm_cfg``: these are built in other ways, with more entries."""
    if isinstance(node, Mapping) and 'type' in node:
        registry = next((name for name in ('MODELS', 'TASK_UTILS') if class_of(node, name, scope)), None)
        if registry is None:
            return
        yield path, node, registry
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in children:
        layer = str(key).endswith('_cfg') and isinstance(child, Mapping) and 'type' in child
        if not layer:
            yield from _models(child, f'{path}.{key}', scope)


@functools.cache
def arguments_of(kind: type) -> frozenset[str] | None:
    """The arguments of a class. None if it may take any argument, because it gives ``**kwargs`` to something else."""
    names: set[str] = set()
    for base in kind.__mro__:
        init = vars(base).get('__init__')
        if init is None:
            continue
        # `**kwargs` end at `object` if an optional base is missing. A decorator may take older names of arguments.
        if not inspect.isfunction(init) or hasattr(init, '__wrapped__'):
            return None
        _, *parameters = inspect.signature(init).parameters.values()
        names |= {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
        rest = [one.name for one in parameters if one.kind == one.VAR_KEYWORD]
        if not rest:
            return frozenset(names)
        if not _goes_to_super(init, rest[0]):
            return None
    return None


def _goes_to_super(init, rest: str) -> bool:
    """Whether ``**rest`` only goes to ``super().__init__``. Reading it, or setting a default, does not matter."""
    try:
        nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(init)))))
    except (OSError, SyntaxError):
        return False
    uses = sum(isinstance(node, ast.Name) and node.id == rest for node in nodes)
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    passed = [call for call in calls if any(word.arg is None and _is(word.value, rest) for word in call.keywords)]
    harmless = sum(_is(call.func, f'{rest}.{name}') for call in calls for name in ('get', 'setdefault'))
    return len(passed) + harmless == uses and bool(passed) and all(_is(one.func, 'super().__init__') for one in passed)


def _is(node: ast.expr, text: str) -> bool:
    return ast.unparse(node) == text


CHECKS = (check_arguments, check_options, check_loose_dicts, check_removed_hooks)
