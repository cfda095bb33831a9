"""SemiYOLODetector: a student and its EMA teacher, for single-stage detectors."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import NamedTuple

import torch
from mmdet.models.detectors import SemiBaseDetector, SingleStageDetector
from mmdet.models.utils import filter_gt_instances, rename_loss_dict
from mmengine.config import ConfigDict
from mmengine.dist import all_gather
from mmengine.structures import InstanceData
from mmyolo.models.dense_heads import YOLOv5Head, YOLOv8Head
from mmyolo.registry import MODELS
from torch import Tensor

from mmyolo_bgpenalty.datasets.known_empty import is_known_empty
from mmyolo_bgpenalty.models.bg_penalty_head import BgPenaltyYOLOv8Head
from mmyolo_bgpenalty.models.empty_branch import EmptyBranch, one_batch
from mmyolo_bgpenalty.models.losses.background_penalty_loss import BackgroundPenaltyLoss
from mmyolo_bgpenalty.models.losses.weights import weigh_losses
from mmyolo_bgpenalty.models.pseudo_boxes.fused_boxes import fused_boxes
from mmyolo_bgpenalty.models.semi_options import SemiTrainOptions
from mmyolo_bgpenalty.utils.arguments import one_of
from mmyolo_bgpenalty.utils.distributed import sum_over_processes
from mmyolo_bgpenalty.utils.geometry import FLIPS, flip_boxes, flipped_back, mean_predictions, project_boxes


class UnlabeledBatch(NamedTuple):
    """Both views of the unlabeled images of a batch."""

    weak: Tensor  # (B, C, H, W), after pre-processing
    weak_samples: list  # with the pseudo-boxes in the pixels of the weak view
    strong: Tensor
    strong_samples: list


@MODELS.register_module(name=['SemiYOLODetector', 'SemiSingleStageDetector'])
class SemiYOLODetector(SemiBaseDetector):
    r"""SemiBaseDetector for single-stage detectors of MMYOLO and MMDetection. Also SemiSingleStageDetector.

    The teacher finds boxes in the weak view of each unlabeled image. They are projected into the strong view, where
    the student learns them. The loss is

    .. math:: L = w_{sup} L_{sup} + r \cdot w_{unsup} \cdot \min(1, n / B) \cdot L_{unsup}

    with n pseudo-boxes in B unlabeled images and r = ``unsup_ramp``. The heads divide their losses by the number of
    positives or by the sum of their scores. Both are small if there are few pseudo-boxes. The factor min(1, n / B)
    compensates for this.

    An image with ``known_empty`` in its meta has no object. The teacher's boxes there are dropped, and the image does
    not count for ``class_thresholds``. In a batch with such an image, n is at least 1.

    Images of the branch ``bg`` have no objects either. With a BgPenaltyYOLOv8Head they have losses of their own, see
    ``EmptyBranch``. With other heads they are labeled images without objects.

    Args:
        detector: config of the student, and of the teacher.
        semi_train_cfg: see ``SemiTrainOptions``. ``bg_branch``: options of ``EmptyBranch``.
        semi_test_cfg: ``predict_on``, 'teacher' (default) or 'student'.

    Attributes:
        unsup_ramp: r in [0, 1], which BurnInMeanTeacherHook sets. At 0 (burn-in) the teacher makes no pseudo-labels.
        pseudo_labels: data samples of the latest weak views. Their ``gt_instances`` are the pseudo-boxes, with
            ``scores``, in the pixels of the weak view. Empty in burn-in.
        class_thresholds: the module that ``semi_train_cfg.class_thresholds`` describes, or None.
        latest: ``UnlabeledBatch`` of the latest loss. None in burn-in, and if ``keep_latest`` is False (default).

    Raises:
        ValueError: ``detector`` is no single-stage detector, or an option is out of range, is unknown or does not fit
            the head.
    """

    semi_train_cfg: SemiTrainOptions

    def __init__(
        self,
        detector,
        semi_train_cfg=None,
        semi_test_cfg=None,
        data_preprocessor=None,
        init_cfg=None,
        bg_branch: dict | None = None,
    ):
        options = SemiTrainOptions.from_cfg(semi_train_cfg)
        semi_test_cfg = semi_test_cfg or ConfigDict(predict_on='teacher')
        one_of('semi_test_cfg.predict_on', semi_test_cfg.get('predict_on', 'teacher'), ('teacher', 'student'))
        super().__init__(detector, {}, semi_test_cfg, data_preprocessor, init_cfg)
        self.semi_train_cfg, self.bg_branch = options, EmptyBranch.from_cfg(bg_branch)
        if not isinstance(self.student, SingleStageDetector):
            raise ValueError(
                'Expected a single-stage detector, whose `bbox_head` predicts boxes, as `model.detector`, but got '
                f'{type(self.student).__name__}'
            )
        head = self.student.bbox_head
        taken = signature(head.predict_by_feat).parameters
        if 'cfg' not in taken and not any(one.kind is one.VAR_KEYWORD for one in taken.values()):  # such as CenterNet
            raise ValueError(f'Expected a head that predicts with a `cfg`, but got {type(head).__name__}')
        if isinstance(head, BgPenaltyYOLOv8Head):
            head.sync_avg_factor = options.sync_avg_factor
            self.bg_branch.options_for(head)
        elif bg_branch:
            raise ValueError(f'Expected a BgPenaltyYOLOv8Head for `bg_branch`, but got {type(head).__name__}')
        if options.soft_unsure and not getattr(head, 'sparse_targets', False):
            raise ValueError(
                'Expected a head with `sparse_targets` for `semi_train_cfg.soft_unsure`, but got '
                f'{type(head).__name__} with `sparse_targets={getattr(head, "sparse_targets", None)}`'
            )
        if options.channels_last:
            # The format of the weights is enough: a convolution gives its output the format of its weights.
            self.student.to(memory_format=torch.channels_last)
            self.teacher.to(memory_format=torch.channels_last)
        self.class_thresholds = options.build_class_thresholds(head.num_classes)
        self.unsup_ramp = 1.0
        self.pseudo_labels: list = []
        self.keep_latest = False
        self.latest: UnlabeledBatch | None = None

    def loss(self, multi_batch_inputs: dict[str, Tensor], multi_batch_data_samples: dict[str, list]) -> dict:
        """Losses ``sup_*``, after burn-in also ``unsup_*``, and ``bg_*`` with empty images.

        Four entries are only for the log: ``semi/unsup_weight``, ``semi/pseudo_boxes`` (number per image),
        ``semi/pseudo_score`` (mean; 0 without boxes) and ``semi/pseudo_empty`` (fraction of images without boxes).
        Images that are known to be empty do not count in them.
        """
        inputs, samples = multi_batch_inputs, multi_batch_data_samples
        self.pseudo_labels, self.latest = [], None
        if 'bg' in inputs and not isinstance(self.student.bbox_head, BgPenaltyYOLOv8Head):
            losses = self.loss_by_gt_instances(one_batch(inputs), [*samples['sup'], *samples['bg']])
        elif 'bg' in inputs:
            labeled, empty = self.bg_branch.losses(self.student, inputs, samples)
            losses = self._weighed(labeled) | empty
        else:
            losses = self.loss_by_gt_instances(inputs['sup'], samples['sup'])
        # In burn-in our sampler gives no unlabeled images. Other samplers may give some.
        if self.unsup_ramp == 0 or 'unsup_student' not in inputs:
            return {**losses, **self._statistics(0.0, [])}
        found, info = self.get_pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
        samples['unsup_student'] = self.project_pseudo_instances(found, samples['unsup_student'])
        losses |= self.loss_by_pseudo_instances(inputs['unsup_student'], samples['unsup_student'], info)
        if self.keep_latest:
            self.latest = UnlabeledBatch(
                inputs['unsup_teacher'], self.pseudo_labels, inputs['unsup_student'], samples['unsup_student']
            )
        return losses

    @torch.no_grad()
    def get_pseudo_instances(self, batch_inputs: Tensor, batch_data_samples: list) -> tuple[list, dict]:
        """The samples with pseudo-boxes in the pixels of the weak views, and ``predictions`` of the teacher's head."""
        if self.teacher.training:  # eval() walks over all modules
            self.teacher.eval()
        options = self.semi_train_cfg
        test_cfg = options.pseudo_test_cfg
        least = test_cfg.score_thr if self.class_thresholds is None else self.class_thresholds.floor
        if options.unsure_thr is not None:
            least = min(least, options.unsure_thr)
        if options.teacher_flips and not isinstance(self.teacher.bbox_head, YOLOv8Head):
            outs, results = None, self._fused_boxes(batch_inputs, least)
        else:
            outs = self._teacher_predictions(batch_inputs)
            results = self._boxes(outs, batch_inputs, least)
        for sample, instances in zip(batch_data_samples, results):
            sample.gt_instances = instances[:0] if is_known_empty(sample) else instances
        if options.unsure_thr is not None or self.class_thresholds is not None:
            self._keep_confident(batch_data_samples)
        self.pseudo_labels = batch_data_samples
        return batch_data_samples, dict(predictions=outs)

    def _boxes(self, outs: tuple, batch_inputs: Tensor, least: float) -> list[InstanceData]:
        """The teacher's boxes of each image, with scores above ``least``, in the pixels of the view."""
        # Heads clip boxes to `ori_shape` or `img_shape`. Here these are the view.
        meta = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), tuple(batch_inputs.shape[-2:]))
        test_cfg = ConfigDict(self.semi_train_cfg.pseudo_test_cfg, score_thr=least)
        # Decode in fp32: bf16 and fp16 have too few bits (8 and 11) for coordinates in pixels.
        with torch.autocast(batch_inputs.device.type, enabled=False):
            results = self.teacher.bbox_head.predict_by_feat(
                *_in_fp32(outs),
                batch_img_metas=[dict(meta, scale_factor=(1.0, 1.0))] * len(batch_inputs),
                cfg=test_cfg,
                rescale=False,
            )
        height, width = batch_inputs.shape[-2:]
        for found in results:  # some heads do not clip
            found.bboxes[:, 0::2].clamp_(0, width)
            found.bboxes[:, 1::2].clamp_(0, height)
        # Heads with centerness compare scores to `score_thr` before they multiply them by it.
        return [chosen(found, found.scores > least)[: test_cfg.max_per_img] for found in results]

    def _fused_boxes(self, batch_inputs: Tensor, least: float) -> list[InstanceData]:
        """``fused_boxes`` of the view and its ``teacher_flips``, with scores above ``least``."""
        options, images = self.semi_train_cfg, len(batch_inputs)
        flips = [(), *(FLIPS[flip] for flip in options.teacher_flips)]
        views = torch.cat([batch_inputs.flip(axes) for axes in flips])
        # A mean score above `least` may have parts below it.
        found = self._boxes(self.teacher.bbox_head(self.teacher.extract_feat(views)), views, least / len(flips))
        for i, instances in enumerate(found):
            instances.bboxes = flip_boxes(instances.bboxes, batch_inputs.shape[-2:], flips[i // images])
        fused = (fused_boxes(found[i::images], options.pseudo_test_cfg.nms) for i in range(images))
        return [chosen(found, found.scores > least)[: options.pseudo_test_cfg.max_per_img] for found in fused]

    def _teacher_predictions(self, batch_inputs: Tensor) -> tuple:
        """What the teacher's head returns. With ``teacher_flips`` the mean over the view and its flips."""
        flips = self.semi_train_cfg.teacher_flips
        if not flips:
            return self.teacher.bbox_head(self.teacher.extract_feat(batch_inputs))
        # One batch of all views. In evaluation mode images do not change each other.
        views = torch.cat([batch_inputs, *(batch_inputs.flip(FLIPS[flip]) for flip in flips)])
        outs = self.teacher.bbox_head(self.teacher.extract_feat(views))[:2]
        scores, distances = (list(zip(*(level.split(len(batch_inputs)) for level in out))) for out in outs)
        flipped = (flipped_back(*view) for view in zip(scores[1:], distances[1:], flips))
        return mean_predictions([(scores[0], distances[0]), *flipped])

    def _keep_confident(self, samples: list) -> None:
        """Keep only confident boxes in ``gt_instances``. Unsure boxes become ``ignored_instances``."""
        found, unsure_thr = [sample.gt_instances for sample in samples], self.semi_train_cfg.unsure_thr
        if self.class_thresholds is None:
            confident = [instances.scores > self.semi_train_cfg.pseudo_test_cfg.score_thr for instances in found]
        else:
            boxes = [
                None if is_known_empty(sample) else (instances.scores, instances.labels)
                for sample, instances in zip(samples, found)
            ]
            # Processes exchange their boxes, so that all have the same thresholds.
            thresholds = self.class_thresholds(boxes, all_gather)
            confident = [instances.scores >= thresholds[instances.labels.long()] for instances in found]
        for sample, instances, kept in zip(samples, found, confident):
            sample.gt_instances = chosen(instances, kept)
            if unsure_thr is not None:
                sample.ignored_instances = chosen(instances, ~kept & (instances.scores > unsure_thr))

    def project_pseudo_instances(self, batch_pseudo_instances: list, batch_data_samples: list) -> list:
        """Give the strong views the boxes of the weak views, in the pixels of the strong views."""
        names = ['gt_instances'] if self.semi_train_cfg.unsure_thr is None else ['gt_instances', 'ignored_instances']
        for weak, strong in zip(batch_pseudo_instances, batch_data_samples):
            matrix = weak_to_strong(weak, strong).to(weak.gt_instances.bboxes.device, non_blocking=True)
            for name in names:
                instances = copy.copy(weak.get(name))
                instances.bboxes = project_boxes(instances.bboxes, matrix, strong.img_shape[:2])
                setattr(strong, name, instances)
        return filter_gt_instances(batch_data_samples, wh_thr=self.semi_train_cfg.min_pseudo_bbox_wh)

    def loss_by_gt_instances(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        """Losses of the labeled images, times their weights."""
        with self._penalty_times(self.semi_train_cfg.sup_loss_weights):
            return self._weighed(self._student_losses(batch_inputs, batch_data_samples))

    def _student_losses(self, batch_inputs: Tensor, samples: list) -> dict:
        head = self.student.bbox_head
        if isinstance(head, YOLOv5Head) and not isinstance(head, YOLOv8Head):
            # The format of MMYOLO's fast collate function. Its YOLOX takes no other.
            rows = [
                torch.cat([boxes.new_full((len(boxes), 1), i), found.labels[:, None].to(boxes), boxes], dim=1)
                for i, (found, boxes) in enumerate((one.gt_instances, one.gt_instances.bboxes) for one in samples)
            ]
            fast = dict(bboxes_labels=torch.cat(rows), img_metas=[one.metainfo for one in samples])
            return self.student.loss(batch_inputs, fast)
        return self.student.loss(batch_inputs, samples)

    @contextmanager
    def _penalty_times(self, loss_weights: Mapping[str, float]) -> Iterator[None]:
        """Within it, each BackgroundPenaltyLoss multiplies its penalty by the weight of ``loss_bg``."""
        losses = [part for part in self.student.modules() if isinstance(part, BackgroundPenaltyLoss)]
        for loss in losses:
            loss.factor = loss_weights.get('loss_bg', 1.0)
        yield
        for loss in losses:
            loss.factor = 1.0

    def _weighed(self, losses: dict) -> dict:
        options = self.semi_train_cfg
        losses = weigh_losses(losses, options.sup_weight)
        return rename_loss_dict('sup_', weigh_losses(losses, 1.0, options.sup_loss_weights))

    def loss_by_pseudo_instances(self, batch_inputs: Tensor, batch_data_samples: list, batch_info=None) -> dict:
        """Losses of the strong views, times ``unsup_ramp``, their weights and min(1, n / B)."""
        # Processes sum n before the student runs. At this point the CPU has just waited for the device anyway.
        scale = self._box_scale(batch_data_samples)
        with self._penalty_times(self.semi_train_cfg.unsup_loss_weights):
            losses = self._student_losses(batch_inputs, self._with_soft_objects(batch_data_samples))
        weight = self.unsup_ramp * self.semi_train_cfg.unsup_weight
        losses = weigh_losses(losses, weight, self.semi_train_cfg.unsup_loss_weights, scale)
        return {**rename_loss_dict('unsup_', losses), **self._statistics(weight, batch_data_samples)}

    def _box_scale(self, samples: list) -> float:
        """min(1, n / B)."""
        counts = [sum(len(sample.gt_instances) for sample in samples), sum(map(is_known_empty, samples)), len(samples)]
        if getattr(self.student.bbox_head, 'sync_avg_factor', False):
            counts = sum_over_processes(torch.tensor(counts, dtype=torch.float64)).tolist()
        boxes, known_empty, images = counts
        return min(1.0, max(boxes, min(known_empty, 1)) / images)

    def _with_soft_objects(self, samples: list) -> list:
        """The samples. With ``soft_unsure``, they are copies in which unsure boxes are objects, too."""
        if not self.semi_train_cfg.soft_unsure:
            return samples
        copies = []
        for sample in samples:
            confident, unsure = sample.gt_instances.new(), sample.ignored_instances.new()
            confident.score_weights = confident.box_weights = torch.ones_like(confident.scores)
            unsure.score_weights, unsure.box_weights = unsure.scores, torch.zeros_like(unsure.scores)
            sample = copy.copy(sample)
            sample.gt_instances = confident.cat([confident, unsure])
            copies.append(sample)
        return copies

    def _statistics(self, weight: float, samples: list) -> dict[str, Tensor]:
        """The entries of ``loss`` for the log. ``samples`` are the strong views with their pseudo-boxes."""
        device = next(self.student.parameters()).device
        counts = [len(sample.gt_instances) for sample in samples if not is_known_empty(sample)]
        score = torch.zeros((), device=device)
        if any(counts):
            score = torch.cat([sample.gt_instances.scores for sample in samples]).float().mean()
        images = max(len(counts), 1)
        return {
            'semi/unsup_weight': torch.full((), weight, device=device),
            'semi/pseudo_boxes': torch.full((), sum(counts) / images, device=device),
            'semi/pseudo_score': score,
            'semi/pseudo_empty': torch.full((), counts.count(0) / images, device=device),
        }


def chosen(instances: InstanceData, mask: Tensor) -> InstanceData:
    """As ``instances[mask]``, but it waits for the device once, not once for each field."""
    return instances[mask.nonzero()[:, 0]]


def _in_fp32(outs):
    """What a head returns: tensors in tuples and lists of any depth."""
    return outs.float() if isinstance(outs, Tensor) else type(outs)(map(_in_fp32, outs))


def weak_to_strong(weak, strong) -> Tensor:
    """Homography from the pixels of the weak view to those of the strong view, (3, 3), fp32, composed in fp64."""
    matrices = []
    for name, sample in (('weak', weak), ('strong', strong)):
        matrix = sample.metainfo.get('homography_matrix')
        if matrix is None:
            raise ValueError(
                f'Expected `homography_matrix` in the meta of the {name} view of {sample.metainfo.get("img_path")}, '
                f'but got only {sorted(sample.metainfo)}: add it to the `meta_keys` of PackDetInputs and resize '
                'with RecordedLetterResize'
            )
        matrices.append(torch.as_tensor(matrix, dtype=torch.float64))
    return (matrices[1] @ torch.linalg.inv(matrices[0])).float()
