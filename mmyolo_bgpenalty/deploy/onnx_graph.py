"""ONNX files of plain detectors. onnxruntime must give the same results as torch."""

import inspect
import io
import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models import BaseDetector
from mmengine.config import Config
from mmyolo.models.dense_heads import YOLOv8Head
from torch import Tensor, nn

from mmyolo_bgpenalty.deploy.plain_detector import Export, block_pictures

TOLERANCE = dict(boxes=0.05, scores=1e-3)  # pixels of the input; scores in [0, 1]
OPSET = 17  # all supported versions of torch write it, and most runtimes read it


def input_shape(cfg: Config) -> tuple[int, int]:
    """(height, width) to which the test pipeline resizes. Raises ValueError if no step has a ``scale``."""
    scales = [step['scale'] for step in cfg.test_dataloader.dataset.pipeline if 'scale' in step]
    if not scales:
        raise ValueError('Expected a `scale` in the test pipeline, but there is none: give --shape')
    width, height = np.broadcast_to(scales[-1], 2).tolist()
    return height, width


class OnnxGraph(nn.Module):
    """A YOLOv8 detector in eval mode with normalization, but without NMS.

    It takes BGR images, (B, 3, H, W), uint8, as the test pipeline packs them. It returns boxes, (B, N, 4), xyxy in
    pixels of the input, not clipped, and scores, (B, N, C), in [0, 1].

    Raises:
        ValueError: the head is not a YOLOv8Head, or ``shape`` (H, W) is not a multiple of the largest stride.
    """

    priors: Tensor
    strides: Tensor

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
        strides = [level.new_full(level.shape[:1], stride) for level, stride in zip(priors, head.featmap_strides)]
        self.register_buffer('priors', torch.cat(priors))
        self.register_buffer('strides', torch.cat(strides))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
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


def export_onnx(export: Export, shape: Sequence[int]) -> tuple[bytes, dict[str, float]]:
    """The ``OnnxGraph`` of a detector as an ONNX file, for images of ``shape`` (H, W) and batches of any size.

    Returns:
        The file, and the largest absolute differences of ``boxes`` and ``scores`` between onnxruntime and torch.

    Raises:
        ImportError: onnx or onnxruntime is missing.
        ValueError: OnnxGraph raises it, or a difference exceeds ``TOLERANCE``.
    """
    try:  # optional packages
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ImportError(f'ONNX needs onnx and onnxruntime: pip install onnx onnxruntime ({error})') from None
    graph = OnnxGraph(export.model, shape).eval()
    model = onnx.load_from_string(_traced(graph, shape))
    classes = export.checkpoint['meta']['dataset_meta']['classes']
    # The exporter does not write the sizes of the outputs.
    for output, last in zip(model.graph.output, (4, len(classes))):
        _, number, values = output.type.tensor_type.shape.dim
        number.dim_value, values.dim_value = len(graph.priors), last
    descriptions = dict(
        images='(batch, 3, height, width), uint8, as the test pipeline packs them: letterboxed, BGR, not normalised',
        boxes='(batch, priors, 4), xyxy in pixels of the input, before NMS, not clipped',
        scores='(batch, priors, classes), in [0, 1]',
    )
    settings = dict(classes=json.dumps(classes), test_cfg=json.dumps(export.cfg.model.get('test_cfg')))
    onnx.helper.set_model_props(model, settings | descriptions)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    return content, _compared(session, graph, shape)


@torch.no_grad()
def _traced(graph: OnnxGraph, shape: Sequence[int]) -> bytes:
    inputs, outputs = ['images'], ['boxes', 'scores']
    axes = {name: {0: 'batch'} for name in inputs + outputs}
    # The TorchScript exporter exists in all supported versions of torch and needs no further package.
    options: dict[str, Any] = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    options |= dict(input_names=inputs, output_names=outputs, dynamic_axes=axes, opset_version=OPSET)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporter is deprecated, and warns of branches that depend on shapes
        torch.onnx.export(graph, (block_pictures(2, shape),), buffer, **options)  # type: ignore[arg-type]  # a buffer
    return buffer.getvalue()


@torch.no_grad()
def _compared(session, graph: OnnxGraph, shape: Sequence[int]) -> dict[str, float]:
    """The largest absolute differences on batches of 1 and of 3 images."""
    largest = dict(boxes=0.0, scores=0.0)
    for number in (1, 3):
        images = block_pictures(number, shape)
        for name, found, expected in zip(largest, session.run(None, {'images': images.numpy()}), graph(images)):
            difference = float(np.abs(found - expected.numpy()).max())
            if not difference <= TOLERANCE[name]:  # also true for nan
                raise ValueError(f'onnxruntime differs from torch: {name} by {difference:g}, above {TOLERANCE[name]:g}')
            largest[name] = max(largest[name], difference)
    return largest
