"""Real runs of other heads with the penalty and its schedule."""

from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config

from mmyolo_bgpenalty import BackgroundPenaltyLoss
from mmyolo_bgpenalty.cli.ablation.does_it_help import does_it_help
from mmyolo_bgpenalty.config_check.check import check_config
from tests.helpers.tiny import SUPERVISED, load, train

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
