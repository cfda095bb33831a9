"""The ONNX graph of an exported detector, compared with torch by onnxruntime."""

import inspect
import io
import json
import warnings
from typing import Any, Dict, Sequence, Tuple

import numpy as np
import torch
from mmdet.models import BaseDetector
from mmengine.config import Config
from mmyolo.models.dense_heads import YOLOv8Head
from torch import Tensor, nn

from mmyolo_bgpenalty.deploy.plain_detector import Export, block_pictures

TOLERANCE = dict(boxes=0.05, scores=1e-3)  # pixels of the input; scores in [0, 1]
# Read by every ONNX runtime of some years, and the highest that torch 1.13 writes.
OPSET = 17


def input_shape(cfg: Config) -> Tuple[int, int]:
    """(height, width) to which the test pipeline resizes.

    Raises:
        ValueError: none of its transforms states a ``scale``.
    """
    scales = [step['scale'] for step in cfg.test_dataloader.dataset.pipeline if 'scale' in step]
    if not scales:
        raise ValueError('Expected a `scale` in the test pipeline, but there is none: state the shape of the input')
    width, height = scales[-1] if isinstance(scales[-1], (tuple, list)) else (scales[-1], scales[-1])
    return height, width


class OnnxGraph(nn.Module):
    """A YOLOv8 detector from the pixels that its test pipeline packs to boxes and scores, before NMS.

    Forward takes images (B, 3, H, W), uint8, in the pipeline's order of channels (BGR), and returns boxes (B, N, 4),
    xyxy in pixels of the input, not clipped, and scores (B, N, C) in [0, 1]. Normalisation is inside.

    Args:
        model: the detector, in eval mode.
        shape: (H, W), multiples of the largest stride.

    Raises:
        ValueError: another head than YOLOv8's, or a shape that is no multiple.
    """

    def __init__(self, model: BaseDetector, shape: Sequence[int]):
        super().__init__()
        head = getattr(model, 'bbox_head', None)
        if not isinstance(head, YOLOv8Head):
            raise ValueError(f'Expected a detector with a YOLOv8Head for ONNX, but got {type(head).__name__}')
        largest = max(head.featmap_strides)
        if any(side < 1 or side % largest for side in shape):
            raise ValueError(f'Expected `shape` to be multiples of {largest}, but got {tuple(shape)}')
        self.model = model
        sizes = [(shape[0] // stride, shape[1] // stride) for stride in head.featmap_strides]
        priors = head.prior_generator.grid_priors(sizes, device='cpu')
        strides = [p.new_full(p.shape[:1], stride) for p, stride in zip(priors, head.featmap_strides)]
        self.priors: Tensor
        self.strides: Tensor
        self.register_buffer('priors', torch.cat(priors))
        self.register_buffer('strides', torch.cat(strides))

    def forward(self, images: Tensor) -> Tuple[Tensor, Tensor]:
        images = images.float()
        preprocessor = self.model.data_preprocessor
        if preprocessor._channel_conversion:
            images = images[:, [2, 1, 0]]
        if preprocessor._enable_normalize:
            images = (images - preprocessor.mean) / preprocessor.std
        head = self.model.bbox_head
        levels = head(self.model.extract_feat(images))
        logits, distances = (torch.cat([x.flatten(2) for x in level], dim=2).transpose(1, 2) for level in levels)
        return head.bbox_coder.decode(self.priors[None], distances, self.strides), logits.sigmoid()


def export_onnx(export: Export, shape: Sequence[int]) -> Tuple[bytes, Dict[str, float]]:
    """The ``OnnxGraph`` of a detector as an ONNX file, for batches of any size.

    onnxruntime runs it on two batches and is compared with torch. The file's metadata hold ``classes`` and ``test_cfg``
    (json), and what goes in and out.

    Args:
        export: the detector.
        shape: (H, W) of the input.

    Returns:
        The file, and the largest absolute difference of ``boxes`` (pixels) and ``scores``.

    Raises:
        ImportError: onnx or onnxruntime is missing; says what to install.
        ValueError: as OnnxGraph; or a difference is above ``TOLERANCE``.
    """
    onnx, onnxruntime = _onnx_packages()
    graph = OnnxGraph(export.model, shape).eval()
    axes = {name: {0: 'batch'} for name in ('images', 'boxes', 'scores')}
    # The TorchScript exporter: all supported versions of torch have it, and it needs no further package.
    options: Dict[str, Any] = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # of the exporter's age, and of branches on shapes that are fixed here
        torch.onnx.export(
            graph,
            (block_pictures(2, shape),),
            buffer,  # type: ignore[arg-type]  # a file in memory: its TorchScript exporter takes one
            input_names=['images'],
            output_names=['boxes', 'scores'],
            dynamic_axes=axes,
            opset_version=OPSET,
            **options,
        )
    model = onnx.load_from_string(buffer.getvalue())
    classes = export.checkpoint['meta']['dataset_meta']['classes']
    for output, last in zip(model.graph.output, (4, len(classes))):
        for dim, size in zip(output.type.tensor_type.shape.dim[1:], (len(graph.priors), last)):
            dim.dim_value = size
    properties = dict(
        classes=json.dumps(classes),
        test_cfg=json.dumps(export.cfg.model.get('test_cfg')),
        images='(batch, 3, height, width), uint8, as the test pipeline packs them: letterboxed, BGR, not normalised',
        boxes='(batch, priors, 4), xyxy in pixels of the input, before NMS, not clipped',
        scores='(batch, priors, classes), in [0, 1]',
    )
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    differences = dict(boxes=0.0, scores=0.0)
    for number in (1, 3):
        images = block_pictures(number, shape)
        with torch.no_grad():
            expected = graph(images)
        for name, found, wanted in zip(differences, session.run(None, {'images': images.numpy()}), expected):
            # NaN compares as above every tolerance.
            difference = np.abs(found - wanted.numpy()).max() if found.shape == wanted.shape else np.nan
            differences[name] = float(np.maximum(differences[name], difference))
    for name, tolerance in TOLERANCE.items():
        if not differences[name] <= tolerance:
            raise ValueError(f'onnxruntime differs from torch: {name} by {differences[name]:g}, above {tolerance:g}')
    return content, differences


def _onnx_packages():
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ImportError(f'ONNX needs onnx and onnxruntime: pip install onnx onnxruntime ({error})') from None
    return onnx, onnxruntime
