"""Misspelt entries of hooks, datasets, transforms, samplers, evaluators and models."""

import importlib.util
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook
from mmyolo.datasets import YOLOv5CocoDataset

from mmyolo_bgpenalty import BgPenaltyYOLOv8Head, BurnInMeanTeacherHook, LabeledUnlabeledDataset, WarmupLR
from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.config_check.settings.arguments import arguments_of
from tests.helpers.changes import DELETED, change
from tests.helpers.tiny import CONFIGS, load

HEAD, SEMI_CFG = 'model.detector.bbox_head', 'model.semi_train_cfg'
TRAIN = 'train_dataloader'
THRESHOLDS = f'{SEMI_CFG}.class_thresholds'
MISSPELT = {
    f'{HEAD}.bg_penalty.hard_scor': 'hard_score',
    f'{HEAD}.ignored_in_clss': 'ignored_in_cls',
    f'{HEAD}.loss_bbox.iou_mod': 'iou_mode',
    'model.detector.backbone.deepen_facto': 'deepen_factor',
    'model.detector.train_cfg.assigner.top_k': 'topk',
    'default_hooks.mean_teacher.momentm': 'momentum',
    'default_hooks.logger.intervall': 'interval',
    'default_hooks.collapse.bands': 'band',
    f'{SEMI_CFG}.unsure_threshold': 'unsure_thr',
    f'{SEMI_CFG}.pseudo_test_cfg.score_th': 'score_thr',
    f'{SEMI_CFG}.unsup_loss_weights.loss_bgg': 'loss_bg',
    f'{TRAIN}.batch_sampler.source_ration': 'source_ratio',
    f'{TRAIN}.sampler.shufle': 'shuffle',
    f'{TRAIN}.dataset.known_emty': 'known_empty',
    f'{TRAIN}.dataset.labeled.ann_fil': 'ann_file',
    f'{TRAIN}.dataset.unlabeled.pipeline.2.scal': 'scale',
    f'{TRAIN}.dataset.unlabeled.pipeline.3.unsup_student.0.border_vall': 'border_val',
    'val_dataloader.dataset.data_rot': 'data_root',
    'val_evaluator.classwis': 'classwise',
    'train_cfg.val_intervall': 'val_interval',
    'param_scheduler.0.lenght': 'length',
    'param_scheduler.1.eta_minn': 'eta_min',
    f'{TRAIN}.batchsize': 'batch_size',
    'val_dataloader.num_worker': 'num_workers',
    'optim_wrapper.optimizer.weight_decays': 'weight_decay',
}


@pytest.mark.parametrize('path', MISSPELT)
def test_a_misspelt_entry_is_found_and_the_right_name_is_given(cfg, path, only_finding):
    change(cfg, {path: 1})
    findings = check_config(cfg, data=False)
    name = path.rpartition('.')[2]
    only_finding(findings, 'error', path, f'takes no `{name}`')
    assert findings[0].instead == f'write `{MISSPELT[path]}`'


@pytest.mark.parametrize('name, hint', [('misfires', 'floor=1.0'), ('guard', 'remove the entry'), ('timer', None)])
def test_none_removes_only_the_hooks_of_mmengine(supervised, name, hint, only_finding):
    change(supervised, {f'default_hooks.{name}': None})
    found = [one for one in check_config(supervised, data=False) if one.where == f'default_hooks.{name}']
    if hint:
        only_finding(found, 'error', f'default_hooks.{name}', 'None removes only the hooks checkpoint, logger')
        assert hint in found[0].instead
    else:
        assert not found


def test_good_parts_need_another_config(supervised, only_finding):
    change(supervised, {'train_dataloader.dataset.empty': 'good_parts/'})
    found = [one for one in check_config(supervised, data=False) if one.where == 'train_dataloader.dataset.empty']
    only_finding(found, 'error', 'train_dataloader.dataset.empty', 'takes no images without objects')
    assert 'inherit yolov8_bgpenalty_own_empty.py' in found[0].instead


@pytest.mark.parametrize(
    'path, right',
    [
        ('env_cfg.cudnn_bechmark', 'cudnn_benchmark'),
        ('env_cfg.dist_cfg.bckend', 'backend'),
        ('model.semi_test_cfg.predit_on', 'predict_on'),
        ('model.detector.test_cfg.score_tr', 'score_thr'),
        ('model.detector.test_cfg.nms.iou_treshold', 'iou_threshold'),
        ('optim_wrapper.clip_grad.maxnorm', 'max_norm'),
        ('val_dataloader.dataset.filter_cfg.filter_empty', 'filter_empty_gt'),
        (f'{TRAIN}.dataset.unlabeled.metainfo.clases', 'classes'),
        ('default_hooks.checkpoint.save_est', 'save_best'),
    ],
)
def test_a_misspelt_key_that_no_class_refuses(cfg, path, right):
    change(cfg, {f'{path.rpartition(".")[0]}.{right}': DELETED, path: 1})
    found = [finding for finding in check_config(cfg, data=False) if finding.where == path]
    assert [(finding.level, finding.instead) for finding in found] == [('error', f'write `{right}`')]


def test_without_a_similar_name_the_known_names_are_listed(cfg):
    change(cfg, {'default_hooks.lambda_bg.xyz': 1})
    [finding] = check_config(cfg, data=False)
    hint = 'remove it (or write _delete_=True beside `type`, if a base config has it). '
    assert finding.instead.startswith(f'{hint}LambdaBgSchedulerHook takes burn_in, by_epoch, lambda_bg, schedule')


@pytest.mark.parametrize(
    'thresholds, wrong',
    [
        (dict(type='ClassFrequency', shares=0.5), 'shares'),
        (dict(type='Mixture', share=0.5), 'share'),
        (dict(type='ClassFrequency', share=0.5, window=300, floor=0.2, min_images=8), None),
        (dict(type='Fixed', thresholds=[0.3, 0.3, 0.3], floor=0.2), None),
    ],
)
def test_thresholds(data, tmp_path, thresholds, wrong):
    cfg = load('yolov8_semi_bgpenalty.py', data, tmp_path)
    change(cfg, {THRESHOLDS: thresholds})
    found = [finding for finding in check_config(cfg, data=False) if finding.where.startswith(THRESHOLDS)]
    assert [finding.where for finding in found] == ([f'{THRESHOLDS}.{wrong}'] if wrong else [])


def test_options_of_dense_learning(data, tmp_path):
    cfg = load('yolov8_semi_bgpenalty_dense.py', data, tmp_path)
    change(cfg, {'model.dense.gama': 1})
    assert 'model.dense.gama' in [finding.where for finding in check_config(cfg, data=False)]


def test_the_arguments_of_a_class_and_of_its_bases():
    """**kwargs that go to ``super().__init__`` are the arguments of the next class."""
    assert {'momentum', 'momentum_warmup', 'interval'} < arguments_of(BurnInMeanTeacherHook)
    assert {'bg_penalty', 'sparse_targets', 'loss_cls', 'init_cfg'} < arguments_of(BgPenaltyYOLOv8Head)
    assert {'batch_shapes_cfg', 'backend_args', 'ann_file', 'max_refetch'} < arguments_of(YOLOv5CocoDataset)
    assert {'labeled', 'unlabeled', 'known_empty', 'ignore_keys'} < arguments_of(LabeledUnlabeledDataset)
    assert {'length', 'start_factor', 'end', 'by_epoch'} < arguments_of(WarmupLR)


@pytest.mark.parametrize('kind', [EMAHook, CheckpointHook])
def test_a_class_that_may_take_anything_is_left_out(kind):
    """EMAHook gives its **kwargs to the average, CheckpointHook to the file backend."""
    assert arguments_of(kind) is None


def test_a_base_that_is_missing():
    class Mixin:
        def __init__(self, *args, mine=1, **kwargs):
            super().__init__(*args, **kwargs)

    assert arguments_of(Mixin) is None  # `object` stands for a class of a package that is not installed
    assert arguments_of(type('Whole', (Mixin, CocoDataset), {})) >= {'mine', 'ann_file'}


ELSEWHERE = [
    'mmyolo/.mim/configs/yolov5/yolov5_s-v61_syncbn_fast_8xb16-300e_coco.py',
    'mmyolo/.mim/configs/yolox/pose/yolox-pose_tiny_8xb32-300e-rtmdet-hyp_coco.py',
    'mmdet/.mim/configs/dino/dino-4scale_r50_8xb2-12e_coco.py',
    'mmdet/.mim/configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet/.mim/configs/yolox/yolox_s_8xb8-300e_coco.py',
]


@pytest.mark.parametrize('name', [*sorted(path.name for path in CONFIGS.glob('*.py')), *ELSEWHERE])
def test_no_false_alarm(name):
    package, _, path = name.partition('/')
    file = Path(importlib.util.find_spec(package).origin).parent / path if path else CONFIGS / name
    found = check_config(Config.fromfile(file), data=False)
    assert [finding for finding in found if 'takes no' in finding.what or 'nothing reads' in finding.what] == []
