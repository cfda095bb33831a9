"""Names of metrics with names of classes in them, in the backends of MMEngine's visualizer."""

import json
import posixpath
import re
from types import SimpleNamespace

import pytest
from mmengine.runner import Runner
from mmengine.visualization import MLflowVisBackend
from mmyolo.registry import VISBACKENDS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmyolo_bgpenalty.evaluation.names import metric_names
from tests.helpers.tiny import CLASSES, load, make_set

ODD = ('crack (deep)', '../hot, cell/loss', 'é[red]@\n\x1b[2J')


class FileStore:
    """MLflow's file store: the documented rules for the names of metrics and of pictures."""

    def __init__(self, folder):
        self.folder, self.names = folder, set()

    def log_metrics(self, metrics, step):
        for name in metrics:
            assert re.fullmatch(r'[/\w.\- ]+', name) and len(name) <= 250, name
            assert posixpath.normpath(name) == name and not name.startswith(('..', '/')), name
            path = self.folder / 'metrics' / name  # a metric is a file, so none may be the folder of another
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open('a').close()
            self.names.add(name)

    def log_image(self, image, artifact_file):
        assert posixpath.splitext(artifact_file)[1] == '.png'
        self.names.add(artifact_file)

    def log_params(self, params):
        pass

    def log_text(self, text, name):
        pass


@VISBACKENDS.register_module()
class FakeMLflow(MLflowVisBackend):
    def _init_env(self):
        self._mlflow = FileStore(self.path)

    def close(self):
        pass


def test_each_class_gets_a_name_of_its_own():
    names = ['hot cell', 'λ-Δ.é', 'a/b', 'a(b', 'a_b', 'hot_cell', '', 'e\u0301', 'x' * 300, 'x' * 299]
    plain = metric_names(names)
    assert plain[:3] == ['hot cell', 'λ-Δ.é', 'a_b'] and plain[7] == 'é'
    assert len({name.replace(' ', '_') for name in plain}) == len(names) and max(map(len, plain)) < 70
    assert metric_names(CLASSES) == list(CLASSES)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of the shipped semi-supervised config whose classes have odd names."""
    folder = tmp_path_factory.mktemp('names')
    root = make_set(folder / 'set')
    for name in ('labeled', 'unlabeled', 'val'):
        path = root / f'{name}.json'
        coco = json.loads(path.read_text())
        for category, odd in zip(coco['categories'], ODD):
            category['name'] = odd
        path.write_text(json.dumps(coco))
    cfg = load('yolov8_semi_bgpenalty.py', root, folder / 'run', burn_in=0, lambda_bg_warmup=1, train_cfg__max_epochs=1)
    loaders = cfg.train_dataloader.dataset.labeled, cfg.train_dataloader.dataset.unlabeled, cfg.val_dataloader.dataset
    for dataset in loaders:
        dataset.metainfo = dict(classes=ODD)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.pictures.interval = 4
    cfg.val_evaluator.update(classwise=True)
    FakeMLflow.path = folder
    cfg.visualizer.vis_backends = [
        dict(type=kind) for kind in ('FakeMLflow', 'LocalVisBackend', 'TensorboardVisBackend')
    ]
    cfg.experiment_name = 'odd_names'
    runner = Runner.from_cfg(cfg)
    runner.train()
    data = folder / 'run' / runner.timestamp / 'vis_data'
    rows = [json.loads(line) for line in (data / 'scalars.json').read_text().splitlines()]
    return SimpleNamespace(runner=runner, folder=data, names={name for row in rows for name in row})


def test_all_names_of_a_run_are_valid_in_mlflow(run):
    names = run.runner.visualizer.get_backend('FakeMLflow')._mlflow.names
    assert {'semi/bg_penalty_mean', 'loss', 'teacher/coco/bbox_mAP'} <= names
    assert {'semi/threshold_crack _deep_', 'semi/threshold_.._hot_ cell_loss'} <= names
    assert 'teacher/pr/é_red_____2J_ap' in names
    assert {'teacher/coco/crack _deep__precision', 'teacher/coco/.._hot_ cell_loss_precision'} <= names
    assert any(re.fullmatch(r'pseudo_labels_\d+\.png', name) for name in names)


def test_no_two_names_are_one_in_tensorboard(run):
    events = EventAccumulator(str(run.folder)).Reload().Tags()
    progress = {'step', 'epoch', 'iter'}
    assert len({*events['scalars']} - progress) == len(run.names - progress) and len(events['images']) == 1
