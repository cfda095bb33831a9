"""Datasets made of lists, and a runner without a loop, for hooks that watch a semi-supervised training."""

from types import SimpleNamespace

import numpy as np
import torch
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData

from tests.helpers.tiny import CLASSES

# A list of boxes per image: x1, y1, x2, y2, class, crowd. OBJECTS has one object per image on average.
TRUE = [[(10, 10, 30, 30, 0, 0), (40, 10, 60, 30, 1, 0)], []]
OBJECTS = [[(0, 0, 9, 9, 0, 0), (0, 0, 9, 9, 0, 0), (0, 0, 9, 9, 0, 1)], [(0, 0, 9, 9, 1, 0)], []]
SILENT = SimpleNamespace(metainfo=dict(classes=CLASSES))  # a set without `get_data_info`


class Listed:
    """A dataset made of lists of boxes, with the interface of MMEngine's datasets."""

    def __init__(self, images, classes=CLASSES):
        self.images, self.metainfo = images, dict(classes=classes)

    def __len__(self):
        return len(self.images)

    def get_data_info(self, i):
        instances = [dict(bbox=row[:4], bbox_label=row[4], ignore_flag=row[5]) for row in self.images[i]]
        return dict(img_path=f'{i}.png', img_id=i, instances=instances)


class Loader(list):
    """The part of a DataLoader that hooks read."""

    dataset = None


def fake_runner(*datasets, name='test_monitors'):
    MessageHub.get_instance(name).log_scalars.clear()
    loader = Loader(range(100))
    loader.dataset = SimpleNamespace(datasets=datasets)
    model = SimpleNamespace(
        student=SimpleNamespace(bbox_head=SimpleNamespace(num_classes=3)),
        pseudo_labels=[],
        unsup_ramp=1.0,
        semi_train_cfg=SimpleNamespace(pseudo_test_cfg=SimpleNamespace(score_thr=0.4)),
    )
    return SimpleNamespace(
        model=model,
        hooks=[LoggerHook(interval=1)],
        iter=0,
        train_dataloader=loader,
        message_hub=MessageHub.get_instance(name),
    )


def weak_view(i, rows, homography=None):
    """The sample of image ``i``. Rows are pseudo-labels: x1, y1, x2, y2, score, class."""
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    found = InstanceData(bboxes=rows[:, :4], scores=rows[:, 4], labels=rows[:, 5].long())
    homography = np.eye(3) if homography is None else homography
    metainfo = dict(img_path=f'{i}.png', homography_matrix=homography, img_shape=(64, 96))
    return SimpleNamespace(metainfo=metainfo, **metainfo, gt_instances=found)
