"""A student and its EMA teacher, for YOLOv8."""

import copy
from typing import Collection, Dict, List, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from mmdet.models.detectors import SemiBaseDetector
from mmdet.models.utils import filter_gt_instances, rename_loss_dict, reweight_loss_dict, unpack_gt_instances
from mmengine.config import ConfigDict
from mmengine.dist import all_gather, get_world_size
from mmyolo.registry import MODELS
from torch import Tensor

from mmyolo_bgpenalty.datasets.known_empty import is_known_empty
from mmyolo_bgpenalty.models.bg_penalty_head import BgPenaltyYOLOv8Head
from mmyolo_bgpenalty.models.thresholds import build_thresholds
from mmyolo_bgpenalty.utils.arguments import non_negative, one_of, whole
from mmyolo_bgpenalty.utils.distributed import sum_over_processes
from mmyolo_bgpenalty.utils.geometry import FLIPS, box_agreement, flipped_back, mean_predictions, project_boxes

# One label a box, so no class-agnostic NMS is left to choose between two; never the evaluation's config.
PSEUDO_TEST_CFG = dict(
    multi_label=False,
    score_thr=0.4,
    nms_pre=1000,
    nms=dict(type='nms', iou_threshold=0.6, class_agnostic=True),
    max_per_img=300,
)


@MODELS.register_module()
class SemiYOLODetector(SemiBaseDetector):
    r"""SoftTeacher-style training of a YOLO detector with decoupled, anchor-free predictions (YOLOv8).

    The teacher labels the weak view of each unlabeled image; its boxes are projected into the strong view,
    from which the student learns them. Losses are

    .. math:: L = w_{sup} L_{sup} + r \cdot w_{unsup} \cdot k \cdot L_{unsup}

    where r in [0, 1] is ``unsup_ramp``, steered by ``BurnInMeanTeacherHook`` (0 in
    burn-in: no teacher is run). YOLOv8 divides its losses by the sum S of the assigned scores, which is small where
    pseudo-boxes are few; k makes up for it. It is 0 where there are none, and no image is known to be empty; else, by
    ``unsup_scale``, 'boxes': min(1, n / B) with n pseudo-boxes in B images, so that a single box in many images weighs
    as one box; 'labeled': min(1, (S / B of the unlabeled images) / (S / B of the labeled ones)), S being 1 at least, so
    that a pseudo-box never weighs more than a true one.

    An unlabeled image whose meta says ``known_empty`` has no object: whatever the teacher sees there is neither
    pseudo-box nor unsure, but background. It does not count for ``class_thresholds``. A batch that has such images and
    no pseudo-box is taught, too, all of it; with 'boxes' as if it had one (n = 1).

    Args:
        detector: config of the student and of the teacher.
        semi_train_cfg: ``sup_weight`` (1.0), ``unsup_weight`` (1.0), ``min_pseudo_bbox_wh`` ((1e-2, 1e-2), pixels),
            ``unsup_scale`` ('boxes'), ``sup_loss_weights`` and ``unsup_loss_weights`` ({}: factors of single losses of
            the labeled and of the unlabeled images, as ``dict(loss_bbox=0.0, loss_dfl=0.0)``), ``class_thresholds``
            (None), ``unsure_thr`` (None), ``soft_unsure`` (False), ``soft_background`` (False), ``box_quality`` (None),
            ``teacher_flips`` (none), ``joint_forward`` (False), ``channels_last`` (False), ``sync_avg_factor`` (True),
            and ``pseudo_test_cfg``, how the teacher's predictions become labels (entries replace those of
            ``PSEUDO_TEST_CFG``).

            With ``class_thresholds`` each class has its own threshold: ``dict(type='Fixed', thresholds=[...])``, or one
            that follows the teacher's latest scores, ``dict(type='ClassFrequency')`` (which
            ``ClassThresholdsHook`` tells the labeled boxes an image) or
            ``dict(type='Mixture')``, with ``score_thr`` until there are enough; see
            ``thresholds`` for the arguments.

            With ``unsure_thr`` there are three zones: what the teacher scores from ``unsure_thr`` to below
            ``pseudo_test_cfg.score_thr`` (or its class's threshold) is neither object nor background, but the strong
            view's ``ignored_instances``: out of the penalty and, with the head's ``ignored_in_cls``, out of the
            classification loss. With ``soft_unsure`` it is besides an object, at the priors that the assigner gives it,
            whose targets are multiplied by the teacher's score and which has no box losses (Efficient Teacher,
            https://arxiv.org/abs/2302.07577).

            With ``soft_background`` the penalty of a prior of an unlabeled image is multiplied by 1 less the teacher's
            highest score at its place, whatever the class and level.

            ``box_quality`` weighs the box and DFL losses of a pseudo-box, since the teacher may be surer of its class
            than of its place: 'score' by the score, 'agreement' by
            ``box_agreement``.

            With ``teacher_flips``, of 'horizontal', 'vertical' and 'diagonal' (both), the teacher labels each weak
            view by the mean of its predictions on the view and on its flips (probabilities and boxes, prior by prior),
            for objects that may stand either way.

            With ``joint_forward`` the student sees labeled images and strong views as one batch, of which BN takes
            its statistics, and the losses are of each branch's part; without, as in SemiBaseDetector, each is a batch
            of its own. Where their sizes differ, the smaller are padded as images of a batch are. ``channels_last`` is
            the memory format of student and teacher: the same values to rounding, the same checkpoints.

            Several processes divide by the sums over all their images, n, B and S included, and so train as one with
            the same global batch; with ``sync_avg_factor=False`` each divides by its own, as YOLOv8Head does. It is set
            in the student's head, if that is a BgPenaltyYOLOv8Head; other heads keep to their own way.
        semi_test_cfg: ``predict_on``, 'teacher' or 'student'.

    Attributes:
        pseudo_labels: data samples of the latest weak views, their ``gt_instances`` the pseudo-boxes (with
            ``scores``) in the weak view's pixels; empty in burn-in.
        class_thresholds: the module that ``class_thresholds`` describes, or None.
        keep_views: set it to have ``views`` kept.
        views: of the latest batch after burn-in, ``dict(weak=(inputs, samples), strong=(inputs, samples))`` as the
            model saw them (pre-processed), each sample with its pseudo-boxes in its own pixels; else None.

    Raises:
        ValueError: an unknown key of ``semi_train_cfg``, a weight that is no number >= 0, a switch that is no bool, or
            a threshold out of range.
    """

    TRAIN_CFG = dict(
        sup_weight=1.0,
        unsup_weight=1.0,
        unsup_scale='boxes',
        sup_loss_weights={},
        unsup_loss_weights={},
        unsure_thr=None,
        soft_unsure=False,
        soft_background=False,
        box_quality=None,
        teacher_flips=(),
        min_pseudo_bbox_wh=(1e-2, 1e-2),
        joint_forward=False,
        channels_last=False,
        sync_avg_factor=True,
    )
    LOSSES = ('loss_cls', 'loss_bbox', 'loss_dfl', 'loss_bg')

    def __init__(self, detector, semi_train_cfg=None, semi_test_cfg=None, data_preprocessor=None, init_cfg=None):
        given = dict(semi_train_cfg or {})
        pseudo = dict(given.pop('pseudo_test_cfg', {}))
        class_thresholds = given.pop('class_thresholds', None)
        _refuse_unknown('semi_train_cfg', given, [*self.TRAIN_CFG, 'pseudo_test_cfg', 'class_thresholds'])
        _refuse_unknown('semi_train_cfg.pseudo_test_cfg', pseudo, PSEUDO_TEST_CFG)
        train_cfg = ConfigDict({**self.TRAIN_CFG, **given})
        for name in ('sup_weight', 'unsup_weight'):
            non_negative(f'semi_train_cfg.{name}', train_cfg[name])
        for where in ('sup_loss_weights', 'unsup_loss_weights'):
            _refuse_unknown(f'semi_train_cfg.{where}', train_cfg[where], self.LOSSES)
            for name, weight in train_cfg[where].items():
                non_negative(f'semi_train_cfg.{where}.{name}', weight)
        flips = train_cfg.teacher_flips
        if not isinstance(flips, (list, tuple)):
            raise ValueError(f'Expected `semi_train_cfg.teacher_flips` to be a list of directions, but got {flips!r}')
        for flip in flips:
            one_of('semi_train_cfg.teacher_flips', flip, list(FLIPS))
        if len(set(flips)) < len(flips):
            raise ValueError(f'Expected distinct `semi_train_cfg.teacher_flips`, but got {list(flips)}')
        one_of('semi_train_cfg.unsup_scale', train_cfg.unsup_scale, ('boxes', 'labeled'))
        if 'score_thr' in pseudo and non_negative('semi_train_cfg.pseudo_test_cfg.score_thr', pseudo['score_thr']) > 1:
            raise ValueError(
                f'Expected `semi_train_cfg.pseudo_test_cfg.score_thr` in [0, 1], but got {pseudo["score_thr"]!r}'
            )
        if 'max_per_img' in pseudo:
            whole('semi_train_cfg.pseudo_test_cfg.max_per_img', pseudo['max_per_img'])
        least = train_cfg.min_pseudo_bbox_wh
        if not isinstance(least, (list, tuple)) or len(least) != 2:
            raise ValueError(
                f'Expected `semi_train_cfg.min_pseudo_bbox_wh` to be a width and a height, but got {least!r}'
            )
        for side in least:
            non_negative('semi_train_cfg.min_pseudo_bbox_wh', side)
        if semi_test_cfg:
            one_of('semi_test_cfg.predict_on', semi_test_cfg.get('predict_on', 'teacher'), ('teacher', 'student'))
        for name in ('joint_forward', 'channels_last', 'soft_unsure', 'soft_background', 'sync_avg_factor'):
            if not isinstance(train_cfg[name], bool):
                raise ValueError(f'Expected `semi_train_cfg.{name}` to be True or False, but got {train_cfg[name]!r}')
        super().__init__(
            detector=detector,
            semi_train_cfg=train_cfg,
            semi_test_cfg=semi_test_cfg or ConfigDict(predict_on='teacher'),
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        head = self.student.bbox_head
        if isinstance(head, BgPenaltyYOLOv8Head):
            head.sync_avg_factor = train_cfg.sync_avg_factor
        if train_cfg.unsup_scale == 'labeled' and not isinstance(head, BgPenaltyYOLOv8Head):
            raise ValueError(
                "Expected a BgPenaltyYOLOv8Head for `semi_train_cfg.unsup_scale='labeled'`, but got "
                f'{type(head).__name__}'
            )
        if train_cfg.soft_background and (not isinstance(head, BgPenaltyYOLOv8Head) or head.bg_penalty.rank):
            raise ValueError(
                'Expected a BgPenaltyYOLOv8Head without `bg_penalty.rank` for `semi_train_cfg.soft_background`'
            )
        if train_cfg.box_quality is not None:
            one_of('semi_train_cfg.box_quality', train_cfg.box_quality, ('score', 'agreement'))
        for name, losses in (('soft_background', ['loss_bg']), ('box_quality', ['loss_bbox', 'loss_dfl'])):
            if train_cfg[name] and not any(train_cfg.unsup_loss_weights.get(loss, 1.0) for loss in losses):
                raise ValueError(
                    f'Expected a factor above 0 of {" or ".join(losses)} in `semi_train_cfg.unsup_loss_weights`, '
                    f'without which `semi_train_cfg.{name}` changes nothing, but got {train_cfg.unsup_loss_weights}'
                )
        if train_cfg.soft_unsure and train_cfg.unsure_thr is None:
            raise ValueError(
                'Expected `semi_train_cfg.unsure_thr` to be given for `semi_train_cfg.soft_unsure`, but got None: give '
                'it, or soft_unsure=False'
            )
        for name in ('box_quality', 'soft_unsure'):
            if train_cfg[name] and not getattr(head, 'sparse_targets', False):
                raise ValueError(
                    f'Expected a BgPenaltyYOLOv8Head with `sparse_targets` for `semi_train_cfg.{name}`, but got '
                    f'{type(head).__name__}'
                )
        if train_cfg.channels_last:
            # The weights' format is enough: a convolution hands it on to what it returns.
            self.student.to(memory_format=torch.channels_last)
            self.teacher.to(memory_format=torch.channels_last)
        self.pseudo_test_cfg = ConfigDict({**PSEUDO_TEST_CFG, **pseudo})
        self.class_thresholds = self._build_thresholds(class_thresholds)
        unsure_thr, sure_thr = train_cfg.unsure_thr, self.pseudo_test_cfg.score_thr
        if self.class_thresholds is not None:
            sure_thr = self.class_thresholds.ceiling
        if unsure_thr is not None and non_negative('semi_train_cfg.unsure_thr', unsure_thr) > sure_thr:
            raise ValueError(
                'Expected `semi_train_cfg.unsure_thr` to be at most the threshold of pseudo-boxes '
                f'(`pseudo_test_cfg.score_thr`, or the highest of `class_thresholds`), {sure_thr}, but got {unsure_thr}'
            )
        self.unsup_ramp = 1.0
        self._labeled_sum: Tensor = None  # type: ignore[assignment]  # until the first loss
        self.pseudo_labels: list = []
        self.keep_views = False
        self.views: Optional[dict] = None

    def _build_thresholds(self, cfg: Optional[dict]):
        if cfg is None:
            return None
        pseudo = self.pseudo_test_cfg
        try:
            return build_thresholds(cfg, self.student.bbox_head.num_classes, pseudo.max_per_img, pseudo.score_thr)
        except ValueError as problem:
            raise ValueError(f'`semi_train_cfg.class_thresholds`: {problem}') from None

    def train(self, mode: bool = True):
        """The teacher stays in eval mode: its BN statistics are the student's average, not its own."""
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, multi_batch_inputs: Dict[str, Tensor], multi_batch_data_samples: dict) -> dict:
        """Losses ``sup_*`` and, after burn-in, ``unsup_*``. For the log, and no losses, are ``semi/unsup_weight`` and
        of the pseudo-labels ``semi/pseudo_boxes`` (an image), ``semi/pseudo_score`` (mean; 0 without any) and
        ``semi/pseudo_empty`` (share of images without any), those known to be empty left out."""
        self.pseudo_labels, self.views = [], None
        # The loader leaves the unlabeled part out of the batches that burn-in needs none of.
        if self.unsup_ramp > 0 and 'unsup_student' in multi_batch_inputs:
            step = self._joint_loss if self.semi_train_cfg.joint_forward else super().loss
            losses = step(multi_batch_inputs, multi_batch_data_samples)
            if self.keep_views:
                self.views = dict(
                    weak=(multi_batch_inputs['unsup_teacher'], self.pseudo_labels),
                    strong=(multi_batch_inputs['unsup_student'], multi_batch_data_samples['unsup_student']),
                )
            return losses
        losses = self.loss_by_gt_instances(multi_batch_inputs['sup'], multi_batch_data_samples['sup'])
        return self._with_statistics(losses, 0.0, [])

    def _joint_loss(self, inputs: Dict[str, Tensor], samples: dict) -> dict:
        """SemiBaseDetector's loss, with one pass of the student."""
        labeled, _ = self.get_pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
        samples['unsup_student'] = self.project_pseudo_instances(labeled, samples['unsup_student'])
        head = self.student.bbox_head
        outs = head(self.student.extract_feat(self._one_batch([inputs['sup'], inputs['unsup_student']])))
        sizes = [len(samples['sup']), len(samples['unsup_student'])]
        # One split a tensor, whose backward is one concatenation; slices would each fill a whole gradient.
        parts = [[level.split(sizes) for level in levels] for levels in outs]

        def losses(i: int, branch: list) -> dict:
            # As the head's own loss, which runs the student once for each.
            gt, ignored, metas = unpack_gt_instances(branch)
            return head.loss_by_feat(*([level[i] for level in levels] for levels in parts), gt, metas, ignored)

        sup = self._weigh_sup(losses(0, samples['sup']), sizes[0])
        unsup = self._weigh_unsup(losses(1, self._objects_of(samples['unsup_student'])), samples['unsup_student'])
        return {**sup, **unsup}

    def _one_batch(self, batches: List[Tensor]) -> Tensor:
        """Concatenate, padded below and to the right to a common size.

        Two passes where sizes differ would leave processes with unlike numbers of passes, and SyncBN waiting.
        """
        height, width = (max(batch.shape[side] for batch in batches) for side in (2, 3))
        pad_value = self.student.data_preprocessor.pad_value
        return torch.cat(
            [
                batch
                if batch.shape[2:] == (height, width)
                else F.pad(batch, (0, width - batch.shape[3], 0, height - batch.shape[2]), value=pad_value)
                for batch in batches
            ]
        )

    @torch.no_grad()
    def get_pseudo_instances(self, batch_inputs: Tensor, batch_data_samples: list) -> Tuple[list, dict]:
        """Label the weak views. The boxes stay in their pixels."""
        self.teacher.eval()
        unsure_thr = self.semi_train_cfg.unsure_thr
        least = self.pseudo_test_cfg.score_thr if self.class_thresholds is None else self.class_thresholds.floor
        if unsure_thr is not None:
            least = min(least, unsure_thr)
        outs = self._teach(batch_inputs)
        # The head clamps to `ori_shape` and divides by `scale_factor`: here both are the view's own.
        meta = dict(ori_shape=tuple(batch_inputs.shape[-2:]), scale_factor=(1.0, 1.0))
        # In fp32, since pixels need more than the 8 or 11 bits of autocast's types.
        results = self.teacher.bbox_head.predict_by_feat(
            *([level.float() for level in levels] for levels in outs),
            batch_img_metas=[meta] * len(batch_inputs),
            cfg=ConfigDict(self.pseudo_test_cfg, score_thr=least),
            rescale=False,
        )
        for sample, instances in zip(batch_data_samples, results):
            sample.gt_instances = instances[:0] if is_known_empty(sample) else instances
        if unsure_thr is not None or self.class_thresholds is not None:
            self._leave_sure(batch_data_samples)
        if self.semi_train_cfg.box_quality:
            self._weigh_boxes(batch_data_samples, outs)
        if self.semi_train_cfg.soft_background:
            maps = [level.float().sigmoid().amax(dim=1) for level in outs[0]]
            for i, sample in enumerate(batch_data_samples):
                sample.object_maps = [level[i] * (not is_known_empty(sample)) for level in maps]
        self.pseudo_labels = batch_data_samples
        return batch_data_samples, {}

    def _teach(self, batch_inputs: Tensor) -> tuple:
        """The teacher's predictions, as its head gives them; with ``teacher_flips`` their mean over these."""
        outs = self.teacher.bbox_head(self.teacher.extract_feat(batch_inputs))
        flips = self.semi_train_cfg.teacher_flips
        if not flips:
            return outs
        predictions = [outs[:2]]
        for flip in flips:
            turned = self.teacher.bbox_head(self.teacher.extract_feat(batch_inputs.flip(FLIPS[flip])))
            predictions.append(flipped_back(turned[0], turned[1], flip))
        return mean_predictions(predictions)

    def _leave_sure(self, samples: list) -> None:
        """Leave in ``gt_instances`` what is sure; with ``unsure_thr`` the rest becomes ``ignored_instances``."""
        found, unsure_thr = [sample.gt_instances for sample in samples], self.semi_train_cfg.unsure_thr
        if self.class_thresholds is None:
            sure = [instances.scores > self.pseudo_test_cfg.score_thr for instances in found]
        else:
            # Of all processes, whose thresholds so are the same.
            thresholds = self.class_thresholds(
                [
                    None if is_known_empty(sample) else (part.scores, part.labels)
                    for sample, part in zip(samples, found)
                ],
                all_gather,
            )
            sure = [instances.scores >= thresholds[instances.labels.long()] for instances in found]
        for sample, instances, kept in zip(samples, found, sure):
            sample.gt_instances = instances[kept]
            if unsure_thr is not None:
                sample.ignored_instances = instances[~kept & (instances.scores > unsure_thr)]

    def _weigh_boxes(self, samples: list, outs: tuple) -> None:
        """Give pseudo-boxes their ``box_weights``; ``outs`` are the teacher's predictions."""
        if self.semi_train_cfg.box_quality == 'score':
            for sample in samples:
                sample.gt_instances.box_weights = sample.gt_instances.scores
            return
        points, grids, boxes, scores = self.teacher.bbox_head.decoded(*outs[:2])
        for sample, own_boxes, own_scores in zip(samples, boxes, scores):
            found = sample.gt_instances
            found.box_weights = box_agreement(found.bboxes, found.labels, own_boxes, own_scores, points, grids)

    def project_pseudo_instances(self, batch_pseudo_instances: list, batch_data_samples: list) -> list:
        """Take the boxes from the weak views' pixels to the strong views'."""
        names = ['gt_instances'] if self.semi_train_cfg.unsure_thr is None else ['gt_instances', 'ignored_instances']
        for weak, strong in zip(batch_pseudo_instances, batch_data_samples):
            matrix = between(weak, strong).to(weak.gt_instances.bboxes.device, non_blocking=True)
            for name in names:
                instances = copy.copy(weak.get(name))
                instances.bboxes = project_boxes(instances.bboxes, matrix, strong.img_shape[:2])
                setattr(strong, name, instances)
            if self.semi_train_cfg.soft_background:
                # The maps cover what the teacher saw, padding of the batch included.
                strides = self.teacher.bbox_head.prior_generator.strides[0]
                shape = [side * stride for side, stride in zip(weak.object_maps[0].shape, strides)]
                strong.set_metainfo(dict(object_scores=(weak.object_maps, shape, torch.linalg.inv(matrix))))
        return filter_gt_instances(batch_data_samples, wh_thr=self.semi_train_cfg.min_pseudo_bbox_wh)

    def loss_by_pseudo_instances(self, batch_inputs: Tensor, batch_data_samples: list, batch_info=None) -> dict:
        """As the student's loss, weighted by ramp, ``unsup_weight`` and ``unsup_scale``."""
        losses = self.student.loss(batch_inputs, self._objects_of(batch_data_samples))
        return self._weigh_unsup(losses, batch_data_samples)

    def _objects_of(self, samples: list) -> list:
        """What the student learns of strong views: with ``soft_unsure`` copies that have the unsure as objects, too."""
        if not self.semi_train_cfg.soft_unsure:
            return samples
        taught = []
        for sample in samples:
            sure, unsure = sample.gt_instances.new(), sample.ignored_instances.new()
            ones = torch.ones_like(sure.scores)
            sure.score_weights, unsure.score_weights = ones, unsure.scores
            sure.box_weights, unsure.box_weights = sure.get('box_weights', ones), torch.zeros_like(unsure.scores)
            sample = copy.copy(sample)
            sample.gt_instances = sure.cat([sure, unsure])
            taught.append(sample)
        return taught

    def loss_by_gt_instances(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        """As the student's loss, weighted by ``sup_weight``."""
        return self._weigh_sup(self.student.loss(batch_inputs, batch_data_samples), len(batch_data_samples))

    def _weigh_sup(self, losses: dict, images: int) -> dict:
        if self.semi_train_cfg.unsup_scale == 'labeled':
            self._labeled_sum = self._score_sum_per_image(images)
        losses = reweight_loss_dict(losses, self.semi_train_cfg.sup_weight)
        for name, weight in self.semi_train_cfg.sup_loss_weights.items():
            losses[name] = losses[name] * weight
        return rename_loss_dict('sup_', losses)

    def _score_sum_per_image(self, images: int) -> Tensor:
        """What YOLOv8 has divided the latest loss by before it multiplied by the number of images.

        A synced sum is of all processes, a factor that the ratio of two branches is without.
        """
        return self.student.bbox_head.assigned_score_sum.clamp(min=1) / images

    @property
    def _synced(self) -> bool:
        return getattr(self.student.bbox_head, 'sync_avg_factor', False)

    def _weigh_unsup(self, losses: dict, batch_data_samples: list) -> dict:
        number = sum(len(sample.gt_instances) for sample in batch_data_samples)
        counts = torch.tensor([number, sum(map(is_known_empty, batch_data_samples))], dtype=torch.float64)
        images = len(batch_data_samples)
        if self._synced:
            counts, images = sum_over_processes(counts), images * get_world_size()
        number, known_empty = counts.tolist()
        boxes = max(number, min(known_empty, 1)) / images
        weight = self.unsup_ramp * self.semi_train_cfg.unsup_weight
        scale: Union[float, Tensor]
        if boxes:
            if self.semi_train_cfg.unsup_scale == 'labeled':
                scale = (self._score_sum_per_image(len(batch_data_samples)) / self._labeled_sum).clamp(max=1)
            else:
                scale = min(1.0, boxes)
            weights = self.semi_train_cfg.unsup_loss_weights
            factors = {name: weight * weights.get(name, 1.0) for name in losses}
        else:
            factors, scale = {}, 0.0
        # What weighs nothing keeps its graph, as SyncBN's backward must meet the other processes'; and NaN · 0 is NaN.
        losses = {
            name: loss * (scale * factors[name]) if factors.get(name) else (loss * 0).nan_to_num()
            for name, loss in losses.items()
        }
        return self._with_statistics(rename_loss_dict('unsup_', losses), weight, batch_data_samples)

    def _with_statistics(self, losses: dict, weight: float, samples: list) -> dict:
        """Add what is logged; ``samples`` are the strong views with their pseudo-boxes."""
        device = next(self.student.parameters()).device
        counts = [len(sample.gt_instances) for sample in samples if not is_known_empty(sample)]
        score = torch.zeros((), device=device)
        if any(counts):
            score = torch.cat([sample.gt_instances.scores for sample in samples]).float().mean()
        images = max(len(counts), 1)
        losses['semi/unsup_weight'] = torch.full((), weight, device=device)
        losses['semi/pseudo_boxes'] = torch.full((), sum(counts) / images, device=device)
        losses['semi/pseudo_score'] = score
        losses['semi/pseudo_empty'] = torch.full((), counts.count(0) / images, device=device)
        return losses


def between(weak, strong) -> Tensor:
    """Homography from the weak view's pixels to the strong view's, (3, 3), fp32, composed in fp64."""
    matrices = []
    for name, sample in (('weak', weak), ('strong', strong)):
        matrix = sample.metainfo.get('homography_matrix')
        if matrix is None:
            raise ValueError(
                f'Expected `homography_matrix` in the meta of the {name} view of {sample.metainfo.get("img_path")}, '
                f'but got only {sorted(sample.metainfo)}: add it to the `meta_keys` of PackDetInputs and resize '
                'by a transform that records its geometry (RecordedLetterResize)'
            )
        matrices.append(torch.as_tensor(matrix, dtype=torch.float64))
    return (matrices[1] @ torch.linalg.inv(matrices[0])).float()


def _refuse_unknown(where: str, given: dict, known: Collection[str]) -> None:
    if not isinstance(given, dict):
        raise ValueError(f'Expected `{where}` to be a dict, but got {given!r}')
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f'Expected the keys of `{where}` among {", ".join(known)}, but got {unknown}')
