"""What the pictures show, and that drawing does not change the training."""

import random
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS
from torch import nn

from mmyolo_bgpenalty import SemiYOLODetector
from mmyolo_bgpenalty.engine.hooks import pictures
from mmyolo_bgpenalty.engine.hooks.pictures import PseudoLabelPicturesHook
from mmyolo_bgpenalty.engine.pseudo_label_sheet import draw_sheet
from mmyolo_bgpenalty.models.semi_detector import UnlabeledBatch
from mmyolo_bgpenalty.models.semi_options import SemiTrainOptions
from tests.helpers.semi import DENSE, build
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


def test_padding_is_where_no_pixel_of_the_image_is():
    """Ignored boxes are not padding."""
    height, width, (image_height, image_width) = 24, 40, (20, 30)
    matrix = np.array([[0.96, -0.3, 9.25], [0.3, 0.96, -3.5], [0, 0, 1]])
    sample = DetDataSample(metainfo=dict(homography_matrix=matrix, ori_shape=(image_height, image_width)))
    sample.ignored_instances = InstanceData(bboxes=torch.tensor([[20.0, 4, 26, 9]]))
    y, x = np.mgrid[:height, :width] + 0.5
    u, v, _ = np.einsum('ij,jhw->ihw', np.linalg.inv(matrix), np.stack([x, y, np.ones_like(x)]))
    padding = (u < 0) | (u > image_width) | (v < 0) | (v > image_height)
    np.testing.assert_array_equal(pictures._padding(sample, (height, width)), padding)


class Head(nn.Module):
    lambda_bg = 0.25

    def background_predictions(self, image, number):
        """Return one box three times, with scores 0.9, 0.8 and 0.7, and two other boxes, with 0.3 and 0.01."""
        boxes = torch.tensor([[0.0, 0, 10, 10]] * 3 + [[20.0, 20, 30, 30], [40, 40, 50, 50]]) + image
        return dict(scores=torch.tensor([0.9, 0.8, 0.7, 0.3, 0.01])[:number], bboxes=boxes[:number])


def samples(number, shift=0.0):
    """Sample i has i pseudo-boxes and, after the first, unsure boxes. The last shows no object."""
    made, matrix = [], np.array([[1.0, 0, shift], [0, 1, 0], [0, 0, 1]])
    for i in range(number):
        meta = dict(img_path=f'/set/{i}.png', ori_shape=(64, 64), img_shape=(64, 64), homography_matrix=matrix)
        found = InstanceData(bboxes=torch.full((i, 4), 5.0), labels=torch.arange(i), scores=torch.full((i,), 0.75))
        found.bboxes[:, 2:] = 25
        found.bboxes[:, ::2] += shift
        scores = torch.arange(25 * min(i, 1)) / 100
        unsure = InstanceData(bboxes=torch.full((len(scores), 4), 9.0), labels=torch.zeros_like(scores), scores=scores)
        unsure.bboxes[:24, 2:] = 19  # the last, with the highest score, lies outside the view
        made.append(DetDataSample(metainfo=meta, gt_instances=found, ignored_instances=unsure))
    made[-1].set_metainfo(dict(known_empty=True))
    return made


class Unlabeled(list):
    """True boxes of each image: (x1, y1, x2, y2, class, ignored)."""

    metainfo = dict(classes=('a', 'b'))

    def get_data_info(self, i):
        keys = ('bbox', 'bbox_label', 'ignore_flag')
        return dict(img_path=f'/set/{i}.png', instances=[dict(zip(keys, (box[:4], *box[4:]))) for box in self[i]])


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """A runner with a wrapped detector, which has kept the views of three images. The third shows no object."""
    monkeypatch.setattr('mmyolo_bgpenalty.utils.distributed.is_model_wrapper', lambda model: hasattr(model, 'module'))
    latest = UnlabeledBatch(torch.rand(3, 3, 64, 64), samples(3), torch.rand(3, 3, 64, 64), samples(3, shift=20))
    inner = dict(type='mmdet.DetDataPreprocessor', bgr_to_rgb=True, mean=[0.0] * 3, std=[255.0] * 3)
    model = Mock(spec=SemiYOLODetector, latest=latest, student=SimpleNamespace(bbox_head=Head()))
    model.configure_mock(semi_train_cfg=SemiTrainOptions(), class_thresholds=None)
    model.data_preprocessor = MODELS.build(dict(type='SemiDataPreprocessor', data_preprocessor=inner))
    parts = [Unlabeled([[]]), Unlabeled([[]] * 3)]
    loader = Mock(__len__=lambda self: 10, dataset=SimpleNamespace(metainfo=Unlabeled.metainfo, datasets=parts))
    model = SimpleNamespace(module=model)
    visualizer = Mock(_vis_backends={})
    progress = dict(iter=71, max_iters=195, epoch=7)
    return Mock(model=model, log_dir=str(tmp_path), train_dataloader=loader, visualizer=visualizer, **progress)


def drawn(runner, monkeypatch, **options):
    """The arguments of ``draw_sheet``."""
    drawing = Mock(side_effect=draw_sheet)
    monkeypatch.setattr(pictures, 'draw_sheet', drawing)
    PseudoLabelPicturesHook(**options).after_train_iter(runner, 1)
    assert not runner.logger.warning.called
    return drawing.call_args.args


def test_what_is_drawn(runner, monkeypatch):
    latest = runner.model.module.latest
    rows, title, legend = drawn(runner, monkeypatch, max_images=2)
    # 0 and 1 pseudo-boxes. The third image, which is not drawn, is known to show no object.
    state = '0.5 pseudo-boxes an image, threshold 0.40, λ_bg 0.250'
    assert title == ('Iteration 72 of 195, epoch 8 of 20 (semi)', state)
    assert legend == pictures.legend_of(runner.model.module)
    for i, (weak, strong) in enumerate(rows):
        assert weak.title == f'{i}.png: weak view, the teacher labels it'
        assert strong.title == 'Strong view: the student learns it' + (', + 4 more unsure boxes' if i else '')
        for view, inputs, shift in ((weak, latest.weak, 0), (strong, latest.strong, 20)):
            np.testing.assert_array_equal(view.image, (inputs[i] * 255).round().byte().permute(1, 2, 0).numpy())
            (box,) = view.boxes['label'] or [None]
            assert (box is None) if i == 0 else box.texts == ['a 0.75', '0.75']
            assert i == 0 or list(box.corners) == [5 + shift, 5, 25 + shift, 25]
        assert not weak.padding.any() and 'background' not in weak.boxes and 'unsure' not in weak.boxes
        np.testing.assert_array_equal(strong.padding, np.arange(64) < np.full((64, 1), 20))
        # Of overlapping boxes only the best is drawn. Boxes with scores below 0.05 are not drawn.
        corners, texts = [[0, 0, 10, 10], [20, 20, 30, 30]], [['0.90'], ['0.30']]
        assert strong.boxes['background'] == [([x + i for x in box], text) for box, text in zip(corners, texts)]
        # The unsure boxes with the highest scores
        unsure = [text for _, (text,) in strong.boxes.get('unsure', ())]
        assert unsure == [f'{score / 100:.2f}' for score in range(23, 3, -1)][: 20 * i]
    assert runner.model.module.latest is None


def test_true_boxes_are_drawn_and_wrong_pseudo_labels_marked(runner, monkeypatch):
    """Both pseudo-boxes of the last image are at (5, 5, 25, 25), one of each class."""
    batch = runner.model.module.latest
    for sample in (batch.weak_samples[2], batch.strong_samples[2]):
        sample.set_metainfo(dict(known_empty=False))
    unlabeled = runner.train_dataloader.dataset.datasets[1]
    unlabeled[2] = [(6, 5, 25, 25, 1, 0), (30, 30, 40, 40, 0, 0), (50, 5, 63, 9, 0, 1), (70, 0, 90, 9, 0, 0)]
    rows, *_ = drawn(runner, monkeypatch)
    for view, shift in zip(rows[2], (0, 20)):
        assert [box.texts[0] for box in view.boxes['label']] == ['b 0.75']
        assert [box.texts[0] for box in view.boxes['wrong']] == ['✗ a 0.75']
        # A box that is found has no text. Crowds and boxes outside the view are not drawn.
        found, missed = view.boxes['truth']
        assert (found.corners, found.texts) == ([6 + shift, 5, 25 + shift, 25], [])
        assert (missed.corners, missed.texts) == ([30 + shift, 30, 40 + shift, 40], ['a'])
    assert [len(view.boxes['wrong']) for view in rows[1]] == [1, 1] and rows[1][0].boxes['truth'] == []


@pytest.mark.parametrize('reason', ['no boxes', 'other classes', 'no annotations', 'mosaic', 'other path'])
def test_without_truth_no_pseudo_label_is_wrong(runner, monkeypatch, reason):
    dataset, batch = runner.train_dataloader.dataset, runner.model.module.latest
    dataset.datasets[1][1] = [] if reason == 'no boxes' else [(30, 30, 40, 40, 0, 0)]
    if reason == 'other classes':
        dataset.datasets[1].metainfo = dict(classes=('x',))
    if reason == 'no annotations':
        dataset.datasets[1] = [1, 2, 3]
    meta = dict(mosaic=dict(mosaic_tiles=[[0, 0, 64, 64]]), **{'other path': dict(img_path='/b.png')}).get(reason, {})
    for sample in (batch.weak_samples[1], batch.strong_samples[1]):
        sample.set_metainfo(meta)
    rows, *_ = drawn(runner, monkeypatch)
    for view in rows[1]:
        assert len(view.boxes['label']) == 1 and not view.boxes['wrong'] and 'truth' not in view.boxes


def test_images_without_objects_are_named(runner, monkeypatch):
    """An image that is known to show no object does not count in the number of pseudo-boxes."""
    batch = runner.model.module.latest
    for samples_ in (batch.weak_samples, batch.strong_samples):
        for name in ('gt_instances', 'ignored_instances'):
            setattr(samples_[2], name, samples_[2].get(name)[:0])
    rows, (_, state), _ = drawn(runner, monkeypatch)
    assert [view.title for view in rows[2]] == [
        '2.png: known to show no object',
        'Strong view: everything is background',
    ]
    assert state.startswith('0.5 pseudo-boxes an image')


def test_a_batch_without_pseudo_boxes_has_no_loss(runner, monkeypatch):
    batch = runner.model.module.latest
    del batch.weak_samples[1:], batch.strong_samples[1:]
    batch = batch._replace(weak=batch.weak[:1], strong=batch.strong[:1])
    runner.model.module.latest = batch
    _, (_, state), _ = drawn(runner, monkeypatch)
    assert state.startswith('no pseudo-box in this batch, so its unlabeled images have no loss, threshold')


@pytest.mark.parametrize('last', [False, True])
def test_most_images_of_a_sheet_are_not_known_to_be_empty(runner, monkeypatch, last):
    """All but every fourth batch have only images that are known to be empty."""
    monkeypatch.setattr(pictures, 'draw_sheet', drawing := Mock(side_effect=draw_sheet))
    hook, model, latest = PseudoLabelPicturesHook(interval=72), runner.model.module, runner.model.module.latest
    for runner.iter in range(71, 100):
        hook.before_train_iter(runner, 0)
        if not model.keep_latest:
            break
        others = runner.iter % 4 == 2
        parts = [[part[0 if others and i < 2 else 2] for i in range(3)] for part in (latest[1], latest[3])]
        model.latest = latest._replace(weak_samples=parts[0], strong_samples=parts[1])
        runner.max_iters = 73 if last else 195
        hook.after_train_iter(runner, 0)
        if runner.iter == 71 or (runner.iter == 72 and not last):
            assert not drawing.called
        if last and runner.iter == 72:
            break
    rows = drawing.call_args.args[0]
    empty = ['known to show no object' in weak.title for weak, _ in rows]
    assert drawing.call_count == 1 and not runner.logger.warning.called
    assert (empty, runner.iter) == (([True] * 3, 72) if last else ([False, False, True], 75))


def test_thresholds_are_named_if_there_is_room(runner, monkeypatch):
    runner.model.module.class_thresholds = SimpleNamespace(current=torch.tensor([0.61, 0.123]))
    latest = runner.model.module.latest
    assert ', thresholds: a 0.61, b 0.12, ' in drawn(runner, monkeypatch)[1][1]
    runner.model.module.latest = latest
    runner.train_dataloader.dataset.metainfo = dict(classes=('a' * 50, 'b' * 50))
    assert ', thresholds: 0.12 to 0.61, ' in drawn(runner, monkeypatch)[1][1]


RECIPE = 'yolov8_semi_bgpenalty.py'


@pytest.mark.parametrize(
    'config, options, head, background, unsure',
    [
        (RECIPE, {}, {}, 'no penalty on unlabeled images', "learns the teacher's score, not the place"),
        (RECIPE, dict(soft_unsure=False), {}, 'no penalty on unlabeled images', 'ignored'),
        (SEMI, dict(unsure_thr=0.1), {}, 'the penalty lowers it', 'learned as background, without penalty'),
        (SEMI, dict(unsure_thr=0.1, unsup_weight=0.0), {}, 'no penalty on unlabeled images', 'learned as background'),
        (SEMI, {}, dict(bg_penalty=dict(lambda_bg=0.0)), 'no penalty while λ_bg is 0', ''),
        (SEMI, {}, dict(type='YOLOv8Head'), 'no penalty', ''),
        (DENSE, {}, {}, 'no penalty on unlabeled images', ''),
    ],
)
def test_the_legend_says_what_the_model_does(config, options, head, background, unsure):
    legend = pictures.legend_of(build(head, config, **options))
    assert f'({background}' in legend['background'] and unsure in legend['unsure']
    assert ('no penalty' in legend['padding']) == (background == 'the penalty lowers it')
    assert ('only shown' in legend['label']) == (config == DENSE)


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


@pytest.mark.parametrize('where', ['draw_sheet', 'write_whole', 'add_image'])
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
