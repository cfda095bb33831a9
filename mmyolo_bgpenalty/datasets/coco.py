"""CheckedCocoDataset: a COCO set without mistakes."""

from collections.abc import Sequence
from functools import partial

from mmdet.datasets.api_wrappers import COCO
from mmengine.dataset import BaseDataset
from mmyolo.datasets import YOLOv5CocoDataset
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.samplers import seeded_by
from mmyolo_bgpenalty.datasets.unreadable_images import SkipUnreadable
from mmyolo_bgpenalty.utils.coco_json import numbered_classes, read_coco


class CheckedCOCO(COCO):
    """MMDetection's COCO of a file that ``read_coco`` accepts for training.

    Raises:
        ValueError: the file is none, or MMDetection would give its classes other numbers than ``classes`` has.
    """

    def __init__(self, annotation_file: str, classes: Sequence[str] = ()):
        super().__init__()
        self.dataset = read_coco(annotation_file, training=True)
        found, lacking = numbered_classes(self.dataset, classes)
        if found != list(classes)[: len(found)] and self.dataset['annotations']:
            why = f'it lacks {lacking}: the labels of the classes after it count down by one'
            if not lacking:
                why = f'it has them in the order {found}, by which MMDetection numbers labels: write `classes` so'
            raise ValueError(f'Expected {annotation_file} to have the categories {list(classes)}, but {why}')
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs


def read_checked(dataset: BaseDataset) -> None:
    """Have a dataset of MMDetection's that reads COCO json read it by CheckedCOCO."""
    if getattr(dataset, 'COCOAPI', None) is COCO:
        dataset.COCOAPI = partial(CheckedCOCO, classes=dataset.metainfo['classes'])


@DATASETS.register_module()
class CheckedCocoDataset(SkipUnreadable, YOLOv5CocoDataset):
    """YOLOv5CocoDataset that refuses a json with mistakes and, in training, skips images that cannot be read.

    A ``SeededIndex`` seeds its sample's augmentation.

    Attributes:
        first_readable: ``ReadableImages`` of it.

    Raises:
        ValueError: as CheckedCOCO; ``filter_cfg`` leaves no image; in training, too many unreadable images in a row.
    """

    def load_data_list(self) -> list[dict]:
        read_checked(self)
        return super().load_data_list()

    def filter_data(self) -> list[dict]:
        left = super().filter_data()
        if not left:  # MMEngine fails to serialise an empty list with "need at least one array to concatenate".
            raise ValueError(f'Expected images in {self.ann_file}, but filter_cfg={self.filter_cfg} leaves none')
        return left

    def __getitem__(self, idx: int) -> dict:
        with seeded_by(idx):
            return super().__getitem__(idx)
