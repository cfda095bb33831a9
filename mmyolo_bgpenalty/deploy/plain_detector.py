"""A plain detector out of a training checkpoint: config and weights that do without this package."""

import copy
import inspect
import io
from pathlib import Path
from typing import Dict, Mapping, MutableMapping, NamedTuple, Optional, Sequence

import torch
from mmdet.apis import inference_detector
from mmdet.models import BaseDetector
from mmdet.visualization import get_palette
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope, Registry
from mmyolo import registry as mmyolo_registry
from mmyolo.registry import DATASETS, MODELS
from torch import Tensor, nn

from mmyolo_bgpenalty.engine.checkpoint_files import read_file

PACKAGE = __name__.partition('.')[0]
ROLES = ('teacher', 'student')


class Export(NamedTuple):
    """A plain detector in eval mode, its config, its checkpoint as torch saves it, and what it was in training."""

    model: BaseDetector
    cfg: Config
    checkpoint: dict
    role: str


def export_detector(cfg: Config, checkpoint, student: bool = False) -> Export:
    """Take the teacher out of a semi-supervised checkpoint.

    Config and weights need MMYOLO alone. That they predict what the teacher predicts is checked on a picture: boxes,
    scores and labels are equal, bit for bit, in a plain detector's memory format (channels_last rounds otherwise). Of a
    supervised config the one detector is taken, ``role`` 'detector'.

    Args:
        cfg: the config it was trained with.
        checkpoint: path of a checkpoint as MMEngine writes it.
        student: take the student.

    Raises:
        ValueError: names file and field: what is no checkpoint or is one of another config, classes that do not
            match, a config that does not build.
        FileNotFoundError: no such checkpoint.
    """
    if not cfg.get('model'):
        raise ValueError(f'{cfg.filename}: expected a `model` in the config, but there is none')
    steps = ((cfg.get('test_dataloader') or {}).get('dataset') or {}).get('pipeline') or [{}]
    # Where DetInferencer puts its own loader.
    if not str(steps[0].get('type')).endswith('LoadImageFromFile'):
        raise ValueError(
            f'{cfg.filename}: expected `test_dataloader.dataset.pipeline` to begin with LoadImageFromFile, but got '
            f'{steps[0].get("type")}'
        )
    semi = 'detector' in cfg.model
    if student and not semi:
        raise ValueError(f'{cfg.filename}: is no semi-supervised config, so it has no student')
    role = ('student' if student else 'teacher') if semi else 'detector'
    content = read_checkpoint(checkpoint)
    meta = content.get('meta') or {}
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')):
        plain = plain_config(cfg)
        dataset = _build(DATASETS, {**plain.test_dataloader.dataset, 'lazy_init': True}, 'test_dataloader.dataset')
        metainfo = _metainfo(dataset.metainfo, meta.get('dataset_meta') or {}, plain.model, checkpoint)
        plain.test_dataloader.dataset.metainfo = metainfo
        model = _build(MODELS, plain.model, 'model')
        weights = _weights(content['state_dict'], role, model.state_dict(), checkpoint)
        model.load_state_dict(weights)
        # A plain detector's memory format, as another rounds otherwise.
        trained = _build(MODELS, cfg.model, 'model').to(memory_format=torch.contiguous_format)
        (getattr(trained, role) if semi else trained).load_state_dict(weights)
        if semi:
            trained.semi_test_cfg = ConfigDict(predict_on=role)
        _check_equal(trained, cfg, model, plain)
    model.cfg, model.dataset_meta = copy.deepcopy(plain), metainfo
    kept = {key: meta[key] for key in ('epoch', 'iter', 'mmengine_version') if key in meta}
    kept.update(cfg=plain.pretty_text, dataset_meta=metainfo)
    return Export(model, plain, dict(meta=kept, state_dict=weights), role)


def plain_config(cfg: Config) -> Config:
    """What of a config testing and inference need, with the parents in place of this package's classes."""
    model = copy.deepcopy(cfg.model)
    if 'detector' in model:
        branches = model.get('data_preprocessor') or {}
        model = model.detector
        # The semi-supervised model pre-processes for both; a detector's own is not used there.
        if 'data_preprocessor' in branches:
            model.data_preprocessor = branches['data_preprocessor']
    plain = dict(default_scope=cfg.get('default_scope', 'mmdet'))
    imports = dict(cfg.get('custom_imports') or {})
    imports['imports'] = [name for name in _listed(imports.get('imports')) if name.partition('.')[0] != PACKAGE]
    if imports['imports']:
        plain['custom_imports'] = imports
    for key in ('env_cfg', 'visualizer', 'log_level', 'test_dataloader', 'test_cfg'):
        if cfg.get(key) is not None:
            plain[key] = copy.deepcopy(cfg[key])
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook:
        plain['default_hooks'] = dict(visualization=copy.deepcopy(hook))
    ours = _own_classes()
    evaluators = _plain_evaluators(copy.deepcopy(_listed(cfg.get('test_evaluator'))), ours)
    if evaluators:
        plain['test_evaluator'] = evaluators if len(evaluators) > 1 else evaluators[0]
    plain['model'] = model
    _replace(plain, ours)
    # DetInferencer builds these in the scope it is given, 'mmdet' unless told otherwise.
    dataset = plain['test_dataloader'].dataset
    for node in (model, dataset, *dataset.pipeline):
        node.setdefault('_scope_', plain['default_scope'])
    return Config(plain)


def read_checkpoint(path) -> dict:
    """A checkpoint with a ``state_dict`` of tensors; torch's safe loading stays on.

    Raises:
        ValueError: it is none, or holds what safe loading refuses.
        FileNotFoundError: no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no such checkpoint: {path}')
    content = read_file(str(path), map_location='cpu')
    weights = content.get('state_dict') if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(f'{path}: expected a `state_dict` of tensors, as MMEngine writes it, but there is none')
    return content


def checkpoint_bytes(checkpoint: dict) -> bytes:
    """The file that torch.save would write."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def block_pictures(number: int, shape: Sequence[int]) -> Tensor:
    """Coloured blocks, (number, 3, H, W), uint8: unlike noise, they set a detector off. Sides are rounded up to 8."""
    generator = torch.Generator().manual_seed(number)
    grid = torch.randint(0, 256, (number, 3, -(-shape[0] // 8), -(-shape[1] // 8)), generator=generator)
    return grid.to(torch.uint8).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def _check_equal(trained: nn.Module, cfg: Config, model: nn.Module, plain: Config) -> None:
    """Compare predictions on a picture that is letterboxed, all of them, however low they score."""
    picture = block_pictures(1, (192, 336))[0].permute(1, 2, 0).numpy()
    found = []
    for detector, config in ((trained, cfg), (model, plain)):
        # inference_detector changes the pipeline's first entry in place.
        detector.cfg = copy.deepcopy(config)
        test_cfgs = [getattr(module, 'test_cfg', None) or {} for module in detector.modules()]
        changed = [test_cfg for test_cfg in test_cfgs if 'score_thr' in test_cfg]
        before = [dict(test_cfg) for test_cfg in changed]
        for test_cfg in changed:
            test_cfg.update(score_thr=0.0, nms_pre=1000)
        found.append(inference_detector(detector.eval(), picture).pred_instances)
        for test_cfg, values in zip(changed, before):
            test_cfg.clear()
            test_cfg.update(values)
    if not len(found[0]) == len(found[1]) or not all(torch.equal(found[0][k], found[1][k]) for k in found[0].keys()):
        raise ValueError(f'{cfg.filename}: the plain detector predicts otherwise than the trained one')


def _weights(state_dict: Mapping, role: str, wanted: Mapping, path) -> Dict[str, Tensor]:
    """The weights of one role under the plain detector's names."""
    prefixes = {key.partition('.')[0] for key in state_dict}
    if role in ROLES:
        if role not in prefixes:
            raise ValueError(
                f'{path}: expected weights `{role}.…` of a semi-supervised run, but got {_some(prefixes, "{}.…")}'
            )
        state_dict = {key[len(role) + 1 :]: w for key, w in state_dict.items() if key.startswith(f'{role}.')}
    elif prefixes.issuperset(ROLES):
        raise ValueError(f'{path}: is a checkpoint of student and teacher: give the config it was trained with')
    faults = {
        'lacks': set(wanted) - set(state_dict),
        'has, and the config has not,': set(state_dict) - set(wanted),
        'has in another shape': {k for k in wanted if k in state_dict and state_dict[k].shape != wanted[k].shape},
    }
    for what, keys in faults.items():
        if keys:
            raise ValueError(f'{path}: does not fit the config: its {role} {what} {_some(keys)}')
    spoilt = {key for key in wanted if not state_dict[key].isfinite().all()}
    if spoilt:
        raise ValueError(f'{path}: its {role} is not finite, so the training diverged before: {_some(spoilt)}')
    return {key: state_dict[key] for key in wanted}


def _metainfo(of_config: dict, of_checkpoint: dict, model: Mapping, path) -> dict:
    """Classes and a colour for each.

    Raises:
        ValueError: config, checkpoint and head do not agree.
    """
    classes = tuple(of_config.get('classes') or ())
    stored = tuple({key.lower(): value for key, value in of_checkpoint.items()}.get('classes') or classes)
    if stored != classes:
        raise ValueError(f'{path}: was trained for the classes {stored}, but `test_dataloader.dataset` has {classes}')
    number = ((model.get('bbox_head') or {}).get('head_module') or {}).get('num_classes', len(classes))
    if number != len(classes):
        raise ValueError(f'Expected `num_classes` of the head to be {len(classes)}, for {classes}, but got {number}')
    palette = of_config.get('palette')
    if not isinstance(palette, (list, tuple)) or len(palette) < number:
        palette = get_palette('random', number)
    return dict(classes=classes, palette=[tuple(int(value) for value in colour) for colour in palette[:number]])


def _own_classes() -> Dict[str, type]:
    """Name -> class of what this package registers."""
    registries = [r for r in vars(mmyolo_registry).values() if isinstance(r, Registry)]
    found = {name: cls for r in registries for name, cls in r.module_dict.items() if inspect.isclass(cls)}
    return {name: cls for name, cls in found.items() if cls.__module__.partition('.')[0] == PACKAGE}


def _own_class(node, ours: Mapping[str, type]) -> Optional[type]:
    """The class of this package that a config's dict is of, or None."""
    kind = node.get('type') if isinstance(node, Mapping) else None
    scope, _, name = str(getattr(kind, '__name__', kind)).rpartition('.')
    if scope.partition('.')[0] not in ('', 'mmyolo', PACKAGE):
        return None
    return ours.get(name)


def _replace(node, ours: Mapping[str, type]) -> None:
    """Below ``node``, name the parents of this package's classes, less the arguments they do not know; in place."""
    if isinstance(node, (list, tuple)):
        for child in node:
            _replace(child, ours)
    if not isinstance(node, MutableMapping):
        return
    for key, child in list(node.items()):
        # The weights come from the checkpoint.
        if key == 'init_cfg' and isinstance(child, Mapping) and child.get('type') == 'Pretrained':
            del node[key]
        _replace(child, ours)
    own = _own_class(node, ours)
    if own is not None:
        parent = next(base for base in own.__mro__ if base.__module__.partition('.')[0] != PACKAGE)
        node['type'] = f'{parent.__module__.partition(".")[0]}.{parent.__name__}'
        for argument in {*inspect.signature(own).parameters} - {*inspect.signature(parent).parameters}:
            node.pop(argument, None)


def _plain_evaluators(evaluators: list, ours: Mapping[str, type]) -> list:
    """With the parents in place of our metrics, where a parent measures anything that nothing else in the list does."""
    own = [_own_class(one, ours) is not None for one in evaluators]
    _replace(evaluators, ours)
    names = [str(one['type']).rpartition('.')[2] for one in evaluators]
    theirs = {name for name, is_own in zip(names, own) if not is_own}
    kept = []
    for one, name, is_own in zip(evaluators, names, own):
        if not is_own or name not in theirs | {'BaseMetric'}:
            theirs.add(name)
            kept.append(one)
    return kept


def _build(registry, cfg: Mapping, where: str):
    try:
        built = registry.build(copy.deepcopy(cfg))
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f'Expected `{where}` of the config to build, but got {error!r}') from error
    return revert_sync_batchnorm(built).eval() if isinstance(built, nn.Module) else built


def _listed(value) -> list:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _some(names, form: str = '{}') -> str:
    names = sorted(names)
    return ', '.join(map(form.format, names[:3])) + (f' and {len(names) - 3} more' if len(names) > 3 else '')
