"""Datasets of the tiny set, and mistakes in its files."""

import cv2
import numpy as np
from mmyolo.registry import DATASETS

from tests.helpers.tiny import CLASSES

LOAD = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]
PACK = dict(type='mmdet.PackDetInputs', meta_keys=('img_path', 'img_id', 'ori_shape'))
PLAIN = [*LOAD, PACK]


def member(root, name, type='CheckedCocoDataset', pipeline=PLAIN, **kwargs):
    return dict(
        type=type,
        data_root=f'{root}/',
        ann_file=f'{name}.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=pipeline,
        **kwargs,
    )


def pair(root, **kwargs):
    return DATASETS.build(
        dict(
            type='LabeledUnlabeledDataset',
            labeled=member(root, 'labeled', **kwargs),
            unlabeled=member(root, 'unlabeled', **kwargs),
        )
    )


def spoil(root):
    """Break two unlabeled images and all labeled images except the last. Return the names of the broken images."""
    images = root / 'images'
    picture = cv2.imread(str(images / 'labeled_000.png'))
    (images / 'labeled_000.png').write_bytes(b'')
    # OpenCV before 5 would decode the upper half and leave the rest grey.
    jpeg = bytes(cv2.imencode('.jpg', cv2.imread(str(images / 'labeled_001.png')))[1])
    (images / 'labeled_001.png').write_bytes(jpeg[: len(jpeg) // 2])
    (images / 'labeled_002.png').write_bytes((images / 'labeled_002.png').read_bytes()[:300])
    (images / 'labeled_003.png').unlink()
    cv2.imwrite(str(images / 'labeled_004.png'), np.ascontiguousarray(picture.transpose(1, 0, 2)))
    (images / 'unlabeled_003.png').write_text('<html>404</html>')
    (images / 'unlabeled_004.png').unlink()
    return {f'labeled_00{i}' for i in range(5)} | {'unlabeled_003', 'unlabeled_004'}
