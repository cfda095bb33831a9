"""The teacher's boxes in the weak view, and their projection into the strong view."""

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox_project
from mmengine.structures import InstanceData

from tests.helpers.semi import SHAPE, batch, build, sample


@pytest.fixture
def model():
    return build()


def test_a_box_beyond_the_original_size_survives(model):
    """An image of 32 × 32 was enlarged to 64 × 96. Boxes are in pixels of the view, and need no ``scale_factor``."""
    inputs, samples = batch(1)
    samples['unsup_teacher'][0].set_metainfo(dict(ori_shape=(32, 32)))
    seen = {}
    original = model.teacher.bbox_head._bbox_post_process

    def far_right(results, **kwargs):
        results = original(results=results, **kwargs)
        seen['cfg'] = kwargs['cfg']
        return InstanceData(
            bboxes=torch.tensor([[60.0, 10, 95, 60]]),
            labels=torch.zeros(1, dtype=torch.long),
            scores=torch.ones(1),
        )

    model.teacher.bbox_head._bbox_post_process = far_right
    labeled, _ = model.get_pseudo_instances(inputs['unsup_teacher'], samples['unsup_teacher'])
    assert labeled[0].gt_instances.bboxes.tolist() == [[60, 10, 95, 60]]
    # The config of pseudo-boxes, not that of evaluation.
    assert seen['cfg'].multi_label is False and seen['cfg'].score_thr == 0.4
    assert model.teacher.bbox_head.test_cfg.score_thr == 0.001


def test_each_pseudo_box_has_one_label(model):
    """Two classes have high scores at one prior. Evaluation makes two boxes of it, and the teacher makes one."""
    head = model.teacher.bbox_head
    shapes = [(8, 12), (4, 6), (2, 3)]
    cls_scores = [torch.full((1, 3, *shape), -9.0) for shape in shapes]
    bbox_preds = [torch.full((1, 4, *shape), 1.5) for shape in shapes]
    cls_scores[0][0, :2, 4, 6] = torch.tensor([2.0, 1.5])
    meta = [dict(ori_shape=SHAPE, scale_factor=(1.0, 1.0))]
    evaluation = head.predict_by_feat(cls_scores, bbox_preds, batch_img_metas=meta, rescale=False)
    assert (evaluation[0].scores > 0.5).sum() == 2
    model.teacher.extract_feat = lambda inputs: None
    head.forward = lambda features: (cls_scores, bbox_preds)
    labeled, _ = model.get_pseudo_instances(torch.zeros(1, 3, *SHAPE), [sample()])
    assert labeled[0].gt_instances.labels.tolist() == [0]


def letterbox(scale, left, top):
    return np.array([[scale, 0, left], [0, scale, top], [0, 0, 1]], dtype=np.float32)


def test_boxes_go_from_the_weak_to_the_strong_view(model):
    weak = sample(letterbox(0.5, 0, 8), boxes=1)
    strong = sample(np.array([[-1.2, 0.1, 90], [0.05, 1.1, -3], [0, 0, 1]], dtype=np.float32))
    boxes = weak.gt_instances.bboxes.clone()
    expected = bbox_project(boxes, np.linalg.inv(weak.homography_matrix).astype(np.float32))
    expected = bbox_project(expected, torch.from_numpy(strong.homography_matrix), SHAPE)
    out = model.project_pseudo_instances([weak], [strong])
    assert torch.allclose(out[0].gt_instances.bboxes, expected, atol=1e-3)
    assert torch.equal(weak.gt_instances.bboxes, boxes)


def test_pseudo_boxes_are_decoded_in_full_precision(model):
    shapes = [(64, 96), (32, 48), (16, 24)]
    cls_scores = [torch.full((1, 3, *shape), -9.0) for shape in shapes]
    cls_scores[0][0, 1, 60, 91] = 3.0
    bbox_preds = [torch.full((1, 4, *shape), 1.875) for shape in shapes]
    model.teacher.extract_feat = lambda inputs: None
    model.teacher.bbox_head.forward = lambda features: (
        [s.bfloat16() for s in cls_scores],
        [b.bfloat16() for b in bbox_preds],
    )
    with torch.autocast('cpu', torch.bfloat16):
        labeled, _ = model.get_pseudo_instances(torch.zeros(1, 3, 512, 768), [sample()])
    # The centre of the prior is (732, 484), and the distances are 15 px. Above 512, bf16 has steps of 4.
    assert labeled[0].gt_instances.bboxes.tolist() == [[717.0, 469.0, 747.0, 499.0]]


def test_a_box_that_leaves_the_strong_view_is_dropped(model):
    weak, strong = sample(boxes=1), sample(letterbox(1.0, 500, 0))
    assert len(model.project_pseudo_instances([weak], [strong])[0].gt_instances) == 0


def test_a_view_without_geometry_is_named(model):
    weak, strong = sample(boxes=1), sample()
    del strong.homography_matrix
    with pytest.raises(ValueError, match='`homography_matrix`.*strong view of a.png.*RecordedLetterResize'):
        model.project_pseudo_instances([weak], [strong])
