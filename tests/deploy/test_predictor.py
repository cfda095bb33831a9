"""Prediction on pictures."""

import cv2
import mmcv
import numpy as np
import pytest
from mmdet.apis import inference_detector
from mmengine.config import Config
from PIL import Image

from mmyolo_bgpenalty.deploy.predictor import PictureLoader, Predictor, rgb
from tests.helpers.seen_squares import see_squares, write_checkpoint, write_square
from tests.helpers.tiny import CLASSES, SUPERVISED


@pytest.fixture(scope='module')
def cfg(semi):
    return Config.fromfile(semi.config)


def test_the_boxes_are_those_of_the_teacher(semi, cfg, pictures):
    """In batches and one by one, although the test set of the config does not exist."""
    loader = PictureLoader(cfg)
    predictor = Predictor(cfg, str(semi.checkpoint), loader)
    assert predictor.classes == list(CLASSES)
    images = [loader.load(path) for path in pictures]
    semi.model.semi_test_cfg = dict(predict_on='teacher')
    for path, batch, alone in zip(pictures, predictor(images, 0.2), [predictor([image], 0.2)[0] for image in images]):
        expected = inference_detector(semi.model, path).pred_instances.numpy()
        kept = expected.scores >= 0.2
        assert 0 < kept.sum() < len(kept)
        boxes = expected.bboxes[kept]
        for found in (batch, alone):
            np.testing.assert_allclose(found.boxes[:, :2] + found.boxes[:, 2:], boxes[:, 2:], atol=1e-2)
            np.testing.assert_allclose(found.boxes[:, :2], boxes[:, :2], atol=1e-2)
            np.testing.assert_allclose(found.scores, expected.scores[kept], atol=1e-4)
            assert (found.labels == expected.labels[kept]).all()


@pytest.mark.parametrize(
    'size, box',
    [((240, 192), (30, 60, 90, 45)), ((400, 100), (200, 20, 100, 60)), ((90, 300), (10, 150, 60, 100))],
    ids=['larger', 'wide', 'high'],
)
def test_boxes_are_in_pixels_of_the_original_picture(size, box, semi, cfg, tmp_path, monkeypatch):
    """The inputs have 96 x 64 pixels and padding."""
    see_squares(monkeypatch)
    loader = PictureLoader(cfg)
    write_square(tmp_path / 'a.png', size, box, 1)
    write_square(tmp_path / 'small.png', (48, 32), (8, 8, 16, 12), 2)
    images = [loader.load(str(tmp_path / name)) for name in ('a.png', 'small.png')]
    first, second = Predictor(cfg, str(semi.checkpoint), loader)(images, 0.25)
    pixel = max(size[0] / 96, size[1] / 64)  # of the input
    np.testing.assert_allclose(first.boxes, [box], atol=1.01 * pixel)
    np.testing.assert_allclose(second.boxes, [(8, 8, 16, 12)], atol=1)
    assert [first.labels.tolist(), second.labels.tolist()] == [[1], [2]]
    np.testing.assert_allclose(first.scores, [0.9], atol=1e-5)


def test_a_supervised_checkpoint_and_a_threshold(data, tmp_path, monkeypatch):
    config, checkpoint = write_checkpoint(tmp_path, data, SUPERVISED)
    cfg = Config.fromfile(config)
    see_squares(monkeypatch, score=0.3)
    loader = PictureLoader(cfg)
    predictor = Predictor(cfg, str(checkpoint), loader)
    write_square(tmp_path / 'a.png', (96, 64), (8, 16, 24, 16), 0)
    image = loader.load(str(tmp_path / 'a.png'))
    assert [len(predictor([image], score)[0].scores) for score in (0.25, 0.35)] == [1, 0]


# Pictures


def test_a_picture_is_turned_as_the_model_sees_it(cfg, tmp_path):
    write_square(tmp_path / 'a.png', (40, 20), (0, 0, 10, 10), 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / 'a.png').save(tmp_path / 'a.jpg', exif=exif, quality=95)
    image = PictureLoader(cfg).load(str(tmp_path / 'a.jpg'))
    assert image.shape == (40, 20, 3) and image[5, 15, 0] > 200 and image[35, 15, 0] < 60
    assert rgb(image)[5, 15, 2] > 200


def test_a_grey_picture_has_three_channels(cfg, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((8, 8), 70, np.uint8))
    assert (PictureLoader(cfg).load(str(tmp_path / 'a.png')) == np.full((8, 8, 3), 70)).all()
    assert rgb(mmcv.imread(tmp_path / 'a.png', 'grayscale')).shape == (8, 8)


def test_the_fault_of_an_unreadable_picture_is_named(cfg, tmp_path):
    cv2.imwrite(str(tmp_path / 'whole.jpg'), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'whole.jpg').read_bytes()[:-20])
    (tmp_path / 'text.png').write_text('no picture')
    loader = PictureLoader(cfg)
    for name, fault in (('cut.jpg', 'truncated JPEG'), ('text.png', '^[^\n]+$'), ('none.png', 'No such file')):
        with pytest.raises(ValueError, match=fault):
            loader.load(str(tmp_path / name))


# Mistakes


def test_a_config_without_a_usable_pipeline_is_refused(semi):
    cfg = Config.fromfile(semi.config)
    cfg.test_dataloader.dataset.pipeline.pop(0)
    with pytest.raises(ValueError, match='semi.py: expected the pipeline .* LoadImageFromFile, but got RecordedLetter'):
        PictureLoader(cfg)
    cfg.pop('test_dataloader')
    with pytest.raises(ValueError, match='semi.py: expected `test_dataloader` in the config'):
        PictureLoader(cfg)


def test_a_checkpoint_that_does_not_fit_is_refused(data, semi, cfg, tmp_path):
    loader = PictureLoader(cfg)
    _, other = write_checkpoint(tmp_path, data, SUPERVISED, meta=dict(dataset_meta=dict(classes=('a', 'b', 'c'))))
    with pytest.raises(ValueError, match=r"epoch_1.pth: expected the classes .*, but got \('a', 'b', 'c'\)"):
        Predictor(cfg, str(other), loader)
    (tmp_path / 'text.pth').write_text('no checkpoint')
    with pytest.raises(ValueError, match='text.pth: '):
        Predictor(cfg, str(tmp_path / 'text.pth'), loader)


def test_the_names_of_the_classes_must_be_known(data, tmp_path):
    config, checkpoint = write_checkpoint(tmp_path, data, meta={})
    cfg = Config.fromfile(config)
    assert Predictor(cfg, str(checkpoint), PictureLoader(cfg)).classes == list(CLASSES)
    for kind, number in (('CheckedCocoDataset', 80), ('mmdet.BaseDetDataset', 0)):
        cfg.test_dataloader.dataset.type, cfg.test_dataloader.dataset.metainfo = kind, {}
        with pytest.raises(ValueError, match=f'epoch_1.pth: expected the names of 3 classes .*, but got {number}'):
            Predictor(cfg, str(checkpoint), PictureLoader(cfg))
