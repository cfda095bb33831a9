"""Values of a wrong kind or out of range."""

from collections.abc import Sequence

import pytest
from mmyolo.registry import MODELS

from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.config_check.findings import run_checks
from mmyolo_bgpenalty.config_check.parts import ConfigParts
from mmyolo_bgpenalty.config_check.settings import arguments, values
from mmyolo_bgpenalty.config_check.settings.values import fits
from tests.helpers.changes import Before, change

HEAD, SEMI_CFG, TRAIN, HOOKS = 'model.detector.bbox_head', 'model.semi_train_cfg', 'train_dataloader', 'default_hooks'
LABELED, UNLABELED = f'{TRAIN}.dataset.labeled.pipeline', f'{TRAIN}.dataset.unlabeled.pipeline'
WRONG = [
    # a text in place of a switch or a number
    (f'{HOOKS}.lambda_bg.by_epoch', 'False', 'True or False'),
    (f'{HOOKS}.mean_teacher.average_in_burn_in', 'yes', 'True or False'),
    (f'{HEAD}.sparse_targets', 'False', 'True or False'),
    (f'{HEAD}.ignored_in_cls', 0, 'True or False'),
    ('val_evaluator.coco', 'False', 'True or False'),
    ('val_evaluator.classwise', 'no', 'True or False'),
    (f'{TRAIN}.sampler.shuffle', 'False', 'True or False'),
    (f'{TRAIN}.dataset.labeled.test_mode', 'False', 'True or False'),
    (f'{HOOKS}.checkpoint.save_last', 'False', 'True or False'),
    (f'{HOOKS}.logger.interval', '50', 'a whole number'),
    # a list or a dict in place of a number, which may be seen late: only some images get this transform
    (f'{LABELED}.3.max_shear_degree', [1, 2], 'a number'),
    (f'{UNLABELED}.3.unsup_student.0.max_rotate_degree', dict(a=1), 'a number'),
    (f'{LABELED}.3.border', 'abc', 'a list of whole numbers'),
    (f'{LABELED}.2.scale', 'abc', 'a list of whole numbers'),
    (f'{HOOKS}.checkpoint.interval', dict(a=1), 'a whole number'),  # met when the first checkpoint is due
    # None, and values of other kinds
    (f'{HOOKS}.mean_teacher.momentum', None, 'a number'),
    (f'{HOOKS}.last_epochs.share', '0.1', 'a number'),
    (f'{HOOKS}.pictures.max_images', 2.5, 'a whole number'),
    (f'{HOOKS}.collapse.band', 'wide', 'a list of numbers'),
    (f'{HOOKS}.collapse.metric', None, 'a text'),
    (f'{TRAIN}.dataset.known_empty', 3, 'a text'),
    # out of range
    ('model.detector.test_cfg.score_thr', -0.1, 'a number in [0, 1]'),
    ('model.detector.test_cfg.nms.iou_threshold', 7, 'a number in [0, 1]'),
    (f'{SEMI_CFG}.pseudo_test_cfg.nms', dict(type='nms', iou_threshold=None), 'a number in [0, 1]'),
    ('model.detector.test_cfg.max_per_img', -301, 'a whole number >= 1'),
    ('model.detector.test_cfg.nms_pre', -30001, 'a whole number >= 1'),
    ('optim_wrapper.clip_grad', dict(max_norm=-1), 'a number above 0'),
    ('optim_wrapper.clip_grad', dict(max_norm='10'), 'a number above 0'),
    ('optim_wrapper.optimizer.weight_decay', -0.05, 'a finite number >= 0'),
    ('optim_wrapper.optimizer.weight_decay', [1, 2], 'a finite number >= 0'),
    (f'{HEAD}.loss_bbox.loss_weight', -8.5, 'a finite number >= 0'),
    ('model.data_preprocessor.data_preprocessor.std', [255.0, -0.5, 255.0], 'a finite number >= 0'),
    ('val_dataloader.persistent_workers', 'False', 'True or False'),
    ('optim_wrapper.accumulative_counts', 0, 'a whole number >= 1'),
    (f'{HOOKS}.mean_teacher.momentum', 4, 'a number in [0, 1]'),
    (f'{TRAIN}.batch_size', 2.5, 'a whole number >= 1'),
    ('model.detector.train_cfg.assigner.topk', -10, 'a whole number >= 1'),
    (f'{TRAIN}.batch_size', float('inf'), 'a whole number >= 1'),
    (f'{TRAIN}.dataset.unlabeled.pipeline.1.pad_val', dict(img='abc'), 'a finite number'),
    ('model.data_preprocessor.data_preprocessor.pad_size_divisor', -32, 'a whole number >= 1'),
    (f'{UNLABELED}.3.unsup_student.1.prob', 15, 'a number in [0, 1]'),
    (f'{HEAD}.prior_generator.strides', [8, 16, -0.5], 'a number above 0'),
    ('model.detector.backbone.deepen_factor', -1.33, 'a number above 0'),
    (f'{HEAD}.head_module.featmap_strides', [8, 16, 0], 'a number above 0'),
    ('model.detector.train_cfg.assigner.beta', float('-inf'), 'a finite number'),
    (f'{TRAIN}.dataset.labeled.metainfo.weight', [1.0, float('nan')], 'a finite number'),
    ('param_scheduler.1.eta_min', -1, 'a finite number >= 0'),
    ('param_scheduler.0.end', float('-inf'), 'a finite number'),
    (f'{TRAIN}.dataset.unlabeled.filter_cfg', dict(filter_empty_gt=[1, 2]), 'True or False'),
    ('val_dataloader.sampler', 7, 'expected a dict'),
    ('model.detector.backbone.act_cfg', dict(type='SiLU', inplace='abc'), 'True or False'),
    ('lambda_bg', None, 'None is no value'),
    ('burn_in', None, 'None is no value'),
]


@pytest.mark.parametrize('path, value, expected', WRONG)
def test_a_value_that_is_not_what_it_says(cfg, path, value, expected):
    change(cfg, {path: value})
    found = [one for one in check_config(cfg, data=False) if one.where.startswith(path) and expected in one.what]
    assert [one.level for one in found] == ['error']


class Usual:
    """As timm and many others write it: a default tells only a part of the kinds."""

    def __init__(self, pretrained=False, level=20, max_norm=None):
        pass


class Documented:
    def __init__(self, every: 'a whole number' = 3):  # noqa: F722
        pass


@MODELS.register_module(name='backbone_of_a_test')
def backbone(depth=3):
    """A registry may hold functions."""


BACKBONE = 'model.detector.backbone'
NECK = dict(type='mmdet.PAFPN', in_channels=[1], out_channels=1, num_outs=5)
RIGHT = [
    # classes of this package pass on what MMYOLO or MMDetection takes, which is more than their annotations say
    (f'{LABELED}.2.pad_val', 114),
    (f'{LABELED}.3.border_val', (114.0, 114.0, 114.0)),
    (f'{LABELED}.3.min_bbox_size', 1.5),
    (f'{LABELED}.3', Before(dict(type='RecordedMosaic', use_cached=True, pre_transform=None))),
    ('model.data_preprocessor.data_preprocessor.mean', None),
    # a default is no statement
    ('model.detector.neck', dict(NECK, add_extra_convs='on_output')),
    (BACKBONE, dict(type=Usual, pretrained='x.pth', level='INFO', max_norm=None)),
    # nor is the annotation of a model
    ('model.detector.neck', dict(type='YOLOv6RepPAFPN', in_channels=[64, 128, 256], out_channels=[32, 64, 128])),
    # what stopped the checks
    (BACKBONE, dict(type=Documented, every='3 epochs')),
    (BACKBONE, dict(type='backbone_of_a_test', depth=4)),
    # other meanings of the names in RANGES
    ('optim_wrapper.paramwise_cfg', dict(custom_keys=dict(momentum=dict(lr_mult=0.1), prob=dict(lr_mult=0.1)))),
    ('model.detector.test_cfg.score_thr', dict(high=0.6, low=0.1)),
    (f'{HEAD}.prior_generator.strides', [(8, 8), (16, 16), (32, 32)]),
    ('model.detector.test_cfg.regress_ranges', ((-1, 64), (64, float('inf')))),
]


@pytest.mark.parametrize('path, value', RIGHT)
def test_a_value_that_a_class_takes(cfg, path, value):
    change(cfg, {path: value})
    assert run_checks((*arguments.CHECKS, *values.CHECKS), ConfigParts(cfg)) == []


@pytest.mark.parametrize(
    'value, kind, expected',
    [
        (True, bool, True),
        (1, bool, False),
        (True, int, False),
        (2, float, True),
        (float('nan'), float, False),
        (None, float | None, True),
        ('a', Sequence[str], False),
        (['a', 1], list[str], False),
        ((1, 2.5), tuple[float, float], True),
        ((1, 'b'), tuple[int, str], True),
        (3, dict | None, False),
        (object(), 'a text that is no kind', True),
    ],
)
def test_kinds(value, kind, expected):
    assert fits(value, kind) == expected
