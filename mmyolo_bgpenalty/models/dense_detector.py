"""A student that learns unlabeled images from its teacher's predictions at every prior, without pseudo-boxes."""

from typing import Optional

import torch
from mmdet.models.utils import unpack_gt_instances
from mmengine.dist import get_world_size
from mmyolo.registry import MODELS
from torch import Tensor

from mmyolo_bgpenalty.models.bg_penalty_head import BgPenaltyYOLOv8Head
from mmyolo_bgpenalty.models.semi_detector import SemiYOLODetector, between
from mmyolo_bgpenalty.utils.arguments import non_negative


@MODELS.register_module()
class DenseSemiYOLODetector(SemiYOLODetector):
    """SemiYOLODetector whose unlabeled losses are against the teacher's predictions at the same priors.

    ``unsup_loss_cls`` is ``dense_distillation``; where the teacher is surest,
    ``unsup_loss_bbox`` and ``unsup_loss_dfl`` are YOLOv8's, with the teacher's boxes for the objects, each weighted by
    its confidence. They are scaled as YOLOv8's losses are. Both views must show the same geometry (colour, blur and
    erasing may differ; shape transforms stand before ``Views``). There is no penalty on unlabeled images, of which
    nothing says what is background; pseudo-boxes are made for the log and the pictures alone.

    Args:
        dense: ``share`` of the priors, in (0, 1] (0.01), and ``gamma``, >= 0 (2.0).
        others: as SemiYOLODetector, with a BgPenaltyYOLOv8Head that has ``sparse_targets``.

    Raises:
        ValueError: an argument out of range; ``joint_forward`` or an option about pseudo-boxes; another head; when
            training, views that differ.
    """

    def __init__(self, *args, dense: Optional[dict] = None, **kwargs):
        super().__init__(*args, **kwargs)
        options = dict(share=0.01, gamma=2.0)
        unknown = sorted(set(dense or {}) - set(options))
        if unknown:
            raise ValueError(f'Expected the keys of `dense` among {", ".join(options)}, but got {unknown}')
        self.dense = {
            name: non_negative(f'dense.{name}', value) for name, value in {**options, **(dense or {})}.items()
        }
        if not 0 < self.dense['share'] <= 1:
            raise ValueError(f'Expected `dense.share` to be in (0, 1], but got {self.dense["share"]}')
        for name in ('joint_forward', 'unsure_thr', 'soft_unsure', 'soft_background', 'box_quality'):
            if self.semi_train_cfg[name] != self.TRAIN_CFG[name]:
                raise ValueError(
                    f'Expected `semi_train_cfg.{name}` to be {self.TRAIN_CFG[name]} for DenseSemiYOLODetector, which '
                    f'learns from each view apart and from no pseudo-boxes, but got {self.semi_train_cfg[name]!r}'
                )
        head = self.student.bbox_head
        if not (isinstance(head, BgPenaltyYOLOv8Head) and head.sparse_targets):
            raise ValueError(f'Expected a BgPenaltyYOLOv8Head with `sparse_targets`, but got {type(head).__name__}')
        self._taught: Optional[tuple] = None

    def _teach(self, batch_inputs: Tensor) -> tuple:
        self._taught = super()._teach(batch_inputs)
        return self._taught

    def project_pseudo_instances(self, batch_pseudo_instances: list, batch_data_samples: list) -> list:
        for weak, strong in zip(batch_pseudo_instances, batch_data_samples):
            difference = (between(weak, strong) - torch.eye(3)).abs().max().item()
            if difference > 1e-3 or weak.img_shape[:2] != strong.img_shape[:2]:
                raise ValueError(
                    'Expected weak and strong view of the same geometry, but those of '
                    f'{strong.metainfo.get("img_path")} differ (by {difference:.3g} in their homography): put '
                    'resizing, affine transforms and flips before `Views`'
                )
        return super().project_pseudo_instances(batch_pseudo_instances, batch_data_samples)

    def loss_by_pseudo_instances(self, batch_inputs: Tensor, batch_data_samples: list, batch_info=None) -> dict:
        """The student's losses against what the teacher predicted, weighted by ramp and ``unsup_weight``."""
        head = self.student.bbox_head
        outs = head(self.student.extract_feat(batch_inputs))
        if self.keep_views:  # for the pictures of what is predicted on background, which one process draws
            gt, ignored, metas = unpack_gt_instances(batch_data_samples)
            with torch.no_grad(), head.alone():
                head.loss_by_feat(*outs, gt, metas, ignored)
        weight = self.unsup_ramp * self.semi_train_cfg.unsup_weight
        weights = self.semi_train_cfg.unsup_loss_weights
        assert self._taught is not None  # the teacher comes before the student
        losses = head.distil(outs, self._taught[:2], **self.dense)
        self._taught = None
        scale = weight * len(batch_data_samples) * get_world_size()
        factors = {name: scale * weights.get(name, 1.0) for name in losses}
        # A loss that is turned off is 0 even where it is not finite.
        losses = {
            f'unsup_{name}': loss * factors[name] if factors[name] else (loss * 0).nan_to_num()
            for name, loss in losses.items()
        }
        return self._with_statistics(losses, weight, batch_data_samples)
