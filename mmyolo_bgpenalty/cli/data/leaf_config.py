"""The text of a project's config."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import median

from mmyolo_bgpenalty.cli.data.plan import Plan
from mmyolo_bgpenalty.config_check.settings.length import least_momentum
from mmyolo_bgpenalty.utils.label_formats.labeled_set import Box, Picture

HEAD = """\
# Made by `python -m mmyolo_bgpenalty init`, and yours to edit. Lengths are in epochs of {epoch} iterations.
_base_ = __import__('mmyolo_bgpenalty').config(
    {base!r},
    classes={classes!r},
    model_size={size!r},  # n, s, m, l or x. Larger models find more and take longer
    img_scale={scale!r},  # width and height of the input, multiples of 32
    max_epochs={epochs},
    data_root="{{{{ fileDirname }}}}/",  # the folder of this file
    image_folder={images!r},  # the file names in the json files begin here
    labeled_ann_file='annotations/train.json',
"""
UNLABELED = "    unlabeled_ann_file='annotations/unlabeled.json',\n"
EMPTY = "    empty='annotations/empty.txt',  # the names of pictures without any object\n"
TAIL = """\
    val_ann_file='annotations/val.json',
)
load_from = {weights!r}{no_weights}
burn_in = {burn_in}  # epochs {before}
lambda_bg_warmup = {warmup}  # epochs after burn-in in which the penalty rises to its full weight
"""
LOADER = 'train_dataloader = dict(batch_size={batch}, num_workers=2){more}\n'
SEMI_LOADER = """\
train_dataloader = dict(
    batch_size={batch},  # half of them labeled
    num_workers=2,  # processes that load pictures
    batch_sampler=dict(epoch_of={epoch_of!r}),  # an epoch is one pass over these pictures
)
"""
MOMENTUM = 0.004  # of the shipped config
SHORT = """\
default_hooks = dict(mean_teacher=dict(momentum={momentum}))  # so that the teacher follows the student in a short run
"""
SMALL_SIDE = 32  # pixels of the input; measured in docs/lab_notes with median sides of 18 and 51 pixels
SMALL = """\
# The boxes are small (median side: {side:.0f} pixels of the input), so pseudo-boxes have no box losses, only classes.
model = dict(semi_train_cfg=dict(unsup_loss_weights=dict(loss_bbox=0.0, loss_dfl=0.0)))
"""


def leaf_config(
    classes: Sequence[str],
    size: str,
    scale: tuple[int, int],
    images: str,
    weights: str | None,
    plan: Plan,
    unlabeled: bool,
    empty: bool,
    side: float,
) -> str:
    """The config of a project.

    ``images`` is the folder of all pictures, ``weights`` a file, ``side`` the ``median_side`` of the boxes.
    """
    kind = 'semi_bgpenalty_own' if unlabeled else 'bgpenalty_own_empty' if empty else 'bgpenalty_own'
    values = dict(
        base=f'yolov8_{kind}.py',
        classes=tuple(classes),
        size=size,
        scale=tuple(scale),
        images=images,
        weights=weights,
        no_weights='' if weights else '  # a file with COCO weights, such as yolov8s.pt of Ultralytics, helps a lot',
        before='on labeled pictures only, without the penalty' if unlabeled else 'without the penalty',
        more='  # batch_size: labeled pictures; each batch gets as many empty ones' if empty else '',
        side=side,
        momentum=min(least_momentum(plan.iterations), 1),
        **vars(plan),
    )
    parts = [HEAD, *([UNLABELED] if unlabeled else []), *([EMPTY] if empty else []), TAIL]
    parts += [SEMI_LOADER if unlabeled else LOADER]
    if unlabeled:
        parts += [SMALL] if side < SMALL_SIDE else []
        parts += [SHORT] if values['momentum'] > MOMENTUM else []
    return ''.join(parts).format(**values)


def median_side(boxes: Mapping[Picture, Sequence[Box]], scale: tuple[int, int]) -> float:
    """Median of √(width · height) of boxes, in pixels of the input. ``scale`` is the width and height of the input."""
    return median(
        min(scale[0] / picture.width, scale[1] / picture.height) * sqrt(box.width * box.height)
        for picture, found in boxes.items()
        for box in found
        if not box.ignored
    )
