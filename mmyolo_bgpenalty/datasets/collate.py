"""Collate functions. A worker process of the loader sends their batch as one tensor.

DataLoader opens a file descriptor for every tensor that it sends. A semi-supervised batch of 8 images has 60 tensors,
most of them a few bytes. The training process would wait until all are open.
"""

import copyreg
import io
import pickle
from collections.abc import Sequence

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS
from mmyolo.datasets.utils import yolov5_collate

ALIGNMENT = 64  # bytes


class SharedBatch(dict):
    """A dict of tensors and arrays in any nesting. Pickling puts their bytes into one tensor; unpickling gives a dict.

    Values, shapes and types are the same bit for bit. Torch itself pickles tensors that NumPy cannot hold, such as
    bfloat16. All other contiguous parts share one block of memory, and each part keeps the block alive.
    """

    def __reduce__(self):
        file = io.BytesIO()
        arrays: list[pickle.PickleBuffer] = []
        pickler = pickle.Pickler(file, protocol=5, buffer_callback=arrays.append)  # PEP 574: arrays stay out of file
        pickler.dispatch_table = copyreg.dispatch_table | {torch.Tensor: _as_array}
        pickler.dump(dict(self))
        spans, end = [], 0
        for array in arrays:
            spans.append((end, end + array.raw().nbytes))
            end = -(-spans[-1][1] // ALIGNMENT) * ALIGNMENT
        block = torch.empty(end, dtype=torch.uint8)
        content = block.numpy().data
        for array, (start, stop) in zip(arrays, spans):
            content[start:stop] = array.raw()
        return _unpickle, (file.getvalue(), block, spans)


def _unpickle(structure: bytes, block: torch.Tensor, spans: list[tuple[int, int]]) -> dict:
    content = block.numpy().data
    return pickle.loads(structure, buffers=[content[start:stop] for start, stop in spans])


def _as_array(tensor: torch.Tensor) -> tuple:
    """Pickle a tensor as a NumPy array, if NumPy can hold it."""
    try:
        return torch.from_numpy, (tensor.numpy(),)
    except (TypeError, RuntimeError):
        return tensor.__reduce_ex__(5)


@FUNCTIONS.register_module()
def branch_collate(data_batch: Sequence[dict]) -> dict:
    """MMEngine's pseudo_collate, as a ``SharedBatch``. A branch that a sample does not name is None there."""
    first = data_batch[0]
    none = {key: dict.fromkeys(name for one in data_batch for name in one[key]) for key in first}
    return SharedBatch(pseudo_collate([{key: {**none[key], **one[key]} for key in first} for one in data_batch]))


@FUNCTIONS.register_module()
def bg_penalty_collate(data_batch: Sequence[dict], use_ms_training: bool = False) -> dict:
    """MMYOLO's yolov5_collate, as a ``SharedBatch``.

    ``data_samples['regions']`` has a dict for each image. It tells where padding and ignored objects are.
    """
    collated = yolov5_collate(data_batch, use_ms_training)
    keys = ('homography_matrix', 'mosaic_tiles', 'ori_shape', 'img_shape', 'img_path')
    regions = []
    for sample in (item['data_samples'] for item in data_batch):
        regions.append({key: sample.metainfo[key] for key in keys if key in sample.metainfo})
        if 'bboxes' in sample.ignored_instances:
            regions[-1]['ignored_bboxes'] = sample.ignored_instances.bboxes.tensor
        if 'labels' in sample.ignored_instances:
            regions[-1]['ignored_labels'] = sample.ignored_instances.labels
    collated['data_samples']['regions'] = regions
    return SharedBatch(collated)
