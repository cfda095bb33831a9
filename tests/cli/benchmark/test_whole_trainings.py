"""Whole trainings in their own processes: the pictures, the clock, and the ratios."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config

from mmyolo_bgpenalty.cli.benchmark import benchmark, whole_trainings
from mmyolo_bgpenalty.cli.benchmark.scenes import Shape
from mmyolo_bgpenalty.cli.benchmark.whole_trainings import DISTINCT, Speed, train, write_pictures
from mmyolo_bgpenalty.utils.coco_json import read_coco
from mmyolo_bgpenalty.utils.image_files import image_names, image_size


def test_both_formats_have_the_same_boxes(tmp_path):
    write_pictures(tmp_path / 'set', DISTINCT + 2, Shape(1, 48, 96, 3, 4))
    coco = read_coco(str(tmp_path / 'set/train.json'), training=True)
    assert image_names(tmp_path / 'set/images') == [image['file_name'] for image in coco['images']]
    for image in coco['images']:
        assert image_size(tmp_path / 'set/images' / image['file_name']) == (96, 48)
        lines = (tmp_path / f'set/labels/{image["id"]:05}.txt').read_text().splitlines()
        boxes = [one for one in coco['annotations'] if one['image_id'] == image['id']]
        assert len(lines) == len(boxes) == 4
        for line, one in zip(lines, boxes):
            label, x, y, width, height = map(float, line.split())
            corner = [(x - width / 2) * 96, (y - height / 2) * 48, width * 96, height * 48]
            assert label == one['category_id'] and corner == pytest.approx(one['bbox'])


@pytest.mark.parametrize('which', ['ours', 'MMYOLO', 'reduced'])
def test_a_real_training_is_timed(tmp_path, which):
    shape = Shape(2, 64, 64, 3, 3)
    write_pictures(tmp_path / 'set', 8, Shape(1, 48, 64, 3, 3))
    speed = train(which, tmp_path / 'set', shape, 0, 2)
    assert speed.waiting is not None and 0 < speed.waiting < speed.iteration < 60


def test_a_training_starts_without_the_settings_of_this_process(tmp_path, monkeypatch):
    """The command itself lets its threads sleep. A training of MMYOLO must not inherit this."""
    for name in ('OMP_NUM_THREADS', 'GOMP_SPINCOUNT', 'CUDA_VISIBLE_DEVICES'):
        monkeypatch.setenv(name, '7')
    seen = []

    def stand_in(command, env, cwd, **options):
        seen.append({name: env[name] for name in ('OMP_NUM_THREADS', 'GOMP_SPINCOUNT') if name in env})
        seen[-1]['gpu'] = env['CUDA_VISIBLE_DEVICES']
        Path(cwd, 'clock.json').write_text('{"ends": [0, 1, 2, 3, 4, 5, 8], "waits": null}')

    monkeypatch.setattr(whole_trainings.subprocess, 'run', stand_in)
    arguments = tmp_path, Shape(2, 64, 64, 3, 3), 0, 2
    assert train('MMYOLO', *arguments) == Speed(2.0, None)
    train('ours', *arguments, 'cuda', dict(OMP_NUM_THREADS='1'))
    assert seen == [dict(gpu=''), dict(OMP_NUM_THREADS='1', gpu='7')]


def test_other_programs_end_with_their_parent(tmp_path):
    code = (
        'import os\nfrom mmyolo_bgpenalty.cli.benchmark import whole_trainings as one\nwith one.other_programs(1):\n'
        ' children = open(f"/proc/self/task/{os.getpid()}/children").read()\n'
        ' print(children, flush=True)\n os.kill(os.getpid(), 9)\n'
    )
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    child = Path('/proc', done.stdout.split()[-1])
    until = time.monotonic() + 30
    while child.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert done.returncode == -9 and not child.exists()


def test_a_failed_training_shows_its_output(tmp_path):
    write_pictures(tmp_path / 'set', 2, Shape(1, 48, 64, 3, 3))
    (tmp_path / 'set/train.json').write_text('{}')
    with pytest.raises(RuntimeError, match='ours: no training: .*train.json'):
        train('ours', tmp_path / 'set', Shape(2, 64, 64, 3, 3), 0, 1)


def test_ratios_are_of_the_same_round(monkeypatch):
    calls = []

    def stand_in(which, folder, shape, workers, iterations, device='cpu'):
        calls.append(which)
        slow = 1 + calls.count(which)  # each round is slower than the one before
        return Speed(slow * dict(ours=1.0, MMYOLO=2.0, Ultralytics=4.0, semi=1.0, reduced=1.0)[which], 0.25 * slow)

    monkeypatch.setattr(whole_trainings, 'train', stand_in)
    monkeypatch.setattr(whole_trainings, 'find_spec', lambda name: name)
    args = argparse.Namespace(pairs=30, device='cpu', quick=True)
    to_mmyolo, to_ultralytics = benchmark.process_rows('training', args)
    assert (to_mmyolo.ratio.median, to_ultralytics.ratio.median) == (0.5, 0.25) and to_mmyolo.ratio.number == 6
    rounds = [calls[i : i + 3] for i in range(0, 18, 3)]
    assert all(sorted(one) == ['MMYOLO', 'Ultralytics', 'ours'] for one in rounds) and len(set(map(tuple, rounds))) > 1
    assert to_mmyolo.note == '0.44 pictures a second, 0.22 with MMYOLO'  # 2 pictures in the median of 2 to 7 s
    whole, reduced = benchmark.process_rows('data', args)
    assert whole.ratio.median == reduced.ratio.median == 0.25 and json.dumps(whole)
    assert 'reduce_jpegs=True' in reduced.what and 'reduce_jpegs' not in whole.what
    assert calls[-4:] == ['semi', 'semi', 'reduced', 'reduced']


def test_a_busy_machine_is_compared_with_each_setting(monkeypatch):
    """A training takes 1 s alone, and longer beside other programs: with two threads 8 s, with one 4 s."""
    running, seen = [], []

    class Program:
        def __init__(self, arguments):
            running.append(self)

        def kill(self):
            running.remove(self)

        def wait(self):
            assert self not in running

    def stand_in(which, folder, shape, workers, iterations, device, variables):
        seen.append((which, len(running), variables))
        slow = 1 + (3 if variables.get('OMP_NUM_THREADS') == '1' else 7) * bool(running)
        return Speed(float(slow), None)

    monkeypatch.setattr(whole_trainings, 'train', stand_in)
    monkeypatch.setattr(whole_trainings.subprocess, 'Popen', Program)
    monkeypatch.setattr(whole_trainings, 'number_of_cores', lambda: 2)
    rows = [*benchmark.process_rows('busy', argparse.Namespace(pairs=10, device='cpu', quick=True))]
    assert [row.ratio.median for row in rows] == [1, 1, 1, 2, 1, 1] and not running
    assert [row.what.partition(',')[0] for row in rows] == ['alone'] * 3 + ['beside 3 programs'] * 3
    assert len(seen) == 16 and all(which == 'ours' for which, *_ in seen)
    assert [number for _, number, _ in seen] == [0] * 8 + [3] * 8
    for place in range(0, 16, 4):  # a round has each setting
        given = [variables for *_, variables in seen[place : place + 4]]
        assert sorted(map(len, given)) == [0, 1, 1, 2] and {} in given and dict(OMP_NUM_THREADS='1') in given


def test_an_ablation_has_the_commands_of_a_shell(monkeypatch):
    """The config is real: it is loaded, and its pictures exist."""
    called = []

    def stand_in(arguments, device):
        cfg = Config.fromfile(arguments[1])
        assert cfg.train_cfg.max_epochs == 1 and Path(cfg.data_root, cfg.labeled_ann_file).is_file()
        called.append(arguments)

    monkeypatch.setattr(whole_trainings, '_call', stand_in)
    (row,) = benchmark.process_rows('ablation', argparse.Namespace(pairs=12, device='cpu', quick=True))
    commands = [arguments[0] for arguments in called]
    assert commands.count('ablate') == 2 and row.ratio.number == 2
    assert [name for name in commands if name != 'ablate'] == ['train', 'test'] * 4
    assert all(set(arguments) >= {'--variants', '--seeds', '0'} for arguments in called if arguments[0] == 'ablate')
