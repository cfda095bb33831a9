"""Fuse the boxes that a detector finds in several views of one image."""

from collections.abc import Mapping, Sequence

import torch
from mmcv.ops import batched_nms
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData


def fused_boxes(views: Sequence[InstanceData], nms: Mapping) -> InstanceData:
    r"""The boxes of V views, with their mean scores.

    NMS keeps boxes of all views. Each view gives a kept box b its score :math:`s_v`: the highest score of a box of the
    same class whose IoU with b is at least ``iou_threshold``, or 0 without one. The fused score is
    :math:`\frac{1}{V} \sum_v s_v`. The fused box is the mean of these boxes, weighted by :math:`s_v`.

    Args:
        views: ``bboxes`` in the pixels of the image, ``scores`` and ``labels`` of each view.
        nms: config for batched_nms of MMCV. ``iou_threshold`` is 0.5 without an entry.

    Returns:
        The boxes, highest score first.
    """
    found = InstanceData.cat(list(views))
    if not len(found):
        return found
    found = found[batched_nms(found.bboxes, found.scores, found.labels, dict(nms))[1]]
    scores, boxes = torch.zeros_like(found.scores), torch.zeros_like(found.bboxes)
    for view in (view for view in views if len(view)):
        same = bbox_overlaps(found.bboxes, view.bboxes) >= nms.get('iou_threshold', 0.5)
        same &= found.labels[:, None] == view.labels
        best, place = (same * view.scores).max(dim=1)
        scores += best
        boxes += best[:, None] * view.bboxes[place]
    found.bboxes, found.scores = boxes / scores[:, None], scores / len(views)
    return found[found.scores.argsort(descending=True)]
