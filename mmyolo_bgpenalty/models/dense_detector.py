"""DenseSemiYOLODetector: the student learns from the teacher's predictions at each prior, not from pseudo-boxes."""

import torch
from mmdet.models.utils import rename_loss_dict, unpack_gt_instances
from mmengine.dist import get_world_size
from mmyolo.registry import MODELS
from torch import Tensor

from mmyolo_bgpenalty.models.bg_penalty_head import BgPenaltyYOLOv8Head
from mmyolo_bgpenalty.models.losses.weights import weigh_losses
from mmyolo_bgpenalty.models.semi_detector import SemiYOLODetector, weak_to_strong
from mmyolo_bgpenalty.utils.arguments import fraction, known_keys, non_negative


@MODELS.register_module()
class DenseSemiYOLODetector(SemiYOLODetector):
    """SemiYOLODetector with losses against the teacher's predictions at the same priors.

    ``unsup_loss_cls`` is ``dense_distillation``. ``unsup_loss_bbox`` and ``unsup_loss_dfl`` are YOLOv8's losses at the
    priors where the teacher is most confident. Their targets are the teacher's boxes, and their weights are its
    confidences. All are scaled as YOLOv8 scales its losses. Unlabeled images have no background penalty, since no
    assigner decides what is background. Pseudo-boxes are only for the log and the pictures. Source: Dense Teacher
    (https://arxiv.org/abs/2207.02541).

    Both views must have the same geometry. Only colour, blur and erasing may differ.

    Args:
        dense: ``share`` (in (0, 1], default 0.01) and ``gamma`` (>= 0, default 2.0) of ``dense_distillation``.
        others: as for SemiYOLODetector. The head must be a BgPenaltyYOLOv8Head with ``sparse_targets``.

    Raises:
        ValueError: an option or the head does not fit, or, in training, the geometry of the views differs.
    """

    def __init__(self, *args, dense: dict | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        known_keys('dense', dense or {}, ['share', 'gamma'])
        self.dense = dict(dict(share=0.01, gamma=2.0), **(dense or {}))
        non_negative('dense.gamma', self.dense['gamma'])
        if not fraction('dense.share', self.dense['share']):
            raise ValueError('Expected `dense.share` to be above 0, but got 0')
        if self.semi_train_cfg.unsure_thr is not None:
            raise ValueError(
                'Expected `semi_train_cfg.unsure_thr` to be None for DenseSemiYOLODetector, which does not learn from '
                f'pseudo-boxes, but got {self.semi_train_cfg.unsure_thr!r}'
            )
        head = self.student.bbox_head
        if not (isinstance(head, BgPenaltyYOLOv8Head) and head.sparse_targets):
            got = f'{type(head).__name__} with `sparse_targets={getattr(head, "sparse_targets", None)}`'
            raise ValueError(f'Expected a BgPenaltyYOLOv8Head with `sparse_targets=True`, but got {got}')

    def project_pseudo_instances(self, batch_pseudo_instances: list, batch_data_samples: list) -> list:
        """As in SemiYOLODetector, after a check that both views have the same geometry."""
        for weak, strong in zip(batch_pseudo_instances, batch_data_samples):
            difference = (weak_to_strong(weak, strong) - torch.eye(3)).abs().max().item()
            if difference > 1e-3 or weak.img_shape[:2] != strong.img_shape[:2]:
                raise ValueError(
                    'Expected weak and strong view to have the same geometry, but those of '
                    f'{strong.metainfo.get("img_path")} differ (homographies by {difference:.3g}; shapes '
                    f'{weak.img_shape[:2]} and {strong.img_shape[:2]}): put resizing, affine transforms and flips '
                    'before `Views`'
                )
        return super().project_pseudo_instances(batch_pseudo_instances, batch_data_samples)

    def loss_by_pseudo_instances(self, batch_inputs: Tensor, batch_data_samples: list, batch_info=None) -> dict:
        """Losses of the strong views against the teacher's predictions, times ``unsup_ramp`` and their weights."""
        head = self.student.bbox_head
        outs = head(self.student.extract_feat(batch_inputs))
        if self.keep_latest:
            # The pictures show predictions on background, which the head stores in `loss_by_feat`. Only one process
            # draws, so this call must not wait for the others.
            gt, ignored, metas = unpack_gt_instances(batch_data_samples)
            synced, head.sync_avg_factor = head.sync_avg_factor, False
            with torch.no_grad():
                head.loss_by_feat(*outs, gt, metas, ignored)
            head.sync_avg_factor = synced
        options = self.semi_train_cfg
        weight = self.unsup_ramp * options.unsup_weight
        losses = head.distil(outs, batch_info['predictions'][:2], **self.dense)
        scale = weight * len(batch_data_samples) * get_world_size()
        losses = weigh_losses(losses, scale, options.unsup_loss_weights)
        return {**rename_loss_dict('unsup_', losses), **self._statistics(weight, batch_data_samples)}
