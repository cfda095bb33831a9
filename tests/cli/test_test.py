"""The command test, with a detector that sees bright squares."""

import copy
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from PIL import Image

from mmyolo_bgpenalty.cli import test as test_command
from mmyolo_bgpenalty.cli.report import report
from tests.helpers.seen_squares import see_squares, write_checkpoint
from tests.helpers.tiny import CLASSES

PLOTS = ['confidence.png', 'confusion_matrix.png', 'precision_recall.png']
# The pictures lie in two folders. Both have the name x.png. One object of the second picture cannot be seen.
OBJECTS = [('a/x.png', [(8, 8, 16, 16, 0), (40, 24, 24, 16, 2)]), ('b/x.png', [(8, 8, 16, 16, 1), (48, 8, 16, 24, 1)])]


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """Config, checkpoint and folder. The test set has four objects: three are seen. A fourth square is no object."""
    root = tmp_path_factory.mktemp('set')
    coco = dict(images=[], annotations=[], categories=[dict(id=k, name=name) for k, name in enumerate(CLASSES)])
    for number, (name, objects) in enumerate(OBJECTS):
        picture = np.full((64, 96, 3), 30, np.uint8)
        for x, y, width, height, label in objects:
            box = dict(id=len(coco['annotations']), image_id=number, category_id=label, bbox=[x, y, width, height])
            coco['annotations'].append(dict(box, area=width * height, iscrowd=0))
            if x != 48:
                picture[y : y + height, x : x + width, 2 - label] = 230  # Pillow writes RGB
        picture[40:60, 8:32, 2] = 230 if number else 30
        (root / 'images' / name).parent.mkdir(parents=True)
        Image.fromarray(picture).save(root / 'images' / name)
        coco['images'].append(dict(id=number, file_name=name, width=96, height=64))
    (root / 'test.json').write_text(json.dumps(coco))
    config, checkpoint = write_checkpoint(root, data)
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.update(data_root=f'{root}/', ann_file='test.json')
    cfg.test_evaluator.ann_file = f'{root}/test.json'
    cfg.dump(config)
    return SimpleNamespace(config=config, checkpoint=checkpoint, root=root)


@pytest.fixture
def run(trained, monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder. Returns its exit code, stdout and stderr."""
    see_squares(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['test.py'])

    def call(*arguments, config=trained.config):
        name = ['--cfg-options', f'visualizer.name={tmp_path}']
        return test_command.main(
            [str(config), str(trained.checkpoint), *map(str, arguments), *name]
        ), *capsys.readouterr()

    return call


def change(trained, tmp_path, **settings):
    """A config with other settings."""
    cfg = copy.deepcopy(Config.fromfile(trained.config))
    for key, value in settings.items():
        cfg[key] = value
    cfg.dump(tmp_path / 'changed.py')
    return tmp_path / 'changed.py'


def test_curves_confusion_and_pictures_are_written(run, trained, tmp_path):
    code, out, _ = run('--out', 'new', '--show-dir', 'shown')
    assert code == 0 and 'written to new: confidence.png, confusion_matrix.png, metrics.json' in out
    assert {*PLOTS, 'metrics.json', 'test.precision_recall.json'} <= {
        path.name for path in (tmp_path / 'new').iterdir()
    }
    metrics = json.loads((tmp_path / 'new/metrics.json').read_text())
    assert metrics['pr/recall_at_0.25'] == pytest.approx((1 + 1 + 0.5) / 3)
    assert metrics['pr/fp_per_image_at_0.25'] == 0.5

    files = {str(path.relative_to(tmp_path / 'shown')): path for path in (tmp_path / 'shown').rglob('*.jpg')}
    assert sorted(files) == ['a/x.jpg', 'b/x.jpg']
    colours = {'green': (0, 230, 118), 'red': (255, 90, 90), 'yellow': (255, 234, 0)}
    places = dict(green=(8, 8, 16, 16), red=(8, 40, 24, 20), yellow=(48, 8, 16, 24))  # in b/x.png
    picture = np.asarray(Image.open(files['b/x.jpg'])).astype(int)
    picture = picture[-448:]  # without the title; 7 times as large as the original
    for name, colour in colours.items():
        x, y, width, height = (7 * value for value in places[name])
        edge = picture[y + height // 4 : y + height * 3 // 4, x + width - 1 : x + width + 2]
        near = np.abs(edge - colour).max(axis=-1) < 90
        assert near.any(axis=1).mean() > 0.4, name


def test_the_report_shows_what_was_tested(run, tmp_path):
    assert run('--out', 'new')[0] == 0
    assert report.main(['new', '--out', 'new.html']) == 0
    data = json.loads(re.search(r'json">(.*?)</script>', (tmp_path / 'new.html').read_text(), re.S).group(1))
    wrong = [(data['kinds'][entry[1]], data['names'][entry[4]]) for entry in data['entries'] if entry[1] >= 0]
    missed = [data['names'][entry[4]] for entry in data['entries'] if entry[1] < 0 and not entry[3]]
    # One object cannot be seen, and one bright square is no object.
    assert wrong == [('background', 'b/x.png')] and missed == ['b/x.png']
    (only,) = data['runs']
    metrics = json.loads((tmp_path / 'new/metrics.json').read_text())
    assert (
        only['name'] == 'new'
        and {what: text for _, what, text, _ in only['key']}['mAP50'] == f'{metrics["coco/bbox_mAP_50"]:.3f}'
    )


def test_a_score_decides_what_is_shown(run, tmp_path):
    assert run('--show-dir', 'high', '--show-score', 0.95)[0] == 0
    picture = np.asarray(Image.open('high/b/x.jpg')).astype(int)
    assert not (np.abs(picture[-448:] - (255, 90, 90)).max(axis=-1) < 40).any()


def test_without_out_nothing_is_written(run, tmp_path):
    assert run('--work-dir', 'work')[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ['work']
    assert not list(tmp_path.rglob('*.png')) and not list(tmp_path.rglob('*.jpg'))


def test_each_of_several_metrics_has_a_folder(run, trained, tmp_path):
    first = Config.fromfile(trained.config).test_evaluator.to_dict()
    config = change(
        trained,
        tmp_path,
        test_evaluator=[
            dict(first, coco=False),
            dict(first, coco=False, prefix='strict', iou_thr=0.9),
            dict(type='mmdet.CocoMetric', ann_file=first['ann_file'], metric='bbox'),
        ],
    )
    assert run('--out', 'new', config=config)[0] == 0
    for name in ('pr', 'strict'):
        assert {*PLOTS, 'test.precision_recall.json'} <= {path.name for path in (tmp_path / 'new' / name).iterdir()}
    metrics = json.loads((tmp_path / 'new/metrics.json').read_text())
    assert {'coco/bbox_mAP', 'pr/f1', 'strict/f1'} <= metrics.keys()


def test_without_our_metric_there_are_no_plots_but_a_line(run, trained, tmp_path):
    evaluator = dict(type='mmdet.CocoMetric', ann_file=f'{trained.root}/test.json', metric='bbox')
    code, out, _ = run('--out', 'new', config=change(trained, tmp_path, test_evaluator=evaluator))
    assert code == 0 and 'No plots are written: they need a PrecisionRecallMetric in `test_evaluator`' in out
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['metrics.json']


@pytest.mark.parametrize('key', ['test_evaluator', 'test_dataloader', 'test_cfg'])
def test_a_config_without_a_test_is_an_error_of_one_line(key, run, trained, tmp_path):
    code, _, err = run('--out', 'new', config=change(trained, tmp_path, **{key: None}))
    assert code == 2 and err.splitlines()[-1].endswith(f'expected `{key}` in the config, but there is none')
    assert 'Traceback' not in err and not (tmp_path / 'new').exists()


def test_a_folder_with_files_is_not_filled(run, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/file').touch()
    code, _, err = run('--show-dir', 'mine')
    assert code == 2 and 'Expected --show-dir to be a new or an empty folder, but mine has content' in err
    assert run('--show-score', 3)[0] == 2


def test_intervals_and_operating_points_of_the_false_alarms(run, trained, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger, 'info', lambda self, text, *args, **kwargs: lines.append(str(text)))
    content = json.loads((trained.root / 'test.json').read_text())
    content['annotations'] = [box for box in content['annotations'] if box['image_id'] == 0]  # 2 squares are seen in 1
    (tmp_path / 'good.json').write_text(json.dumps(content))
    names = 'test_dataloader.dataset.ann_file', 'test_evaluator.ann_file'
    files = [f'{name}={tmp_path}/good.json' for name in names]
    options = 'test_evaluator.prevalence=0.5', 'test_evaluator.bootstrap=20'
    run('--out', 'new', '--cfg-options', *files, *options)
    metrics = json.loads((tmp_path / 'new/metrics.json').read_text())
    assert metrics['pr/alarms_per_100_good_at_0.25'] == 200 and metrics['pr/good_with_alarm_at_0.25'] == 1
    assert json.loads((tmp_path / 'new/tested.json').read_text())['prevalence'] == 0.5  # `report` needs it
    log = '\n'.join(lines)
    assert 'with 95 % intervals over the images' in log and 'at prevalence 0.5' in log
    assert 'With 1 good part, fewer than 100 false alarms per 100 cannot be shown' in log
