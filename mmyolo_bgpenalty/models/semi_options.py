"""``semi_train_cfg`` of SemiYOLODetector: names, defaults and checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from mmcv.ops import batched_nms
from mmengine.config import ConfigDict

from mmyolo_bgpenalty.models.pseudo_boxes.thresholds import Thresholds, build_thresholds
from mmyolo_bgpenalty.utils.arguments import flag, fraction, known_keys, non_negative, one_of, whole_number
from mmyolo_bgpenalty.utils.geometry import FLIPS

LOSSES = ('loss_cls', 'loss_obj', 'loss_centerness', 'loss_bbox', 'loss_l1', 'loss_bbox_aux', 'loss_dfl', 'loss_bg')

# At most one box for an object, with one label. The config of evaluation may allow more.
PSEUDO_TEST_CFG: dict[str, Any] = dict(
    multi_label=False,
    score_thr=0.4,
    nms_pre=1000,
    nms=dict(type='nms', iou_threshold=0.6, class_agnostic=True),
    max_per_img=300,
)


@dataclass(frozen=True)
class SemiTrainOptions:
    """Options of SemiYOLODetector in training.

    Args:
        sup_weight: factor of all losses of labeled images, >= 0. ``unsup_weight``: the same for unlabeled images.
        sup_loss_weights: factors of single losses of labeled images, >= 0, e.g. ``dict(loss_bg=0.0)``. A factor for a
            loss that the head does not have is ignored. ``loss_bg`` is also the penalty of a BackgroundPenaltyLoss.
            ``unsup_loss_weights``: the same for unlabeled images.
        pseudo_test_cfg: how predictions become pseudo-boxes. The entries replace those of ``PSEUDO_TEST_CFG``.
        min_pseudo_bbox_wh: minimum width and height of a pseudo-box in the strong view, in pixels.
        class_thresholds: the config for ``build_thresholds``. Its thresholds replace ``pseudo_test_cfg.score_thr``.
        unsure_thr: a box is unsure if its score is above ``unsure_thr`` but does not reach its threshold. An unsure box
            is no object and gets no background penalty. It is one of the ``ignored_instances`` of the strong view.
        soft_unsure: an unsure box is also an object. Its score multiplies its classification targets, and it has no
            box losses. This needs ``unsure_thr`` and a head with ``sparse_targets``. Source: Efficient Teacher
            (https://arxiv.org/abs/2302.07577).
        teacher_flips: keys of ``FLIPS``. The teacher's predictions become their mean over the weak view and these flips
            of it: with YOLOv8's head at each prior, with other heads by ``fused_boxes``. This is for objects without a
            fixed orientation.
        channels_last: memory format of student and teacher. It changes values only by rounding.
        sync_avg_factor: replaces the value in a BgPenaltyYOLOv8Head, see ``SparseYOLOv8Head``. Other heads ignore it.

    Raises:
        ValueError: a value is out of range, or a dict has an unknown key.
    """

    sup_weight: float = 1.0
    unsup_weight: float = 1.0
    sup_loss_weights: Mapping[str, float] = field(default_factory=dict)
    unsup_loss_weights: Mapping[str, float] = field(default_factory=dict)
    pseudo_test_cfg: Any = field(default_factory=dict)
    min_pseudo_bbox_wh: Sequence[float] = (1e-2, 1e-2)
    class_thresholds: dict | None = None
    unsure_thr: float | None = None
    soft_unsure: bool = False
    teacher_flips: Sequence[str] = ()
    channels_last: bool = False
    sync_avg_factor: bool = True

    @classmethod
    def from_cfg(cls, cfg: Mapping | None) -> 'SemiTrainOptions':
        given = {} if cfg is None else cfg
        known_keys('semi_train_cfg', given, [option.name for option in fields(cls)])
        return cls(**given)

    def __post_init__(self) -> None:
        for branch in ('sup', 'unsup'):
            non_negative(f'semi_train_cfg.{branch}_weight', getattr(self, f'{branch}_weight'))
            where, weights = f'semi_train_cfg.{branch}_loss_weights', getattr(self, f'{branch}_loss_weights')
            known_keys(where, weights, LOSSES)
            for name, weight in weights.items():
                non_negative(f'{where}.{name}', weight)
        for name in ('soft_unsure', 'channels_last', 'sync_avg_factor'):
            flag(f'semi_train_cfg.{name}', getattr(self, name))
        if not isinstance(self.teacher_flips, (list, tuple)):
            raise ValueError(f'Expected `semi_train_cfg.teacher_flips` to be a list, but got {self.teacher_flips!r}')
        for i, flip in enumerate(self.teacher_flips):
            one_of(f'semi_train_cfg.teacher_flips[{i}]', flip, list(FLIPS))
        size = self.min_pseudo_bbox_wh
        if not isinstance(size, (list, tuple)) or len(size) != 2:
            raise ValueError(f'Expected `semi_train_cfg.min_pseudo_bbox_wh` to be two numbers, but got {size!r}')
        for side in size:
            non_negative('semi_train_cfg.min_pseudo_bbox_wh', side)
        if self.unsure_thr is not None:
            fraction('semi_train_cfg.unsure_thr', self.unsure_thr)
        elif self.soft_unsure:
            raise ValueError('Expected `semi_train_cfg.unsure_thr` for `semi_train_cfg.soft_unsure`, but got None')

        object.__setattr__(self, 'pseudo_test_cfg', _checked_test_cfg(self.pseudo_test_cfg))

    def build_class_thresholds(self, num_classes: int) -> Thresholds | None:
        """Build the module that ``class_thresholds`` describes, or None. Also check ``unsure_thr``."""
        test_cfg, module = self.pseudo_test_cfg, None
        if self.class_thresholds is not None:
            try:
                module = build_thresholds(self.class_thresholds, num_classes, test_cfg.max_per_img, test_cfg.score_thr)
            except ValueError as error:
                raise ValueError(f'`semi_train_cfg.class_thresholds`: {error}') from None
        highest = test_cfg.score_thr if module is None else module.ceiling
        if self.unsure_thr is not None and self.unsure_thr > highest:
            raise ValueError(
                'Expected `semi_train_cfg.unsure_thr` to be at most the threshold of pseudo-boxes '
                f'(`pseudo_test_cfg.score_thr`, or the highest of `class_thresholds`), {highest}, but got '
                f'{self.unsure_thr}'
            )
        return module


def _checked_test_cfg(given: Mapping) -> ConfigDict:
    """``PSEUDO_TEST_CFG`` with the entries of ``given``."""
    where = 'semi_train_cfg.pseudo_test_cfg'
    known_keys(where, given, PSEUDO_TEST_CFG)
    test_cfg = ConfigDict({**PSEUDO_TEST_CFG, **given})
    flag(f'{where}.multi_label', test_cfg.multi_label)
    fraction(f'{where}.score_thr', test_cfg.score_thr)
    for name in ('nms_pre', 'max_per_img'):
        whole_number(f'{where}.{name}', test_cfg[name])
    nms = test_cfg.nms
    if not isinstance(nms, Mapping):
        raise ValueError(f'Expected `{where}.nms` to be a dict with `type` and `iou_threshold`, but got {nms!r}')
    if 'iou_threshold' in nms:
        fraction(f'{where}.nms.iou_threshold', nms['iou_threshold'])
    flag(f'{where}.nms.class_agnostic', nms.get('class_agnostic', False))
    try:  # the teacher calls it for the first time after burn-in
        box, score = torch.zeros(1, 4, dtype=torch.float32), torch.ones(1, dtype=torch.float32)
        batched_nms(box, score, torch.zeros(1, dtype=torch.long), ConfigDict(nms))
    except Exception as error:  # a wrong name or argument
        expected = f'Expected `{where}.nms` to be a config for batched_nms of MMCV'
        raise ValueError(f'{expected}, but got {dict(nms)!r}: {error}') from None
    return test_cfg
