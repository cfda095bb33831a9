"""The solar set as a dataset."""

from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.coco import CheckedCocoDataset
from mmyolo_bgpenalty.datasets.solar_panels.generate import generate
from mmyolo_bgpenalty.datasets.solar_panels.settings import CLASSES


@DATASETS.register_module()
class SolarPanelDataset(CheckedCocoDataset):
    """The solar set. ``generate`` makes it in ``data_root`` on first use."""

    METAINFO = dict(classes=CLASSES)

    def load_data_list(self) -> list[dict]:
        try:
            generate(self.data_root)
        except ValueError as error:
            raise ValueError(f"{error}. A set of your own takes `type='CheckedCocoDataset'`") from None
        return super().load_data_list()
