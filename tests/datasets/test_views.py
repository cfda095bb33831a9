"""Stronger views: one canvas of several images for both, colour and erasing that move nothing, and real runs."""

import copy
import json
from pathlib import Path

import cv2
import mmcv.transforms.loading as loading
import numpy as np
import pytest
import torch
from hypothesis import given
from mmdet.registry import DATASETS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmyolo.registry import TRANSFORMS

from mmyolo_bgpenalty import PseudoLabelQualityHook
from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.datasets.samplers import SeededIndex
from mmyolo_bgpenalty.models.bg_penalty_head import picture_frame
from mmyolo_bgpenalty.utils.geometry import priors_on_image, project_boxes
from tests.datasets.test_transforms import PAD, PICTURES, Pictures, affine, build, flip, letter, picture, seeds, through
from tests.helpers.tiny import CONFIGS, load, make_images, make_set

VIEWS = 'yolov8_semi_bgpenalty_views.py'
UNLABELED = 'train_dataloader.dataset.unlabeled.pipeline'
SCALE = (64, 64)
PACK = {'type': 'mmdet.PackDetInputs', 'meta_keys': ('homography_matrix', 'mosaic_tiles', 'ori_shape', 'img_shape')}
# The middle of a mosaic's canvas, pixel for pixel.
MIDDLE = affine(
    max_rotate_degree=0.0,
    max_shear_degree=0.0,
    max_translate_ratio=0.0,
    scaling_ratio_range=(1.0, 1.0),
    border=(-SCALE[0] // 2, -SCALE[1] // 2),
    max_aspect_ratio=1000.0,
    min_area_ratio=0.0,
    bbox_clip_border=True,
)
# Smaller than the canvas, so that padding takes the place of what the canvas cut off.
STRONG = affine(scaling_ratio_range=(0.4, 0.8), max_translate_ratio=0.1, min_area_ratio=0.0)


def mosaic(**kwargs):
    return {'type': 'RecordedMosaic', 'img_scale': SCALE, 'pad_val': float(PAD), **kwargs}


def mixup(**kwargs):
    return {'type': 'RecordedMixUp', **kwargs}


class Loaded(Pictures):
    """Pictures that are loaded already, each time afresh."""

    def get_data_info(self, index):
        return copy.deepcopy(self[index])


def canvas(seed, *transforms):
    np.random.seed(seed)
    pictures = Loaded(picture(*args) for args in PICTURES)
    first = pictures.get_data_info(seed % len(pictures))
    return build(*transforms)({**first, 'dataset': pictures, 'img_id': 1, 'img_path': 'one.png'})


def two_views(results, weak, strong):
    branches = {'unsup_teacher': [*weak, PACK], 'unsup_student': [*strong, PACK]}
    packed = TRANSFORMS.build({'type': 'Views', 'branch_field': list(branches), **branches})(results)
    views = []
    for name in branches:
        image = packed['inputs'][name].numpy().transpose(1, 2, 0)
        views.append((image, packed['data_samples'][name]))
    return views


def on_picture(sample):
    """Where the penalty takes an input's pixels for picture, (H, W)."""
    height, width = sample.img_shape[:2]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing='ij')
    to_image, boxes = picture_frame(sample.metainfo)
    points = torch.stack([x.flatten(), y.flatten()], dim=-1)
    return priors_on_image(points, to_image[None], boxes[None])[0].reshape(height, width).numpy()


def same_up_to_a_pixel(mask, picture, padding):
    """Whether a mask holds on ``picture`` and on nothing of ``padding``, but for a pixel at their edges."""
    inner, outer = (
        cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
        for part in (picture, padding)
    )
    return mask[inner == 1].all() and not mask[outer == 1].any()


def padding_is_known(sample, image):
    """Channel 0 is PAD in padding, 0 in pictures and between in a picture that is mixed with padding."""
    return same_up_to_a_pixel(on_picture(sample), image[..., 0] <= 0.55 * PAD, image[..., 0] >= PAD - 2)


def test_same_up_to_a_pixel_tells_two_pixels():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    for shift, same in ((0, True), (1, True), (-1, True), (2, False), (-2, False)):
        assert same_up_to_a_pixel(np.roll(mask, shift, axis=1), mask, ~mask) == same
    assert not same_up_to_a_pixel(np.ones_like(mask), mask, ~mask)
    assert not same_up_to_a_pixel(np.zeros_like(mask), mask, ~mask)


def check_views(results, weak, strong):
    """Boxes and padding of two views of one canvas. Returns the number of boxes seen in both."""
    (weak_image, weak), (strong_image, strong) = two_views(results, weak, strong)
    for image, sample in ((weak_image, weak), (strong_image, strong)):
        assert padding_is_known(sample, image)
    between = strong.homography_matrix.astype(np.float64) @ np.linalg.inv(weak.homography_matrix.astype(np.float64))
    number = 0
    # What a perfect teacher finds in the weak view: each square that is there, as far as it is there.
    components, _, boxes, _ = cv2.connectedComponentsWithStats((weak_image[..., 2] > 148).astype(np.uint8))
    for x, y, width, height, area in boxes[1:components]:
        if width * height != area or min(width, height) < 6:
            continue  # overlapping squares, or slivers
        found = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)
        projected = project_boxes(found, torch.from_numpy(between).float(), strong.img_shape[:2])[0].numpy()
        if (projected[2:] - projected[:2] < 6).any():
            continue
        corners = through(np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]), between)
        # The square in the strong view is the painted area whose pixels the projected corners enclose.
        cx, cy = corners.mean(0)
        seen = strong_image[..., 2] > 148
        if not (0 <= cx < seen.shape[1] and 0 <= cy < seen.shape[0] and seen[int(cy), int(cx)]):
            continue
        labels = cv2.connectedComponents(seen.astype(np.uint8))[1]
        rows, columns = np.nonzero(labels == labels[int(cy), int(cx)])
        there = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(projected, there, atol=1.01)
        number += 1
    return number


UPRIGHT_STRONG = {**STRONG, 'max_rotate_degree': 0.0, 'max_shear_degree': 0.0}
CANVASES = {
    'whole mosaic': [mosaic()],
    'middle of a mosaic': [mosaic(), MIDDLE],
    'a mosaic cut, then letterboxed': [mosaic(), MIDDLE, letter((96, 64))],
    'a single image': [mosaic(prob=0.0), letter(SCALE)],
}


@pytest.mark.parametrize('name', CANVASES)
def test_a_canvas_is_shared_by_both_views(name):
    numbers = []

    @given(seeds)
    def check(seed):
        results = canvas(seed, *CANVASES[name])
        numbers.append(check_views(results, [flip('horizontal')], [UPRIGHT_STRONG, flip('diagonal')]))

    check()
    assert sum(numbers) >= len(numbers) // 2


@given(seeds)
def test_padding_is_known_where_the_strong_view_is_turned(seed):
    _, (image, sample) = two_views(canvas(seed, mosaic(), MIDDLE), [flip('vertical')], [STRONG])
    assert padding_is_known(sample, image)


def test_mixed_images_are_shared_by_both_views():
    numbers = []

    @given(seeds)
    def check(seed):
        one = [mosaic(), MIDDLE]
        # At a ratio of 0.5 a square over padding is (255 + 114) / 2 = 185, over picture 148: only where it shows.
        results = canvas(seed, *one, mixup(alpha=1e6, beta=1e6, pre_transform=one))
        assert results['img'].shape == (64, 64, 3) and len(results['mosaic_tiles']) > 1
        numbers.append(check_views(results, [flip('horizontal')], [UPRIGHT_STRONG]))

    check()
    assert sum(numbers) > 5


def test_a_mixed_image_may_be_of_single_images_and_has_the_boxes_of_both():
    results = canvas(1, letter(SCALE), mixup(pre_transform=[letter(SCALE)]))
    tiles = results['mosaic_tiles']
    assert len(tiles) == len(results['gt_bboxes']) == 2
    assert np.array_equal(results['homography_matrix'], np.eye(3)) and results['homography_matrix'].dtype == np.float32
    # Seed 1 begins with the second picture. 32 x 64 letterboxed to 64 x 64: 16 columns of padding on either side.
    assert tiles[0].tolist() == [16, 0, 48, 64]


def test_no_image_mixed_is_no_tiles():
    results = canvas(0, letter(SCALE), mixup(prob=0.0, pre_transform=[letter(SCALE)]))
    assert 'mosaic_tiles' not in results and len(results['gt_bboxes']) == 1


def test_a_turned_image_cannot_be_mixed():
    turned = [letter(SCALE), affine(max_rotate_degree=30.0)]
    with pytest.raises(ValueError, match='RecordedMixUp to come before what rotates or shears'):
        canvas(0, *turned, mixup(pre_transform=turned))
    with pytest.raises(ValueError, match='RecordedMixUp to come before'):
        canvas(0, letter(SCALE), mixup(pre_transform=turned))


CUTS = {
    'crop, letterbox': [{'type': 'mmdet.RandomCrop', 'crop_size': (24, 30), 'allow_negative_crop': True}],
    'zoom in, letterbox': [{**UPRIGHT_STRONG, 'scaling_ratio_range': (1.6, 2.0)}],
    'crop, flip, letterbox': [
        {'type': 'mmdet.RandomCrop', 'crop_size': (24, 30), 'allow_negative_crop': True},
        flip('diagonal'),
    ],
}


@pytest.mark.parametrize('name', CUTS)
@given(seeds)
def test_what_a_crop_cut_off_is_padding_later(name, seed):
    np.random.seed(seed)
    results = build(*CUTS[name], letter((96, 64)), UPRIGHT_STRONG)(picture(64, 48, [20, 10, 44, 30]))
    sample = type('Sample', (), {'img_shape': results['img_shape'], 'metainfo': results})
    assert padding_is_known(sample, results['img'])
    assert 'mosaic_tiles' in results


@given(seeds)
def test_where_nothing_is_cut_off_nothing_is_recorded(seed):
    np.random.seed(seed)
    results = build(letter((96, 64)), UPRIGHT_STRONG, flip('horizontal'))(picture(61, 47, [20, 10, 44, 30]))
    assert 'mosaic_tiles' not in results


def test_a_picture_wholly_cut_off_is_nowhere():
    results = picture(64, 48, [20, 10, 44, 30])
    results['mosaic_tiles'] = np.array([[0, 0, 20, 48], [20, 0, 64, 48]], np.float32)
    # The left 30 columns of the canvas are cut off, the first tile with them.
    results['homography_matrix'] = np.array([[1, 0, -30], [0, 1, 0], [0, 0, 1]], np.float32)
    results['img'] = results['img'][:, 30:].copy()
    results = build(letter((96, 48)))(results)
    assert results['mosaic_tiles'].tolist() == [[30, 0, 64, 48]]


@pytest.mark.parametrize('crowd', [False, True])
@pytest.mark.parametrize('x2, left, kept', [(36, 20, 'both'), (19, 3, 'crowd'), (17, 1, 'none')])
def test_what_is_visible_of_a_crowd_is_kept(crowd, x2, left, kept):
    """A tenth of an object is no object, of a crowd still no background. 2 pixels are too small for either."""
    results = picture(64, 64, [0, 0, x2, 64])
    results['gt_ignore_flags'][:] = crowd
    results = build({**MIDDLE, 'min_area_ratio': 0.1, 'max_aspect_ratio': 20.0, 'border': (-16, -16)})(results)
    seen = kept == 'both' or (kept == 'crowd' and crowd)
    assert results['gt_bboxes'].numpy().tolist() == ([[0, 0, left, 32]] if seen else [])
    assert results['gt_ignore_flags'].tolist() == ([crowd] if seen else [])


# Colour and erasing


def steps(name, path):
    """The steps of a branch of the shipped config by their type, those within RandomApply under the first's type."""
    pipeline = Config.fromfile(CONFIGS / VIEWS).train_dataloader.dataset[name].pipeline
    return [dict(step) for step in pipeline[-1][path]]


STUDENT = {
    'jitter': steps('unlabeled', 'unsup_student')[2],
    'grey': steps('unlabeled', 'unsup_student')[3],
    'blur': steps('unlabeled', 'unsup_student')[4],
    'erasing': steps('unlabeled', 'unsup_student')[5],
    # As SoftTeacher: one of MMDetection's colour transforms.
    'RandAugment': dict(
        type='mmdet.RandAugment',
        aug_num=1,
        aug_space=[
            [dict(type=f'mmdet.{name}')]
            for name in ('ColorTransform', 'AutoContrast', 'Equalize', 'Sharpness', 'Posterize', 'Solarize', 'Color')
        ],
    ),
}


@pytest.mark.parametrize('name', STUDENT)
def test_colour_and_erasing_change_the_pixels_alone(name):
    step = dict(STUDENT[name], prob=1.0) if name != 'RandAugment' else STUDENT[name]
    before = build(letter((96, 64)))(picture(90, 50, [20, 10, 44, 30]))
    noise = np.random.default_rng(0).integers(0, 255, before['img'].shape, dtype=np.uint8)
    before['img'] = noise
    transform, changed, again = build(step), 0, []
    for seed in range(20):
        np.random.seed(seed)
        results = transform(copy.deepcopy(before))
        image = results.pop('img')
        assert image.dtype == np.uint8 and image.shape == noise.shape
        changed += not np.array_equal(image, noise)
        assert results.keys() >= before.keys() - {'img'} and 'mosaic_tiles' not in results
        assert np.array_equal(results['homography_matrix'], before['homography_matrix'])
        assert torch.equal(results['gt_bboxes'].tensor, before['gt_bboxes'].tensor)
        np.random.seed(seed)
        again.append(np.array_equal(transform(copy.deepcopy(before))['img'], image))
    assert all(again) and changed >= 15


def test_grey_is_the_eyes_grey():
    image = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    grey = build(dict(STUDENT['grey'], prob=1.0))({'img': image.copy()})['img']
    expected = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    assert (np.abs(grey.astype(int) - expected[..., None]) <= 1).all()


def test_blur_is_a_gaussian():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    blurred = build(dict(type='RandomGaussianBlur', prob=1.0, sigma=(1.5, 1.5)))({'img': image})['img'].astype(float)
    y, x = np.mgrid[-20:21, -20:21]
    expected = np.exp(-(x**2 + y**2) / (2 * 1.5**2)) * 255 / (2 * np.pi * 1.5**2)
    assert np.abs(blurred[..., 0] - expected).max() <= 1
    kept = build(dict(type='RandomGaussianBlur', prob=0.0))({'img': image.copy()})['img']
    assert np.array_equal(kept, image)


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(prob=1.5), r'`prob` to be in \[0, 1\], but got 1.5'),
        (dict(prob='often'), "`prob`.*got 'often'"),
        (dict(sigma=(2.0, 1.0)), r'`sigma` to be two numbers.*got \(2.0, 1.0\)'),
        (dict(sigma=(0.0, 1.0)), '`sigma`'),
        (dict(sigma=(1.0,)), '`sigma`'),
    ],
)
def test_a_bad_blur_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(dict(type='RandomGaussianBlur', **bad))


def test_erased_is_still_picture_and_keeps_boxes_to_come():
    """RandomErasing drops boxes that it covers: an unlabeled image has none yet."""
    for boxes, left in ((np.zeros((0, 4), np.float32), 0), (np.array([[30, 20, 34, 24]], np.float32), 0)):
        results = build(letter((96, 64)))(picture(96, 64, [20, 10, 44, 30]))
        number = len(boxes)
        results.update(
            gt_bboxes=HorizontalBoxes(boxes),
            gt_bboxes_labels=np.zeros(number, np.int64),
            gt_ignore_flags=np.zeros(number, bool),
        )
        np.random.seed(0)
        results = build(dict(type='mmdet.RandomErasing', n_patches=60, ratio=0.3, img_border_value=7))(results)
        assert (results['img'] == 7).mean() > 0.9 and len(results['gt_bboxes']) == left
        sample = type('Sample', (), {'img_shape': results['img_shape'], 'metainfo': results})
        assert on_picture(sample).all()


# The shipped config


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = make_set(tmp_path_factory.mktemp('set'))
    make_images(root, 'crowded', 6, seed=9, crowd=True)
    empty = json.loads((root / 'crowded.json').read_text())
    empty['annotations'] = [one for one in empty['annotations'] if one['image_id'] != 2]
    (root / 'crowded.json').write_text(json.dumps(empty))
    return root


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmyolo')


def configured(data, work_dir, folder=False, **options):
    cfg = load(
        VIEWS,
        data,
        work_dir,
        burn_in=1,
        lambda_bg_warmup=0,
        train_cfg__max_epochs=3,
        train_cfg__val_interval=10,
        default_hooks__checkpoint__interval=1,
        default_hooks__checkpoint__save_best=None,
        model__semi_train_cfg__class_thresholds=None,
        model__semi_train_cfg__unsure_thr=None,
        model__semi_train_cfg__soft_unsure=False,
        model__semi_train_cfg__pseudo_test_cfg__score_thr=0.0,
        model__semi_train_cfg__pseudo_test_cfg__max_per_img=5,
        **options,
    )
    cfg.train_dataloader.dataset.labeled.ann_file = 'crowded.json'
    if folder:
        dataset = cfg.train_dataloader.dataset
        dataset.unlabeled.update(type='ImageFolderDataset', ann_file='', data_prefix=dict(img='pool'))
    for part in ('val', 'test'):
        cfg[f'{part}_dataloader'] = cfg[f'{part}_evaluator'] = cfg[f'{part}_cfg'] = None
    return cfg


@pytest.fixture(scope='module')
def pool(data):
    """The unlabeled images as a folder in which every second file is broken."""
    (data / 'pool').mkdir()
    for i, file in enumerate(sorted((data / 'images').glob('unlabeled_*'))):
        (data / f'pool/{i}.png').write_bytes(file.read_bytes())
        (data / f'pool/{i}_broken.png').write_bytes(b'no picture')
    return data


def test_the_config_differs_from_its_base_in_the_views_alone():
    cfg, base = (Config.fromfile(CONFIGS / name).to_dict() for name in (VIEWS, 'yolov8_semi_bgpenalty.py'))
    for key in base.keys() - {'train_dataloader', 'unsup_pipeline'}:
        assert cfg[key] == base[key], key
    one, other = (c['train_dataloader']['dataset']['unlabeled'] for c in (cfg, base))
    assert one.pop('pipeline') != other.pop('pipeline')
    assert cfg['train_dataloader'] == base['train_dataloader']


def test_mosaics_draw_from_their_own_set(data, tmp_path, monkeypatch):
    cfg = configured(data, tmp_path)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    paths, read = [], loading.fileio.get

    def spy(path, *args, **kwargs):
        paths.append(Path(path).name)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(loading.fileio, 'get', spy)
    for places, name in ((range(6), 'crowded'), (range(6, 16), 'unlabeled')):
        paths.clear()
        for place in places:
            dataset[SeededIndex(place, place)]
        assert len(paths) > len(places) and {path.partition('_')[0] for path in paths} == {name}


def test_labeled_mosaics_keep_crowds_apart_and_take_empty_images(data, tmp_path):
    cfg = configured(data, tmp_path)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    objects = crowds = 0
    for seed in range(30):
        sample = dataset[SeededIndex(seed % 6, seed)]['data_samples']['sup']
        assert sample.mosaic_tiles.shape[1] == 4 and len(sample.mosaic_tiles) >= 1
        objects += len(sample.gt_instances)
        crowds += len(sample.ignored_instances)
        for instances in (sample.gt_instances, sample.ignored_instances):
            boxes = instances.bboxes.tensor
            assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all() and (boxes[:, 2] <= 96).all()
    assert objects > 20 and crowds > 10


def flat(batch):
    """All that a batch holds, as arrays by name."""
    found = {}
    for branch, images in batch['inputs'].items():
        for i, (image, sample) in enumerate(zip(images, batch['data_samples'][branch])):
            if image is None:
                continue
            boxes = sample.gt_instances.bboxes
            found[branch, i] = [image.numpy(), np.asarray(getattr(boxes, 'tensor', boxes)), sample.homography_matrix]
            found[branch, i] += [sample.metainfo.get('mosaic_tiles'), sample.img_path]
    return found


@pytest.mark.parametrize('folder', [False, True])
def test_a_sample_depends_on_its_seed_alone(data, pool, tmp_path, folder):
    """Whatever the workers, and whatever was loaded before."""
    cfg = configured(data, tmp_path, folder)

    def loaded(workers):
        loader = Runner.build_dataloader(dict(cfg.train_dataloader, num_workers=workers), seed=4)
        return [flat(batch) for batch in loader]

    alone, together = loaded(0), loaded(2)
    assert len(alone) == len(together) == (10 if folder else 5)
    tiles = 0
    for one, other in zip(alone, together):
        assert one.keys() == other.keys() and len(one) == 6  # two labeled, two unlabeled in two views
        for key, values in one.items():
            tiles += values[3] is not None
            for value, again in zip(values, other[key]):
                assert np.array_equal(value, again), key
    assert 0 < tiles
    again = DATASETS.build(cfg.train_dataloader.dataset)
    first = again[SeededIndex(7, 3)]['inputs']['unsup_student']
    again[SeededIndex(2, 5)]
    assert torch.equal(first, again[SeededIndex(7, 3)]['inputs']['unsup_student'])


def test_partners_that_cannot_be_read_give_way(data, pool, tmp_path):
    cfg = configured(data, tmp_path, folder=True)
    cfg.merge_from_dict({f'{UNLABELED}.2.prob': [1.0, 0.0], f'{UNLABELED}.3.prob': 1.0})
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for seed in range(10):
        sample = dataset[SeededIndex(6, seed)]['data_samples']['unsup_teacher']
        assert sample.img_path.endswith('0.png') and len(sample.mosaic_tiles) > 1
    # The partners were broken as often as not.
    assert 5 <= dataset.datasets[1].unreadable <= 10


class Watch(Hook):
    priority = 'VERY_HIGH'

    def __init__(self):
        self.rows, self.tiles, self.boxes = [], dict(sup=[], unsup_teacher=[]), []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.rows.append(float(outputs['loss'].detach()))
        for branch, rows in self.tiles.items():
            samples = data_batch['data_samples'][branch]
            rows += [(runner.epoch, 'mosaic_tiles' in sample.metainfo) for sample in samples if sample is not None]
        self.boxes.append(float(outputs['semi/pseudo_boxes']))


def train(cfg):
    runner, watch = Runner.from_cfg(copy.deepcopy(cfg)), Watch()
    runner.register_hook(watch)
    runner.train()
    return runner, watch


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    init_default_scope('mmyolo')
    return train(configured(data, tmp_path_factory.mktemp('work'), default_hooks__quality__interval=1))


def test_training_with_all_of_them(run):
    runner, watch = run
    assert len(watch.rows) == 15 and np.isfinite(watch.rows).all()
    assert max(watch.boxes[6:]) > 0
    # Labeled images are mosaics until the pipeline is switched, unlabeled ones by half.
    assert all(mosaic == (epoch < 2) for epoch, mosaic in watch.tiles['sup'])
    made = [mosaic for _, mosaic in watch.tiles['unsup_teacher']]
    assert 0.2 < np.mean(made) < 0.9
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'pseudo_recall' in log


def test_workers_and_resuming_change_nothing(run, data, tmp_path):
    original, watch = run
    cfg = configured(data, tmp_path, train_dataloader__num_workers=2, default_hooks__quality__interval=1)
    cfg.load_from, cfg.resume = str(Path(original.work_dir) / 'epoch_2.pth'), True
    runner, resumed = train(cfg)
    assert resumed.rows == watch.rows[10:] and len(resumed.rows) == 5
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, original.model.state_dict()[name]), name


def test_training_on_a_folder(data, pool, tmp_path):
    cfg = configured(data, tmp_path, folder=True)
    assert [finding for finding in check_config(cfg, data=False) if 'pipeline' in finding.where] == []
    runner, watch = train(cfg)
    assert np.isfinite(watch.rows).all() and runner.train_dataloader.dataset.datasets[1].unreadable == 10


def test_quality_is_measured_on_single_images_alone(run):
    """Of a mosaic the hook would know the first image's boxes alone."""
    runner, _ = run
    hook = PseudoLabelQualityHook()
    hook._truth = {'a.png': np.array([[10, 10, 30, 30, 0, 0]], np.float32)}
    hook._counts = np.zeros((3, 3))
    sample = runner.model.pseudo_labels[0].new()
    metainfo = dict(img_path='a.png', homography_matrix=np.eye(3, dtype=np.float32), img_shape=(64, 96))
    sample.set_metainfo(metainfo)
    sample.gt_instances = runner.model.pseudo_labels[0].gt_instances[:0]
    hook._count([sample])
    assert hook._counts[2].tolist() == [1, 0, 0]
    sample.set_metainfo(dict(mosaic_tiles=np.zeros((4, 4), np.float32)))
    hook._count([sample])
    assert hook._counts[2].tolist() == [1, 0, 0]
