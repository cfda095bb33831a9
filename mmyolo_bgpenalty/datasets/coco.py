"""CheckedCocoDataset: a COCO dataset that checks its json for mistakes."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO

from mmdet.datasets.api_wrappers import COCO
from mmengine.dataset import BaseDataset
from mmyolo.datasets import YOLOv5CocoDataset
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.samplers import seeded_by
from mmyolo_bgpenalty.datasets.unreadable_images import SkipUnreadable
from mmyolo_bgpenalty.utils.coco_json import numbered_classes, read_coco


class CheckedCOCO(COCO):
    """MMDetection's COCO, but ``read_coco`` reads the file and checks it for mistakes.

    Raises:
        ValueError: the file has a mistake, or MMDetection would not label a class with its index in ``classes``.
    """

    def __init__(self, annotation_file: str, classes: Sequence[str] = ()):
        super().__init__()
        self.dataset = read_coco(annotation_file, training=True)
        found, _ = numbered_classes(self.dataset, classes)
        if found != list(classes)[: len(found)] and self.dataset['annotations']:
            raise ValueError(
                f'Expected the categories {list(classes)} in {annotation_file}, but got {found}: MMDetection numbers '
                'labels in the order of the categories'
            )
        with redirect_stdout(StringIO()):  # pycocotools prints
            self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs


def read_checked(dataset: BaseDataset) -> None:
    """Replace the COCO class of MMDetection in a dataset by ``CheckedCOCO``. Other datasets stay as they are."""
    if getattr(dataset, 'COCOAPI', None) is COCO:
        dataset.COCOAPI = partial(CheckedCOCO, classes=dataset.metainfo['classes'])


@DATASETS.register_module()
class CheckedCocoDataset(SkipUnreadable, YOLOv5CocoDataset):
    """YOLOv5CocoDataset that refuses a json with mistakes. In training it skips images that cannot be read.

    Raises:
        ValueError: see ``CheckedCOCO``; ``filter_cfg`` leaves no image; in training, too many images in a row cannot
            be read.
    """

    def load_data_list(self) -> list[dict]:
        read_checked(self)
        return super().load_data_list()

    def filter_data(self) -> list[dict]:
        left = super().filter_data()
        if not left:  # the error of MMEngine does not name the file
            raise ValueError(f'Expected images in {self.ann_file}, but filter_cfg={self.filter_cfg} leaves none')
        return left

    def __getitem__(self, idx: int) -> dict:
        with seeded_by(idx):
            return super().__getitem__(idx)
