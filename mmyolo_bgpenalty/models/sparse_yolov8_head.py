"""YOLOv8's head with sparse targets: the losses of boxes and distributions are computed only from the positives.

Shapes: B images, N priors, C classes, G boxes of an image (padded), P positives, R bins of a distribution (reg_max).
"""

from typing import Any, NamedTuple

import torch
from mmdet.models.losses import CrossEntropyLoss
from mmengine.dist import get_world_size
from mmyolo.models.dense_heads import YOLOv8Head
from mmyolo.models.utils import gt_instances_preprocess
from mmyolo.registry import MODELS
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmyolo_bgpenalty.models.assigner import Positives, SparseTaskAlignedAssigner
from mmyolo_bgpenalty.models.losses.sparse import Entries, Parts, bce_and_max_logits, dense_distillation, split_by_level
from mmyolo_bgpenalty.utils.arguments import flag
from mmyolo_bgpenalty.utils.distributed import sum_over_processes
from mmyolo_bgpenalty.utils.geometry import as_grids, priors_in_boxes


class LossInputs(NamedTuple):
    """The arguments of YOLOv8Head's ``loss_by_feat``. The first three have an entry for each level."""

    cls_scores: list[Tensor]  # logits, (B, C, H, W)
    bbox_preds: list[Tensor]  # distances, (B, 4, H, W), in strides
    bbox_dist_preds: list[Tensor]  # logits of the distributions, (B, HW, 4, R)
    batch_gt_instances: Any  # InstanceData of each image, or rows of image, class and xyxy, (K, 6)
    batch_img_metas: list[dict]
    batch_gt_instances_ignore: Any = None


class HeadLosses(NamedTuple):
    """The losses of a batch, and what a further loss needs."""

    losses: dict[str, Tensor]  # loss_cls, loss_bbox and loss_dfl, as ``loss_by_feat`` returns them
    foreground: Tensor  # (B, N), bool, True where the prior has an object
    score_sum: Tensor  # scalar, the sum of the assigned scores
    max_logits: Tensor  # (B, N), max_c z, with its gradient
    objects: Tensor  # (B, G, 5), see padded_objects


@MODELS.register_module()
class SparseYOLOv8Head(YOLOv8Head):
    """YOLOv8Head with the same losses and gradients in less time and memory.

    With ``sparse_targets`` it makes no dense targets. Of the predictions it copies only ``bbox_preds``. Objects of
    data samples may then have two more fields: ``box_weights``, (G,), >= 0, multiply their box and DFL losses.
    ``score_weights``, (G,), in [0, 1], multiply their assigned scores, which are the targets of classification.

    Args:
        sparse_targets: True needs a SparseTaskAlignedAssigner, YOLOv8's classification loss and ``reg_max`` > 1. None
            (default): True if these are given. False: the losses are computed by the code of YOLOv8Head.
        ignored_in_cls: at background priors in the box of an ignored object (``ignored_instances``), leave its class
            out of the classification loss, or all classes if its class is unknown. It needs ``sparse_targets``.
        sync_avg_factor: divide losses by the sum of the divisors of all processes. The processes then train like one
            process with the same global batch. False: each process uses its own divisor, as in YOLOv8Head.

    Raises:
        ValueError: a requirement of ``sparse_targets`` or ``ignored_in_cls`` is missing, or a flag is not a bool.
    """

    featmap_sizes_train: list | None

    def __init__(
        self, *args, sparse_targets: bool | None = None, ignored_in_cls=False, sync_avg_factor=False, **kwargs
    ):
        super().__init__(*args, **kwargs)
        needed = self._needed_for_sparse_targets()
        if sparse_targets is not None:
            flag('sparse_targets', sparse_targets)
        if sparse_targets and needed:
            raise ValueError(f'Expected {needed} for `sparse_targets=True`')
        self.sparse_targets = not needed if sparse_targets is None else sparse_targets
        self.ignored_in_cls = flag('ignored_in_cls', ignored_in_cls)
        self.sync_avg_factor = flag('sync_avg_factor', sync_avg_factor)
        if ignored_in_cls and not self.sparse_targets:
            reason = f'but `sparse_targets` needs {needed}' if needed else f'but got {sparse_targets}'
            raise ValueError(f'Expected `sparse_targets` for `ignored_in_cls=True`, {reason}')
        self._cached_place: tuple | None = None
        self._priors_key: tuple | None = None

    def _needed_for_sparse_targets(self) -> str:
        """The missing requirement of ``sparse_targets``, or ''."""
        loss = self.loss_cls
        if self.train_cfg and not isinstance(self.assigner, SparseTaskAlignedAssigner):
            return f'a SparseTaskAlignedAssigner instead of {type(self.assigner).__name__}'
        if type(loss) is not CrossEntropyLoss or not loss.use_sigmoid or loss.class_weight or loss.reduction != 'none':
            got = {key: getattr(loss, key, None) for key in ('use_sigmoid', 'reduction', 'class_weight')}
            wanted = "CrossEntropyLoss(use_sigmoid=True, reduction='none') without `class_weight` as `loss_cls`"
            return f'{wanted} instead of {type(loss).__name__} with {got}'
        if self.head_module.reg_max < 2 or not hasattr(self.head_module, 'proj'):
            return f'distributions (`reg_max` > 1) of the boxes instead of `reg_max` {self.head_module.reg_max}'
        return ''

    def loss_by_feat(self, *args, **kwargs) -> dict[str, Tensor]:
        """As in YOLOv8Head."""
        return self._compute_losses(LossInputs(*args, **kwargs)).losses

    def predict_by_feat(self, cls_scores, *args, **kwargs):
        """As in YOLOv8Head."""
        self._drop_moved_priors(cls_scores[0])
        return super().predict_by_feat(cls_scores, *args, **kwargs)

    def _compute_losses(self, inputs: LossInputs) -> HeadLosses:
        objects = padded_objects(inputs.batch_gt_instances, len(inputs.batch_img_metas))
        if self.sparse_targets:
            found = self._losses_by_positives(inputs, objects)
        else:
            cls_scores, assigned = inputs.cls_scores, {}
            self._drop_moved_priors(cls_scores[0])
            with self.assigner.register_forward_hook(lambda module, args, output: assigned.update(output)):
                losses = super().loss_by_feat(*inputs)
            # Without objects MMYOLO's assigner returns a mask of floats.
            foreground = assigned['fg_mask_pre_prior'].bool()
            max_logits = torch.cat([scores.max(dim=1).values.flatten(1) for scores in cls_scores], dim=1)
            found = HeadLosses(losses, foreground, assigned['assigned_scores'].sum(), max_logits, objects)
        return found._replace(losses=self._synced(found.losses, found.score_sum))

    def _losses_by_positives(self, inputs: LossInputs, boxes: Tensor) -> HeadLosses:
        cls_scores, bbox_preds, bbox_dist_preds, batch_gt_instances, batch_img_metas, ignored = inputs
        self._update_priors(cls_scores)
        images = len(batch_img_metas)
        image, prior, box, score = self._assign(cls_scores, bbox_preds, boxes)
        label = boxes[image, box, 0].long()
        score_weights = self._object_weights('score_weights', batch_gt_instances, boxes)
        if score_weights is not None:
            score = score * score_weights[image, box]

        score_sum = score.sum()
        normalizer = score_sum.clamp(min=1)
        foreground = torch.zeros((images, len(self.flatten_priors_train)), dtype=torch.bool, device=prior.device)
        foreground[image, prior] = True
        left_out = None
        if self.ignored_in_cls:
            left_out = self._ignored_logits(batch_img_metas, ignored, foreground)
        parts = split_by_level(prior, self.num_level_priors)
        bce, max_logits = bce_and_max_logits(cls_scores, image, prior, label, score, left_out, parts)
        losses = dict(loss_cls=self.loss_cls.loss_weight * bce / normalizer)

        weights = self._object_weights('box_weights', batch_gt_instances, boxes)
        weight = score if weights is None else score * weights[image, box]
        objects = boxes[image, box, 1:]
        losses.update(self._box_losses(bbox_dist_preds, image, prior, parts, objects, weight, normalizer))
        losses = {name: loss * images * get_world_size() for name, loss in losses.items()}
        return HeadLosses(losses, foreground, score_sum, max_logits, boxes)

    def _box_losses(
        self,
        bbox_dist_preds,
        image: Tensor,
        prior: Tensor,
        parts: Parts,
        bboxes: Tensor,
        weight: Tensor,
        normalizer: Tensor,
    ) -> dict[str, Tensor]:
        """``loss_bbox`` and ``loss_dfl`` of P priors against ``bboxes``, (P, 4), xyxy in pixels.

        Boxes are decoded from the distributions. Only the distributions get a gradient. ``parts``: ``split_by_level``.
        """
        # From (B, HW, 4, R) to (B, 4 · R, HW). These are views, so nothing is copied.
        levels = [level.permute(0, 2, 3, 1).flatten(1, 2) for level in bbox_dist_preds]
        distributions = torch.cat([level[image[chosen], :, place] for level, (chosen, place) in zip(levels, parts)])
        if not len(prior):
            return dict.fromkeys(('loss_bbox', 'loss_dfl'), distributions.sum() * 0)
        # The distributions are sorted by level. Sort the rest in the same way.
        order = torch.cat([chosen for chosen, _ in parts])
        prior, bboxes, weight = prior[order], bboxes[order], weight[order]
        module = self.head_module
        distributions = distributions.view(len(prior), 4, module.reg_max)
        # A sum, since autocast would round the result of a matmul.
        distances = (distributions.float().softmax(2) * module.proj).sum(2)
        stride = self.stride_tensor[prior]
        targets, points = bboxes / stride, self.flatten_priors_train[prior, :2] / stride
        loss_bbox = self.loss_bbox(self._decode(prior, distances) / stride, targets, weight=weight[:, None])
        loss_dfl = self.loss_dfl(
            distributions.flatten(0, 1),
            self.bbox_coder.encode(points[None], targets[None], max_dis=module.reg_max - 1, eps=0.01).flatten(),
            weight=weight.repeat_interleave(4),
            avg_factor=normalizer,
        )
        return dict(loss_bbox=loss_bbox / normalizer, loss_dfl=loss_dfl)

    @staticmethod
    def _object_weights(name: str, batch_gt_instances, boxes: Tensor) -> Tensor | None:
        """The field ``name`` of the objects, (B, G). Images without the field get 1. None if no image has the field."""
        if isinstance(batch_gt_instances, Tensor) or not any(name in one for one in batch_gt_instances):
            return None
        weights = [instances.get(name, boxes.new_ones(len(instances))) for instances in batch_gt_instances]
        return pad_sequence(weights, batch_first=True)

    @torch.no_grad()
    def _assign(self, cls_scores, bbox_preds, boxes: Tensor) -> Positives:
        """The positives for ``boxes``, (B, G, 5), class and xyxy, padded with zeros."""
        if not boxes.shape[1]:
            none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
            return Positives(none, none, none, boxes.new_zeros(0))
        distances = torch.cat([level.flatten(2) for level in bbox_preds], dim=2)
        logits = [level.flatten(2) for level in cls_scores]

        def boxes_at(image, prior):
            return self._decode(prior, distances[image, :, prior]).type(boxes.dtype)

        def scores_at(image, prior, label):
            scores = logits[0].new_empty(len(prior))
            for level, (chosen, place) in zip(logits, split_by_level(prior, self.num_level_priors)):
                scores[chosen] = level[image[chosen], label[chosen], place]
            return scores.sigmoid()

        labels, bboxes = boxes.split((1, 4), dim=2)
        exists = bboxes.sum(-1, keepdim=True) > 0
        return self.assigner.match(boxes_at, scores_at, self.flatten_priors_train, labels, bboxes, exists)

    def _ignored_logits(self, metas: list[dict], ignored, foreground: Tensor) -> Entries | None:
        """The logits that ``ignored_in_cls`` leaves out of the classification loss, without duplicates."""
        number, classes, device = len(self.flatten_priors_train), self.num_classes, foreground.device
        found = [ignored_objects(meta, ignored, i, device) for i, meta in enumerate(metas)]
        counts = [len(boxes) for boxes, _ in found]
        if not any(counts):
            return None
        boxes, labels = (torch.cat(parts) for parts in zip(*found))
        image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(device, non_blocking=True)
        # Edges are inside, as they are for the penalty.
        every_box = torch.ones_like(labels, dtype=torch.bool)
        box, prior, _ = priors_in_boxes(as_grids(self.flatten_priors_train), boxes, every_box, eps=-1e-6)
        free = (~foreground[image[box], prior]).nonzero()[:, 0]
        box, prior = box[free], prior[free]
        label, prior = labels[box], (image[box] * number + prior) * classes
        known = (label >= 0) & (label < classes)
        every = torch.arange(classes, device=device)
        key = torch.cat([prior[known] + label[known], (prior[~known, None] + every).flatten()]).unique()
        prior, label = key // classes, key % classes
        return prior // number, prior % number, label

    def distil(self, outs: tuple, taught: tuple, share: float, gamma: float) -> dict[str, Tensor]:
        """Losses against the predictions of a teacher at the same priors. They are not scaled by images and processes.

        Args:
            outs: what this head returns in training.
            taught: class logits and distances of the teacher, as in ``outs[:2]``.
            share, gamma: see ``dense_distillation``.
        """
        cls_scores, _, bbox_dist_preds = outs
        self._update_priors(cls_scores)
        logits, *predicted = (torch.cat([level.flatten(2) for level in out], dim=2).mT for out in (cls_scores, *taught))
        scores, distances = (out.detach().float() for out in predicted)
        loss_cls, image, prior, weight = dense_distillation(logits, scores.sigmoid(), share, gamma)
        losses = dict(loss_cls=self.loss_cls.loss_weight * loss_cls)
        weight_sum = weight.sum()
        boxes, parts = self._decode(prior, distances[image, prior]), split_by_level(prior, self.num_level_priors)
        losses.update(self._box_losses(bbox_dist_preds, image, prior, parts, boxes, weight, weight_sum.clamp(min=1)))
        return self._synced(losses, weight_sum)

    def _decode(self, prior: Tensor, distances: Tensor) -> Tensor:
        """Boxes, (P, 4), xyxy in pixels, from ``distances``, (P, 4), in strides."""
        priors = self.flatten_priors_train[prior]
        return self.bbox_coder.decode(priors[None, :, :2], distances[None], priors[:, 2])[0]

    def _drop_moved_priors(self, like: Tensor) -> None:
        """If device or dtype have changed, drop the priors that YOLOv8Head caches. YOLOv8Head compares only sizes."""
        place = like.device, like.dtype
        if place != self._cached_place:
            self._cached_place = place
            self.featmap_sizes = self.featmap_sizes_train = None

    def _update_priors(self, cls_scores) -> None:
        """Make new priors if sizes of feature maps, device or dtype have changed. They are in fp32 at least.

        In bf16 they would be wrong by several pixels.
        """
        sizes = [level.shape[2:] for level in cls_scores]
        place = dict(dtype=torch.promote_types(cls_scores[0].dtype, torch.float32), device=cls_scores[0].device)
        if (sizes, place) != self._priors_key:
            self._priors_key = sizes, place
            levels = self.prior_generator.grid_priors(sizes, **place, with_stride=True)
            self.num_level_priors = [len(level) for level in levels]
            self.flatten_priors_train = torch.cat(levels)
            self.stride_tensor = self.flatten_priors_train[..., [2]]

    def _synced(self, losses: dict[str, Tensor], divisor: Tensor) -> dict[str, Tensor]:
        r"""With ``sync_avg_factor``: divide by the sum of the divisors of all processes, not by that of this process.

        The losses of process r are :math:`W \cdot T_r / \max(1, N_r)`, and ``divisor`` is :math:`N_r`. DDP averages the
        gradients of the W processes. Multiplied by :math:`W \max(1, N_r) / \max(1, \sum_r N_r)` they average to
        :math:`W \sum_r T_r / \max(1, \sum_r N_r)`, as in one process.
        """
        if not self.sync_avg_factor or get_world_size() == 1:
            return losses
        own = divisor.detach().float()
        factor = get_world_size() * own.clamp(min=1) / sum_over_processes(own).clamp(min=1)
        return {name: loss * factor for name, loss in losses.items()}


def padded_objects(objects, images: int) -> Tensor:
    """``gt_instances_preprocess`` of MMYOLO: (B, G, 5), class and xyxy, padded with zeros.

    For MMYOLO's fast format, (M, 6), with image (below ``images``), class and xyxy, the result is the same, but the
    device is waited for once, not three times an image.
    """
    if not isinstance(objects, Tensor):
        return gt_instances_preprocess(objects, images)
    image = objects[:, 0].long()
    own = image[:, None] == torch.arange(images, device=objects.device)
    place = (own.cumsum(0) - 1).gather(1, image[:, None])[:, 0]  # among the objects of its image
    padded = objects.new_zeros(images, int(own.sum(0).max()), objects.shape[1] - 1)
    padded[image, place] = objects[:, 1:]
    return padded


def ignored_objects(meta: dict, ignored, i: int, device) -> tuple[Tensor, Tensor]:
    """Boxes of the ignored objects of image i, (K, 4), fp32, and their labels, (K,), -1 if unknown."""
    instances = None if ignored is None else ignored[i]
    if instances is None:
        boxes, labels = meta.get('ignored_bboxes'), meta.get('ignored_labels')
    else:
        boxes, labels = instances.get('bboxes'), instances.get('labels')
    boxes = torch.zeros(0, 4) if boxes is None else boxes
    boxes = torch.as_tensor(getattr(boxes, 'tensor', boxes), dtype=torch.float32)
    labels = torch.full((len(boxes),), -1) if labels is None else torch.as_tensor(labels, dtype=torch.int64)
    return boxes.to(device, non_blocking=True), labels.to(device, non_blocking=True)
