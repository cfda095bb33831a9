import json
import sys

import mmcv
import numpy as np
import pytest
from mmcv.ops import nms
from mmengine.config import Config
from mmengine.dataset import Compose

from mmyolo_bgpenalty.deploy import onnx_graph
from mmyolo_bgpenalty.deploy.onnx_graph import input_shape
from tests.helpers.exported import detections
from tests.helpers.tiny import CLASSES, INPUT

onnx, onnxruntime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def session(onnx_file):
    return onnxruntime.InferenceSession(onnx_file[0], providers=['CPUExecutionProvider'])


def test_input_shape_is_the_last_scale():
    def shape(*steps):
        return input_shape(Config(dict(test_dataloader=dict(dataset=dict(pipeline=[*steps])))))

    assert shape(dict(type='LoadImageFromFile'), dict(scale=(96, 64)), dict(scale=(320, 256)), {}) == (256, 320)
    assert shape(dict(scale=640)) == (640, 640)
    with pytest.raises(ValueError, match='`scale`'):
        shape({})


def test_onnx_detects_what_the_teacher_detects(semi, pictures, exported, session):
    """The test applies a threshold and NMS and maps boxes back to the image, as a user of the file must."""
    cfg = exported.cfg.model.test_cfg
    pipeline = Compose(exported.cfg.test_dataloader.dataset.pipeline)
    images = np.stack([pipeline(dict(img_path=file, img_id=0))['inputs'].numpy() for file in pictures])
    assert images.dtype == np.uint8 and images.shape[2:] == INPUT[::-1]
    boxes, scores = session.run(['boxes', 'scores'], dict(images=images))
    for i, expected in enumerate(detections(semi.model, pictures)):
        height, width = mmcv.imread(pictures[i]).shape[:2]
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
                found.append((x1, y1, x2, y2, s, label))
        found = np.array(sorted(found, key=lambda row: (-row[4], row[5]))[: cfg.max_per_img])
        assert len(found) == len(expected) > 20
        expected = np.array(sorted(expected.tolist(), key=lambda row: (-row[4], row[5])))
        np.testing.assert_allclose(found[:, 4], expected[:, 4], atol=1e-5)
        clear = np.abs(np.diff(found[:, 4], prepend=2)) > 1e-5  # where rounding cannot swap two neighbours
        clear &= np.append(clear[1:], True)
        assert clear.sum() > 10
        np.testing.assert_allclose(found[clear], expected[clear], atol=0.02)


def test_onnx_takes_any_batch_and_describes_itself(exported, onnx_file, session):
    content, differences = onnx_file
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


def test_onnx_through_the_tool(semi, tmp_path, monkeypatch, run_tool):
    arguments = (semi.config, semi.checkpoint, '--out', tmp_path, '--onnx', '--shape')
    code, out, _ = run_tool(*arguments, 32, 64)
    assert code == 0 and '(batch, 3, 32, 64)' in out and 'Largest difference' in out
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ['.onnx', '.pth', '.py']
    for path in tmp_path.iterdir():
        path.unlink()
    code, _, err = run_tool(*arguments, 32, 60)
    assert code == 2 and 'multiples of 32' in err
    monkeypatch.setitem(onnx_graph.TOLERANCE, 'scores', -1.0)
    code, _, err = run_tool(*arguments, 32, 64)
    assert code == 2 and 'scores by' in err
    for missing in ('onnx', 'onnxruntime'):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            code, _, err = run_tool(*arguments, 32, 64)
        assert code == 2 and err.count('\n') == 1 and 'pip install onnx onnxruntime' in err
    assert not list(tmp_path.iterdir())
