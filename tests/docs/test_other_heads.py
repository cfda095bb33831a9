"""The code in docs/guides/other_heads.md."""

import re

import pytest
import torch
from mmengine.config import Config

from mmyolo_bgpenalty import lambda_bg_at
from tests.helpers.tiny import CONFIGS, ROOT

TEXT = (ROOT / 'docs/guides/other_heads.md').read_text(encoding='utf-8')
CONFIG, LOOP = re.findall(r'^```python\n(.*?)^```', TEXT, re.S | re.M)


def test_the_two_lines_are_a_config(tmp_path):
    (tmp_path / 'own.py').write_text(CONFIG, encoding='utf-8')
    cfg = Config.fromfile(tmp_path / 'own.py')
    loss = cfg.model.bbox_head.loss_cls
    assert loss.type == 'BackgroundPenaltyLoss' and loss.loss.type == 'mmdet.QualityFocalLoss' and cfg.lambda_bg == 0.3


def test_a_plain_training_loop_lowers_the_scores_of_the_background():
    """An anchor-free head on features of its own. With the penalty the background of the training data scores less."""
    scope: dict = {}
    exec(LOOP, scope)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 60, 8, generator=generator)
    targets = torch.zeros(2, 60, 3)
    targets[:, :6, 1] = 0.9
    means, logits = [], torch.randn(2, 60, 3, generator=generator)
    for start in (0.0, 13.0):  # in burn-in, and after the warm-up
        torch.manual_seed(0)
        head = torch.nn.Linear(8, 3)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.2)
        for _ in range(30):
            loss = scope['loss_of_a_batch'](head(features), targets, start)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        means.append(head(features).amax(-1)[targets.amax(-1) == 0].sigmoid().mean().item())
    assert means[1] < means[0]
    # The difference of the two losses is λ times the mean of the scores above 0.1.
    scores = logits.amax(-1).sigmoid()[targets.amax(-1) == 0]
    weight = lambda_bg_at(13, lambda_bg=0.3, burn_in=8, warmup=5, schedule='linear')
    difference = scope['loss_of_a_batch'](logits, targets, 13) - scope['loss_of_a_batch'](logits, targets, 0)
    assert float(difference) == pytest.approx(weight * float(scores[scores > 0.1].mean()), rel=1e-4)


def test_every_shipped_config_is_named():
    names = {path.name for path in CONFIGS.glob('other_heads/*.py')}
    for detector, file in (
        ('RTMDet-tiny', 'rtmdet_tiny'),
        ('RetinaNet-R18', 'retinanet_r18'),
        ('YOLOX-tiny', 'yolox_tiny'),
    ):
        assert detector in TEXT and {f'{file}_bgpenalty.py', f'{file}_semi_bgpenalty.py'} <= names
    assert len(names) == 6
