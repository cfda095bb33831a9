import re
from types import SimpleNamespace

import pytest
from mmengine.dataset import Compose
from mmengine.runner import IterBasedTrainLoop

from mmyolo_bgpenalty import LastEpochsPipelineHook
from mmyolo_bgpenalty.datasets.transforms import single_images

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
@pytest.mark.parametrize('share, epochs, first', [(0.1, 20, 18), (0.1, 3, 2), (0.1, 1, 0), (1, 5, 0)])
def test_the_last_epochs_pipeline_follows_the_length_of_training(share, epochs, first, given):
    hook = LastEpochsPipelineHook(share, given)
    runner, dataset = of_epochs(epochs, [RESIZE, MIXUP])
    hook.before_train(runner)
    found = []
    for runner.epoch in range(epochs):
        hook.before_train_epoch(runner)
        found.append(types(dataset.pipeline.transforms))
    last = ['LoadImageFromFile'] if given else ['RecordedLetterResize']
    assert found == first * [['RecordedLetterResize', 'RecordedMixUp']] + (epochs - first) * [last]


@pytest.mark.parametrize('mosaic', [choice([MOSAIC], [RESIZE], prob=[1.0, 0.0]), MOSAIC])
def test_empty_images_become_single_in_the_same_epoch(monkeypatch, mosaic):
    said = []
    monkeypatch.setattr('mmyolo_bgpenalty.engine.hooks.last_epochs.print_log', lambda text, **kwargs: said.append(text))
    hook = LastEpochsPipelineHook(0.5)
    runner, dataset = of_epochs(4, [choice([MOSAIC], [RESIZE], prob=[1.0, 0.0])])
    dataset.empty_set = SimpleNamespace(pipeline=Compose([mosaic, MIXUP]))
    hook.before_train(runner)
    found = []
    for runner.epoch in range(4):
        hook.before_train_epoch(runner)
        found.append([len(one.pipeline.transforms) for one in (dataset, dataset.empty_set)])
    single = types(dataset.empty_set.pipeline.transforms[0].transforms) if mosaic is not MOSAIC else []
    if mosaic is MOSAIC:
        assert found == [[1, 2]] * 4 and len(said) == 1 and '`empty_pipeline`' in said[0]
    else:
        assert found == [[1, 2]] * 2 + [[1, 1]] * 2 and single == ['RecordedLetterResize'] and not said


def test_single_images_removes_the_mixing_transforms():
    """If several candidates without mosaic are left, the ratios of their probabilities do not change."""
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


ITERATIONS = IterBasedTrainLoop.__new__(IterBasedTrainLoop)  # MMEngine reports one epoch for it


@pytest.mark.parametrize(
    'pipeline, loop, why',
    [
        ([MOSAIC, RESIZE], None, '`switch_pipeline` is not set.*Mosaic'),
        ([RESIZE, MIXUP], ITERATIONS, 'IterBasedTrainLoop has no epochs'),
        (None, None, 'a SimpleNamespace has no pipeline'),
        ([RESIZE], ITERATIONS, None),  # the pipeline mixes no images
    ],
)
def test_a_pipeline_that_does_not_change_is_logged_with_the_reason(monkeypatch, pipeline, loop, why):
    said = []
    monkeypatch.setattr('mmyolo_bgpenalty.engine.hooks.last_epochs.print_log', lambda text, **kwargs: said.append(text))
    hook = LastEpochsPipelineHook(share=1)
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
