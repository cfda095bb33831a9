"""The hooks' arithmetic and refusals; tests/engine/test_runs.py has them in real runs."""

import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub
from mmengine.runner import IterBasedTrainLoop
from mmyolo.registry import HOOKS, MODELS
from torch import nn

from mmyolo_bgpenalty import (
    BurnInMeanTeacherHook,
    CompileHook,
    ConfigCheckHook,
    LambdaBgSchedulerHook,
    LastEpochsPipelineHook,
    lambda_bg_at,
)
from mmyolo_bgpenalty.datasets.transforms import single_images
from mmyolo_bgpenalty.engine.schedule import ema_momentum
from tests.engine.test_schedule import GOLDEN
from tests.helpers.heads import head_cfg


class Model(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.bbox_head = head


class Semi(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = Model(MODELS.build(head_cfg('BgPenaltyYOLOv8Head')))
        self.teacher = Model(MODELS.build(head_cfg('BgPenaltyYOLOv8Head')))


def runner(model, *, hooks=(), cfg=None, epoch=0, iteration=0, batches=10):
    return SimpleNamespace(
        model=model,
        hooks=list(hooks),
        cfg=cfg or {},
        epoch=epoch,
        iter=iteration,
        train_dataloader=range(batches),
        message_hub=MessageHub.get_instance('test_hooks'),
    )


def plain_model():
    return Model(MODELS.build(head_cfg('BgPenaltyYOLOv8Head')))


@pytest.mark.parametrize('arguments, progress, expected', GOLDEN)
@pytest.mark.parametrize('loop', ['epoch', 'iter', 'by_iteration'])
def test_hook_follows_the_golden_table(arguments, progress, expected, loop):
    """Trap 18: a fresh hook at any iteration; the same table as the function's."""
    batches = 1000
    hook = LambdaBgSchedulerHook(**arguments, by_epoch=loop != 'by_iteration')
    if loop == 'by_iteration':
        # The same table with an iteration for a thousandth of an epoch.
        arguments = {**arguments, 'burn_in': arguments['burn_in'] * batches, 'warmup': arguments['warmup'] * batches}
        if arguments['schedule'] == 'step':
            expected = lambda_bg_at(progress * batches, **arguments)
        hook = LambdaBgSchedulerHook(**arguments, by_epoch=False)
    place = round(progress * batches)
    epoch, batch_idx = divmod(place, batches) if loop == 'epoch' else (0, place)
    run = runner(plain_model(), epoch=epoch, iteration=place, batches=batches)
    hook.before_run(run)
    hook.before_train(run)
    hook.before_train_iter(run, batch_idx)
    assert run.model.bbox_head.lambda_bg == pytest.approx(expected, abs=1e-12)
    assert run.message_hub.get_scalar('train/semi/lambda_bg').current() == run.model.bbox_head.lambda_bg


@pytest.mark.parametrize('semi', [True, False])
def test_trap_19_the_hook_reaches_the_trained_head_through_ddp(tmp_path, semi):
    from mmengine.model import MMDistributedDataParallel

    torch.distributed.init_process_group(
        'gloo', store=torch.distributed.FileStore(str(tmp_path / 'store'), 1), rank=0, world_size=1
    )
    try:
        model = MMDistributedDataParallel(Semi() if semi else plain_model())
        hook = LambdaBgSchedulerHook(burn_in=0, warmup=0)
        run = runner(model)
        hook.before_run(run)
        hook.before_train(run)
        trained = model.module.student if semi else model.module
        trained.bbox_head.lambda_bg = 0.25
        if semi:
            model.module.teacher.bbox_head.lambda_bg = 0.25
        hook.before_train_iter(run, 0)
        assert trained.bbox_head.lambda_bg == 1.0
        assert not semi or model.module.teacher.bbox_head.lambda_bg == 0.25
    finally:
        torch.distributed.destroy_process_group()


def test_trap_19_no_head_is_an_error_before_training():
    hook = LambdaBgSchedulerHook()
    run = runner(Model(MODELS.build(head_cfg('YOLOv8Head'))))
    hook.before_run(run)
    with pytest.raises(ValueError, match='no BgPenaltyYOLOv8Head'):
        hook.before_train(run)


def test_settings_at_the_top_level_take_the_arguments_place():
    cfg = dict(lambda_bg=1.5, lambda_bg_warmup=10, lambda_bg_schedule='cosine', use_focal_bg=True, burn_in=3)
    hook = LambdaBgSchedulerHook()
    run = runner(plain_model(), cfg=cfg)
    hook.before_run(run)
    assert hook.plan == dict(lambda_bg=1.5, warmup=10, schedule='cosine', burn_in=3)
    assert run.model.bbox_head.bg_penalty.focal is True


def test_a_setting_stated_twice_is_refused():
    cfg = dict(lambda_bg=1.5, default_hooks=dict(lambda_bg=dict(type='LambdaBgSchedulerHook', lambda_bg=2.0)))
    with pytest.raises(ValueError, match='`lambda_bg` is stated twice: 1.5 .* 2.0'):
        LambdaBgSchedulerHook(lambda_bg=2.0).before_run(runner(plain_model(), cfg=cfg))


def test_focal_stated_twice_is_refused():
    model = plain_model()
    model.bbox_head.bg_penalty.focal = True
    with pytest.raises(ValueError, match='`use_focal_bg` is stated twice'):
        LambdaBgSchedulerHook().before_run(runner(model, cfg=dict(use_focal_bg=False)))


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(lamda_bg=2.0), '`lamda_bg`.*`lambda_bg` meant'),
        (dict(bg_lambda=2.0), '`bg_lambda`.*`lambda_bg` meant'),
        (dict(lambda_bg=2.0, work_dir='a', load_from=None), None),
        (dict(trial=7), None),
    ],
)
def test_a_misspelt_setting_is_refused_from_any_tool(tmp_path, change, message):
    """MMDetection's tools/train.py merges --cfg-options unchecked; other names, like lambda_box, are let be."""
    file = tmp_path / 'mine.py'
    file.write_text('lambda_bg = 1.0\nlambda_box = 7.5\nmax_epochs = 3\ntrain_cfg = dict(max_epochs=max_epochs)\n')
    cfg = Config.fromfile(file)
    cfg.merge_from_dict(change)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        ConfigCheckHook().before_run(runner(plain_model(), cfg=cfg))


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(lambda_bg=-1), '`lambda_bg`.*-1'),
        (dict(lambda_bg_schedule='quadratic'), "`schedule`.*'quadratic'"),
        (dict(use_focal_bg='maybe'), "`focal`.*'maybe'"),
    ],
)
def test_bad_settings_are_refused_before_training(cfg, message):
    with pytest.raises(ValueError, match=message):
        LambdaBgSchedulerHook().before_run(runner(plain_model(), cfg=cfg))


@pytest.mark.parametrize(
    'bad', [dict(lambda_bg=-1), dict(burn_in=float('nan')), dict(warmup='5'), dict(schedule='log')]
)
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        HOOKS.build(dict(type='LambdaBgSchedulerHook', **bad))


def test_statistics_are_logged_when_the_logger_prints():
    hook, logger = LambdaBgSchedulerHook(), LoggerHook(interval=4)
    model = plain_model()
    asked = []
    model.bbox_head.get_bg_penalty_stats = lambda: asked.append(1) or dict(mean=0.25, max=0.5, min=0.0, num=4)
    run = runner(model, hooks=[logger], batches=6)
    hook.before_run(run)
    when = []
    for batch_idx in range(6):
        hook.after_train_iter(run, batch_idx)
        when.append(len(asked))
    # The fourth batch, and the epoch's last one.
    assert when == [0, 0, 0, 1, 1, 2]
    assert run.message_hub.get_scalar('train/loss/bg_penalty_mean').mean(10) == 0.25
    assert run.message_hub.get_scalar('train/loss/bg_penalty_max').current() == 0.5


@pytest.mark.parametrize('by_epoch', [True, False])
def test_each_epochs_end_is_told(by_epoch):
    """The schedule's epochs, from 0, in either train loop: burn-in 5 and warm-up 5 reach a fifth at the end of 5."""
    scale = 1 if by_epoch else 4
    hook = LambdaBgSchedulerHook(burn_in=5 * scale, warmup=5 * scale, by_epoch=by_epoch)
    model = plain_model()
    model.bbox_head.get_bg_penalty_stats = lambda: dict(mean=0.012345, max=0.5, min=0.0, num=4)
    lines = []
    for iteration in (18, 19, 20, 22, 23):
        run = runner(model, batches=4, iteration=iteration)
        run.logger = SimpleNamespace(info=lines.append)
        hook.before_run(run)
        hook.after_train_iter(run, iteration % 4)
    stats = 'BG Penalty Stats: mean=0.0123 max=0.5000 min=0.0000'
    assert lines == ['Epoch 4: λ_bg=0.000', stats, 'Epoch 5: λ_bg=0.200', stats]


def teacher_hook(model, plan=None, **arguments):
    plan = plan or LambdaBgSchedulerHook(burn_in=2)
    hook = BurnInMeanTeacherHook(**arguments)
    return hook, lambda **place: runner(model, hooks=[plan, hook], **place)


def fill(module, value):
    for tensor in module.state_dict().values():
        tensor.fill_(value)


def test_trap_2_momentum_is_the_students_share():
    model = Semi()
    fill(model.teacher, 0)
    fill(model.student, 1)
    BurnInMeanTeacherHook(momentum=0.001).momentum_update(model, 0.001)
    for tensor in model.teacher.state_dict().values():
        assert torch.allclose(tensor, torch.full_like(tensor, 0.001 if tensor.is_floating_point() else 1))


@pytest.mark.parametrize('momentum', [0.002, 0.5, 1])
def test_the_average_is_taken_tensor_by_tensor_bit_for_bit(momentum):
    model = Semi()
    for tensor in [*model.teacher.state_dict().values(), *model.student.state_dict().values()]:
        tensor.random_(0, 1000) if tensor.dtype == torch.long else tensor.normal_()
    expected = {
        name: new.clone() if new.dtype == torch.long else old.clone().lerp_(new, momentum)
        for (name, old), new in zip(model.teacher.state_dict().items(), model.student.state_dict().values())
    }
    before = {name: tensor.clone() for name, tensor in model.student.state_dict().items()}
    BurnInMeanTeacherHook().momentum_update(model, momentum)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.teacher.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.student.state_dict().items())


def test_buffers_may_be_the_students_latest():
    model = Semi()
    fill(model.teacher, 0)
    fill(model.student, 2)
    BurnInMeanTeacherHook(buffers='copy').momentum_update(model, 0.25)
    parameters = dict(model.teacher.named_parameters())
    values = {name: 0.5 if name in parameters else 2 for name in model.teacher.state_dict()}
    assert 2 in values.values() and 0.5 in values.values()
    assert all((tensor == values[name]).all() for name, tensor in model.teacher.state_dict().items())


def test_what_is_averaged_is_collected_anew_for_another_model_and_each_epoch():
    hook, models = BurnInMeanTeacherHook(), [Semi(), Semi()]
    for model in models:
        fill(model.teacher, 0)
        fill(model.student, 1)
        hook.momentum_update(model, 1)
        assert all((tensor == 1).all() for tensor in model.teacher.state_dict().values())
    norm = next(m for m in model.teacher.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_mean = torch.zeros_like(norm.running_mean)
    hook.before_train_epoch(runner(model))
    hook.momentum_update(model, 1)
    assert (norm.running_mean == 1).all()


def test_trap_1_buffers_are_copied_and_averaged():
    model = Semi()
    hook, at = teacher_hook(model, momentum=0.1)
    hook.before_train(at())
    for norm in (m for m in model.student.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.fill_(3)
    hook.after_train_iter(at(epoch=1, iteration=19), 9)
    means = [m.running_mean for m in model.teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    assert means and all((mean == 3).all() for mean in means)
    for norm in (m for m in model.student.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.fill_(4)
    hook.after_train_iter(at(epoch=2, iteration=20), 0)
    assert all(torch.allclose(mean, torch.full_like(mean, 3.1)) for mean in means)


def test_trap_5_the_hand_over_is_not_repeated_on_resume():
    model = Semi()
    hook, at = teacher_hook(model, momentum=0.5)
    fill(model.teacher, 0)
    fill(model.student, 1)
    place = at(epoch=2, iteration=25)
    hook.before_train(place)
    hook.before_train_iter(place, 5)
    assert all((tensor == 0).all() for tensor in model.teacher.state_dict().values())
    hook.after_train_iter(place, 5)
    assert all((tensor == 0.5).all() for tensor in model.teacher.state_dict().values() if tensor.is_floating_point())


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
    ],
)
def test_the_students_share_by_iteration(arguments, iteration, expected):
    model = Semi()
    hook, at = teacher_hook(model, **arguments)
    place = at(epoch=iteration // 10, iteration=iteration)
    hook.before_train(place)
    fill(model.teacher, 0)
    fill(model.student, 1)
    hook.after_train_iter(place, iteration % 10)
    for tensor in model.teacher.state_dict().values():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, torch.full_like(tensor, expected))


@pytest.mark.parametrize(
    'batches, iteration, arguments, expected',
    [
        (20, 20, {}, 0.25),  # saved after 2 epochs of 10 batches, resumed with 20 an epoch: burn-in is over
        (20, 20, dict(momentum_warmup=5), 1),  # the averaging begins
        (5, 10, {}, 1),
        (20, 10, {}, 1),  # saved after 1 epoch
        (20, 10, dict(average_in_burn_in=True, momentum_warmup=5), ema_momentum(20, 0.25, 5)),
    ],
)
def test_the_teacher_follows_progress_where_the_loaders_length_changed(batches, iteration, arguments, expected):
    model, epoch = Semi(), iteration // 10
    hook, at = teacher_hook(model, momentum=0.25, **arguments)
    place = at(epoch=epoch, iteration=iteration, batches=batches)
    hook.before_train(place)
    fill(model.teacher, 0)
    fill(model.student, 1)
    hook.after_train_iter(place, 0)
    found = {float(tensor.flatten()[0]) for tensor in model.teacher.state_dict().values() if tensor.is_floating_point()}
    assert list(found) == [pytest.approx(expected)]


def test_the_share_of_unlabeled_images_follows_burn_in():
    model = Semi()
    hook, at = teacher_hook(model, unsup_warmup=2)
    hook.before_train(at())
    shares = {}
    for epoch, batch_idx in ((0, 0), (1, 9), (2, 0), (2, 5), (3, 0), (4, 0), (9, 0)):
        hook.before_train_iter(at(epoch=epoch), batch_idx)
        shares[epoch + batch_idx / 10] = model.unsup_ramp
    assert shares == {0.0: 0, 1.9: 0, 2.0: 0, 2.5: 0.25, 3.0: 0.5, 4.0: 1, 9.0: 1}


@pytest.mark.parametrize(
    'bad',
    [
        dict(momentum=0),
        dict(momentum=1),
        dict(interval=0),
        dict(unsup_warmup=-1),
        dict(unsup_schedule='x'),
        dict(average_in_burn_in=1),
        dict(buffers='ema'),
        dict(momentum_warmup=-1),
    ],
)
def test_bad_teacher_arguments_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        BurnInMeanTeacherHook(**bad)


def test_what_the_teacher_hook_needs_is_named():
    with pytest.raises(ValueError, match='a student and a teacher, but got Model'):
        BurnInMeanTeacherHook().before_train(runner(plain_model()))
    with pytest.raises(ValueError, match='LambdaBgSchedulerHook, which is not among the hooks'):
        BurnInMeanTeacherHook().before_train(runner(Semi()))


def test_nothing_to_compile_is_refused():
    with pytest.raises(ValueError, match='a model with a backbone, but got Model'):
        CompileHook().before_train(runner(plain_model()))


MOSAIC = dict(type='RecordedMosaic', img_scale=(64, 64), pre_transform=[])
RESIZE = dict(type='RecordedLetterResize', scale=(64, 64))
MIXUP = dict(type='RecordedMixUp', prob=0.15, pre_transform=[])


def choice(*candidates, prob=None):
    return dict(type='RandomChoice', transforms=list(candidates), prob=prob)


def of_epochs(number, pipeline=(RESIZE,), loop=None):
    dataset = SimpleNamespace(pipeline=Compose([dict(step) for step in pipeline]))
    loader, logger = SimpleNamespace(dataset=dataset), SimpleNamespace(info=lambda text: None)
    return SimpleNamespace(max_epochs=number, epoch=0, train_dataloader=loader, logger=logger, train_loop=loop), dataset


def types(transforms):
    return [type(transform).__name__ for transform in transforms]


@pytest.mark.parametrize('given', [None, [dict(type='LoadImageFromFile')]])
@pytest.mark.parametrize('share, epochs, first', [(0.1, 20, 18), (0.1, 40, 36), (0.1, 3, 2), (0.1, 1, 0), (1, 5, 0)])
def test_the_last_epochs_pipeline_follows_the_length_of_training(share, epochs, first, given):
    hook = LastEpochsPipelineHook(share, given)
    runner, dataset = of_epochs(epochs, [RESIZE, MIXUP])
    hook.before_train(runner)
    for runner.epoch in range(epochs):
        hook.before_train_epoch(runner)
        last = ['LoadImageFromFile'] if given else ['RecordedLetterResize']
        expected = last if runner.epoch >= first else ['RecordedLetterResize', 'RecordedMixUp']
        assert types(dataset.pipeline.transforms) == expected


def test_single_images_are_what_is_left_without_mixing():
    """Of several candidates without mosaic the probabilities keep their ratios, whatever the mosaic's was."""
    kept = single_images(Compose([choice([MOSAIC], [RESIZE]), MIXUP, dict(type='LoadImageFromFile')]).transforms)
    assert types(kept) == ['Compose', 'LoadImageFromFile'] and types(kept[0].transforms) == ['RecordedLetterResize']
    flip = dict(type='mmdet.RandomFlip', prob=1.0)
    for prob, left in (([0.5, 0.125, 0.375], [0.25, 0.75]), ([1.0, 0.0, 0.0], None), (None, [0.5, 0.5])):
        (kept,) = single_images(Compose([choice([flip, MOSAIC], [RESIZE], [flip], prob=prob)]).transforms)
        resize, other = (candidate.transforms for candidate in kept.transforms)
        assert (types(resize), types(other), kept.prob) == (['RecordedLetterResize'], ['RandomFlip'], left)
    plain = Compose([choice([RESIZE], [flip]), RESIZE]).transforms
    assert single_images(plain) == plain
    for mixed in ([MOSAIC, RESIZE], [choice([MOSAIC], [RESIZE, MOSAIC])]):
        with pytest.raises(ValueError, match='(?s)a RandomChoice of a mosaic and a single image.*Mosaic'):
            single_images(Compose(mixed).transforms)


ITERATIONS = IterBasedTrainLoop.__new__(IterBasedTrainLoop)  # of which MMEngine says that it has one epoch


@pytest.mark.parametrize(
    'given, pipeline, loop, why',
    [
        (None, [MOSAIC, RESIZE], None, 'without a `switch_pipeline`: .*Mosaic'),
        (None, [choice([MOSAIC], [RESIZE, MOSAIC])], None, 'without a `switch_pipeline`: .*Mosaic'),
        (None, [RESIZE, MIXUP], ITERATIONS, 'IterBasedTrainLoop has no epochs'),
        ([RESIZE], [RESIZE, MIXUP], ITERATIONS, 'IterBasedTrainLoop has no epochs'),
        (None, None, None, 'a SimpleNamespace has no pipeline'),
        (None, [RESIZE], None, None),
        (None, [RESIZE], ITERATIONS, None),
    ],
)
def test_a_pipeline_that_stays_to_the_end_and_why(monkeypatch, given, pipeline, loop, why):
    """Of one that mixes nothing there is nothing to say."""
    said = []
    monkeypatch.setattr('mmyolo_bgpenalty.engine.hooks.lambda_bg.print_log', lambda text, **kwargs: said.append(text))
    hook = LastEpochsPipelineHook(share=1, switch_pipeline=given)
    runner, dataset = of_epochs(2, pipeline or [], loop)
    if pipeline is None:
        del dataset.pipeline
    before = vars(dataset).copy()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    assert vars(dataset) == before
    assert len(said) == bool(why) and re.search(why or '', ''.join(said), re.S)


@pytest.mark.parametrize('share', [0, -0.1, 1.1, float('nan'), '0.1', True])
def test_a_share_of_training_is_a_number_up_to_1(share):
    with pytest.raises(ValueError, match='`share`'):
        LastEpochsPipelineHook(share)
