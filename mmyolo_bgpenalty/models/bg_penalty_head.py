"""YOLOv8's head with the background penalty."""

from contextlib import contextmanager
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmdet.models.losses import CrossEntropyLoss
from mmengine.dist import get_world_size
from mmyolo.models.dense_heads import YOLOv8Head
from mmyolo.models.utils import gt_instances_preprocess
from mmyolo.registry import MODELS
from torch import Tensor

from mmyolo_bgpenalty.models.assigner import Positives, SparseTaskAlignedAssigner
from mmyolo_bgpenalty.models.losses import (
    BackgroundPenaltyOptions,
    background_penalty,
    background_statistics,
    bce_and_max_logits,
    dense_distillation,
    hard_background,
    ranking_penalty,
    split_by_level,
)
from mmyolo_bgpenalty.utils.distributed import sum_over_processes
from mmyolo_bgpenalty.utils.geometry import as_grids, priors_in_boxes, priors_inside, priors_on_image, sample_scores


@MODELS.register_module()
class BgPenaltyYOLOv8Head(YOLOv8Head):
    """YOLOv8Head with one more loss, ``loss_bg``: ``background_penalty``.

    It is scaled as MMYOLO scales ``loss_cls`` (its ``loss_weight``, images in the batch, world size), so the
    sum of the two is what adding the penalty inside the classification loss would give. Background is every
    prior that the assigner leaves without an object, less those whose centre lies in padding (told from
    ``homography_matrix`` in the image's meta, else from ``img_shape``) or in an ``ignored_instances`` box. Where an
    image's meta has ``object_scores``, the arguments of ``sample_scores``, a prior's
    penalty is multiplied by 1 less what a teacher sees there.

    Args:
        bg_penalty: ``lambda_bg`` (>= 0; 1.0), ``focal`` (False), ``gamma`` (>= 0; 2.0), ``normalizer`` ('background',
            'positives' or 'hard'), ``hard_score`` (0.1), ``hard_top`` (None), ``region`` ('all' or 'outside') and
            ``rank`` (False), see ``BackgroundPenaltyOptions`` and
            ``background_penalty``. With ``lambda_bg=0`` the other losses and
            all gradients are those of YOLOv8Head: bit for bit without ``sparse_targets``, else up to rounding.
            ``rank`` takes ``sparse_targets``.
        sparse_targets: compute YOLOv8Head's losses from the positives alone, without its dense targets and copies
            of the predictions: the same values and gradients in less time and memory. It takes a
            SparseTaskAlignedAssigner, and YOLOv8's own classification loss. None: where these are given.
            Objects of data samples may have ``box_weights``, (G,), >= 0, that multiply their box and DFL losses, and
            ``score_weights``, in [0, 1], that multiply their scores, the targets of classification.
        ignored_in_cls: leave out of the classification loss, too, what an ``ignored_instances`` box says there may be:
            its class (all classes, if it has none of them) at the priors inside that have no object. It takes
            ``sparse_targets``.
        sync_avg_factor: divide losses by the sum over all processes' images, so that several processes train as one
            with the same global batch does. Without, each divides by its own images' sum, as YOLOv8Head does: a mean of
            the processes' means, in which a box weighs more where there are few. One process: no difference. What
            ``rank`` compares stays within a process.

    Raises:
        ValueError: an unknown key or a value out of range in ``bg_penalty``; ``sparse_targets`` without what it takes;
            ``ignored_in_cls`` without ``sparse_targets``; a switch that is no bool.
    """

    featmap_sizes_train: Optional[list]

    def __init__(
        self,
        *args,
        bg_penalty: Optional[dict] = None,
        sparse_targets: Optional[bool] = None,
        ignored_in_cls: bool = False,
        sync_avg_factor: bool = False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        known = BackgroundPenaltyOptions.__dataclass_fields__
        unknown = sorted(set(bg_penalty or {}) - set(known))
        if unknown:
            raise ValueError(f'Expected the keys of `bg_penalty` among {", ".join(known)}, but got {unknown}')
        self.bg_penalty = BackgroundPenaltyOptions(**(bg_penalty or {}))
        self.bg_penalty.check()
        obstacle = self._obstacle()
        if sparse_targets and obstacle:
            raise ValueError(f'Expected {obstacle} for `sparse_targets=True`')
        self.sparse_targets = not obstacle if sparse_targets is None else sparse_targets
        for name, value in dict(ignored_in_cls=ignored_in_cls, sync_avg_factor=sync_avg_factor).items():
            if not isinstance(value, bool):
                raise ValueError(f'Expected `{name}` to be True or False, but got {value!r}')
        if ignored_in_cls and not self.sparse_targets:
            raise ValueError(f'Expected `sparse_targets` for `ignored_in_cls=True`, which takes {obstacle or "it"}')
        if self.bg_penalty.rank and not self.sparse_targets:
            raise ValueError(f'Expected `sparse_targets` for `bg_penalty.rank=True`, which takes {obstacle or "it"}')
        self.ignored_in_cls = ignored_in_cls
        self.sync_avg_factor = sync_avg_factor
        # What the latest loss was divided by, before the clamp at 1: the sum of the positives' scores.
        self.assigned_score_sum: Tensor = None  # type: ignore[assignment]  # until the first loss
        self._bg_stats: Optional[Tensor] = None
        self._latest: Optional[tuple] = None
        self._positives: Any = None  # image, prior, label and score, between assigner and ranking

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
        compute = self._losses_by_positives if self.sparse_targets else self._losses_as_original
        losses, foreground, max_logits = compute(
            cls_scores, bbox_preds, bbox_dist_preds, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        background = self._penalisable(batch_img_metas, batch_gt_instances_ignore).logical_and_(~foreground)
        if self.bg_penalty.region == 'outside':
            background &= ~self._in_objects(batch_gt_instances, len(batch_img_metas))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.lambda_bg > 0):
            # Without a graph where λ is 0: no gradient is touched, not even by adding 0 · NaN.
            penalty = self._penalty(cls_scores, max_logits, background, batch_img_metas)
        self._positives = None
        max_logits = max_logits.detach()[..., None]
        self._bg_stats = background_statistics(max_logits, background)
        self._latest = (max_logits, background, [distances.detach() for distances in bbox_preds])
        scale = self.loss_cls.loss_weight * len(batch_img_metas) * get_world_size()
        if self._synced:
            divisors = self.assigned_score_sum, self._penalty_divisor(max_logits[..., 0], background)
            factors, (self.assigned_score_sum, _) = self._of_all_processes(*divisors)
            losses = {name: loss * factors[0] for name, loss in losses.items()}
            penalty = penalty * factors[1]
        losses['loss_bg'] = penalty.new_zeros(()) if self.lambda_bg == 0 else scale * penalty
        return losses

    def _penalty(self, cls_scores, max_logits: Tensor, background: Tensor, metas: List[dict]) -> Tensor:
        options = self.bg_penalty
        if options.rank:
            hard = hard_background(max_logits.detach(), background, options.hard_score, options.hard_top)
            found, of = self._logits_at(cls_scores, *hard.nonzero(as_tuple=True)).max(dim=1)
            image, prior, label, score = self._positives
            objects = self._logits_at(cls_scores, image, prior).gather(1, label[:, None])[:, 0]
            return ranking_penalty(found, of, objects, label, score, self.lambda_bg)
        given = {name: value for name, value in vars(options).items() if name not in ('region', 'rank')}
        weight = self._background_weight(metas)
        return background_penalty(
            max_logits[..., None], background, positives=self.assigned_score_sum, weight=weight, **given
        )

    def _penalty_divisor(self, max_logits: Tensor, background: Tensor) -> Tensor:
        """What the latest penalty was divided by, before the clamp at 1."""
        options = self.bg_penalty
        if options.rank:  # Which compares a process's own images: it stays a mean of the processes' means.
            return background.new_ones((), dtype=torch.float32)
        if options.normalizer == 'positives':
            return self.assigned_score_sum
        if options.normalizer == 'hard':
            background = hard_background(max_logits.float(), background, options.hard_score, options.hard_top)
        return background.sum()

    def _logits_at(self, cls_scores, image: Tensor, prior: Tensor) -> Tensor:
        """Logits of the priors, (P, C)."""
        parts = split_by_level(prior, self.num_level_priors)
        logits = torch.cat([level.flatten(2)[image[chosen], :, at] for level, (chosen, at) in zip(cls_scores, parts)])
        # By level, as they are gathered.
        return logits[torch.cat([chosen for chosen, _ in parts]).argsort()]

    def _in_objects(self, batch_gt_instances, images: int) -> Tensor:
        """Which priors, (B, N), lie in an object's box."""
        boxes = gt_instances_preprocess(batch_gt_instances, images)
        return priors_inside(self.flatten_priors_train[:, :2], boxes[..., 1:])

    def _background_weight(self, metas: List[dict]) -> Optional[Tensor]:
        """Of each prior, (B, N), 1 less what a teacher sees there (``object_scores`` in the meta); None without any."""
        if not any('object_scores' in meta for meta in metas):
            return None
        points = self.flatten_priors_train[:, :2].float()
        seen = [
            sample_scores(points, *meta['object_scores']) if 'object_scores' in meta else points.new_zeros(len(points))
            for meta in metas
        ]
        return 1 - torch.stack(seen)

    @property
    def _synced(self) -> bool:
        return self.sync_avg_factor and get_world_size() > 1

    @staticmethod
    def _of_all_processes(*divisors: Tensor) -> Tuple[Tensor, Tensor]:
        r"""Factors that make means over this process's images the means over all, and the divisors' sums.

        The losses are :math:`W \cdot T_r / \max(1, N_r)`, and DDP averages the gradients of the W processes r. Times
        :math:`W \max(1, N_r) / \max(1, \sum_r N_r)` they average to :math:`W \sum_r T_r / \max(1, \sum_r N_r)`,
        which is what one process has.
        """
        own = torch.stack([divisor.detach().float() for divisor in divisors])
        total = sum_over_processes(own)
        return get_world_size() * own.clamp(min=1) / total.clamp(min=1), total

    def _losses_as_original(self, cls_scores, *args) -> Tuple[Dict[str, Tensor], Tensor, Tensor]:
        """YOLOv8Head's losses, which priors have an object, (B, N), and max_c z, (B, N)."""
        with self._watch_assigner() as assigned:
            losses = super().loss_by_feat(cls_scores, *args)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.lambda_bg > 0):
            max_logits = torch.cat([scores.max(dim=1).values.flatten(1) for scores in cls_scores], dim=1)
        self.assigned_score_sum = assigned['assigned_scores'].sum()
        # Without any object MMYOLO's assigner returns its mask as floats.
        return losses, assigned['fg_mask_pre_prior'].bool(), max_logits

    def _losses_by_positives(
        self, cls_scores, bbox_preds, bbox_dist_preds, batch_gt_instances, batch_img_metas, ignored
    ) -> Tuple[Dict[str, Tensor], Tensor, Tensor]:
        """The same, computed from the positives; the boxes' gradient goes by the distributions alone."""
        self._lay_priors(cls_scores)
        images = len(batch_img_metas)
        boxes = gt_instances_preprocess(batch_gt_instances, images)
        positives = self._assign(cls_scores, bbox_preds, boxes)
        image, prior, box, score = positives
        label = boxes[image, box, 0].long()
        score_weights = self._object_weights('score_weights', batch_gt_instances, boxes)
        if score_weights is not None:
            score = score * score_weights[image, box]
        if self.bg_penalty.rank:
            self._positives = (image, prior, label, score)

        self.assigned_score_sum = score.sum()
        normalizer = self.assigned_score_sum.clamp(min=1)
        number = len(self.flatten_priors_train)
        foreground = torch.zeros((images, number), dtype=torch.bool, device=prior.device)
        foreground[image, prior] = True
        unsure = self._unsure(batch_img_metas, ignored, foreground) if self.ignored_in_cls else None
        bce, max_logits = bce_and_max_logits(cls_scores, image, prior, label, score, unsure)
        losses = dict(loss_cls=self.loss_cls.loss_weight * bce / normalizer)

        weights = self._object_weights('box_weights', batch_gt_instances, boxes)
        weight = score if weights is None else score * weights[image, box]
        losses.update(self._box_losses(bbox_dist_preds, image, prior, boxes[image, box, 1:], weight, normalizer))
        losses = {name: loss * images * get_world_size() for name, loss in losses.items()}
        return losses, foreground, max_logits

    def _box_losses(
        self, bbox_dist_preds, image: Tensor, prior: Tensor, bboxes: Tensor, weight: Tensor, normalizer: Tensor
    ) -> Dict[str, Tensor]:
        """``loss_bbox`` and ``loss_dfl`` of the priors, (P,), against ``bboxes``, (P, 4), xyxy in pixels."""
        parts = split_by_level(prior, self.num_level_priors)
        # From where the convolution left them: (B, HW, 4, R) is a view of (B, 4 · R, HW).
        levels = [level.permute(0, 2, 3, 1).flatten(1, 2) for level in bbox_dist_preds]
        distributions = torch.cat([level[image[chosen], :, place] for level, (chosen, place) in zip(levels, parts)])
        if not len(prior):
            return dict.fromkeys(('loss_bbox', 'loss_dfl'), distributions.sum() * 0)
        # By level, as they are gathered.
        order = torch.cat([chosen for chosen, _ in parts])
        prior, bboxes, weight = prior[order], bboxes[order], weight[order]
        module = self.head_module
        distributions = distributions.view(len(prior), 4, module.reg_max)
        # As a sum: autocast would round a matmul's result.
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
    def _object_weights(name: str, batch_gt_instances, boxes: Tensor) -> Optional[Tensor]:
        """That field of the objects, laid out as ``boxes``, (B, G); 1 where they lack it, None where all do."""
        if isinstance(batch_gt_instances, Tensor) or not any(name in one for one in batch_gt_instances):
            return None
        weights = boxes.new_ones(boxes.shape[:2])
        for row, instances in zip(weights, batch_gt_instances):
            if name in instances:
                row[: len(instances)] = instances[name]
        return weights

    @torch.no_grad()
    def _assign(self, cls_scores, bbox_preds, boxes: Tensor) -> Positives:
        """Positives for ``boxes``, (B, G, 5), of class and xyxy, padded with zeros."""
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

        exists = boxes[..., 1:].sum(-1, keepdim=True) > 0
        return self.assigner.match(
            boxes_at, scores_at, self.flatten_priors_train, boxes[..., :1], boxes[..., 1:], exists
        )

    def _decode(self, prior: Tensor, distances: Tensor) -> Tensor:
        """Boxes, (P, 4), xyxy in pixels, of priors with their distances in strides."""
        points, stride = self.flatten_priors_train[prior, :2], self.flatten_priors_train[prior, 2]
        return self.bbox_coder.decode(points[None], distances[None], stride)[0]

    def distil(self, outs: tuple, taught: tuple, share: float, gamma: float) -> Dict[str, Tensor]:
        """Losses against a teacher's predictions at the same priors, before images and processes scale them.

        Args:
            outs: what this head returns in training. taught: a teacher's class logits and distances, as ``outs[:2]``.
            share, gamma: see ``dense_distillation``.
        """
        cls_scores, _, bbox_dist_preds = outs
        _, _, boxes, scores = self.decoded(*taught)
        logits = torch.cat([level.flatten(2) for level in cls_scores], dim=2).mT
        loss_cls, image, prior, weight = dense_distillation(logits, scores, share, gamma)
        losses = dict(loss_cls=self.loss_cls.loss_weight * loss_cls)
        normalizer = weight.sum().clamp(min=1)
        losses.update(self._box_losses(bbox_dist_preds, image, prior, boxes[image, prior], weight, normalizer))
        if self._synced:
            (factor,), _ = self._of_all_processes(weight.sum())
            losses = {name: loss * factor for name, loss in losses.items()}
        return losses

    @contextmanager
    def alone(self):
        """For a loss that other processes do not compute: without their sums within the ``with`` block."""
        synced, self.sync_avg_factor = self.sync_avg_factor, False
        try:
            yield
        finally:
            self.sync_avg_factor = synced

    @torch.no_grad()
    def decoded(self, cls_scores, bbox_preds):
        """All predictions, in fp32: the priors' points, (N, 2), pixels, and grids; boxes, (B, N, 4), xyxy in the
        input's pixels; scores, (B, N, C)."""
        self._lay_priors(cls_scores)
        priors = self.flatten_priors_train.float()
        scores = torch.cat([level.flatten(2) for level in cls_scores], dim=2).float().sigmoid().mT
        distances = torch.cat([level.flatten(2) for level in bbox_preds], dim=2).float().mT
        boxes = self.bbox_coder.decode(priors[None, :, :2], distances, priors[:, 2])
        return priors[:, :2], as_grids(priors[:, :2]), boxes, scores

    def _lay_priors(self, cls_scores) -> None:
        """As YOLOv8Head's loss does where the feature maps' sizes are new; in fp32 at least.

        In bf16 a box of 20 px would be read some px from where it is predicted, at an IoU of 0.93 or less.
        """
        sizes = [level.shape[2:] for level in cls_scores]
        if sizes != self.featmap_sizes_train:
            self.featmap_sizes_train = sizes
            dtype = torch.promote_types(cls_scores[0].dtype, torch.float32)
            levels = self.prior_generator.grid_priors(sizes, dtype=dtype, device=cls_scores[0].device, with_stride=True)
            self.num_level_priors = [len(level) for level in levels]
            self.flatten_priors_train = torch.cat(levels)
            self.stride_tensor = self.flatten_priors_train[..., [2]]

    def _obstacle(self) -> str:
        """What ``sparse_targets`` lacks, or ''."""
        loss = self.loss_cls
        if self.train_cfg and not isinstance(self.assigner, SparseTaskAlignedAssigner):
            return f'a SparseTaskAlignedAssigner, but got {type(self.assigner).__name__},'
        if type(loss) is not CrossEntropyLoss or not loss.use_sigmoid or loss.class_weight or loss.reduction != 'none':
            return "CrossEntropyLoss(use_sigmoid=True, reduction='none') without `class_weight` as `loss_cls`"
        if self.head_module.reg_max < 2 or not hasattr(self.head_module, 'proj'):
            return 'distributions (reg_max > 1) of the boxes'
        return ''

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
        return dict(scores=scores, bboxes=self._decode(places, distances).float())

    @contextmanager
    def _watch_assigner(self):
        """Collect what the assigner returns within the ``with`` block."""
        seen: dict = {}
        handle = self.assigner.register_forward_hook(lambda module, args, output: seen.update(output))
        try:
            yield seen
        finally:
            handle.remove()

    def _unsure(self, metas: List[dict], ignored, foreground: Tensor) -> Optional[Tuple[Tensor, Tensor, Tensor]]:
        """Image, prior and label, (U,) each, of ignored boxes' classes at the background priors inside; each once."""
        points, classes = self.flatten_priors_train[:, :2].float(), self.num_classes
        keys = []
        for i, meta in enumerate(metas):
            boxes, labels = _ignored(meta, ignored, i, points.device)
            if len(boxes):
                valid = torch.ones(len(boxes), dtype=torch.bool, device=points.device)
                # Edges included, as the penalty has them.
                box, prior, _ = priors_in_boxes(points, boxes, valid, eps=-1e-6)
                box, prior = (x[~foreground[i, prior]] for x in (box, prior))
                label = torch.full_like(box, -1) if labels is None else labels[box]
                known = (label >= 0) & (label < classes)
                prior = (i * len(points) + prior) * classes
                keys.append(prior[known] + label[known])
                keys.append((prior[~known, None] + torch.arange(classes, device=points.device)).flatten())
        if not keys:
            return None
        key = torch.cat(keys).unique()
        prior, label = key.div(classes, rounding_mode='floor'), key % classes
        return prior.div(len(points), rounding_mode='floor'), prior % len(points), label

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
            boxes, _ = _ignored(meta, ignored, i, points.device)
            if len(boxes):
                mask[i] &= ~priors_inside(points, boxes)
        return mask


def _ignored(meta: dict, ignored, i: int, device) -> Tuple[Tensor, Optional[Tensor]]:
    """Ignored boxes of image i, (K, 4), fp32, and their labels, (K,), or None where they have none."""
    instances = None if ignored is None else ignored[i]
    if instances is None:
        boxes, labels = meta.get('ignored_bboxes'), meta.get('ignored_labels')
    else:
        boxes, labels = instances.get('bboxes'), instances.get('labels')
    boxes = torch.zeros(0, 4) if boxes is None else boxes
    boxes = torch.as_tensor(getattr(boxes, 'tensor', boxes), dtype=torch.float32).to(device, non_blocking=True)
    return boxes, None if labels is None else torch.as_tensor(labels).to(device, non_blocking=True)


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
