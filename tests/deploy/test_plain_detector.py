"""A plain detector out of a checkpoint: its predictions, its config, ONNX, and tools/export_teacher.py."""

import copy
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmcv.ops import nms
from mmdet.apis import inference_detector
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmyolo.models.dense_heads import YOLOv8Head
from mmyolo.registry import METRICS, MODELS

from mmyolo_bgpenalty.cli.export import main
from mmyolo_bgpenalty.compat import FORK, allow_checkpoint_types, installed
from mmyolo_bgpenalty.deploy import onnx_graph
from mmyolo_bgpenalty.deploy import plain_detector as export
from mmyolo_bgpenalty.deploy.onnx_graph import export_onnx, input_shape
from mmyolo_bgpenalty.deploy.plain_detector import export_detector, plain_config
from tests.helpers.tiny import CLASSES, CONFIGS, INPUT, ROOT, SEMI, SUPERVISED, load, make_set

TOOL = ROOT / 'tools/export_teacher.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp('set'))


def pictures(data):
    return sorted(map(str, (data / 'images').glob('val_*.png')))


def tiny_config(name, data, work_dir):
    """With the tiny set to test on, too, of which inference must need no file."""
    cfg = load(name, data, work_dir)
    if name == SEMI:
        # As plain detectors lie in memory: channels_last rounds otherwise.
        cfg.model.semi_train_cfg.channels_last = False
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.test_dataloader.dataset.data_root = str(data / 'nowhere')
    cfg.test_evaluator = copy.deepcopy(cfg.val_evaluator)
    return cfg


def shake(model):
    """Other weights and statistics everywhere, and scores on both sides of the threshold."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value += 0.3 * value.std(unbiased=False) * torch.randn_like(value) + 0.02 * torch.rand_like(value)
        if 'cls_preds' in name and name.endswith('2.bias'):
            value.copy_(torch.tensor([-9.0, -3.0, 0.0]))


@pytest.fixture(scope='module')
def semi(data, tmp_path_factory):
    """Config file, checkpoint as MMEngine writes it, and the model, whose student and teacher differ."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp('semi')
    cfg = tiny_config(SEMI, data, folder)
    cfg.dump(folder / 'semi.py')
    model = MODELS.build(copy.deepcopy(cfg.model)).eval()
    shake(model)
    content = dict(
        meta=dict(epoch=7, iter=35, cfg=cfg.pretty_text, dataset_meta=dict(classes=CLASSES)),
        state_dict=model.state_dict(),
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1]))),
    )
    torch.save(content, folder / 'epoch_7.pth')
    model.cfg = cfg
    return SimpleNamespace(config=folder / 'semi.py', checkpoint=folder / 'epoch_7.pth', cfg=cfg, model=model)


def predictions(model, images, role='teacher'):
    model.semi_test_cfg = dict(predict_on=role)
    return [unpacked(sample.pred_instances) for sample in inference_detector(model, images)]


def unpacked(instances):
    return {key: instances[key] for key in ('bboxes', 'scores', 'labels')}


def same(found, expected):
    return len(found) == len(expected) and all(
        torch.equal(a[key], b[key]) for a, b in zip(found, expected) for key in ('bboxes', 'scores', 'labels')
    )


def run_tool(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of the command, in this process."""
    monkeypatch.setattr(sys, 'argv', [str(TOOL)])
    return (main(list(map(str, arguments))), *capsys.readouterr())


@pytest.mark.parametrize('role', ['teacher', 'student'])
def test_predicts_what_that_one_predicts(semi, data, role):
    exported = export_detector(Config.fromfile(semi.config), semi.checkpoint, student=role == 'student')
    found = [unpacked(s.pred_instances) for s in inference_detector(exported.model, pictures(data))]
    assert min(len(one['scores']) for one in found) > 20
    assert same(found, predictions(semi.model, pictures(data), role))
    other = predictions(semi.model, pictures(data), 'student' if role == 'teacher' else 'teacher')
    assert not same(found, other)
    assert exported.role == role and type(exported.model.bbox_head) is YOLOv8Head
    assert exported.checkpoint['meta']['epoch'] == 7


WITHOUT_PACKAGE = """
import sys
sys.modules['mmyolo_bgpenalty'] = None  # an import of it now fails
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
stem, out, images = sys.argv[1], sys.argv[2], sys.argv[3:]
detector = init_detector(stem + '.py', stem + '.pth', device='cpu')
found = dict(init_detector=inference_detector(detector, images))
for name, given in dict(both=dict(model=stem + '.py'), weights_alone={}).items():
    inferencer = DetInferencer(weights=stem + '.pth', device='cpu', show_progress=False, **given)
    found[name] = inferencer(images, return_datasamples=True, no_save_vis=True)['predictions']
    if inferencer.visualizer.dataset_meta != detector.dataset_meta:
        raise ValueError(name)
keys = ('bboxes', 'scores', 'labels')
found = {name: [{k: s.pred_instances[k] for k in keys} for s in samples] for name, samples in found.items()}
torch.save(dict(found=found, meta=detector.dataset_meta), out)
"""


def test_its_files_need_no_package_of_ours(semi, data, tmp_path, monkeypatch, capsys):
    code, out, err = run_tool(monkeypatch, capsys, semi.config, semi.checkpoint, '--out', tmp_path / 'new/folder')
    stem = tmp_path / 'new/folder/epoch_7_teacher'
    assert (code, err) == (0, '') and f'{stem}.pth' in out
    assert sorted(path.name for path in stem.parent.iterdir()) == ['epoch_7_teacher.pth', 'epoch_7_teacher.py']
    # by itself MMYOLO asserts that MMCV is not the fork's
    options = ['-O', '-W', 'ignore'] if installed(FORK['mmcv'][0]) else ['-W', 'ignore']
    command = [sys.executable, *options, '-c', WITHOUT_PACKAGE, stem, tmp_path / 'found.pt', *pictures(data)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = torch.load(tmp_path / 'found.pt')
    expected = predictions(semi.model, pictures(data))
    assert list(result['found']) == ['init_detector', 'both', 'weights_alone']
    for name, found in result['found'].items():
        assert same(found, expected), name
    assert result['meta']['classes'] == CLASSES
    assert len(result['meta']['palette']) == len(CLASSES) and len(result['meta']['palette'][0]) == 3


def test_of_channels_last_and_one_pass_comes_the_same(semi, data, tmp_path):
    """A checkpoint whose weights lie otherwise in memory, of a config that says so."""
    cfg = copy.deepcopy(semi.cfg)
    cfg.model.semi_train_cfg.update(channels_last=True, joint_forward=True)
    cfg.dump(tmp_path / 'semi.py')
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.load_state_dict(semi.model.state_dict())
    content = torch.load(semi.checkpoint)
    torch.save(dict(content, state_dict=model.state_dict()), tmp_path / 'epoch_7.pth')
    exported = export_detector(Config.fromfile(tmp_path / 'semi.py'), tmp_path / 'epoch_7.pth')
    found = [unpacked(s.pred_instances) for s in inference_detector(exported.model, pictures(data))]
    assert same(found, predictions(semi.model, pictures(data)))
    assert exported.model.backbone.stem.conv.weight.is_contiguous()


def test_checkpoint_is_safe_and_small(semi):
    exported = export_detector(Config.fromfile(semi.config), semi.checkpoint)
    content = export.checkpoint_bytes(exported.checkpoint)
    assert len(content) < 0.55 * semi.checkpoint.stat().st_size
    torch.serialization.clear_safe_globals()  # as where the package was never imported
    try:
        read = torch.load(io.BytesIO(content), weights_only=True)
    finally:
        allow_checkpoint_types()
    stock = plain_config(semi.cfg).model
    assert list(read['state_dict']) == list(MODELS.build(stock).state_dict())
    assert read['meta']['dataset_meta']['classes'] == CLASSES
    assert 'optimizer' not in read and 'message_hub' not in read


def test_starts_stock_training(semi, data, tmp_path, monkeypatch, capsys):
    """As `_base_` and load_from of a run of MMYOLO's own."""
    run_tool(monkeypatch, capsys, semi.config, semi.checkpoint, '--out', tmp_path)
    (tmp_path / 'tune.py').write_text(f"""
_base_ = './epoch_7_teacher.py'
load_from = '{tmp_path}/epoch_7_teacher.pth'
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='YOLOv5CocoDataset', data_root='{data}', ann_file='labeled.json',
        data_prefix=dict(img='images/'), metainfo=dict(classes={CLASSES}),
        pipeline=[
            dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
            dict(type='LetterResize', scale={INPUT}), dict(type='mmdet.PackDetInputs')]))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0))
test_dataloader, test_evaluator, test_cfg = None, None, None
visualizer = dict(name='{tmp_path}')
work_dir = '{tmp_path}/work'
""")
    runner = Runner.from_cfg(Config.fromfile(tmp_path / 'tune.py'))
    runner.train()
    assert set(runner.message_hub.log_scalars) >= {'train/loss_cls', 'train/loss_bbox', 'train/loss_dfl'}
    assert 'train/loss_bg' not in runner.message_hub.log_scalars
    # At rate 0 the parameters are those it began with.
    for key, value in runner.model.named_parameters():
        assert torch.equal(value, semi.model.state_dict()[f'teacher.{key}']), key


def test_supervised_exports_what_was_validated(data, tmp_path, monkeypatch, capsys):
    """That is EMAHook's average, which MMEngine stores as the weights."""
    cfg = tiny_config(SUPERVISED, data, tmp_path)
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'default_hooks.checkpoint.interval': 1})
    cfg.dump(tmp_path / 'supervised.py')
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    runner.train()
    (ema,) = (hook.ema_model.module for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    code, out, _ = run_tool(monkeypatch, capsys, tmp_path / 'supervised.py', tmp_path / 'epoch_1.pth')
    assert code == 0 and 'no teacher' in out
    found = torch.load(tmp_path / 'epoch_1_detector.pth')['state_dict']
    expected = ema.state_dict()
    assert list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
    assert not torch.equal(found['backbone.stem.conv.weight'], runner.model.state_dict()['backbone.stem.conv.weight'])
    assert Config.fromfile(tmp_path / 'epoch_1_detector.py').model.data_preprocessor.type.endswith(
        'YOLOv5DetDataPreprocessor'
    )


@pytest.mark.parametrize('name', sorted(path.name for path in CONFIGS.glob('*.py')))
def test_shipped_configs_become_plain(name):
    cfg = Config.fromfile(CONFIGS / name)
    cfg.custom_imports = dict(imports=['mmyolo_bgpenalty', 'json'], allow_failed_imports=True)
    before = cfg.pretty_text
    plain = plain_config(cfg)
    text = plain.pretty_text
    assert cfg.pretty_text == before
    found = {name: cls for registry in export.REGISTRIES for name, cls in registry.module_dict.items()}
    names = [name for name, cls in found.items() if cls.__module__.startswith('mmyolo_bgpenalty.')]
    assert {'BgPenaltyYOLOv8Head', 'RecordedLetterResize', 'SemiYOLODetector', 'SolarPanelDataset'} <= set(names)
    assert not [word for word in (*names, 'mmyolo_bgpenalty', 'bg_penalty', 'lambda') if word in text]
    assert plain.custom_imports == dict(imports=['json'], allow_failed_imports=True)
    assert plain.model.bbox_head.type == 'mmyolo.YOLOv8Head'
    assert plain.test_dataloader.dataset.pipeline[1] == {
        **cfg.test_dataloader.dataset.pipeline[1],
        'type': 'mmyolo.LetterResize',
        '_scope_': 'mmyolo',
    }
    # PrecisionRecallMetric is a CocoMetric of more figures.
    assert plain.test_evaluator.type == 'mmdet.CocoMetric'
    assert plain.test_evaluator.ann_file == cfg.test_evaluator.ann_file
    METRICS.build(dict(plain.test_evaluator, ann_file=None))
    assert type(MODELS.build(plain.model)).__name__ == 'YOLODetector'


def test_no_metric_comes_twice():
    def kept(*evaluators):
        cfg = Config.fromfile(CONFIGS / SUPERVISED)
        cfg.test_evaluator = list(evaluators)
        return plain_config(cfg).get('test_evaluator')

    coco, ours = dict(type='mmdet.CocoMetric', metric='bbox'), dict(type='PrecisionRecallMetric', recalls=[0.5])
    assert kept(ours, coco) == kept(coco, ours) == coco
    assert kept(ours, ours) == dict(type='mmdet.CocoMetric')
    assert kept(coco, dict(type='mmdet.VOCMetric')) == [coco, dict(type='mmdet.VOCMetric')]
    assert kept() is None


def test_only_what_our_class_adds_is_dropped():
    node = dict(
        keep=[dict(type='mmyolo.BgPenaltyYOLOv8Head', bg_penalty=dict(focal=True), head_module=dict(num_classes=3))],
        ours=dict(
            type='mmyolo_bgpenalty.datasets.transforms.RecordedLetterResize', scale=(96, 64), allow_scale_up=False
        ),
        theirs=dict(type='other.RecordedLetterResize', bg_penalty=1),
        pretrained=dict(init_cfg=dict(type='Pretrained', checkpoint='x.pth')),
        initialised=dict(init_cfg=dict(type='Kaiming')),
    )
    export._replace(node)
    assert node == dict(
        keep=[dict(type='mmyolo.YOLOv8Head', head_module=dict(num_classes=3))],
        ours=dict(type='mmyolo.LetterResize', scale=(96, 64), allow_scale_up=False),
        theirs=dict(type='other.RecordedLetterResize', bg_penalty=1),
        pretrained={},
        initialised=dict(init_cfg=dict(type='Kaiming')),
    )


def test_unequal_predictions_are_no_export(semi, monkeypatch):
    def other(cfg):
        plain = plain_config(cfg)
        plain.model.data_preprocessor.std = [254.0] * 3
        return plain

    monkeypatch.setattr(export, 'plain_config', other)
    with pytest.raises(ValueError, match='predicts otherwise'):
        export_detector(Config.fromfile(semi.config), semi.checkpoint)


def test_bad_input_is_one_line_and_leaves_nothing(semi, data, tmp_path, monkeypatch, capsys):
    good = torch.load(semi.checkpoint)
    weights = good['state_dict']
    supervised = tmp_path / 'supervised.py'
    tiny_config(SUPERVISED, data, tmp_path).dump(supervised)

    def altered(change):
        """Bytes of the checkpoint after ``change`` of its content."""
        content = dict(good, state_dict=dict(weights), meta=dict(good['meta']))
        return export.checkpoint_bytes(change(content) or content)

    whole = semi.checkpoint.read_bytes()
    head = 'teacher.bbox_head.head_module.cls_preds.0.2.bias'
    files = {
        'text': (b'no checkpoint\n', 'not a torch file'),
        'empty': (b'', 'cannot be read'),
        'truncated': (whole[: len(whole) // 2], 'cannot be read'),
        'foreign': (altered(lambda c: dict(model=c['state_dict'])), '`state_dict` of tensors'),
        'unsafe': (altered(lambda c: dict(c, extra=Path('x'))), 'safe loading refuses'),
        'plain': (altered(lambda c: c.update(state_dict={k[8:]: w for k, w in weights.items()})), '`teacher.…`'),
        'lacking': (altered(lambda c: c['state_dict'].__delitem__(head)), head[8:]),
        'more': (altered(lambda c: c['state_dict'].update({'teacher.mask_head.w': torch.ones(1)})), 'mask_head.w'),
        'other_shape': (altered(lambda c: c['state_dict'].update({head: torch.ones(80)})), head[8:]),
        'nan': (altered(lambda c: c['state_dict'].update({head: weights[head] * torch.nan})), 'not finite'),
        'classes': (altered(lambda c: c['meta'].update(dataset_meta=dict(CLASSES=('a', 'b', 'c')))), "('a', 'b', 'c')"),
    }
    out = tmp_path / 'out'
    out.mkdir()
    for name, (content, part) in files.items():
        file = tmp_path / f'{name}.pth'
        file.write_bytes(content)
        code, stdout, err = run_tool(monkeypatch, capsys, semi.config, file, '--out', out)
        assert code == 2 and stdout == '', name
        assert err.count('\n') == 1 and f'{file}: ' in err and part in err, (name, err)
    (tmp_path / 'a_file').write_text('')
    head_classes = 'model.detector.bbox_head.head_module.num_classes=4'
    for arguments, part in (
        ((semi.config, tmp_path / 'none.pth'), 'none.pth'),
        ((tmp_path / 'none.py', semi.checkpoint), 'none.py'),
        ((supervised, semi.checkpoint), 'student and teacher'),
        ((supervised, semi.checkpoint, '--student'), 'no student'),
        ((semi.config, semi.checkpoint, '--out', tmp_path / 'a_file'), 'a_file'),
        ((semi.config, semi.checkpoint, '--shape', '64', '96'), '--onnx'),
        ((semi.config, semi.checkpoint, '--cfg-options', head_classes), 'cls_preds'),
        ((semi.config, semi.checkpoint, '--cfg-options', 'model.detector.neck.type=Nick'), 'Nick'),
    ):
        code, stdout, err = run_tool(monkeypatch, capsys, '--out', out, *arguments)
        assert code == 2 and stdout == '' and err.count('\n') == 1 and part in err, (part, err)
    assert not list(out.iterdir())


def test_input_shape_is_the_last_scale():
    def shape(*steps):
        return input_shape(Config(dict(test_dataloader=dict(dataset=dict(pipeline=[*steps])))))

    assert shape(dict(type='LoadImageFromFile'), dict(scale=(96, 64)), dict(scale=(320, 256)), {}) == (256, 320)
    assert shape(dict(scale=640)) == (640, 640)
    with pytest.raises(ValueError, match='`scale`'):
        shape({})


@pytest.fixture(scope='module')
def onnx_file(semi, tmp_path_factory):
    """The exported detector, its ONNX file and how far onnxruntime was from torch."""
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    exported = export_detector(Config.fromfile(semi.config), semi.checkpoint)
    return (exported, *export_onnx(exported, INPUT[::-1]))


def test_onnx_detects_what_the_teacher_detects(semi, data, onnx_file):
    """Pixels in, boxes and scores out; threshold, NMS and the way back to the image as anyone would write them."""
    import onnxruntime

    exported, content, _ = onnx_file
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    cfg = exported.cfg.model.test_cfg
    pipeline = Compose(exported.cfg.test_dataloader.dataset.pipeline)
    packed = [pipeline(dict(img_path=file, img_id=0)) for file in pictures(data)]
    images = np.stack([one['inputs'].numpy() for one in packed])
    assert images.dtype == np.uint8 and images.shape[2:] == INPUT[::-1]
    boxes, scores = session.run(['boxes', 'scores'], dict(images=images))
    for i, expected in enumerate(predictions(semi.model, pictures(data))):
        height, width = mmcv.imread(pictures(data)[i]).shape[:2]
        ratio = min(images.shape[2] / height, images.shape[3] / width)
        top, left = ((side - round(size * ratio)) // 2 for side, size in zip(images.shape[2:], (height, width)))
        found = []
        for label in range(len(CLASSES)):
            score = scores[i, :, label]
            above = score > cfg.score_thr
            kept, _ = nms(boxes[i][above], score[above], cfg.nms.iou_threshold)
            for x1, y1, x2, y2, s in kept:
                x1, x2 = (np.clip((x - left) / ratio, 0, width) for x in (x1, x2))
                y1, y2 = (np.clip((y - top) / ratio, 0, height) for y in (y1, y2))
                found.append((s, label, x1, y1, x2, y2))
        found = np.array(sorted(found, reverse=True)[: cfg.max_per_img])
        assert len(found) == len(expected['scores']) > 20
        order = sorted(range(len(found)), key=lambda k: (-float(expected['scores'][k]), int(expected['labels'][k])))
        np.testing.assert_allclose(found[:, 0], expected['scores'][order], atol=1e-5)
        clear = np.abs(np.diff(found[:, 0], prepend=2)) > 1e-5  # where rounding cannot swap two neighbours
        clear &= np.append(clear[1:], True)
        assert clear.sum() > 10
        np.testing.assert_allclose(found[clear, 2:], expected['bboxes'][order].numpy()[clear], atol=0.02)
        assert (found[clear, 1] == expected['labels'][order].numpy()[clear]).all()


def test_onnx_takes_any_batch_and_says_what_it_is(onnx_file):
    import onnx
    import onnxruntime

    exported, content, differences = onnx_file
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    priors = sum((INPUT[0] // s) * (INPUT[1] // s) for s in (8, 16, 32))
    shapes = {x.name: x.shape for x in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == dict(
        images=['batch', 3, *INPUT[::-1]], boxes=['batch', priors, 4], scores=['batch', priors, len(CLASSES)]
    )
    images = np.random.default_rng(0).integers(0, 256, (5, 3, *INPUT[::-1]), dtype=np.uint8)
    together = session.run(None, dict(images=images))
    for i in range(5):
        for whole, alone in zip(together, session.run(None, dict(images=images[i : i + 1]))):
            np.testing.assert_allclose(whole[i], alone[0], atol=1e-3)
    meta = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(meta['classes'])) == CLASSES
    assert json.loads(meta['test_cfg']) == exported.cfg.model.test_cfg.to_dict()
    assert onnx.load_from_string(content).opset_import[0].version == onnx_graph.OPSET
    assert 0 <= differences['boxes'] < 0.01 and 0 <= differences['scores'] < 1e-4


def test_onnx_through_the_tool(semi, onnx_file, tmp_path, monkeypatch, capsys):
    arguments = (semi.config, semi.checkpoint, '--out', tmp_path, '--onnx', '--shape')
    code, out, _ = run_tool(monkeypatch, capsys, *arguments, 32, 64)
    assert code == 0 and '(batch, 3, 32, 64)' in out and 'largest difference' in out
    suffixes = ['.onnx', '.pth', '.py']
    assert sorted(path.suffix for path in tmp_path.iterdir()) == suffixes
    for path in tmp_path.iterdir():
        path.unlink()
    code, _, err = run_tool(monkeypatch, capsys, *arguments, 32, 60)
    assert code == 2 and 'multiples of 32' in err
    monkeypatch.setitem(onnx_graph.TOLERANCE, 'scores', -1.0)
    code, _, err = run_tool(monkeypatch, capsys, *arguments, 32, 64)
    assert code == 2 and 'scores by' in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('missing', ['onnx', 'onnxruntime'])
def test_onnx_absent_says_what_to_install(semi, tmp_path, monkeypatch, capsys, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, err = run_tool(monkeypatch, capsys, semi.config, semi.checkpoint, '--out', tmp_path, '--onnx')
    assert code == 2 and err.count('\n') == 1 and 'pip install onnx onnxruntime' in err
    assert not list(tmp_path.iterdir())


def test_default_scope_is_left_alone(semi):
    with DefaultScope.overwrite_default_scope('mmdet'):
        exported = export_detector(Config.fromfile(semi.config), semi.checkpoint)
        assert DefaultScope.get_current_instance().scope_name == 'mmdet'
    assert exported.cfg.default_scope == 'mmyolo'
