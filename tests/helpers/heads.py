"""A tiny YOLOv8 head."""

from mmengine.config import ConfigDict


def head_cfg(
    type: str = 'BgPenaltyYOLOv8Head', assigner: str = 'BatchTaskAlignedAssigner', reg_max: int = 16, **kwargs
) -> ConfigDict:
    """Config of a tiny YOLOv8 head of that type, for strides 8, 16 and 32."""
    assigner = dict(type=assigner, num_classes=3, use_ciou=True, topk=10, alpha=0.5, beta=6, eps=1e-9)
    module = dict(type='YOLOv8HeadModule', num_classes=3, in_channels=[16, 16, 16], reg_max=reg_max)
    return ConfigDict(type=type, head_module=module, **{'train_cfg': dict(assigner=assigner), **kwargs})
