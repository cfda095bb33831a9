import hashlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from mmyolo_bgpenalty.datasets.solar_panels import generate as synthetic
from mmyolo_bgpenalty.datasets.solar_panels import settings
from tests.helpers.tiny import ROOT

SMALL = {'num_train': 40, 'num_val': 4, 'percent': 25, 'size': (160, 128), 'progress': False}
TINY = {**SMALL, 'num_train': 6, 'num_val': 2, 'percent': 50}


def digest(root):
    """The hash of each file in ``root``, by relative path."""
    files = [path for path in root.rglob('*') if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def load(root, name):
    return json.loads((root / name).read_text())


@pytest.fixture(scope='module')
def solar(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'solar'
    synthetic.generate(root, **SMALL)
    return root


@pytest.fixture(scope='module')
def rendered():
    return [synthetic.render(n, 7, (160, 128)) for n in range(160)]


def test_pictures_differ_and_depend_on_the_seed(solar, tmp_path):
    (tmp_path / 'set').mkdir()  # an empty folder is filled
    synthetic.generate(tmp_path / 'set', **TINY)
    synthetic.generate(tmp_path / 'other', seed=1, **TINY)
    large, small, other = digest(solar), digest(tmp_path / 'set'), digest(tmp_path / 'other')
    assert (len(large), len(small)) == (44 + 5, 8 + 5) and small.keys() == other.keys()
    assert len({*large.values(), *other.values()}) == 49 + 13
    for name in ('images/train_00005.png', 'images/val_00001.png'):
        assert small[name] == large[name]


def test_labeled_and_unlabeled_part(solar):
    whole = load(solar, 'annotations/train.json')
    few, many = load(solar, 'semi_anns/train.1@25.json'), load(solar, 'semi_anns/train.1@25-unlabeled.json')
    assert (len(few['images']), len(many['images'])) == (10, 30)
    for key in ('images', 'annotations'):
        assert sorted(few[key] + many[key], key=lambda entry: entry['id']) == whole[key]
    for part in (few, many):
        assert {entry['image_id'] for entry in part['annotations']} <= {image['id'] for image in part['images']}
    assert [image['id'] for image in few['images']] != list(range(1, 11))  # drawn, not the first ten
    found = [entry['category_id'] for entry in few['annotations']]
    assert all(found.count(category) >= 3 for category in (1, 2, 3))


def test_the_labeled_images_have_all_classes():
    crack, other = [(2, 0, 0, 9, 9)] * 3, [(0, 0, 0, 9, 9), (1, 0, 0, 9, 9)]
    boxes = [other] * 38 + [crack, []]
    for seed in range(8):
        chosen = synthetic._choose(boxes, 6, seed)
        assert chosen.sum() == 6 and chosen[38]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_fields_and_pictures(solar, split):
    coco = load(solar, f'annotations/{split}.json')
    assert [(c['id'], c['name']) for c in coco['categories']] == list(enumerate(synthetic.CLASSES, 1))
    assert coco['info']['seed'] == 0 and coco['info']['version'] == synthetic.VERSION
    assert [a['id'] for a in coco['annotations']] == list(range(1, len(coco['annotations']) + 1))
    offset = synthetic.VAL_OFFSET if split == 'val' else 0
    for n, image in enumerate(coco['images']):
        assert image == {'id': n + 1, 'file_name': f'{split}_{n:05d}.png', 'width': 160, 'height': 128}
        stored = cv2.imread(str(solar / 'images' / image['file_name']), cv2.IMREAD_UNCHANGED)
        pixels, boxes = synthetic.render(offset + n, 0, (160, 128))
        assert stored.dtype == np.uint8 and np.array_equal(stored, pixels)
        own = [a for a in coco['annotations'] if a['image_id'] == n + 1]
        assert [(a['category_id'] - 1, *a['bbox']) for a in own] == boxes
        assert all(a['area'] == a['bbox'][2] * a['bbox'][3] for a in own)
        assert all(a['iscrowd'] == 0 and a['segmentation'] == [] for a in own)


@pytest.mark.parametrize('size', [(96, 96), (128, 200), (320, 256)])
def test_boxes_are_inside_the_image(size):
    found = [synthetic.render(n, 3, size) for n in range(30)]
    boxes = np.array([b for _, boxes in found for b in boxes])
    assert len(boxes) > 10
    assert all(image.shape == size[::-1] and image.dtype == np.uint8 for image, _ in found)
    assert (boxes[:, 1:3] >= 0).all() and (boxes[:, 1:3] + boxes[:, 3:] <= size).all()
    assert (boxes[:, 3:] >= settings.MIN_BOX).all()


def test_boxes_enclose_what_is_drawn(monkeypatch):
    """A picture differs from the same picture without visible defects only in the boxes and up to 9 px around them."""
    with_defects = [synthetic.render(n, 5) for n in range(40)]
    monkeypatch.setattr(settings, 'CONTRAST', (1e-6, 1e-5))
    checked = 0
    for n, (image, boxes) in enumerate(with_defects):
        plain, same = synthetic.render(n, 5)
        assert same == boxes
        change = cv2.absdiff(image, plain).astype(float)
        near = np.zeros(image.shape, bool)
        for _, x, y, w, h in boxes:
            inside = slice(y, y + h), slice(x, x + w)
            part = change[inside]
            # The defect touches each side of its box, if the picture is not saturated there.
            if (
                max(image[inside].max(), plain[inside].max()) < 255
                and min(image[inside].min(), plain[inside].min()) > 0
            ):
                assert min(part[:3].max(), part[-3:].max(), part[:, :3].max(), part[:, -3:].max()) >= 2
                checked += 1
            near[max(y - 9, 0) : y + h + 9, max(x - 9, 0) : x + w + 9] = True
        assert change[~near].max() <= 1  # 1 is a rounding error
    assert checked > 40


def test_share_of_images_without_defects_and_class_mix(rendered):
    empty = np.mean([not boxes for _, boxes in rendered])
    assert 0.17 < empty < 0.37
    labels = [b[0] for _, boxes in rendered for b in boxes]
    assert 1.5 < len(labels) / len(rendered) < 2.6
    share = np.bincount(labels, minlength=3) / len(labels)
    assert share[0] > 0.4 and share[1:].min() > 0.1


def test_pictures_vary_and_are_not_saturated(rendered):
    means = [image.mean() for image, _ in rendered]
    assert np.std(means) > 10
    assert np.mean([image.std() > 4 for image, _ in rendered]) > 0.95
    assert np.mean([((image == 0) | (image == 255)).mean() for image, _ in rendered]) < 0.1


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch, error):
    render, calls = synthetic.render, []

    def broken(index, seed, size):
        calls.append(index)
        if index == 4:
            raise error('stop')
        return render(index, seed, size)

    monkeypatch.setattr(synthetic, 'render', broken)
    with pytest.raises(error):
        synthetic.generate(tmp_path / 'set', **SMALL)
    assert len(calls) < 44  # the other pictures were not rendered
    assert list(tmp_path.iterdir()) == []


def test_complete_set_is_kept(tmp_path, monkeypatch):
    synthetic.generate(tmp_path / 'set', **TINY)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'set').rglob('*')}
    monkeypatch.setattr(synthetic, 'render', None)
    synthetic.generate(tmp_path / 'set', **{**TINY, 'percent': 50.0, 'size': [160, 128]})
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / 'set').rglob('*')} == before


def test_only_one_of_several_threads_renders(tmp_path, monkeypatch):
    render, calls = synthetic.render, []
    start = threading.Barrier(3)

    def counted(*args):
        calls.append(args)
        return render(*args)

    def work(_):
        start.wait()
        synthetic.generate(tmp_path / 'set', **TINY)

    monkeypatch.setattr(synthetic, 'render', counted)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert [path.name for path in tmp_path.iterdir()] == ['set']
    assert len(calls) == 8


def test_without_locks_the_set_of_another_process_is_accepted(tmp_path, monkeypatch):
    synthetic.generate(tmp_path / 'other', **TINY)
    make = synthetic._make

    def overtaken(*args):
        make(*args)
        (tmp_path / 'other').rename(tmp_path / 'set')

    def no_locks(*args):
        raise OSError

    monkeypatch.setattr(synthetic, '_make', overtaken)
    monkeypatch.setattr(synthetic.fcntl, 'flock', no_locks)
    synthetic.generate(tmp_path / 'set', **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('stamp', [None, '{', '[1]', '3', '{}', '{"generator": 3}', '{"generator": {"a": []}}'])
def test_foreign_folder_is_refused(tmp_path, stamp):
    (tmp_path / 'thesis.tex').write_text('years of work')
    if stamp:
        (tmp_path / 'solar.json').write_text(stamp)
    before = digest(tmp_path)
    with pytest.raises(ValueError, match=r'not a generated set; choose another folder|holds a set with seed=None'):
        synthetic.generate(tmp_path, **TINY)
    with pytest.raises(ValueError, match='thesis.tex is a file'):
        synthetic.generate(tmp_path / 'thesis.tex', **TINY)
    assert digest(tmp_path) == before


def test_other_parameters_are_refused(tmp_path, monkeypatch):
    root = tmp_path / 'set'
    synthetic.generate(root, **TINY)
    before = digest(root)
    with pytest.raises(ValueError, match=r'set holds a set with seed=0 \(asked for 4\)'):
        synthetic.generate(root, seed=4, **TINY)
    with pytest.raises(ValueError, match=r'size=\[160, 128\] \(asked for \[128, 128\]\)'):
        synthetic.generate(root, **{**TINY, 'size': (128, 128)})
    with monkeypatch.context() as patch:
        patch.setattr(settings, 'P_EMPTY', 0.5)
        with pytest.raises(ValueError, match=r'P_EMPTY=.* \(asked for 0\.5\)'):
            synthetic.generate(root, **TINY)
    assert digest(root) == before


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('seed', -1, '>= 0'),
        ('seed', 1.5, 'whole number'),
        ('num_train', -3, '>= 2'),
        ('num_val', True, '>= 1'),
        ('num_val', -1, '>= 1'),
        ('percent', 0, 'above 0'),
        ('percent', 100, 'below 100'),
        ('percent', float('nan'), 'above 0'),
        ('percent', '10', 'number'),
    ],
)
def test_bad_arguments(tmp_path, name, value, expected):
    with pytest.raises(ValueError, match=rf'^Expected `{name}` to .*{expected}.*, but got {value!r}'):
        synthetic.generate(tmp_path / 'set', **{**TINY, name: value})
    with pytest.raises(ValueError, match='^Expected `height` to be a whole number >= 96, but got 40'):
        synthetic.generate(tmp_path / 'set', **{**TINY, 'size': (320, 40)})
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_the_same_bytes_and_shows_progress(tmp_path, capsys):
    synthetic.generate(tmp_path / 'quiet', **TINY)
    assert capsys.readouterr() == ('', '')
    command = [sys.executable, ROOT / 'tools/make_solar_set.py', 'loud', '--num-train', '6']
    command += ['--num-val', '2', '--percent', '50', '--size', '160', '128']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ''), done.stderr
    assert 'Rendering loud' in done.stderr and '100%' in done.stderr
    assert digest(tmp_path / 'loud') == digest(tmp_path / 'quiet')
    assert '"percent": 50,' in (tmp_path / 'loud/solar.json').read_text()
    other = subprocess.run([*command, '--seed', '1'], cwd=tmp_path, capture_output=True, text=True)
    assert other.returncode == 2 and 'seed=0 (asked for 1)' in other.stderr and len(other.stderr.splitlines()) == 1
