"""What the pictures show, and that training does not notice them."""

import logging
import random
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from mmdet.structures import DetDataSample
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmengine.visualization import LocalVisBackend, Visualizer
from mmyolo.registry import MODELS
from torch import nn

from mmyolo_bgpenalty import SemiYOLODetector
from mmyolo_bgpenalty.engine.hooks import pictures
from mmyolo_bgpenalty.engine.hooks.pictures import (
    BACKGROUND,
    HEADER,
    LABEL,
    MARGIN,
    PANEL,
    TITLE,
    PseudoLabelPicturesHook,
    View,
    draw_pseudo_labels,
)
from mmyolo_bgpenalty.models.semi_detector import UnlabeledBatch
from tests.helpers.states import same
from tests.helpers.tiny import SEMI, load, make_set


@pytest.mark.parametrize(
    'normalised',
    [dict(), dict(mean=[0.0] * 3, std=[255.0] * 3), dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4])],
)
@pytest.mark.parametrize('bgr_to_rgb', [True, False])
@pytest.mark.parametrize('semi', [True, False])
def test_a_view_is_the_picture_it_was_made_of(normalised, bgr_to_rgb, semi):
    bgr = np.random.randint(0, 256, (32, 32, 3), dtype=np.uint8)
    inner = dict(type='mmdet.DetDataPreprocessor', bgr_to_rgb=bgr_to_rgb, pad_size_divisor=32, **normalised)
    sample = DetDataSample(metainfo=dict(img_shape=(32, 32)))
    inputs = torch.from_numpy(bgr).permute(2, 0, 1)
    preprocessor = MODELS.build(dict(type='SemiDataPreprocessor', data_preprocessor=inner) if semi else inner)
    if semi:
        data = dict(inputs=dict(sup=[inputs]), data_samples=dict(sup=[sample]))
        view = preprocessor(data, training=True)['inputs']['sup'][0]
    else:
        view = preprocessor(dict(inputs=[inputs], data_samples=[sample]), training=True)['inputs'][0]
    np.testing.assert_array_equal(pictures._pixels(view, preprocessor), bgr[..., ::-1])


def test_a_grey_view_is_a_grey_picture():
    grey = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    preprocessor = MODELS.build(dict(type='mmdet.DetDataPreprocessor', mean=[10.0], std=[2.0]))
    pixels = pictures._pixels((grey.float() - 10) / 2, preprocessor)
    np.testing.assert_array_equal(pixels, np.repeat(grey[0].numpy()[..., None], 3, axis=2))


@pytest.mark.parametrize('shift', [(0, 0), (9.25, -3.5)])
def test_ignored_is_what_lies_off_the_picture_or_in_an_ignored_box(shift):
    height, width, ori_shape = 24, 40, (20, 30)
    angle = 0.3
    matrix = np.array(
        [[np.cos(angle), -np.sin(angle), shift[0]], [np.sin(angle), np.cos(angle), shift[1]], [0, 0, 1]],
        dtype=np.float32,
    )
    ignored_box = (20.0, 4.0, 26.0, 9.0)
    sample = DetDataSample(metainfo=dict(homography_matrix=matrix, ori_shape=ori_shape, img_shape=(height, width)))
    sample.ignored_instances = InstanceData(bboxes=torch.tensor([ignored_box]))
    got = pictures._ignored(torch.zeros(3, height, width), sample)
    inverse = np.linalg.inv(matrix.astype(np.float64))
    for row in range(height):
        for column in range(width):
            x, y, w = inverse @ [column + 0.5, row + 0.5, 1]
            off = not (0 <= x / w <= ori_shape[1] and 0 <= y / w <= ori_shape[0])
            x1, y1, x2, y2 = ignored_box
            inside = x1 <= column + 0.5 <= x2 and y1 <= row + 0.5 <= y2
            assert got[row, column] == (off or inside), (row, column)


def is_colour(pixels, colour):
    return (np.abs(pixels.astype(int) - np.round(np.array(to_rgb(colour)) * 255)) <= 40).all(axis=-1)


def panel(sheet, column, height, top=TITLE + HEADER):
    left = MARGIN + column * (PANEL + MARGIN)
    return sheet[top : top + height, left : left + PANEL]


@pytest.mark.parametrize('width, height', [(320, 256), (640, 640), (200, 300), (1280, 720)])
def test_boxes_and_ignored_regions_are_where_they_belong(width, height):
    rng = np.random.default_rng(0)
    plain = np.full((height, width, 3), 120, dtype=np.uint8)
    plain[..., 0] = rng.integers(100, 140, (height, width))
    label = np.array([[0.2 * width, 0.3 * height, 0.5 * width, 0.6 * height]])
    background = np.array([[0.6 * width, 0.2 * height, 0.8 * width, 0.7 * height]])
    ignored = np.zeros((height, width), dtype=bool)
    ignored[int(0.8 * height) :] = True
    weak = View(plain, label, ['crack 0.93'])
    strong = View(plain, label, ['crack 0.93'], ignored, background, ['0.41'])
    sheet = draw_pseudo_labels([dict(name='a.png', weak=weak, strong=strong)], 'title')
    shown = round(PANEL * height / width)
    assert sheet.dtype == np.uint8 and sheet.shape == (TITLE + HEADER + MARGIN + shown, 2 * PANEL + 3 * MARGIN, 3)
    for column, view in enumerate((weak, strong)):
        pixels = panel(sheet, column, shown)
        for boxes, colour in ((view.boxes, LABEL), (view.background, BACKGROUND)):
            found = is_colour(pixels, colour)
            assert found.any() == (len(boxes) > 0)
            for x1, y1, x2, y2 in boxes * PANEL / width:
                # Along each edge; a dashed one is there in part. Nothing of the colour within or far from the box.
                edges = found[round(y1) : round(y2), :], found[:, round(x1) : round(x2)]
                for edge, at, axis in ((edges[0], x1, 1), (edges[0], x2, 1), (edges[1], y1, 0), (edges[1], y2, 0)):
                    near = np.take(edge, range(round(at) - 2, round(at) + 3), axis=axis).any(axis=axis)
                    assert near.mean() > (0.95 if colour == LABEL else 0.4)
                    assert colour == LABEL or near.mean() < 0.9
                inner = found[round(y1) + 20 : round(y2) - 20, round(x1) + 5 : round(x2) - 5]
                assert not inner.any()
                # A label's text is above its box, a confidence's below.
                start, end = (y1 - 14, y1 - 3) if colour == LABEL else (y2 + 3, y2 + 14)
                assert found[round(start) : round(end), round(x1) : round(x1) + 20].mean() > 0.4
                outer = found.copy()
                outer[round(y1) - 25 : round(y2) + 25, round(x1) - 5 : round(x2) + 100] = False
                assert not outer.any()
        dark = pixels[round(0.9 * shown), :, 1].astype(int)
        if view.ignored is None:
            assert (dark > 110).all()
        else:
            assert (dark < 70).all() and len(np.unique(dark)) > 1  # striped
            assert (pixels[round(0.75 * shown), :, 1] > 110).all()


def test_a_sheet_has_a_row_an_image_and_takes_none_any_text_and_another_shape():
    small = View(np.zeros((64, 96, 3), dtype=np.uint8))
    tall = View(
        np.zeros((96, 64, 3), dtype=np.uint8),
        np.array([[-9.0, -9, 200, 200]]),
        ['λ $x_{$ 0.5'],
        np.ones((96, 64), dtype=bool),
    )
    sheet = draw_pseudo_labels(
        [dict(name='$a_{$.png', weak=small, strong=tall), dict(name='b', weak=small, strong=small)], ''
    )
    heights = [round(PANEL * 96 / 64), round(PANEL * 64 / 96)]
    assert sheet.shape[0] == TITLE + sum(heights) + 2 * (HEADER + MARGIN)
    # Nothing in the margins between the rows' pictures but the background and the names.
    assert (sheet[TITLE + HEADER + heights[0] + 1 : TITLE + HEADER + heights[0] + MARGIN - 1] == 255).all()


class Head(nn.Module):
    lambda_bg = 0.25

    def background_predictions(self, image, number):
        """Of a taken box three times the same, at 0.9, 0.8 and 0.7, one far off at 0.3, and one at 0.01."""
        boxes = torch.tensor([[0.0, 0, 10, 10]] * 3 + [[20.0, 20, 30, 30], [40, 40, 50, 50]]) + image
        return dict(scores=torch.tensor([0.9, 0.8, 0.7, 0.3, 0.01])[:number], bboxes=boxes[:number])


def fake_model(images=3):
    model = SemiYOLODetector.__new__(SemiYOLODetector)
    nn.Module.__init__(model)
    model.student = nn.Sequential()
    model.student.bbox_head = Head()
    model.weight = nn.Parameter(torch.zeros(1))
    inner = dict(type='mmdet.DetDataPreprocessor', bgr_to_rgb=True, mean=[0.0] * 3, std=[255.0] * 3)
    model.data_preprocessor = MODELS.build(dict(type='SemiDataPreprocessor', data_preprocessor=inner))
    model.keep_latest, model.latest = False, None
    views = (torch.rand(images, 3, 64, 64), samples(images)), (torch.rand(images, 3, 64, 64), samples(images))
    model.made = UnlabeledBatch(*views[0], *views[1])
    return model


def samples(number):
    made = []
    for i in range(number):
        meta = dict(img_path=f'/set/{i}.png', ori_shape=(64, 64), img_shape=(64, 64), homography_matrix=np.eye(3))
        instances = InstanceData(bboxes=torch.full((i, 4), 5.0), labels=torch.arange(i), scores=torch.full((i,), 0.75))
        made.append(DetDataSample(metainfo=meta, gt_instances=instances))
    return made


class Loader:
    dataset = SimpleNamespace(metainfo=dict(classes=('a',)))

    def __len__(self):
        return 10


def fake_runner(tmp_path, model):
    logger = logging.Logger('run')
    logger.records = []
    logger.warning = logger.records.append
    visualizer = Visualizer(vis_backends=[dict(type='LocalVisBackend')], save_dir=str(tmp_path))
    return SimpleNamespace(
        model=model,
        iter=0,
        epoch=7,
        log_dir=str(tmp_path),
        logger=logger,
        visualizer=visualizer,
        train_dataloader=Loader(),
    )


def step(hook, runner, in_burn_in=False):
    """An iteration: the model keeps its views if it was told to."""
    model = getattr(runner.model, 'module', runner.model)
    hook.before_train_iter(runner, runner.iter)
    if isinstance(model, SemiYOLODetector):
        # Views are kept in the iterations that draw them, and in no others.
        assert not model.keep_latest or (runner.iter + 1) % hook.interval == 0
        model.latest = model.made if model.keep_latest and not in_burn_in else None
    hook.after_train_iter(runner, runner.iter, outputs={})
    runner.iter += 1


def run(hook, tmp_path, model, steps=6, **kwargs):
    runner = fake_runner(tmp_path, model)
    for _ in range(steps):
        step(hook, runner, **kwargs)
    return runner, sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*.*'))


def random_states():
    return (
        torch.get_rng_state().tolist(),
        [np.array(part).tolist() for part in np.random.get_state()],
        random.getstate(),
    )


FIRST, SECOND = (f'vis_data/vis_image/pseudo_labels_{i}.png' for i in (2, 4))


def test_one_file_every_interval_also_where_the_local_backend_has_its_own(tmp_path):
    model = fake_model()
    before = random_states()
    runner, files = run(PseudoLabelPicturesHook(interval=2, max_images=2), tmp_path, model, steps=5)
    assert files == [FIRST, SECOND] and random_states() == before
    assert model.latest is None and model.keep_latest is False and runner.logger.records == []
    assert isinstance(runner.visualizer._vis_backends['LocalVisBackend'], LocalVisBackend)
    assert cv2.imread(str(tmp_path / FIRST)).shape[0] == TITLE + 2 * (HEADER + MARGIN + PANEL)


def test_the_file_has_the_colours_of_the_sheet(tmp_path, monkeypatch):
    sheet = np.random.randint(0, 256, (8, 9, 3), dtype=np.uint8)
    monkeypatch.setattr(pictures, 'draw_pseudo_labels', lambda *args: sheet)
    monkeypatch.setattr(Visualizer, 'add_image', lambda *args: None)
    run(PseudoLabelPicturesHook(interval=2), tmp_path, fake_model(), steps=2)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / FIRST))[..., ::-1], sheet)


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of the drawings, which are not made."""
    calls = []
    nothing = np.zeros((1, 1, 3), np.uint8)
    monkeypatch.setattr(pictures, 'draw_pseudo_labels', lambda *args: calls.append(args) or nothing)
    return calls


def test_what_is_drawn(tmp_path, drawn):
    model = fake_model()
    run(PseudoLabelPicturesHook(interval=2), tmp_path, model, steps=2)
    ((rows, title),) = drawn
    assert title == 'Iteration 2, epoch 7, λ_bg = 0.250, 1.0 pseudo-boxes per image'
    assert [row['name'] for row in rows] == ['0.png', '1.png', '2.png']
    for i, row in enumerate(rows):
        for name in ('weak', 'strong'):
            view = row[name]
            expected = (getattr(model.made, name)[i] * 255).round().byte().permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(view.image, expected)
            assert list(view.texts) == ['a 0.75', '1 0.75'][:i]
            assert view.boxes.tolist() == [[5.0] * 4] * i
        assert row['weak'].ignored is None and len(row['weak'].background) == 0
        assert not row['strong'].ignored.any()
        # The best of those that overlap, and none below score_thr.
        assert row['strong'].background.tolist() == [[i, i, 10 + i, 10 + i], [20 + i, 20 + i, 30 + i, 30 + i]]
        assert row['strong'].background_texts == ['0.90', '0.30']


@pytest.mark.parametrize(
    'arguments, expected',
    [
        (dict(background=1), ['0.90']),
        (dict(background=0), []),
        (dict(score_thr=0.5), ['0.90']),
        (dict(score_thr=0.0), ['0.90', '0.30', '0.01']),
        (dict(score_thr=1.0), []),
    ],
)
def test_background_predictions_are_chosen(tmp_path, drawn, arguments, expected):
    run(PseudoLabelPicturesHook(interval=2, max_images=1, **arguments), tmp_path, fake_model(), steps=2)
    ((row,), _) = drawn[0]
    assert list(row['strong'].background_texts) == expected


def test_nothing_is_drawn_in_burn_in_without_a_teacher_or_in_another_process(tmp_path, monkeypatch):
    model = fake_model()
    assert run(PseudoLabelPicturesHook(interval=-1), tmp_path, model, steps=4)[1] == [] and not model.keep_latest
    hook = PseudoLabelPicturesHook(interval=2)
    runner, files = run(hook, tmp_path, model, in_burn_in=True)
    assert files == [] and runner.logger.records == [] and model.keep_latest is False
    plain = nn.Linear(1, 1)
    runner, files = run(hook, tmp_path, plain)
    assert files == [] and runner.logger.records == [] and not hasattr(plain, 'keep_latest')
    monkeypatch.setattr(pictures, 'is_main_process', lambda: False)
    assert run(hook, tmp_path, model)[1] == [] and model.keep_latest is False


def test_a_wrapped_model_is_reached(tmp_path, monkeypatch):
    wrapped = SimpleNamespace(module=fake_model())
    monkeypatch.setattr('mmyolo_bgpenalty.utils.distributed.is_model_wrapper', lambda model: model is wrapped)
    assert run(PseudoLabelPicturesHook(interval=2, max_images=1), tmp_path, wrapped, steps=2)[1] == [FIRST]


@pytest.mark.parametrize('where', ['draw_pseudo_labels', 'write_whole', 'add_image'])
def test_a_failure_is_a_warning_and_training_goes_on(tmp_path, monkeypatch, where):
    def fail(*args):
        raise OSError('no space left on device')

    monkeypatch.setattr(*((Visualizer, where) if where == 'add_image' else (pictures, where)), fail)
    model = fake_model()
    runner, files = run(PseudoLabelPicturesHook(interval=2, max_images=1), tmp_path, model, steps=4)
    assert model.latest is None and model.keep_latest is False
    # MMEngine's logger shows a warning once.
    assert set(runner.logger.records) == {'PseudoLabelPicturesHook could not draw: OSError: no space left on device'}
    assert files == ([FIRST, SECOND] if where == 'add_image' else [])


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(interval=0), '`interval` to be a whole number >= 1, but got 0'),
        (dict(interval=1.5), '`interval` to be a whole number >= 1, but got 1.5'),
        (dict(max_images=True), '`max_images` to be a whole number >= 1, but got True'),
        (dict(background=-1), '`background` to be a whole number >= 0, but got -1'),
        (dict(score_thr=1.5), r'`score_thr` to be in \[0, 1\], but got 1.5'),
        (dict(score_thr=-0.5), '`score_thr` to be a finite number >= 0, but got -0.5'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match='Expected ' + message):
        PseudoLabelPicturesHook(**arguments)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    data = make_set(tmp_path_factory.mktemp('set'))
    made = {}
    for name, hooks in (('with', [dict(type='PseudoLabelPicturesHook', interval=2)]), ('without', [])):
        cfg = load(
            SEMI,
            data,
            tmp_path_factory.mktemp(name),
            burn_in=1,
            experiment_name=f'pictures_{name}',
            train_cfg__max_epochs=2,
            default_hooks__checkpoint=None,
            visualizer__vis_backends=[dict(type='TensorboardVisBackend')],
            model__semi_train_cfg__pseudo_test_cfg__score_thr=0.0,
            model__semi_train_cfg__pseudo_test_cfg__max_per_img=3,
            custom_hooks=hooks,
        )
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        runner = Runner.from_cfg(cfg)
        runner.train()
        made[name] = runner, [runner.model.state_dict(), runner.optim_wrapper.state_dict()['state']], random_states()
    return made


def test_a_run_with_pictures_equals_one_without_bit_for_bit(runs):
    (_, state, drawn), (_, state_2, drawn_2) = runs['with'], runs['without']
    assert len(state[0]) > 100 and same(state, state_2) and drawn == drawn_2


def test_a_real_run_leaves_its_pictures_in_the_work_dir_and_in_tensorboard(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runner = runs['with'][0]
    folder = Path(runner.log_dir) / 'vis_data'
    # 2 epochs of 5 batches, of which the first is burn-in; at the first batch after it the weight is still 0.
    files = [folder / 'vis_image' / f'pseudo_labels_{i}.png' for i in (8, 10)]
    assert sorted((folder / 'vis_image').iterdir()) == sorted(files)
    events = EventAccumulator(str(folder), size_guidance=dict(images=0)).Reload()
    logged = events.Images('pseudo_labels')
    assert [event.step for event in logged] == [8, 10]
    for path, event in zip(files, logged):
        decoded = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(decoded, cv2.imread(str(path)))
    assert runner.model.latest is None and runner.model.keep_latest is False
    assert not list(Path(runs['without'][0].log_dir).rglob('*.png'))
