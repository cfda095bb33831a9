"""MMYOLO's task-aligned assignment, computed only where it can matter."""

from typing import Callable, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from mmyolo.models.losses import bbox_overlaps
from mmyolo.models.task_modules import BatchTaskAlignedAssigner
from mmyolo.models.task_modules.assigners.utils import yolov6_iou_calculator
from mmyolo.registry import TASK_UTILS
from torch import Tensor

from mmyolo_bgpenalty.utils.geometry import Grid, as_grids, priors_in_boxes


class Positives(NamedTuple):
    """The P priors that are given an object, by image, then by prior; each once.

    Attributes:
        image, prior, box: (P,), int64; ``box`` is the object's place among its image's boxes.
        score: (P,), target of the object's class, the normalised alignment metric, in [0, 1].
    """

    image: Tensor
    prior: Tensor
    box: Tensor
    score: Tensor


@TASK_UTILS.register_module()
class SparseTaskAlignedAssigner(BatchTaskAlignedAssigner):
    r"""BatchTaskAlignedAssigner with the same result, for the pairs of box and prior that can be positive.

    Only priors inside a box are ever given to it, so the alignment metric :math:`s^\alpha u^\beta` (score of the
    box's class and overlap) is computed for these pairs alone, in place of all B · G · N. Where the best ``topk`` of
    a box are not unique, the choice is the one that ``torch.topk`` makes for the original. Without any box
    ``fg_mask_pre_prior`` is bool, as with boxes; the original's is float then.

    Arguments are BatchTaskAlignedAssigner's. Shapes: B images, N priors, G boxes (padded), C classes.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._priors: Optional[Tensor] = None
        self._grids: Optional[List[Grid]] = None

    @torch.no_grad()
    def forward(
        self,
        pred_bboxes: Tensor,
        pred_scores: Tensor,
        priors: Tensor,
        gt_labels: Tensor,
        gt_bboxes: Tensor,
        pad_bbox_flag: Tensor,
    ) -> dict:
        """Arguments and result are BatchTaskAlignedAssigner's."""
        images, number, classes = pred_scores.shape
        fg_mask = torch.zeros((images, number), dtype=torch.bool, device=gt_bboxes.device)
        scores = gt_bboxes.new_zeros(pred_scores.shape)
        if not gt_bboxes.shape[1]:
            return dict(
                assigned_labels=gt_bboxes.new_full((images, number), self.num_classes),
                assigned_bboxes=gt_bboxes.new_zeros((images, number, 4)),
                assigned_scores=scores,
                fg_mask_pre_prior=fg_mask,
            )
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
        # Background has label and box of its image's first object, as with the original.
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
        """The positives alone, from predictions that are read only where they are needed.

        Args:
            boxes_at: of (image, prior), two index tensors (P,), the predicted boxes, (P, 4), xyxy in pixels.
            scores_at: of (image, prior, label) the predicted scores, (P,), in [0, 1].
            priors: (N, >= 2), x and y first, pixels.
            gt_labels: (B, G, 1).
            gt_bboxes: (B, G, 4), xyxy in pixels, G >= 1.
            pad_bbox_flag: (B, G, 1), 1 where there is a box, 0 where there is none.
        """
        images, boxes = gt_bboxes.shape[:2]
        number, labels = len(priors), gt_labels[..., 0].long()

        def align(image: Tensor, prior: Tensor, box: Tensor) -> Tuple[Tensor, Tensor]:
            number = len(image)
            if number:
                # On the CPU torch computes a tensor's last few powers by other code, which may round otherwise: pad,
                # or of equal alignments one would be above the others.
                image, prior, box = (torch.cat([x, x[-1:].expand(-number % 1024)]) for x in (image, prior, box))
            overlap = self._overlaps(boxes_at(image, prior), gt_bboxes[image, box])
            metric = scores_at(image, prior, labels[image, box]).pow(self.alpha) * overlap.pow(self.beta)
            return metric[:number], overlap[:number]

        # Candidates: priors inside a box, by row (box of an image), then by prior.
        row, prior, counts = priors_in_boxes(
            priors[:, :2], gt_bboxes.reshape(-1, 4), pad_bbox_flag.reshape(-1) > 0, self._grids_of(priors)
        )
        image = row.div(boxes, rounding_mode='floor')
        box = row - image * boxes
        metric, overlap = align(image, prior, box)
        chosen = self._best(metric, row, prior, counts, number)
        image, prior, box, metric, overlap = (x[chosen] for x in (image, prior, box, metric, overlap))

        key, order = (image * number + prior).sort(stable=True)
        box, metric, overlap = box[order], metric[order], overlap[order]

        # A prior that several boxes claim goes to the one of all its image's boxes that it overlaps most.
        again = F.pad(key[1:] == key[:-1], (1, 0))
        first = ~again
        contested = (first & F.pad(again[1:], (0, 1))).nonzero()[:, 0]
        if len(contested):
            image = key[contested].div(number, rounding_mode='floor')
            prior = key[contested] - image * number
            each = torch.arange(boxes, device=key.device).repeat(len(contested))
            overlaps = self._overlaps(
                boxes_at(image, prior).repeat_interleave(boxes, dim=0),
                gt_bboxes[image.repeat_interleave(boxes), each],
            )
            box[contested] = overlaps.reshape(-1, boxes).argmax(dim=1)
            metric[contested], overlap[contested] = align(image, prior, box[contested])
            key, box, metric, overlap = (x[first] for x in (key, box, metric, overlap))

        image = key.div(number, rounding_mode='floor')
        row = image * boxes + box
        best_metric, best_overlap = (
            torch.zeros(images * boxes, dtype=x.dtype, device=x.device).scatter_reduce_(0, row, x, 'amax')
            for x in (metric, overlap)
        )
        score = metric * best_overlap[row] / (best_metric[row] + self.eps)
        return Positives(image, key - image * number, box, score)

    def _best(self, metric: Tensor, row: Tensor, prior: Tensor, counts: Tensor, number: int) -> Tensor:
        """Places of the candidates among their row's ``topk``."""
        starts = counts.cumsum(0) - counts
        width = max(int(counts.max()), self.topk + 1)
        place = torch.arange(len(row), device=row.device) - starts[row]
        # Where there is no candidate the metric is below every candidate's.
        compact = metric.new_full((len(counts), width), -1)
        compact[row, place] = metric
        values, places = compact.topk(self.topk + 1, dim=1)
        last, next_ = values[:, self.topk - 1], values[:, self.topk]
        chosen = values[:, : self.topk] >= 0
        # Ties, and priors inside that align with nothing, which compete with all those outside.
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
        """Places of the candidates that ``torch.topk`` chooses among all priors, in some of the rows."""
        line = rows.new_full((all_rows,), -1)
        line[rows] = torch.arange(len(rows), device=row.device)
        own = (line[row] >= 0).nonzero()[:, 0]
        dense, places = metric.new_zeros((len(rows), number)), prior.new_full((len(rows), number), -1)
        dense[line[row[own]], prior[own]] = metric[own]
        places[line[row[own]], prior[own]] = own
        best = places.gather(1, dense.topk(self.topk, dim=1).indices).flatten()
        return best[best >= 0]

    def _overlaps(self, pred_bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """As the original's, for P pairs: (P, 4), (P, 4) -> (P,)."""
        if not self.use_ciou:
            return yolov6_iou_calculator(gt_bboxes[:, None], pred_bboxes[:, None])[:, 0, 0]
        # By coordinate in memory, since the coordinates are what is computed with.
        pred_bboxes, gt_bboxes = (x.T.contiguous().T for x in (pred_bboxes, gt_bboxes))
        return bbox_overlaps(pred_bboxes, gt_bboxes, iou_mode='ciou', bbox_format='xyxy').clamp(0)

    def _grids_of(self, priors: Tensor) -> Optional[List[Grid]]:
        if self._priors is not priors:
            self._priors, self._grids = priors, as_grids(priors[:, :2])
        return self._grids
