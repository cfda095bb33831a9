"""A run replaces and removes only what it wrote."""

from types import SimpleNamespace

import pytest
from mmengine.hooks import CheckpointHook

from mmyolo_bgpenalty.engine.checkpoints.run_folder import RunFolder


def loaded(runner, source, **info):
    """What is left of `runtime_info` when a run continues from a checkpoint."""
    runner._load_from = str(source)
    folder = RunFolder(CheckpointHook())
    folder.after_load_checkpoint(runner, dict(message_hub=dict(runtime_info=info)))
    return info


@pytest.fixture
def runner(tmp_path):
    work_dir = tmp_path / 'own'
    work_dir.mkdir()
    warnings = []
    logger = SimpleNamespace(warning=warnings.append)
    return SimpleNamespace(
        _resume=True, work_dir=str(work_dir), logger=logger, warnings=warnings, timestamp='20260101_000000'
    )


PATHS = dict(best_ckpt='best_x_epoch_2.pth', last_ckpt='epoch_2.pth', good_ckpt='epoch_2_iter_9.pth')


@pytest.mark.parametrize('before', ['own', 'moved', 'gone'])
def test_the_files_of_a_run_that_goes_on_in_its_folder_stay_its_own(runner, tmp_path, before):
    (tmp_path / 'moved').mkdir()
    old = {key: str(tmp_path / before / name) for key, name in PATHS.items()}
    left = loaded(runner, tmp_path / 'own/epoch_2.pth', **old, best_score=0.5, keep_ckpt_ids=[1, '2_iter_9'], iter=4)
    new = {key: str(tmp_path / 'own' / name) for key, name in PATHS.items()}
    assert left == dict(new, best_score=0.5, keep_ckpt_ids=[1, '2_iter_9'], iter=4)


def test_a_run_that_continues_another_forgets_its_files_and_its_best_score(runner, tmp_path):
    paths = {key: str(tmp_path / 'other' / name) for key, name in PATHS.items()}
    paths |= {'best_ckpt_a/b': 'x', 'best_score_a/b': 9.0, 'best_score': 0.5, 'keep_ckpt_ids': [1]}
    assert loaded(runner, tmp_path / 'other/epoch_2.pth', **paths, iter=4) == dict(iter=4)


@pytest.mark.parametrize(
    'name', ['thesis.txt', '', '..', 'own', 'best_x.pth', 'epoch_x.pth', 'epoch_2.pth.txt', 5, None]
)
def test_other_names_in_a_checkpoint_are_forgotten(runner, tmp_path, name):
    path = str(tmp_path / 'own' / name) if isinstance(name, str) else name
    steps = [1, '/../../thesis', None, '2/', True, dict(a=1)]
    left = loaded(runner, tmp_path / 'own/epoch_2.pth', best_ckpt=path, best_score=-1.0, keep_ckpt_ids=steps)
    assert left == dict(keep_ckpt_ids=[1])


@pytest.mark.parametrize(
    'template, names',
    [
        ('epoch_{}.pth', ['epoch_3.pth', 'epoch_3_iter_17.pth']),
        ('run_{:04d}.pth', ['run_0003.pth', 'run_0003_iter_17.pth']),
        ('latest.pth', ['latest.pth', 'latest.pth']),
    ],
)
def test_file_names_of_steps(template, names):
    folder = RunFolder(CheckpointHook(filename_tmpl=template))
    assert [folder.name(step) for step in (3, '3_iter_17')] == names
    assert all(folder.is_step(name) and folder.owns(f'best_x_{name}') for name in names)
    assert not any(folder.is_step(name) for name in (f'best_x_{names[0]}', 'epoch_2_teacher.pth', 'yolov8s.pth'))


@pytest.mark.parametrize('hook', [CheckpointHook(), CheckpointHook(by_epoch=False, filename_tmpl='run_{:04d}.pth')])
def test_checkpoints_of_an_earlier_training_are_set_aside(runner, tmp_path, hook):
    work_dir = tmp_path / 'own'
    names = [hook.filename_tmpl.format(7), f'best_coco_bbox_mAP_{hook.filename_tmpl.format(7)}', 'last_checkpoint']
    others = ['mine.pth', 'notes.txt', '.lock']
    for name in (*names, *others):
        (work_dir / name).write_text(name)
    folder = RunFolder(hook)
    folder.before_train(runner)
    aside = work_dir / 'before_20260101_000000'
    assert {file.name: file.read_text() for file in aside.iterdir()} == {name: name for name in names}
    assert sorted(file.name for file in work_dir.iterdir()) == sorted([*others, aside.name])
    (warning,) = runner.warnings
    assert f'{work_dir} had 2 checkpoints of another training. They are in {aside} now' in warning
    folder.after_run(runner)


def test_a_run_that_goes_on_sets_nothing_aside(runner, tmp_path):
    file = tmp_path / 'own/epoch_2.pth'
    file.touch()
    runner._load_from = str(file)
    folder = RunFolder(CheckpointHook())
    folder.after_load_checkpoint(runner, dict(message_hub=dict(runtime_info={})))
    folder.before_train(runner)
    folder.after_run(runner)
    assert file.exists() and not runner.warnings
