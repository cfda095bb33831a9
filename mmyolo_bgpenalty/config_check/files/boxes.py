"""Checks of the boxes of a json file: boxes that count for nothing, and boxes that are written in another way."""

from collections import Counter
from collections.abc import Iterator, Sequence

from mmyolo_bgpenalty.config_check.findings import Findings, first_of, warning
from mmyolo_bgpenalty.config_check.parts import Dataset
from mmyolo_bgpenalty.utils.coco_json import is_crowd
from mmyolo_bgpenalty.utils.files import NAMED

Size = tuple[float, float]  # width, height
OUTSIDE = 0.05  # more than this share of boxes that leave their image is a mistake
# Other ways to write a box: functions from four numbers to x, y, width, height.
FORMS = {
    'x1, y1, x2, y2': lambda a, b, c, d: (a, b, c - a, d - b),
    'y1, x1, y2, x2': lambda a, b, c, d: (b, a, d - b, c - a),
    'centre x, centre y, width, height': lambda a, b, c, d: (a - c / 2, b - d / 2, c, d),
    'y, x, height, width': lambda a, b, c, d: (b, a, d, c),
}


def objects_of(coco: dict) -> Iterator[dict]:
    """The annotations that training takes for objects: no crowds, and no boxes that MMDetection drops."""
    sizes = _sizes(coco)
    return (one for one in coco['annotations'] if not is_crowd(one) and not _is_dropped(one, sizes[one['image_id']]))


def box_findings(dataset: Dataset, coco: dict) -> Findings:
    where, sizes, annotations = f'{dataset.path}.ann_file', _sizes(coco), coco['annotations']
    of_all = f'of {len(annotations)} boxes of {dataset.ann_file}'
    dropped = [one for one in annotations if not one.get('ignore') and _is_dropped(one, sizes[one['image_id']])]
    if dropped:
        what = f'{len(dropped)} {of_all} are dropped: they lie '
        what += f'outside the image, are smaller than a pixel, or have `area` 0: {_named(dropped)}'
        instead = 'correct the boxes, or the sizes of the images'
        if all(max(one['bbox']) <= 1 for one in annotations):
            instead = 'write the boxes in pixels: these look like shares of the image'
        yield warning(where, what, instead)
    sound = [one for one in annotations if not _is_dropped(one, sizes[one['image_id']])]
    outside = [one for one in sound if not _is_inside(one['bbox'], sizes[one['image_id']])]
    if len(outside) > OUTSIDE * len(annotations):
        what = f'{len(outside)} {of_all} end outside their image: {_named(outside)}'
        instead = 'correct the boxes, or the sizes of the images'
        forms = [name for name, form in FORMS.items() if all(_fits(form, one, sizes) for one in annotations)]
        if forms:
            instead = f'write x, y, width, height. All boxes are inside their images if read as {forms[0]}'
        yield warning(where, what, instead)
    repeated = list(_repeated(annotations))
    if repeated:
        what = f'{len(repeated)} {of_all} are there twice, with the same class, so they count twice: {_named(repeated)}'
        yield warning(where, what, 'remove one of each two')


def _named(annotations: Sequence[dict]) -> str:
    return f'annotations {first_of((one["id"] for one in annotations), NAMED)}'


def _sizes(coco: dict) -> dict[object, Size]:
    return {image['id']: (image['width'], image['height']) for image in coco['images']}


def _is_dropped(annotation: dict, size: Size) -> bool:
    """Whether MMDetection drops a box without a message."""
    (x, y, width, height), (right, bottom) = annotation['bbox'], size
    outside = min(x + width, right) <= max(x, 0) or min(y + height, bottom) <= max(y, 0)
    return outside or annotation['area'] <= 0 or min(width, height) < 1


def _is_inside(box: Sequence[float], size: Size) -> bool:
    """Whether a box is inside its image. Labels may be wrong by a pixel, or by 1 % of the image."""
    return all(
        start >= -slack and start + length <= end + slack and length > 0
        for start, length, end in zip(box[:2], box[2:], size)
        for slack in [max(1, 0.01 * end)]
    )


def _fits(form, annotation: dict, sizes: dict[object, Size]) -> bool:
    return _is_inside(form(*annotation['bbox']), sizes[annotation['image_id']])


def _repeated(annotations: Sequence[dict]) -> Iterator[dict]:
    """The annotations whose image, class and box an earlier annotation has."""
    seen: Counter = Counter()
    for one in annotations:
        key = one['image_id'], one['category_id'], *one['bbox']
        if seen[key] and not is_crowd(one):
            yield one
        seen[key] += 1
