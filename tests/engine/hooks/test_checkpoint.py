"""Real signals stop runs. After resuming, the runs are equal to an uninterrupted run."""

import json
import os
import random
import re
import shutil
import signal
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmyolo.registry import METRICS

from mmyolo_bgpenalty.utils.distributed import unwrapped
from tests.helpers import child_runs
from tests.helpers.child_runs import Signal, SmallFilesOnly
from tests.helpers.states import assert_equal
from tests.helpers.tiny import SEMI, SUPERVISED, load

BATCHES = 5  # an epoch has 10 unlabeled images, 2 in a batch
EPOCHS = 3  # one of burn-in, one of warm-up, one at full λ
TIMES = ('time', 'data_time')


class Recorder(Hook):
    """Appends the data and the loss of each iteration to seen.jsonl, and draws random numbers as a model may."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = unwrapped(runner.model)
        row = dict(
            iteration=runner.iter,
            epoch=runner.epoch,
            batch=batch_idx,
            lambda_bg=getattr(model, 'student', model).bbox_head.lambda_bg,
            ramp=getattr(model, 'unsup_ramp', None),
            loss=float(outputs['loss']),
            drawn=[random.random(), np.random.rand(), torch.rand(1).item()],
        )
        samples = data_batch['data_samples']
        if 'sup' in samples:
            row['images'] = [s.img_path for branch in samples.values() for s in branch if s]
        with open(Path(runner.work_dir, 'seen.jsonl'), 'a') as file:
            file.write(json.dumps(row) + '\n')


def run(cfg, *hooks):
    return child_runs.run(cfg, Recorder(), *hooks)


def resumed(cfg, **changes):
    """The config with ``resume=True`` and changes."""
    cfg = cfg.copy()
    cfg.merge_from_dict({'resume': True, **{name.replace('__', '.'): value for name, value in changes.items()}})
    return cfg


def seen(work_dir):
    return [json.loads(line) for line in Path(work_dir, 'seen.jsonl').read_text().splitlines()]


def logged(work_dir):
    """Log rows of each ('iter', number) and ('epoch', number), without times. As text, so that NaN equals NaN."""
    found = {}
    for file in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for row in map(json.loads, file.read_text().splitlines()):
            place = ('iter', row['iter']) if 'loss' in row else ('epoch', row['step'])
            found.setdefault(place, set()).add(json.dumps({key: row[key] for key in row if key not in TIMES}))
    return found


def monitored(work_dir):
    """Lines that hooks print at intervals."""
    text = Path(work_dir, 'output.txt').read_text()
    return set(re.findall('(?:Too (?:many|few) pseudo-boxes|Pseudo-labels, precision|Epoch .: λ|BG Penalty).*', text))


def last(work_dir):
    return torch.load(Path(work_dir, 'last_checkpoint').read_text())


def assert_same_run(found, whole, batches, position=True):
    """Compare seen.jsonl, the rows of scalars.json, the lines of ``monitored`` and the last checkpoint of two runs."""
    expected = {row['iteration']: row for row in seen(whole)}
    assert list(expected) == list(range(EPOCHS * batches))
    assert {row['iteration'] for row in seen(found)} == set(expected)
    assert all(row == expected[row['iteration']] for row in seen(found))
    assert logged(found) == logged(whole)  # rows of repeated iterations are the same
    assert monitored(found) == monitored(whole)
    a, b = last(found), last(whole)
    for content in (a, b):
        for name in [name for name in content['message_hub']['log_scalars'] if name.endswith(TIMES)]:
            del content['message_hub']['log_scalars'][name]
        content['meta'] = {key: content['meta'][key] for key in ('epoch', 'iter', 'seed')}
        if not position:  # the same place is epoch 2, batch 5 in one checkpoint, and epoch 3, batch 0 in the other
            del content['meta']['epoch'], content['resume']['batch'], content['resume']['validated']
        infos = content['message_hub']['runtime_info']
        content['message_hub']['runtime_info'] = {key: infos[key] for key in ('epoch', 'iter', 'best_score')}
    assert_equal(a, b)


COMMON = dict(
    burn_in=1,
    lambda_bg_warmup=1,
    train_cfg__max_epochs=EPOCHS,
    train_cfg__val_interval=2,
    default_hooks__checkpoint__interval=1,
    visualizer__vis_backends=[dict(type='LocalVisBackend')],
)


def semi(data, work_dir, **changes):
    options = dict(
        default_hooks__checkpoint__max_keep_ckpts=2,
        default_hooks__mean_teacher__momentum=0.25,
        default_hooks__quality__interval=7,
        default_hooks__collapse__window=3,
        default_hooks__collapse__band=(0.0, 1e-3),
        # All boxes of the untrained teacher are pseudo-labels. Otherwise there would be none.
        model__semi_train_cfg__pseudo_test_cfg__score_thr=0.0,
        model__semi_train_cfg__pseudo_test_cfg__max_per_img=3,
    )
    return load(SEMI, data, work_dir, **{**COMMON, **options, **changes})


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """The uninterrupted run."""
    cfg = semi(data, tmp_path_factory.mktemp('whole'))
    assert run(cfg) == 0
    return cfg.work_dir


def test_the_compared_values_differ_between_iterations(whole):
    rows = seen(whole)
    assert [round(row['lambda_bg'], 9) for row in rows] == [0.0] * 6 + [0.2, 0.4, 0.6, 0.8] + [1.0] * 5
    assert len({row['loss'] for row in rows}) == len({tuple(row['drawn']) for row in rows}) == EPOCHS * BATCHES
    assert [len(row['images']) for row in rows] == [2] * BATCHES + [6] * 2 * BATCHES
    assert [place for place in logged(whole) if place[0] == 'epoch'] == [('epoch', 2), ('epoch', 3)]
    content = last(whole)
    assert content['collapse_monitor']['warned'] == ['boxes'] and len(monitored(whole)) == 9
    assert np.array(content['pseudo_label_counts']).sum() > 0
    assert content['optimizer']['state'] and content['resume']['random_states'][0]['torch'].any()


def test_a_signal_saves_and_the_run_goes_on_exactly(data, whole, tmp_path):
    """One run is stopped four times. The workers get the signal too, as from a terminal or a scheduler like Slurm."""
    term, ctrl_c = (signal.SIGTERM, 128 + signal.SIGTERM, 'SIGTERM'), (signal.SIGINT, 1, 'Ctrl-C')
    first = True
    for (number, code, named), stage, iteration, workers, name in (
        (ctrl_c, 'before_train_iter', 2, 2, 'epoch_0_iter_3'),  # burn-in
        (term, 'after_train_iter', 4, 0, 'epoch_0_iter_5'),  # the end of burn-in
        (term, 'before_train_iter', 7, 2, 'epoch_1_iter_8'),  # warm-up
        (ctrl_c, 'after_val_iter', 10, 0, 'epoch_2'),  # a validation
    ):
        changes = dict(train_dataloader__num_workers=workers, train_dataloader__persistent_workers=workers > 0)
        cfg = semi(data, tmp_path, resume=not first, **changes)
        assert run(cfg, Signal(number, stage, iteration, group=True)) == code
        assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / f'{name}.pth')
        assert f'Stopped by {named}. Saved {tmp_path}/{name}.pth' in (tmp_path / 'output.txt').read_text()
        if first:
            os.link(tmp_path / 'last_checkpoint', tmp_path / 'pointer')
        first = False
    # The pointer is replaced, never overwritten: a full disk does not leave an empty one.
    assert (tmp_path / 'pointer').read_text() == str(tmp_path / 'epoch_0_iter_3.pth')
    assert run(semi(data, tmp_path, resume=True)) == 0
    assert_same_run(tmp_path, whole, BATCHES)
    assert [row['iteration'] for row in seen(tmp_path)] == list(range(15))
    assert sorted(file.name for file in tmp_path.glob('epoch*')) == ['epoch_2.pth', 'epoch_3.pth']
    assert len([*tmp_path.glob('best*')]) == 1


def test_sigkill_between_two_checkpoints(data, whole, tmp_path):
    cfg = semi(data, tmp_path, default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=4)
    assert run(cfg, Signal(signal.SIGKILL, 'after_train_iter', 13)) == -signal.SIGKILL
    content = last(tmp_path)
    assert content['meta']['iter'] == 12 and len(content['collapse_monitor']['pseudo_boxes']) == 2
    assert run(resumed(cfg)) == 0
    assert [row['iteration'] for row in seen(tmp_path)] == [*range(14), *range(12, 15)]
    assert_same_run(tmp_path, whole, BATCHES, position=False)


def test_killed_while_a_checkpoint_is_written(data, whole, tmp_path):
    cfg = semi(data, tmp_path, default_hooks__checkpoint__max_keep_ckpts=1)
    assert run(cfg, SmallFilesOnly()) == -signal.SIGXFSZ
    assert [file.name for file in tmp_path.glob('epoch*')] == ['epoch_1.pth']
    draft = next(tmp_path.glob('.*.pth.tmp'))
    assert draft.stat().st_size == 1_000_000
    assert run(resumed(cfg)) == 0
    assert_same_run(tmp_path, whole, BATCHES)
    assert not draft.exists()


def test_the_newest_checkpoint_is_truncated(data, whole, tmp_path):
    cfg = semi(data, tmp_path)
    assert run(cfg, Signal(signal.SIGKILL, 'before_train_iter', 12)) == -signal.SIGKILL
    newest = tmp_path / 'epoch_2.pth'
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    assert run(resumed(cfg)) == 0
    output = (tmp_path / 'output.txt').read_text()
    assert f'Resuming from {tmp_path}/epoch_1.pth, because of: {newest}: cannot be read as a checkpoint: ' in output
    assert_same_run(tmp_path, whole, BATCHES)


def supervised(data, work_dir, **changes):
    options = dict(train_dataloader__batch_size=3, train_dataloader__dataset__type='CheckedCocoDataset')
    return load(SUPERVISED, data, work_dir, **{**COMMON, **options, **changes})


@pytest.fixture(scope='module')
def whole_supervised(data, tmp_path_factory):
    cfg = supervised(data, tmp_path_factory.mktemp('whole'))
    assert run(cfg) == 0
    return cfg.work_dir


@pytest.mark.parametrize('stage, iteration, workers', [('before_train_iter', 2, 2), ('after_val_iter', 4, 0)])
def test_a_supervised_run_goes_on_exactly(data, whole_supervised, tmp_path, stage, iteration, workers):
    """With mosaics, and with EMAHook. During validation it puts its averages in the place of the weights."""
    assert 'ema_state_dict' in last(whole_supervised)
    cfg = supervised(data, tmp_path, train_dataloader__num_workers=workers)
    assert run(cfg, Signal(signal.SIGTERM, stage, iteration)) == 128 + signal.SIGTERM
    assert run(resumed(cfg)) == 0
    assert_same_run(tmp_path, whole_supervised, 2)


@METRICS.register_module()
class Rising(BaseMetric):
    """A metric that improves in every validation."""

    times = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.times += 1
        return dict(rising=self.times)


def test_the_best_checkpoint_is_not_lost_before_there_is_another(data, tmp_path):
    changes = dict(
        val_evaluator=dict(type='Rising', _delete_=True),
        default_hooks__checkpoint__save_best='rising',
        default_hooks__checkpoint__rule='greater',
        default_hooks__checkpoint__interval=-1,
        train_cfg__val_interval=1,
    )
    cfg = supervised(data, tmp_path, train_cfg__max_epochs=3, **changes)
    assert run(cfg, SmallFilesOnly('after_val_epoch')) == -signal.SIGXFSZ
    assert [file.name for file in tmp_path.glob('*.pth')] == ['best_rising_epoch_1.pth']
    assert torch.load(tmp_path / 'best_rising_epoch_1.pth')['meta']['epoch'] == 1
    assert run(cfg) == 0
    assert {file.name for file in tmp_path.glob('*.pth')} == {'best_rising_epoch_3.pth', 'epoch_3.pth'}


def test_accumulated_gradients_are_not_lost(data, tmp_path):
    cfg = supervised(data, tmp_path, optim_wrapper__accumulative_counts=2)
    assert run(cfg, Signal(signal.SIGTERM, 'before_train_iter', 2)) == 128 + signal.SIGTERM
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1_iter_4.pth')


@pytest.mark.slow
def test_a_repeated_epoch_is_logged(data, tmp_path):
    cfg = supervised(data, tmp_path / 'stopped', train_cfg__max_epochs=1)
    assert run(cfg, Signal(signal.SIGTERM, 'before_train_iter', 0)) == 128 + signal.SIGTERM
    for name, changes, why, batches in (
        ('plain', dict(train_cfg__type='EpochBasedTrainLoop'), "`train_cfg.type='ResumableTrainLoop'` would", 2),
        ('smaller', dict(train_dataloader__batch_size=2), 'it has 3 batches now', 3),
    ):
        work_dir = shutil.copytree(tmp_path / 'stopped', tmp_path / name)
        assert run(resumed(cfg, work_dir=str(work_dir), **changes)) == 0
        output = (work_dir / 'output.txt').read_text()
        assert f'Epoch 1 is repeated, though 1 of 2 batches were done: {why}' in output
        assert [row['batch'] for row in seen(work_dir)] == [0, *range(batches)]


def in_two_processes(cfg, *hooks):
    """Train in two processes. Only the second has the hooks. Return both exit codes."""
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
    cfg = resumed(cfg, resume=cfg.resume, launcher='pytorch', model__use_syncbn=False, model_wrapper_cfg=wrapper)
    store = Path(cfg.work_dir).parent / uuid.uuid4().hex

    def train(rank):
        os.environ['LOCAL_RANK'] = str(rank)  # otherwise MMEngine looks for a GPU
        torch.distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
        child_runs.train(cfg, Recorder(), *(hooks if rank else ()))

    children = [child_runs.start(cfg.work_dir, train, rank) for rank in range(2)]
    return [child_runs.ended(child) for child in children]


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both(data, tmp_path):
    changes = dict(train_dataloader__batch_size=1, train_cfg__max_epochs=2, train_cfg__val_interval=3)
    cfg = supervised(data, tmp_path / 'whole', **changes)
    assert in_two_processes(cfg) == [0, 0]
    cfg = supervised(data, tmp_path / 'stopped', **changes)
    assert in_two_processes(cfg, Signal(signal.SIGTERM, 'before_train_iter', 1)) == [143, 143]
    assert len(last(cfg.work_dir)['resume']['random_states']) == 2
    assert in_two_processes(resumed(cfg)) == [0, 0]
    expected = sorted(map(json.dumps, seen(tmp_path / 'whole')))
    assert len(expected) == 12 and sorted(map(json.dumps, seen(tmp_path / 'stopped'))) == expected
    a, b = (last(tmp_path / name) for name in ('stopped', 'whole'))
    for name in ('state_dict', 'ema_state_dict', 'optimizer', 'resume'):
        assert_equal(a[name], b[name], name)
