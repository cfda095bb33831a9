"""The branch of the images that are known to show no object: its options, its losses, and a supervised detector."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.utils import rename_loss_dict, unpack_gt_instances
from mmyolo.models.detectors import YOLODetector
from mmyolo.registry import MODELS
from torch import Tensor
from torch.nn.functional import pad

from mmyolo_bgpenalty.models.bg_penalty_head import BgPenaltyYOLOv8Head
from mmyolo_bgpenalty.models.losses.penalty import BackgroundPenaltyOptions
from mmyolo_bgpenalty.models.losses.weights import weigh_losses
from mmyolo_bgpenalty.utils.arguments import known_keys, non_negative

EMPTY_LOSSES = ('loss_cls', 'loss_bg')
LABELED_LOSSES = ('loss_cls', 'loss_bbox', 'loss_dfl', 'loss_bg')
BRANCHES = ('sup', 'bg')
ALARM = 0.25  # the default of `predict --score`


@dataclass(frozen=True)
class EmptyBranch:
    """Options of the losses of empty images, ``bg_loss_cls`` and ``bg_loss_bg``.

    Args:
        loss_weights: factors of the losses, >= 0, e.g. ``dict(loss_bg=0.0)``.
        penalty: options of ``BackgroundPenaltyOptions``. They replace those of the head.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    loss_weights: Mapping[str, float] = field(default_factory=dict)
    penalty: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_cfg(cls, cfg: Mapping | None) -> 'EmptyBranch':
        given = {} if cfg is None else cfg
        known_keys('bg_branch', given, [option.name for option in fields(cls)])
        return cls(**given)

    def __post_init__(self) -> None:
        _check_weights('bg_branch.loss_weights', self.loss_weights, EMPTY_LOSSES)
        known_keys('bg_branch.penalty', self.penalty, [option.name for option in fields(BackgroundPenaltyOptions)])
        BackgroundPenaltyOptions(**{'normalizer': 'hard', **self.penalty})

    def options_for(self, head: Any) -> BackgroundPenaltyOptions:
        """``penalty`` on top of the options of a head. Its ``hard_score`` is not inherited without normalizer='hard'.

        Raises:
            ValueError: the head is no BgPenaltyYOLOv8Head, or ``penalty`` does not fit its options.
        """
        if not isinstance(head, BgPenaltyYOLOv8Head):
            raise ValueError(f'Expected a BgPenaltyYOLOv8Head for `bg_branch`, but got {type(head).__name__}')
        options = {**asdict(head.bg_penalty), **self.penalty}
        if options['normalizer'] != 'hard' and 'hard_score' not in self.penalty:
            del options['hard_score']
        try:
            return BackgroundPenaltyOptions(**options)
        except ValueError as problem:
            raise ValueError(f'`bg_branch.penalty`: {problem}') from None

    def losses(
        self, detector: SingleStageDetector, inputs: Mapping[str, Tensor], samples: Mapping[str, list]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of the labeled images (branch 'sup'), as ``detector.loss`` gives them, and ``bg_*``.

        One forward pass has both. In two passes batch normalization has statistics of labeled images and of empty
        images, and the network learns to tell them apart (docs/lab_notes).
        """
        head, labeled = detector.bbox_head, len(inputs['sup'])
        outs = head(detector.extract_feat(one_batch(inputs)))
        objects, ignored, metas = unpack_gt_instances(samples['sup'])
        of_labeled = ([level[:labeled] for level in levels] for levels in outs)
        losses = head.loss_by_feat(*of_labeled, objects, metas, ignored)
        cls_scores, metas = [level[labeled:] for level in outs[0]], [sample.metainfo for sample in samples['bg']]
        found = head.loss_without_objects(cls_scores, metas, self.options_for(head))
        found = rename_loss_dict('bg_', weigh_losses(found, 1.0, self.loss_weights))
        highest = torch.stack([level.detach().flatten(1).amax(1) for level in cls_scores]).amax(0).float().sigmoid()
        return losses, {**found, 'bg/with_alarm': (highest >= ALARM).float().mean()}


def _check_weights(path: str, weights: Mapping[str, float], losses: Sequence[str]) -> None:
    known_keys(path, weights, losses)
    for name, weight in weights.items():
        non_negative(f'{path}.{name}', weight)


def one_batch(inputs: Mapping[str, Tensor]) -> Tensor:
    """The labeled images, then the empty ones. The smaller images get padding on the right and at the bottom."""
    images = [inputs[branch] for branch in BRANCHES]
    height, width = (max(one.shape[side] for one in images) for side in (2, 3))
    return torch.cat([pad(one, (0, width - one.shape[3], 0, height - one.shape[2])) for one in images])


@MODELS.register_module()
class EmptyImagesYOLODetector(YOLODetector):
    """YOLODetector for batches of labeled and of empty images, in the branches ``sup`` and ``bg``.

    Args:
        bg_branch: options of ``EmptyBranch``.
        sup_loss_weights: factors of single losses of labeled images, >= 0. With ``dict(loss_bg=0.0)`` the penalty is on
            empty images only.
        others: as for YOLODetector. The head must be a BgPenaltyYOLOv8Head, and ``data_preprocessor`` one for branches.
    """

    def __init__(
        self, *args, bg_branch: dict | None = None, sup_loss_weights: Mapping[str, float] | None = None, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.bg_branch = EmptyBranch.from_cfg(bg_branch)
        self.sup_loss_weights = sup_loss_weights or {}
        _check_weights('sup_loss_weights', self.sup_loss_weights, LABELED_LOSSES)
        self.bg_branch.options_for(self.bbox_head)

    def loss(self, batch_inputs: dict[str, Tensor], batch_data_samples: dict[str, list]) -> dict[str, Tensor]:
        """The losses of YOLODetector for the labeled images, and ``bg_loss_cls`` and ``bg_loss_bg``."""
        if 'bg' in batch_inputs:
            labeled, empty = self.bg_branch.losses(self, batch_inputs, batch_data_samples)
        else:
            labeled, empty = super().loss(batch_inputs['sup'], batch_data_samples['sup']), {}
        return weigh_losses(labeled, 1.0, self.sup_loss_weights) | empty
