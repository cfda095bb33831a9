"""Checks of the weights to start from."""

import math

from mmyolo_bgpenalty.config_check.findings import Findings, error, warning
from mmyolo_bgpenalty.config_check.parts import ConfigParts
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError
from mmyolo_bgpenalty.engine.checkpoints.start_weights import SIZES, model_size, read_weights
from mmyolo_bgpenalty.utils.files import reason


def check_load_from(parts: ConfigParts) -> Findings:
    """A checkpoint that cannot be read, or that is of another model size."""
    path = parts.get('load_from')
    if not isinstance(path, str) or '://' in path or parts.get('resume'):
        return
    try:
        _, weights = read_weights(path)
    except (CheckpointError, OSError) as problem:
        what = f'{path}: {reason(problem)}' if getattr(problem, 'errno', None) else str(problem)
        yield error('load_from', what, 'write the path of a checkpoint file')
        return
    width = parts.get(f'{parts.detector.path}.backbone.widen_factor', 1.0)
    there, here = model_size(weights), SIZES.get(8 * math.ceil(64 * width / 8))
    if there and here and there != here:
        what = f'{path} is YOLOv8-{there}, but the config builds YOLOv8-{here}, so most weights do not fit'
        yield warning('load_from', what, f"write model_size='{there}', or take weights of YOLOv8-{here}")


CHECKS = (check_load_from,)
