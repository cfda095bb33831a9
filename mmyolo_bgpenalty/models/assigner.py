"""MMYOLO's task-aligned assignment, computed only for priors inside a box.

Shapes: B images, N priors, G boxes of an image (padded), C classes, P pairs of a prior and a box.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmyolo.models.losses import bbox_overlaps
from mmyolo.models.task_modules import BatchTaskAlignedAssigner
from mmyolo.models.task_modules.assigners.utils import yolov6_iou_calculator
from mmyolo.registry import TASK_UTILS
from torch import Tensor

from mmyolo_bgpenalty.utils.arguments import non_negative, whole_number
from mmyolo_bgpenalty.utils.geometry import as_grids, priors_in_boxes


class Positives(NamedTuple):
    """The P priors that get an object, sorted by image, then by prior. No prior occurs twice in an image."""

    image: Tensor  # (P,), int64
    prior: Tensor  # (P,), int64
    box: Tensor  # (P,), int64, the index of the object among the boxes of its image
    score: Tensor  # (P,), in [0, 1], the normalized alignment metric: the target of the class of the object


@TASK_UTILS.register_module()
class SparseTaskAlignedAssigner(BatchTaskAlignedAssigner):
    r"""BatchTaskAlignedAssigner with the same result, in less time and memory.

    A box can only get priors inside it. The alignment metric :math:`s^\alpha u^\beta` is computed for these pairs, not
    for all B · G · N. Here s is the score of the class of the box, and u is the overlap. If metrics
    are equal, it chooses the same priors as the original.

    Args:
        kwargs: those of BatchTaskAlignedAssigner: ``topk``, a whole number >= 1; ``alpha``, ``beta`` and ``eps``, >= 0.

    Raises:
        ValueError: one of these is out of range.
    """

    def __init__(self, num_classes: int, topk: int = 13, **kwargs):
        super().__init__(num_classes, whole_number('topk', topk), **kwargs)
        for name in ('alpha', 'beta', 'eps'):
            non_negative(name, getattr(self, name))

    @torch.no_grad()
    def forward(self, pred_bboxes, pred_scores, priors, gt_labels, gt_bboxes, pad_bbox_flag) -> dict:
        """Arguments and result are those of BatchTaskAlignedAssigner."""
        if not gt_bboxes.shape[1]:
            return super().forward(pred_bboxes, pred_scores, priors, gt_labels, gt_bboxes, pad_bbox_flag)
        images, number, classes = pred_scores.shape
        fg_mask = torch.zeros((images, number), dtype=torch.bool, device=gt_bboxes.device)
        scores = gt_bboxes.new_zeros(pred_scores.shape)
        flat_boxes, flat_scores = pred_bboxes.reshape(-1, 4), pred_scores.reshape(-1)
        image, prior, box, score = self.match(
            lambda image, prior: flat_boxes[image * number + prior],
            lambda image, prior, label: flat_scores[(image * number + prior) * classes + label],
            priors,
            gt_labels,
            gt_bboxes,
            pad_bbox_flag,
        )
        label = gt_labels[..., 0].long().clamp(min=0)
        # As in the original, background has the label and the box of the first object of its image.
        labels, bboxes = label[:, :1].repeat(1, number), gt_bboxes[:, :1].repeat(1, number, 1)
        labels[image, prior] = label[image, box]
        bboxes[image, prior] = gt_bboxes[image, box]
        scores[image, prior, label[image, box]] = score.to(scores.dtype)
        fg_mask[image, prior] = True
        return dict(assigned_labels=labels, assigned_bboxes=bboxes, assigned_scores=scores, fg_mask_pre_prior=fg_mask)

    @torch.no_grad()
    def match(
        self,
        boxes_at: Callable[[Tensor, Tensor], Tensor],
        scores_at: Callable[[Tensor, Tensor, Tensor], Tensor],
        priors: Tensor,
        gt_labels: Tensor,
        gt_bboxes: Tensor,
        pad_bbox_flag: Tensor,
    ) -> Positives:
        """Choose the positives.

        Args:
            boxes_at: returns predicted boxes, (P, 4), xyxy in pixels, for the given images and priors, (P,) each.
            scores_at: returns predicted scores, (P,), in [0, 1], for the given images, priors and labels, (P,) each.
            priors, gt_labels, gt_bboxes, pad_bbox_flag: as in BatchTaskAlignedAssigner, with G >= 1.
        """
        images, boxes = gt_bboxes.shape[:2]
        number, labels = len(priors), gt_labels[..., 0].long()

        def align(score: Tensor, overlap: Tensor) -> Tensor:
            return score.pow(self.alpha) * overlap.pow(self.beta)

        # A candidate is a prior inside a box. A row is a box of an image. Candidates are sorted by row, then by prior.
        row, prior, counts = priors_in_boxes(as_grids(priors), gt_bboxes.reshape(-1, 4), pad_bbox_flag.reshape(-1) > 0)
        image, box = row // boxes, row % boxes
        # On a CPU torch computes the powers of the last elements with other code, which may round differently.
        # The padding keeps equal metrics equal.
        padding = -len(prior) % 1024 if len(prior) else 0
        image, prior, box = (torch.cat([x, x[-1:].expand(padding)]) for x in (image, prior, box))
        overlap = self._overlaps(boxes_at(image, prior), gt_bboxes[image, box])
        metric = align(scores_at(image, prior, labels[image, box]), overlap)[: len(row)]
        chosen = self._best(metric, row, prior[: len(row)], counts, number)
        image, prior, box, metric, overlap = (x[chosen] for x in (image, prior, box, metric, overlap))

        key, order = (image * number + prior).sort(stable=True)
        box, metric, overlap = box[order], metric[order], overlap[order]

        # Several boxes may have chosen the same prior.
        again = F.pad(key[1:] == key[:-1], (1, 0))
        first = ~again
        contested = (first & F.pad(again[1:], (0, 1))).nonzero()[:, 0]
        if len(contested):
            image, prior = key[contested] // number, key[contested] % number
            overlap[contested], chosen = self._most_overlapping(boxes_at(image, prior), image, gt_bboxes)
            box[contested] = chosen
            metric[contested] = align(scores_at(image, prior, labels[image, chosen]), overlap[contested])
            key, box, metric, overlap = (x[first] for x in (key, box, metric, overlap))

        image, prior = key // number, key % number
        row = image * boxes + box
        best_metric, best_overlap = (
            torch.zeros(images * boxes, dtype=x.dtype, device=x.device).scatter_reduce_(0, row, x, 'amax')
            for x in (metric, overlap)
        )
        score = metric * best_overlap[row] / (best_metric[row] + self.eps)
        return Positives(image, prior, box, score)

    def _most_overlapping(self, predicted: Tensor, image: Tensor, gt_bboxes: Tensor) -> tuple[Tensor, Tensor]:
        """For each of P predicted boxes: its overlap with the box that it overlaps most in its image, and its index."""
        boxes = gt_bboxes.shape[1]
        each = torch.arange(boxes, device=image.device).repeat(len(image))
        overlaps = self._overlaps(
            predicted.repeat_interleave(boxes, dim=0), gt_bboxes[image.repeat_interleave(boxes), each]
        )
        return overlaps.reshape(-1, boxes).max(dim=1)

    def _best(self, metric: Tensor, row: Tensor, prior: Tensor, counts: Tensor, number: int) -> Tensor:
        """Indices of the candidates that are among the best ``topk`` of their row."""
        starts = counts.cumsum(0) - counts
        width = max(int(counts.max()), self.topk + 1)
        place = torch.arange(len(row), device=row.device) - starts[row]
        # Places without a candidate have a metric below that of every candidate.
        compact = metric.new_full((len(counts), width), -1)
        compact[row, place] = metric
        values, places = compact.topk(self.topk + 1, dim=1)
        last, next_ = values[:, self.topk - 1], values[:, self.topk]
        chosen = values[:, : self.topk] >= 0
        # Unclear: the metrics of ranks topk and topk + 1 are equal, or a metric is 0. Priors outside of the box have 0.
        unclear = ((last == next_) & (last >= 0)) | ((values[:, : self.topk] == 0).any(1))
        chosen[unclear] = False
        places = (starts[:, None] + places[:, : self.topk])[chosen]
        unclear = unclear.nonzero()[:, 0]
        if len(unclear):
            places = torch.cat([places, self._best_as_original(unclear, metric, row, prior, len(counts), number)])
        return places

    def _best_as_original(
        self, rows: Tensor, metric: Tensor, row: Tensor, prior: Tensor, all_rows: int, number: int
    ) -> Tensor:
        """Indices of the candidates that the original chooses in ``rows``, by ``torch.topk`` over all priors."""
        line = rows.new_full((all_rows,), -1)
        line[rows] = torch.arange(len(rows), device=row.device)
        own = (line[row] >= 0).nonzero()[:, 0]
        dense, places = metric.new_zeros((len(rows), number)), prior.new_full((len(rows), number), -1)
        dense[line[row[own]], prior[own]] = metric[own]
        places[line[row[own]], prior[own]] = own
        best = places.gather(1, dense.topk(self.topk, dim=1).indices).flatten()
        return best[best >= 0]

    def _overlaps(self, pred_bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Overlaps of P pairs, (P,), as in the original."""
        if not self.use_ciou:
            return yolov6_iou_calculator(gt_bboxes[:, None], pred_bboxes[:, None])[:, 0, 0]
        # Faster if each coordinate is contiguous in memory.
        pred_bboxes, gt_bboxes = (x.T.contiguous().T for x in (pred_bboxes, gt_bboxes))
        return bbox_overlaps(pred_bboxes, gt_bboxes, iou_mode='ciou', bbox_format='xyxy').clamp(0)
