"""Options of SemiYOLODetector that are refused."""

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS

from mmyolo_bgpenalty.models.semi_options import SemiTrainOptions
from tests.helpers.semi import build
from tests.helpers.tiny import CONFIGS, SEMI, SMALL


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(unsup_wieght=1), "keys of `semi_train_cfg` to be among sup_weight, .*but got .'unsup_wieght'"),
        (dict(joint_forward=False), "keys of `semi_train_cfg` to be among .*but got .'joint_forward'"),
        (dict(unsup_weight=-1), '`semi_train_cfg.unsup_weight`.*-1'),
        (dict(channels_last='yes'), "`semi_train_cfg.channels_last`.*'yes'"),
        (dict(unsure_thr=0.5), '`semi_train_cfg.unsure_thr`.*at most.*0.4.*0.5'),
        (dict(soft_unsure=True), '`semi_train_cfg.unsure_thr` for `semi_train_cfg.soft_unsure`'),
        (dict(soft_unsure=1, unsure_thr=0.1), '`semi_train_cfg.soft_unsure`.*1'),
        (dict(unsure_thr='low'), "`semi_train_cfg.unsure_thr`.*'low'"),
        (dict(teacher_flips=['left']), "`semi_train_cfg.teacher_flips.0.` to be one of horizontal.*'left'"),
        (dict(sup_loss_weights=dict(loss_bg='much')), "`semi_train_cfg.sup_loss_weights.loss_bg`.*'much'"),
        (dict(unsup_loss_weights=None), 'unsup_loss_weights` to be a dict, but got None'),
        (dict(unsup_loss_weights=dict(loss_box=0.0)), 'unsup_loss_weights.*loss_box'),
        (dict(unsup_loss_weights=dict(loss_dfl=-1)), 'unsup_loss_weights.loss_dfl.*-1'),
        (dict(pseudo_test_cfg=dict(score_th=0.4)), "`semi_train_cfg.pseudo_test_cfg`.*'score_th'"),
        (dict(pseudo_test_cfg=dict(score_thr=7.0)), r'pseudo_test_cfg.score_thr` to be in \[0, 1\], but got 7.0'),
        (dict(pseudo_test_cfg=dict(score_thr='x')), "pseudo_test_cfg.score_thr`.*'x'"),
        (dict(pseudo_test_cfg=dict(max_per_img=0)), 'pseudo_test_cfg.max_per_img` to be a whole number >= 1.*0'),
        (dict(pseudo_test_cfg=dict(multi_label='False')), "pseudo_test_cfg.multi_label` to be True or False.*'False'"),
        (dict(pseudo_test_cfg=dict(nms_pre=-1)), 'pseudo_test_cfg.nms_pre` to be a whole number >= 1.*-1'),
        (dict(pseudo_test_cfg=dict(nms=None)), 'pseudo_test_cfg.nms` to be a dict with `type`.*None'),
        (dict(pseudo_test_cfg=dict(nms=dict(iou_threshold=60))), r'nms.iou_threshold` to be in \[0, 1\], but got 60'),
        (dict(pseudo_test_cfg=dict(nms=dict(iou_threshold=0.6, class_agnostic='no'))), "nms.class_agnostic`.*'no'"),
        (dict(pseudo_test_cfg=dict(nms=dict(type='nmss', iou_threshold=0.6))), "nms` to be a config .*'nmss'"),
        (dict(pseudo_test_cfg=dict(nms=dict(type='nms', iou_threshold=0.6, iou=3))), "nms` to be a config .*'iou'"),
        (dict(teacher_flips='horizontal'), "`semi_train_cfg.teacher_flips` to be a list, but got 'horizontal'"),
        (dict(min_pseudo_bbox_wh=(1, -3)), '`semi_train_cfg.min_pseudo_bbox_wh`.*-3'),
        (dict(min_pseudo_bbox_wh=3), '`semi_train_cfg.min_pseudo_bbox_wh` to be two numbers, but got 3'),
    ],
)
def test_bad_config_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        build(**bad)


@pytest.mark.parametrize('nms', [dict(type='nms', iou_thr=0.6), dict(type='soft_nms', min_score=0.1)])
def test_every_nms_of_mmcv_is_accepted(nms):
    assert SemiTrainOptions.from_cfg(dict(pseudo_test_cfg=dict(nms=nms))).pseudo_test_cfg.nms == nms


def test_bad_predict_on_is_refused():
    init_default_scope('mmyolo')
    cfg = Config.fromfile(CONFIGS / SEMI)
    cfg.merge_from_dict({**SMALL, 'model.semi_test_cfg.predict_on': 'both'})
    with pytest.raises(ValueError, match="`semi_test_cfg.predict_on` to be one of teacher, student, but got 'both'"):
        MODELS.build(cfg.model)


def test_soft_unsure_needs_sparse_targets():
    with pytest.raises(ValueError, match='`sparse_targets` for `semi_train_cfg.soft_unsure`'):
        build(dict(sparse_targets=False), soft_unsure=True, unsure_thr=0.1)
