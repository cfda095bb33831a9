"""LoadReducedImage: boxes, homography and pixels are those of the whole image, only smaller."""

import json
import random
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmyolo.registry import TRANSFORMS
from PIL import Image

from mmyolo_bgpenalty import config
from mmyolo_bgpenalty.datasets.coco import CheckedCocoDataset
from mmyolo_bgpenalty.datasets.reduced_images import LoadReducedImage, reduction
from tests.helpers.pictures import Pictures, build, on_picture

BOX = [333, 200, 700, 410]
COLOUR = [40, 90, 230]


def jpeg(path, width=1280, height=960, orientation=None):
    """A smooth JPEG with one rectangle at BOX."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([40 + 60 * x / width, 40 + 60 * y / height, 40 + 0 * x], axis=-1).round().astype(np.uint8)
    image[BOX[1] : BOX[3], BOX[0] : BOX[2]] = COLOUR
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(image[..., ::-1].copy()).save(path, quality=95, exif=exif)
    return dict(img_path=str(path), img_id=0, instances=[dict(bbox=BOX, bbox_label=0, ignore_flag=0)])


def loaders(scale=(320, 256)):
    boxes = TRANSFORMS.build(dict(type='mmdet.LoadAnnotations', with_bbox=True))
    first = dict(type='LoadReducedImage', scale=scale), dict(type='LoadImageFromFile')
    return [Compose([TRANSFORMS.build(load), boxes]) for load in first]


@given(width=st.integers(1, 9000), height=st.integers(1, 9000), scale=st.tuples(*[st.integers(32, 1280)] * 2))
def test_the_image_stays_as_large_as_the_input(width, height, scale):
    factor = reduction(height, width, scale)
    fits = [
        k for k in (1, 2, 4, 8) if k == 1 or width / k >= scale[0] or height / k >= scale[1]
    ]  # so that a resize that keeps the ratio does not enlarge it
    assert factor == max(fits)


@pytest.mark.parametrize('scale, factor', [((640, 640), 2), ((320, 256), 4), ((160, 160), 8), ((1280, 1280), 1)])
def test_pixels_and_boxes_are_those_of_the_whole_image(tmp_path, scale, factor):
    info = jpeg(tmp_path / 'a.jpg')
    small, whole = (load(dict(info)) for load in loaders(scale))
    assert small['img'].shape == (960 // factor, 1280 // factor, 3) and small['img_shape'] == small['img'].shape[:2]
    assert small['ori_shape'] == whole['ori_shape'] == (960, 1280)
    exact = cv2.resize(whole['img'], None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    # apart from the edges of the rectangle, where ringing and the coarser colours of JPEG differ
    away = np.abs(small['img'].astype(int) - exact).max(-1) > 6
    assert away.mean() < 0.02
    np.testing.assert_allclose(small['gt_bboxes'].tensor, whole['gt_bboxes'].tensor / factor)
    assert info['instances'][0]['bbox'] == BOX  # the annotations of the data set stay as they are


def with_whole_images(steps):
    """A pipeline in which LoadImageFromFile replaces LoadReducedImage, also inside other transforms."""
    if isinstance(steps, dict):
        if steps.get('type') == 'LoadReducedImage':
            return dict(type='LoadImageFromFile')
        return {key: with_whole_images(value) for key, value in steps.items()}
    return type(steps)(map(with_whole_images, steps)) if isinstance(steps, (list, tuple)) else steps


@pytest.mark.parametrize('mosaics', [True, False])
@pytest.mark.parametrize('seed', range(4))
def test_a_shipped_pipeline_gives_the_same_boxes_and_regions(tmp_path, mosaics, seed):
    init_default_scope('mmyolo')
    cfg = Config.fromfile(
        config('yolov8_bgpenalty_own.py', img_scale=(320, 256), reduce_jpegs=True)
    ).train_dataloader.dataset.pipeline
    cfg[2].prob = [float(mosaics), float(not mosaics)]  # after the two loaders
    infos = Pictures(jpeg(tmp_path / f'{i}.jpg', 1280 - 96 * i, 960) for i in range(5))
    samples = []
    for steps in (cfg, with_whole_images(cfg)):
        pipeline = build(*steps)
        np.random.seed(seed)
        random.seed(seed)
        samples.append(pipeline(dict(infos[0], dataset=infos))['data_samples'])
    small, whole = samples
    boxes = small.gt_instances.bboxes.tensor, whole.gt_instances.bboxes.tensor
    assert len(boxes[0]) and boxes[0].shape == boxes[1].shape
    np.testing.assert_allclose(*boxes, atol=0.6)
    for key in ('mosaic_tiles',) if 'mosaic_tiles' in small.metainfo else ('homography_matrix', 'ori_shape'):
        np.testing.assert_allclose(small.metainfo[key], whole.metainfo[key], rtol=1e-4, atol=1e-3)
    assert (on_picture(small) == on_picture(whole)).mean() > 0.99


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_exif_turns_a_reduced_image(tmp_path, orientation):
    info = jpeg(tmp_path / 'a.jpg', orientation=orientation)
    small, whole = (load(dict(info)) for load in loaders((480, 160)))
    assert small['ori_shape'] == whole['ori_shape'] == ((1280, 960) if orientation > 4 else (960, 1280))
    assert small['img'].shape[:2] == tuple(n // (8 if orientation > 4 else 4) for n in small['ori_shape'])


def test_other_images_load_as_usual(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8))
    jpeg(tmp_path / 'b.jpg', 600, 480)
    for name in 'a.png', 'b.jpg':
        info = dict(img_path=str(tmp_path / name), img_id=0, instances=[dict(bbox=BOX, bbox_label=0, ignore_flag=0)])
        small, whole = (load(dict(info)) for load in loaders())
        assert set(small) == set(whole)
        np.testing.assert_array_equal(small['img'], whole['img'])
        np.testing.assert_array_equal(small['gt_bboxes'].tensor, whole['gt_bboxes'].tensor)


@pytest.mark.parametrize('content', [b'', b'\xff\xd8', b'no image'])
def test_a_broken_file_is_an_error(tmp_path, content):
    (tmp_path / 'a.jpg').write_bytes(content)
    with pytest.raises((ValueError, cv2.error)):
        LoadReducedImage((320, 256))(dict(img_path=str(tmp_path / 'a.jpg')))


@pytest.mark.parametrize('scale', [(320,), (0, 256), 320, 'ab'])
def test_a_bad_scale_is_named(scale):
    with pytest.raises(ValueError, match='`scale`.*width and a height'):
        LoadReducedImage(scale)


@pytest.mark.parametrize('stated, seen', [((1280, 960), True), ((1280, 961), False)])
def test_the_size_in_the_json_file_is_that_of_the_whole_image(tmp_path, stated, seen):
    jpeg(tmp_path / 'a.jpg')
    images = [dict(id=0, file_name='a.jpg', width=stated[0], height=stated[1])]
    x1, y1, x2, y2 = BOX
    boxes = [dict(id=0, image_id=0, category_id=0, bbox=[x1, y1, x2 - x1, y2 - y1], area=1, iscrowd=0)]
    content = dict(images=images, annotations=boxes, categories=[dict(id=0, name='a')])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    init_default_scope('mmyolo')
    load = [dict(type='LoadReducedImage', scale=(320, 256)), dict(type='mmdet.LoadAnnotations', with_bbox=True)]
    dataset = CheckedCocoDataset(
        ann_file=str(tmp_path / 'a.json'), data_prefix=dict(img=str(tmp_path)), metainfo=dict(classes=('a',)),
        pipeline=[*load, dict(type='mmdet.PackDetInputs', meta_keys=('ori_shape',))],
    )  # fmt: skip
    if seen:
        assert dataset[0]['data_samples'].ori_shape == (960, 1280) and dataset[0]['inputs'].shape == (3, 240, 320)
    else:
        with pytest.raises(ValueError, match='it is 1280 x 960, but its annotation says 1280 x 961'):
            dataset[0]


@pytest.mark.parametrize('name', sorted(path.name for path in Path(config('yolov8_bgpenalty.py')).parent.glob('*.py')))
def test_a_test_pipeline_loads_the_whole_image(name):
    cfg = Config.fromfile(config(name))
    for part in ('val_dataloader', 'test_dataloader'):
        assert cfg[part].dataset.pipeline[0] == dict(type='LoadImageFromFile')


def test_polygons_are_scaled_with_the_boxes(tmp_path):
    info = jpeg(tmp_path / 'a.jpg')
    x1, y1, x2, y2 = BOX
    info['instances'][0]['mask'] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    results = LoadReducedImage((320, 256))(dict(info))
    assert results['instances'][0]['mask'] == [[x1 / 4, y1 / 4, x2 / 4, y1 / 4, x2 / 4, y2 / 4, x1 / 4, y2 / 4]]
    for other in dict(mask=dict(counts='a', size=[960, 1280])), dict(keypoints=[1, 2, 2]):
        results = LoadReducedImage((320, 256))(dict(info, instances=[{**info['instances'][0], **other}]))
        assert results['img'].shape == (960, 1280, 3)  # they are not scaled, so the image is not, either


def test_options_of_the_usual_loader_are_kept(tmp_path):
    info = jpeg(tmp_path / 'a.jpg', orientation=6)
    load = LoadReducedImage((320, 256), color_type='color_ignore_orientation')
    assert load(dict(info))['img'].shape == (960, 1280, 3) and 'scale=(320, 256)' in repr(load)
    grey = LoadReducedImage((320, 256), color_type='grayscale')(dict(info))
    assert grey['img'].ndim == 2
    missing = LoadReducedImage((320, 256), ignore_empty=True)(dict(img_path=str(tmp_path / 'none.jpg')))
    assert missing is None


def test_annotations_before_the_image_are_an_error(tmp_path):
    info = dict(jpeg(tmp_path / 'a.jpg'), gt_bboxes=None)
    with pytest.raises(ValueError, match='before LoadAnnotations'):
        LoadReducedImage((320, 256))(info)


def test_the_scale_factor_is_that_of_the_whole_image(tmp_path):
    """A later resize multiplies it, so that predictions are in the pixels of the whole image."""
    info = jpeg(tmp_path / 'a.jpg')
    resize = build(dict(type='RecordedLetterResize', scale=(320, 256), pad_val=dict(img=114)))
    loads = LoadReducedImage((320, 256)), TRANSFORMS.build(dict(type='LoadImageFromFile'))
    found = [resize(load(dict(info))) for load in loads]
    for key in ('scale_factor', 'homography_matrix', 'pad_param', 'img_shape', 'ori_shape'):
        np.testing.assert_allclose(found[0][key], found[1][key], rtol=1e-5, atol=1e-5)


def test_training_reduces_images_only_if_asked():
    for reduced, kind in ((False, 'LoadImageFromFile'), (True, 'LoadReducedImage')):
        dataset = Config.fromfile(config('yolov8_semi_bgpenalty_own.py', reduce_jpegs=reduced)).train_dataloader.dataset
        text = str([dataset.labeled.pipeline, dataset.unlabeled.pipeline, dataset.empty_pipeline])
        assert text.count(f"'{kind}'") > 4  # in each pipeline, and in those of partner images
        assert len(set(re.findall(r"'Load\w*Image\w*'", text))) == 1
