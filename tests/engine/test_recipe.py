"""What the shipped semi-supervised config does beyond the published method, in a real run."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from tests.helpers.tiny import CLASSES, CONFIGS, SEMI, load, make_set, train

SHIPPED = 'yolov8_semi_bgpenalty.py'


class Watch(Hook):
    priority = 'LOWEST'

    def __init__(self):
        self.rows, self.averaged = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = runner.model
        self.rows.append({name: value.item() for name, value in outputs.items()})
        self.rows[-1].update(progress=runner.epoch, lambda_bg=model.student.bbox_head.lambda_bg)
        student, teacher = (next(part.parameters()) for part in (model.student, model.teacher))
        self.averaged.append(not torch.equal(student, teacher))


@pytest.fixture(scope='module')
def watch(tmp_path_factory):
    root = tmp_path_factory.mktemp('recipe')
    options = {'burn_in': 1, 'lambda_bg_warmup': 0, 'train_cfg__max_epochs': 3, 'train_cfg__val_interval': 3}
    # The shipped config penalizes only scores above 0.1. The untrained network has no such scores.
    options['model__detector__bbox_head__bg_penalty__hard_score'] = 0.0
    cfg = load(SHIPPED, make_set(root / 'set'), root / 'run', **options)
    watch = Watch()
    watch.logged = list(train(cfg, watch).message_hub.log_scalars)
    return watch


def test_after_burn_in_only_labeled_images_have_the_penalty(watch):
    burn_in = [row for row in watch.rows if row['progress'] < 1]
    later = [row for row in watch.rows if row['progress'] >= 1]
    assert burn_in and all(row['lambda_bg'] == row['sup_loss_bg'] == 0 for row in burn_in)
    assert later and all(row['lambda_bg'] == 0.3 and row['sup_loss_bg'] > 0 for row in later)
    unlabeled = [row['unsup_loss_bg'] for row in later if row['semi/unsup_weight'] > 0]
    assert unlabeled and not any(unlabeled)


def test_classes_have_thresholds_and_the_teacher_is_an_average_from_the_start(watch):
    assert {f'train/semi/threshold_{name}' for name in CLASSES} <= set(watch.logged)
    assert all(watch.averaged[1:])


def test_the_published_config_has_only_the_published_penalty():
    cfg = Config.fromfile(CONFIGS / SEMI)
    head, semi = cfg.model.detector.bbox_head, cfg.model.semi_train_cfg
    assert head.bg_penalty == dict(normalizer='background', region='all') and not head.ignored_in_cls
    assert semi.class_thresholds is semi.unsure_thr is None and not semi.teacher_flips and not semi.unsup_loss_weights
    assert not semi.soft_unsure and cfg.lambda_bg == 1 and not cfg.default_hooks.mean_teacher.average_in_burn_in
