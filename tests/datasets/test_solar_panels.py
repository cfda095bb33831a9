import hashlib
import io
import json
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from rich.console import Console

from mmyolo_bgpenalty.datasets.solar_panels import generate as synthetic
from mmyolo_bgpenalty.datasets.solar_panels import settings
from tests.helpers.tiny import ROOT

SMALL = {'num_train': 40, 'num_val': 4, 'percent': 25, 'size': (160, 128), 'progress': False}
TINY = {**SMALL, 'num_train': 6, 'num_val': 2, 'percent': 50}


def digest(root):
    """Path -> hash of every file below root."""
    files = sorted(p for p in root.rglob('*') if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def load(root, name):
    return json.loads((root / name).read_text())


@pytest.fixture(scope='module')
def solar(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'solar'
    synthetic.generate(root, workers=3, **SMALL)
    return root


@pytest.fixture(scope='module')
def rendered():
    return [synthetic.render(n, 7, (160, 128)) for n in range(160)]


def test_same_seed_same_bytes_serial_and_parallel(solar, tmp_path):
    synthetic.generate(tmp_path / 'again', workers=1, **SMALL)
    assert len(digest(solar)) == 44 + 5
    assert digest(tmp_path / 'again') == digest(solar)


def test_other_seed_other_set(tmp_path):
    for seed in (0, 1):
        synthetic.generate(tmp_path / str(seed), seed=seed, **TINY)
    first, second = digest(tmp_path / '0'), digest(tmp_path / '1')
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


def test_images_differ_and_val_does_not_depend_on_train(solar, tmp_path):
    hashes = [v for k, v in digest(solar).items() if k.endswith('.png')]
    assert len(set(hashes)) == 44
    synthetic.generate(tmp_path / 'more', **{**TINY, 'num_train': 9})
    name = 'images/val_00001.png'
    assert digest(tmp_path / 'more')[name] == digest(solar)[name]


@pytest.mark.parametrize(('num_train', 'percent', 'labeled'), [(30, 10, 3), (14, 25, 4), (8, 12.5, 1)])
def test_split_counts(tmp_path, num_train, percent, labeled):
    synthetic.generate(tmp_path / 'set', **{**TINY, 'num_train': num_train, 'percent': percent})
    few = load(tmp_path / 'set', f'semi_anns/train.1@{percent}.json')
    many = load(tmp_path / 'set', f'semi_anns/train.1@{percent}-unlabeled.json')
    assert (len(few['images']), len(many['images'])) == (labeled, num_train - labeled)


def test_split_is_disjoint_and_complete(solar):
    whole = load(solar, 'annotations/train.json')
    few, many = load(solar, 'semi_anns/train.1@25.json'), load(solar, 'semi_anns/train.1@25-unlabeled.json')
    for key in ('images', 'annotations'):
        assert sorted(few[key] + many[key], key=lambda e: e['id']) == whole[key]
    for part in (few, many):
        ids = {i['id'] for i in part['images']}
        assert part['annotations'] and {a['image_id'] for a in part['annotations']} <= ids
    assert [i['id'] for i in few['images']] != list(range(1, 11))  # drawn, not the first ten


def test_every_class_in_labeled(solar):
    found = [a['category_id'] for a in load(solar, 'semi_anns/train.1@25.json')['annotations']]
    assert all(found.count(c) >= 3 for c in (1, 2, 3))


def test_choice_avoids_draws_without_a_class():
    crack, other = [(2, 0, 0, 9, 9)] * 3, [(0, 0, 0, 9, 9), (1, 0, 0, 9, 9)]
    boxes = [other] * 38 + [crack, []]
    for seed in range(8):
        chosen = synthetic._choose(boxes, 6, seed)
        assert len(chosen) == 6 and 39 in chosen


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
def test_boxes_inside(size):
    found = [(synthetic.render(n, 3, size)) for n in range(30)]
    boxes = np.array([b for _, boxes in found for b in boxes])
    assert len(boxes) > 10
    assert all(image.shape == size[::-1] and image.dtype == np.uint8 for image, _ in found)
    assert (boxes[:, 1:3] >= 0).all() and (boxes[:, 1:3] + boxes[:, 3:] <= size).all()
    assert (boxes[:, 3:] >= 6).all()


def test_boxes_enclose_what_is_drawn(monkeypatch):
    """The same pictures with and without contrast of the defects differ inside the boxes, and only there."""
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
            # the defect touches every side of its box, where the picture is not saturated
            if (
                max(image[inside].max(), plain[inside].max()) < 255
                and min(image[inside].min(), plain[inside].min()) > 0
            ):
                assert min(part[:3].max(), part[-3:].max(), part[:, :3].max(), part[:, -3:].max()) >= 2
                checked += 1
            near[max(y - 9, 0) : y + h + 9, max(x - 9, 0) : x + w + 9] = True
        assert change[~near].max() <= 1  # 1: rounding
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

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, 'render', broken)
        with pytest.raises(error):
            synthetic.generate(tmp_path / 'set', workers=1, **SMALL)
    assert len(calls) < 44  # the rest was given up
    assert list(tmp_path.iterdir()) == []
    synthetic.generate(tmp_path / 'set', **TINY)
    assert len(digest(tmp_path / 'set')) == 8 + 5
    assert [p.name for p in tmp_path.iterdir()] == ['set']


def test_complete_set_is_kept(tmp_path, monkeypatch):
    synthetic.generate(tmp_path / 'set', **TINY)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'set').rglob('*')}
    monkeypatch.setattr(synthetic, 'render', None)
    synthetic.generate(tmp_path / 'set', **{**TINY, 'percent': 50.0, 'size': [160, 128]})
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / 'set').rglob('*')} == before


@pytest.mark.parametrize('locks', [True, False])
def test_several_at_once(tmp_path, monkeypatch, locks):
    if locks and synthetic.fcntl is None:
        pytest.skip('no file locks here')
    if not locks:
        monkeypatch.setattr(synthetic, 'fcntl', None)
    render, calls, errors = synthetic.render, [], []
    start = threading.Barrier(3)

    def counted(*args):
        calls.append(args)
        return render(*args)

    def work():
        start.wait()
        try:
            synthetic.generate(tmp_path / 'set', **TINY)
        except BaseException as error:
            errors.append(error)

    monkeypatch.setattr(synthetic, 'render', counted)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [p.name for p in tmp_path.iterdir()] == ['set']
    assert len(digest(tmp_path / 'set')) == 8 + 5
    if locks:
        assert len(calls) == 8  # the others waited instead of rendering too


def test_late_run_accepts_the_finished_set(tmp_path, monkeypatch):
    synthetic.generate(tmp_path / 'other', **TINY)
    write = synthetic._render_all

    def overtaken(*args):
        boxes = write(*args)
        (tmp_path / 'other').rename(tmp_path / 'set')
        return boxes

    monkeypatch.setattr(synthetic, '_render_all', overtaken)
    synthetic.generate(tmp_path / 'set', **TINY)
    assert [p.name for p in tmp_path.iterdir()] == ['set']


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / 'set').mkdir()
    synthetic.generate(tmp_path / 'set', **TINY)
    assert (tmp_path / 'set' / 'solar.json').is_file()


def test_foreign_folder_is_refused(tmp_path):
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'thesis.tex').write_text('years of work')
    with pytest.raises(ValueError, match=r'mine is not a generated set: it holds thesis\.tex; give another folder'):
        synthetic.generate(mine, **TINY)
    (mine / 'solar.json').write_text('[1]')
    with pytest.raises(ValueError, match='not a generated set'):
        synthetic.generate(mine, **TINY)
    with pytest.raises(ValueError, match='is a file'):
        synthetic.generate(mine / 'thesis.tex', **TINY)
    assert (mine / 'thesis.tex').read_text() == 'years of work'


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


def test_incomplete_set_is_refused(tmp_path):
    root = tmp_path / 'set'
    synthetic.generate(root, **TINY)
    (root / 'images' / 'train_00003.png').unlink()
    with pytest.raises(ValueError, match=r'lacks 1 of 12 files, e\.g\. images/train_00003\.png'):
        synthetic.generate(root, **TINY)


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
        ('percent', 1, 'label at least 1'),
        ('size', (320, 40), '>= 96'),
        ('size', (320, 256, 3), '>= 96'),
        ('size', 320, r'\(width, height\)'),
        ('workers', 0, '>= 1'),
    ],
)
def test_bad_arguments(tmp_path, name, value, expected):
    with pytest.raises(ValueError, match=rf'^Expected `{name}` to .*{expected}.*, but got ') as caught:
        synthetic.generate(tmp_path / 'set', **{**TINY, name: value})
    assert repr(value) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_progress_bar_on_a_terminal(tmp_path, monkeypatch):
    screen = io.StringIO()

    def console(stderr):
        assert stderr
        return Console(file=screen, force_terminal=True, width=100)

    monkeypatch.setattr(synthetic, 'Console', console)
    synthetic.generate(tmp_path / 'set', **{**TINY, 'progress': True})
    shown = screen.getvalue()
    assert 'Rendering set' in shown and '8/8' in shown
    assert len(digest(tmp_path / 'set')) == 8 + 5


def test_progress_lines_and_command(tmp_path, capsys):
    synthetic.generate(tmp_path / 'quiet', **TINY)
    assert capsys.readouterr() == ('', '')
    command = [sys.executable, ROOT / 'tools/make_solar_set.py', 'loud', '--num-train', '6']
    command += ['--num-val', '2', '--percent', '50', '--size', '160', '128']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (0, '', 2), done.stderr
    assert digest(tmp_path / 'loud') == digest(tmp_path / 'quiet')
    other = subprocess.run([*command, '--seed', '1'], cwd=tmp_path, capture_output=True, text=True)
    assert other.returncode == 2 and 'seed=0 (asked for 1)' in other.stderr and len(other.stderr.splitlines()) == 1
    assert digest(tmp_path / 'loud') == digest(tmp_path / 'quiet')
