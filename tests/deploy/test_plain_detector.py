import copy
import io
import json
import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmyolo.models.dense_heads import YOLOv8Head
from mmyolo.registry import METRICS, MODELS

from mmyolo_bgpenalty.compat import FORK, allow_checkpoint_types, installed
from mmyolo_bgpenalty.deploy import plain_detector
from mmyolo_bgpenalty.deploy.plain_detector import checkpoint_bytes, export_detector, plain_config
from tests.helpers.exported import detections, same, tiny_config
from tests.helpers.tiny import CLASSES, CONFIGS, INPUT, SUPERVISED


@pytest.mark.parametrize('role', ['teacher', 'student'])
def test_an_export_predicts_what_its_role_predicts(semi, pictures, role):
    with DefaultScope.overwrite_default_scope('mmdet'):  # the export does not change it
        exported = export_detector(Config.fromfile(semi.config), semi.checkpoint, student=role == 'student')
        assert DefaultScope.get_current_instance().scope_name == 'mmdet'
    found = detections(exported.model, pictures)
    assert min(map(len, found)) > 20
    assert same(found, detections(semi.model, pictures, role))
    assert not same(found, detections(semi.model, pictures, 'student' if role == 'teacher' else 'teacher'))
    assert exported.role == role and type(exported.model.bbox_head) is YOLOv8Head
    assert exported.checkpoint['meta']['epoch'] == 7 and exported.cfg.default_scope == 'mmyolo'


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
found = {name: [sample.pred_instances for sample in samples] for name, samples in found.items()}
found = {name: [torch.cat([one.bboxes, one.scores[:, None], one.labels[:, None]], 1) for one in instances]
         for name, instances in found.items()}
torch.save(dict(found=found, meta=detector.dataset_meta), out)
"""


def test_the_files_work_without_this_package(semi, pictures, tmp_path, run_tool):
    code, out, err = run_tool(semi.config, semi.checkpoint, '--out', tmp_path / 'new/folder')
    stem = tmp_path / 'new/folder/epoch_7_teacher'
    assert (code, err) == (0, '') and f'{stem}.pth' in out
    assert sorted(path.name for path in stem.parent.iterdir()) == ['epoch_7_teacher.pth', 'epoch_7_teacher.py']
    # MMYOLO asserts that MMCV is older than 2.1. The MMCV of the fork is newer. -O skips the assertion.
    options = ['-O', '-W', 'ignore'] if installed(FORK['mmcv'][0]) else ['-W', 'ignore']
    command = [sys.executable, *options, '-c', WITHOUT_PACKAGE, stem, tmp_path / 'found.pt', *pictures]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = torch.load(tmp_path / 'found.pt')
    expected = detections(semi.model, pictures)
    assert list(result['found']) == ['init_detector', 'both', 'weights_alone']
    for name, found in result['found'].items():
        assert same(found, expected), name
    assert result['meta']['classes'] == CLASSES
    assert len(result['meta']['palette']) == len(CLASSES) and len(result['meta']['palette'][0]) == 3


def test_channels_last_gives_the_same_detector(semi, pictures, tmp_path):
    """The weights of the checkpoint have the memory format of the config."""
    cfg = copy.deepcopy(semi.cfg)
    cfg.model.semi_train_cfg.channels_last = True
    cfg.dump(tmp_path / 'semi.py')
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.load_state_dict(semi.model.state_dict())
    torch.save(dict(torch.load(semi.checkpoint), state_dict=model.state_dict()), tmp_path / 'epoch_7.pth')
    exported = export_detector(Config.fromfile(tmp_path / 'semi.py'), tmp_path / 'epoch_7.pth')
    assert same(detections(exported.model, pictures), detections(semi.model, pictures))
    assert exported.model.backbone.stem.conv.weight.is_contiguous()


def test_checkpoint_is_safe_and_small(semi, exported):
    content = checkpoint_bytes(exported.checkpoint)
    assert len(content) < 0.55 * semi.checkpoint.stat().st_size
    torch.serialization.clear_safe_globals()  # as if the package was never imported
    try:
        read = torch.load(io.BytesIO(content), weights_only=True)
    finally:
        allow_checkpoint_types()
    assert list(read['state_dict']) == list(MODELS.build(plain_config(semi.cfg).model).state_dict())
    assert read['meta']['dataset_meta']['classes'] == CLASSES
    assert 'optimizer' not in read and 'message_hub' not in read


def test_an_export_starts_a_training_without_the_penalty(semi, data, tmp_path, run_tool):
    """The exported files are `_base_` and `load_from` of the config."""
    run_tool(semi.config, semi.checkpoint, '--out', tmp_path)
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
    # The learning rate is 0, so the parameters do not change.
    for key, value in runner.model.named_parameters():
        assert torch.equal(value, semi.model.state_dict()[f'teacher.{key}']), key


def test_a_supervised_export_is_the_validated_model(data, tmp_path, run_tool):
    """MMEngine validates and stores the average of EMAHook."""
    cfg = tiny_config(SUPERVISED, data, tmp_path)
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'default_hooks.checkpoint.interval': 1})
    cfg.dump(tmp_path / 'supervised.py')
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    runner.train()
    (ema,) = (hook.ema_model.module for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    code, out, _ = run_tool(tmp_path / 'supervised.py', tmp_path / 'epoch_1.pth')
    assert code == 0 and 'no teacher' in out
    found = torch.load(tmp_path / 'epoch_1_detector.pth')['state_dict']
    expected = ema.state_dict()
    assert list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
    assert not torch.equal(found['backbone.stem.conv.weight'], runner.model.state_dict()['backbone.stem.conv.weight'])
    plain = Config.fromfile(tmp_path / 'epoch_1_detector.py')
    assert plain.model.data_preprocessor.type.endswith('YOLOv5DetDataPreprocessor')


@pytest.mark.parametrize('name', sorted(path.name for path in CONFIGS.glob('*.py')))
def test_shipped_configs_become_plain(name):
    cfg = Config.fromfile(CONFIGS / name)
    cfg.custom_imports = dict(imports=['mmyolo_bgpenalty', 'json'], allow_failed_imports=True)
    before = cfg.pretty_text
    plain = plain_config(cfg)
    text = plain.pretty_text
    assert cfg.pretty_text == before
    found = {name: cls for registry in plain_detector.REGISTRIES for name, cls in registry.module_dict.items()}
    names = [name for name, cls in found.items() if cls.__module__.startswith('mmyolo_bgpenalty.')]
    assert {'BgPenaltyYOLOv8Head', 'RecordedLetterResize', 'SemiYOLODetector', 'SolarPanelDataset'} <= set(names)
    assert not [word for word in (*names, 'mmyolo_bgpenalty', 'bg_penalty', 'lambda') if word in text]
    assert plain.custom_imports == dict(imports=['json'], allow_failed_imports=True)
    assert plain.model.bbox_head.type == 'mmyolo.YOLOv8Head'
    resize = dict(cfg.test_dataloader.dataset.pipeline[1], type='mmyolo.LetterResize', _scope_='mmyolo')
    assert plain.test_dataloader.dataset.pipeline[1] == resize
    # The parent of PrecisionRecallMetric is CocoMetric.
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


def test_only_arguments_of_our_classes_and_pretrained_weights_are_dropped():
    resize = dict(scale=(96, 64), allow_scale_up=False)
    node = dict(
        keep=[dict(type='mmyolo.BgPenaltyYOLOv8Head', bg_penalty=dict(focal=True), head_module=dict(num_classes=3))],
        ours=dict(resize, type='mmyolo_bgpenalty.datasets.transforms.RecordedLetterResize'),
        theirs=dict(type='other.RecordedLetterResize', bg_penalty=1),
        pretrained=dict(init_cfg=dict(type='Pretrained', checkpoint='x.pth')),
        initialised=dict(init_cfg=dict(type='Kaiming')),
    )
    plain_detector._replace(node)
    assert node == dict(
        keep=[dict(type='mmyolo.YOLOv8Head', head_module=dict(num_classes=3))],
        ours=dict(resize, type='mmyolo.LetterResize'),
        theirs=dict(type='other.RecordedLetterResize', bg_penalty=1),
        pretrained={},
        initialised=dict(init_cfg=dict(type='Kaiming')),
    )


def test_unequal_predictions_are_refused(semi, monkeypatch):
    def other(cfg):
        plain = plain_config(cfg)
        plain.model.data_preprocessor.std = [254.0] * 3
        return plain

    monkeypatch.setattr(plain_detector, 'plain_config', other)
    with pytest.raises(ValueError, match='expected equal predictions'):
        export_detector(Config.fromfile(semi.config), semi.checkpoint)


def test_a_json_that_mmdetections_metric_does_not_take_is_named(semi, data, tmp_path, run_tool):
    coco = json.loads((data / 'val.json').read_text())
    coco['annotations'][0]['id'] = 0
    (tmp_path / 'val.json').write_text(json.dumps(coco))
    files = [f'{where}.ann_file={tmp_path / "val.json"}' for where in ('test_dataloader.dataset', 'test_evaluator')]
    code, out, _ = run_tool(semi.config, semi.checkpoint, '--out', tmp_path / 'out', '--cfg-options', *files)
    assert code == 0 and 'epoch_7_teacher.py: test_evaluator.type: the annotation 0 of' in out


def test_bad_input_gives_an_error_of_one_line_and_no_files(semi, data, tmp_path, run_tool):
    good = torch.load(semi.checkpoint)
    weights = good['state_dict']
    supervised = tmp_path / 'supervised.py'
    tiny_config(SUPERVISED, data, tmp_path).dump(supervised)

    def altered(change):
        """Bytes of the checkpoint after ``change`` of its content."""
        content = dict(good, state_dict=dict(weights), meta=dict(good['meta']))
        return checkpoint_bytes(change(content) or content)

    head = 'teacher.bbox_head.head_module.cls_preds.0.2.bias'
    files = {
        'text': (b'no checkpoint\n', 'it is a text file'),
        'foreign': (altered(lambda c: dict(model=c['state_dict'])), '`state_dict` of tensors'),
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
        code, stdout, err = run_tool(semi.config, file, '--out', out)
        assert code == 2 and stdout == '', name
        assert err.count('\n') == 1 and f'{file}: ' in err and part in err, (name, err)
    (tmp_path / 'a_file').write_text('')
    head_classes = 'model.detector.bbox_head.head_module.num_classes=4'
    for arguments, part in (
        ((semi.config, tmp_path / 'none.pth'), 'none.pth'),
        ((tmp_path / 'none.py', semi.checkpoint), 'none.py'),
        ((supervised, semi.checkpoint), 'student and teacher'),
        ((supervised, semi.checkpoint, '--student'), 'got a supervised one'),
        ((semi.config, semi.checkpoint, '--out', tmp_path / 'a_file'), 'a_file'),
        ((semi.config, semi.checkpoint, '--shape', '64', '96'), '--onnx'),
        ((semi.config, semi.checkpoint, '--cfg-options', head_classes), 'cls_preds'),
        ((semi.config, semi.checkpoint, '--cfg-options', 'test_dataloader=None'), '`test_dataloader`'),
        ((semi.config, semi.checkpoint, '--cfg-options', 'model.detector.neck.type=Nick'), 'Nick'),
    ):
        code, stdout, err = run_tool('--out', out, *arguments)
        assert code == 2 and stdout == '' and err.count('\n') == 1 and part in err, (part, err)
    assert not list(out.iterdir())
