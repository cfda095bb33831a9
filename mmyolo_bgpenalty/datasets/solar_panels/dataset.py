"""The dataset class of the solar set."""

from mmyolo.registry import DATASETS

from mmyolo_bgpenalty.datasets.coco import CheckedCocoDataset
from mmyolo_bgpenalty.datasets.solar_panels.generate import generate
from mmyolo_bgpenalty.datasets.solar_panels.settings import CLASSES


@DATASETS.register_module()
class SolarPanelDataset(CheckedCocoDataset):
    """The solar set. ``generate`` writes it to ``data_root`` on first use."""

    METAINFO = dict(classes=CLASSES)

    def load_data_list(self) -> list[dict]:
        try:
            generate(self.data_root)
        except ValueError as error:
            raise ValueError(f"{error}. For your own data, use `type='CheckedCocoDataset'`") from None
        return super().load_data_list()
