"""Export a trained detector as a plain one: a config and weights that work without this package."""

import copy
import inspect
import io
import textwrap
from collections.abc import Mapping, MutableMapping, Sequence
from typing import NamedTuple

import torch
from mmdet.apis import inference_detector
from mmdet.models import BaseDetector
from mmdet.structures import DetDataSample
from mmdet.visualization import get_palette
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope, Registry
from mmyolo import registry as mmyolo_registry
from mmyolo.registry import DATASETS, MODELS
from torch import Tensor, nn

from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import read_checkpoint
from mmyolo_bgpenalty.models.losses.background_penalty_loss import BackgroundPenaltyLoss

PACKAGE = __name__.partition('.')[0]
REGISTRIES = [registry for registry in vars(mmyolo_registry).values() if isinstance(registry, Registry)]
# The settings at the top level of a config that testing and inference need.
KEPT = ('default_scope', 'env_cfg', 'visualizer', 'log_level', 'model', 'test_dataloader', 'test_evaluator', 'test_cfg')


class Export(NamedTuple):
    model: BaseDetector  # in eval mode
    cfg: Config
    checkpoint: dict  # for torch.save
    role: str  # what it was in training: 'teacher', 'student', or 'detector' of a supervised config


def export_detector(cfg: Config, path: str, student: bool = False) -> Export:
    """Extract the teacher or the student from a semi-supervised checkpoint, or the detector of a supervised one.

    The plain detector and the trained one predict on one picture. Their boxes, scores and labels must be equal bit for
    bit. Both use the contiguous memory format, since channels_last rounds differently.

    Args:
        cfg: the config of the training.
        path: the checkpoint.
        student: extract the student instead of the teacher.

    Raises:
        ValueError: the file is no checkpoint, or does not fit ``cfg``.
    """
    for key in ('model', 'test_dataloader'):
        if not cfg.get(key):
            raise ValueError(f'{cfg.filename}: expected `{key}` in the config, but there is none')
    semi = 'detector' in cfg.model
    if student and not semi:
        raise ValueError(f'{cfg.filename}: expected a semi-supervised config for --student, but got a supervised one')
    role = ('student' if student else 'teacher') if semi else 'detector'
    weights, meta = _read(path, role)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')):
        plain = plain_config(cfg)
        metainfo = dataset_metainfo(plain, meta.get('dataset_meta') or {}, path)
        plain.test_dataloader.dataset.metainfo = metainfo
        model = _build(MODELS, plain.model, 'model')
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = textwrap.shorten(str(error), 400)
            raise ValueError(f'{path}: its {role} does not fit the config: {reason}') from None
        trained = _build(MODELS, cfg.model, 'model').to(memory_format=torch.contiguous_format)
        (getattr(trained, role) if semi else trained).load_state_dict(model.state_dict())
        if semi:
            trained.semi_test_cfg = ConfigDict(predict_on=role)
        found, expected = _predictions(model, plain), _predictions(trained, cfg)
    if len(found) != len(expected) or not all(torch.equal(found[key], expected[key]) for key in expected.keys()):
        raise ValueError(
            f'{cfg.filename}: expected equal predictions of the plain and the trained detector, but they differ'
        )
    model.cfg, model.dataset_meta = copy.deepcopy(plain), metainfo
    kept = {key: meta[key] for key in ('epoch', 'iter', 'mmengine_version') if key in meta}
    kept |= dict(cfg=plain.pretty_text, dataset_meta=metainfo)
    return Export(model, plain, dict(meta=kept, state_dict=dict(model.state_dict())), role)


def plain_config(cfg: Config) -> Config:
    """The part of a config that testing and inference need. Parent classes replace the classes of this package."""
    plain = {key: copy.deepcopy(cfg[key]) for key in KEPT if cfg.get(key) is not None}
    scope = plain.setdefault('default_scope', 'mmdet')
    if 'detector' in plain['model']:
        # The semi-supervised model pre-processes for its detectors and ignores their own pre-processor.
        branches, plain['model'] = plain['model'].get('data_preprocessor') or {}, plain['model'].detector
        if 'data_preprocessor' in branches:
            plain['model'].data_preprocessor = branches['data_preprocessor']
    imports = dict(cfg.get('custom_imports') or {})
    imports['imports'] = [name for name in _listed(imports.get('imports')) if name.partition('.')[0] != PACKAGE]
    if imports['imports']:
        plain['custom_imports'] = imports
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook:
        plain['default_hooks'] = dict(visualization=copy.deepcopy(hook))
    evaluators = _listed(plain.pop('test_evaluator', None))
    own = [evaluator for evaluator in evaluators if _own_class(evaluator)]
    evaluators = [evaluator for evaluator in evaluators if not _own_class(evaluator)]
    # PrecisionRecallMetric becomes a CocoMetric. There must not be two of these.
    if not any(str(evaluator['type']).endswith('CocoMetric') for evaluator in evaluators):
        evaluators += own[:1]
    if evaluators:
        plain['test_evaluator'] = evaluators if len(evaluators) > 1 else evaluators[0]
    _replace(plain)
    # DetInferencer builds these in its own scope, 'mmdet' by default.
    dataset = plain['test_dataloader'].dataset
    for node in (plain['model'], dataset, *dataset.pipeline):
        node.setdefault('_scope_', scope)
    return Config(plain)


def checkpoint_bytes(checkpoint: dict) -> bytes:
    """The content of the file that torch.save would write."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def block_pictures(number: int, shape: Sequence[int]) -> Tensor:
    """Coloured blocks of 8 pixels, (number, 3, H, W), uint8. Detectors find objects in them, but not in noise."""
    generator = torch.Generator().manual_seed(number)
    grid = torch.randint(0, 256, (number, 3, -(-shape[0] // 8), -(-shape[1] // 8)), generator=generator)
    return grid.to(torch.uint8).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def _read(path: str, role: str) -> tuple[dict[str, Tensor], dict]:
    """The weights of one role, and ``meta``."""
    content = read_checkpoint(str(path))
    weights = content.get('state_dict') if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(f'{path}: expected a `state_dict` of tensors, as MMEngine writes it, but there is none')
    prefixes = {key.partition('.')[0] for key in weights}
    if role == 'detector' and prefixes >= {'teacher', 'student'}:
        raise ValueError(f'{path}: expected one detector, but got student and teacher: give the config of the training')
    if role != 'detector':
        if role not in prefixes:
            raise ValueError(f'{path}: expected weights `{role}.…` of a semi-supervised run, but there are none')
        weights = {key[len(role) + 1 :]: w for key, w in weights.items() if key.startswith(f'{role}.')}
    spoilt = [key for key, weight in weights.items() if not weight.isfinite().all()]
    if spoilt:
        raise ValueError(f'{path}: its {role} is not finite in {len(spoilt)} weights, the first is {spoilt[0]}')
    return weights, content.get('meta') or {}


def _predictions(detector: nn.Module, cfg: Config) -> DetDataSample:
    """Boxes on one picture, also those with low scores. The picture is not square, so that letterboxing is tested."""
    detector = copy.deepcopy(detector)
    detector.cfg = copy.deepcopy(cfg)
    for module in detector.modules():
        test_cfg = getattr(module, 'test_cfg', None)
        if isinstance(test_cfg, dict) and 'score_thr' in test_cfg:
            test_cfg.update(score_thr=0.0, nms_pre=1000)
    picture = block_pictures(1, (192, 336))[0].permute(1, 2, 0).numpy()
    return inference_detector(detector, picture).pred_instances


def dataset_metainfo(plain: Config, trained: Mapping, path: str) -> dict:
    """The classes of the test set and their colours. The training must have had the same classes."""
    dataset = _build(DATASETS, {**plain.test_dataloader.dataset, 'lazy_init': True}, 'test_dataloader.dataset')
    classes = tuple(dataset.metainfo.get('classes') or ())
    stored = tuple({key.lower(): value for key, value in trained.items()}.get('classes') or classes)
    if stored != classes:
        raise ValueError(f'{path}: expected the classes of `test_dataloader.dataset`, {classes}, but got {stored}')
    palette = dataset.metainfo.get('palette')
    if not isinstance(palette, (list, tuple)) or len(palette) < len(classes):
        palette = get_palette('random', len(classes))
    return dict(classes=classes, palette=[tuple(map(int, colour)) for colour in palette[: len(classes)]])


def _own_class(node) -> type | None:
    """The class of this package that ``type`` names, or None."""
    kind = node.get('type') if isinstance(node, Mapping) else None
    scope, _, name = str(getattr(kind, '__name__', kind)).rpartition('.')
    if scope.partition('.')[0] not in ('', 'mmyolo', PACKAGE):
        return None
    found = [registry.module_dict[name] for registry in REGISTRIES if name in registry.module_dict]
    return next((cls for cls in found if cls.__module__.partition('.')[0] == PACKAGE), None)


def _replace(node) -> None:
    """In a config, replace the classes of this package by their parents. Drop the arguments that the parents lack.

    The loss that a BackgroundPenaltyLoss contains takes its place.
    """
    if isinstance(node, (list, tuple)):
        for child in node:
            _replace(child)
    if not isinstance(node, MutableMapping):
        return
    for key, child in list(node.items()):
        # The weights come from the checkpoint.
        if key == 'init_cfg' and isinstance(child, Mapping) and child.get('type') == 'Pretrained':
            del node[key]
        if _own_class(child) is BackgroundPenaltyLoss:
            child = node[key] = child['loss']
        _replace(child)
    own = _own_class(node)
    if own is not None:
        parent = next(base for base in own.__mro__ if base.__module__.partition('.')[0] != PACKAGE)
        node['type'] = f'{parent.__module__.partition(".")[0]}.{parent.__name__}'
        # For a class without its own __init__, the signature would have the arguments of its parents.
        ours = [base for base in own.__mro__[: own.__mro__.index(parent)] if '__init__' in vars(base)]
        arguments = {name for base in ours for name in inspect.signature(base).parameters}
        for argument in arguments - {*inspect.signature(parent).parameters}:
            node.pop(argument, None)


def _build(registry: Registry, cfg: Mapping, where: str):
    try:
        built = registry.build(copy.deepcopy(cfg))
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f'Expected a valid `{where}` in the config, but building it raised {error!r}') from error
    return revert_sync_batchnorm(built).eval() if isinstance(built, nn.Module) else built


def _listed(value) -> list:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
