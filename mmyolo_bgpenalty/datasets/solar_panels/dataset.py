"""SolarPanelDataset: the embedded set as a dataset."""

from typing import List

from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.coco import CheckedCocoDataset
from mmyolo_bgpenalty.datasets.solar_panels.generate import CLASSES, generate


@DATASETS.register_module()
class SolarPanelDataset(CheckedCocoDataset):
    """The embedded set of ``generate``, made in ``data_root`` on first use."""

    METAINFO = dict(classes=CLASSES)

    def load_data_list(self) -> List[dict]:
        try:
            generate(self.data_root)
        except ValueError as error:
            raise ValueError(f"{error}. A set of your own takes `type='CheckedCocoDataset'`") from None
        return super().load_data_list()
