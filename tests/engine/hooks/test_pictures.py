"""What the pictures show, and that drawing does not change the training."""

import random
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from mmdet.structures import DetDataSample
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS
from torch import nn

from mmyolo_bgpenalty import SemiYOLODetector
from mmyolo_bgpenalty.engine.hooks import pictures
from mmyolo_bgpenalty.engine.hooks.pictures import (
    BACKGROUND,
    LABEL,
    PseudoLabelPicturesHook,
    View,
    draw_pseudo_labels,
)
from mmyolo_bgpenalty.models.semi_detector import UnlabeledBatch
from tests.helpers.states import same
from tests.helpers.tiny import SEMI, load, make_set


@pytest.mark.parametrize('normalized', [dict(), dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4])])
@pytest.mark.parametrize('bgr_to_rgb', [True, False])
def test_the_preprocessing_of_a_drawn_view_is_undone(normalized, bgr_to_rgb):
    bgr = np.random.randint(0, 256, (32, 32, 3), dtype=np.uint8)
    preprocessor = MODELS.build(dict(type='mmdet.DetDataPreprocessor', bgr_to_rgb=bgr_to_rgb, **normalized))
    view = preprocessor(dict(inputs=[torch.from_numpy(bgr).permute(2, 0, 1)]))['inputs'][0]
    np.testing.assert_array_equal(pictures._pixels(view, preprocessor), bgr[..., ::-1])


def test_a_gray_view_is_a_gray_picture():
    gray = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    preprocessor = MODELS.build(dict(type='mmdet.DetDataPreprocessor', mean=[10.0], std=[2.0]))
    pixels = pictures._pixels((gray.float() - 10) / 2, preprocessor)
    np.testing.assert_array_equal(pixels, np.repeat(gray[0].numpy()[..., None], 3, axis=2))


def test_padding_and_ignored_boxes_are_marked_as_without_a_penalty():
    height, width, (image_height, image_width) = 24, 40, (20, 30)
    x1, y1, x2, y2 = ignored_box = 20.0, 4.0, 26.0, 9.0
    matrix = np.array([[0.96, -0.3, 9.25], [0.3, 0.96, -3.5], [0, 0, 1]])
    sample = DetDataSample(metainfo=dict(homography_matrix=matrix, ori_shape=(image_height, image_width)))
    sample.ignored_instances = InstanceData(bboxes=torch.tensor([ignored_box]))
    y, x = np.mgrid[:height, :width] + 0.5
    u, v, _ = np.einsum('ij,jhw->ihw', np.linalg.inv(matrix), np.stack([x, y, np.ones_like(x)]))
    padding = (u < 0) | (u > image_width) | (v < 0) | (v > image_height)
    inside = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)
    np.testing.assert_array_equal(pictures._ignored(sample, (height, width)), padding | inside)


def test_the_sheet_shows_views_boxes_and_ignored_regions():
    width, height = 100, 60
    image = np.full((height, width, 3), 120, dtype=np.uint8)
    ignored = np.zeros((height, width), dtype=bool)
    ignored[40:] = True
    weak = View(image, [((20, 20, 50, 40), 'crack 0.93'), ((-9, -9, 120, 90), 'λ $x_{$ 0.5')])
    strong = weak._replace(ignored=ignored, background=[((30, 30, 60, 50), '0.41')])
    figure = draw_pseudo_labels([('$a_{$.png', weak, strong), ('b.png', weak, strong)], 'title')
    figure.canvas.draw()
    assert [axes.get_title('left')[:10] for axes in figure.axes] == ['$a_{$.png:'] * 2 + ['b.png: wea', 'b.png: str']
    for axes, view in zip(figure.axes, (weak, strong) * 2):
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, width), (height, 0))
        drawn = [(tuple(patch.get_bbox().extents), to_hex(patch.get_edgecolor())) for patch in axes.patches]
        expected = [(box, LABEL) for box, _ in view.labels]
        assert drawn == [(box, BACKGROUND) for box, _ in view.background] + expected
        # A label is above its box, a confidence below. All texts are inside the view.
        positions = {text.get_text(): (text.get_position(), text.get_va()) for text in axes.texts}
        assert positions['crack 0.93'] == ((20, 20), 'bottom')
        assert positions['λ $x_{$ 0.5'] == ((0, 2.5), 'bottom')
        assert len(positions) == 2 or positions['0.41'] == ((30, 50), 'top')
        shown = axes.images[0].get_array()
        if view is weak:
            assert (shown == 120).all()
        else:
            assert (shown[:40] == 120).all() and set(np.unique(shown[40:])) == {30, 54}  # striped


class Head(nn.Module):
    lambda_bg = 0.25

    def background_predictions(self, image, number):
        """Return one box three times, with scores 0.9, 0.8 and 0.7, and two other boxes, with 0.3 and 0.01."""
        boxes = torch.tensor([[0.0, 0, 10, 10]] * 3 + [[20.0, 20, 30, 30], [40, 40, 50, 50]]) + image
        return dict(scores=torch.tensor([0.9, 0.8, 0.7, 0.3, 0.01])[:number], bboxes=boxes[:number])


def samples(number):
    made = []
    for i in range(number):
        meta = dict(img_path=f'/set/{i}.png', ori_shape=(64, 64), homography_matrix=np.eye(3))
        instances = InstanceData(bboxes=torch.full((i, 4), 5.0), labels=torch.arange(i), scores=torch.full((i,), 0.75))
        made.append(DetDataSample(metainfo=meta, gt_instances=instances))
    return made


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """A runner with a wrapped detector, which has kept the views of three images."""
    monkeypatch.setattr('mmyolo_bgpenalty.utils.distributed.is_model_wrapper', lambda model: hasattr(model, 'module'))
    latest = UnlabeledBatch(torch.rand(3, 3, 64, 64), samples(3), torch.rand(3, 3, 64, 64), samples(3))
    inner = dict(type='mmdet.DetDataPreprocessor', bgr_to_rgb=True, mean=[0.0] * 3, std=[255.0] * 3)
    model = Mock(spec=SemiYOLODetector, latest=latest, student=SimpleNamespace(bbox_head=Head()))
    model.data_preprocessor = MODELS.build(dict(type='SemiDataPreprocessor', data_preprocessor=inner))
    loader = Mock(__len__=lambda self: 10, dataset=SimpleNamespace(metainfo=dict(classes=('a',))))
    model = SimpleNamespace(module=model)
    return Mock(model=model, iter=1, epoch=7, log_dir=str(tmp_path), train_dataloader=loader)


def test_what_is_drawn(runner, monkeypatch):
    drawing = Mock(side_effect=draw_pseudo_labels)
    monkeypatch.setattr(pictures, 'draw_pseudo_labels', drawing)
    latest = runner.model.module.latest
    PseudoLabelPicturesHook(max_images=2).after_train_iter(runner, 1)
    ((rows, title),) = (call.args for call in drawing.call_args_list)
    assert title == 'Iteration 2, epoch 7, λ_bg = 0.250, 1.0 pseudo-boxes per image'
    assert [name for name, *_ in rows] == ['0.png', '1.png']
    for i, (_, weak, strong) in enumerate(rows):
        for view, inputs in ((weak, latest.weak), (strong, latest.strong)):
            np.testing.assert_array_equal(view.image, (inputs[i] * 255).round().byte().permute(1, 2, 0).numpy())
            assert view.labels == [([5.0] * 4, 'a 0.75'), ([5.0] * 4, '1 0.75')][:i]
        assert not weak.ignored.any() and len(weak.background) == 0 and not strong.ignored.any()
        # Of overlapping boxes only the best is drawn. Boxes with scores below 0.05 are not drawn.
        assert strong.background == [([i, i, i + 10, i + 10], '0.90'), ([i + 20, i + 20, i + 30, i + 30], '0.30')]
    assert runner.model.module.latest is None and not runner.logger.warning.called


def test_views_are_kept_in_the_iterations_that_draw(runner, monkeypatch):
    def kept(interval):
        hook, model, found = PseudoLabelPicturesHook(interval), runner.model.module, []
        for runner.iter in range(4):
            hook.before_train_iter(runner, runner.iter)
            found.append(model.keep_latest)
        return found

    runner.max_iters = 8
    assert kept(2) == kept(0.25) == [False, True, False, True] and kept(-1) == [False] * 4
    monkeypatch.setattr(pictures, 'is_main_process', lambda: False)
    assert kept(1) == [False] * 4


def test_other_models_are_not_changed(runner):
    runner.model, hook = nn.Linear(1, 1), PseudoLabelPicturesHook(interval=1)
    hook.before_train_iter(runner, 0)
    hook.after_train_iter(runner, 0)
    assert not hasattr(runner.model, 'keep_latest') and not runner.visualizer.add_image.called


@pytest.mark.parametrize('where', ['draw_pseudo_labels', 'write_whole', 'add_image'])
def test_training_continues_after_a_failure(runner, monkeypatch, where):
    owner = runner.visualizer if where == 'add_image' else pictures
    monkeypatch.setattr(owner, where, Mock(side_effect=OSError('no space left on device')))
    PseudoLabelPicturesHook().after_train_iter(runner, 1)
    warning = 'PseudoLabelPicturesHook could not draw: OSError: no space left on device'
    runner.logger.warning.assert_called_once_with(warning)
    assert runner.model.module.latest is None


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(interval=0), '`interval` to be > 0, or -1 for no sheets, but got 0'),
        (dict(interval=1.5), '`interval` to be a whole number of iterations or, below 1, a share of the run'),
        (dict(max_images=True), '`max_images` to be a whole number >= 1, but got True'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match='Expected ' + message):
        PseudoLabelPicturesHook(**arguments)


def test_a_run_with_pictures_equals_one_without(tmp_path):
    """All states are bitwise equal. The pictures are in the log folder and in TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow

    data, ends = make_set(tmp_path), []
    for interval in (-1, 2):
        cfg = load(
            SEMI,
            data,
            tmp_path / f'interval {interval}',
            burn_in=1,
            train_cfg__max_epochs=2,
            default_hooks__checkpoint=None,
            visualizer__vis_backends=[dict(type='TensorboardVisBackend')],
            model__semi_train_cfg__pseudo_test_cfg=dict(score_thr=0.0, max_per_img=3),
            custom_hooks=[dict(type='PseudoLabelPicturesHook', interval=interval)],
        )
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        runner = Runner.from_cfg(cfg)
        runner.train()
        states = [runner.model.state_dict(), runner.optim_wrapper.state_dict()['state']]
        ends.append((states, torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()))
    assert same(ends[0][0], ends[1][0]) and ends[0][1:] == ends[1][1:]

    folder = Path(runner.log_dir) / 'vis_data'
    # The first of two epochs of 5 batches is burn-in. In the batch after it the weight is still 0.
    files = [folder / 'vis_image' / f'pseudo_labels_{i}.png' for i in (8, 10)]
    assert sorted(tmp_path.rglob('pseudo_labels_*.png')) == sorted(files)
    logged = EventAccumulator(str(folder), size_guidance=dict(images=0)).Reload().Images('pseudo_labels')
    assert [event.step for event in logged] == [8, 10]
    for path, event in zip(files, logged):
        decoded = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(decoded, cv2.imread(str(path)))
