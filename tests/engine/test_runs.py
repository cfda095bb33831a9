"""Real runs of MMEngine's Runner on a tiny set."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_bgpenalty import lambda_bg_at
from tests.helpers import tiny
from tests.helpers.states import assert_equal, states
from tests.helpers.tiny import SEMI, SUPERVISED, load

BATCHES = 5  # an epoch: 10 unlabeled images, 2 a batch


class Recorder(Hook):
    """Keeps the data, the state and the losses of each iteration. Runs before the hooks that change the teacher."""

    priority = 'VERY_HIGH'

    def __init__(self):
        self.rows, self.snapshots, self.metrics = [], {}, []

    def before_train(self, runner):
        self.teacher_runs = 0
        extract_feat = runner.model.teacher.extract_feat

        def counted(inputs):
            self.teacher_runs += runner.model.training
            return extract_feat(inputs)

        runner.model.teacher.extract_feat = counted

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = runner.model
        self.snapshots[runner.iter] = copy.deepcopy((model.student.state_dict(), model.teacher.state_dict()))
        self.rows.append(
            dict(
                iteration=runner.iter,
                epoch=runner.epoch,
                lambda_bg=model.student.bbox_head.lambda_bg,
                ramp=model.unsup_ramp,
                teacher_runs=self.teacher_runs,
                labeled=[s.img_path for s in data_batch['data_samples']['sup'] if s],
                unlabeled=[s.img_path for s in data_batch['data_samples']['unsup_teacher'] if s],
                outputs=outputs,
            )
        )

    def after_val_epoch(self, runner, metrics=None):
        self.metrics.append(metrics)


def train(cfg, **changes):
    recorder = Recorder()
    cfg = copy.deepcopy(cfg)
    cfg.visualizer.name = changes.get('work_dir', cfg.work_dir)
    cfg.merge_from_dict({name.replace('__', '.'): copy.deepcopy(value) for name, value in changes.items()})
    return tiny.train(cfg, recorder), recorder


PLAN = dict(burn_in=1, lambda_bg_warmup=2, lambda_bg=2.0)


@pytest.fixture(scope='module')
def cfg(data, tmp_path_factory):
    return load(
        SEMI,
        data,
        tmp_path_factory.mktemp('work'),
        **PLAN,
        train_cfg__max_epochs=4,
        train_cfg__val_interval=4,
        default_hooks__checkpoint__interval=1,
        default_hooks__checkpoint__max_keep_ckpts=-1,
        visualizer__vis_backends=[dict(type='LocalVisBackend')],
        default_hooks__mean_teacher__momentum=0.25,
        model__semi_train_cfg__unsup_weight=1.0,
        # All boxes of the untrained teacher are pseudo-labels. Otherwise there would be none.
        model__semi_train_cfg__pseudo_test_cfg__score_thr=0.0,
        model__semi_train_cfg__pseudo_test_cfg__max_per_img=3,
    )


@pytest.fixture(scope='module')
def run(cfg):
    return train(cfg)


def test_an_epoch_is_one_pass_over_the_unlabeled_set(run, data):
    rows = run[1].rows
    assert [row['epoch'] for row in rows] == [epoch for epoch in range(4) for _ in range(BATCHES)]
    for epoch in (1, 2, 3):
        seen = [path for row in rows if row['epoch'] == epoch for path in row['unlabeled']]
        assert len(seen) == len(set(seen)) == 10


def test_lambda_and_ramp_follow_the_plan(run):
    for row in run[1].rows:
        progress = row['iteration'] / BATCHES
        expected = lambda_bg_at(progress, lambda_bg=2.0, burn_in=1, warmup=2, schedule='linear')
        assert row['lambda_bg'] == pytest.approx(expected, abs=1e-12)
        assert row['ramp'] == pytest.approx(min(1, max(0, progress - 1)), abs=1e-12)


def test_only_the_student_runs_during_burn_in(run):
    for row in run[1].rows[:BATCHES]:
        assert row['teacher_runs'] == 0 and row['unlabeled'] == [] and len(row['labeled']) == 2
        assert not any(name.startswith('unsup_loss') for name in row['outputs'])
    # The ramp starts at 0, so the teacher runs from the second batch after burn-in on.
    assert [row['teacher_runs'] for row in run[1].rows[BATCHES:]] == list(range(15))


def test_the_teacher_is_a_copy_in_burn_in_and_then_an_average(run):
    """The recorder takes each snapshot before the teacher is updated."""
    snapshots = run[1].snapshots
    for iteration in range(1, 4 * BATCHES):
        student_before, teacher_before = snapshots[iteration - 1]
        _, teacher = snapshots[iteration]
        share = 1 if iteration <= BATCHES else 0.25
        for name, value in teacher.items():
            if value.is_floating_point():
                expected = torch.lerp(teacher_before[name], student_before[name], share)
                assert torch.equal(value, expected), (iteration, name)


def test_pseudo_boxes_have_losses_and_the_total_is_their_sum(run):
    for row in run[1].rows[BATCHES + 1 :]:
        outputs = row['outputs']
        assert outputs['semi/pseudo_boxes'] > 0 and outputs['unsup_loss_bbox'] > 0
        assert outputs['sup_loss_bg'] > 0 and outputs['unsup_loss_bg'] > 0
        parts = sum(v for k, v in outputs.items() if 'loss_' in k)
        assert float(outputs['loss']) == pytest.approx(float(parts), rel=1e-5)


def test_log_line_and_visualizer_show_the_settings(run):
    log = next(Path(run[0].log_dir).glob('*.log')).read_text()
    line = next(row for row in log.splitlines() if 'Epoch(train) [3][1/5]' in row)
    for part in ('lambda_bg: 1.0000', 'unsup_weight: 1.0000', 'pseudo_boxes: ', 'sup_loss_bg:', 'unsup_loss_cls:'):
        assert part in line
    epochs = re.findall(r'Epoch (\d): λ_bg=(\S+) in its last iteration', log)
    assert epochs == [(str(row['epoch'] + 1), f'{row["lambda_bg"]:.3f}') for row in run[1].rows[BATCHES - 1 :: BATCHES]]
    assert log.count('BG Penalty Stats: mean=') == 4
    scalars = [json.loads(row) for row in (Path(run[0].log_dir) / 'vis_data/scalars.json').read_text().splitlines()]
    train_rows = [row for row in scalars if 'loss' in row]
    assert [row['semi/lambda_bg'] for row in train_rows] == [row['lambda_bg'] for row in run[1].rows]
    assert all(0 < row['semi/bg_penalty_mean'] < row['semi/bg_penalty_max'] <= 1 for row in train_rows)


def test_teacher_and_student_are_evaluated_and_there_is_no_emahook(run):
    assert {'teacher/coco/bbox_mAP_50', 'student/coco/bbox_mAP_50'} <= set(run[1].metrics[-1])
    names = [type(hook).__name__ for hook in run[0].hooks]
    assert 'EMAHook' not in names and 'BurnInMeanTeacherHook' in names  # nothing averages the teacher again


@pytest.mark.parametrize('epoch, workers', [(1, 0), (3, 2)])
def test_resume_continues_exactly(cfg, run, tmp_path, epoch, workers):
    """Resume at the end of burn-in and from a later epoch, with augmentation and torch's safe loading."""
    checkpoint = Path(run[0].work_dir) / f'epoch_{epoch}.pth'
    assert torch.load(checkpoint)['meta']['epoch'] == epoch
    runner, recorder = train(
        cfg, work_dir=str(tmp_path), load_from=str(checkpoint), resume=True, train_dataloader__num_workers=workers
    )
    assert recorder.rows[0]['iteration'] == epoch * BATCHES
    for row, original in zip(recorder.rows, run[1].rows[epoch * BATCHES :]):
        for name in ('iteration', 'epoch', 'lambda_bg', 'ramp', 'labeled', 'unlabeled'):
            assert row[name] == original[name]
        assert float(row['outputs']['loss']) == float(original['outputs']['loss'])
    assert_equal(states(runner), states(run[0]))
    assert runner.model.teacher.backbone.stem.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_compiled_model_trains_the_same(cfg, run, tmp_path):
    """The backend 'eager' traces the model like every backend, and runs the traced graph."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    hooks = [dict(type='CompileHook', backend='eager')]
    switches = dict(custom_hooks=hooks, train_cfg__max_epochs=2, val_cfg=None, val_dataloader=None, val_evaluator=None)
    runner, recorder = train(cfg, work_dir=str(tmp_path), **switches)
    # Backbone and neck of the student in training mode, and of the teacher in evaluation mode.
    assert counters['stats']['unique_graphs'] == 4
    losses, expected = ([float(row['outputs']['loss']) for row in rows] for rows in (recorder.rows, run[1].rows))
    assert len(losses) == 2 * BATCHES and losses == pytest.approx(expected[: len(losses)], rel=1e-2)
    assert losses[0] == pytest.approx(expected[0], rel=1e-5)  # later losses differ more: rounding errors add up
    assert states(runner)['model'].keys() == states(run[0])['model'].keys()


@pytest.mark.parametrize('changes', [dict(lambda_bg=0.0, use_focal_bg=True), dict(burn_in=1000)])
def test_runs_that_differ_after_burn_in_can_share_it(cfg, run, tmp_path, changes):
    """The penalty and the further length of burn-in have no effect before its end. The ablation needs this."""
    _, other = train(cfg, work_dir=str(tmp_path / 'a'), **changes)
    assert float(other.rows[-1]['outputs']['loss']) != float(run[1].rows[-1]['outputs']['loss'])
    checkpoint = str(tmp_path / 'a/epoch_1.pth')
    runner, _ = train(cfg, work_dir=str(tmp_path / 'b'), load_from=checkpoint, resume=True)
    assert_equal(states(runner), states(run[0]))


def test_the_sparse_assigner_trains_as_mmyolos_does(data, tmp_path):
    """50 iterations, most of them with pseudo-labels. channels_last is off: it changes the order of sums."""
    rows = []
    for name in ('BatchTaskAlignedAssigner', 'SparseTaskAlignedAssigner'):
        changes = dict(
            train_cfg__max_epochs=10,
            default_hooks__checkpoint__save_best=None,
            model__semi_train_cfg__pseudo_test_cfg__score_thr=0.0,
            model__semi_train_cfg__pseudo_test_cfg__max_per_img=3,
            model__semi_train_cfg__channels_last=False,
            model__detector__train_cfg__assigner__type=name,
            model__detector__bbox_head__sparse_targets=False,
            **PLAN,
        )
        cfg = load(SEMI, data, tmp_path / name, **changes)
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        rows.append(train(cfg)[1].rows)
    original, found = ([row['outputs'] for row in part] for part in rows)
    assert len(found) == 50 and sum(float(outputs['semi/pseudo_boxes']) > 0 for outputs in found) >= 40
    for i, (outputs, expected) in enumerate(zip(found, original)):
        assert outputs.keys() == expected.keys()
        # Overlaps may differ in the last bit, and many steps let such a difference grow.
        close = dict(rtol=1e-5, atol=1e-7) if i < 20 else dict(rtol=5e-3, atol=1e-6)
        for key, value in expected.items():
            torch.testing.assert_close(outputs[key], value, **close, msg=key)


def test_iteration_based_loop(cfg, tmp_path):
    """This loop stays in epoch 0. For the schedule of λ, an epoch is one pass over the train loader."""
    loop = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=8, val_interval=100)
    quiet = dict(param_scheduler=[], default_hooks__checkpoint__interval=-1, default_hooks__checkpoint__save_best=None)
    _, recorder = train(cfg, train_cfg=loop, work_dir=str(tmp_path / 'a'), **quiet)
    for row in recorder.rows:
        expected = lambda_bg_at(row['iteration'] / BATCHES, lambda_bg=2.0, burn_in=1, warmup=2, schedule='linear')
        assert row['lambda_bg'] == pytest.approx(expected, abs=1e-12)
    assert [len(row['unlabeled']) for row in recorder.rows[BATCHES:]] == [2, 2, 2]


@pytest.fixture(scope='module')
def supervised(data, tmp_path_factory):
    plan = dict(burn_in=0, lambda_bg_warmup=0, train_cfg__max_epochs=2, train_cfg__val_interval=2)
    work_dir = tmp_path_factory.mktemp('supervised')
    cfg = load(SUPERVISED, data, work_dir, **plan, train_dataloader__batch_size=3)
    return tiny.train(cfg)


def test_head_and_hook_work_without_a_teacher(supervised):
    assert supervised.model.bbox_head.lambda_bg == 1.0
    scalars = [json.loads(row) for row in (Path(supervised.log_dir) / 'vis_data/scalars.json').read_text().splitlines()]
    assert all(row['loss_bg'] > 0 for row in scalars if 'loss' in row)
    assert any('coco/bbox_mAP_50' in row for row in scalars)
    names = [type(hook).__name__ for hook in supervised.hooks]
    assert 'EMAHook' in names and 'BurnInMeanTeacherHook' not in names


def test_a_supervised_checkpoint_starts_a_semi_supervised_run(cfg, supervised, tmp_path):
    source = Path(supervised.work_dir, 'last_checkpoint').read_text()
    runner = Runner.from_cfg(Config(dict(copy.deepcopy(cfg._cfg_dict), work_dir=str(tmp_path), load_from=source)))
    runner.load_or_resume()
    trained = torch.load(source)['state_dict']
    for part in ('student', 'teacher'):
        state = getattr(runner.model, part).state_dict()
        assert state.keys() == trained.keys() and all(torch.equal(state[name], trained[name]) for name in state)
