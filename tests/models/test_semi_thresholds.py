"""SemiYOLODetector with thresholds per class."""

import pytest
import torch
from mmengine.structures import InstanceData

from mmyolo_bgpenalty.models.pseudo_boxes.thresholds import build_thresholds
from tests.helpers.processes import in_two_processes
from tests.helpers.semi import SHAPE, batch, build, sample
from tests.helpers.thresholds import images


def teacher_scores(model, found, least=0.1):
    """Let the teacher find boxes with these scores and labels. Its ``score_thr`` must be ``least``."""

    def predict_by_feat(*args, batch_img_metas, cfg, **kwargs):
        assert cfg.score_thr == least
        return [
            InstanceData(bboxes=torch.tensor([[10.0, 10, 50, 50]]).repeat(len(s), 1), scores=s, labels=labels)
            for s, labels in found
        ]

    model.teacher.bbox_head.predict_by_feat = predict_by_feat


@pytest.mark.parametrize('unsure_thr, unsure', [(None, None), (0.05, [0.6, 0.2, 0.07]), (0.2, [0.6]), (0.45, [0.6])])
def test_a_box_is_confident_by_the_threshold_of_its_class(unsure_thr, unsure):
    fixed = dict(type='Fixed', thresholds=[0.5, 0.3, 0.9])
    model = build(class_thresholds=fixed, unsure_thr=unsure_thr)
    scores, labels = torch.tensor([0.9, 0.6, 0.5, 0.4, 0.2, 0.07]), torch.tensor([0, 2, 0, 1, 1, 1])
    nothing = (torch.zeros(0), torch.zeros(0, dtype=torch.int32))  # as MMYOLO's head returns them
    teacher_scores(model, [(scores, labels), nothing], least=min(0.1, unsure_thr or 1))
    inputs, samples = batch(2)
    losses = model.loss(inputs, samples)
    for views in (model.pseudo_labels, samples['unsup_student']):
        assert views[0].gt_instances.scores.tolist() == pytest.approx([0.9, 0.5, 0.4])
        assert len(views[1].gt_instances) == 0
        if unsure is not None:
            assert views[0].ignored_instances.scores.tolist() == pytest.approx(unsure)
            assert len(views[1].ignored_instances) == 0
    assert losses['semi/pseudo_boxes'] == 1.5


def test_unsure_boxes_do_not_change_thresholds():
    found = []
    for unsure_thr in (None, 0.01):
        thresholds = dict(type='ClassFrequency', floor=0.1, share=1.0, window=4, min_images=1)
        model = build(class_thresholds=thresholds, unsure_thr=unsure_thr)
        model.class_thresholds.objects_per_image = torch.tensor([1.0, 2.0, 0.0])
        scores = torch.tensor([0.9, 0.6, 0.05, 0.04][: 2 if unsure_thr is None else 4])
        teacher_scores(model, [(scores, torch.tensor([0, 1, 1, 1])[: len(scores)])], least=unsure_thr or 0.1)
        model.get_pseudo_instances(torch.zeros(1, 3, *SHAPE), [sample()])
        found.append((model.class_thresholds.current.tolist(), model.class_thresholds.window.tolist()))
    assert found[0] == found[1] and found[0][0] == pytest.approx([0.9, 0.1, 0.9])


def test_only_adaptive_thresholds_add_to_a_checkpoint():
    plain = build().state_dict()
    state = build(class_thresholds=dict(type='Mixture', window=7)).state_dict()
    assert state.keys() - plain.keys() == {'class_thresholds.window'}
    assert state['class_thresholds.window'].shape == (7, 300, 2)
    assert build(class_thresholds=dict(type='Fixed', thresholds=[0.4] * 3)).state_dict().keys() == plain.keys()


def test_the_detector_names_a_bad_argument():
    with pytest.raises(ValueError, match='`semi_train_cfg.class_thresholds`: .*`at`'):
        build(class_thresholds=dict(type='Mixture', at='high'))
    fixed = dict(type='Fixed', thresholds=[0.5, 0.3, 0.6])
    assert build(class_thresholds=fixed, unsure_thr=0.6).semi_train_cfg.unsure_thr == 0.6
    with pytest.raises(
        ValueError, match='`semi_train_cfg.unsure_thr`.*highest of `class_thresholds`.*0.6, but got 0.7'
    ):
        build(class_thresholds=fixed, unsure_thr=0.7)


OPTIONS = dict(type='ClassFrequency', share=1.0, window=6, min_images=2)


def found_by(rank, step):
    return images(2, seed=2 * step + rank)


def thresholds_of(rank):
    model = build(class_thresholds=OPTIONS)
    model.class_thresholds.objects_per_image = torch.tensor([1.0, 0.5, 0.25])
    for step in range(5):
        teacher_scores(model, found_by(rank, step))
        model.get_pseudo_instances(torch.zeros(2, 3, *SHAPE), [sample(), sample()])
    return model.class_thresholds.current.tolist(), model.class_thresholds.window.tolist()


def test_two_processes_have_the_thresholds_of_one_with_all_images(tmp_path):
    answers = in_two_processes(thresholds_of, tmp_path)
    one = build_thresholds(OPTIONS, 3, 300, 0.4)
    one.objects_per_image = torch.tensor([1.0, 0.5, 0.25])
    for step in range(5):
        one([image for rank in (0, 1) for image in found_by(rank, step)])
    assert len(set(one.current.tolist())) == 3
    assert answers == [(one.current.tolist(), one.window.tolist())] * 2
