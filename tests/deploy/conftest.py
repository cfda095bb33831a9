"""A semi-supervised checkpoint on the tiny set, the export command, and the ONNX file of the teacher."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmyolo.registry import MODELS

from mmyolo_bgpenalty.cli.export import main
from mmyolo_bgpenalty.deploy.onnx_graph import export_onnx
from mmyolo_bgpenalty.deploy.plain_detector import export_detector
from tests.helpers.exported import tiny_config
from tests.helpers.tiny import CLASSES, INPUT, SEMI


@pytest.fixture(scope='session')
def pictures(data):
    return sorted(map(str, (data / 'images').glob('val_*.png')))


@pytest.fixture(scope='session')
def semi(data, tmp_path_factory):
    """Config file, checkpoint as MMEngine writes it, and the model, whose student and teacher differ."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp('semi')
    cfg = tiny_config(SEMI, data, folder)
    cfg.dump(folder / 'semi.py')
    model = MODELS.build(copy.deepcopy(cfg.model)).eval()
    for name, value in model.state_dict().items():
        # All weights and statistics differ, and scores are on both sides of the threshold.
        if value.is_floating_point():
            value += 0.3 * value.std(unbiased=False) * torch.randn_like(value) + 0.02 * torch.rand_like(value)
        if 'cls_preds' in name and name.endswith('2.bias'):
            value.copy_(torch.tensor([-9.0, -3.0, 0.0]))
    content = dict(
        meta=dict(epoch=7, iter=35, cfg=cfg.pretty_text, dataset_meta=dict(classes=CLASSES)),
        state_dict=model.state_dict(),
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1]))),
    )
    torch.save(content, folder / 'epoch_7.pth')
    model.cfg = cfg
    return SimpleNamespace(config=folder / 'semi.py', checkpoint=folder / 'epoch_7.pth', cfg=cfg, model=model)


@pytest.fixture(scope='session')
def exported(semi):
    return export_detector(Config.fromfile(semi.config), semi.checkpoint)


@pytest.fixture(scope='session')
def onnx_file(exported):
    """The ONNX file of the teacher, and the differences between onnxruntime and torch."""
    return export_onnx(exported, INPUT[::-1])


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Run the command. Returns its exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['export_teacher.py'])
        return (main(list(map(str, arguments))), *capsys.readouterr())

    return run
