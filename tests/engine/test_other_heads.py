"""Real runs of other heads, with the penalty and its schedule, with and without a teacher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS

from mmyolo_bgpenalty import BackgroundPenaltyLoss
from mmyolo_bgpenalty.cli.ablation.does_it_help import does_it_help
from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.deploy.plain_detector import export_detector
from tests.helpers.exported import detections, same
from tests.helpers.tiny import CLASSES, CONFIGS, ROOT, SUPERVISED, load, train

RETINANET = Path(mmdet.__file__).parent / '.mim/configs/retinanet/retinanet_r18_fpn_1x_coco.py'


@pytest.fixture
def retinanet(data, tmp_path):
    """RetinaNet of MMDetection with the two lines of the penalty, on the tiny set. λ is 0 in the first epoch."""
    cfg = load(SUPERVISED, data, tmp_path, burn_in=1, lambda_bg_warmup=0, lambda_bg=0.5, train_cfg__max_epochs=2)
    model = Config.fromfile(RETINANET).model
    model.backbone.update(depth=18, init_cfg=None)
    loss = model.bbox_head.loss_cls
    model.bbox_head.update(
        num_classes=3, loss_cls=dict(loss, type='mmyolo.BackgroundPenaltyLoss', loss=dict(loss, type='mmdet.FocalLoss'))
    )
    cfg.model = dict(model, _scope_='mmdet')
    cfg.train_dataloader.collate_fn = dict(type='pseudo_collate')
    cfg.train_cfg.val_interval = 2
    return cfg


def test_retinanet_trains_with_the_penalty_and_its_schedule(retinanet):
    assert [str(one) for one in check_config(retinanet) if one.level == 'error'] == []
    runner = train(retinanet)
    assert isinstance(runner.model.bbox_head.loss_cls, BackgroundPenaltyLoss)

    def logged(name):
        return list(runner.message_hub.get_scalar(f'train/{name}').data[0])

    lambdas = logged('semi/lambda_bg')
    assert lambdas == [0.0] * (len(lambdas) // 2) + [0.5] * (len(lambdas) // 2) and len(lambdas) >= 2
    penalties = logged('bg_penalty')
    assert [value > 0 for value in penalties] == [value > 0 for value in lambdas]
    # It is in `loss_cls`, and is not added a second time.
    assert logged('loss')[-1] == pytest.approx(logged('loss_cls')[-1] + logged('loss_bbox')[-1], rel=1e-5)
    assert logged('loss_cls')[-1] > penalties[-1]
    assert 0 <= runner.message_hub.get_scalar('val/coco/bbox_mAP').current() <= 1


def test_the_ablation_asks_for_this_penalty(retinanet, tmp_path):
    assert does_it_help(retinanet, tmp_path).variants == {'labels only': {'lambda_bg': 0.0}, 'penalty': {}}


OTHERS = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob('other_heads/*.py'))
TOOLS = dict(ours=ROOT / 'tools/train.py', mmdet=Path(mmdet.__file__).parent / '.mim/tools/train.py')


def tiny_other(name, data, work_dir, **options):
    """One of the shipped configs of other heads on the tiny set, with two epochs and λ > 0 in the second."""
    semi = 'semi' in name
    cfg = load(
        f'other_heads/{name}', data, work_dir, burn_in=1, lambda_bg_warmup=0, train_cfg__max_epochs=2,
        train_cfg__val_interval=2, default_hooks__checkpoint__interval=2, **options,
    )  # fmt: skip
    if semi:
        # Untrained teachers have low scores and small boxes.
        cfg.model.semi_train_cfg.update(class_thresholds=None, min_pseudo_bbox_wh=(0.0, 0.0))
        cfg.model.semi_train_cfg.pseudo_test_cfg.update(score_thr=0.0, max_per_img=3)
        cfg.default_hooks.pictures.interval = 2
    return cfg


@pytest.mark.parametrize('name', OTHERS)
def test_shipped_configs_of_other_heads_are_right(name, data, tmp_path):
    cfg = tiny_other(Path(name).name, data, tmp_path)
    assert [str(one) for one in check_config(cfg) if one.level == 'error'] == []
    text = (CONFIGS / name).read_text(encoding='utf-8')
    assert len(text.splitlines()) <= 30


@pytest.mark.parametrize('tool', TOOLS)
@pytest.mark.parametrize('head', ['rtmdet_tiny', 'retinanet_r18'])
def test_semi_supervised_training(head, tool, data, tmp_path):
    """A student of another head learns from its teacher. The penalty is on labeled images alone."""
    cfg = tiny_other(f'{head}_semi_bgpenalty.py', data, tmp_path)
    cfg.dump(tmp_path / 'tiny.py')
    done = subprocess.run(
        [
            sys.executable,
            '-W',
            'ignore',
            str(TOOLS[tool]),
            str(tmp_path / 'tiny.py'),
            '--work-dir',
            str(tmp_path / 'w'),
        ],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / 'w').glob('*/vis_data/scalars.json')
    rows = [row for row in map(json.loads, file.read_text().splitlines()) if 'loss' in row]
    burn_in, after = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert len(rows) == 10 and {row['semi/lambda_bg'] for row in after} == {0.3}
    assert not any('unsup_loss_cls' in row for row in burn_in) and all(row['bg_penalty'] == 0 for row in burn_in)
    assert all(row['bg_penalty'] > 0 for row in after)
    # The weight of the unlabeled images rises from 0 on.
    assert any(row['semi/pseudo_boxes'] > 0 and row['unsup_loss_cls'] > 0 for row in after[1:])
    assert list((tmp_path / 'w').glob('*/vis_data/vis_image/pseudo_labels_*.png'))
    assert (tmp_path / 'w/epoch_2.pth').is_file()


@pytest.mark.parametrize('name', OTHERS)
def test_the_export_needs_no_class_of_this_package(name, data, tmp_path):
    """The loss that the penalty wraps takes its place. The plain detector predicts the same."""
    cfg = tiny_other(Path(name).name, data, tmp_path)
    semi = 'semi' in name
    if semi:
        cfg.model.semi_train_cfg.channels_last = False
    cfg.test_dataloader = cfg.val_dataloader
    init_default_scope('mmyolo')
    model = MODELS.build(cfg.model).eval()
    model.init_weights()
    model.cfg = cfg
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=CLASSES))), tmp_path / 'a.pth')
    exported = export_detector(cfg, str(tmp_path / 'a.pth'))
    text = exported.cfg.pretty_text
    assert not any(word in text for word in ('BackgroundPenaltyLoss', 'Semi', 'BgPenalty', 'mmyolo_bgpenalty'))
    assert exported.role == ('teacher' if semi else 'detector')
    for detector in (model, exported.model):
        for part in detector.modules():
            if isinstance(getattr(part, 'test_cfg', None), dict):
                part.test_cfg.update(score_thr=0.0)
    pictures = [cv2.imread(str(path)) for path in sorted((data / 'images').glob('val*'))[:2]]
    found = detections(exported.model, pictures)
    assert min(map(len, found)) > 5 and same(found, detections(model, pictures))
