"""YOLOv8's head with the background penalty."""

from contextlib import contextmanager
from typing import Dict, List, Optional

import torch
from mmengine.dist import get_world_size
from mmyolo.models.dense_heads import YOLOv8Head
from mmyolo.registry import MODELS
from torch import Tensor

from .geometry import priors_inside, priors_on_image
from .losses import BackgroundPenaltyOptions, background_penalty, background_statistics


@MODELS.register_module()
class BgPenaltyYOLOv8Head(YOLOv8Head):
    """YOLOv8Head with one more loss, ``loss_bg``: :func:`~mmyolo_bgpenalty.losses.background_penalty`.

    It is scaled as MMYOLO scales ``loss_cls`` (its ``loss_weight``, images in the batch, world size), so the
    sum of the two is what adding the penalty inside the classification loss would give. Background is every
    prior that the assigner leaves without an object, less those whose centre lies in padding (told from
    ``homography_matrix`` in the image's meta, else from ``img_shape``) or in an ``ignored_instances`` box.

    Args:
        bg_penalty: ``lambda_bg`` (>= 0; 1.0), ``focal`` (False) and ``gamma`` (>= 0; 2.0), see
            :func:`~mmyolo_bgpenalty.losses.background_penalty`. With ``lambda_bg=0`` the other losses and
            all gradients are those of YOLOv8Head, bit for bit.

    Raises:
        ValueError: an unknown key or a value out of range in ``bg_penalty``.
    """

    def __init__(self, *args, bg_penalty: Optional[dict] = None, **kwargs):
        super().__init__(*args, **kwargs)
        known = BackgroundPenaltyOptions.__dataclass_fields__
        unknown = sorted(set(bg_penalty or {}) - set(known))
        if unknown:
            raise ValueError(f'Expected the keys of `bg_penalty` among {", ".join(known)}, but got {unknown}')
        self.bg_penalty = BackgroundPenaltyOptions(**(bg_penalty or {}))
        self._bg_stats: Optional[Tensor] = None
        self._latest: Optional[tuple] = None

    @property
    def lambda_bg(self) -> float:
        """Weight of the penalty, a Python float >= 0. It is no part of the state_dict."""
        return self.bg_penalty.lambda_bg

    @lambda_bg.setter
    def lambda_bg(self, value: float) -> None:
        self.bg_penalty.lambda_bg = value

    def loss_by_feat(
        self,
        cls_scores,
        bbox_preds,
        bbox_dist_preds,
        batch_gt_instances,
        batch_img_metas,
        batch_gt_instances_ignore=None,
    ) -> Dict[str, Tensor]:
        """As YOLOv8Head's, with ``loss_bg``."""
        with self._watch_assigner() as assigned:
            losses = super().loss_by_feat(
                cls_scores,
                bbox_preds,
                bbox_dist_preds,
                batch_gt_instances,
                batch_img_metas,
                batch_gt_instances_ignore,
            )
        # Without any object the assigner returns its mask as floats.
        background = ~assigned['fg_mask_pre_prior'].bool()
        background &= self._penalisable(batch_img_metas, batch_gt_instances_ignore)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.lambda_bg > 0):
            max_logits = torch.cat([scores.max(dim=1).values.flatten(1) for scores in cls_scores], dim=1)
            max_logits = max_logits[..., None]
            # Without a graph where λ is 0: no gradient is touched, not even by adding 0 · NaN.
            penalty = background_penalty(max_logits, background, **vars(self.bg_penalty))
        self._bg_stats = background_statistics(max_logits.detach(), background)
        self._latest = (max_logits.detach(), background, [distances.detach() for distances in bbox_preds])
        scale = self.loss_cls.loss_weight * len(batch_img_metas) * get_world_size()
        losses['loss_bg'] = penalty.new_zeros(()) if self.lambda_bg == 0 else scale * penalty
        return losses

    def get_bg_penalty_stats(self) -> Dict[str, float]:
        """Of max_c σ(z) over the background of the latest loss: ``mean``, ``max``, ``min``, and ``num`` priors.

        Python numbers, all 0 before the first loss. This call waits for the device; computing the loss does not.
        """
        mean, highest, lowest, num = [0.0] * 4 if self._bg_stats is None else self._bg_stats.tolist()
        return dict(mean=mean, max=highest, min=lowest, num=int(num))

    @torch.no_grad()
    def background_predictions(self, image: int, number: int) -> Dict[str, Tensor]:
        """The most confident predictions on background of one image of the latest loss, best first.

        Args:
            image: its place in the batch.
            number: how many at most, >= 1.

        Returns:
            ``scores`` (K,), max_c σ(z), and ``bboxes`` (K, 4), xyxy in the input's pixels, fp32; K <= number.

        Raises:
            ValueError: there was no loss yet.
        """
        if self._latest is None:
            raise ValueError('Expected a loss to have been computed, but there was none yet')
        max_logits, background, bbox_preds = self._latest
        scores = max_logits[image, :, 0].float().sigmoid().masked_fill(~background[image], -1)
        scores, places = scores.topk(min(number, int(background[image].sum())))
        distances = torch.cat([level[image].flatten(1) for level in bbox_preds], dim=1).T[places].float()
        priors = self.flatten_priors_train[places].float()
        boxes = self.bbox_coder.decode(priors[None, :, :2], distances[None], priors[:, 2])[0]
        return dict(scores=scores, bboxes=boxes)

    @contextmanager
    def _watch_assigner(self):
        """Collect what the assigner returns within the ``with`` block."""
        seen: dict = {}
        handle = self.assigner.register_forward_hook(lambda module, args, output: seen.update(output))
        try:
            yield seen
        finally:
            handle.remove()

    def _penalisable(self, metas: List[dict], ignored) -> Tensor:
        """Which priors, (B, N), lie neither in padding nor in an ignored box."""
        points = self.flatten_priors_train[:, :2].float()
        frames = [picture_frame(meta) for meta in metas]
        tiles = max(len(boxes) for _, boxes in frames)
        # Rows of NaN hold no point.
        image_boxes = torch.full((len(metas), tiles, 4), torch.nan)
        for row, (_, boxes) in zip(image_boxes, frames):
            row[: len(boxes)] = boxes
        to_image = torch.stack([matrix for matrix, _ in frames])
        to_image, image_boxes = (x.to(points.device, non_blocking=True) for x in (to_image, image_boxes))
        mask = priors_on_image(points, to_image, image_boxes)
        for i, meta in enumerate(metas):
            instances = None if ignored is None else ignored[i]
            boxes = meta.get('ignored_bboxes') if instances is None else instances.get('bboxes')
            if boxes is not None and len(boxes):
                boxes = torch.as_tensor(getattr(boxes, 'tensor', boxes), dtype=torch.float32)
                mask[i] &= ~priors_inside(points, boxes.to(points.device, non_blocking=True))
        return mask


def picture_frame(meta: dict):
    """(matrix from the input to the picture, boxes of the picture there), from an image's meta.

    With ``homography_matrix`` the picture is the original image, or ``mosaic_tiles``; without it, the part
    of the input before batch padding; without any shape, all there is.
    """
    homography = meta.get('homography_matrix')
    if homography is not None:
        boxes = meta['mosaic_tiles'] if 'mosaic_tiles' in meta else [[0, 0, meta['ori_shape'][1], meta['ori_shape'][0]]]
        matrix = torch.linalg.inv(torch.as_tensor(homography, dtype=torch.float64)).float()
    else:
        height, width = meta.get('img_shape', (torch.inf, torch.inf))[:2]
        boxes, matrix = [[0, 0, width, height]], torch.eye(3)
    return matrix, torch.as_tensor(boxes, dtype=torch.float32)
