"""A student and its EMA teacher, for YOLOv8."""

import copy
from typing import Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from mmdet.models.detectors import SemiBaseDetector
from mmdet.models.utils import filter_gt_instances, rename_loss_dict, reweight_loss_dict, unpack_gt_instances
from mmengine.config import ConfigDict
from mmyolo.registry import MODELS
from torch import Tensor

from .checks import non_negative
from .geometry import project_boxes

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

    .. math:: L = w_{sup} L_{sup} + r \cdot w_{unsup} \cdot \min(1, n / B) \cdot L_{unsup}

    where r in [0, 1] is ``unsup_ramp``, steered by :class:`~mmyolo_bgpenalty.hooks.BurnInMeanTeacherHook` (0 in
    burn-in: no teacher is run), and n is the number of pseudo-boxes in a batch of B images. YOLOv8 divides
    its losses by the assigned scores, which are few where pseudo-boxes are; with n / B a single box in many
    images weighs as one box, and none weighs nothing.

    Args:
        detector: config of the student and of the teacher.
        semi_train_cfg: ``sup_weight`` (1.0), ``unsup_weight`` (1.0), ``min_pseudo_bbox_wh`` ((1e-2, 1e-2),
            pixels), ``joint_forward`` (False), ``channels_last`` (False), and ``pseudo_test_cfg``, how the teacher's
            predictions become labels (entries replace those of ``PSEUDO_TEST_CFG``).

            With ``joint_forward`` the student sees labeled images and strong views as one batch, of which BN takes
            its statistics, and the losses are of each branch's part; without, as in SemiBaseDetector, each is a batch
            of its own. Where their sizes differ, the smaller are padded as images of a batch are. ``channels_last`` is
            the memory format of student and teacher: the same values to rounding, the same checkpoints.
        semi_test_cfg: ``predict_on``, 'teacher' or 'student'.

    Attributes:
        pseudo_labels: data samples of the latest weak views, their ``gt_instances`` the pseudo-boxes (with
            ``scores``) in the weak view's pixels; empty in burn-in.
        keep_views: set it to have ``views`` kept.
        views: of the latest batch after burn-in, ``dict(weak=(inputs, samples), strong=(inputs, samples))`` as the
            model saw them (pre-processed), each sample with its pseudo-boxes in its own pixels; else None.

    Raises:
        ValueError: an unknown key of ``semi_train_cfg``, a weight that is no number >= 0, or a switch that is no bool.
    """

    TRAIN_CFG = dict(
        sup_weight=1.0, unsup_weight=1.0, min_pseudo_bbox_wh=(1e-2, 1e-2), joint_forward=False, channels_last=False
    )

    def __init__(self, detector, semi_train_cfg=None, semi_test_cfg=None, data_preprocessor=None, init_cfg=None):
        given = dict(semi_train_cfg or {})
        pseudo = dict(given.pop('pseudo_test_cfg', {}))
        _refuse_unknown('semi_train_cfg', given, [*self.TRAIN_CFG, 'pseudo_test_cfg'])
        _refuse_unknown('semi_train_cfg.pseudo_test_cfg', pseudo, PSEUDO_TEST_CFG)
        train_cfg = ConfigDict({**self.TRAIN_CFG, **given})
        for name in ('sup_weight', 'unsup_weight'):
            non_negative(f'semi_train_cfg.{name}', train_cfg[name])
        for name in ('joint_forward', 'channels_last'):
            if not isinstance(train_cfg[name], bool):
                raise ValueError(f'Expected `semi_train_cfg.{name}` to be True or False, but got {train_cfg[name]!r}')
        super().__init__(
            detector=detector,
            semi_train_cfg=train_cfg,
            semi_test_cfg=semi_test_cfg or ConfigDict(predict_on='teacher'),
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        if train_cfg.channels_last:
            # The weights' format is enough: a convolution hands it on to what it returns.
            self.student.to(memory_format=torch.channels_last)
            self.teacher.to(memory_format=torch.channels_last)
        self.pseudo_test_cfg = ConfigDict({**PSEUDO_TEST_CFG, **pseudo})
        self.unsup_ramp = 1.0
        self.pseudo_labels: list = []
        self.keep_views = False
        self.views: Optional[dict] = None

    def train(self, mode: bool = True):
        """The teacher stays in eval mode: its BN statistics are the student's average, not its own."""
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, multi_batch_inputs: Dict[str, Tensor], multi_batch_data_samples: dict) -> dict:
        """Losses ``sup_*`` and, after burn-in, ``unsup_*``. For the log, and no losses, are ``semi/unsup_weight`` and
        of the pseudo-labels ``semi/pseudo_boxes`` (an image), ``semi/pseudo_score`` (mean; 0 without any) and
        ``semi/pseudo_empty`` (share of images without any)."""
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
        branches = [samples['sup'], samples['unsup_student']]
        head = self.student.bbox_head
        outs = head(self.student.extract_feat(self._one_batch([inputs['sup'], inputs['unsup_student']])))
        sizes = [len(branch) for branch in branches]
        # One split a tensor, whose backward is one concatenation; slices would each fill a whole gradient.
        parts = [[level.split(sizes) for level in levels] for levels in outs]
        sup, unsup = (
            # As the head's own loss, which runs the student once for each.
            head.loss_by_feat(*([level[i] for level in levels] for levels in parts), gt, metas, ignored)
            for i, (gt, ignored, metas) in enumerate(map(unpack_gt_instances, branches))
        )
        return {**self._weigh_sup(sup), **self._weigh_unsup(unsup, samples['unsup_student'])}

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
        outs = self.teacher.bbox_head(self.teacher.extract_feat(batch_inputs))
        # The head clamps to `ori_shape` and divides by `scale_factor`: here both are the view's own.
        meta = dict(ori_shape=tuple(batch_inputs.shape[-2:]), scale_factor=(1.0, 1.0))
        # In fp32, since pixels need more than the 8 or 11 bits of autocast's types.
        results = self.teacher.bbox_head.predict_by_feat(
            *([level.float() for level in levels] for levels in outs),
            batch_img_metas=[meta] * len(batch_inputs),
            cfg=self.pseudo_test_cfg,
            rescale=False,
        )
        for sample, instances in zip(batch_data_samples, results):
            sample.gt_instances = instances
        self.pseudo_labels = batch_data_samples
        return batch_data_samples, {}

    def project_pseudo_instances(self, batch_pseudo_instances: list, batch_data_samples: list) -> list:
        """Take the boxes from the weak views' pixels to the strong views'."""
        for weak, strong in zip(batch_pseudo_instances, batch_data_samples):
            instances = copy.copy(weak.gt_instances)
            instances.bboxes = project_boxes(
                instances.bboxes,
                _between(weak, strong).to(instances.bboxes.device, non_blocking=True),
                strong.img_shape[:2],
            )
            strong.gt_instances = instances
        return filter_gt_instances(batch_data_samples, wh_thr=self.semi_train_cfg.min_pseudo_bbox_wh)

    def loss_by_pseudo_instances(self, batch_inputs: Tensor, batch_data_samples: list, batch_info=None) -> dict:
        """As the student's loss, weighted by ramp, ``unsup_weight`` and the number of pseudo-boxes."""
        return self._weigh_unsup(self.student.loss(batch_inputs, batch_data_samples), batch_data_samples)

    def _weigh_sup(self, losses: dict) -> dict:
        return rename_loss_dict('sup_', reweight_loss_dict(losses, self.semi_train_cfg.sup_weight))

    def _weigh_unsup(self, losses: dict, batch_data_samples: list) -> dict:
        boxes = sum(len(sample.gt_instances) for sample in batch_data_samples) / len(batch_data_samples)
        weight = self.unsup_ramp * self.semi_train_cfg.unsup_weight
        if boxes:
            losses = reweight_loss_dict(losses, weight * min(1.0, boxes))
        else:
            # With its graph, since SyncBN's backward must meet the other processes'; and NaN · 0 is NaN.
            losses = {name: (loss * 0).nan_to_num() for name, loss in losses.items()}
        return self._with_statistics(rename_loss_dict('unsup_', losses), weight, batch_data_samples)

    def _with_statistics(self, losses: dict, weight: float, samples: list) -> dict:
        """Add what is logged; ``samples`` are the strong views with their pseudo-boxes."""
        device = next(self.student.parameters()).device
        counts = [len(sample.gt_instances) for sample in samples]
        score = torch.zeros((), device=device)
        if any(counts):
            score = torch.cat([sample.gt_instances.scores for sample in samples]).float().mean()
        images = max(len(counts), 1)
        losses['semi/unsup_weight'] = torch.full((), weight, device=device)
        losses['semi/pseudo_boxes'] = torch.full((), sum(counts) / images, device=device)
        losses['semi/pseudo_score'] = score
        losses['semi/pseudo_empty'] = torch.full((), counts.count(0) / images, device=device)
        return losses


def _between(weak, strong) -> Tensor:
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


def _refuse_unknown(where: str, given: dict, known: List[str]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f'Expected the keys of `{where}` among {", ".join(known)}, but got {unknown}')
