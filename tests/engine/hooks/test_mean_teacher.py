"""Values and errors of the hook. tests/engine/test_runs.py tests it in real runs."""

import pytest
import torch
from torch import nn

from mmyolo_bgpenalty import BurnInMeanTeacherHook, LambdaBgSchedulerHook
from mmyolo_bgpenalty.engine.schedule import ema_momentum
from tests.helpers.stand_ins import Semi, plain_model, runner
from tests.helpers.states import same


def teacher_hook(model, plan=None, **arguments):
    plan = plan or LambdaBgSchedulerHook(burn_in=2)
    hook = BurnInMeanTeacherHook(**arguments)
    return hook, lambda **place: runner(model, hooks=[plan, hook], **place)


def fill(module, value):
    for tensor in module.state_dict().values():
        tensor.fill_(value)


@pytest.mark.parametrize('momentum', [0.002, 0.5, 1])
def test_the_average_equals_a_lerp_of_each_tensor_bit_for_bit(momentum):
    """The momentum is the weight of the student."""
    model, hook = Semi(), BurnInMeanTeacherHook()
    for tensor in model.state_dict().values():
        tensor.random_(0, 1000) if tensor.dtype == torch.long else tensor.normal_()
    before = {name: tensor.clone() for name, tensor in model.student.state_dict().items()}
    expected = {
        name: before[name] if old.dtype == torch.long else old.clone().lerp_(before[name], momentum)
        for name, old in model.teacher.state_dict().items()
    }
    hook.before_train_epoch(runner(model))
    hook.momentum_update(model, momentum)
    assert same(model.teacher.state_dict(), expected) and same(model.student.state_dict(), before)


def share_of_the_student(iteration, batches=10, **arguments):
    """Return the share of the student in the teacher after this iteration."""
    model = Semi()
    hook, at = teacher_hook(model, **arguments)
    place = at(epoch=iteration // 10, iteration=iteration, batches=batches)
    hook.before_train(place)
    fill(model.teacher, 0)
    fill(model.student, 1)
    hook.before_train_iter(place, iteration % 10)
    hook.after_train_iter(place, iteration % 10)
    averaged = [value for value in model.teacher.state_dict().values() if value.is_floating_point()]
    (share,) = {value for tensor in averaged for value in tensor.unique().tolist()}
    return share


def test_tensors_that_another_hook_replaced_are_averaged_from_the_next_epoch_on():
    model = Semi()
    hook, at = teacher_hook(model)
    hook.before_train(at())
    norm = next(m for m in model.teacher.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_mean = torch.full_like(norm.running_mean, 7)
    hook.before_train_epoch(at())
    hook.momentum_update(model, 1)
    assert not (norm.running_mean == 7).any()


@pytest.mark.parametrize(
    'arguments, iteration, expected',
    [
        (dict(momentum=0.25), 19, 1),  # burn-in is 20 iterations, in which the teacher is a copy
        (dict(momentum=0.25), 20, 0.25),
        (dict(momentum=0.25, average_in_burn_in=True), 0, 0.25),
        (dict(momentum=0.25, average_in_burn_in=True), 19, 0.25),
        (dict(momentum=0.25, interval=2, average_in_burn_in=True), 2, 0),
        (dict(momentum=0.25, interval=2, average_in_burn_in=True), 3, 0.25),
        (dict(momentum=0.25, interval=2), 2, 1),
        (dict(momentum=0.25, momentum_warmup=5, average_in_burn_in=True), 0, 1),
        (dict(momentum=0.25, momentum_warmup=5, average_in_burn_in=True), 5, ema_momentum(5, 0.25, 5)),
        (dict(momentum=0.25, momentum_warmup=5), 25, ema_momentum(5, 0.25, 5)),
        (dict(momentum=0.25, momentum_warmup=0.005), 25, ema_momentum(5, 0.25, 5)),  # of 1,000 iterations
        # The earlier epochs had 10 batches. The resumed run has another number of batches.
        (dict(momentum=0.25, batches=20), 20, 0.25),
        (dict(momentum=0.25, batches=20, momentum_warmup=5), 20, 1),
        (dict(momentum=0.25, batches=5), 10, 1),
        (dict(momentum=0.25, batches=20), 10, 1),
        (dict(momentum=0.25, batches=20, average_in_burn_in=True, momentum_warmup=5), 10, ema_momentum(20, 0.25, 5)),
    ],
)
def test_the_students_share_by_iteration(arguments, iteration, expected):
    """A run that starts at an iteration > 0 is a resumed run. Buffers are averaged like parameters."""
    assert share_of_the_student(iteration, **arguments) == pytest.approx(expected)


BAD = dict(momentum=0, interval=0, unsup_warmup=-1, unsup_schedule='x', average_in_burn_in=1, momentum_warmup=-1)


@pytest.mark.parametrize('name, bad', [*BAD.items(), ('momentum', 1), ('momentum_warmup', 1.5)])
def test_bad_teacher_arguments_are_refused(name, bad):
    with pytest.raises(ValueError, match=name):
        BurnInMeanTeacherHook(**{name: bad})


def test_what_the_teacher_hook_needs_is_named():
    with pytest.raises(ValueError, match='a student and a teacher, but got Model'):
        BurnInMeanTeacherHook().before_train(runner(plain_model()))
    with pytest.raises(ValueError, match='a LambdaBgSchedulerHook, .*but found none'):
        BurnInMeanTeacherHook().before_train(runner(Semi()))
