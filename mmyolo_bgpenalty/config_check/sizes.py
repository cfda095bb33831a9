"""Checks of the image sizes that come out of the pipelines."""

from collections.abc import Iterable, Iterator, Mapping

from mmyolo_bgpenalty.config_check.findings import Findings, error, first_of, warning
from mmyolo_bgpenalty.config_check.parts import ConfigParts, kind_of, names_of
from mmyolo_bgpenalty.config_check.pipelines import GEOMETRIC

# A width and a height in pixels. None: a size that depends on the image or on an unknown transform.
Size = tuple[int, int] | None
SAME_SIZE = {'RandomFlip', 'YOLOv5MixUp', 'RandomErasing', 'CutOut'}


def check_sizes(parts: ConfigParts) -> Findings:
    """Sizes that do not fit into a batch or into the network, and pipelines with different sizes."""
    pipelines = {dataset.pipeline: dataset.node.get('pipeline') for dataset in parts.datasets}
    for hook in parts.hooks_of('PipelineSwitchHook'):
        pipelines[f'{hook.path}.switch_pipeline'] = hook.node.get('switch_pipeline')
    found: dict[str, set[tuple[int, int]]] = {}
    for where, pipeline in pipelines.items():
        branches = list(_branches(pipeline or [], {None}, parts.scope))
        for sizes in branches:
            if None not in sizes and len(sizes) > 1:
                what = f'its images have {_text(_known(sizes))} pixels, so they do not fit into one batch'
                yield error(where, what, 'give all its transforms one size')
        known = {size for sizes in branches for size in _known(sizes)}
        if known:
            found[where] = known
            yield from _of_network(parts, where, known)
    first = next(iter(found), '')
    for where, own in found.items():
        if not own & found[first]:
            what = f'images of {_text(own)}, but {first} has {_text(found[first])}'
            yield warning(where, what, 'give all pipelines one size, or ignore this if different sizes are meant')


def _of_network(parts: ConfigParts, where: str, sizes: Iterable[tuple[int, int]]) -> Findings:
    strides = parts.get(f'{parts.head.path}.head_module.featmap_strides') or [1]
    pads = any(parts.get(f'{path}.data_preprocessor.pad_size_divisor') for path in ('model', parts.detector.path))
    odd = [size for size in sizes if size[0] % max(strides) or size[1] % max(strides)]
    if odd and not pads:
        what = f'images of {_text(odd)}: the network needs multiples of {max(strides)}'
        yield error(where, what, f'write a width and a height that are multiples of {max(strides)}')


def _known(sizes: Iterable[Size]) -> set[tuple[int, int]]:
    return {size for size in sizes if size is not None}


def _text(sizes: Iterable[tuple[int, int]]) -> str:
    return first_of('{}×{}'.format(*size) for size in sorted(sizes))


def _branches(pipeline, sizes: set[Size], scope: str | None) -> Iterator[set[Size]]:
    """The sizes of the images that a pipeline returns, for each of its branches."""
    split = False
    for node in pipeline:
        if isinstance(node, Mapping) and 'branch_field' in node:
            split = True
            branches = (value for key, value in node.items() if isinstance(value, list) and key != 'branch_field')
            yield from (_after(branch, sizes, scope) for branch in branches)
        else:
            sizes = _after(node, sizes, scope)
    if not split:
        yield sizes


def _after(node, sizes: set[Size], scope: str | None) -> set[Size]:
    """The sizes after a transform, or after a list of transforms."""
    if isinstance(node, (list, tuple)):
        for step in node:
            sizes = _after(step, sizes, scope)
        return sizes
    if not isinstance(node, Mapping):
        return {None}
    names = names_of(node, 'TRANSFORMS', scope)
    if 'RandomChoice' in names:
        choices = node.get('transforms') or []
        likely = node.get('prob') or [1] * len(choices)
        return {size for choice, prob in zip(choices, likely) if prob for size in _after(choice, sizes, scope)}
    if 'RandomApply' in names:
        return sizes | _after(node.get('transforms') or [], sizes, scope)
    if 'LetterResize' in names:
        return {None if node.get('use_mini_pad') else _size(node.get('scale'))}
    if 'Resize' in names:
        return {None if node.get('keep_ratio') or kind_of(node) != 'Resize' else _size(node.get('scale'))}
    if 'Mosaic' in names:
        canvas = _size(node.get('img_scale', (640, 640)))
        mosaic: set[Size] = {canvas and (2 * canvas[0], 2 * canvas[1])}
        return mosaic if node.get('prob', 1) == 1 else mosaic | sizes
    if {'YOLOv5RandomAffine', 'RandomAffine'} & names:
        x, y = _size(node.get('border')) or (0, 0)
        return {size and (size[0] + 2 * x, size[1] + 2 * y) for size in sizes}
    return sizes if SAME_SIZE & names or not GEOMETRIC.search(kind_of(node)) else {None}


def _size(value) -> Size:
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(side, int) for side in value)
    return (value[0], value[1]) if pair else None


def check_reduced(parts: ConfigParts) -> Findings:
    """A transform after LoadReducedImage that resizes to more than the `scale` of it."""
    for dataset in parts.train:
        loaded: Size = None
        for transform in dataset.transforms:
            own = _size(transform.node.get('scale', transform.node.get('img_scale')))
            if 'LoadReducedImage' in transform.names:
                loaded = own
            elif loaded and own and (own[0] > loaded[0] or own[1] > loaded[1]):
                what = f'{transform.kind} resizes to {_text([own])}, but LoadReducedImage loads for {_text([loaded])}'
                yield warning(transform.path, f'{what}: large JPEGs lose detail', 'give LoadReducedImage this `scale`')


CHECKS = (check_sizes, check_reduced)
