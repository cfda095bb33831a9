"""How the commands read a config, and which errors they report in one line."""

import logging
import os
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.utils.data import DataLoader

import mmyolo_bgpenalty
from mmyolo_bgpenalty.cli.run import (
    InputCheck,
    InputError,
    _is_of_library,
    build_runner,
    command,
    config_parser,
    read_config,
)
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError
from mmyolo_bgpenalty.utils.files import read_json
from tests.helpers.tiny import SEMI, load, make_set


def fails(error):
    raise error


def test_an_input_error_is_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['somewhere/tool.py', '--x'])
    assert command(lambda argv: fails(InputError('no such file')))() == 2
    assert capsys.readouterr() == ('', 'tool.py: no such file\n')


def test_exit_codes_and_other_errors_pass_through(capsys):
    assert [command(lambda argv: argv)(code) for code in (None, 0, 3)] == [0, 0, 3]
    with pytest.raises(ValueError):
        command(lambda argv: fails(ValueError('x')))()
    assert capsys.readouterr() == ('', '')


def test_what_the_terminal_cannot_show_is_escaped(capsys):
    assert command(lambda argv: print('λ\udce9'))() == 0
    assert capsys.readouterr().out == 'λ\\udce9\n'


# Which errors are about the input


@pytest.mark.parametrize(
    'call, line',
    [
        (partial(read_json, 'none.json'), r'none\.json: no such file'),
        (partial(DataLoader, [1, 2], batch_size=0), r'ValueError: batch_size should be .*\(/.*sampler\.py:\d+\)'),
        (Path('/none/a').touch, r"\[Errno 2\] No such file or directory: '/none/a'"),
    ],
    ids=['this package', 'a library', 'the system'],
)
def test_an_error_is_one_line(call, line):
    """The line of a library's error has the type and the place."""
    with pytest.raises(InputError, match=f'^{line}$'), InputCheck():
        call()


def test_an_error_of_the_users_own_code_is_unchanged(monkeypatch):
    """This file counts as the user's code, since it is not in the package."""
    with pytest.raises(OSError, match='^mine$'), InputCheck():
        fails(OSError('mine'))
    # The package raises this error because of an error in the user's code.
    monkeypatch.setattr('mmyolo_bgpenalty.utils.files.json.loads', lambda text: fails(ValueError('mine')))
    with pytest.raises(ValueError, match='is not valid json: mine') as caught, InputCheck():
        read_json(__file__)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    'file, own',
    [
        ('/home/me/mine.py', True),
        ('', True),  # a config
        (f'{os.path.dirname(mmyolo_bgpenalty.__file__)}_mine/a.py', True),
        (mmyolo_bgpenalty.__file__, False),
        (mmdet.__file__, False),
        (os.__file__, False),
        ('/usr/lib/python3/dist-packages/mlflow/a.py', False),
        ('<frozen importlib._bootstrap>', False),
    ],
)
def test_code_is_the_users_own_or_of_a_library(file, own):
    assert _is_of_library(file) != own


def test_a_checkpoint_error_is_not_hidden_by_a_mistake_in_a_setting():
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', save_best='coco/nothing'))))
    with pytest.raises(InputError, match='^a.pth: is torn$'), InputCheck() as check:
        check.cfg = cfg
        raise CheckpointError('a.pth: is torn')


@pytest.mark.parametrize('event', ['after_train_iter', 'after_test_iter'])
def test_after_the_first_iteration_no_error_becomes_an_input_error(event, tmp_path):
    with pytest.raises(ValueError) as caught, InputCheck() as check:
        getattr(check, event)(None, 0)
        read_json(tmp_path / 'none.json')
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    'entry, line',
    [
        # The first is found by `check`, too, which does not build the part.
        (dict(type='SGD', lr=1.0, momentun=0.9), 'optim_wrapper.optimizer.momentun: SGD takes no `momentun`'),
        (dict(type='SGD', lr=1.0, momentum=-2.5), r'optim_wrapper.optimizer.momentum: .*-2.5'),
    ],
)
def test_an_error_of_a_part_names_its_setting(entry, line):
    """Errors of any kind."""
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer=entry)))
    with pytest.raises(InputError, match=f'^{line}'), InputCheck() as check:
        check.cfg = cfg
        build_optim_wrapper(nn.Linear(1, 1), cfg.optim_wrapper)


class Spoilt(list):
    def __getitem__(self, index):
        raise ValueError('mine')


def test_the_code_of_a_worker_process_is_told_from_that_of_libraries():
    loaders = [DataLoader(Spoilt([1]), num_workers=1), DataLoader([None], num_workers=1)]
    for loader, kind in zip(loaders, (ValueError, InputError)):
        with pytest.raises(kind) as caught, InputCheck():
            next(iter(loader))
        assert type(caught.value) is kind


# Configs


@pytest.fixture
def config(tmp_path):
    """Write a file; returns its path."""

    def write(text, name='mine.py'):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_a_shipped_config_is_read_by_its_name_if_there_is_no_such_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'ablations/bg_options.py'
    assert 'published' in read_config(name, {}).variants
    with pytest.raises(InputError) as caught:
        read_config('none.py', {})
    line = str(caught.value)
    assert line.startswith('none.py: no such file, and no shipped config') and '\n' not in line
    assert name in line and SEMI in line and '_base_' not in line
    (tmp_path / 'ablations').mkdir()
    (tmp_path / name).write_text("variants = {'mine': {}}")
    assert set(read_config(name, {}).variants) == {'mine'}


def test_a_syntax_error_names_file_and_line(config, tmp_path):
    broken = config('a = 1\nlr = = 3\n', 'broken.py')
    child = config("_base_ = './broken.py'\n\n\nb = 2\n")
    for file in (broken, child):
        with pytest.raises(InputError) as caught:
            read_config(file, {})
        assert str(caught.value) == f'{broken}, line 2: invalid syntax'


@pytest.mark.parametrize(
    'name, text, part',
    [
        ('mine.py', "_base_ = './none.py'", 'none.py: No such file or directory'),
        ('mine.json', '{"a": ', 'JSONDecodeError'),
        ('mine.yaml', 'a: [', 'ParserError'),
        ('mine.txt', 'a', 'Only py/yml/yaml/json type are supported'),
        (
            'mine.py',
            "custom_imports = dict(imports=['no_such_module'])",
            "No module named 'no_such_module'. Is the folder",
        ),
    ],
)
def test_a_config_that_cannot_be_read_is_named(config, name, text, part):
    file = config(text, name)
    with pytest.raises(InputError) as caught:
        read_config(file, {})
    line, named = str(caught.value), file.replace('mine.py', 'none.py') if '_base_' in text else file
    assert line.startswith(f'{named}: ') and part in line and '\n' not in line


@pytest.mark.parametrize(
    'text, kind', [('lr = rate', NameError), ("a = dict(b=1)['c']", KeyError), ("int('x')", ValueError)]
)
def test_a_mistake_in_the_configs_own_code_keeps_its_traceback(config, text, kind):
    file = config(f'a = 1\n{text}\n')
    with pytest.raises(kind) as caught, InputCheck():
        read_config(file, {})
    assert not isinstance(caught.value, InputError)
    assert f'File "{file}", line 2' in ''.join(traceback.format_exception(caught.value))


def test_a_mistake_in_the_users_own_module_keeps_its_traceback(config, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = config('import no_such_module\n', 'mine_of_test_run.py')
    file = config("custom_imports = dict(imports=['mine_of_test_run'])")
    with pytest.raises(ImportError) as caught, InputCheck():
        read_config(file, {})
    assert f'File "{module}", line 1' in ''.join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    'options, part',
    [
        (['lamda_bg'], "like lambda_bg=1.5, but got 'lamda_bg'"),
        (['nothing.like.it=1'], 'nothing reads `nothing`'),
        (['train_cfg.4=1'], '--cfg-options train_cfg.4: '),
        (
            ["train_cfg=dict(type='x', thresholds=[0.3,0.5])"],
            'got "train_cfg=dict(type=\'x\', thresholds=[0.3,0.5])": write a dict in a config',
        ),
        (['lambda_bg=1', "train_cfg={'type': 'x'}"], 'write a dict in a config'),
        (['lambda_bg=1', 'train_cfg=(1,2'], "but got 'train_cfg=(1,2'"),
        (['train_cfg=data(1,2).txt'], "but got 'train_cfg=data(1,2).txt'"),
    ],
)
def test_a_bad_override_gives_an_error_of_one_line(config, options, part):
    file = config("train_cfg = [dict(type='x')]")
    with pytest.raises(InputError) as caught, InputCheck():
        args = config_parser('').parse_args([file, '--cfg-options', *options])
        read_config(args.config, args.cfg_options)
    assert part in str(caught.value) and '\n' not in str(caught.value)


def test_a_folder_is_no_config(tmp_path):
    (tmp_path / 'cells').mkdir()
    with pytest.raises(InputError, match='cells: expected a config file, but this is a folder$'):
        read_config(f'{tmp_path}/cells', {})
    (tmp_path / 'cells/cells.py').touch()
    with pytest.raises(InputError, match=f'a folder; is {tmp_path}/cells/cells.py meant.$'):
        read_config(f'{tmp_path}/cells/', {})


def test_workers_that_stay_need_workers(config):
    text = 'a_dataloader = dict(num_workers=2, persistent_workers=True, prefetch_factor=4)'
    file = config(text.replace('a_', 'val_') + '\n' + text.replace('a_', 'train_'))
    cfg = read_config(file, {'train_dataloader.num_workers': 0})
    assert cfg.train_dataloader == dict(num_workers=0, persistent_workers=False)
    assert cfg.val_dataloader.persistent_workers and cfg.val_dataloader.prefetch_factor == 4


def test_a_config_of_the_new_style_has_names_as_types(config):
    text = 'from mmengine.optim import OptimWrapper\nfrom torch.optim import SGD\n'
    file = config(f'{text}optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=1.0))')
    cfg = read_config(file, {'optim_wrapper.optimizer.lr': 0.5})
    assert cfg.optim_wrapper.optimizer == dict(type='torch.optim.SGD', lr=0.5)
    assert set(cfg) == {'optim_wrapper'} and cfg.filename == file
    wrapper = build_optim_wrapper(nn.Linear(1, 1), cfg.optim_wrapper)
    assert wrapper.optimizer.param_groups[0]['lr'] == 0.5


def test_a_dict_with_another_type_replaces_the_part(config):
    file = config("resume = False\nvisualizer = dict(type='A', x=1, y=2)")
    assert read_config(file, {'visualizer': dict(type='B', z=3)}).visualizer == dict(type='B', z=3)
    assert read_config(file, {'visualizer': dict(type='A', x=3)}).visualizer == dict(type='A', x=3, y=2)
    assert read_config(file, {'visualizer.y': dict(type='B')}).visualizer.y == dict(type='B')


# Warnings


def test_a_command_hides_only_the_known_warnings_of_the_libraries(tmp_path):
    cfg = load(SEMI, make_set(tmp_path / 'set'), tmp_path / 'work', train_dataloader__pin_memory=True)

    @command
    def main(argv):
        runner = build_runner(cfg)
        next(iter(runner.build_dataloader(cfg.train_dataloader)))  # torch warns about pinned memory
        torch.meshgrid(torch.zeros(2), torch.zeros(2))
        warnings.warn('pkg_resources is deprecated as an API.', UserWarning, stacklevel=1)
        warnings.warn('mine, of pin_memory and torch.meshgrid', UserWarning, stacklevel=1)

    torch.set_warn_always(True)  # torch gives the warning of meshgrid once per process
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        main()
        torch.meshgrid(torch.zeros(2), torch.zeros(2))
    torch.set_warn_always(False)
    mine, after = (str(warning.message) for warning in caught if warning.category is UserWarning)
    assert mine.startswith('mine') and after.startswith('torch.meshgrid')


def test_a_command_hides_only_known_records_of_the_log(capsys):
    runs = []

    @command
    def main(argv):
        logger = MMLogger.get_current_instance()
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                runs.append(handler)
                handler.stream = sys.stdout
        for level, message in RECORDS + SHOWN:
            logger.log(level, message)

    main()
    assert runs and [line.rpartition(' - ')[2] for line in capsys.readouterr().out.splitlines()] == [
        m for _, m in SHOWN
    ]


RECORDS = [
    (logging.WARNING, 'Failed to search registry with scope "mmyolo" in the "log_processor" registry tree.'),
    (logging.WARNING, '"FileClient" will be deprecated in future.'),
    (logging.INFO, '\n----------\nSystem environment:\n    Python: 3'),
    (logging.INFO, 'Hooks will be executed in the following order:\nbefore_run:'),
]
SHOWN = [
    (logging.INFO, 'Load checkpoint from x.pth'),
    (logging.WARNING, 'a class has no box'),
    (logging.ERROR, 'Failed to search registry with scope "mine"'),
]


@pytest.mark.parametrize('free, expected', [(None, []), (1, [1]), (4, []), (9, [])])
def test_a_command_leaves_the_cores_of_other_programs_alone(monkeypatch, free, expected):
    threads = []
    monkeypatch.setattr('mmyolo_bgpenalty.cli.run.free_cores', lambda: free)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 4)
    monkeypatch.setattr(torch, 'set_num_threads', threads.append)
    assert command(lambda argv: None)([]) == 0
    assert threads == expected
