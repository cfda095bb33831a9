"""Checks of versions, the import of MMYOLO with the fork of MMCV, and the types that torch loads from checkpoints."""

import io
import os
import pickle
import re
import subprocess
import sys
import zipfile
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmyolo_bgpenalty import compat
from tests.helpers.pickles import Runs

ROOT = Path(__file__).resolve().parents[1]
GOOD = {'torch': '2.13.0+cpu', 'mmengine': '0.10.7', 'mmcv': '2.0.1', 'mmdet': '3.3.0', 'mmyolo': '0.6.0'}


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return file


def test_history_buffers_load():
    """torch can load a checkpoint with a message hub."""
    hub, fresh = MessageHub('test_compat'), MessageHub('test_compat again')
    for value in (1.0, 2.5, 4.0):
        hub.update_scalar('train/loss', value)
    hub.update_info('best_score', np.float64(0.5))
    fresh.load_state_dict(torch.load(saved({'message_hub': hub.state_dict()}))['message_hub'])
    loaded = fresh.get_scalar('train/loss')
    assert type(loaded) is HistoryBuffer and fresh.get_info('best_score') == 0.5
    assert loaded.data[0].tolist() == [1, 2.5, 4] and loaded.data[1].tolist() == [1, 1, 1]
    assert (loaded.mean(), loaded.min(), loaded.max(), loaded.current()) == (2.5, 1, 4, 4)
    loaded.update(0.5)
    assert loaded.statistics('min') == 0.5


@pytest.mark.parametrize('core', [b'numpy._core.', b'numpy.core.'])  # the second is the name in NumPy 1
@pytest.mark.parametrize('kind', ['float64', 'int64'])
def test_numpy_values_load_from_files_of_both_versions(kind, core):
    file, other = saved({'score': np.dtype(kind).type(1), 'scores': np.ones(2, kind)}), io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(other, 'w') as target:
        for name in source.namelist():
            target.writestr(name, re.sub(rb'numpy\._?core\.', core, source.read(name)))
    other.seek(0)
    loaded = torch.load(other)
    assert loaded['score'] == 1 and type(loaded['score']) is np.dtype(kind).type
    assert loaded['scores'].dtype == kind and loaded['scores'].tolist() == [1, 1]


@pytest.mark.parametrize(
    'call',
    [
        (os.system, 'touch trace'),
        (eval, 'open("trace", "w")'),
        (np.load, 'trace'),
        (getattr, np.ndarray, 'mean'),
        (getattr, HistoryBuffer, '__init__'),
        (getattr, Path, 'unlink'),
    ],
    ids=lambda call: call[0].__name__,
)
def test_a_checkpoint_cannot_call_functions(call, tmp_path, monkeypatch):
    """`getattr` may be called, but it returns only the statistics methods of HistoryBuffer."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(saved({'state_dict': {}, 'extra': Runs(*call)}))
    assert not Path('trace').exists()
    assert torch.load(saved(Runs(getattr, HistoryBuffer, 'mean'))) is HistoryBuffer.mean


def test_pkg_resources_is_there():
    assert import_module('pkg_resources').parse_version('2.0.1') > import_module('pkg_resources').parse_version('2.0.0')
    assert 'setuptools<81' in (ROOT / 'requirements/runtime.txt').read_text(encoding='utf-8').splitlines()
    assert "'setuptools<81'" in (ROOT / 'pyproject.toml').read_text(encoding='utf-8')


def test_torchvision_is_not_imported():
    """A torchvision for another torch fails when it is imported."""
    code = 'import sys; sys.modules["torchvision"] = None; import mmyolo_bgpenalty'
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


FORK = {
    **dict.fromkeys(compat.FORK),
    **{'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6', 'onedl-mmdetection': '3.5.1'},
}


def versions(monkeypatch, **found):
    """Pretend that these versions are installed. None: the package is not installed."""

    def version(name):
        if {**GOOD, **found}.get(name) is None:
            raise metadata.PackageNotFoundError(name)
        return {**GOOD, **found}[name]

    monkeypatch.setattr(metadata, 'version', version)


@pytest.mark.parametrize(
    'found',
    [
        {},
        {'torch': '2.1.0+cu118'},
        {'torch': '2.14.0a0+git123'},
        {'torch': '10.0', 'mmcv': '2.0.0+cu118'},
        {'mmengine': '0.11.0rc1', 'mmdet': '3.0.0', 'mmyolo': '0.6.1.dev0', 'mmcv': '2.0.0.post1'},
        FORK,
        {**FORK, 'onedl-mmcv': '2.3.2.post2'},
        {'mmdet': None, 'onedl-mmdetection': '3.4.2.post1'},
    ],
    ids=str,
)
def test_good_versions_pass(found, monkeypatch):
    versions(monkeypatch, **found)
    compat.check_versions()


ORIGINAL = [('torch', '2.0.1'), ('mmengine', '0.9.1'), ('mmcv', '1.7.2'), ('mmcv', '2.1.0'), ('mmdet', '3.0.0rc6')]
FORKED = [
    ('onedl-mmengine', '0.10.7', '>= 0.10.8, < 1.0'),
    ('onedl-mmcv', '2.2.0', '>= 2.3, < 2.4'),
    ('onedl-mmcv', '2.4.0', '>= 2.3, < 2.4'),
    ('onedl-mmdetection', '3.3.0', '>= 3.4, < 4.0'),
]


@pytest.mark.parametrize(
    'name, found, wanted',
    [
        *((name, found, f'>= {compat.REQUIRED[name][0]}') for name, found in ORIGINAL),
        *((name, None, f'>= {compat.REQUIRED[name][0]}') for name in GOOD),
        *FORKED,
    ],
)
def test_wrong_and_missing_versions_are_named(name, found, wanted, monkeypatch):
    versions(monkeypatch, **({**FORK, name: found} if name.startswith('onedl') else {name: found}))
    with pytest.raises(ImportError) as error:
        compat.check_versions()
    message = str(error.value)
    assert f'cannot work here: {name} {wanted}' in message and message.count('is needed') == 1
    assert f'and {name} {found} is installed' in message if found else f'and {name} is not installed' in message
    heading, page = re.search('See "(.*)" in (docs/.*)[.]$', message).groups()
    assert re.search(f'^#+ {heading}$', (ROOT / page).read_text(encoding='utf-8'), re.MULTILINE)


@pytest.mark.parametrize(
    'found, faults',
    [
        ({'onedl-mmcv': '2.3.6'}, 'mmcv 2.0.1 and onedl-mmcv 2.3.6 are installed over each other: uninstall both'),
        ({'mmengine': None, 'mmcv': '2.2.0'}, '.* mmengine is not installed; mmcv .* and mmcv 2.2.0 is installed. See'),
    ],
)
def test_the_fork_installed_over_the_original_is_an_error(found, faults, monkeypatch):
    """The second case has no fork: one error names all faults, a missing MMEngine and a wrong MMCV."""
    versions(monkeypatch, **found)
    with pytest.raises(ImportError, match=f'cannot work here: {faults}'):
        compat.check_versions()


@pytest.fixture
def beside_the_fork(monkeypatch):
    """MMYOLO is not imported yet, and MMCV has the version of the fork."""
    versions(monkeypatch, **FORK)
    monkeypatch.setattr('mmcv.__version__', '2.3.6')
    monkeypatch.delitem(sys.modules, 'mmyolo')


def test_mmyolo_is_imported_beside_the_forks_mmcv(beside_the_fork):
    with pytest.raises(AssertionError, match=r'MMCV==2.3.6 is used but incompatible'):
        import_module('mmyolo')
    folder = Path(find_spec('mmyolo').origin).parent
    before = {file: file.read_bytes() for file in folder.glob('**/__init__*.py*')}
    compat.import_mmyolo()
    mmyolo = import_module('mmyolo')
    assert mmyolo is sys.modules['mmyolo'] and mmyolo.__version__ and Path(mmyolo.__file__) == folder / '__init__.py'
    assert import_module('mmyolo.registry').MODELS
    assert mmyolo.mmcv_version[:3] == (2, 3, 6) and sys.modules['mmcv'].__version__ == '2.3.6'
    assert {file: file.read_bytes() for file in folder.glob('**/__init__*.py*')} == before
    compat.import_mmyolo()
    assert sys.modules['mmyolo'] is mmyolo


def test_without_the_fork_import_mmyolo_does_nothing(beside_the_fork, monkeypatch):
    versions(monkeypatch)
    compat.import_mmyolo()
    assert 'mmyolo' not in sys.modules


def test_mmcv_without_operators_is_an_error(monkeypatch):
    def broken(name):
        raise ImportError('libtorch.so: undefined symbol')

    monkeypatch.setattr(compat, 'import_module', broken)
    with pytest.raises(ImportError, match=r'mmcv is installed without its compiled operators.*undefined symbol'):
        compat.check_versions()


@pytest.fixture
def interrupted(tmp_path):
    """Run a program. Ctrl-C comes during the imports of the package."""
    (tmp_path / 'mmcv.py').write_text('raise KeyboardInterrupt')
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join((str(tmp_path), str(ROOT)))}
    options = dict(cwd=ROOT, env=env, capture_output=True, text=True)
    return lambda *program: subprocess.run([sys.executable, *program], **options)


@pytest.mark.parametrize('program', [['-m', 'mmyolo_bgpenalty', 'train'], ['tools/train.py'], ['tools/predict.py']])
def test_ctrl_c_during_the_imports_of_a_command_prints_nothing(interrupted, program):
    done = interrupted(*program, 'x')
    assert (done.returncode, done.stdout, done.stderr) == (130, '', '')


@pytest.mark.parametrize('name', ['train.py', 'tools/train.py'])
def test_other_programs_keep_their_traceback(interrupted, name, tmp_path):
    (tmp_path / 'tools').mkdir()
    (tmp_path / name).write_text('import mmyolo_bgpenalty')
    error = interrupted(str(tmp_path / name)).stderr
    assert error.startswith('Traceback') and error.endswith('KeyboardInterrupt\n')
