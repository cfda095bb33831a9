"""Models that only have a head, and a runner without a loop, for tests of single hooks."""

from types import SimpleNamespace

from mmengine.logging import MessageHub
from mmyolo.registry import MODELS
from torch import nn

from tests.helpers.heads import head_cfg


class Model(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.bbox_head = head


class Semi(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = Model(MODELS.build(head_cfg('BgPenaltyYOLOv8Head')))
        self.teacher = Model(MODELS.build(head_cfg('BgPenaltyYOLOv8Head')))


def runner(model, *, hooks=(), cfg=None, epoch=0, iteration=0, batches=10):
    return SimpleNamespace(
        model=model,
        hooks=list(hooks),
        cfg=cfg or {},
        epoch=epoch,
        iter=iteration,
        max_iters=1000,
        train_dataloader=range(batches),
        message_hub=MessageHub.get_instance('test_hooks'),
    )


def plain_model():
    return Model(MODELS.build(head_cfg('BgPenaltyYOLOv8Head')))
