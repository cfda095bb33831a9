"""Errors name checkpoints that are broken, malicious or of another model. Code in a checkpoint is not executed."""

import copy
import functools
import http.server
import math
import os
import re
import shutil
import sys
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, find_latest_checkpoint
from mmyolo.registry import MODELS
from mmyolo.utils import register_all_modules

from mmyolo_bgpenalty import ResumableCheckpointHook
from mmyolo_bgpenalty.cli.train import main
from mmyolo_bgpenalty.engine.checkpoints import checkpoint_files
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError, check_resumable, read_checkpoint
from mmyolo_bgpenalty.engine.checkpoints.resume_fields import random_state
from mmyolo_bgpenalty.engine.checkpoints.start_weights import FITTED, StartWeights
from tests.helpers.child_runs import ended, start
from tests.helpers.pickles import Runs
from tests.helpers.tiny import SEMI, load
from tests.helpers.yolov8_pickles import save_yolov8, yolov8

HUB, OPTIMIZER = dict(log_scalars={}, runtime_info={}, resumed_keys={}), dict(state={}, param_groups=[])


@pytest.fixture(scope='module')
def cfg(data, tmp_path_factory):
    return load(SEMI, data, tmp_path_factory.mktemp('work'), train_cfg__max_epochs=1)


@pytest.fixture(scope='module')
def model(cfg):
    register_all_modules()
    return MODELS.build(cfg.model)


@pytest.fixture
def good(model):
    """A checkpoint from which a run can be resumed."""
    return dict(meta=dict(epoch=1, iter=5), state_dict=model.state_dict(), message_hub=HUB, optimizer=OPTIMIZER)


def saved(path, content):
    torch.save(content, path)
    return str(path)


def test_a_good_checkpoint_is_fine(good, model, tmp_path):
    file = saved(tmp_path / 'good.pth', good)
    check_resumable(file, model)
    StartWeights(file, model, complete=True)
    # The weights of a plain detector, without a `state_dict` around them, start student and teacher.
    plain = {name[8:]: value for name, value in good['state_dict'].items() if name.startswith('student.')}
    StartWeights(saved(tmp_path / 'plain.pth', plain), model, complete=True)
    del good['optimizer']
    # A run can be resumed without buffers. An evaluation needs the batch normalization statistics.
    good['state_dict'] = {name: value for name, value in good['state_dict'].items() if 'running' not in name}
    check_resumable(saved(tmp_path / 'no_optimizer.pth', good), model, optimizer=False)
    with pytest.raises(CheckpointError, match=r'lacks batch normalization statistics .*running_mean'):
        StartWeights(str(tmp_path / 'no_optimizer.pth'), model, complete=True)


@pytest.mark.parametrize('part', ['student', 'teacher'])
def test_evaluation_needs_every_parameter_and_load_from_needs_one(part, good, model, tmp_path):
    state = {**good['state_dict'], HEAD.replace('student', part): torch.zeros(80, 16, 1, 1)}
    file = saved(tmp_path / 'other.pth', dict(good, state_dict=state))
    StartWeights(file, model)
    with pytest.raises(CheckpointError, match='another model: 1 of .* differ.*: .80, 16, 1, 1. in the checkpoint'):
        StartWeights(file, model, complete=True)


HEAD = 'student.bbox_head.head_module.cls_preds.0.2.weight'
POSITION = dict(batch=1, batches=5, validated=True, random_states=[random_state()])
FOREIGN = [
    ([1, 2], 'no run can be resumed from it: it has no `meta`, `state_dict`'),
    (dict(meta=None), 'it has no `meta`'),
    (dict(optimizer=None), 'it has no `optimizer`. To start a new run from its weights, set it as `load_from`'),
    (dict(meta=dict(epoch=1, iter=5, config='1')), '`meta.config` is code'),
    (dict(meta=dict(epoch=-1, iter=5)), 'Expected `meta.epoch` to be a whole number >= 0, but got -1'),
    (dict(meta=dict(epoch=1, iter=True)), 'Expected `meta.iter` to be a whole number >= 0, but got True'),
    (dict(meta=dict(epoch=1, iter=5, seed='0')), "Expected `meta.seed` to be a whole number, but got '0'"),
    (dict(message_hub=dict(HUB, runtime_info=[])), 'Expected `message_hub.runtime_info` to be a dict, but got ..'),
    (dict(optimizer=dict(param_groups=3)), 'Expected `optimizer` to be the state of an optimizer, but got '),
    (dict(resume=[]), 'Expected `resume.batch` to be a whole number >= 0, but got nothing'),
    (dict(resume=dict(POSITION, batches=None)), 'Expected `resume.batches` to be a whole number >= 0, but got None'),
    (dict(resume=dict(POSITION, validated=1)), 'Expected `resume.validated` to be True or False, but got 1'),
    (dict(resume=dict(POSITION, random_states=7)), 'Expected `resume.random_states` to be a list of .*, but got 7'),
    (
        dict(resume=dict(POSITION, random_states=[dict(random_state(), python=(3, (1, 2), None))])),
        'Expected `resume.random_states` to be a list of random states, but got a list with other content',
    ),
    (dict(meta={}), 'it has no `meta.epoch`, `meta.iter`'),
    (
        'other classes',
        f'another model: 1 of .* differ. The first is {HEAD}: .80, 16, 1, 1. in the checkpoint, ',
    ),
    ('a plain detector', 'is of another model: .* parameters differ. The first is student.*: absent in the checkpoint'),
]


@pytest.mark.parametrize('change, message', FOREIGN)
def test_a_checkpoint_that_no_run_can_continue_from_is_named(change, message, good, model, tmp_path):
    if change == 'other classes':
        change = dict(state_dict={**good['state_dict'], HEAD: torch.zeros(80, 16, 1, 1)})
    elif change == 'a plain detector':
        change = dict(state_dict={name[8:]: value for name, value in good['state_dict'].items()})
    file = saved(tmp_path / 'foreign.pth', {**good, **change} if isinstance(change, dict) else change)
    with pytest.raises(CheckpointError, match=f'^{file}: .*{message}'):
        check_resumable(file, model)


@pytest.mark.parametrize(
    'content, message',
    [
        (dict(state_dict={}), 'expected a `state_dict` of tensors'),
        ([1, 2], 'expected a `state_dict` of tensors'),
        ({'fc.weight': torch.ones(2)}, 'another model: none of its tensors, such as fc.weight, is in this one'),
        (dict(state_dict={HEAD[8:]: torch.ones(80)}), 'another model: none of its tensors'),
    ],
)
def test_weights_of_another_model_are_named(content, message, model, tmp_path):
    file = saved(tmp_path / 'foreign.pth', content)
    with pytest.raises(CheckpointError, match=f'^{file}: .*{message}'):
        StartWeights(file, model)


def flipped(whole, place):
    """Bytes with 70 of them changed: more than torch leaves unused between two tensors."""
    return whole[:place] + bytes(byte ^ 1 for byte in whole[place : place + 70]) + whole[place + 70 :]


BROKEN = {
    'text': (
        lambda whole: b'no checkpoint\n',
        "it is a text file, which starts with 'no checkpoint'. Give a checkpoint",
    ),
    'empty': (lambda whole: b'', 'it is empty. Download or copy it again'),
    'truncated': (lambda whole: whole[: len(whole) // 2], 'its end is missing'),
    'flipped': (lambda whole: flipped(whole, len(whole) // 3), 'it is damaged: .* does not match its checksum'),
    'torn': (lambda whole: whole[: len(whole) // 2].ljust(len(whole), b'\0'), 'its end is missing'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_broken_files_are_named(name, good, model, tmp_path):
    file = tmp_path / 'broken.pth'
    saved(file, good)
    change, message = BROKEN[name]
    file.write_bytes(change(file.read_bytes()))
    for check in (StartWeights, check_resumable):
        with pytest.raises(CheckpointError, match=f'^{file}: cannot be read as a checkpoint: .*{message}') as error:
            check(str(file), model)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('value', [math.nan, -math.inf])
@pytest.mark.parametrize('name', ['teacher.backbone.stem.conv.weight', 'student.backbone.stem.bn.running_var'])
def test_weights_that_are_not_finite_are_refused(value, name, good, model, tmp_path):
    weight = good['state_dict'][name].clone()
    weight[-1] = value
    file = saved(tmp_path / 'bad.pth', dict(good, state_dict={**good['state_dict'], name: weight}))
    for check in (StartWeights, check_resumable):
        with pytest.raises(CheckpointError, match=f'^{file}: 1 of .* tensors are NaN or infinite, the first is {name}'):
            check(file, model)


def test_a_checkpoint_from_the_time_of_skipped_iterations_is_suspect(good, model, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoint_files, 'print_log', lambda text, **kwargs: said.append(text))
    file = saved(tmp_path / 'suspect.pth', dict(good, nonfinite_guard=dict(skipped=2, in_a_row=2, overflows=0)))
    StartWeights(file, model)
    check_resumable(file, model)
    assert len(said) == 2 and all(f'{file}: ' in text and 'may have diverged' in text for text in said)


def test_a_missing_file_is_not_a_broken_file(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.pth'):
        StartWeights(str(tmp_path / 'none.pth'), model)
    with pytest.raises(KeyError, match='no_such_model'):
        read_checkpoint('open-mmlab://no_such_model')


@pytest.mark.parametrize('option', ['--resume', 'load_from'])
@pytest.mark.parametrize('hook', ['ResumableCheckpointHook', 'CheckpointHook'])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(option, hook, good, cfg, tmp_path):
    file, trace, config = tmp_path / 'malicious.pth', tmp_path / 'trace', tmp_path / 'tiny.py'
    saved(file, {**good, 'extra': Runs(os.system, f'touch {trace}')})
    torch.load(file, weights_only=False)
    assert trace.exists()  # the pickle is malicious
    trace.unlink()
    cfg = copy.deepcopy(cfg)
    cfg.default_hooks.checkpoint.type = hook
    cfg.dump(config)
    given = ['--resume', file] if option == '--resume' else ['--cfg-options', f'load_from={file}']
    arguments = [*map(str, (config, '--work-dir', tmp_path / 'work', *given))]
    assert ended(start(tmp_path, lambda: sys.exit(main(arguments)))) == 2
    assert not trace.exists()
    line = (tmp_path / 'output.txt').read_text().splitlines()[-1]
    assert line.endswith(f': {file}: cannot be read as a checkpoint: it holds posix.system, which safe loading refuses')


def test_the_allowed_types_are_the_same_before_and_after_mmengine_reads_a_file(tmp_path):
    """MMEngine's fork allows getattr while it reads a file. Then it forbids HistoryBuffer, and we allow it again."""
    gets = saved(tmp_path / 'gets.pth', dict(x=Runs(getattr, HistoryBuffer, '__init__')))
    history = HistoryBuffer()
    history.update(1.0)
    good = saved(tmp_path / 'good.pth', dict(x=history))
    with pytest.raises(CheckpointError, match='gets.pth: cannot be read as a checkpoint: it holds getattr, which safe'):
        read_checkpoint(gets)
    with torch.serialization.safe_globals([getattr, HistoryBuffer]):
        pass
    assert read_checkpoint(good)['x'].mean() == 1
    assert torch.load(good)['x'].mean() == 1


def test_a_malicious_pickle_of_the_web_is_refused(tmp_path, monkeypatch):
    """torch.hub loads downloaded files unsafely by default."""
    trace, served = tmp_path / 'trace', tmp_path / 'served'
    served.mkdir()
    saved(served / 'malicious.pth', dict(state_dict=Runs(os.system, f'touch {trace}')))
    saved(served / 'good.pth', dict(state_dict=dict(weight=torch.ones(2))))
    save_yolov8(served / 'yolov8.pt', yolov8())

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, 'log_message', lambda *args: None)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        assert read_checkpoint(f'{address}/good.pth')['state_dict']['weight'].tolist() == [1, 1]
        assert len(read_checkpoint(f'{address}/yolov8.pt?download=true')['state_dict']) == 354
        with pytest.raises(CheckpointError, match=f'{address}/malicious.pth: .*it holds posix.system'):
            read_checkpoint(f'{address}/malicious.pth')
        with pytest.raises(OSError, match=f'^{address}/none.pth: HTTP Error 404'):
            read_checkpoint(f'{address}/none.pth')
        server.shutdown()
    assert read_checkpoint(f'{address}/good.pth')['state_dict']['weight'].tolist() == [1, 1]  # torch.hub keeps files
    assert not trace.exists()
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ
    loaders = {loader.__module__ for prefix, loader in CheckpointLoader._schemes.items() if prefix != FITTED}
    assert loaders == {'mmengine.runner.checkpoint'}


def test_a_broken_download_is_not_kept(tmp_path, monkeypatch):
    file = saved(tmp_path / 'good.pth', dict(weight=torch.ones(2)))
    whole, url = Path(file).read_bytes(), 'https://example.com/good.pth'
    sent = [whole[: len(whole) // 2], b'<html>log in</html>', whole]
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setattr(
        torch.hub, 'download_url_to_file', lambda url, place, progress: Path(place).write_bytes(sent.pop(0))
    )
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f'{url}: .*so the next run downloads it again$'):
            read_checkpoint(url)
    assert read_checkpoint(url)['weight'].tolist() == read_checkpoint(url)['weight'].tolist() == [1, 1]
    assert not sent


def test_a_download_that_safe_loading_refuses_stays(tmp_path, monkeypatch):
    """It may be another program's: the folder is that of torch.hub."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    file = tmp_path / 'hub/checkpoints/good.pth'
    file.parent.mkdir(parents=True)
    torch.save(dict(state_dict=dict(w=torch.ones(1)), time=timedelta(1)), file)
    with pytest.raises(CheckpointError, match='timedelta, which safe loading refuses'):
        read_checkpoint('https://example.com/good.pth')
    assert file.exists()


# Which checkpoint a run is resumed from

NAMES = ('epoch_1', 'epoch_2', 'epoch_2_iter_17', 'epoch_10')


def left_to_resume(folder, pointer=None, broken=(), names=NAMES, **arguments):
    """Return the checkpoint that a resumed run takes, and the warnings."""
    model, warnings = torch.nn.Linear(1, 1), []
    out = Path(arguments['out_dir'], folder.name) if arguments else folder
    for path in (folder, out):
        path.mkdir(parents=True, exist_ok=True)
    for name in names:
        content = dict(meta=dict(epoch=1, iter=1), state_dict=model.state_dict(), message_hub=HUB, optimizer=OPTIMIZER)
        torch.save(content, out / f'{name}.pth')
    for name in broken:
        (out / f'{name}.pth').write_bytes(b'')
    if pointer is not None:
        (folder / 'last_checkpoint').write_bytes(pointer.encode() if isinstance(pointer, str) else pointer)
    logger = SimpleNamespace(warning=warnings.append)
    runner = SimpleNamespace(_resume=True, _load_from=None, work_dir=str(folder), model=model, logger=logger)
    ResumableCheckpointHook(**arguments).before_run(runner)
    latest = find_latest_checkpoint(str(folder))
    assert latest is None or Path(latest).parent == out
    return latest and Path(latest).stem, warnings


@pytest.mark.parametrize(
    'pointer, expected',
    [
        ('{folder}/epoch_2.pth', 'epoch_2'),  # later checkpoints may be of an earlier run in the same folder
        ('/elsewhere/epoch_2_iter_17.pth', 'epoch_2_iter_17'),  # the folder was moved
        *((pointer, 'epoch_10') for pointer in (None, '', '\n')),
    ],
)
def test_a_run_is_resumed_from_what_last_checkpoint_names_or_the_newest(tmp_path, pointer, expected):
    assert left_to_resume(tmp_path, pointer and pointer.format(folder=tmp_path)) == (expected, [])


@pytest.mark.parametrize('arguments', [{}, dict(out_dir='out')])
def test_the_previous_checkpoint_is_taken_if_the_latest_is_broken(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    broken = NAMES[1:3]
    latest, (warning,) = left_to_resume(tmp_path / 'run', '/run/epoch_2_iter_17.pth', broken, **arguments)
    assert latest == 'epoch_1'
    assert re.search('from .*epoch_1.pth, because of: .*epoch_2_iter_17.pth: .*; .*epoch_2.pth: cannot', warning)
    # The next time there is no warning.
    assert left_to_resume(tmp_path / 'run', broken=broken, **arguments) == ('epoch_1', [])


GARBLED = [b'\x80\xff\xfe', 'epo', '/nowhere/epoch_7.pth', 'x' * 5000, 'epoch_2\0.pth', '/etc', 'two\nlines']


@pytest.mark.parametrize('pointer', GARBLED)
def test_a_garbled_last_checkpoint_falls_back_to_the_newest_good_one(tmp_path, pointer):
    latest, warnings = left_to_resume(tmp_path / 'run', pointer, broken=['epoch_10'])
    assert latest == 'epoch_2_iter_17'
    assert f'Expected {tmp_path}/run/last_checkpoint to name a checkpoint, but got ' in warnings[0]
    assert 'epoch_10.pth: cannot be read' in warnings[1] and len(warnings) == 2


def test_a_folder_in_the_place_of_last_checkpoint(tmp_path):
    (tmp_path / 'last_checkpoint').mkdir()
    assert left_to_resume(tmp_path)[0] == 'epoch_10'


def test_a_copied_folder_goes_on_from_its_own_files(tmp_path):
    left_to_resume(tmp_path / 'run', f'{tmp_path}/run/epoch_2.pth')
    shutil.copytree(tmp_path / 'run', tmp_path / 'copy')
    assert left_to_resume(tmp_path / 'copy') == ('epoch_2', [])


def test_a_run_stops_if_all_checkpoints_are_broken(tmp_path):
    with pytest.raises(CheckpointError, match='to resume from, but got: .*epoch_10.pth: .*; .*epoch_1.pth: cannot be'):
        left_to_resume(tmp_path, broken=NAMES)


def test_resume_without_checkpoints_starts_a_new_run(tmp_path):
    assert left_to_resume(tmp_path, names=()) == (None, [])
