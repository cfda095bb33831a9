"""The commands and configs in README.md and on the pages of docs/ work, at a size that takes seconds.

Each code block has a test. `make` and the ablations only print what they would run. The trained configs are
`yolov8_semi_bgpenalty.py` and the project that `init` makes.
"""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmyolo.registry import HOOKS, MODELS

from mmyolo_bgpenalty import config
from mmyolo_bgpenalty.__main__ import COMMANDS as COMMAND_NAMES
from mmyolo_bgpenalty.cli.ablation.processes import Processes
from mmyolo_bgpenalty.utils.files import read_json
from tests.helpers.environments import OwnEnvironment, copy_checkout
from tests.helpers.labels import make_voc, save_picture
from tests.helpers.tiny import ROOT, SEMI, SMALL, data_options, make_images, make_set, stated

GUIDES = 'own_pictures existing_project watch stop_and_resume report ablation export troubleshooting good_parts'.split()
PAGES = [  # in the order of a reader. guides/other_heads.md has its own tests
    ROOT / 'README.md',
    *(ROOT / f'docs/start/{name}.md' for name in ('install', 'first_training')),
    *(ROOT / f'docs/guides/{name}.md' for name in GUIDES),
    *(ROOT / f'docs/{name}.md' for name in ('reference/settings', 'reference/configs', 'explanation/method')),
    *(ROOT / f'docs/results/{name}.md' for name in ('summary', 'penalty', 'speed')),
    ROOT / 'docs/contributing.md',
]
TEXTS = [page.read_text(encoding='utf-8') for page in PAGES]
BLOCKS = [block for text in TEXTS for block in re.findall(r'^```(\w+)\n(.*?)^```', text, re.S | re.M)]
LINES = [
    shlex.split(line, comments=True)
    for kind, text in BLOCKS
    if kind == 'sh'
    for line in text.replace('\\\n', ' ').splitlines()
]
# A command is run where it is seen first.
COMMANDS = [list(words) for words in dict.fromkeys(tuple(words) for words in LINES if words[0] == 'python')]
NOT_SHOWN = {'make-solar', 'benchmark'}  # README names the tool of the first, and a `make` target of the second
PROJECT = 'my_project/my_project.py'
SNIPPETS = [*dict.fromkeys(text for kind, text in BLOCKS if kind == 'python' and 'DetInferencer' not in text)]
(DETECTOR,) = [text for kind, text in BLOCKS if kind == 'python' and 'DetInferencer' in text]
# Two epochs. The first is burn-in.
SHORT = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=2', 'burn_in=1', 'default_hooks.checkpoint.interval=2']


@pytest.fixture(scope='module')
def stage(tmp_path_factory):
    """A folder with the project's tools and configs, weights, and the sets that README names."""
    root = tmp_path_factory.mktemp('readme')
    for name in ('tools', 'configs'):
        (root / name).symlink_to(ROOT / name)
    make_set(root / 'data/tiny')
    make_images(root / 'data/bccd/annotations', 'train', 40, seed=0)
    names = [f'{number}.jpg' for number in range(12)]
    make_voc(root / 'data/cells', names)
    for name in names[:8]:
        save_picture(root / 'data/new' / name)
    init_default_scope('mmyolo')
    detector = MODELS.build(Config.fromfile(config('yolov8_bgpenalty_own.py', model_size='n')).model)
    for name in ('yolov8s.pt', 'yolov8n.pt'):
        torch.save(dict(state_dict=detector.state_dict()), root / name)
    make_voc(root / 'defects', names)
    for name in names:
        save_picture(root / 'good_parts' / f'good_{name}')
    return root


@pytest.fixture
def commands(stage, monkeypatch):
    """Processes in the stage. A child of the warm worker starts faster than a new Python."""
    monkeypatch.chdir(stage)
    for name, value in dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT), PYTHONWARNINGS='ignore').items():
        monkeypatch.setenv(name, value)
    with Processes(1) as started:
        yield started


def run(commands: Processes, stage: Path, command: list, *more: str) -> str:
    arguments, output = [*command[1:], *more], stage / 'output.txt'
    with output.open('w') as file:
        if arguments[:2] == ['-m', 'mmyolo_bgpenalty']:
            code = commands.start(arguments[2:], file).wait()
        else:
            code = subprocess.run([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT).returncode
    text = output.read_text(encoding='utf-8')
    assert code == 0, [command, text[-3000:]]
    return text


def test_no_block_is_left_out():
    assert {kind for kind, _ in BLOCKS} == {'sh', 'python', 'text'}  # a text is what a command prints
    assert {words[0] for words in LINES} == {'make', 'pip', 'python'}
    assert len(LINES) > 10 and len(SNIPPETS) > 5


def test_make_targets():
    """They exist, and `make train` trains the config that README names."""
    targets = [words[1] for words in LINES if words[0] == 'make']
    assert {'train', 'test'} <= set(targets)
    expected = dict(train='tools/train.py configs/yolov8_semi_bgpenalty.py', test='-m pytest tests')
    for target in targets:
        done = subprocess.run(['make', '-n', target], cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert expected.get(target, '') in done.stdout


def test_install(tmp_path):
    """In an environment with all dependencies, `pip install` of a checkout adds only this package."""
    (command,) = {tuple(words) for words in LINES if words[0] == 'pip'}
    checkout, environment = copy_checkout(tmp_path / 'checkout'), OwnEnvironment(tmp_path / 'env')
    rest = Path(sysconfig.get_path('purelib'))
    before, others = set(os.listdir(environment.site)), set(os.listdir(rest))
    environment.run('-m', *command, cwd=checkout)
    added = set(os.listdir(environment.site)) - before - {'__pycache__'}
    assert added and all('mmyolo_bgpenalty' in name for name in added)
    assert set(os.listdir(rest)) == others
    code = "import mmyolo_bgpenalty as package; print(package.__file__); print(package.config('yolov8_bgpenalty.py'))"
    places = environment.run('-c', code, cwd=tmp_path).split('\n')
    assert places[:2] == [f'{checkout}/mmyolo_bgpenalty/__init__.py', f'{checkout}/configs/yolov8_bgpenalty.py']


def test_commands(stage, commands):
    """In the order of README, since a command may need the files of another."""
    seen = []
    for command in COMMANDS:
        # A project is made small. Its run has only two epochs.
        command = [part.replace('best_teacher_coco_bbox_mAP_epoch_36', 'epoch_2') for part in command]
        if command[1] != '-m':
            tool = Path(command[1]).stem
            if tool == 'make_solar_set':
                run(commands, stage, [part.replace('1500', '3') for part in command])
                assert len(read_json(stage / command[2] / 'annotations/val.json')['images']) == 3
                continue
            command[1:2] = ['-m', 'mmyolo_bgpenalty', dict(ablation='ablate').get(tool, tool)]
        name, config_file = command[3:5]
        seen.append(name)
        options = [] if '--cfg-options' in command else ['--cfg-options']
        options += [part for part in stated(SMALL) if not config_file.startswith('my_') or 'widen' not in part]
        if 'configs/' in config_file:
            options += stated(data_options(stage / 'data/tiny'))
        if name == 'init':
            small = ('--model', 'n', '--size', '64', '--batch', '4', '--iterations', '8')
            project = f'{command[4]}/{command[4]}.py'
            assert f'train {project}' in run(commands, stage, command, *small)
            assert Config.fromfile(stage / project).train_dataloader.batch_size == (
                4 if '--unlabeled' in command else 2
            )
        elif name == 'train':
            taken = 'tensors taken' in run(commands, stage, command, *options, *SHORT)
            assert taken or config_file != PROJECT or '--resume' in command
        elif name == 'check':
            assert 'loss_bg' in run(commands, stage, command, *options)
        elif name == 'test':
            run(commands, stage, command, *options, '--launcher', 'none')  # `mim test` adds this
            assert {'metrics.json', 'precision_recall.png', 'confusion_matrix.png'} <= set(
                os.listdir(stage / 'results')
            )
            assert len([*(stage / 'shown').rglob('*.jpg')]) == 2
        elif name == 'browse':
            run(commands, stage, command, *options)
            assert sorted(os.listdir(stage / 'browse')) == [
                f'1_{branch}.jpg' for branch in ('sup', 'unsup_student', 'unsup_teacher')
            ]
        elif name == 'report':
            run(commands, stage, command)
            assert '<title>Detection report' in (stage / 'report.html').read_text(encoding='utf-8')
        elif name == 'predict':
            run(commands, stage, command, *options)
            if '--labels' in command:
                (found,) = stage.glob('predictions/*/predictions.json')
                assert len(read_json(found)['images']) == 8
            else:
                assert len([*stage.glob('predictions/new/pictures/*')]) == 8
        elif name == 'ablate':
            # test_real_runs.py trains a tiny ablation.
            command.insert(5, '--dry-run')
            assert re.search(r'(\d+) of \1 runs to do', run(commands, stage, command, *options))
        elif name == 'split':
            run(commands, stage, command)
            assert len(read_json(stage / 'data/bccd/semi_anns/train.1@10.json')['images']) == 4
        elif name == 'export':
            run(commands, stage, command, *options)
            exported = DETECTOR.replace('…', 'work_dirs/my_project/epoch_2').replace('picture.jpg', 'data/new/0.jpg')
            found = run(commands, stage, ['python', '-c', f'{exported}\nprint(sorted(found))'])
            assert found.endswith("['bboxes', 'labels', 'scores']\n") and (stage / 'out/vis/0.jpg').exists()
        else:
            pytest.fail(f'no test of {name}')
    assert (stage / 'work_dirs/my_project/epoch_2.pth').exists()
    assert set(seen) == set(COMMAND_NAMES) - NOT_SHOWN


@pytest.mark.parametrize('text', SNIPPETS, ids=lambda text: text.split('(')[0].split('\n')[-1].strip())
def test_configs(text, tmp_path):
    """Each snippet is a valid config, or a valid child of the config that it is about. Its model can be built."""
    if '_base_ =' not in text:
        own = 'bbox_head' in text
        base = 'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py' if own else str(ROOT / 'configs' / SEMI)
        text = f'_base_ = {base!r}\n{text}'
    file = tmp_path / 'mine.py'
    file.write_text(text.replace("'./", f"'{ROOT}/configs/"), encoding='utf-8')
    cfg = Config.fromfile(file)
    init_default_scope('mmyolo')
    parts = [type(part) for part in MODELS.build(cfg.model).modules()]
    assert any(part.__module__.startswith('mmyolo_bgpenalty') for part in parts)
    for hook in cfg.default_hooks.values():
        assert hook is None or HOOKS.get(hook.type) is not None


def test_each_test_in_the_table_of_reliability_exists():
    """The table names `test_x` or `test_file.py::test_x`. `…::` is the file named before."""
    tests = defaultdict(set)
    for path in (ROOT / 'tests').rglob('test_*.py'):
        tests[path.name].update(re.findall(r'^def (test_\w+)\(', path.read_text(encoding='utf-8'), re.M))
    lines = (ROOT / 'docs/results/reliability.md').read_text(encoding='utf-8').splitlines()
    rows = [line for line in lines if line.startswith('| ') and line != '| fault or input | what happens | test |']
    assert len(rows) > 50
    for row in rows:
        file, cell = None, row.rpartition(' | ')[2]
        named = re.findall(r'`(?:(\w+\.py|…)::)?(test_\w+)(?:\[[^`]*\])?`', cell)
        assert named, row
        for own, name in named:
            file = own if own not in ('', '…') else file
            assert name in (tests[file] if own else set().union(*tests.values())), (name, row)
