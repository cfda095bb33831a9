"""Empty images with false alarms are drawn more often."""

import copy
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.structures import InstanceData
from torch.utils.data import ConcatDataset

from mmyolo_bgpenalty import LabeledUnlabeledBatchSampler, MisfiresFirstHook
from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.engine.hooks.misfires import shares
from tests.helpers.good_parts import own_empty, set_with_good_parts
from tests.helpers.processes import in_two_processes
from tests.helpers.states import assert_equal, states
from tests.helpers.tiny import SEMI, load, train

GOOD = 6
NO_TEST = dict(test_dataloader=None, test_evaluator=None, test_cfg=None)
SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=9)


@given(scores=SCORES, floor=st.floats(0.01, 1))
def test_shares_equal_the_formula(scores, floor):
    found = shares(np.array(scores), floor)
    if not sum(scores):
        assert found is None
        return
    expected = [floor / len(scores) + (1 - floor) * score / sum(scores) for score in scores]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert min(found) >= 0.999 * floor / len(scores)


def test_an_image_without_a_score_counts_with_the_mean():
    np.testing.assert_allclose(shares(np.array([0.1, np.nan, 0.3]), 0.3), shares(np.array([0.1, 0.2, 0.3]), 0.3))


def sampler_of(number, rank=0, world_size=1, epoch=0):
    dataset = ConcatDataset([range(40), range(number)])
    dataset.sources = ['labeled', 'empty']
    sampler = DefaultSampler(dataset, True, 3)
    sampler.rank, sampler.world_size, sampler.epoch = rank, world_size, epoch
    return LabeledUnlabeledBatchSampler(sampler, 2, epoch_of='labeled', empty_size=50)


def test_images_are_drawn_by_their_shares():
    sampler = sampler_of(4)
    sampler.empty_shares = np.array([0.1, 0.2, 0.3, 0.4])
    drawn = Counter(int(index) - 40 for batch in sampler for index in batch[2:])
    assert drawn.total() == 1000
    for place, share in enumerate(sampler.empty_shares):  # 5 standard deviations
        assert abs(drawn[place] - 1000 * share) < 5 * (1000 * share * (1 - share)) ** 0.5


def test_processes_and_resumed_epochs_draw_the_same_images():
    def drawn(rank=0, world_size=1, first=0):
        sampler = sampler_of(9, rank, world_size)
        sampler.empty_shares, sampler.first_batch = shares(np.arange(9.0), 0.3), first
        return [[(int(index), index.seed) for index in batch[2:]] for batch in sampler]

    whole = drawn()
    assert drawn(first=7) == whole[7:]
    pairs = [[one for pair in zip(*ranks) for one in pair] for ranks in zip(drawn(0, 2), drawn(1, 2))]
    assert [one for batch in pairs for one in batch] == [one for batch in whole for one in batch]


def test_the_labeled_images_stay_as_they_are():
    plain, weighed = sampler_of(9), sampler_of(9)
    weighed.empty_shares = shares(np.arange(9.0), 0.3)
    for one, other in zip(plain, weighed, strict=True):
        assert one[:2] == other[:2] and [i.seed for i in one] == [i.seed for i in other]


@pytest.mark.parametrize(
    'options, message',
    [(dict(times=0), '`times`.*got 0'), (dict(floor=0), '`floor` to be > 0'), (dict(floor=1.5), '`floor`.*got 1.5')],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MisfiresFirstHook(**options)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return set_with_good_parts(tmp_path_factory.mktemp('set'), GOOD)


def semi(data, work_dir, **options):
    lengths = dict(burn_in=1, train_cfg__max_epochs=3, train_cfg__val_interval=3)
    cfg = load(SEMI, data, work_dir, train_dataloader__dataset__empty='good.txt', **lengths)
    cfg.default_hooks.misfires = dict(type='MisfiresFirstHook', times=2)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=7, max_keep_ckpts=-1)
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.merge_from_dict({name.replace('__', '.'): value for name, value in options.items()})
    return cfg


class Draws(Hook):
    """Keeps the empty images of each iteration, the scores, and the shares of each epoch."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.images, self.shares = [], []

    def before_train_epoch(self, runner):
        self.shares.append(runner.train_dataloader.batch_sampler.empty_shares)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.images.append([sample.img_path[-8:] for sample in data_batch['data_samples'].get('bg', []) if sample])


class Scores(Hook):
    """Notes which images are scored, and replaces their scores, if some are given."""

    def __init__(self, scores=None):
        self.scores, self.seen = scores, []

    def before_train(self, runner):
        plain = runner.model.test_step

        def test_step(batch):
            assert not runner.model.training
            samples = plain(batch)
            for sample in samples:
                place = int(sample.img_path[-7:-4])
                self.seen.append(sample.img_path[-12:-4])
                if self.scores is None:
                    continue
                found = sample.pred_instances
                found.scores = torch.full_like(found.scores, self.scores[place])
                if not self.scores[place]:
                    sample.pred_instances = found[:0]
            return samples

        runner.model.test_step = test_step


def test_the_teacher_scores_all_images_before_an_epoch(data, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmyolo_bgpenalty.engine.hooks.misfires.print_log', lambda text, **kwargs: said.append(text))
    scores, draws = Scores([0.9, 0.2, 0.25, 0.0, 0.1, 0.1]), Draws()
    runner = train(semi(data, tmp_path), scores, draws)
    assert scores.seen[: 2 * GOOD] == [f'good_00{i}' for i in range(GOOD)] * 2
    assert draws.shares[0] is None
    for found in draws.shares[1:]:
        np.testing.assert_allclose(found, shares(np.float32(scores.scores).astype(float), 0.3))
    assert said == [f'2 of {GOOD} empty images have a false alarm (score >= 0.25); high scores are drawn more'] * 2
    assert runner.message_hub.get_scalar('train/bg/images_with_alarm').current() == pytest.approx(2 / GOOD)
    assert [len(images) for images in draws.images] == [2] * 15


def test_without_a_teacher_the_ema_model_scores(data, tmp_path):
    class Poisoned(Hook):
        """The trained model predicts nothing. The EMA model does."""

        def before_train(self, runner):
            def test_step(batch):
                raise AssertionError('the trained model predicts')

            runner.model.test_step = test_step

    draws, cfg = Draws(), own_empty(data, tmp_path)
    cfg.merge_from_dict(dict(val_dataloader=None, val_evaluator=None, val_cfg=None))
    cfg.default_hooks.checkpoint.save_best = None
    train(cfg, Poisoned(), draws)
    assert draws.shares[0] is None and draws.shares[1].sum() == pytest.approx(1) and draws.shares[1].std() > 0


def test_a_run_that_is_resumed_within_an_epoch_draws_the_same_images(data, tmp_path):
    """It does not score the images of this epoch again."""
    first = Draws()
    whole = train(semi(data, tmp_path / 'a'), first)
    cfg = semi(data, tmp_path / 'b', load_from=str(tmp_path / 'a/iter_7.pth'), resume=True)
    counted, resumed = Scores(), Draws()
    runner = train(cfg, counted, resumed)
    assert len(counted.seen) == GOOD  # those of epoch 2
    assert resumed.images == first.images[7:]
    np.testing.assert_array_equal(resumed.shares[-1], first.shares[-1])
    assert_equal(states(runner), states(whole))


def test_scores_of_another_set_are_not_kept(data, tmp_path):
    train(semi(data, tmp_path / 'a'))
    (data / 'fewer.txt').write_text('good_000.png\ngood_001.png\n')
    start = dict(load_from=str(tmp_path / 'a/iter_7.pth'), resume=True)
    draws = Draws()
    train(semi(data, tmp_path / 'b', train_dataloader__dataset__empty='fewer.txt', **start), draws)
    assert {name for images in draws.images for name in images} == {'_000.png', '_001.png'}


def test_at_most_as_many_images_are_scored_as_are_drawn(data, tmp_path):
    """One image a batch and two batches an epoch: two images are scored, and the others count with their mean."""
    scores, draws = Scores([0.5] * GOOD), Draws()
    cfg = semi(data, tmp_path, train_dataloader__batch_sampler__empty_size=1)
    cfg.train_dataloader.dataset.unlabeled.ann_file = 'val.json'
    train(cfg, scores, draws)
    assert len(scores.seen) == 2 * 2 and len(set(scores.seen[:2])) == 2
    np.testing.assert_allclose(draws.shares[-1], 1 / GOOD)


def test_two_processes_share_the_work_and_the_scores(tmp_path):
    """Image i has the score i / 10. Each process predicts on every second image."""

    class Images:
        def first_readable(self, place, transforms):
            return dict(inputs=torch.zeros(1), data_samples=place)

    class Model(torch.nn.Module):
        def test_step(self, batch):
            self.seen = [*getattr(self, 'seen', ()), *batch['data_samples']]
            found = [InstanceData(scores=torch.tensor([place / 10])) for place in batch['data_samples']]
            return [SimpleNamespace(pred_instances=one) for one in found]

    def scores(rank):
        hook, model = MisfiresFirstHook(), Model()
        hook._images = Images()
        loader = SimpleNamespace(batch_sampler=SimpleNamespace(batch_size=2), num_workers=0, worker_init_fn=None)
        cfg = Config(dict(test_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=[]))))
        runner = SimpleNamespace(hooks=[], model=model, cfg=cfg, train_dataloader=loader)
        return hook._predict(runner, np.array([1, 3, 4, 7, 9])).tolist(), model.seen

    (one, mine), (other, theirs) = in_two_processes(scores, tmp_path)
    assert one == other == pytest.approx([0.1, 0.3, 0.4, 0.7, 0.9])
    assert (mine, theirs) == ([1, 4, 9], [3, 7])


def test_scores_of_a_gpu_are_read(tmp_path):
    """MMEngine loads a checkpoint to the device of the training."""

    class OnDevice:
        def cpu(self):
            return torch.tensor([0.5, 0.25])

    hook = MisfiresFirstHook()
    hook.after_load_checkpoint(SimpleNamespace(_resume=True), dict(misfires=dict(scores=OnDevice(), epoch=3)))
    assert hook._scores.tolist() == [0.5, 0.25]


def test_check_names_a_loop_without_epochs(data, tmp_path):
    loop = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4, val_interval=100)
    found = [one for one in check_config(semi(data, tmp_path, train_cfg=loop), data=False) if 'misfires' in one.where]
    assert len(found) == 1 and 'IterBasedTrainLoop stays in epoch 0' in found[0].what


def test_without_empty_images_nothing_is_done(data, tmp_path):
    draws = Draws()
    train(semi(data, tmp_path, train_dataloader__dataset__empty=None, **NO_TEST), draws)
    assert draws.shares == [None] * 3 and not any(draws.images)


def test_the_pipeline_of_the_test_set_is_needed(data, tmp_path):
    with pytest.raises(ValueError, match='Expected `test_dataloader`'):
        train(semi(data, tmp_path, **NO_TEST))
