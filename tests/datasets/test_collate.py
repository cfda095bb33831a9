"""A batch from a worker process arrives unchanged, as one tensor."""

import copy
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import DATASETS
from mmengine.registry import FUNCTIONS, init_default_scope
from mmengine.runner import Runner
from torch.multiprocessing import reductions

from mmyolo_bgpenalty.datasets.collate import ALIGNMENT, SharedBatch
from tests.helpers.tiny import SEMI, SUPERVISED, load, make_images


@pytest.fixture
def cfg(data, tmp_path):
    init_default_scope('mmyolo')
    return load(SEMI, data, tmp_path)


DTYPES = (torch.uint8, torch.bool, torch.int64, torch.float16, torch.float32, torch.float64, torch.bfloat16)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 255, shape)
    tensor = torch.from_numpy(np.array(values)).to(draw(st.sampled_from(DTYPES)))
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


leaves = st.none() | st.integers() | st.text(max_size=3) | tensors() | tensors().map(lambda t: t.float().numpy())
contents = st.dictionaries(
    st.text(max_size=3), st.recursive(leaves, lambda inner: st.lists(inner) | st.tuples(inner, inner), max_leaves=8)
)


def same(a, b):
    if isinstance(a, dict):
        return type(b) is dict and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return type(b) is torch.Tensor and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return type(b) is np.ndarray and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return a == b and type(a) is type(b)


@given(contents)
def test_pickling_changes_nothing(content):
    arrived = pickle.loads(pickle.dumps(SharedBatch(content)))
    assert same(content, arrived)
    assert same(content, copy.deepcopy(SharedBatch(content)))


def test_tensors_that_numpy_cannot_hold_are_pickled_by_torch():
    learnt = torch.ones(3, requires_grad=True)
    sparse = torch.eye(3).to_sparse()
    arrived = pickle.loads(pickle.dumps(SharedBatch(learnt=learnt, sparse=sparse)))
    assert arrived['learnt'].requires_grad and torch.equal(arrived['learnt'], learnt)
    assert arrived['sparse'].is_sparse and torch.equal(arrived['sparse'].to_dense(), sparse.to_dense())


@pytest.mark.parametrize('kind, expected', [(SharedBatch, 1), (dict, 12)])
def test_one_tensor_is_sent(monkeypatch, kind, expected):
    content = ForkingPickler.dumps(kind(boxes=[torch.ones(i, 4) for i in range(12)]))
    opened, rebuild = [], reductions.rebuild_tensor
    monkeypatch.setattr(reductions, 'rebuild_tensor', lambda *args: opened.append(args) or rebuild(*args))
    pickle.loads(content)
    assert len(opened) == expected


def test_parts_are_aligned_and_do_not_overlap():
    first, second = pickle.loads(pickle.dumps(SharedBatch(parts=[torch.ones(3), torch.ones(5)])))['parts']
    assert (second.data_ptr() - first.data_ptr()) == ALIGNMENT
    first.zero_()
    assert second.tolist() == [1] * 5


def tensors_of(batch):
    """The images of a batch, and the boxes, labels, homographies and paths of its samples."""
    found = dict(batch['inputs'])
    for branch, samples in batch['data_samples'].items():
        for place, sample in enumerate(samples):
            if sample is not None:
                boxes = sample.gt_instances.bboxes  # HorizontalBoxes in labeled images
                content = [getattr(boxes, 'tensor', boxes), sample.gt_instances.labels, sample.homography_matrix]
                found[branch, place] = [*content, sample.img_path]
    return found


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_the_same_as_with_pseudo_collate(cfg, workers):
    def loaded(**changes):
        return [tensors_of(batch) for batch in Runner.build_dataloader(dict(cfg.train_dataloader, **changes), seed=4)]

    batches, expected = loaded(num_workers=workers), loaded(collate_fn=dict(type='pseudo_collate'))
    assert len(batches) == 5 and all(map(same, expected, batches))


def test_ignored_objects_may_have_no_labels(tmp_path):
    init_default_scope('mmyolo')
    make_images(tmp_path, 'labeled', 2, seed=5, crowd=True)
    loader = load(SUPERVISED, tmp_path, tmp_path).train_dataloader
    items = [DATASETS.build(loader.dataset)[i] for i in range(2)]
    for item in items:
        del item['data_samples'].ignored_instances.labels
    regions = FUNCTIONS.get(loader.collate_fn.type)(items)['data_samples']['regions']
    assert all('ignored_bboxes' in meta and 'ignored_labels' not in meta for meta in regions)
