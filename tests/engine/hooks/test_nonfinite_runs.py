"""Real runs with iterations that are not finite: they are skipped, or stop the run."""

import copy
import math
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmyolo.registry import MODELS

from mmyolo_bgpenalty import SemiYOLODetector
from tests.helpers.states import same, tensors
from tests.helpers.tiny import SEMI, SUPERVISED, load, train

BATCHES = 5  # an epoch has 10 unlabeled images, 2 in a batch


def config(name, data, work_dir, max_skips, **options):
    cfg = load(
        name,
        data,
        work_dir,
        default_hooks__guard__max_skips=max_skips,
        default_hooks__checkpoint=dict(interval=2, by_epoch=False, save_best=None),
        **options,
    )
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    return cfg


def state(runner):
    averaged = [hook.ema_model.state_dict() for hook in runner.hooks if hasattr(hook, 'ema_model')]
    return [runner.model.state_dict(), *averaged, runner.optim_wrapper.state_dict()]


class StateBefore(Hook):
    """Keeps the state before the latest iteration. Lists the iterations that changed nothing outside the teacher."""

    priority = 'VERY_HIGH'

    def __init__(self):
        self.unchanged = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = copy.deepcopy(state(runner))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        kept = [{k: v for k, v in tensors(node) if 'teacher' not in k} for node in (self.before, state(runner))]
        if same(*kept):
            self.unchanged.append(runner.iter)


def log_of(runner):
    return next(Path(runner.log_dir).glob('*.log')).read_text()


def stopped(cfg, error, *hooks):
    """Train until the run stops. Check that the last iteration changed no state. Return the error message."""
    runner, before = Runner.from_cfg(cfg), StateBefore()
    for hook in (*hooks, before):
        runner.register_hook(hook)
    with pytest.raises(FloatingPointError, match=error) as caught:
        runner.train()
    assert same(before.before, state(runner)) and len(dict(tensors(before.before))) > 100
    [file] = Path(runner.work_dir).glob('*.pth')
    assert file.name == 'iter_2.pth'
    assert all(value.isfinite().all() for _, value in tensors(torch.load(file)['state_dict']))
    message = str(caught.value)
    assert message in log_of(runner) and f' is {file}' in message
    return message


@MODELS.register_module()
class PoisonedDetector(SemiYOLODetector):
    """A loss, or only its gradient, is NaN in the fourth batch."""

    poison = 'loss'
    batches = 0

    def loss(self, *args):
        losses = super().loss(*args)
        self.batches += 1
        if self.batches == 4:
            if self.poison == 'loss':
                losses['unsup_loss_dfl'] = losses['unsup_loss_dfl'] * float('nan')
                losses['semi/pseudo_score'] = losses['semi/pseudo_score'] * float('nan')
            else:
                weight = self.student.backbone.stem.conv.weight
                losses['sup_loss_cls'] = losses['sup_loss_cls'] + (weight.sum() * 0).sqrt()
        return losses


@pytest.mark.parametrize('poison, loop', [('loss', 'epoch'), ('gradient', 'iter')])
def test_a_poisoned_loss_stops_the_run_before_the_weights_change(data, tmp_path, monkeypatch, poison, loop):
    monkeypatch.setattr(PoisonedDetector, 'poison', poison)
    cfg = config(SEMI, data, tmp_path, 0, burn_in=1, model__type='PoisonedDetector')
    cfg.default_hooks.lambda_bg.by_epoch = False
    # Pseudo-boxes in every image.
    cfg.model.semi_train_cfg.pseudo_test_cfg.update(score_thr=0.0, max_per_img=2)
    if loop == 'iter':
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=8)
        cfg.param_scheduler = []
        cfg.optim_wrapper.clip_grad = None
    message = stopped(cfg, r'iteration 4 \(epoch 1\)')
    if poison == 'loss':
        assert 'unsup_loss_dfl is nan (finite: ' in message and 'sup_loss_cls is' not in message
        assert 'pseudo_score' not in message
    else:
        assert (
            'the losses are finite, but 1 of 18' in message
            and 'the first is that of student.backbone.stem.conv' in message
        )
    assert 'The last good checkpoint is ' in message
    assert 'λ_bg was 0.' in message and 'images/unlabeled_0' in message and 'images/labeled_0' in message
    assert 'optim_wrapper.optimizer.lr' in message


class Broken(Hook):
    """Gives some pixels of a branch a wrong value in the given iterations. Without a branch all pixels get it."""

    priority = 'VERY_HIGH'

    def __init__(self, iterations):
        self.iterations = iterations

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter in self.iterations:
            inputs = data_batch['inputs']
            branch, value = self.iterations[runner.iter]
            if branch is None:
                data_batch['inputs'] = inputs.float() * value
                return
            place = next(i for i, image in enumerate(inputs[branch]) if image is not None)
            inputs[branch][place] = inputs[branch][place].float()
            inputs[branch][place][:, 5:9, 5:9] = value


def test_a_supervised_run_is_stopped_too(data, tmp_path):
    """The average of EMAHook does not change either."""
    cfg = config(SUPERVISED, data, tmp_path, 0, burn_in=0, train_dataloader__batch_size=3)
    cfg.train_dataloader.num_workers = 2
    message = stopped(cfg, r'iteration 3 \(epoch 2\)', Broken({2: (None, math.nan)}))
    # The weights of iter_2 have not been tried by another iteration.
    assert 'No checkpoint is known to be good. The latest is ' in message
    assert 'loss_cls is nan' in message and 'unsup' not in message.split('Try')[0] and 'images/labeled_0' in message


def test_iterations_with_broken_pictures_are_skipped_and_counted(data, tmp_path):
    """Two of them are in burn-in. All other iterations train the model."""
    cfg = config(SEMI, data, tmp_path, 2, burn_in=1, train_cfg__max_epochs=3)
    cfg.default_hooks.mean_teacher.unsup_warmup = 0
    cfg.model.semi_train_cfg.pseudo_test_cfg.update(score_thr=0.0, max_per_img=2)
    broken = {
        1: ('sup', math.nan),
        3: ('sup', -math.inf),
        8: ('unsup_student', math.nan),
        9: ('unsup_student', math.inf),
        # Only the teacher sees the weak view. It finds no objects there, so the losses are finite.
        11: ('unsup_teacher', math.nan),
    }
    before = StateBefore()
    runner = train(cfg, Broken(broken), before)
    assert before.unchanged == [1, 3, 8, 9] and runner.iter == 3 * BATCHES
    log = log_of(runner)
    lines = [line for line in log.splitlines() if 'Skipped iteration ' in line]
    assert len(lines) == 4 and all('WARNING' in line and 'images/labeled_0' in line for line in lines)
    assert 'iteration 2 (epoch 1), 1 in a row and 1 in all: sup_loss_' in lines[0]
    assert 'iteration 9 (epoch 2), 1 in a row and 3 in all: unsup_loss_cls is nan' in lines[2]
    assert 'iteration 10 (epoch 2), 2 in a row and 4 in all: unsup_loss_' in lines[3]
    assert 'images/unlabeled_0' in lines[3]
    assert 'skipped_iterations: 4' in log and 'loss: nan' not in log
    assert 'Training has skipped 4 iterations whose losses or gradients were not finite' in log.splitlines()[-1]
    assert all(value.isfinite().all() for _, value in tensors(state(runner)))
